//! The laws of pulls: what is asked for can start, in the right order, and for a reason.

use super::checks::Step;
use super::ledger::Ledger;
use super::seats::{KeptRoom, Wants, serves_too};
use super::shelf::Shelf;
use super::{Checked, Law, law};
use grange_dispatch::{Grant, Input, Time};
use grange_protocol::name::PluginName;
use grange_protocol::subject::Queue;

/// After it left its queues to others, for a quarter of a second at most, an agent looks at them for half a second.
const LEFT_MS: Time = 750;
/// A queue that is due so soon keeps its turn.
const HELD_MS: Time = 10;
/// Ticks come as often as this at least.
pub(crate) const TICK_MS: Time = 100;

/// Whether a slot may become free by this, so that queues are looked at sooner.
pub(crate) fn frees(input: &Input) -> bool {
    matches!(
        input,
        Input::RunEnded { .. }
            | Input::NotClaimed { .. }
            | Input::Claimed { .. }
            | Input::Lost { .. }
            | Input::WorkerExited { .. }
            | Input::WorkerFailed { .. }
    )
}

impl Ledger {
    /// How long a queue that was found empty is left alone while nothing happens.
    pub(crate) fn idle_sweep_ms(&self, now: Time) -> Time {
        let told = self.facts.as_ref().is_some_and(|(at, _)| now - at < self.config.facts_stale_ms);
        if told { self.config.calm_sweep_ms } else { self.config.idle_sweep_ms }
    }

    /// Whether runs of a plugin are known to be over before a word of them would arrive.
    pub(crate) fn is_brief(&self, name: &PluginName) -> bool {
        self.plugins.get(name).and_then(|known| known.run_ms).is_some_and(|run_ms| run_ms < 50.0)
    }

    pub(crate) fn pull(&mut self, step: &Step<'_>, queue: &Queue, batch: usize, wait: bool) -> Checked {
        self.starts("pull")?;
        let (name, now) = (&queue.lane.plugin, step.now);
        let open = self.plugins.get(name).is_some_and(|known| !known.gone) && self.is_open(queue);
        law(Law::PullOrder, open, || format!("{queue} is pulled, and is not open here"))?;
        let beside = self.is_looking(name) || self.shelves[queue].asked > 0;
        law(Law::PullOrder, !beside, || format!("{queue} is pulled beside another pull"))?;
        let room = self.owner_room(&queue.owner);
        law(Law::OwnerCap, batch <= room, || format!("{batch} are asked of {queue}, {room} may be"))?;
        self.can_start(step, queue, batch)?;
        self.no_higher_waits(step, queue)?;
        self.has_reason(step, queue, batch, wait)?;
        let shelf = self.shelves.get_mut(queue).unwrap();
        let standing = wait && !shelf.is_ripe(now);
        shelf.asks(u32::try_from(batch).unwrap(), wait, standing, now);
        shelf.step = self.step;
        Ok(())
    }

    /// What is looked into could be asked as well, after what is asked in the same breath.
    pub(crate) fn peek(&mut self, step: &Step<'_>, queues: &[Queue]) -> Checked {
        let out = self.shelves.values().any(|shelf| shelf.asked > 0 && shelf.step == self.step);
        law(Law::PullOrder, out, || format!("{queues:?} are looked into, and nothing is asked"))?;
        for queue in queues {
            let here = self.plugins.get(&queue.lane.plugin).is_some_and(|known| !known.gone);
            law(Law::PullOrder, here && self.is_open(queue), || format!("{queue} is looked into, not open"))?;
            let shelf = self.shelves.get_mut(queue).unwrap();
            law(Law::PullOrder, shelf.asked == 0, || format!("{queue} is looked into beside its pull"))?;
            shelf.peeked = Some(step.now);
        }
        Ok(())
    }

