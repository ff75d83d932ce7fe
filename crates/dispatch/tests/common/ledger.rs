//! The ledger: what an onlooker knows from the inputs and actions alone. Owns no decisions; `notes` writes down what
//! happens, `checks` compares what is done.

use super::estate::{Estate, Held, covers};
use super::farm::{self, SHORT};
use super::shelf::Shelf;
use grange_dispatch::{
    Config, Ear, Facts, Grant, Input, JobLimits, PluginSpec, Time, WorkerId, WorkerUse, WorkerView,
};
use grange_protocol::fit::Need;
use grange_protocol::name::{Class, JobId, Owner, PluginName};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::{JobKey, Queue};
use std::collections::{BTreeMap, BTreeSet};

/// How a job lost its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orphan {
    Crashed,
    NotStarted,
    GpuFailed,
    OverLimit,
}

/// Where a job in hand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Delivered,
    Claiming,
    Waiting,
    With(WorkerId),
    /// Its run ended; `obeyed`: because it was asked to.
    Ended {
        obeyed: bool,
    },
    Orphaned(Orphan),
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Cancelled,
    TimedOut,
    Stopped,
    /// It waits behind long runs.
    Behind,
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) cause: Cause,
    pub(crate) kill_at: Time,
}

#[derive(Clone, Debug)]
pub(crate) struct Hand {
    pub(crate) queue: Queue,
    pub(crate) at: At,
    pub(crate) limits: JobLimits,
    pub(crate) resources: Option<ResourceRequest>,
    /// In the order of the claims.
    pub(crate) turn: usize,
    pub(crate) began: bool,
    pub(crate) began_at: Option<Time>,
    /// When it is over time, from its beginning.
    pub(crate) deadline: Option<Time>,
    pub(crate) stop: Option<Stop>,
    /// Its run has to be asked to stop in this step.
    pub(crate) ask: bool,
    /// In which step its seat was promised.
    pub(crate) step: usize,
    /// No pull was out that it could have answered: whether there was room for it, where that is certain.
    pub(crate) stray: Option<Option<bool>>,
}

impl Hand {
    pub(crate) fn plugin(&self) -> &PluginName {
        &self.queue.lane.plugin
    }

    /// It needs a place in a worker, and has none yet.
    pub(crate) fn is_unplaced(&self) -> bool {
        matches!(self.at, At::Delivered | At::Claiming | At::Waiting)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Starting,
    Ready,
    /// Let go, or killed.
    Ending,
    /// Its processes are gone since then; its memory is not seen to be back.
    Returning(Time),
}

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) plugin: PluginName,
    pub(crate) life: Life,
    pub(crate) given: Vec<JobKey>,
    pub(crate) concurrency: usize,
    pub(crate) grant: Grant,
    pub(crate) used: WorkerUse,
    pub(crate) idle_since: Time,
    pub(crate) warned: bool,
    /// Why it is killed, where that decides how its runs end.
    pub(crate) fault: Option<Orphan>,
    /// When it is to be gone, where it was told to end.
    pub(crate) gone_by: Option<Time>,
    /// It is not gone by then, and not waited for any more.
    pub(crate) stuck: bool,
}

impl Worker {
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.life, Life::Starting | Life::Ready)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.life == Life::Ready && self.given.is_empty()
    }

    /// Takes its runs off it, each with how it ends without its worker.
    pub(crate) fn orphans(&mut self) -> Vec<(JobKey, Orphan)> {
        let how = |place: usize| match self.fault {
            _ if place >= self.concurrency => Orphan::NotStarted,
            Some(fault) => fault,
            None if self.life == Life::Ready => Orphan::Crashed,
            None => Orphan::NotStarted,
        };
        let orphans = self.given.iter().enumerate().map(|(place, job)| (job.clone(), how(place))).collect();
        self.given.clear();
        orphans
    }

    /// Whether it can run what needs this.
    pub(crate) fn covers(&self, need: Option<&Need>) -> bool {
        covers(&self.grant, need)
    }

    pub(crate) fn is_process(&self) -> bool {
        !matches!(self.life, Life::Returning(_))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    pub(crate) spec: PluginSpec,
    pub(crate) gone: bool,
    /// How long its runs take, milliseconds, where one ended by itself: each new one counts a fifth.
    pub(crate) run_ms: Option<f64>,
    pub(crate) rest_until: Time,
    pub(crate) failures: u32,
    pub(crate) warm_elsewhere: bool,
}

