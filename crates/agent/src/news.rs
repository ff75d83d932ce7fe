//! What reaches the house from its tasks, and only from them: one bounded channel, one vocabulary.

use crate::claims::ClaimEnd;
use crate::gone::Gone;
use crate::plugins::Prepared;
use crate::tickets::Arrival;
use grange_dispatch::{Ear, Facts, WorkerId};
use grange_protocol::failure::Failure;
use grange_protocol::frame::{Raised, Ready};
use grange_protocol::json::Json;
use grange_protocol::name::{JobId, Owner, PluginName};
use grange_protocol::status::{ControlAnswer, DrainOrder};
use grange_protocol::subject::{JobKey, Queue};
use tokio::sync::oneshot;

/// Most news that wait; then their senders do.
pub const NEWS_CAPACITY: usize = 4096;

/// What a worker's link says to the house.
#[derive(Debug)]
pub enum WorkerEvent {
    /// Loaded and initialised.
    Ready(Box<Ready>),
    /// It could not load.
    LoadFailed {
        /// `import`, `construct` or `initialize`.
        stage: String,
        /// What was raised.
        raised: Raised,
    },
    /// A run ended well.
    Done {
        /// Which run.
        run: u64,
        /// What the plugin returned; None means null.
        value: Option<Json>,
        /// There are `$file` marks inside.
        files: bool,
        /// Time inside the plugin, milliseconds.
        ms: f64,
    },
    /// A run ended badly.
    Error {
        /// Which run.
        run: u64,
        /// What was raised.
        raised: Raised,
        /// `raised`, `unserialisable`, `bad_arguments`, `too_large` or `out_of_disk`.
        kind: String,
        /// After a cancel.
        cancelled: bool,
        /// Time inside the plugin, milliseconds.
        ms: f64,
    },
    /// A run ended, however it did, after one of its chunks could not be stored.
    Spoilt {
        /// Which run.
        run: u64,
        /// Why the chunk could not be stored.
        failure: Box<Failure>,
        /// Time inside the plugin, milliseconds.
        ms: f64,
    },
    /// It broke the protocol.
    Broke(String),
    /// The link ended.
    Closed,
}

/// A bell that rang: a ticket was published to a queue, or waits there again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bell {
    /// Which queue.
    pub queue: Queue,
    /// Whose ticket.
    pub job: JobId,
    /// How it was heard.
    pub ear: Ear,
    /// How often it was passed on.
    pub hops: u32,
}

/// How a pull ended that brought less than it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullEnd {
    /// There was no more.
    Empty,
    /// The queue has no consumer, or it was removed meanwhile. `waited`: a bell had rung, so there is a ticket.
    NoConsumer {
        /// Whether the pull waited.
        waited: bool,
    },
}

/// What became of making a queue's consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It is there.
    Open,
    /// It could not be made, for this reason.
    Failed(String),
    /// The stream has as many as it may, as the server says it.
    Full(String),
}

/// One piece of news.
pub enum HouseEvent {
    /// A bell rang.
    Bell(Bell),
    /// A pull brought something.
    Arrived(Box<Arrival>),
    /// A pull ended with less than it asked for.
    PullEnded(Queue, PullEnd),
    /// A look that took nothing found a queue empty.
    FoundEmpty(Queue),
    /// A queue's consumer was made, or could not be.
    Opened(Queue, Opening),
    /// These queues have consumers.
    Queues(Vec<Queue>),
    /// The farm's streams are not there, or the broker does not say; asked again.
    NoStreams(String),
    /// This host may save up for a queue, by the reservation of this revision; None: it may not.
    Saving(Queue, Option<u64>),
    /// What the housekeeper's overview says.
    Facts(Box<Facts>),
    /// An owner has as many attempts running on the farm as it may.
    OwnerFull(Owner),
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
    /// The agent is to finish what it has, and to end.
    Leave,
    /// An operator wants the host to take nothing new; this is where the answer goes.
    Drain(DrainOrder, oneshot::Sender<ControlAnswer>),
    /// An operator wants the host to take work again.
    Undrain(oneshot::Sender<ControlAnswer>),
    /// An operator says that a GPU may be used again (None: every one); this is where the answer goes.
    Unquarantine(Option<String>, oneshot::Sender<ControlAnswer>),
}
