//! The decisions of one agent: what to pull, where to run it, when to stop. (Being rebuilt: see the next commit.)

#![warn(clippy::wildcard_enum_match_arm)]

mod vocabulary;

pub use vocabulary::{
    Action, Conclusion, Config, DeviceReading, DeviceView, Ear, Facts, Grant, HostReading, HostView, Input,
    JobLimits, PluginSpec, PluginView, Reserve, RunEnd, SavingView, Time, WorkerId, WorkerUse, WorkerView,
};

use grange_protocol::name::PluginName;

/// All that one agent decides by.
#[derive(Debug)]
pub struct Dispatcher {
    #[expect(dead_code, reason = "stub while the core is rebuilt")]
    config: Config,
}

impl Dispatcher {
    /// An agent that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Takes one input and says what to do, in this order.
    pub fn handle(&mut self, _now: Time, _input: Input) -> Vec<Action> {
        Vec::new()
    }

    /// When a `Tick` is wanted before the next regular one.
    pub fn next_wake(&self) -> Option<Time> {
        None
    }

    /// What a heartbeat says of a plugin.
    pub fn view(&self, _plugin: &PluginName) -> PluginView {
        PluginView::default()
    }

    /// Every worker, in the order of their names.
    pub fn workers(&self) -> Vec<WorkerView> {
        Vec::new()
    }

    /// What of the host may still be given.
    pub fn host(&self) -> HostView {
        HostView::default()
    }

    /// What room is saved up for.
    pub fn saving(&self) -> Option<SavingView> {
        None
    }

    /// Jobs in hand, settling ones included.
    pub fn jobs_in_hand(&self) -> usize {
        0
    }
}
