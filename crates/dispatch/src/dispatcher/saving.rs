//! Saving up: one host at a time keeps room free for a queue that needs more than is free at any moment, so that small
//! jobs do not keep a big one waiting for ever. What is kept is booked although it is not free yet; as workers leave, it
//! becomes so.

use super::{Dispatcher, Mode, Touched};
use crate::host::Holding;
use crate::vocabulary::{Action, Time};
use crate::workers::Worker;
use grange_protocol::fit::{Need, place, place_when_empty};
use grange_protocol::subject::Queue;
use std::collections::BTreeMap;

/// A queue that was refused to this host is not asked for again for so long, milliseconds.
const REFUSED_REST_MS: Time = 5_000;

/// What is kept, and what was tried.
#[derive(Debug, Default)]
pub(crate) struct Saving {
    /// Asked for; the answer is on its way.
    asked: Option<Queue>,
    kept: Option<Kept>,
    resting: BTreeMap<Queue, Time>,
}

#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) queue: Queue,
    pub(crate) until: Time,
    pub(crate) holding: Holding,
    /// Queues above this level do not wait for it.
    level: u8,
}

impl Saving {
    /// What a pull of this level must leave alone.
    pub(crate) fn holds_from(&self, level: u8) -> Option<&Holding> {
        self.kept.as_ref().filter(|kept| level >= kept.level).map(|kept| &kept.holding)
    }

    pub(crate) fn is_for(&self, queue: &Queue) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.queue == *queue)
    }

    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }
}

impl Dispatcher {
    /// Asks to save up for the queue that waits longest of those that would fit here, but do not now.
    pub(super) fn wish_to_save(&mut self, waiting: &BTreeMap<Queue, u64>, now: Time, out: &mut Vec<Action>) {
        self.saving.resting.retain(|_, until| *until > now);
        // The overview that was the reason may have been older than its last job.
        if self.saving.kept.as_ref().is_some_and(|kept| !waiting.contains_key(&kept.queue)) {
            self.end_saving(out);
        }
        if self.saving.asked.is_some() || self.saving.kept.is_some() || self.mode != Mode::Working {
            return;
        }
        let old = waiting.iter().filter(|(queue, age)| {
            **age >= self.config.save_after_ms && !self.saving.resting.contains_key(*queue)
        });
        let mut old: Vec<(&Queue, u64)> = old.map(|(queue, age)| (queue, *age)).collect();
        old.sort_by_key(|(_, age)| std::cmp::Reverse(*age));
        let wish =
            old.into_iter().map(|(queue, _)| queue).find(|queue| self.should_save(queue, now)).cloned();
        if let Some(queue) = wish {
            self.saving.asked = Some(queue.clone());
            out.push(Action::Save { queue });
        }
    }

    /// Whether a queue's jobs would fit here if others left, and do not as it is.
    fn should_save(&mut self, queue: &Queue, now: Time) -> bool {
        let name = &queue.lane.plugin;
        let Some(plugin) = self.plugins.get_mut(name).filter(|p| !p.gone && now >= p.rest_until) else {
            return false;
        };
        let shape = plugin.shape_of(&queue.lane.class);
        if !plugin.shapes[shape].is_heavy() || !self.queues.is_known(queue) {
            return false;
        }
        let Some(need) = plugin.shapes[shape].need.clone() else { return false };
        if self.free_seats(name, shape) > 0 || self.most_easily_freed(&need).is_none() {
            return false;
        }
        let fits = self.plan(name, shape, None, now);
        self.trim_plans(std::slice::from_ref(name));
        !fits
    }

    /// The part of the host that fits the need and is held by the fewest workers that are at work.
    fn most_easily_freed(&self, need: &Need) -> Option<Holding> {
        let empty = self.host.room(&self.host.nothing_given());
        place_when_empty(need, &empty).ok()?;
        let at_work = |worker: &&Worker| !worker.is_idle();
        let busy = |place: usize| {
            let on = |worker: &&Worker| worker.holding.devices.contains(&place);
            self.workers.iter().map(|(_, worker)| worker).filter(at_work).filter(on).count()
        };
        let busy: Vec<usize> = (0..self.host.devices()).map(busy).collect();
        let most = busy.iter().copied().max().unwrap_or(0);
        (0..=most).find_map(|level| {
            let mut room = empty.clone();
            for (device, busy) in room.devices.iter_mut().zip(&busy) {
                if *busy > level {
                    (device.free_mb, device.exclusive) = (0, true);
                }
            }
            place(need, &room).ok().map(|placement| Holding::new(placement, &need.request))
        })
    }

    pub(super) fn save_granted(&mut self, queue: &Queue, now: Time, out: &mut Vec<Action>) -> Touched {
        if self.saving.asked.as_ref() != Some(queue) {
            out.push(Action::EndSave { queue: queue.clone() });
            return Touched::Nobody;
        }
        self.saving.asked = None;
        let name = &queue.lane.plugin;
        let need = self.plugins.get_mut(name).filter(|plugin| !plugin.gone).and_then(|plugin| {
            let shape = plugin.shape_of(&queue.lane.class);
            plugin.shapes[shape].need.clone()
        });
        let holding =
            need.filter(|_| self.mode == Mode::Working).and_then(|need| self.most_easily_freed(&need));
        let Some(holding) = holding else {
            out.push(Action::EndSave { queue: queue.clone() });
            return Touched::Nobody;
        };
        let age = self.queues.age_ms(queue, now).unwrap_or(0);
        let rises = age / self.config.age_after_ms.max(1);
        let level = (queue.lane.priority as u8).saturating_sub(u8::try_from(rises).unwrap_or(u8::MAX));
        let until = now + self.config.save_for_ms;
        self.saving.kept = Some(Kept { queue: queue.clone(), until, holding, level });
        self.wake_at(until);
        Touched::Everybody
    }

    pub(super) fn save_refused(&mut self, queue: &Queue, now: Time) -> Touched {
        if self.saving.asked.as_ref() == Some(queue) {
            self.saving.asked = None;
        }
        self.saving.resting.insert(queue.clone(), now + REFUSED_REST_MS);
        Touched::Nobody
    }

    /// A job came from a queue, or none is there: nothing needs to be kept for it any more.
    pub(super) fn saved_for(&mut self, queue: &Queue, out: &mut Vec<Action>) {
        if self.saving.is_for(queue) {
            self.end_saving(out);
        }
    }

    pub(super) fn end_saving(&mut self, out: &mut Vec<Action>) {
        if let Some(kept) = self.saving.kept.take() {
            self.full.clear();
            out.push(Action::EndSave { queue: kept.queue });
        }
    }

    pub(super) fn end_saving_in_time(&mut self, now: Time, out: &mut Vec<Action>) {
        let over = self.saving.kept.as_ref().filter(|kept| kept.until <= now).map(|kept| kept.queue.clone());
        if let Some(queue) = over {
            self.end_saving(out);
            // Another host may do better.
            self.saving.resting.insert(queue, now + self.config.save_for_ms);
        }
    }
}
