//! What an onlooker writes down when something happens, before the dispatcher answers.

use super::ledger::{At, Cause, Hand, Kept, Ledger, Life, Mode, Plugin, Stop, Worker};
use super::shelf::{Door, Shelf};
use grange_dispatch::{Ear, Facts, Input, JobLimits, PluginSpec, Time, WorkerId, WorkerUse};
use grange_protocol::name::{JobId, PluginName};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::{JobKey, Queue};

/// A queue whose bell was overheard is looked at once more so much later, milliseconds.
const OVERHEARD_MS: Time = 20;

impl Ledger {
    pub(crate) fn note(&mut self, now: Time, input: &Input) {
        self.step += 1;
        (self.hopeless, self.looks, self.saving.fresh, self.passes) = (None, false, false, None);
        self.evicted.clear();
        match input {
            Input::PluginReady { plugin, spec } => self.open(plugin, spec),
            Input::PluginGone { plugin } => self.close(plugin),
            Input::Host(reading) => self.host(now, reading),
            Input::Unquarantined { device } => self.estate.unquarantine(device.as_ref()),
            Input::Facts(facts) => self.hear_facts(now, facts),
            Input::QueueOpen { queue } => self.queue_open(queue),
            Input::QueueClosed { queue } => {
                self.shelves.remove(queue);
            }
            Input::Bell { queue, job, ear, hops } => self.rings(queue, job, (*ear, *hops), now),
            Input::Delivered { queue, job, limits, resources } => {
                self.delivered(now, queue, job, *limits, resources.as_deref());
            }
            Input::Unusable { queue } => self.came(queue, None),
            Input::PullEnded { queue } => {
                if let Some(shelf) = self.shelves.get_mut(queue) {
                    shelf.ended(now);
                }
                self.ends_saving(|kept| kept.queue == *queue);
            }
            Input::FoundEmpty { queue } => {
                if let Some(shelf) = self.shelves.get_mut(queue) {
                    shelf.found_empty(now);
                }
            }
            Input::Reconnected => self.shelves.values_mut().for_each(|shelf| shelf.forget(0)),
            Input::Claimed { job } => self.claimed(job),
            Input::NotClaimed { job } => {
                if let Some(hand) = self.jobs.get(job).filter(|hand| hand.at == At::Claiming) {
                    let queue = hand.queue.clone();
                    self.jobs.remove(job);
                    self.went_back(&queue, job);
                }
            }
            Input::OwnerFull { owner } => {
                self.resting_owners.insert(owner.clone(), now + 1_000);
            }
            Input::SaveGranted { queue } => self.save_granted(queue, now),
            Input::SaveRefused { queue } => {
                self.saving.asked.take_if(|asked| asked == queue);
                self.saving.resting.insert(queue.clone(), now + 5_000);
            }
            Input::WorkerReady { worker } => self.came_up(*worker, now),
            Input::WorkerFailed { worker, .. } => self.failed(*worker, now),
            Input::WorkerExited { worker } => self.exited(*worker, now),
            Input::RunEnded { job, end } => self.ended(job, end.cancelled, end.run_ms, now),
            Input::Settled { job } => self.jobs.retain(|key, hand| key != job || hand.at != At::Closing),
            Input::CancelRequested { job } => self.stop(job, Cause::Cancelled, now),
            Input::Lost { job } => self.stop(job, Cause::Lost, now),
            Input::Tick => self.tick(now),
            Input::DrainRequested { exit } => self.drain(*exit),
            Input::UndrainRequested => self.undrain(),
            Input::StopRuns => self.stop_runs(now),
            Input::StopRequested => {
                self.drain(true);
                self.stop_runs(now);
            }
        }
    }

    /// What is out stays out; what was known of the queues is forgotten.
    fn open(&mut self, name: &PluginName, spec: &PluginSpec) {
        self.shaken = self.step;
        // What is kept is what it asked for before.
        self.ends_saving(|kept| kept.queue.lane.plugin == *name);
        let known = self.plugins.entry(name.clone()).or_insert_with(|| Plugin {
            spec: spec.clone(),
            gone: false,
            run_ms: None,
            rest_until: 0,
            failures: 0,
            warm_elsewhere: false,
        });
        known.spec = spec.clone();
        if std::mem::take(&mut known.gone) {
            let of_it = self.shelves.iter_mut().filter(|(queue, _)| queue.lane.plugin == *name);
            of_it.for_each(|(_, shelf)| shelf.forget(shelf.asked));
        }
    }

