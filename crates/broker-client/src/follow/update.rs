//! What a follower is told.
//!
//! Owns the words only.

use grange_protocol::event::{Dropped, LogLine, Progress};
use grange_protocol::json::Json;
use grange_protocol::record::Record;
use grange_protocol::subject::AttemptToken;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// With the first event.
    Start,
    /// After the event at this sequence.
    After(u64),
}

/// One thing that happened to a job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Update {
    /// The record changed.
    State {
        /// The record's sequence.
        sequence: u64,
        /// The record; None when it ran out.
        record: Option<Box<Record>>,
        /// The waiting time ran out; the end follows.
        expired_marker: bool,
    },
    /// The events from here on are this attempt's; chunks of attempts before it do not count.
    Attempt {
        /// Its name.
        token: AttemptToken,
    },
    /// One value of the stream.
    Chunk {
        /// The attempt.
        token: AttemptToken,
        /// From 0.
        index: u64,
        /// The event's sequence; several chunks may share one.
        sequence: u64,
        /// The value.
        value: Json,
    },
    /// How far it is.
    Progress {
        /// The attempt.
        token: AttemptToken,
        /// The event's sequence.
        sequence: u64,
        /// How far.
        progress: Progress,
    },
    /// A line that the plugin printed.
    Log {
        /// The attempt.
        token: AttemptToken,
        /// The event's sequence.
        sequence: u64,
        /// The line.
        line: LogLine,
    },
    /// Something was left out.
    Dropped {
        /// The attempt.
        token: AttemptToken,
        /// The event's sequence.
        sequence: u64,
        /// What, and how much.
        dropped: Dropped,
    },
    /// The job ended; nothing comes after.
    End(Box<Record>),
}
