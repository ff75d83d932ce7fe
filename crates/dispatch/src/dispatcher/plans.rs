//! Plans: a part of the host that is booked before a pull, so that what comes can start. Where there is no room, idle
//! workers give way, the least recently used first, and only those whose leaving helps.

use super::Dispatcher;
use crate::host::{Given, Holding, Used};
use crate::vocabulary::{Time, WorkerId};
use crate::workers::{Claimant, Stage, Worker, serves};
use grange_protocol::fit::{Need, Room, place};
use grange_protocol::name::PluginName;
use grange_protocol::resource::ResourceRequest;
use std::collections::BTreeMap;

/// A worker that may be started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) claimant: Claimant,
    pub(crate) plugin: PluginName,
    /// As for a worker.
    pub(crate) asked: Option<ResourceRequest>,
    pub(crate) holding: Holding,
}

impl Plan {
    pub(crate) fn covers(&self, wanted: Option<&ResourceRequest>) -> bool {
        serves(self.asked.as_ref(), wanted)
    }
}

impl Dispatcher {
    /// Books room for one more worker of a shape. False: there is none, or none is needed.
    pub(super) fn plan(&mut self, name: &PluginName, shape: usize, level: Option<u8>, now: Time) -> bool {
        let Some(plugin) = self.plugins.get(name).filter(|plugin| !plugin.gone) else { return false };
        let shape = &plugin.shapes[shape];
        // Where nothing of the host is needed, a worker needs no plan, but a place among the plugin's workers.
        if now < plugin.rest_until || (!shape.needs_plan() && self.unplanned(name, plugin) > 0) {
            return false;
        }
        let need = shape.need.clone();
        let most = plugin.spec.max_workers as usize;
        let own = Need::from(plugin.spec.request.clone());
        let mut room = self.host.take_room();
        let found = self.find_room(name, (need.as_ref(), &own), most, level, &mut room);
        self.host.keep_room(room);
        let Some((asked, holding, victims)) = found else { return false };
        let before = self.seats_left(name, None);
        self.last_claimant += 1;
        let claimant = Claimant(self.last_claimant);
        for victim in victims {
            if let Some(worker) = self.workers.get_mut(victim) {
                worker.gives_way_to = Some(claimant);
            }
        }
        self.plans.push(Plan { claimant, plugin: name.clone(), asked, holding });
        // The last place among the plugin's workers may be promised to a job that needs no plan.
        let takes_a_place = self.seats_left(name, None) < before.min(0);
        if takes_a_place {
            self.plans.pop();
            self.keep_those_who_gave_way(claimant);
        }
        !takes_a_place
    }

    /// Where a worker would fit, and who would have to leave for it.
    fn find_room(
        &self,
        name: &PluginName,
        (need, own): (Option<&Need>, &Need),
        most: usize,
        level: Option<u8>,
        room: &mut Room,
    ) -> Option<(Option<ResourceRequest>, Holding, Vec<WorkerId>)> {
        let wanted = need.map(|need| &need.request);
        let mut fits = |without: &[WorkerId]| {
            if self.places_taken(name, without) >= most {
                return None;
            }
            self.host.refill(room, &self.given(without, level));
            match need {
                Some(need) => {
                    let placement = place(need, room).ok()?;
                    let asked = need.request.clone();
                    Some((Some(asked), Holding::new(placement, &need.request)))
                }
                // No check was asked for: properly where it fits, else beside whoever is there.
                None => Some(match place(own, room) {
                    Ok(placement) => (Some(own.request.clone()), Holding::new(placement, &own.request)),
                    Err(_) => (None, self.beside_others(own, room)),
                }),
            }
        };
        if let Some((asked, holding)) = fits(&[]) {
            return Some((asked, holding, Vec::new()));
        }
        let idle = self.evictable(name, wanted);
        if idle.is_empty() || fits(&idle).is_none() {
            return None;
        }
        let enough = (1..idle.len()).find(|count| fits(&idle[..*count]).is_some());
        let mut victims = idle[..enough.unwrap_or(idle.len())].to_vec();
        // Only those whose leaving helps: of two that would do, the one stays that was used more recently.
        for place in (0..victims.len()).rev() {
            let mut fewer = victims.clone();
            fewer.remove(place);
            if fits(&fewer).is_some() {
                victims = fewer;
            }
        }
        let (asked, holding) = fits(&victims)?;
        Some((asked, holding, victims))
    }

