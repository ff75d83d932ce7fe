//! What to do.

use super::WorkerId;
use grange_protocol::failure::Failure;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::PluginName;
use grange_protocol::subject::{JobKey, Queue};

/// How an agent hears the bells of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ear {
    /// In turn with the other agents that have a free place in a loaded worker.
    Warm,
    /// In turn with the other agents that could start a worker.
    Cold,
    /// Every one, to know where to look when there is room again.
    All,
}

/// What a worker gets of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// GPUs; the worker sees these and no others. Empty for a plugin that asks for none.
    pub devices: Vec<String>,
    /// Memory on each of them, MiB.
    pub vram_mb: u64,
    /// Nobody else gets anything of them.
    pub exclusive: bool,
    /// Host memory, MiB.
    pub ram_mb: u64,
    /// Cores.
    pub cpus: u32,
}

/// How a job's attempt is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// As the worker reported.
    Reported,
    /// Cancelled.
    Cancelled,
    /// Failed, for this reason.
    Failed(Box<Failure>),
    /// No outcome: somebody tries again.
    Retry(RetryCause),
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hear the bells of a plugin so from now on; None: not at all.
    Hear {
        /// Which plugin.
        plugin: PluginName,
        /// How.
        ear: Option<Ear>,
    },
    /// Make a queue's consumer; `QueueOpen` or `QueueClosed` answers.
    Open {
        /// Which.
        queue: Queue,
    },
    /// Ask a queue for tickets. `wait`: for a moment; else only what is there.
    Pull {
        /// Which queue.
        queue: Queue,
        /// At most so many.
        batch: u32,
        /// A bell rang and the ticket may still be on its way to the consumer, or one short job may follow another.
        wait: bool,
    },
    /// Find out which of these queues are empty, and take nothing; `FoundEmpty` answers for each that is. An answer that
    /// does not come changes nothing.
    Peek {
        /// Which queues.
        queues: Vec<Queue>,
    },
    /// Call all agents that have room: the bell was heard here alone, and there is no room here.
    PassOn {
        /// Of which queue.
        queue: Queue,
        /// Whose ticket.
        job: grange_protocol::name::JobId,
        /// How often it was passed on, this time included.
        hops: u32,
    },
    /// Hand a ticket back that was not claimed, after a while.
    Return {
        /// Which job.
        job: JobKey,
        /// After which time, milliseconds.
        delay_ms: u64,
    },
    /// Write the claim.
    Claim {
        /// Which job.
        job: JobKey,
        /// It waits behind a short run.
        ahead: bool,
    },
    /// Start a worker.
    Spawn {
        /// Its name from now on.
        worker: WorkerId,
        /// Of which plugin.
        plugin: PluginName,
        /// With this.
        grant: Grant,
    },
    /// Give a job to a worker.
    Run {
        /// Which worker.
        worker: WorkerId,
        /// Which job.
        job: JobKey,
    },
    /// Ask a run to stop.
    CancelRun {
        /// On which worker.
        worker: WorkerId,
        /// Which job.
        job: JobKey,
    },
    /// Let an idle worker release what it holds, clean up and exit.
    StopWorker {
        /// Which.
        worker: WorkerId,
    },
    /// End a worker and everything it started, now.
    KillWorker {
        /// Which.
        worker: WorkerId,
    },
    /// Tell whoever follows a worker's runs, and the operator.
    Warn {
        /// Which worker.
        worker: WorkerId,
        /// What.
        text: String,
    },
    /// Look at the host now: something is expected to have changed.
    Look,
    /// Try to become the one host that saves up room for a queue; `SaveGranted` or `SaveRefused` answers.
    Save {
        /// Which.
        queue: Queue,
    },
    /// Others may save up for it again.
    EndSave {
        /// Which.
        queue: Queue,
    },
    /// Write how the attempt ended, then deal with the ticket.
    Conclude {
        /// Which job.
        job: JobKey,
        /// How.
        how: Conclusion,
    },
    /// Forget a job that another holds.
    Forget {
        /// Which job.
        job: JobKey,
    },
    /// Nothing is left: exit.
    Exit,
}
