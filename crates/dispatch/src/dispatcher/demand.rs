//! Demand: how many jobs of a shape could start now, and what is asked for. Nothing is asked for that has no seat: a free
//! slot of a worker, or a plan that books its part of the host.

use super::{Dispatcher, Mode, SETTLING_MAX};
use crate::plugins::{Plugin, Shape};
use crate::queues::{Candidate, Patience};
use crate::vocabulary::{Action, Time};
use grange_protocol::name::{Owner, PluginName};
use grange_protocol::subject::Queue;
use std::collections::BTreeSet;

/// After it left its queues to others, an agent looks at them for so long at least, milliseconds.
const OPEN_MS: Time = 500;
/// Most tickets that one look asks for.
const BATCH_MAX: u32 = 256;

/// Fewer queues than this are asked one after the other, without a look at all of them.
const PEEKS_MIN: usize = 3;
/// Most queues that are looked into at one time.
const PEEKS_MAX: usize = 256;

/// A plugin's shape that has no seat for candidates of this level or below.
#[derive(Debug)]
pub(super) struct Full {
    plugin: PluginName,
    shape: usize,
    level: u8,
}

/// Most shapes of a plugin whose jobs are counted together; with more, nothing is asked for until some have their places.
const SHAPES_MAX: usize = 10;

/// The set of shapes, a bit for each, that something serves.
type Serving<'s> = dyn Fn(&dyn Fn(&Shape) -> bool) -> usize + 's;

/// Owners among the candidates of one level.
fn owners_beside(candidates: &[Candidate], level: u8) -> u32 {
    let owners: BTreeSet<&Owner> =
        candidates.iter().filter(|c| c.level == level && !c.standing).map(|c| &c.queue.owner).collect();
    u32::try_from(owners.len()).unwrap_or(u32::MAX).max(1)
}

impl Dispatcher {
    /// Seats that are free for one more job of this shape.
    pub(super) fn free_seats(&self, name: &PluginName, shape: usize) -> u32 {
        u32::try_from(self.seats_left(name, Some(shape)).max(0)).unwrap_or(u32::MAX)
    }

