//! The decisions of one agent: what to pull, where to run it, who makes room for it, when to stop.
//!
//! `Dispatcher::handle(now, input) -> Vec<Action>` is a pure function of its state: no clock, no IO, no async, no
//! errors. Late, repeated and unknown inputs are defined no-ops. The agent performs the actions and reports back.
//!
//! ```text
//!  Bell, Facts, PullEnded ─► queues ─► room for it? ─► Pull ─► Delivered ─► Claim ─► Claimed ─► Spawn, Run
//!                                       │  (demand: a seat in a worker, or a plan   │              │
//!  Host ─► host (ledger) ───────────────┘   that books a part of the host)          │          RunEnded ─► Conclude
//!                                            Return (cannot be held) ◄──────────────┘              └► Settled
//! ```

// Every word and every input has a defined answer: no arm may swallow a variant that comes later.
#![warn(clippy::wildcard_enum_match_arm)]

mod dispatcher;
mod host;
mod jobs;
mod plugins;
mod queues;
mod vocabulary;
mod workers;

pub use dispatcher::Dispatcher;
pub use vocabulary::{
    Action, Conclusion, Config, DeviceReading, DeviceView, Ear, Facts, Grant, HostReading, HostView, Input,
    JobLimits, PluginSpec, PluginView, Reserve, RunEnd, SavingView, Time, WorkerId, WorkerUse, WorkerView,
};
