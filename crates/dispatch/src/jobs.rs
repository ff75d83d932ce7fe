//! The jobs in hand: where each stands between its delivery and its settlement.

use crate::vocabulary::{JobLimits, Time, WorkerId};
use grange_protocol::name::PluginName;
use grange_protocol::subject::Queue;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The claim is being written.
    Claiming,
    /// It is ours and waits for a worker.
    Waiting,
    /// A worker has it.
    Given(WorkerId),
    /// Its end is being written.
    Settling,
}

/// Why a run was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// Somebody cancelled it.
    Cancelled,
    /// It ran too long.
    TimedOut,
    /// The agent stops: it is handed back.
    AgentStops,
    /// It waits behind runs that turned out long: it is handed back. Whatever else wants it to stop counts more.
    Behind,
    /// Another holder has it: nothing is reported.
    Lost,
}

/// A run that was asked to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) cause: StopCause,
    /// When patience ends and the worker is killed.
    pub(crate) kill_at: Time,
}

/// One job in hand.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) plugin: PluginName,
    pub(crate) queue: Queue,
    /// Which of its plugin's shapes it has.
    pub(crate) shape: usize,
    pub(crate) phase: Phase,
    pub(crate) limits: JobLimits,
    /// When the run began.
    pub(crate) began: Option<Time>,
    /// When the run has taken too long; set when it begins.
    pub(crate) deadline: Option<Time>,
    pub(crate) stop: Option<Stop>,
}

impl Job {
    /// It runs from now on: its time starts.
    pub(crate) fn begin(&mut self, plugin_timeout_ms: Option<u64>, now: Time) {
        self.began = Some(now);
        let timeout = self.limits.timeout_ms.or(plugin_timeout_ms);
        self.deadline = timeout.map(|timeout| now.saturating_add(timeout));
    }

    /// It needs a place in a worker, and has none yet.
    pub(crate) fn is_unplaced(&self) -> bool {
        matches!(self.phase, Phase::Claiming | Phase::Waiting)
    }
}
