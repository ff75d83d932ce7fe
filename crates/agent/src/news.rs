//! What reaches the house from its tasks, and only from them: one bounded channel, one vocabulary.

use crate::claims::ClaimEnd;
use crate::link::WorkerEvent;
use crate::plugins::Prepared;
use crate::tickets::Arrival;
use crate::worker::Gone;
use grange_dispatch::WorkerId;
use grange_protocol::failure::Failure;
use grange_protocol::json::Json;
use grange_protocol::name::PluginName;
use grange_protocol::subject::{JobKey, Lane};

/// Most news that wait; then their senders do.
pub const NEWS_CAPACITY: usize = 4096;

/// One piece of news.
pub enum HouseEvent {
    /// A ticket was published to a lane.
    Bell(Lane),
    /// A pull brought something.
    Arrived(Box<Arrival>),
    /// A pull ended with less than it asked for.
    PullEnded(Lane),
    /// A claim was decided.
    Claimed(JobKey, Box<ClaimEnd>),
    /// Arguments are ready: positional and named, with paths in the places of objects.
    Inputs(JobKey, Result<(Json, Json), Box<Failure>>),
    /// A worker said something.
    Link(WorkerId, WorkerEvent),
    /// A worker is gone, with everything it started.
    Gone(WorkerId, Gone),
    /// An end is written and the ticket dealt with.
    Settled(JobKey),
    /// Somebody wants a job to end, and its record says so.
    CancelRequested(JobKey),
    /// Another holder has the job; the attempt with this claim has lost it.
    Lost(JobKey, u64),
    /// A plugin was prepared, or cannot be.
    Plugin(PluginName, Prepared),
    /// A renewal of the lease was answered.
    Renewed,
    /// The broker is back.
    Reconnected,
    /// An operator wants the agent to drain.
    Drain,
}
