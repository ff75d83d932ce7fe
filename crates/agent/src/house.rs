//! The house: takes news one by one, asks the dispatcher, performs what it says. Owns every table that the dispatcher's
//! names stand for: jobs in hand, workers, plugins. Contains no decision about jobs.

mod ends;
mod perform;
mod runs;
mod status;

use crate::attempts::Ending;
use crate::cache::Cache;
use crate::claims::{ClaimEnd, Claims};
use crate::clock::boot_ms;
use crate::config::Config;
use crate::events::EventLog;
use crate::heartbeat::Coverage;
use crate::inventory::Inventory;
use crate::journal::Journal;
use crate::lease::Lease;
use crate::news::HouseEvent;
use crate::plugins::{Plugin, Workshop};
use crate::pulls::Pulls;
use crate::supervise::Order;
use crate::tickets::{Arrival, Delivery};
use crate::worker::WorkerHandle;
use grange_broker_client::objects::Objects;
use grange_dispatch::{Dispatcher, Input, JobLimits, Time, WorkerId};
use grange_protocol::failure::Failure;
use grange_protocol::name::PluginName;
use grange_protocol::record::{Fence, Record, Usage};
use grange_protocol::subject::JobKey;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A job in hand.
struct Held {
    delivery: Delivery,
    /// The newest record that is known, its sequence, and our fence in it; None until the claim is won.
    claim: Option<Claimed>,
    /// Which worker has it, and under which number.
    run: Option<(WorkerId, u64)>,
    /// The run's frame was sent.
    sent: bool,
    /// It was asked to stop before its frame was sent.
    stop_early: bool,
    events: Option<EventLog>,
    scratch: PathBuf,
    ending: Option<Ending>,
    usage: Usage,
}

struct Claimed {
    record: Box<Record>,
    revision: u64,
    fence: Fence,
    /// When it was won.
    since: Time,
}

/// A worker that was started.
struct WorkerEntry {
    handle: WorkerHandle,
    plugin: PluginName,
    ready: bool,
    /// When it must be ready, or be gone.
    patience_until: Option<Time>,
    runs: HashMap<u64, JobKey>,
    last_run: u64,
    /// Why it did not come up, or what it did wrong.
    failure: Option<Failure>,
    /// The house told its supervisor to kill it.
    told_to_end: bool,
}

impl WorkerEntry {
    fn kill(&mut self) {
        self.told_to_end = true;
        self.handle.order(Order::Kill);
    }
}

/// Everything that the house works with.
pub struct House {
    /// The configuration.
    pub config: Config,
    /// Claims, the broker and the records.
    pub claims: Claims,
    /// Bells and pulls.
    pub pulls: Pulls,
    /// Where results go.
    pub objects: Objects,
    /// Where inputs come from.
    pub cache: Cache,
    /// What is held, on disk.
    pub journal: Journal,
    /// Until when what is held is surely ours.
    pub lease: Arc<Lease>,
    /// What the host has.
    pub inventory: Inventory,
    /// The plugins of this host.
    pub plugins: BTreeMap<PluginName, Plugin>,
    /// What was skipped when they were read.
    pub notices: Vec<String>,
    /// Prepares plugins.
    pub workshop: Workshop,
    /// The agent's environment, of which workers get a part.
    pub environment: BTreeMap<String, String>,
    /// The host's own name.
    pub host: String,
    /// When this life began, Unix milliseconds.
    pub started_ms: u64,
    /// The way of all news.
    pub news: mpsc::Sender<HouseEvent>,
    /// The state of the conversation with the dispatcher.
    pub rooms: Rooms,
}

/// What changes while the house works.
pub struct Rooms {
    core: Dispatcher,
    jobs: HashMap<JobKey, Held>,
    workers: HashMap<WorkerId, WorkerEntry>,
    coverage: Coverage,
    tasks: JoinSet<()>,
    began: Time,
    leaving: bool,
    draining: bool,
}

impl Rooms {
    /// Empty rooms.
    pub fn new() -> Self {
        Self {
            core: Dispatcher::new(grange_dispatch::Config::default()),
            jobs: HashMap::new(),
            workers: HashMap::new(),
            coverage: Coverage::default(),
            tasks: JoinSet::new(),
            began: boot_ms(),
            leaving: false,
            draining: false,
        }
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Self::new()
    }
}

