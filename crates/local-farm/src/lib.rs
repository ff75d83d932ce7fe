//! What a farm of one needs on a machine, shared by `grange up`, the test harness and the benchmark.
//!
//! Owns: finding or installing the pinned tools ([`tools`]), a private nats-server ([`nats`]), and three of
//! them in one cluster ([`cluster`]).
//! Never: speaks the NATS protocol beyond the server's greeting, knows Grange's streams, or starts agents.
#![deny(missing_docs)]

mod child;
pub mod cluster;
mod config;
mod install;
pub mod nats;
pub mod options;
pub mod probe;
mod process;
mod record;
pub mod tools;
mod version;