impl Plugin {
    /// A run took so long.
    pub(crate) fn ran(&mut self, ms: f64) {
        self.run_ms = Some(self.run_ms.map_or(ms, |known| known + (ms - known) * 0.2));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Working,
    Drained,
    Draining,
    Exited,
}

/// Room that is saved up.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) queue: Queue,
    pub(crate) until: Time,
    pub(crate) level: u8,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Saving {
    pub(crate) asked: Option<Queue>,
    pub(crate) kept: Option<Kept>,
    /// What is kept was granted in this step, and may turn out to be out of reach.
    pub(crate) fresh: bool,
    /// This has to be given up in this step.
    pub(crate) ends: Option<Queue>,
    pub(crate) resting: BTreeMap<Queue, Time>,
}

pub(crate) struct Ledger {
    pub(crate) config: Config,
    pub(crate) mode: Mode,
    pub(crate) step: usize,
    /// The last step in which seats may have been lost that were promised before.
    pub(crate) shaken: usize,
    pub(crate) plugins: BTreeMap<PluginName, Plugin>,
    pub(crate) shelves: BTreeMap<Queue, Shelf>,
    pub(crate) jobs: BTreeMap<JobKey, Hand>,
    pub(crate) claims: usize,
    pub(crate) turns: usize,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) estate: Estate,
    /// Names are not used twice.
    pub(crate) spawned: BTreeSet<WorkerId>,
    /// A worker of this plugin did not come up in this step.
    pub(crate) hopeless: Option<PluginName>,
    pub(crate) ears: BTreeMap<PluginName, Ear>,
    pub(crate) facts: Option<(Time, Facts)>,
    pub(crate) resting_owners: BTreeMap<Owner, Time>,
    pub(crate) saving: Saving,
    /// Workers that have to be killed, or said to overrun, in this step.
    pub(crate) kills: BTreeSet<WorkerId>,
    pub(crate) warns: BTreeSet<WorkerId>,
    /// Queues whose consumers have to be made in this step.
    pub(crate) opens: BTreeSet<Queue>,
    /// A bell that may have to be passed on in this step, and whether there is room for it, where that is certain.
    pub(crate) passes: Option<(Queue, JobId, Option<bool>)>,
    /// The host has to be looked at in this step.
    pub(crate) looks: bool,
    /// The last step after which something of a plugin was asked for, or had no place.
    pub(crate) last_wanted: BTreeMap<PluginName, usize>,
    /// When something last ended here, so that a slot may have become free.
    pub(crate) last_freed: Option<Time>,
    /// Idle workers that were giving way after the last step.
    pub(crate) giving_way: BTreeSet<WorkerId>,
    /// Workers for which room is made, before or after this step.
    pub(crate) waited_for: Vec<WorkerView>,
    /// Workers that were let go in this step to make room.
    pub(crate) evicted: Vec<WorkerId>,
}