    fn can_start(&self, step: &Step<'_>, queue: &Queue, batch: usize) -> Checked {
        let (name, now) = (&queue.lane.plugin, step.now);
        law(Law::Capacity, batch > 0, || format!("nothing is asked of {queue}"))?;
        if self.is_light(name) {
            let free = self.free_light(name, now);
            return law(Law::Capacity, batch <= free, || {
                format!("{batch} are asked of {queue}, {free} can start")
            });
        }
        let alone: Wants = [(name.clone(), [(queue.lane.class.clone(), batch)].into())].into();
        let mut all = self.wants();
        *all.entry(name.clone()).or_default().entry(queue.lane.class.clone()).or_default() += batch;
        let made = step.waiting().next().is_some();
        let seated = self.can_seat(&all, now, made, None)
            || (self.is_shaken() && self.can_seat(&alone, now, made, None));
        law(Law::Capacity, seated, || {
            format!("{batch} are asked of {queue}, and cannot start beside {all:?}")
        })?;
        // What else this plugin was promised may have seats to spare.
        let kept = self.kept_from(step, queue).filter(|_| !self.wants().contains_key(name));
        let left = kept.is_none() || self.can_seat(&alone, now, made, kept.as_ref());
        law(Law::Saving, left, || format!("{batch} are asked of {queue}, and take what is kept"))
    }

    /// Room that this queue must leave alone.
    fn kept_from(&self, step: &Step<'_>, queue: &Queue) -> Option<KeptRoom> {
        let kept = self.saving.kept.as_ref().filter(|kept| kept.queue != *queue)?;
        let level = self.shelves[queue].level(queue, step.now, &self.config);
        if level < kept.level {
            return None;
        }
        let devices = step.dispatcher.saving()?.gpus;
        let need = self.need(&kept.queue.lane.plugin, &kept.queue.lane.class)?;
        let usable = devices.iter().map(|uuid| self.estate.usable_mb(uuid)).min().unwrap_or(0);
        let alone = need.request.exclusive || need.request.vram_mb == 0;
        let vram_mb = if need.request.vram_mb == 0 { usable } else { need.request.vram_mb.min(usable) };
        let (ram_mb, cpus) = (need.request.ram_mb, need.request.cpus);
        Some(KeptRoom { grant: Grant { devices, vram_mb, exclusive: alone, ram_mb, cpus } })
    }

    /// How many more jobs of a plugin that needs nothing of the host can start.
    pub(crate) fn free_light(&self, name: &PluginName, now: Time) -> usize {
        let known = &self.plugins[name];
        let free: usize = self.workers_of(name).map(|(_, worker)| self.free_slots(worker)).sum();
        let processes = self.workers_of(name).filter(|(_, worker)| worker.is_process()).count();
        let more = (known.spec.max_workers as usize).saturating_sub(processes);
        let unborn = if now < known.rest_until { 0 } else { more * self.slots(name) };
        let unplaced = self.jobs.values().filter(|hand| hand.plugin() == name && hand.is_unplaced()).count();
        (free + unborn).saturating_sub(unplaced + self.asked(name))
    }

    /// Whether a queue may hold something, for all that is known: nobody would leave it out.
    pub(crate) fn is_hopeful(&self, queue: &Queue, shelf: &Shelf, now: Time) -> bool {
        // What time alone makes hopeful is looked at with the next tick.
        let free = self.patience_ms(&queue.lane.plugin) == 0 && shelf.look_from <= now;
        let sweep = shelf.bells.is_empty()
            && !shelf.is_fresh(now, self.idle_sweep_ms(now) + TICK_MS)
            && (free || shelf.age.is_some());
        let open = self.is_open(queue) && shelf.asked == 0 && self.owner_room(&queue.owner) > 0;
        open && (shelf.is_ripe(now) || sweep)
    }

    /// Whether a higher queue may want the room in a moment, that is left to warm agents until then.
    pub(crate) fn is_kept_waiting(&self, queue: &Queue, now: Time) -> bool {
        let (name, level) =
            (&queue.lane.plugin, |queue: &Queue| self.shelves[queue].level(queue, now, &self.config));
        self.shelves.iter().any(|(higher, shelf)| {
            let other = &higher.lane.plugin;
            let rivals = other == name || !(self.is_light(other) || self.is_light(name));
            let soon = if shelf.bells.is_empty() {
                self.patience_ms(other) > 0 || (now < shelf.look_from && shelf.look_from <= now + HELD_MS)
            } else {
                now < shelf.due && shelf.due <= now + HELD_MS
            };
            rivals && soon && shelf.asked == 0 && self.is_open(higher) && level(higher) < level(queue)
        })
    }

