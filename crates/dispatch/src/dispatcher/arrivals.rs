//! What comes from the queue: bells, tickets, claims, and what the overview says.

use super::{Dispatcher, Mode, SETTLING_MAX, Touched};
use crate::jobs::{Job, Phase, StopCause};
use crate::vocabulary::{Action, Conclusion, Ear, Facts, JobLimits, Time};
use crate::workers::Stage;
use grange_protocol::fit::{Lack, Need, place_when_empty};
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::JobId;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::{JobKey, Queue};

/// A queue whose bell was overheard is looked at once more after so long, milliseconds.
const OVERHEARD_MS: u64 = 20;
/// A ticket that asks for a little more than this host has comes back to the queue for so long, milliseconds.
const TOO_BIG_MS: u64 = 5_000;

impl Dispatcher {
    /// A queue has its consumer.
    pub(super) fn queue_open(&mut self, queue: &Queue) -> Touched {
        let Some(plugin) = self.plugins.get_mut(&queue.lane.plugin) else { return Touched::Nobody };
        if !plugin.takes(&queue.lane.class) {
            return Touched::Nobody;
        }
        if !self.queues.is_known(queue)
            && self.queues.count() >= self.config.queues_max
            && !self.queues.forget_one()
        {
            return Touched::Nobody;
        }
        let shape = plugin.shape_of(&queue.lane.class);
        self.queues.opened(queue, shape);
        Touched::Only(queue.lane.plugin.clone())
    }

    /// Makes sure that a queue can be asked.
    fn want_open(&mut self, queue: &Queue, out: &mut Vec<Action>) -> bool {
        let takes = |plugin: &crate::plugins::Plugin| plugin.takes(&queue.lane.class);
        if self.mode != Mode::Working || !self.plugins.get(&queue.lane.plugin).is_some_and(takes) {
            return false;
        }
        let full = self.queues.count() >= self.config.queues_max;
        if full && !self.queues.is_known(queue) && !self.queues.forget_one() {
            return false;
        }
        if self.queues.begin_to_open(queue) {
            out.push(Action::Open { queue: queue.clone() });
        }
        true
    }

    pub(super) fn bell(
        &mut self,
        queue: Queue,
        job: JobId,
        (ear, hops): (Ear, u32),
        now: Time,
        out: &mut Vec<Action>,
    ) -> Touched {
        let name = queue.lane.plugin.clone();
        let Some(plugin) = self.plugins.get(&name).filter(|plugin| !plugin.gone) else {
            return Touched::Nobody;
        };
        let wait = if self.is_warm(&name) { 0 } else { plugin.patience_ms() };
        let brief = plugin.is_brief();
        if !self.want_open(&queue, out) {
            return Touched::Nobody;
        }
        // The others of the group did not hear it. A call reaches all, so it is not repeated.
        if ear != Ear::All && hops == 0 && !brief && !self.has_room(&queue) {
            out.push(Action::PassOn { queue: queue.clone(), job: job.clone(), hops: 1 });
        }
        if ear == Ear::All {
            self.queues.overhear(&queue, &job, now + wait, OVERHEARD_MS);
        } else {
            self.queues.ring(&queue, job, now + wait, wait);
        }
        Touched::Only(name)
    }

    /// Whether a job of this queue could start now.
    pub(super) fn has_room(&mut self, queue: &Queue) -> bool {
        let name = &queue.lane.plugin;
        let Some(plugin) = self.plugins.get_mut(name) else { return false };
        let shape = plugin.shape_of(&queue.lane.class);
        if self.is_full(name, shape, u8::MAX) {
            return false;
        }
        let room = self.free_seats(name, shape) > 0 || self.plan(name, shape, Some(u8::MAX), self.now);
        self.trim_plans(std::slice::from_ref(name));
        room
    }

    /// The overview of the farm.
    pub(super) fn facts(&mut self, facts: Facts, now: Time, out: &mut Vec<Action>) -> Touched {
        self.facts_at = Some(now);
        self.running_elsewhere = facts.running_elsewhere;
        self.queues.forget_ages();
        for (name, plugin) in &mut self.plugins {
            plugin.hears_of_warm_ones(facts.warm_elsewhere.contains(name));
        }
        for (queue, age_ms) in &facts.waiting {
            let here = self.plugins.get(&queue.lane.plugin).is_some_and(|plugin| !plugin.gone);
            if here && self.want_open(queue, out) {
                self.queues.holds(queue, *age_ms, now);
            }
        }
        self.wish_to_save(&facts.waiting, now, out);
        Touched::Everybody
    }

