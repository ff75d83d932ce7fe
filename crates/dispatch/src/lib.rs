//! The decisions of one agent: what to pull, where to run it, when to stop.
//!
//! `Dispatcher::handle(now, input) -> Vec<Action>` is a pure function of its state: no clock, no IO, no async, no
//! errors. Late, repeated and unknown inputs are defined no-ops. The agent performs the actions and reports back.
//!
//! ```text
//!  Bell, PullEnded ─► lanes ─► Pull ─► Delivered ─► Claim ─► Claimed ─► Run ─► RunEnded ─► Conclude ─► Settled
//!                                          │           └► NotClaimed     │
//!                                          └► Return (draining)          └► HandBack (not started), Retry (crashed)
//! ```

// Every word and every input has a defined answer: no arm may swallow a variant that comes later.
#![warn(clippy::wildcard_enum_match_arm)]

mod dispatcher;
mod jobs;
mod lanes;
mod plugins;
mod vocabulary;
mod workers;

pub use dispatcher::Dispatcher;
pub use vocabulary::{
    Action, Conclusion, Config, Input, JobLimits, PluginSpec, PluginView, RunEnd, Time, WorkerId,
};
