//! What goes into the dispatcher and what comes out of it. Data only.

mod action;
mod host;
mod input;
mod view;

pub use action::{Action, Conclusion, Ear, Grant};
pub use host::{DeviceReading, HostReading, WorkerUse};
pub use input::{Facts, Input, JobLimits, RunEnd};
pub use view::{DeviceView, HostView, PluginView, SavingView, WorkerView};

use grange_protocol::resource::ResourceRequest;

/// A point in time: milliseconds since the agent came up.
pub type Time = u64;

/// Names a worker process inside one life of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// What of the host is never given to a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    /// Memory of each GPU, MiB.
    pub vram_mb: u64,
    /// Host memory, MiB.
    pub ram_mb: u64,
    /// Cores.
    pub cpus: u32,
}

/// What the dispatcher has to know of the agent's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Short runs may be held ahead for so long, milliseconds.
    pub pull_ahead_ms: u32,
    /// Most runs held ahead of one slot.
    pub pull_ahead_max: u32,
    /// A queue found empty is left alone for so long unless its bell rings, milliseconds.
    pub empty_lane_ms: u64,
    /// All queues are looked at this often when nothing happens and nobody tells which hold something, milliseconds.
    pub idle_sweep_ms: u64,
    /// And this often while an overview tells, milliseconds.
    pub calm_sweep_ms: u64,
    /// An overview older than this tells nothing, milliseconds.
    pub facts_stale_ms: u64,
    /// First pause after a worker did not come up, milliseconds; it doubles up to `start_backoff_max_ms`.
    pub start_backoff_ms: u64,
    /// Longest such pause, milliseconds.
    pub start_backoff_max_ms: u64,
    /// A queue rises one priority each time that its oldest ticket has waited so long, milliseconds.
    pub age_after_ms: u64,
    /// A queue that could run here if others left may have room saved up for it when its oldest ticket has waited so
    /// long, milliseconds.
    pub save_after_ms: u64,
    /// How long room is saved up at most, and how long that rests afterwards, milliseconds.
    pub save_for_ms: u64,
    /// GPU memory must be back so soon after its worker's processes are gone, milliseconds; else the GPU is quarantined.
    pub vram_return_ms: u64,
    /// What NVML may show more than before and still count as back, MiB.
    pub vram_slack_mb: u64,
    /// What a worker may use beyond its grant before that is an overrun, MiB.
    pub overrun_slack_mb: u64,
    /// A worker that overruns its grant is killed; else it is only said.
    pub overrun_kills: bool,
    /// What is never given away.
    pub reserve: Reserve,
    /// Most attempts of one owner on the whole farm; None: no limit.
    pub owner_running_max: Option<u32>,
    /// Most queues that are known; others wait until one of these is closed.
    pub queues_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pull_ahead_ms: 4,
            pull_ahead_max: 64,
            empty_lane_ms: 250,
            idle_sweep_ms: 2_000,
            calm_sweep_ms: 30_000,
            facts_stale_ms: 15_000,
            start_backoff_ms: 1_000,
            start_backoff_max_ms: 60_000,
            age_after_ms: 60_000,
            save_after_ms: 10_000,
            save_for_ms: 30_000,
            vram_return_ms: 10_000,
            vram_slack_mb: 64,
            overrun_slack_mb: 256,
            overrun_kills: false,
            reserve: Reserve { vram_mb: 0, ram_mb: 0, cpus: 0 },
            owner_running_max: None,
            queues_max: 4_000,
        }
    }
}

/// What the dispatcher has to know of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginSpec {
    /// Runs at a time in one worker.
    pub concurrency: u32,
    /// Workers at a time.
    pub max_workers: u32,
    /// Longest run, milliseconds.
    pub timeout_ms: Option<u64>,
    /// How long a cancelled run may take to stop by itself, milliseconds.
    pub cancel_grace_ms: u64,
    /// What one worker takes from the host. What was learned of its memory is in it already.
    pub request: ResourceRequest,
    /// Its memory was learned, not asked for.
    pub is_learned: bool,
    /// How long an idle worker stays, milliseconds; None: until somebody needs its room.
    pub keep_warm_ms: Option<u64>,
    /// How long a worker takes until it is ready, milliseconds, as the farm knows it; None: never seen.
    pub start_ms: Option<u64>,
}
