//! The tables of the house: what the dispatcher's names stand for, and what is remembered between two pieces of news.
//!
//! Data only: the house and its parts change it.

use super::drain::DrainRoom;
use crate::attempts::Ending;
use crate::clock::boot_ms;
use crate::config::Config;
use crate::events::EventLog;
use crate::heartbeat::Coverage;
use crate::inventory::Look;
use crate::permits::Permit;
use crate::quarantine::QuarantineFile;
use crate::scratch::WorkerFolder;
use crate::supervise::Order;
use crate::tickets::Delivery;
use crate::worker::WorkerHandle;
use grange_dispatch::{Dispatcher, Grant, HostView, PluginSpec, Time, WorkerId};
use grange_protocol::failure::Failure;
use grange_protocol::name::PluginName;
use grange_protocol::record::{Fence, Record, Usage};
use grange_protocol::subject::{JobKey, Queue};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinSet;

/// A job in hand.
pub(super) struct Held {
    pub(super) delivery: Delivery,
    /// The newest record that is known, its sequence, and our fence in it; None until the claim is won.
    pub(super) claim: Option<Claimed>,
    /// Its place among its owner's attempts, where these are limited.
    pub(super) permit: Option<Permit>,
    /// Which worker has it, and under which number.
    pub(super) run: Option<(WorkerId, u64)>,
    /// When the run's frame was sent.
    pub(super) sent: Option<Time>,
    /// GPUs of its worker.
    pub(super) gpus: Vec<String>,
    /// It was asked to stop before its frame was sent.
    pub(super) stop_early: bool,
    pub(super) events: Option<EventLog>,
    pub(super) scratch: PathBuf,
    /// The worker's folder, which holds that of the run.
    pub(super) folder: Option<Arc<WorkerFolder>>,
    pub(super) ending: Option<Ending>,
    pub(super) usage: Usage,
}

pub(super) struct Claimed {
    pub(super) record: Box<Record>,
    pub(super) revision: u64,
    pub(super) fence: Fence,
    /// When it was won.
    pub(super) since: Time,
}

/// A worker that was started.
pub(super) struct WorkerEntry {
    pub(super) handle: WorkerHandle,
    /// Its folder.
    pub(super) folder: Arc<WorkerFolder>,
    pub(super) plugin: PluginName,
    /// What of the host it has.
    pub(super) grant: Grant,
    /// When it was started.
    pub(super) began: Time,
    pub(super) ready: bool,
    /// Its plugin has a `release()`.
    pub(super) releases: bool,
    /// What it was seen to use last on the GPU where it uses most, MiB.
    pub(super) vram_mb: u64,
    /// When it must be ready, or be gone.
    pub(super) patience_until: Option<Time>,
    pub(super) runs: HashMap<u64, JobKey>,
    pub(super) last_run: u64,
    /// Why it did not come up, or what it did wrong.
    pub(super) failure: Option<Failure>,
    /// The house told its supervisor to kill it.
    pub(super) told_to_end: bool,
}

impl WorkerEntry {
    pub(super) fn kill(&mut self) {
        self.told_to_end = true;
        self.handle.order(Order::Terminate);
    }
}

/// What is remembered of the host.
#[derive(Default)]
pub(super) struct HostRoom {
    /// The newest look.
    pub(super) look: Arc<Look>,
    /// Looks that began before so many retries of GPUs say nothing any more.
    pub(super) retries: u64,
    /// What of it is given, as it was last noticed.
    pub(super) seen: HostView,
    /// What the inventory was last asked to watch: supervisors by worker, and whether closely.
    pub(super) watched: (BTreeMap<WorkerId, u32>, bool),
    /// What of it is out of service, on disk; opened with the first look.
    pub(super) quarantine: Option<QuarantineFile>,
    /// The newest warning about each worker that is there.
    pub(super) warnings: BTreeMap<WorkerId, String>,
}

/// What is remembered of the queues.
#[derive(Default)]
pub(super) struct QueueRoom {
    /// The farm's streams were seen.
    pub(super) streams_there: bool,
    /// Whether somebody looks which queues there are.
    pub(super) search: Search,
    /// Why the last queue that was wanted could not be made.
    pub(super) trouble: Option<String>,
    /// Reservations that are ours, by their revision.
    pub(super) saving: HashMap<Queue, u64>,
}

/// Looking for queues: one search at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Search {
    /// None.
    #[default]
    Resting,
    /// One is under way.
    UnderWay,
    /// And another is wanted when it is over.
    Again,
}

/// What changes while the house works.
pub struct Rooms {
    pub(super) core: Dispatcher,
    pub(super) jobs: HashMap<JobKey, Held>,
    pub(super) workers: HashMap<WorkerId, WorkerEntry>,
    pub(super) coverage: Coverage,
    pub(super) tasks: JoinSet<()>,
    pub(super) host: HostRoom,
    pub(super) queues: QueueRoom,
    /// What the dispatcher was told of each plugin.
    pub(super) specs: BTreeMap<PluginName, PluginSpec>,
    /// The version of what was learned that is in `specs`.
    pub(super) learned: u64,
    /// Something happened that others should hear of before the next heartbeat.
    pub(super) to_tell: bool,
    /// When the newest heartbeat was put.
    pub(super) told_at: Time,
    pub(super) began: Time,
    pub(super) leaving: bool,
    /// The agent is leaving.
    pub(super) draining: bool,
    pub(super) drain: DrainRoom,
}

impl Rooms {
    /// Empty rooms.
    pub fn new(config: &Config) -> Self {
        Self {
            core: Dispatcher::new(config.dispatch()),
            jobs: HashMap::new(),
            workers: HashMap::new(),
            coverage: Coverage::default(),
            tasks: JoinSet::new(),
            host: HostRoom::default(),
            queues: QueueRoom::default(),
            specs: BTreeMap::new(),
            learned: 0,
            to_tell: false,
            told_at: 0,
            began: boot_ms(),
            leaving: false,
            draining: false,
            drain: DrainRoom::default(),
        }
    }

    /// The boot time from which the dispatcher counts, milliseconds.
    pub fn began(&self) -> Time {
        self.began
    }

    /// The dispatcher's time.
    pub(super) fn now(&self) -> Time {
        boot_ms().saturating_sub(self.began)
    }
}
