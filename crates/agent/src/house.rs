//! The house: takes news one by one, asks the dispatcher, performs what it says. Owns every table that the dispatcher's
//! names stand for: jobs in hand, workers, plugins. Contains no decision about jobs.

mod conclude;
mod drain;
mod ends;
mod host;
mod jobs;
mod perform;
mod plugins;
mod queues;
mod rooms;
mod runs;
mod status;
mod upkeep;

pub use rooms::Rooms;

use crate::bells::Bells;
use crate::cache::Cache;
use crate::cage::Isolation;
use crate::claims::Claims;
use crate::config::Config;
use crate::farm::FarmRooms;
use crate::inventory::Inventory;
use crate::journal::Journal;
use crate::learned::Table;
use crate::lease::Lease;
use crate::news::{Bell, HouseEvent};
use crate::plugins::{Plugin, Workshop};
use crate::pulls::Pulls;
use grange_broker_client::objects::Objects;
use grange_dispatch::{Action, Input};
use grange_protocol::name::PluginName;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Everything that the house works with.
pub struct House {
    /// The configuration.
    pub config: Config,
    /// Claims, the broker and the records.
    pub claims: Claims,
    /// Pulls.
    pub pulls: Pulls,
    /// Bells.
    pub bells: Bells,
    /// Where results go.
    pub objects: Objects,
    /// Where inputs come from.
    pub cache: Cache,
    /// How workers are kept apart.
    pub isolation: Isolation,
    /// What is held, on disk.
    pub journal: Journal,
    /// Until when what is held is surely ours.
    pub lease: Arc<Lease>,
    /// What the host has.
    pub inventory: Inventory,
    /// What is learned of plugins.
    pub learned: Table,
    /// The rooms that look at the whole farm.
    pub farm: FarmRooms,
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

impl House {
    /// In how many milliseconds the dispatcher wants a `Tick`.
    pub fn wanted_in_ms(&self) -> Option<u64> {
        self.rooms.core.next_wake().map(|at| at.saturating_sub(self.rooms.now()))
    }

    /// Takes one input to the dispatcher and performs what it says, and what follows from that.
    pub async fn decide(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.rooms.to_tell |= is_told(&input);
            let now = self.rooms.now();
            tracing::trace!(now, ?input, "decide");
            for action in self.rooms.core.handle(now, input) {
                tracing::trace!(?action, "perform");
                self.rooms.to_tell |= is_shown(&action);
                inputs.extend(self.perform(action).await);
            }
        }
    }

    /// Takes one piece of news.
    pub async fn hear(&mut self, event: HouseEvent) {
        let told_at_once = matches!(
            event,
            HouseEvent::Plugin(..) | HouseEvent::Leave | HouseEvent::Drain(..) | HouseEvent::Undrain(..)
        );
        let input = match event {
            HouseEvent::Bell(Bell { queue, job, ear, hops }) => Some(Input::Bell { queue, job, ear, hops }),
            HouseEvent::PullEnded(queue, end) => self.pull_ended(queue, end).await,
            HouseEvent::FoundEmpty(queue) => Some(Input::FoundEmpty { queue }),
            HouseEvent::Opened(queue, opening) => Some(self.queue_opened(queue, opening)),
            HouseEvent::Queues(found) => return self.queues_found(found).await,
            HouseEvent::NoStreams(why) => return self.no_streams(&why),
            HouseEvent::Saving(queue, revision) => Some(self.saving(queue, revision)),
            HouseEvent::Facts(facts) => Some(Input::Facts(facts)),
            HouseEvent::OwnerFull(owner) => Some(Input::OwnerFull { owner }),
            HouseEvent::Unquarantine(gpu, reply) => self.unquarantine(gpu, reply),
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
                // First of all others hear what is held here.
                self.heartbeat();
                self.pulls.forget();
                self.check_ownership(0);
                self.find_queues(Duration::ZERO);
                Some(Input::Reconnected)
            }
            HouseEvent::Leave => Some(self.leave()),
            HouseEvent::Drain(order, reply) => self.drain(order, reply),
            HouseEvent::Undrain(reply) => self.undrain(reply),
        };
        if let Some(input) = input {
            self.decide(input).await;
        }
        if told_at_once {
            self.heartbeat();
        }
    }

    /// Begins to look at the whole farm. Only after the last life's attempts have ended: its counts are taken over.
    pub fn join_farm(&mut self) {
        let Claims { me, permits, .. } = &self.claims;
        self.farm.begin(&mut self.rooms.tasks, me, &self.learned, permits.as_ref());
    }

    /// Whether nothing is left to do.
    pub fn is_leaving(&self) -> bool {
        self.rooms.leaving
    }

    /// Ends what is under way, so that nothing is said after the farewell.
    pub async fn end_tasks(&mut self) {
        self.farm.leave(self.claims.permits.as_ref()).await;
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
}

/// What changes the worker table, or what is given of the host.
fn is_told(input: &Input) -> bool {
    matches!(
        input,
        Input::WorkerReady { .. }
            | Input::WorkerFailed { .. }
            | Input::WorkerExited { .. }
            | Input::SaveGranted { .. }
            | Input::Unquarantined { .. }
    )
}

/// What does so when it is performed.
fn is_shown(action: &Action) -> bool {
    matches!(
        action,
        Action::Spawn { .. }
            | Action::StopWorker { .. }
            | Action::KillWorker { .. }
            | Action::Warn { .. }
            | Action::EndSave { .. }
    )
}
