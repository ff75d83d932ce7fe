//! The words of Grange: jobs, records, events, manifests, frames, subjects, and what may become of what.
//!
//! Owns every message that crosses a process border and the rules that need nothing but the messages themselves.
//! Never does IO, never reads a clock, never knows a NATS type.

// Every word and every input has a defined answer: no arm may swallow a variant that comes later.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod admission;
pub mod capacity;
pub mod class;
pub mod cron;
pub mod event;
pub mod facts;
pub mod failure;
pub mod fit;
pub mod frame;
pub mod json;
pub mod lifecycle;
pub mod limit;
pub mod manifest;
pub mod name;
pub mod object;
pub mod ownership;
pub mod record;
pub mod resource;
pub mod retry;
pub mod schedule;
pub mod status;
pub mod subject;
pub mod ticket;
