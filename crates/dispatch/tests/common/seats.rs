//! Judgement whether what was asked for can be seated: simple, independent, and never stricter than the truth.

use super::estate::Held;
use super::ledger::{Ledger, Life, Worker};
use grange_dispatch::{Time, WorkerId};
use grange_protocol::fit::{Need, Room};
use grange_protocol::name::{Class, PluginName};
use std::collections::BTreeMap;

/// Jobs without a place, by plugin and class.
pub(crate) type Wants = BTreeMap<PluginName, BTreeMap<Class, usize>>;

/// So many idle workers are thought away, in every combination.
const IDLE_MOST: usize = 6;

impl Ledger {
    /// Jobs in hand without a place, and tickets that were asked for.
    pub(crate) fn wants(&self) -> Wants {
        let mut wants = Wants::new();
        let mut add = |plugin: &PluginName, class: &Class, count: usize| {
            if count > 0 {
                *wants.entry(plugin.clone()).or_default().entry(class.clone()).or_default() += count;
            }
        };
        // What comes for a plugin that is gone goes back.
        let here = |name: &PluginName| self.plugins.get(name).is_some_and(|known| !known.gone);
        for hand in self.jobs.values().filter(|hand| hand.is_unplaced() && here(hand.plugin())) {
            add(hand.plugin(), &hand.queue.lane.class, 1);
        }
        for (queue, shelf) in self.shelves.iter().filter(|(queue, _)| here(&queue.lane.plugin)) {
            add(&queue.lane.plugin, &queue.lane.class, shelf.asked as usize);
        }
        wants
    }

    /// Whether something was promised a seat before the last time that seats may have been lost.
    pub(crate) fn is_shaken(&self) -> bool {
        let jobs = self.jobs.values().filter(|hand| hand.is_unplaced()).map(|hand| hand.step);
        let asked = self.shelves.values().filter(|shelf| shelf.asked > 0).map(|shelf| shelf.step);
        jobs.chain(asked).any(|step| step <= self.shaken)
    }

    /// Whether all these jobs can be seated at one time. `made`: room is being made, those who leave count as gone.
    /// `kept`: this is left free.
    pub(crate) fn can_seat(&self, wants: &Wants, now: Time, made: bool, kept: Option<&KeptRoom>) -> bool {
        let gone = |worker: &Worker| made && !worker.is_live();
        let idle = self.workers.iter().filter(|(_, worker)| worker.is_idle()).map(|(id, _)| *id);
        let idle: Vec<WorkerId> = idle.take(IDLE_MOST).collect();
        (0..1usize << idle.len()).any(|leaving| {
            let leaves = |id: &WorkerId| {
                idle.iter().position(|idle| idle == id).is_some_and(|place| leaving >> place & 1 == 1)
            };
            let stays = |(id, worker): &(&WorkerId, &Worker)| !leaves(id) && !gone(worker);
            let staying: Vec<&Worker> = self.workers.iter().filter(stays).map(|(_, worker)| worker).collect();
            let Some(fresh) = self.fresh_workers(wants, &staying, now, kept) else { return false };
            let mut held: Vec<Held<'_>> = staying.iter().map(|w| (&w.grant, &w.used)).collect();
            let nothing = grange_dispatch::WorkerUse::default();
            held.extend(kept.map(|kept| (&kept.grant, &nothing)));
            let mut room = self.estate.room(&held);
            let back =
                self.workers.values().filter(|worker| gone(worker)).flat_map(|worker| &worker.grant.devices);
            self.estate.bring_back(&back.collect(), &mut room);
            packs(&fresh, &room)
        })
    }

    /// What new workers would need at least, beside these. None: there would be too many.
    fn fresh_workers(
        &self,
        wants: &Wants,
        staying: &[&Worker],
        now: Time,
        kept: Option<&KeptRoom>,
    ) -> Option<Vec<Need>> {
        let mut fresh = Vec::new();
        for (name, classes) in wants {
            let known = &self.plugins[name];
            let jobs: Vec<(Option<Need>, usize)> =
                classes.iter().map(|(class, count)| (self.need(name, class), *count)).collect();
            let own = || staying.iter().filter(|worker| worker.plugin == *name && worker.is_live());
            let usable = |worker: &Worker| kept.is_none_or(|kept| !kept.is_in_way_of(worker));
            let (mut most, mut least) = (0, Need::default());
            for set in 1..1usize << jobs.len() {
                let members =
                    || jobs.iter().enumerate().filter(|(place, _)| set >> place & 1 == 1).map(|(_, j)| j);
                let count: usize = members().map(|(_, count)| count).sum();
                let serves = |worker: &&&Worker| {
                    members().any(|(need, _)| worker.covers(need.as_ref())) && usable(worker)
                };
                let seats: usize = own().filter(serves).map(|worker| self.free_slots(worker)).sum();
                let new = count.saturating_sub(seats).div_ceil(self.slots(name));
                if new > most {
                    (most, least) = (new, least_of(members().map(|(need, _)| need.as_ref())));
                }
            }
            let resting = now < known.rest_until;
            if most > 0 && (resting || own().count() + most > known.spec.max_workers as usize) {
                return None;
            }
            fresh.extend(std::iter::repeat_n(least, most));
        }
        Some(fresh)
    }

