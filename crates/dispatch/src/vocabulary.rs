//! What goes into the dispatcher and what comes out of it. Data only.

use grange_protocol::failure::Failure;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::{Class, PluginName};
use grange_protocol::subject::{JobKey, Lane};

/// A point in time: milliseconds since the agent came up.
pub type Time = u64;

/// Names a worker process inside one life of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// What the dispatcher has to know of the agent's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Short runs may be held ahead for so long, milliseconds.
    pub pull_ahead_ms: u32,
    /// Most runs held ahead of one slot.
    pub pull_ahead_max: u32,
    /// A lane found empty is left alone for so long unless its bell rings, milliseconds.
    pub empty_lane_ms: u64,
    /// All lanes are looked at this often when nothing happens, milliseconds.
    pub idle_sweep_ms: u64,
    /// First pause after a worker did not come up, milliseconds; it doubles up to `start_backoff_max_ms`.
    pub start_backoff_ms: u64,
    /// Longest such pause, milliseconds.
    pub start_backoff_max_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pull_ahead_ms: 4,
            pull_ahead_max: 64,
            empty_lane_ms: 250,
            idle_sweep_ms: 2_000,
            start_backoff_ms: 1_000,
            start_backoff_max_ms: 60_000,
        }
    }
}

/// What the dispatcher has to know of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginSpec {
    /// Runs at a time in one worker.
    pub concurrency: u32,
    /// Workers at a time.
    pub max_workers: u32,
    /// Longest run, milliseconds.
    pub timeout_ms: Option<u64>,
    /// How long a cancelled run may take to stop by itself, milliseconds.
    pub cancel_grace_ms: u64,
}

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

/// What happened.
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
    /// A ticket was published to a lane.
    Bell {
        /// Which lane.
        lane: Lane,
    },
    /// A pull brought a ticket.
    Delivered {
        /// From which lane.
        lane: Lane,
        /// The job.
        job: JobKey,
        /// Its own limits.
        limits: JobLimits,
    },
    /// A pull brought something that is no ticket; it has been dealt with.
    Unusable {
        /// From which lane.
        lane: Lane,
    },
    /// A pull ended with fewer tickets than it asked for.
    PullEnded {
        /// Of which lane.
        lane: Lane,
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
    /// Time passed.
    Tick,
    /// Take nothing more, finish what runs, then exit.
    DrainRequested,
    /// Stop what runs, hand it back, then exit.
    StopRequested,
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

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hear the bells of exactly these pairs.
    Listen(Vec<(Class, PluginName)>),
    /// Ask a lane for tickets. `wait`: for a moment; else only what is there.
    Pull {
        /// Which lane.
        lane: Lane,
        /// At most so many.
        batch: u32,
        /// A bell rang and the ticket may still be on its way to the consumer, or one short job may follow another.
        wait: bool,
    },
    /// Hand a ticket back that was not claimed.
    Return {
        /// Which job.
        job: JobKey,
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
    /// Let an idle worker clean up and exit.
    StopWorker {
        /// Which.
        worker: WorkerId,
    },
    /// End a worker and everything it started, now.
    KillWorker {
        /// Which.
        worker: WorkerId,
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

/// What a heartbeat says of a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginView {
    /// Workers that are up or starting.
    pub workers: u32,
    /// Jobs given to workers.
    pub running: u32,
    /// Runs that fit at one time.
    pub slots: u32,
}