impl Ledger {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            mode: Mode::Working,
            step: 0,
            shaken: 0,
            plugins: BTreeMap::new(),
            shelves: BTreeMap::new(),
            jobs: BTreeMap::new(),
            claims: 0,
            turns: 0,
            workers: BTreeMap::new(),
            estate: Estate::new(config),
            spawned: BTreeSet::new(),
            hopeless: None,
            ears: BTreeMap::new(),
            facts: None,
            resting_owners: BTreeMap::new(),
            saving: Saving::default(),
            kills: BTreeSet::new(),
            warns: BTreeSet::new(),
            opens: BTreeSet::new(),
            passes: None,
            looks: false,
            last_wanted: BTreeMap::new(),
            last_freed: None,
            giving_way: BTreeSet::new(),
            waited_for: Vec::new(),
            evicted: Vec::new(),
        }
    }

    /// How many runs may be held ahead of each slot.
    pub(crate) fn ahead(&self, name: &PluginName) -> usize {
        let start_in_time = |run_ms: f64| (f64::from(self.config.pull_ahead_ms) / run_ms).floor() as usize;
        self.plugins[name].run_ms.map_or(0, start_in_time).min(self.config.pull_ahead_max as usize)
    }

    /// How many runs a new worker could have in hand.
    pub(crate) fn slots(&self, name: &PluginName) -> usize {
        self.plugins[name].spec.concurrency as usize * (1 + self.ahead(name))
    }

    /// How many more runs a worker could have in hand.
    pub(crate) fn free_slots(&self, worker: &Worker) -> usize {
        let slots = worker.concurrency * (1 + self.ahead(&worker.plugin));
        if worker.is_live() { slots.saturating_sub(worker.given.len()) } else { 0 }
    }

    /// Whether jobs of a plugin never take anything of the host.
    pub(crate) fn is_light(&self, name: &PluginName) -> bool {
        matches!(name.as_str(), SHORT | "long")
    }

    pub(crate) fn need(&self, name: &PluginName, class: &Class) -> Option<Need> {
        farm::need(class, &self.plugins[name].spec)
    }

    pub(crate) fn shelves_of(&self, name: &PluginName) -> impl Iterator<Item = (&Queue, &Shelf)> {
        self.shelves.iter().filter(move |(queue, _)| queue.lane.plugin == *name)
    }

    pub(crate) fn asked(&self, name: &PluginName) -> usize {
        self.shelves_of(name).map(|(_, shelf)| shelf.asked as usize).sum()
    }

    /// Whether a pull is out that looks for what is there.
    pub(crate) fn is_looking(&self, name: &PluginName) -> bool {
        self.shelves_of(name).any(|(_, shelf)| shelf.asked > 0 && !shelf.standing)
    }

    pub(crate) fn workers_of(&self, name: &PluginName) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().filter(move |(_, worker)| worker.plugin == *name).map(|(id, w)| (*id, w))
    }

    pub(crate) fn is_warm(&self, name: &PluginName) -> bool {
        self.workers_of(name).any(|(id, worker)| worker.life == Life::Ready && !self.giving_way.contains(&id))
    }

    /// How long an agent without a loaded worker leaves a ticket to those who have one.
    pub(crate) fn patience_ms(&self, name: &PluginName) -> Time {
        match self.plugins.get(name) {
            Some(known) if known.warm_elsewhere && !self.is_warm(name) => {
                (known.spec.start_ms.unwrap_or(0) / 100).clamp(3, 250)
            }
            _ => 0,
        }
    }

    /// All that is held of the host.
    pub(crate) fn all_held(&self) -> Vec<Held<'_>> {
        self.workers.values().map(|worker| (&worker.grant, &worker.used)).collect()
    }

    /// GPUs whose driver does not tell who uses what, with a worker that was given no memory of them.
    pub(crate) fn untold(&self) -> BTreeSet<String> {
        let unchecked = self.workers.values().filter(|worker| worker.grant.vram_mb == 0);
        let on = unchecked.flat_map(|worker| worker.grant.devices.iter().cloned());
        on.filter(|uuid| !self.estate.gpus[uuid].reading.attributed).collect()
    }

    /// How many more tickets of an owner may be asked for.
    pub(crate) fn owner_room(&self, owner: &Owner) -> usize {
        if self.resting_owners.contains_key(owner) {
            return 0;
        }
        let Some(most) = self.config.owner_running_max else { return usize::MAX };
        let here = self.jobs.keys().filter(|job| job.owner == *owner).count();
        let asked = self.shelves.iter().filter(|(queue, _)| queue.owner == *owner);
        let asked: usize = asked.map(|(_, shelf)| shelf.asked as usize).sum();
        let elsewhere = self.facts.as_ref().and_then(|(_, facts)| facts.running_elsewhere.get(owner));
        (most as usize).saturating_sub(here + asked + elsewhere.copied().unwrap_or(0) as usize)
    }

    /// Whether a repeated input says nothing new, so that it must change nothing.
    pub(crate) fn is_stale(&self, input: &Input) -> bool {
        let at = |job: &JobKey| self.jobs.get(job).map(|hand| hand.at);
        match input {
            Input::Claimed { job } | Input::NotClaimed { job } => at(job) != Some(At::Claiming),
            Input::RunEnded { job, .. } => !matches!(at(job), Some(At::With(_))),
            Input::Settled { job } => at(job) != Some(At::Closing),
            Input::CancelRequested { job } | Input::Lost { job } => at(job).is_none(),
            Input::WorkerReady { worker } => {
                self.workers.get(worker).is_none_or(|worker| worker.life != Life::Starting)
            }
            Input::WorkerFailed { worker, .. } | Input::WorkerExited { worker } => {
                !self.workers.get(worker).is_some_and(Worker::is_process)
            }
            Input::PullEnded { queue } => self.shelves.get(queue).is_none_or(|shelf| shelf.asked == 0),
            Input::DrainRequested { exit } => match self.mode {
                Mode::Working => false,
                Mode::Drained => !exit,
                Mode::Draining | Mode::Exited => true,
            },
            Input::UndrainRequested => self.mode != Mode::Drained,
            Input::Host(reading) => reading.taken_at < self.estate.taken_at,
            Input::PluginReady { .. }
            | Input::PluginGone { .. }
            | Input::Unquarantined { .. }
            | Input::Facts(_)
            | Input::QueueOpen { .. }
            | Input::QueueClosed { .. }
            | Input::Bell { .. }
            | Input::Delivered { .. }
            | Input::Unusable { .. }
            | Input::FoundEmpty { .. }
            | Input::Reconnected
            | Input::OwnerFull { .. }
            | Input::SaveGranted { .. }
            | Input::SaveRefused { .. }
            | Input::Tick
            | Input::StopRuns
            | Input::StopRequested => false,
        }
    }
}