    pub(super) fn delivered(
        &mut self,
        queue: &Queue,
        job: JobKey,
        limits: JobLimits,
        resources: Option<&ResourceRequest>,
        out: &mut Vec<Action>,
    ) -> Touched {
        let name = queue.lane.plugin.clone();
        let was_asked = self.queues.is_asked(queue);
        self.queues.delivered(queue, Some(&job.job));
        if self.jobs.contains_key(&job) {
            return Touched::One(name);
        }
        let usable = self.plugins.get_mut(&name).filter(|known| !known.gone);
        let Some(plugin) = usable.filter(|_| self.mode == Mode::Working) else {
            self.queues.went_back(queue, &job.job);
            out.push(Action::Return { job, delay_ms: 0 });
            return Touched::One(name);
        };
        let shape = plugin.shape_of(&queue.lane.class);
        let needed =
            resources.filter(|_| plugin.shapes[shape].is_heavy()).map(|own| plugin.spec.request.raised(own));
        if needed.is_some_and(|needed| self.lack_for_good(needed).is_some()) {
            self.queues.went_back(queue, &job.job);
            out.push(Action::Return { job, delay_ms: TOO_BIG_MS });
            return Touched::One(name);
        }
        // The answer to a pull that was given up, or that a lost connection took along: no seat was kept for it.
        if !was_asked
            && self.free_seats(&name, shape) == 0
            && !self.plan(&name, shape, Some(u8::MAX), self.now)
        {
            self.queues.went_back(queue, &job.job);
            out.push(Action::Return { job, delay_ms: 0 });
            return Touched::One(name);
        }
        let ahead = self.is_ahead(&name);
        if let Some(plugin) = self.plugins.get_mut(&name) {
            plugin.unplaced[shape] += 1;
        }
        let (plugin, queue) = (name.clone(), queue.clone());
        let phase = Phase::Claiming;
        self.jobs.insert(
            job.clone(),
            Job { plugin, queue, shape, phase, limits, began: None, deadline: None, stop: None },
        );
        out.push(Action::Claim { job, ahead });
        Touched::One(name)
    }

    /// Why this host will never have what is needed: a class is a little wider than what this host has.
    fn lack_for_good(&self, needed: ResourceRequest) -> Option<Lack> {
        let room = self.host.room(&self.host.nothing_given());
        place_when_empty(&Need::from(needed), &room).err()
    }

    /// Whether a job that comes now waits behind short runs. Without a worker there is nothing to be ahead of: the job is
    /// the one that its worker starts for.
    fn is_ahead(&self, name: &grange_protocol::name::PluginName) -> bool {
        let Some(plugin) = self.plugins.get(name).filter(|plugin| plugin.ahead(&self.config) > 0) else {
            return false;
        };
        let (mut slots, mut given) = (0u64, 0u64);
        for (_, worker) in self.workers.live(name) {
            given += worker.given.len() as u64;
            slots += if worker.stage == Stage::Ready { u64::from(worker.concurrency) } else { 0 };
        }
        let unplaced: u64 = plugin.unplaced.iter().map(|count| u64::from(*count)).sum();
        slots > 0 && given + unplaced >= slots
    }

    pub(super) fn claimed(&mut self, key: &JobKey, out: &mut Vec<Action>) -> Touched {
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.phase == Phase::Claiming) else {
            return Touched::Nobody;
        };
        job.phase = Phase::Waiting;
        let (plugin, queue) = (job.plugin.clone(), job.queue.clone());
        let gone = self.plugins.get(&plugin).is_none_or(|p| p.gone);
        match job.stop.map(|stop| stop.cause) {
            Some(StopCause::Cancelled) => self.conclude(key, Conclusion::Cancelled, out),
            Some(StopCause::Lost) => return self.forget(key, out),
            Some(StopCause::AgentStops | StopCause::TimedOut | StopCause::Behind) => {
                self.conclude(key, Conclusion::Retry(RetryCause::NotStarted), out);
            }
            None if gone || self.mode != Mode::Working => {
                self.conclude(key, Conclusion::Retry(RetryCause::NotStarted), out);
            }
            None => {
                if let Some(known) = self.plugins.get_mut(&plugin) {
                    known.waiting.push_back(key.clone());
                }
                self.saved_for(&queue, out);
            }
        }
        Touched::One(plugin)
    }

    pub(super) fn not_claimed(&mut self, key: &JobKey) -> Touched {
        if self.jobs.get(key).is_none_or(|job| job.phase != Phase::Claiming) {
            return Touched::Nobody;
        }
        self.unplace(key);
        let Some(job) = self.jobs.remove(key) else { return Touched::Nobody };
        self.queues.went_back(&job.queue, &key.job);
        Touched::Freed(job.plugin)
    }

    /// A job that had no place in a worker yet gets one, or needs none any more.
    pub(super) fn unplace(&mut self, key: &JobKey) {
        let Some(job) = self.jobs.get(key).filter(|job| job.is_unplaced()) else { return };
        if let Some(plugin) = self.plugins.get_mut(&job.plugin) {
            plugin.unplaced[job.shape] -= 1;
        }
    }

    pub(super) fn settled(&mut self, key: &JobKey) -> Touched {
        match self.jobs.get(key) {
            Some(job) if job.phase == Phase::Settling => {
                self.jobs.remove(key);
                self.settling -= 1;
                let limits = self.settling + 1 >= SETTLING_MAX || self.config.owner_running_max.is_some();
                if limits { Touched::Everybody } else { Touched::Nobody }
            }
            _ => Touched::Nobody,
        }
    }

    pub(super) fn conclude(&mut self, key: &JobKey, how: Conclusion, out: &mut Vec<Action>) {
        self.unplace(key);
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.phase != Phase::Settling) else { return };
        job.phase = Phase::Settling;
        self.settling += 1;
        if let Conclusion::Retry(_) = how {
            self.queues.went_back(&job.queue, &key.job);
        }
        out.push(Action::Conclude { job: key.clone(), how });
    }

    pub(super) fn forget(&mut self, key: &JobKey, out: &mut Vec<Action>) -> Touched {
        self.unplace(key);
        let Some(job) = self.jobs.remove(key) else { return Touched::Nobody };
        self.queues.went_back(&job.queue, &key.job);
        out.push(Action::Forget { job: key.clone() });
        Touched::Freed(job.plugin)
    }
}
