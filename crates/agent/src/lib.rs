//! The daemon of a host: pulls jobs that it can start now, runs them in isolated warm workers, streams everything back.
//!
//! Owns the IO around `grange-dispatch`: every decision about jobs is made there. `house` performs what was decided.

pub mod attempts;
pub mod bells;
pub mod cache;
pub mod cage;
pub mod carrier;
pub mod causes;
pub mod claims;
pub mod clock;
pub mod config;
pub mod control;
pub mod drain;
pub mod environment;
pub mod events;
pub mod farm;
pub mod gone;
pub mod heartbeat;
pub mod house;
pub mod housekeeper;
pub mod inventory;
pub mod journal;
pub mod learned;
pub mod lease;
pub mod letters;
pub mod link;
pub mod logs;
pub mod news;
pub mod overview;
pub mod permits;
pub mod planted;
pub mod plugins;
pub mod process;
pub mod pulls;
pub mod quarantine;
pub mod recovery;
pub mod restore;
pub mod run;
pub mod scratch;
pub mod supervise;
pub mod tickets;
pub mod tree;
pub mod universal;
pub mod values;
pub mod worker;
