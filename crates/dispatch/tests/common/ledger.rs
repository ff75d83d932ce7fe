//! The ledger: what an onlooker knows from the inputs and actions alone. Owns no decisions; `checks` compares.

use super::lanes;
use grange_dispatch::{Config, Input, JobLimits, PluginSpec, Time, WorkerId};
use grange_protocol::name::PluginName;
use grange_protocol::subject::{JobKey, Lane};
use std::collections::{BTreeMap, VecDeque};

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
    /// Its worker is gone; `crashed`: by itself, while this ran.
    Orphaned {
        crashed: bool,
    },
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Cancelled,
    TimedOut,
    Stopped,
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) cause: Cause,
    pub(crate) kill_at: Time,
}

#[derive(Clone, Debug)]
pub(crate) struct Hand {
    pub(crate) plugin: PluginName,
    pub(crate) at: At,
    pub(crate) limits: JobLimits,
    pub(crate) began: bool,
    /// When it is over time, from its beginning.
    pub(crate) deadline: Option<Time>,
    pub(crate) stop: Option<Stop>,
    /// Its run has to be asked to stop in this step.
    pub(crate) ask: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Starting,
    Ready,
    /// Let go, or killed.
    Ending,
}

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) plugin: PluginName,
    pub(crate) life: Life,
    pub(crate) given: Vec<JobKey>,
    pub(crate) concurrency: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    pub(crate) spec: PluginSpec,
    pub(crate) gone: bool,
    /// A run of it ended by itself, so its length is known.
    pub(crate) learned: bool,
    pub(crate) waiting: VecDeque<JobKey>,
    pub(crate) rest_until: Time,
    failures: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LaneFacts {
    pub(crate) asked: u32,
    /// Bells that no pull has answered.
    pub(crate) bells: u32,
    /// When a pull found nothing more; none since found as much as it looked for.
    pub(crate) empty_since: Option<Time>,
    /// The pull that is out answers bells.
    pub(crate) waiting: bool,
    /// The pull that is out was made without a bell, after one that was answered.
    pub(crate) standing: bool,
    /// The last pull that answered bells was answered in full.
    pub(crate) lively: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Working,
    Draining,
    Exited,
}

pub(crate) struct Ledger {
    pub(crate) config: Config,
    pub(crate) mode: Mode,
    pub(crate) plugins: BTreeMap<PluginName, Plugin>,
    pub(crate) lanes: BTreeMap<Lane, LaneFacts>,
    pub(crate) jobs: BTreeMap<JobKey, Hand>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    /// What was spawned last: names are not used twice.
    pub(crate) newest: Option<WorkerId>,
    /// Jobs of this plugin that waited when the last worker did not come up.
    pub(crate) hopeless: Option<PluginName>,
    pub(crate) listening: Vec<PluginName>,
}

