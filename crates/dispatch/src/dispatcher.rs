//! The dispatcher: takes one input, changes the tables, says what to do. Owns the order of things; the tables own what
//! they hold, and each file below one kind of decision.

mod arrivals;
mod demand;
mod ends;
mod hearing;
mod leaving;
mod measured;
mod placing;
mod plans;
mod saving;
mod stops;
mod views;

use crate::host::Host;
use crate::jobs::Job;
use crate::plugins::{Plugin, Plugins};
use crate::queues::Queues;
use crate::vocabulary::{Action, Config, Ear, Input, PluginSpec, Time};
use crate::workers::Workers;
use demand::Full;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::{Owner, PluginName};
use grange_protocol::subject::JobKey;
use plans::Plan;
use saving::Saving;
use std::collections::{BTreeMap, BTreeSet};

use crate::jobs::StopCause;
use crate::vocabulary::Conclusion;

/// Most ends that may be under way at one time; while there are more, nothing new is pulled.
const SETTLING_MAX: u32 = 1024;
/// An owner that has enough running is left alone for so long, milliseconds.
const OWNER_REST_MS: Time = 1_000;

/// Whether the agent takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Working,
    /// Nothing new, until told otherwise.
    Drained,
    /// Nothing new, and the end when nothing is left.
    Draining,
    Exited,
}

/// All that one agent decides by.
#[derive(Debug)]
pub struct Dispatcher {
    config: Config,
    mode: Mode,
    /// The time of the input that is being handled.
    now: Time,
    plugins: Plugins,
    queues: Queues,
    workers: Workers,
    host: Host,
    /// Parts of the host that are booked for what was asked for.
    plans: Vec<Plan>,
    /// Plugins and shapes that have no seat, for candidates of a level or below, until the room may have grown.
    full: Vec<Full>,
    /// Plugins that a worker could be started of, until the room may have shrunk.
    roomy: Vec<PluginName>,
    saving: Saving,
    jobs: BTreeMap<JobKey, Job>,
    settling: u32,
    /// How each plugin's bells are heard.
    ears: BTreeMap<PluginName, Ear>,
    /// When the overview was heard, and what it said of others' attempts.
    facts_at: Option<Time>,
    running_elsewhere: BTreeMap<Owner, u32>,
    /// Owners that are left alone until then.
    resting_owners: BTreeMap<Owner, Time>,
    alarms: BTreeSet<Time>,
    last_claimant: u64,
}

/// Whose pulls and placements have to be looked at after an input.
#[derive(Clone, Debug)]
enum Touched {
    Nobody,
    /// Something came to this plugin, and nobody else's room is another.
    Only(PluginName),
    /// Something came to this plugin.
    One(PluginName),
    /// A slot of this plugin became free.
    Freed(PluginName),
    Everybody,
}

/// Whether an input leaves the room as it is, or smaller.
fn leaves_room(input: &Input) -> bool {
    match input {
        Input::Bell { .. } | Input::QueueOpen { .. } | Input::Facts(_) | Input::Settled { .. } => true,
        Input::OwnerFull { .. } | Input::SaveRefused { .. } | Input::Tick | Input::FoundEmpty { .. } => true,
        Input::PluginReady { .. }
        | Input::PluginGone { .. }
        | Input::Host(_)
        | Input::Unquarantined { .. } => false,
        Input::QueueClosed { .. } | Input::Delivered { .. } | Input::Unusable { .. } => false,
        Input::PullEnded { .. } | Input::Reconnected | Input::Claimed { .. } | Input::NotClaimed { .. } => {
            false
        }
        Input::CancelRequested { .. }
        | Input::SaveGranted { .. }
        | Input::WorkerReady { .. }
        | Input::WorkerFailed { .. } => false,
        Input::WorkerExited { .. } | Input::RunEnded { .. } | Input::Lost { .. } => false,
        Input::DrainRequested { .. } | Input::UndrainRequested | Input::StopRuns | Input::StopRequested => {
            false
        }
    }
}

