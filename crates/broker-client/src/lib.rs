//! The client library of Grange: everything that a process says to the broker and to the object store.
//!
//! Owns the connection, the streams and buckets as data, and the verbs on jobs: submit, follow, wait, look, cancel,
//! store. Never knows a process, a GPU or a terminal.
#![deny(missing_docs)]

mod api;
pub mod batches;
pub mod bucket;
pub mod cancel;
pub mod connect;
pub mod dead;
pub mod error;
mod expiry;
pub mod follow;
mod headers;
mod history;
pub mod ledger;
pub mod objects;
pub mod outcomes;
mod post;
pub mod priority;
pub mod publish;
pub mod query;
mod refusals;
pub mod safety;
pub mod schedules;
pub mod submit;
mod tidy;
mod tls;
pub mod topology;
pub mod upkeep;
pub mod usage;
pub mod why;

pub use connect::{Broker, Options};
pub use error::{Error, ErrorKind};
