//! Demand: how many jobs of a shape could start now, and what is asked for. Nothing is asked for that has no seat: a free
//! slot of a worker, or a plan that books its part of the host.

use super::{Dispatcher, Mode, SETTLING_MAX};
use crate::plugins::{Plugin, Shape};
use crate::queues::{Candidate, Patience, owners_beside};
use crate::vocabulary::{Action, Time};
use crate::workers::serves;
use grange_protocol::name::{Owner, PluginName};

/// After it left its queues to others, an agent looks at them for so long at least, milliseconds.
const OPEN_MS: Time = 500;
/// Most tickets that one look asks for.
const BATCH_MAX: u32 = 256;

/// A plugin's shape that has no seat for candidates of this level or below.
#[derive(Debug)]
pub(super) struct Full {
    plugin: PluginName,
    shape: usize,
    level: u8,
}

/// Whether every worker that serves `narrow` serves `wide` too.
fn implies(narrow: &Shape, wide: &Shape) -> bool {
    serves(narrow.wanted(), wide.wanted())
}

impl Dispatcher {
    /// Seats that are free for one more job of this shape. Wider shapes are served by the same workers and more: each of
    /// them must have room for what it has and for this.
    pub(super) fn free_seats(&self, name: &PluginName, shape: usize) -> u32 {
        let Some(plugin) = self.plugins.get(name) else { return 0 };
        let wide = plugin.shapes.iter().filter(|wide| implies(&plugin.shapes[shape], wide));
        let least = wide.map(|wide| self.slack(name, plugin, wide)).min().unwrap_or(0);
        u32::try_from(least.max(0)).unwrap_or(u32::MAX)
    }

    /// Seats that serve a shape, less those that need one of them.
    pub(super) fn slack(&self, name: &PluginName, plugin: &Plugin, wide: &Shape) -> i64 {
        let slots = i64::from(plugin.slots(&self.config));
        let mut seats = 0;
        for (_, worker) in self.workers.live(name) {
            if worker.gives_way_to.is_none() && worker.covers(wide.wanted()) {
                let all = i64::from(worker.concurrency) * i64::from(1 + plugin.ahead(&self.config));
                seats += (all - i64::try_from(worker.given.len()).unwrap_or(i64::MAX)).max(0);
            }
        }
        seats += slots * i64::from(self.unborn(name, plugin, wide));
        let needing = |narrow: usize| implies(&plugin.shapes[narrow], wide);
        let unplaced = plugin.unplaced.iter().enumerate().filter(|(place, _)| needing(*place));
        let unplaced: i64 = unplaced.map(|(_, count)| i64::from(*count)).sum();
        let asked = self.queues.asked(name).filter(|(place, _)| needing(*place));
        seats - unplaced - asked.map(|(_, count)| i64::from(count)).sum::<i64>()
    }

    /// Workers that could be started for a shape: planned ones, and, where nothing of the host is needed, as many as may
    /// be.
    fn unborn(&self, name: &PluginName, plugin: &Plugin, wide: &Shape) -> u32 {
        let planned = self.plans.iter().filter(|plan| plan.plugin == *name);
        let (mut all, mut serving) = (0, 0);
        for plan in planned {
            all += 1;
            serving += u32::from(plan.covers(wide.wanted()));
        }
        if wide.is_heavy() || wide.need.is_none() || self.is_resting(plugin) {
            return serving;
        }
        serving + plugin.spec.max_workers.saturating_sub(self.workers.count(name)).saturating_sub(all)
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
        candidates.sort();
        for place in 0..candidates.len() {
            let plugin = &candidates[place].queue.lane.plugin;
            if !self.queues.is_busy(plugin) && self.settling < SETTLING_MAX {
                self.ask(&candidates, place, now, out);
            }
        }
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
                if now >= plugin.look_from + OPEN_MS {
                    plugin.look_from = now + plugin.patience_ms();
                }
            }
        }
    }
}
