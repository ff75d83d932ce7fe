//! The harness: a farm of real processes in a folder of its own, on free ports, gone when the test is.
//!
//! Owns what it starts and ends only that. Never fakes a part that can be run.
#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a harness ends its test at the first surprise, and says why"
)]

mod agent;
mod cli;
mod client;
mod eventually;
mod farm;
mod gpu_host;
pub mod gpus;
mod look;
pub mod network;
pub mod processes;
mod story;

pub use agent::{Agent, AgentPlan};
pub use cli::{Grange, Running, Said};
pub use client::{Client, Returned};
pub use eventually::eventually;
pub use farm::{Farm, FarmOptions, binary, plugin, repository};
pub use gpu_host::GpuHost;
pub use gpus::FakeGpus;
pub use look::{Buried, QueueFacts, began, lines};
pub use story::Story;