    /// Whether nothing is under way: nothing asked for, nobody without a place, nobody leaving. What fits now is certain.
    pub(crate) fn is_quiet(&self) -> bool {
        let leaves = |worker: &Worker| matches!(worker.life, Life::Ending | Life::Returning(_));
        self.wants().is_empty() && !self.workers.values().any(leaves)
    }

    /// Whether a worker for this need, or a seat for it, is to be had for certain.
    pub(crate) fn surely_fits(&self, name: &PluginName, class: &Class, now: Time) -> bool {
        let wants = [(name.clone(), [(class.clone(), 1)].into())].into();
        self.is_quiet() && self.can_seat(&wants, now, false, None)
    }
}

/// The least that any of these needs.
fn least_of<'a>(needs: impl Iterator<Item = Option<&'a Need>>) -> Need {
    let all: Vec<Need> = needs.map(|need| need.cloned().unwrap_or_default()).collect();
    let mut least = all.first().cloned().unwrap_or_default();
    for Need { request, over } in &all[1..] {
        for (least, other) in [(&mut least.request, request), (&mut least.over, over)] {
            least.gpus = least.gpus.min(other.gpus);
            least.vram_mb = least.vram_mb.min(other.vram_mb);
            least.exclusive &= other.exclusive;
            least.ram_mb = least.ram_mb.min(other.ram_mb);
            least.cpus = least.cpus.min(other.cpus);
        }
    }
    least
}

/// Room that is kept for somebody, and who stands in it.
pub(crate) struct KeptRoom {
    pub(crate) grant: grange_dispatch::Grant,
}

impl KeptRoom {
    fn is_in_way_of(&self, _worker: &Worker) -> bool {
        false
    }
}

/// Whether workers with these needs have room at one time, on whichever GPUs.
pub(crate) fn packs(needs: &[Need], room: &Room) -> bool {
    let Some((need, rest)) = needs.split_first() else { return true };
    let (mut room, request) = (room.clone(), &need.request);
    let amount = |upto: u64, over: u64, usable: u64| {
        let amount = if upto > usable && usable > over { usable } else { upto };
        i64::try_from(amount).unwrap()
    };
    let ram = amount(request.ram_mb, need.over.ram_mb, room.ram_usable_mb);
    let cpus = i64::from(request.cpus);
    if (ram > 0 && ram > room.ram_mb) || (cpus > 0 && cpus > room.cpus) {
        return false;
    }
    (room.ram_mb, room.cpus) = (room.ram_mb - ram, room.cpus - cpus);
    let count = request.gpus as usize;
    let sets = (0..1usize << room.devices.len()).filter(|set| set.count_ones() as usize == count);
    sets.into_iter().any(|set| {
        let mut room = room.clone();
        for (_, device) in room.devices.iter_mut().enumerate().filter(|(place, _)| set >> place & 1 == 1) {
            let alone = request.exclusive || request.vram_mb == 0;
            let mb = match request.vram_mb {
                0 => i64::try_from(device.usable_mb).unwrap().max(1),
                upto => amount(upto, need.over.vram_mb, device.usable_mb),
            };
            let open = device.quarantine.is_none() && !device.exclusive && !(alone && device.shares > 0);
            if !open || mb > device.free_mb {
                return false;
            }
            (device.free_mb, device.shares, device.exclusive) =
                (device.free_mb - mb, device.shares + 1, alone);
        }
        packs(rest, &room)
    })
}

/// Whether every worker for the first need does for the second.
pub(crate) fn serves_too(more: Option<&Need>, less: Option<&Need>) -> bool {
    let Some(Need { request: less, .. }) = less else { return true };
    let Some(Need { request: more, .. }) = more else { return false };
    let vram = more.vram_mb == less.vram_mb || (less.vram_mb > 0 && less.vram_mb <= more.vram_mb);
    let amounts = less.ram_mb <= more.ram_mb && less.cpus <= more.cpus && less.exclusive <= more.exclusive;
    more.gpus == less.gpus && vram && amounts
}