    /// GPUs for a worker that nothing is checked for: those with the most free memory, and nothing is booked.
    fn beside_others(&self, own: &Need, room: &Room) -> Holding {
        let mut places: Vec<usize> =
            (0..room.devices.len()).filter(|place| room.devices[*place].quarantine.is_none()).collect();
        places.sort_by_key(|place| (-room.devices[*place].free_mb, *place));
        places.truncate(own.request.gpus as usize);
        places.sort_unstable();
        Holding { devices: places, ..Holding::default() }
    }

    /// Whether something is to be placed, or was asked for, that this worker serves.
    pub(super) fn is_wanted(&self, worker: &Worker) -> bool {
        let Some(plugin) = self.plugins.get(&worker.plugin) else { return false };
        let serves = |shape: usize| worker.covers(plugin.shapes[shape].wanted());
        let mut unplaced = plugin.unplaced.iter().enumerate().filter(|(_, count)| **count > 0);
        unplaced.any(|(shape, _)| serves(shape))
            || self.queues.asked(&worker.plugin).any(|(shape, _)| serves(shape))
    }

    /// Idle workers that may leave for a worker of this plugin and shape, the least recently used first. None that could
    /// take what is to be placed, or what was asked for.
    fn evictable(&self, name: &PluginName, wanted: Option<&ResourceRequest>) -> Vec<WorkerId> {
        let needed = |worker: &Worker| {
            let serves = worker.plugin == *name && worker.covers(wanted);
            serves || self.is_wanted(worker)
        };
        let mut idle: Vec<(Time, WorkerId)> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.is_idle() && !needed(worker))
            .map(|(id, worker)| (worker.idle_since, id))
            .collect();
        idle.sort_unstable();
        idle.into_iter().map(|(_, id)| id).collect()
    }

    /// All that is given away or promised, without `without`. Whether those leave who give way to a plan is open until
    /// its job comes, and when they are gone where it has come: of them, and of the plan or of who waits for its room, the
    /// larger part counts. What is saved up for a queue counts for all others of its level or below; for None it does not.
    pub(super) fn given(&self, without: &[WorkerId], level: Option<u8>) -> Given {
        let nothing = || self.host.nothing_given();
        let (mut given, mut open) = (nothing(), BTreeMap::<Claimant, (Given, Given)>::new());
        // Who comes has its name after those who leave for it: they are counted by then.
        for (_, worker) in self.workers.iter().filter(|(id, _)| !without.contains(id)) {
            let waits_for = worker.plan.filter(|_| worker.stage == Stage::Waiting);
            let part = match (worker.gives_way_to, waits_for.and_then(|plan| open.get_mut(&plan))) {
                (Some(plan), _) => &mut open.entry(plan).or_insert_with(|| (nothing(), nothing())).0,
                (None, Some((_, comes))) => comes,
                (None, None) => &mut given,
            };
            part.add(&worker.holding, &worker.used);
        }
        for plan in &self.plans {
            let part = open.get_mut(&plan.claimant).map_or(&mut given, |(_, comes)| comes);
            part.add(&plan.holding, &Used::default());
        }
        for (mut goes, comes) in open.into_values() {
            goes.raise(&comes);
            given.add_all(&goes);
        }
        if let Some(holding) = level.and_then(|level| self.saving.holds_from(level)) {
            given.add(holding, &Used::default());
        }
        given
    }

    /// What these workers hold.
    pub(super) fn given_to(&self, counts: impl Fn(WorkerId, &Worker) -> bool) -> Given {
        let mut given = self.host.nothing_given();
        for (_, worker) in self.workers.iter().filter(|(id, worker)| counts(*id, worker)) {
            given.add(&worker.holding, &worker.used);
        }
        given
    }

    /// Takes a plan of a plugin that serves this.
    pub(super) fn take_plan(&mut self, name: &PluginName, wanted: Option<&ResourceRequest>) -> Option<Plan> {
        let place = self.plans.iter().position(|plan| plan.plugin == *name && plan.covers(wanted))?;
        Some(self.plans.remove(place))
    }

    /// Takes a plan whose room is there still: a GPU may have failed meanwhile, or others use more. One that is not is
    /// dropped. And where there is room by now without them, those who would have left stay.
    pub(super) fn take_sound_plan(
        &mut self,
        name: &PluginName,
        wanted: Option<&ResourceRequest>,
    ) -> Option<Plan> {
        while let Some(plan) = self.take_plan(name, wanted) {
            let leaving = self.those_who_give_way(plan.claimant);
            self.keep_those_who_gave_way(plan.claimant);
            if self.has_place(&plan, &[]) {
                return Some(plan);
            }
            if self.has_place(&plan, &leaving) {
                for (_, worker) in self.workers.iter_mut().filter(|(id, _)| leaving.contains(id)) {
                    worker.gives_way_to = Some(plan.claimant);
                }
                return Some(plan);
            }
        }
        None
    }

    /// Drops plans whose room is gone: what was asked for with them looks for another place when it comes.
    pub(super) fn drop_unsound_plans(&mut self) {
        for place in (0..self.plans.len()).rev() {
            let plan = self.plans.remove(place);
            if self.has_place(&plan, &self.those_who_give_way(plan.claimant)) {
                self.plans.insert(place, plan);
            } else {
                self.keep_those_who_gave_way(plan.claimant);
            }
        }
    }

    /// Whether what somebody holds is there, if these were gone and their memory were back.
    pub(super) fn fits_without(&self, holding: &Holding, given: &Given, without: &[WorkerId]) -> bool {
        let returning = |id: &WorkerId| {
            self.workers.get(*id).filter(|worker| matches!(worker.stage, Stage::Returning(_)))
        };
        let back: Vec<usize> =
            without.iter().filter_map(returning).flat_map(|worker| worker.holding.devices.clone()).collect();
        self.host.is_sound(holding, given, &back)
    }

    pub(super) fn those_who_give_way(&self, claimant: Claimant) -> Vec<WorkerId> {
        let leaving = |(_, worker): &(WorkerId, &Worker)| worker.gives_way_to == Some(claimant);
        self.workers.iter().filter(leaving).map(|(id, _)| id).collect()
    }

    /// Whether a worker could start on this plan, which is none of those that are kept, if these left.
    fn has_place(&self, plan: &Plan, without: &[WorkerId]) -> bool {
        let most = self.plugins.get(&plan.plugin).map_or(0, |plugin| plugin.spec.max_workers as usize);
        let mut given = self.given(without, None);
        given.add(&plan.holding, &Used::default());
        let sound = plan.asked.is_none() || self.fits_without(&plan.holding, &given, without);
        sound && self.places_taken(&plan.plugin, without) < most
    }

    /// Of a plugin's places for workers, those that are taken or promised, if these left. As with room, whether those leave
    /// who give way to a plan is open.
    pub(super) fn places_taken(&self, name: &PluginName, without: &[WorkerId]) -> usize {
        let there = self
            .workers
            .of(name)
            .filter(|(id, w)| !matches!(w.stage, Stage::Returning(_)) && !without.contains(id));
        let (mut taken, mut open) = (0, BTreeMap::<Claimant, (usize, usize)>::new());
        for (_, worker) in there {
            match (worker.gives_way_to, worker.plan) {
                (Some(claimant), _) => open.entry(claimant).or_default().0 += 1,
                (None, Some(claimant)) if worker.stage == Stage::Waiting => {
                    open.entry(claimant).or_default().1 += 1;
                }
                (None, _) => taken += 1,
            }
        }
        for plan in self.plans.iter().filter(|plan| plan.plugin == *name) {
            open.entry(plan.claimant).or_default().1 += 1;
        }
        taken + open.into_values().map(|(stay, come)| stay.max(come)).sum::<usize>()
    }

    /// Drops plans that nothing needs any more. Those who would have left stay.
    pub(super) fn trim_plans(&mut self, touched: &[PluginName]) {
        let mut place = self.plans.len();
        while place > 0 {
            place -= 1;
            let name = self.plans[place].plugin.clone();
            if !touched.contains(&name) {
                continue;
            }
            let plan = self.plans.remove(place);
            let enough =
                self.plugins.get(&name).is_none_or(|plugin| plugin.gone || self.seats_left(&name, None) >= 0);
            if enough {
                self.keep_those_who_gave_way(plan.claimant);
            } else {
                self.plans.insert(place, plan);
            }
        }
    }

    pub(super) fn keep_those_who_gave_way(&mut self, claimant: Claimant) {
        for (_, worker) in self.workers.iter_mut() {
            if worker.gives_way_to == Some(claimant) && worker.is_live() {
                worker.gives_way_to = None;
            }
        }
    }
}