impl House {
    /// Takes one input to the dispatcher and performs what it says, and what follows from that.
    pub async fn decide(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = boot_ms().saturating_sub(self.rooms.began);
            for action in self.rooms.core.handle(now, input) {
                inputs.extend(self.perform(action).await);
            }
        }
    }

    /// Takes one piece of news.
    pub async fn hear(&mut self, event: HouseEvent) {
        let told_at_once = matches!(event, HouseEvent::Plugin(..) | HouseEvent::Drain);
        let input = match event {
            HouseEvent::Bell(lane) => Some(Input::Bell { lane }),
            HouseEvent::PullEnded(lane) => Some(Input::PullEnded { lane }),
            HouseEvent::Arrived(arrival) => Some(self.arrived(*arrival)),
            HouseEvent::Claimed(job, end) => self.claimed(job, *end),
            HouseEvent::Inputs(job, inputs) => self.inputs_ready(&job, inputs),
            HouseEvent::Link(worker, event) => self.worker_said(worker, event),
            HouseEvent::Gone(worker, gone) => self.worker_gone(worker, &gone),
            HouseEvent::Settled(job) => self.settled(job),
            HouseEvent::CancelRequested(job) => Some(Input::CancelRequested { job }),
            HouseEvent::Lost(job, claim) => self.holds(&job, claim).then_some(Input::Lost { job }),
            HouseEvent::Plugin(plugin, prepared) => self.plugin_prepared(plugin, prepared),
            HouseEvent::Renewed => {
                self.extend_deadlines();
                None
            }
            HouseEvent::Reconnected => {
                self.pulls.forget();
                self.check_ownership(0);
                Some(Input::Reconnected)
            }
            HouseEvent::Drain => {
                self.rooms.draining = true;
                Some(Input::DrainRequested)
            }
        };
        if let Some(input) = input {
            self.decide(input).await;
        }
        if told_at_once {
            self.heartbeat();
        }
    }

    /// Whether nothing is left to do.
    pub fn is_leaving(&self) -> bool {
        self.rooms.leaving
    }

    /// Ends what is under way, so that nothing is said after the farewell.
    pub async fn end_tasks(&mut self) {
        self.rooms.tasks.shutdown().await;
    }

    /// A task that ended by a panic: nobody knows what it left undone.
    pub async fn next_panic(&mut self) -> tokio::task::JoinError {
        loop {
            match self.rooms.tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => return error,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Whether the attempt with this claim is in hand; what is said of another one comes too late.
    fn holds(&self, job: &JobKey, claim: u64) -> bool {
        let held = self.rooms.jobs.get(job).and_then(|held| held.claim.as_ref());
        held.is_some_and(|claimed| claimed.fence.claim == claim)
    }

    fn arrived(&mut self, arrival: Arrival) -> Input {
        match arrival {
            Arrival::Unusable(unusable) => {
                let claims = self.claims.clone();
                let lane = unusable.lane.clone();
                self.rooms.tasks.spawn(async move { claims.bury(*unusable).await });
                Input::Unusable { lane }
            }
            Arrival::Ticket(delivery) => {
                let (lane, job) = (delivery.lane.clone(), delivery.key.clone());
                if let Some(held) = self.rooms.jobs.get_mut(&job) {
                    // Delivered again while it is in hand: the newest delivery is the one to settle.
                    held.delivery.ack = delivery.ack;
                    return Input::Unusable { lane };
                }
                let ms = |s: Option<u32>| s.map(|s| u64::from(s) * 1000);
                let limits = JobLimits {
                    timeout_ms: ms(delivery.ticket.limits.timeout_s),
                    cancel_grace_ms: ms(delivery.ticket.limits.cancel_grace_s),
                };
                let held = Held {
                    delivery: *delivery,
                    claim: None,
                    run: None,
                    sent: false,
                    stop_early: false,
                    events: None,
                    scratch: PathBuf::new(),
                    ending: None,
                    usage: Usage::default(),
                };
                self.rooms.jobs.insert(job.clone(), held);
                Input::Delivered { lane, job, limits }
            }
        }
    }

    fn claimed(&mut self, job: JobKey, end: ClaimEnd) -> Option<Input> {
        match end {
            ClaimEnd::Won(record, revision) => {
                self.rooms.coverage.claimed(&job, Some(revision));
                let held = self.rooms.jobs.get_mut(&job)?;
                let fence = record.fence(revision)?;
                held.claim = Some(Claimed { record, revision, fence, since: boot_ms() });
                Some(Input::Claimed { job })
            }
            ClaimEnd::NotOurs => {
                self.rooms.coverage.claimed(&job, None);
                self.rooms.jobs.remove(&job);
                Some(Input::NotClaimed { job })
            }
        }
    }

    fn settled(&mut self, job: JobKey) -> Option<Input> {
        let held = self.rooms.jobs.remove(&job)?;
        self.close_entry(&held);
        Some(Input::Settled { job })
    }

    /// Writes down that an attempt is over.
    fn close_entry(&mut self, held: &Held) {
        let Some(claim) = &held.claim else { return };
        if let Err(error) = self.journal.end(claim.fence.claim) {
            tracing::error!(%error, "journal");
        }
    }
}