impl Ledger {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            mode: Mode::Working,
            plugins: BTreeMap::new(),
            lanes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            newest: None,
            hopeless: None,
            listening: Vec::new(),
        }
    }

    /// Writes down what happened, before the dispatcher answers.
    pub(crate) fn note(&mut self, now: Time, input: &Input) {
        self.hopeless = None;
        match input {
            Input::PluginReady { plugin, spec } => self.open(plugin, spec),
            Input::PluginGone { plugin } => self.close(plugin),
            Input::Bell { lane } => {
                if let Some(facts) = self.open_lane(lane) {
                    facts.bells += 1;
                }
            }
            Input::Delivered { lane, job, limits } => self.delivered(lane, job, *limits),
            Input::Unusable { lane } => self.came(lane),
            Input::PullEnded { lane } => {
                if let Some(facts) = self.lanes.get_mut(lane).filter(|facts| facts.asked > 0) {
                    facts.asked = 0;
                    (facts.waiting, facts.standing, facts.lively) = (false, false, false);
                    facts.empty_since = Some(now);
                }
            }
            Input::Reconnected => self.lanes.values_mut().for_each(|facts| *facts = LaneFacts::default()),
            Input::Claimed { job } => {
                if let Some(hand) = self.jobs.get_mut(job).filter(|hand| hand.at == At::Claiming) {
                    hand.at = At::Waiting;
                    self.plugins.get_mut(&hand.plugin).unwrap().waiting.push_back(job.clone());
                }
            }
            Input::NotClaimed { job } => {
                self.jobs.retain(|key, hand| key != job || hand.at != At::Claiming);
            }
            Input::WorkerReady { worker } => self.came_up(*worker),
            Input::WorkerFailed { worker, .. } => self.failed(*worker, now),
            Input::WorkerExited { worker } => self.exited(*worker),
            Input::RunEnded { job, end } => self.ended(job, end.cancelled, now),
            Input::Settled { job } => self.jobs.retain(|key, hand| key != job || hand.at != At::Closing),
            Input::CancelRequested { job } => self.stop(job, Cause::Cancelled, now),
            Input::Lost { job } => self.stop(job, Cause::Lost, now),
            Input::Tick => self.time_out(now),
            Input::DrainRequested => self.drain(),
            Input::StopRequested => {
                self.drain();
                for job in self.jobs.keys().cloned().collect::<Vec<_>>() {
                    self.stop(&job, Cause::Stopped, now);
                }
            }
        }
    }

    /// How many runs one worker may have in hand.
    pub(crate) fn slots(&self, plugin: &Plugin, name: &PluginName) -> usize {
        let short = plugin.learned && name.as_str() == super::life::SHORT;
        plugin.spec.concurrency as usize * if short { 1 + self.config.pull_ahead_max as usize } else { 1 }
    }

    /// How many runs the plugin could have in hand now.
    pub(crate) fn capacity(&self, name: &PluginName, now: Time) -> usize {
        let plugin = &self.plugins[name];
        let count = |f: &dyn Fn(Life) -> bool| self.workers_of(name).filter(|w| f(w.life)).count();
        let workers = if now < plugin.rest_until {
            count(&|life| life != Life::Ending)
        } else {
            (plugin.spec.max_workers as usize).saturating_sub(count(&|life| life == Life::Ending))
        };
        workers * self.slots(plugin, name)
    }

    /// Tickets of a plugin in hand that are not being closed.
    pub(crate) fn held(&self, name: &PluginName) -> usize {
        self.jobs.values().filter(|hand| hand.plugin == *name && hand.at != At::Closing).count()
    }

    pub(crate) fn asked(&self, name: &PluginName) -> usize {
        self.lanes.iter().filter(|(lane, _)| lane.plugin == *name).map(|(_, f)| f.asked as usize).sum()
    }

    /// Tickets asked for by pulls that look for what is there.
    pub(crate) fn looked_for(&self, name: &PluginName) -> usize {
        let looking = self.lanes.iter().filter(|(lane, facts)| lane.plugin == *name && !facts.standing);
        looking.map(|(_, facts)| facts.asked as usize).sum()
    }

    /// Whether the plugin's runs are known to be short.
    pub(crate) fn is_short(&self, name: &PluginName) -> bool {
        self.plugins[name].learned && name.as_str() == super::life::SHORT
    }

    pub(crate) fn workers_of(&self, name: &PluginName) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(move |worker| worker.plugin == *name)
    }

    /// Gives jobs that run, and have no deadline yet, theirs.
    pub(crate) fn begin(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        for job in worker.given.iter().take(worker.concurrency) {
            let hand = self.jobs.get_mut(job).unwrap();
            let timeout = hand.limits.timeout_ms.or(self.plugins[&hand.plugin].spec.timeout_ms);
            if !std::mem::replace(&mut hand.began, true) {
                hand.deadline = timeout.map(|timeout| now + timeout);
            }
        }
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
                !self.workers.contains_key(worker)
            }
            Input::PullEnded { lane } => self.lanes.get(lane).is_none_or(|facts| facts.asked == 0),
            Input::DrainRequested => self.mode != Mode::Working,
            Input::PluginReady { .. }
            | Input::PluginGone { .. }
            | Input::Bell { .. }
            | Input::Delivered { .. }
            | Input::Unusable { .. }
            | Input::Reconnected
            | Input::Tick
            | Input::StopRequested => false,
        }
    }

    /// What is out stays out; what was known of the lanes is forgotten.
    fn open(&mut self, name: &PluginName, spec: &PluginSpec) {
        let known = self.plugins.entry(name.clone()).or_insert_with(|| Plugin {
            spec: spec.clone(),
            gone: true,
            learned: false,
            waiting: VecDeque::new(),
            rest_until: 0,
            failures: 0,
        });
        known.spec = spec.clone();
        if std::mem::take(&mut known.gone) {
            for lane in lanes(name) {
                let facts = self.lanes.entry(lane).or_default();
                *facts = LaneFacts { asked: facts.asked, ..LaneFacts::default() };
            }
        }
    }

    fn close(&mut self, name: &PluginName) {
        if let Some(known) = self.plugins.get_mut(name) {
            known.gone = true;
        }
    }

    fn open_lane(&mut self, lane: &Lane) -> Option<&mut LaneFacts> {
        self.plugins.get(&lane.plugin).filter(|known| !known.gone)?;
        self.lanes.get_mut(lane)
    }

    /// A pull brought one of what it asked for.
    fn came(&mut self, lane: &Lane) {
        let Some(facts) = self.lanes.get_mut(lane).filter(|facts| facts.asked > 0) else { return };
        facts.asked -= 1;
        if facts.asked == 0 && facts.waiting {
            (facts.waiting, facts.standing, facts.lively) = (false, false, true);
        } else if facts.asked == 0 {
            facts.empty_since = None;
        }
    }

    fn delivered(&mut self, lane: &Lane, job: &JobKey, limits: JobLimits) {
        self.came(lane);
        self.jobs.entry(job.clone()).or_insert_with(|| Hand {
            plugin: lane.plugin.clone(),
            at: At::Delivered,
            limits,
            began: false,
            deadline: None,
            stop: None,
            ask: false,
        });
    }

    fn came_up(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.life == Life::Starting) else { return };
        worker.life = Life::Ready;
        let known = self.plugins.get_mut(&worker.plugin).unwrap();
        (known.failures, known.rest_until) = (0, 0);
    }

    fn failed(&mut self, id: WorkerId, now: Time) {
        if self.workers.get(&id).is_none_or(|worker| worker.life != Life::Starting) {
            return self.exited(id);
        }
        let Some(worker) = self.workers.remove(&id) else { return };
        let known = self.plugins.get_mut(&worker.plugin).unwrap();
        let pause = self.config.start_backoff_ms.saturating_mul(1 << known.failures.min(40));
        known.failures += 1;
        known.rest_until = now + pause.min(self.config.start_backoff_max_ms);
        if self.workers_of(&worker.plugin).all(|other| other.life == Life::Ending) {
            self.hopeless = Some(worker.plugin);
        }
    }

    fn exited(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else { return };
        for (place, job) in worker.given.iter().enumerate() {
            let crashed = place < worker.concurrency && worker.life == Life::Ready;
            self.jobs.get_mut(job).unwrap().at = At::Orphaned { crashed };
        }
    }

    fn ended(&mut self, job: &JobKey, obeyed: bool, now: Time) {
        let Some(hand) = self.jobs.get_mut(job) else { return };
        let At::With(id) = hand.at else { return };
        hand.at = At::Ended { obeyed };
        self.plugins.get_mut(&hand.plugin).unwrap().learned |= !obeyed;
        self.workers.get_mut(&id).unwrap().given.retain(|given| given != job);
        self.begin(id, now);
    }

    fn stop(&mut self, job: &JobKey, cause: Cause, now: Time) {
        let Some(hand) = self.jobs.get_mut(job) else { return };
        let grace = hand.limits.cancel_grace_ms.unwrap_or(self.plugins[&hand.plugin].spec.cancel_grace_ms);
        match hand.stop.as_mut() {
            Some(stop) if cause == Cause::Lost => stop.cause = cause,
            Some(_) => {}
            None => {
                hand.stop = Some(Stop { cause, kill_at: now + grace });
                hand.ask = matches!(hand.at, At::With(_));
            }
        }
    }

    fn time_out(&mut self, now: Time) {
        let late = |hand: &Hand| {
            matches!(hand.at, At::With(_)) && hand.stop.is_none() && hand.deadline.is_some_and(|d| d <= now)
        };
        let jobs: Vec<JobKey> =
            self.jobs.iter().filter(|(_, hand)| late(hand)).map(|(job, _)| job.clone()).collect();
        for job in jobs {
            self.stop(&job, Cause::TimedOut, now);
        }
    }

    fn drain(&mut self) {
        if self.mode == Mode::Working {
            self.mode = Mode::Draining;
        }
    }
}