    fn close(&mut self, name: &PluginName) {
        if let Some(known) = self.plugins.get_mut(name) {
            known.gone = true;
        }
    }

    fn hear_facts(&mut self, now: Time, facts: &Facts) {
        for (name, known) in &mut self.plugins {
            known.warm_elsewhere = facts.warm_elsewhere.contains(name);
        }
        self.shelves.values_mut().for_each(|shelf| shelf.age = None);
        for (queue, age) in &facts.waiting {
            if self.takes_in(queue) {
                let shelf = self.shelves.get_mut(queue).unwrap();
                (shelf.age, shelf.empty_since, shelf.peeked) = (Some((*age, now)), None, None);
            }
        }
        self.saving.resting.retain(|_, until| *until > now);
        self.ends_saving(|kept| !facts.waiting.contains_key(&kept.queue));
        self.facts = Some((now, facts.clone()));
    }

    /// Whether a queue is known, or is from now on; it may have to be opened.
    fn takes_in(&mut self, queue: &Queue) -> bool {
        let here = self.plugins.get(&queue.lane.plugin).is_some_and(|known| !known.gone);
        if !here || self.mode != Mode::Working || !self.has_shelf(queue) {
            return false;
        }
        let shelf = self.shelves.entry(queue.clone()).or_default();
        if shelf.door == Door::Closed {
            shelf.door = Door::Opening;
            self.opens.insert(queue.clone());
        }
        true
    }

    /// Whether a queue is known, or can be: where there are too many, the open one is forgotten of which nothing is known
    /// and which was served longest ago.
    fn has_shelf(&mut self, queue: &Queue) -> bool {
        if self.shelves.contains_key(queue) || self.shelves.len() < self.config.queues_max {
            return true;
        }
        let quiet = |shelf: &Shelf| {
            shelf.door == Door::Open && shelf.asked == 0 && shelf.bells.is_empty() && shelf.age.is_none()
        };
        let quiet = self.shelves.iter().filter(|(_, shelf)| quiet(shelf));
        let oldest = quiet.min_by_key(|(queue, shelf)| (shelf.turn, &queue.lane.plugin, *queue));
        let Some(oldest) = oldest.map(|(queue, _)| queue.clone()) else { return false };
        self.shelves.remove(&oldest).is_some()
    }

    fn queue_open(&mut self, queue: &Queue) {
        if self.plugins.contains_key(&queue.lane.plugin) && self.has_shelf(queue) {
            let shelf = self.shelves.entry(queue.clone()).or_default();
            (shelf.door, shelf.empty_since) = (Door::Open, None);
        }
    }

    fn rings(&mut self, queue: &Queue, job: &JobId, (ear, hops): (Ear, u32), now: Time) {
        let name = &queue.lane.plugin;
        let patience = self.patience_ms(name);
        if !self.takes_in(queue) {
            return;
        }
        // Heard in turn with others, by an agent that can do nothing with it by now.
        if ear != Ear::All && hops == 0 && !self.is_brief(name) {
            self.passes = Some((queue.clone(), job.clone(), self.room_for(queue, now)));
        }
        let shelf = self.shelves.get_mut(queue).unwrap();
        if ear == Ear::All {
            shelf.overhear(job, now + patience, OVERHEARD_MS);
        } else {
            shelf.ring(job, now, patience);
        }
    }

    /// Whether a job of this queue could start, where that is certain.
    fn room_for(&self, queue: &Queue, now: Time) -> Option<bool> {
        let name = &queue.lane.plugin;
        if self.is_light(name) {
            return Some(self.free_light(name, now) > 0);
        }
        let certain = self.is_quiet() && self.saving.kept.is_none();
        certain.then(|| self.surely_fits(name, &queue.lane.class, now))
    }

    /// A pull brought one of what it asked for.
    fn came(&mut self, queue: &Queue, job: Option<&JobId>) {
        self.turns += 1;
        if let Some(shelf) = self.shelves.get_mut(queue) {
            shelf.turn = self.turns;
            shelf.came(job);
        }
    }

    pub(crate) fn went_back(&mut self, queue: &Queue, job: &JobKey) {
        if let Some(shelf) = self.shelves.get_mut(queue) {
            shelf.went_back(&job.job);
        }
    }

