//! What happened.

use super::{Ear, HostReading, PluginSpec, WorkerId};
use grange_protocol::failure::Failure;
use grange_protocol::name::{JobId, Owner, PluginName};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::{JobKey, Queue};
use std::collections::{BTreeMap, BTreeSet};

/// A job's own limits, over the plugin's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobLimits {
    /// Longest run, milliseconds.
    pub timeout_ms: Option<u64>,
    /// How long it may take to stop by itself, milliseconds.
    pub cancel_grace_ms: Option<u64>,
}

/// How a run ended, as far as decisions go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunEnd {
    /// Time inside the plugin, milliseconds.
    pub run_ms: f64,
    /// The plugin stopped because it was asked to.
    pub cancelled: bool,
}

/// What the housekeeper's overview says, as this agent needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Queues that hold tickets nobody was given, with the age of the oldest, milliseconds.
    pub waiting: BTreeMap<Queue, u64>,
    /// Plugins of which another agent has a loaded worker.
    pub warm_elsewhere: BTreeSet<PluginName>,
    /// Attempts that other agents run, by owner.
    pub running_elsewhere: BTreeMap<Owner, u32>,
}

/// One piece of news.
#[derive(Clone, Debug)]
pub enum Input {
    /// A plugin can run here, or runs here differently from now on.
    PluginReady {
        /// Which.
        plugin: PluginName,
        /// How.
        spec: PluginSpec,
    },
    /// A plugin can no longer run here. What it runs may finish.
    PluginGone {
        /// Which.
        plugin: PluginName,
    },
    /// The host was looked at.
    Host(Box<HostReading>),
    /// An operator says that a GPU may be used again; None: every one.
    Unquarantined {
        /// Which.
        device: Option<String>,
    },
    /// What the housekeeper's overview says.
    Facts(Box<Facts>),
    /// A queue has its consumer, and can be asked. Also said of queues that were found.
    QueueOpen {
        /// Which.
        queue: Queue,
    },
    /// A queue has no consumer: it could not be made, or was removed. It may be opened again when its bell rings.
    QueueClosed {
        /// Which.
        queue: Queue,
    },
    /// A ticket was published to a queue.
    Bell {
        /// Which queue.
        queue: Queue,
        /// Whose ticket.
        job: JobId,
        /// With which ear it was heard.
        ear: Ear,
        /// How often it was passed on.
        hops: u32,
    },
    /// A pull brought a ticket.
    Delivered {
        /// From which queue.
        queue: Queue,
        /// The job.
        job: JobKey,
        /// Its own limits.
        limits: JobLimits,
        /// What it asks for beyond its plugin's request, exactly; None: what its class says.
        resources: Option<Box<ResourceRequest>>,
    },
    /// A pull brought something that is no ticket; it has been dealt with.
    Unusable {
        /// From which queue.
        queue: Queue,
    },
    /// A pull ended with fewer tickets than it asked for.
    PullEnded {
        /// Of which queue.
        queue: Queue,
    },
    /// A look that took nothing found a queue empty.
    FoundEmpty {
        /// Which queue.
        queue: Queue,
    },
    /// The connection came back: every pull is gone, bells may have been missed.
    Reconnected,
    /// The record says that the job is ours.
    Claimed {
        /// Which job.
        job: JobKey,
    },
    /// The job is not ours, or not runnable, and its ticket has been dealt with.
    NotClaimed {
        /// Which job.
        job: JobKey,
    },
    /// An owner has as many attempts running on the farm as it may.
    OwnerFull {
        /// Which.
        owner: Owner,
    },
    /// This host may save up room for a queue.
    SaveGranted {
        /// Which.
        queue: Queue,
    },
    /// Another host does, or the broker did not answer.
    SaveRefused {
        /// Which.
        queue: Queue,
    },
    /// A worker is loaded.
    WorkerReady {
        /// Which.
        worker: WorkerId,
    },
    /// A worker did not come up, and is gone.
    WorkerFailed {
        /// Which.
        worker: WorkerId,
        /// Why.
        failure: Box<Failure>,
    },
    /// A worker is gone, with everything it started.
    WorkerExited {
        /// Which.
        worker: WorkerId,
    },
    /// A run ended; the agent holds what it reported.
    RunEnded {
        /// Which job.
        job: JobKey,
        /// How.
        end: RunEnd,
    },
    /// A conclusion, a retry or a hand-back is written and the ticket dealt with.
    Settled {
        /// Which job.
        job: JobKey,
    },
    /// Somebody wants a job to end.
    CancelRequested {
        /// Which job.
        job: JobKey,
    },
    /// Another holder has the job; this one must stop and must not report.
    Lost {
        /// Which job.
        job: JobKey,
    },
    /// Time passed: said ten times a second, and when `Dispatcher::next_wake` says so.
    Tick,
    /// Take nothing more, hand back what waits, finish what runs.
    DrainRequested {
        /// Then exit; else stay, until `UndrainRequested`.
        exit: bool,
    },
    /// Take work again. Who is to exit does so all the same.
    UndrainRequested,
    /// Stop what runs, and hand it back.
    StopRuns,
    /// Stop what runs, hand it back, then exit.
    StopRequested,
}