impl Dispatcher {
    /// An agent that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            mode: Mode::Working,
            now: 0,
            plugins: Plugins::new(),
            queues: Queues::default(),
            workers: Workers::default(),
            host: Host::new(config.reserve),
            plans: Vec::new(),
            full: Vec::new(),
            roomy: Vec::new(),
            saving: Saving::default(),
            jobs: BTreeMap::new(),
            settling: 0,
            ears: BTreeMap::new(),
            facts_at: None,
            running_elsewhere: BTreeMap::new(),
            resting_owners: BTreeMap::new(),
            alarms: BTreeSet::new(),
            last_claimant: 0,
        }
    }

    /// Takes one input and says what to do, in this order.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Action> {
        self.now = now;
        let mut out = Vec::new();
        if !leaves_room(&input) {
            self.full.clear();
            self.roomy.clear();
        }
        let touched = self.take(now, input, &mut out);
        let freed = matches!(touched, Touched::Freed(_));
        let touched = match touched {
            Touched::Nobody => Vec::new(),
            Touched::Only(name) => vec![name],
            Touched::One(name) | Touched::Freed(name) => self.beside(name),
            Touched::Everybody => self.plugins.keys().cloned().collect(),
        };
        if freed {
            self.hold_back(&touched, now);
        }
        self.trim_plans(&touched);
        if !touched.is_empty() {
            self.begin_starts(&mut out);
        }
        for name in &touched {
            self.place(name, now, &mut out);
        }
        self.trim_plans(&touched);
        self.pull(&touched, freed, now, &mut out);
        // What leaves the room as it is says nothing.
        if !out.is_empty() {
            self.roomy.clear();
        }
        // Whether there is room, the answers will say: until then bells are heard as before.
        let asking = touched.iter().any(|name| self.queues.is_busy(name));
        for name in &touched {
            if !asking || !self.hears(name) {
                self.hear(name, now, &mut out);
            }
        }
        for name in self.leave(now, &mut out) {
            self.hear(&name, now, &mut out);
        }
        if !out.is_empty() {
            self.roomy.clear();
        }
        out
    }

    /// When a `Tick` is wanted before the next regular one.
    pub fn next_wake(&self) -> Option<Time> {
        self.alarms.first().copied()
    }

    /// Jobs in hand, settling ones included.
    pub fn jobs_in_hand(&self) -> usize {
        self.jobs.len()
    }

    /// A plugin whose room depends on others' is looked at together with them. Where owners may have only so many running,
    /// all do.
    fn beside(&self, name: PluginName) -> Vec<PluginName> {
        if !self.plugins.contains_key(&name) {
            return Vec::new();
        }
        if self.config.owner_running_max.is_some() {
            return self.plugins.keys().cloned().collect();
        }
        let heavy = |name: &PluginName| self.plugins.get(name).is_some_and(Plugin::is_heavy);
        if !heavy(&name) {
            return vec![name];
        }
        self.plugins.iter().filter(|(_, plugin)| plugin.is_heavy()).map(|(name, _)| name.clone()).collect()
    }

    fn wake_at(&mut self, at: Time) {
        self.alarms.insert(at);
    }

    fn take(&mut self, now: Time, input: Input, out: &mut Vec<Action>) -> Touched {
        match input {
            Input::PluginReady { plugin, spec } => self.plugin_ready(plugin, spec, out),
            Input::PluginGone { plugin } => self.plugin_gone(plugin, out),
            Input::Host(reading) => self.host_read(*reading, now, out),
            Input::Unquarantined { device } => {
                self.host.unquarantine(device.as_deref());
                Touched::Everybody
            }
            Input::Facts(facts) => self.facts(*facts, now, out),
            Input::QueueOpen { queue } => self.queue_open(&queue),
            Input::QueueClosed { queue } => {
                self.queues.closed(&queue);
                Touched::One(queue.lane.plugin)
            }
            Input::Bell { queue, job, ear, hops } => self.bell(queue, job, (ear, hops), now, out),
            Input::Delivered { queue, job, limits, resources } => {
                self.delivered(&queue, job, limits, resources.as_deref(), out)
            }
            Input::Unusable { queue } => {
                self.queues.delivered(&queue, None);
                Touched::One(queue.lane.plugin)
            }
            Input::PullEnded { queue } => {
                self.queues.ended(&queue, now);
                // There was room for it, and nothing came: nobody waits there any more.
                self.saved_for(&queue, out);
                Touched::One(queue.lane.plugin)
            }
            Input::FoundEmpty { queue } => {
                self.queues.found_empty(&queue, now);
                Touched::Nobody
            }
            Input::Reconnected => {
                self.queues.reconnected();
                Touched::Everybody
            }
            Input::Claimed { job } => self.claimed(&job, out),
            Input::NotClaimed { job } => self.not_claimed(&job),
            Input::OwnerFull { owner } => {
                self.resting_owners.insert(owner, now + OWNER_REST_MS);
                Touched::Nobody
            }
            Input::SaveGranted { queue } => self.save_granted(&queue, now, out),
            Input::SaveRefused { queue } => self.save_refused(&queue, now),
            Input::WorkerReady { worker } => self.worker_ready(worker, now),
            Input::WorkerFailed { worker, failure } => self.worker_failed(worker, &failure, now, out),
            Input::WorkerExited { worker } => self.worker_exited(worker, now, out),
            Input::RunEnded { job, end } => self.run_ended(&job, end, now, out),
            Input::Settled { job } => self.settled(&job),
            Input::CancelRequested { job } => self.stop(&job, StopCause::Cancelled, now, out),
            Input::Lost { job } => self.stop(&job, StopCause::Lost, now, out),
            Input::Tick => self.tick(now, out),
            Input::DrainRequested { exit } => self.drain(exit, out),
            Input::UndrainRequested => self.undrain(),
            Input::StopRuns => {
                self.stop_all(now, out);
                Touched::Everybody
            }
            Input::StopRequested => {
                let touched = self.drain(true, out);
                self.stop_all(now, out);
                self.stop_starts(out);
                touched
            }
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Action>) -> Touched {
        self.alarms = self.alarms.split_off(&(now + 1));
        self.resting_owners.retain(|_, until| *until > now);
        self.forget_old_facts(now);
        self.give_up_stuck(now, out);
        self.enforce(now, out);
        self.end_saving_in_time(now, out);
        self.expect_memory_back(now, out);
        Touched::Everybody
    }

    /// What an overview said of others holds for a while only.
    fn forget_old_facts(&mut self, now: Time) {
        if self.facts_at.is_some_and(|at| now.saturating_sub(at) >= self.config.facts_stale_ms) {
            self.facts_at = None;
            self.running_elsewhere.clear();
            self.plugins.values_mut().for_each(|plugin| plugin.hears_of_warm_ones(false));
        }
    }

    fn plugin_ready(&mut self, plugin: PluginName, spec: PluginSpec, out: &mut Vec<Action>) -> Touched {
        // What is kept was measured for what it asked for before.
        if self.saving.kept().is_some_and(|kept| kept.queue.lane.plugin == plugin) {
            self.end_saving(out);
        }
        match self.plugins.get_mut(&plugin) {
            Some(known) => {
                known.set_spec(spec);
                if std::mem::take(&mut known.gone) {
                    self.queues.renew(&plugin);
                }
                // It may have fewer workers than were planned for it.
                self.drop_unsound_plans();
            }
            None => {
                self.plugins.insert(plugin.clone(), Plugin::new(spec));
            }
        }
        Touched::One(plugin)
    }

    fn plugin_gone(&mut self, plugin: PluginName, out: &mut Vec<Action>) -> Touched {
        if let Some(known) = self.plugins.get_mut(&plugin) {
            known.gone = true;
            for job in std::mem::take(&mut known.waiting) {
                self.conclude(&job, Conclusion::Retry(RetryCause::NotStarted), out);
            }
        }
        Touched::One(plugin)
    }
}