    fn delivered(
        &mut self,
        now: Time,
        queue: &Queue,
        job: &JobKey,
        limits: JobLimits,
        resources: Option<&ResourceRequest>,
    ) {
        let promised = self.shelves.get(queue).filter(|shelf| shelf.asked > 0).map(|shelf| shelf.step);
        self.shaken = if promised.is_none() { self.step } else { self.shaken };
        self.came(queue, Some(&job.job));
        let name = &queue.lane.plugin;
        let here = self.plugins.get(name).is_some_and(|known| !known.gone);
        let stray = (promised.is_none() && here).then(|| self.room_for(queue, now));
        self.jobs.entry(job.clone()).or_insert_with(|| Hand {
            queue: queue.clone(),
            at: At::Delivered,
            limits,
            resources: resources.cloned(),
            turn: 0,
            began: false,
            began_at: None,
            deadline: None,
            stop: None,
            ask: false,
            step: promised.unwrap_or(0),
            stray,
        });
    }

    fn claimed(&mut self, job: &JobKey) {
        let Some(hand) = self.jobs.get_mut(job).filter(|hand| hand.at == At::Claiming) else { return };
        self.claims += 1;
        (hand.at, hand.turn) = (At::Waiting, self.claims);
        let stays = hand.stop.is_none() && self.mode == Mode::Working;
        let (queue, name) = (hand.queue.clone(), hand.plugin().clone());
        if stays && !self.plugins[&name].gone {
            self.ends_saving(|kept| kept.queue == queue);
        }
    }

    /// What is kept has to be given up, if this is so.
    fn ends_saving(&mut self, when: impl Fn(&Kept) -> bool) -> Option<Queue> {
        let kept = self.saving.kept.take_if(|kept| when(kept))?;
        self.saving.ends = Some(kept.queue.clone());
        Some(kept.queue)
    }

    fn save_granted(&mut self, queue: &Queue, now: Time) {
        let asked = self.saving.asked.take_if(|asked| asked == queue).is_some();
        let here = self.plugins.get(&queue.lane.plugin).is_some_and(|known| !known.gone);
        if asked && here && self.mode == Mode::Working {
            let level = self
                .shelves
                .get(queue)
                .map_or(queue.lane.priority as u8, |shelf| shelf.level(queue, now, &self.config));
            self.saving.kept =
                Some(Kept { queue: queue.clone(), until: now + self.config.save_for_ms, level });
            self.saving.fresh = true;
        } else {
            self.saving.ends = Some(queue.clone());
        }
    }

