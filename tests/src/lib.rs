//! The harness: a farm of real processes in a folder of its own, on free ports, gone when the test is.
//!
//! Owns what it starts and ends only that. Never fakes a part that can be run.

mod agent;
mod client;
mod eventually;
mod farm;
pub mod processes;

pub use agent::{Agent, AgentPlan};
pub use client::{Client, Returned};
pub use eventually::eventually;
pub use farm::{Farm, FarmOptions, binary, repository};