    /// No queue of a higher level is left out that may hold something, and could have what this one gets.
    fn no_higher_waits(&self, step: &Step<'_>, queue: &Queue) -> Checked {
        let now = step.now;
        let level = |queue: &Queue| self.shelves[queue].level(queue, now, &self.config);
        let need = self.need(&queue.lane.plugin, &queue.lane.class);
        for (higher, shelf) in self.shelves.iter().filter(|(other, _)| level(other) < level(queue)) {
            let name = &higher.lane.plugin;
            let here = self.plugins.get(name).is_some_and(|known| !known.gone);
            if !here || !self.is_hopeful(higher, shelf, now) || self.is_looking(name) {
                continue;
            }
            let wider = *name == queue.lane.plugin && {
                let (more, less) = (need.as_ref(), self.need(name, &higher.lane.class));
                serves_too(more, less.as_ref())
            };
            let kept = self.saving.kept.as_ref().is_some_and(|kept| kept.queue != *higher);
            let wider =
                wider && !(kept && self.saving.kept.as_ref().is_some_and(|kept| kept.queue == *queue));
            let rivals = !self.is_light(name) && !self.is_light(&queue.lane.plugin);
            let rests = now < self.plugins[name].rest_until + TICK_MS;
            let fits = rivals && !kept && !rests && self.surely_fits(name, &higher.lane.class, now);
            law(Law::PullOrder, !wider && !fits, || format!("{queue} is pulled, {higher} may hold some"))?;
        }
        Ok(())
    }

    fn has_reason(&self, step: &Step<'_>, queue: &Queue, batch: usize, wait: bool) -> Checked {
        let (shelf, name, now) = (&self.shelves[queue], &queue.lane.plugin, step.now);
        let (ripe, again) = (shelf.is_ripe(now), shelf.is_looked_at_again(now));
        let patience = self.patience_ms(name);
        if wait && !ripe {
            let after = self.ahead(name) > 0 && shelf.lively && batch == 1;
            return law(Law::Bells, after, || {
                format!("{queue} is pulled without a bell, and nothing came before")
            });
        }
        let rest = if frees(step.input) { self.config.empty_lane_ms } else { self.idle_sweep_ms(now) };
        let alone = !ripe && !again && shelf.is_fresh(now, rest);
        law(Law::PullOrder, !alone, || format!("{queue} was found empty at {:?}", shelf.empty_since))?;
        let overheard = now < shelf.look_from && shelf.age.is_none();
        let early = !ripe && ((!again && !shelf.bells.is_empty()) || overheard);
        law(Law::Cold, !early, || format!("{queue} is pulled at {now}, its bells are due at {}", shelf.due))?;
        let warm =
            self.workers_of(name).any(|(id, w)| w.life == super::ledger::Life::Ready && !step.gives_way(id));
        // A slot that is free is left to others for a moment, unless it was just before.
        let freed = matches!(
            step.input,
            Input::RunEnded { .. } | Input::NotClaimed { .. } | Input::WorkerExited { .. }
        );
        let first = freed && self.last_freed.is_none_or(|at| now >= at + LEFT_MS);
        let steals = first && !ripe && !again && patience > 0 && shelf.age.is_none() && !warm;
        law(Law::Cold, !steals, || format!("{queue} is pulled at once, and others are warm"))?;
        law(Law::Cold, !wait || patience == 0 || warm, || {
            format!("{queue} is waited for, and others are warm")
        })?;
        // Where the only loaded worker may leave for this job, others are warmer.
        let leaves = |id| step.gives_way(id) || self.giving_way.contains(&id);
        let leaves = self.plugins[name].warm_elsewhere && self.workers_of(name).any(|(id, _)| leaves(id));
        let waits = wait == (ripe && patience == 0) || (!wait && leaves) || (wait && ripe && warm);
        let answers = waits && (!ripe || batch <= shelf.bells.len());
        law(Law::Bells, answers, || {
            format!("{batch} asked of {queue} (wait: {wait}), bells: {:?}", shelf.bells)
        })
    }
}