    fn came_up(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.life == Life::Starting) else { return };
        (worker.life, worker.idle_since) = (Life::Ready, now);
        let known = self.plugins.get_mut(&worker.plugin).unwrap();
        (known.failures, known.rest_until) = (0, 0);
    }

    fn failed(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        if worker.life == Life::Starting {
            let known = self.plugins.get_mut(&worker.plugin).unwrap();
            let pause = self.config.start_backoff_ms.saturating_mul(1 << known.failures.min(40));
            known.failures += 1;
            known.rest_until = now + pause.min(self.config.start_backoff_max_ms);
            self.hopeless = Some(worker.plugin.clone());
        }
        self.exited(id, now);
    }

    fn exited(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_process()) else { return };
        self.shaken = self.step;
        for (job, how) in worker.orphans() {
            self.jobs.get_mut(&job).unwrap().at = At::Orphaned(how);
        }
        if worker.grant.devices.is_empty() {
            self.workers.remove(&id);
            return;
        }
        // Processes are gone, and with them what they had of the host; only GPUs may be late.
        (worker.life, worker.used) = (Life::Returning(now), WorkerUse::default());
        (worker.grant.ram_mb, worker.grant.cpus) = (0, 0);
        self.looks = self.mode != Mode::Exited;
    }

    /// Whoever was told to end and is not gone in time is said to hang, and its runs end without it.
    fn give_up_stuck(&mut self, now: Time) {
        for (id, worker) in &mut self.workers {
            let late = worker.gone_by.is_some_and(|by| by <= now);
            if worker.life != Life::Ending || worker.stuck || !late {
                continue;
            }
            worker.stuck = true;
            self.shaken = self.step;
            self.warns.insert(*id);
            for (job, how) in worker.orphans() {
                self.jobs.get_mut(&job).unwrap().at = At::Orphaned(how);
            }
        }
    }

    fn ended(&mut self, job: &JobKey, obeyed: bool, run_ms: f64, now: Time) {
        let Some(hand) = self.jobs.get_mut(job) else { return };
        let At::With(id) = hand.at else { return };
        hand.at = At::Ended { obeyed };
        let name = hand.plugin().clone();
        if !obeyed {
            self.plugins.get_mut(&name).unwrap().ran(run_ms);
        }
        let worker: &mut Worker = self.workers.get_mut(&id).unwrap();
        worker.given.retain(|given| given != job);
        if worker.given.is_empty() {
            worker.idle_since = now;
        }
        self.begin(id, now);
    }

    /// Gives jobs that run, and have no deadline yet, theirs.
    pub(crate) fn begin(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        for job in worker.given.iter().take(worker.concurrency) {
            let hand = self.jobs.get_mut(job).unwrap();
            let timeout = hand.limits.timeout_ms.or(self.plugins[hand.plugin()].spec.timeout_ms);
            if !std::mem::replace(&mut hand.began, true) {
                (hand.began_at, hand.deadline) = (Some(now), timeout.map(|timeout| now + timeout));
            }
        }
    }

    fn stop(&mut self, job: &JobKey, cause: Cause, now: Time) {
        let Some(hand) = self.jobs.get_mut(job) else { return };
        let plugin = &self.plugins[hand.plugin()];
        let grace = hand.limits.cancel_grace_ms.unwrap_or(plugin.spec.cancel_grace_ms);
        match hand.stop.as_mut() {
            Some(stop) if stop.cause == Cause::Behind => *stop = Stop { cause, kill_at: now + grace },
            Some(stop) if cause == Cause::Lost => stop.cause = cause,
            Some(_) => {}
            None => {
                hand.stop = Some(Stop { cause, kill_at: now + grace });
                hand.ask = matches!(hand.at, At::With(_));
            }
        }
    }

    fn tick(&mut self, now: Time) {
        self.resting_owners.retain(|_, until| *until > now);
        if self.facts.as_ref().is_some_and(|(at, _)| now - at >= self.config.facts_stale_ms) {
            self.facts = None;
            self.plugins.values_mut().for_each(|known| known.warm_elsewhere = false);
        }
        self.give_up_stuck(now);
        let late = |hand: &Hand| {
            let free = hand.stop.is_none_or(|stop| stop.cause == Cause::Behind);
            matches!(hand.at, At::With(_)) && free && hand.deadline.is_some_and(|d| d <= now)
        };
        let jobs: Vec<JobKey> =
            self.jobs.iter().filter(|(_, hand)| late(hand)).map(|(job, _)| job.clone()).collect();
        for job in jobs {
            self.stop(&job, Cause::TimedOut, now);
        }
        self.hand_back(now);
        if let Some(queue) = self.ends_saving(|kept| kept.until <= now) {
            self.saving.resting.insert(queue, now + self.config.save_for_ms);
        }
        self.memory_back(now, true);
    }

    /// Whoever waits behind runs that have lasted for more than a quarter of a second goes back.
    fn hand_back(&mut self, now: Time) {
        let kept = |worker: &&Worker| worker.life == Life::Ready && !self.is_overdue(now, worker);
        let lasts = |job: &JobKey| self.jobs[job].began_at.is_some_and(|began| now - began > 250);
        let behind = self.workers.values().filter(kept).filter_map(|worker| {
            let (running, held) = worker.given.split_at_checked(worker.concurrency)?;
            running.iter().all(lasts).then(|| held.to_vec())
        });
        for job in behind.flatten().collect::<Vec<_>>() {
            let hand = self.jobs.get_mut(&job).unwrap();
            if hand.stop.is_none() {
                hand.stop = Some(Stop { cause: Cause::Behind, kill_at: Time::MAX });
                hand.ask = true;
                self.plugins.get_mut(&hand.queue.lane.plugin).unwrap().ran(250.0);
                // Seats behind short runs were promised, and are none any more.
                self.shaken = self.step;
            }
        }
    }

    fn drain(&mut self, exit: bool) {
        if self.mode == Mode::Working {
            self.ends_saving(|_| true);
        }
        self.mode = match self.mode {
            Mode::Working | Mode::Drained if exit => Mode::Draining,
            Mode::Working | Mode::Drained => Mode::Drained,
            other @ (Mode::Draining | Mode::Exited) => other,
        };
    }

    fn undrain(&mut self) {
        if self.mode == Mode::Drained {
            self.mode = Mode::Working;
            self.shaken = self.step;
            self.shelves.values_mut().for_each(|shelf| shelf.forget(shelf.asked));
        }
    }

    fn stop_runs(&mut self, now: Time) {
        for job in self.jobs.keys().cloned().collect::<Vec<_>>() {
            self.stop(&job, Cause::Stopped, now);
        }
    }
}
