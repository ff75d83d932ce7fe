//! The client library against a real nats-server, one server per test.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod bucket;
mod cancel;
mod connect;
mod farm;
mod follow;
mod ledger;
mod objects;
mod outcomes;
mod priority;
mod query;
mod safety;
mod submit;
mod topology;
mod upkeep;
mod usage;
mod why;