    /// The fewest seats that are left over for any set of shapes, or of those that this one is in: workers that serve any
    /// shape of a set have to have room for all its jobs (Hall's theorem). Negative: some job has none.
    pub(super) fn seats_left(&self, name: &PluginName, shape: Option<usize>) -> i64 {
        let Some(plugin) = self.plugins.get(name) else { return 0 };
        let mut jobs = plugin.unplaced.clone();
        for (shape, asked) in self.queues.asked(name) {
            jobs[shape] += asked;
        }
        let counted = |place: &usize| jobs[*place] > 0 || shape == Some(*place);
        let shapes: Vec<usize> = (0..jobs.len()).filter(counted).collect();
        if shapes.len() > SHAPES_MAX {
            return if shape.is_some() { 0 } else { -1 };
        }
        let serving = |serves: &dyn Fn(&Shape) -> bool| {
            let bits = shapes.iter().enumerate().filter(|(_, shape)| serves(&plugin.shapes[**shape]));
            bits.fold(0_usize, |set, (bit, _)| set | 1 << bit)
        };
        let offers = self.offers(name, plugin, &serving);
        let has = |set: usize| {
            shape.is_none_or(|one| {
                shapes.iter().position(|s| *s == one).is_some_and(|bit| set >> bit & 1 == 1)
            })
        };
        let left = |set: usize| {
            let seats: i64 =
                offers.iter().filter(|(serves, _)| serves & set != 0).map(|(_, seats)| seats).sum();
            let of_set = shapes.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1);
            seats - of_set.map(|(_, shape)| i64::from(jobs[*shape])).sum::<i64>()
        };
        (1..1_usize << shapes.len()).filter(|set| has(*set)).map(left).min().unwrap_or(0)
    }

    /// Seats of workers, of planned ones, and, where nothing of the host is needed, of as many more as may be; with the
    /// set of shapes that they serve.
    fn offers(&self, name: &PluginName, plugin: &Plugin, serving: &Serving<'_>) -> Vec<(usize, i64)> {
        let ahead = plugin.ahead(&self.config);
        let workers = self.workers.live(name).filter(|(_, worker)| worker.gives_way_to.is_none());
        let mut offers: Vec<(usize, i64)> = workers
            .map(|(_, worker)| {
                let free = worker.slots(ahead).saturating_sub(worker.given.len() as u64);
                let free = i64::try_from(free).unwrap_or(i64::MAX);
                (serving(&|shape| worker.covers(shape.wanted())), free)
            })
            .collect();
        let slots = i64::from(plugin.slots(&self.config));
        if !self.is_resting(plugin) {
            let plans = self.plans.iter().filter(|plan| plan.plugin == *name);
            offers.extend(plans.map(|plan| (serving(&|shape| plan.covers(shape.wanted())), slots)));
            let light = serving(&|shape| !shape.needs_plan());
            offers.push((light, slots * i64::from(self.unplanned(name, plugin))));
        }
        offers
    }

    /// Workers that may be started without a plan, where nothing of the host is needed.
    pub(super) fn unplanned(&self, name: &PluginName, plugin: &Plugin) -> u32 {
        let planned = self.plans.iter().filter(|plan| plan.plugin == *name).count();
        let planned = u32::try_from(planned).unwrap_or(u32::MAX);
        plugin.spec.max_workers.saturating_sub(self.workers.count(name)).saturating_sub(planned)
    }

    fn is_resting(&self, plugin: &Plugin) -> bool {
        self.now < plugin.rest_until
    }

    /// Asks for what can start now, and for nothing else: the highest queues first.
    pub(super) fn pull(&mut self, touched: &[PluginName], freed: bool, now: Time, out: &mut Vec<Action>) {
        if self.mode != Mode::Working || self.settling >= SETTLING_MAX {
            return;
        }
        let fresh = self.facts_at.is_some_and(|at| now.saturating_sub(at) < self.config.facts_stale_ms);
        let idle = if fresh { self.config.calm_sweep_ms } else { self.config.idle_sweep_ms };
        let empty_ms = if freed { self.config.empty_lane_ms } else { idle };
        let mut candidates = Vec::new();
        for name in touched {
            let Some(plugin) = self.plugins.get(name).filter(|plugin| !plugin.gone) else { continue };
            let from = if self.is_warm(name) { 0 } else { plugin.look_from };
            let short = plugin.ahead(&self.config) > 0;
            let age_after_ms = self.config.age_after_ms;
            let patience = Patience { now, empty_ms, from, age_after_ms, short };
            let wake = self.queues.candidates(name, &patience, &mut candidates);
            if let Some(at) = wake {
                self.wake_at(at);
            }
        }
        // Most looks find everything as full as the last one did: then the order does not matter.
        if candidates.iter().all(|candidate| self.is_hopeless(candidate)) {
            return;
        }
        self.favour_seats(&mut candidates);
        candidates.sort();
        let mut held = Vec::new();
        for place in 0..candidates.len() {
            let candidate = &candidates[place];
            if candidate.held {
                if self.has_room(&candidate.queue) {
                    held.push(place);
                }
            } else if !self.queues.is_busy(&candidate.queue.lane.plugin)
                && self.settling < SETTLING_MAX
                && !held.iter().any(|held| self.goes_before(&candidates[*held], candidate))
            {
                self.ask(&candidates, place, now, out);
            }
        }
        if freed {
            self.peek(&candidates, idle, now, out);
        }
    }

    /// One slot became free, and is promised to the first of many queues. The others, which are asked one after the other
    /// should that one be empty (then those found empty rest for `idle_ms`), are looked into meanwhile: whoever is empty is
    /// not asked.
    fn peek(&mut self, candidates: &[Candidate], idle_ms: Time, now: Time, out: &mut Vec<Action>) {
        if !out.iter().any(|action| matches!(action, Action::Pull { wait: false, .. })) {
            return;
        }
        let swept = candidates.iter().filter(|candidate| {
            let own = candidate.rung == 0 && !candidate.standing && !candidate.held;
            own && self.queues.may_hold(&candidate.queue, idle_ms, now)
        });
        let queues: Vec<Queue> = swept.take(PEEKS_MAX).map(|candidate| candidate.queue.clone()).collect();
        if queues.len() >= PEEKS_MIN {
            queues.iter().for_each(|queue| self.queues.peeks(queue, now));
            out.push(Action::Peek { queues });
        }
    }

    /// Whether nothing would come of a look at this candidate.
    fn is_hopeless(&self, candidate: &Candidate) -> bool {
        let (name, shape) = (&candidate.queue.lane.plugin, candidate.shape);
        if candidate.held {
            return self.is_full(name, shape, u8::MAX);
        }
        let full = self.is_full(name, shape, candidate.level) && !self.saving.is_for(&candidate.queue);
        full || self.queues.is_busy(name)
    }

    /// A queue that a free seat serves counts as older by what leaving it for another costs: a start now, and one again
    /// when its turn comes. So plugins of one owner that share a host do not push each other out for every job.
    fn favour_seats(&self, candidates: &mut [Candidate]) {
        let mut seats: Vec<(PluginName, usize, i64)> = Vec::new();
        for candidate in candidates {
            let (name, shape) = (&candidate.queue.lane.plugin, candidate.shape);
            let known = seats.iter().find(|(of, place, _)| of == name && *place == shape);
            let older = known.map(|(_, _, older)| *older).unwrap_or_else(|| {
                let start_ms = self.plugins.get(name).and_then(|plugin| plugin.spec.start_ms).unwrap_or(0);
                let most = self.config.age_after_ms / 2;
                let free = !self.is_full(name, shape, u8::MAX) && self.free_seats(name, shape) > 0;
                let older = if free { i64::try_from((2 * start_ms).min(most)).unwrap_or(0) } else { 0 };
                seats.push((name.clone(), shape, older));
                older
            });
            candidate.since = candidate.since.saturating_sub(older);
        }
    }

    /// Whether a candidate would take room that one of a higher level may need in a moment.
    fn goes_before(&self, held: &Candidate, candidate: &Candidate) -> bool {
        let (one, other) = (&held.queue.lane.plugin, &candidate.queue.lane.plugin);
        let heavy = |name: &PluginName| self.plugins.get(name).is_some_and(Plugin::is_heavy);
        held.level < candidate.level && (one == other || (heavy(one) && heavy(other)))
    }

    /// Asks one queue, as far as there are seats.
    fn ask(&mut self, candidates: &[Candidate], place: usize, now: Time, out: &mut Vec<Action>) {
        let candidate = &candidates[place];
        let name = &candidate.queue.lane.plugin;
        let own = self.saving.is_for(&candidate.queue);
        if self.is_full(name, candidate.shape, candidate.level) && !own {
            return;
        }
        let most = self.owner_room(&candidate.queue.owner).min(SETTLING_MAX - self.settling);
        let mut wanted = match candidate.rung {
            _ if candidate.standing => 1,
            0 => BATCH_MAX,
            rung => rung,
        };
        wanted = wanted.min(most);
        if wanted == 0 {
            return;
        }
        let mut free = self.free_seats(name, candidate.shape);
        if !candidate.standing {
            let level = (!own).then_some(candidate.level);
            while free < wanted && self.plan(name, candidate.shape, level, now) {
                free = self.free_seats(name, candidate.shape);
            }
            if free == 0 {
                self.found_full(name, candidate.shape, level.unwrap_or(0));
                return;
            }
        }
        // Owners take turns: none takes all that is free while another waits.
        let owners = owners_beside(candidates, candidate.level);
        let share = if owners > 1 { free.div_ceil(owners) } else { free };
        let batch = wanted.min(share);
        if batch == 0 {
            return;
        }
        let cold =
            !self.is_warm(name) && self.plugins.get(name).is_some_and(|plugin| plugin.patience_ms() > 0);
        let wait = candidate.standing || (candidate.rung > 0 && !cold);
        self.queues.asks(candidate, batch, wait);
        out.push(Action::Pull { queue: candidate.queue.clone(), batch, wait });
        self.trim_plans(std::slice::from_ref(name));
    }

    /// Whether a look for a seat found none since the room last grew. What is saved up is kept from some levels.
    pub(super) fn is_full(&self, name: &PluginName, shape: usize, level: u8) -> bool {
        self.full.iter().any(|full| full.plugin == *name && full.shape == shape && full.level <= level)
    }

    /// A look for a seat found none. One that must only rest may have one in a moment.
    pub(super) fn found_full(&mut self, name: &PluginName, shape: usize, level: u8) {
        if self.plugins.get(name).is_some_and(|plugin| !self.is_resting(plugin)) {
            self.full.push(Full { plugin: name.clone(), shape, level });
        }
    }

    /// How many more attempts of an owner this agent may take.
    fn owner_room(&self, owner: &Owner) -> u32 {
        if self.resting_owners.contains_key(owner) {
            return 0;
        }
        let Some(most) = self.config.owner_running_max else { return u32::MAX };
        let here = self.jobs.keys().filter(|job| job.owner == *owner).count();
        let here = u32::try_from(here).unwrap_or(u32::MAX).saturating_add(self.queues.asked_of(owner));
        let elsewhere = self.running_elsewhere.get(owner).copied().unwrap_or(0);
        most.saturating_sub(here).saturating_sub(elsewhere)
    }

    /// A slot became free: an agent without a loaded worker of a plugin leaves its queues to those who have one for a
    /// moment.
    pub(super) fn hold_back(&mut self, touched: &[PluginName], now: Time) {
        for name in touched {
            let warm = self.is_warm(name);
            if let Some(plugin) = self.plugins.get_mut(name).filter(|plugin| !warm && plugin.warm_elsewhere) {
                // Short runs that end here one after the other must not keep it away for ever.
                if plugin.look_from == 0 || now >= plugin.look_from + OPEN_MS {
                    plugin.look_from = now + plugin.patience_ms();
                }
            }
        }
    }
}
