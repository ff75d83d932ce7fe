//! What has to be true after every step.

use super::checks::Step;
use super::ledger::{At, Ledger, Life, Mode};
use super::pulls::frees;
use super::{Checked, Law, law};
use grange_dispatch::{Ear, Grant, Input, WorkerView};
use grange_protocol::fit::Device;
use grange_protocol::name::{Class, PluginName};
use grange_protocol::status::WorkerState;

impl Ledger {
    pub(crate) fn settle(&mut self, step: &Step<'_>) -> Checked {
        self.evictions(step)?;
        self.jobs_after(step)?;
        self.workers_after(step)?;
        self.drain_after()?;
        self.saving_after(step)?;
        self.wakes_after(step)?;
        for name in self.plugins.keys().cloned().collect::<Vec<_>>() {
            self.no_slot_idles(step, &name)?;
            self.bells_after(step, &name)?;
            self.hearing_after(step, &name)?;
            self.shown(step, &name)?;
        }
        self.last_freed = if frees(step.input) { Some(step.now) } else { self.last_freed };
        self.giving_way = self.workers.keys().copied().filter(|id| step.gives_way(*id)).collect();
        self.last_wanted.extend(self.wants().into_keys().map(|name| (name, self.step)));
        self.host_shown(step)
    }

    fn jobs_after(&mut self, step: &Step<'_>) -> Checked {
        for (job, hand) in &self.jobs {
            let due = self.is_due(hand);
            law(Law::SettledOnce, due.is_none(), || format!("{job} should end as {due:?}: {hand:?}"))?;
            law(Law::SettledOnce, hand.at != At::Delivered, || format!("{job} is not answered"))?;
            law(Law::Stops, !hand.ask, || format!("{job} was not asked to stop"))?;
            let stays = matches!(step.input, Input::Tick) && self.is_homeless(hand);
            let resting = step.now < self.plugins[hand.plugin()].rest_until;
            law(Law::Placement, !stays || resting, || format!("{job} waits, and no worker is for it"))?;
        }
        let counted = step.dispatcher.jobs_in_hand() == self.jobs.len();
        law(Law::SettledOnce, counted, || format!("{} in hand", step.dispatcher.jobs_in_hand()))?;
        let full = self.passes.as_ref().is_some_and(|(.., room)| *room == Some(false));
        law(Law::Hearing, !full, || format!("{:?} is not passed on", self.passes))?;
        law(Law::Bells, self.opens.is_empty(), || format!("{:?} are not opened", self.opens))
    }

    fn workers_after(&mut self, step: &Step<'_>) -> Checked {
        for (id, worker) in &self.workers {
            let late = matches!(step.input, Input::Tick) && self.is_overdue(step.now, worker);
            law(Law::Stops, !late || !worker.is_live(), || format!("{id:?} was not killed"))?;
            let idle = worker.given.is_empty() && worker.is_live();
            law(Law::Drains, self.mode == Mode::Working || !idle, || format!("{id:?} is kept in a drain"))?;
            let known = &self.plugins[&worker.plugin];
            let over = known.spec.keep_warm_ms.is_some_and(|kept| step.now - worker.idle_since >= kept);
            let unneeded =
                worker.is_idle() && (over || known.gone) && !self.wants().contains_key(&worker.plugin);
            let stays = unneeded && !step.gives_way(*id) && matches!(step.input, Input::Tick);
            law(Law::Eviction, !stays, || format!("{id:?} is kept for nothing: {worker:?}"))?;
        }
        let faults = self.kills.iter().map(|id| (id, self.workers[id].fault)).collect::<Vec<_>>();
        let (gpu, over): (Vec<_>, Vec<_>) =
            faults.into_iter().partition(|(_, fault)| *fault == Some(super::ledger::Orphan::GpuFailed));
        law(Law::Faults, gpu.is_empty(), || format!("{gpu:?} are not killed"))?;
        let said = over.is_empty() && self.warns.is_empty();
        law(Law::Overruns, said, || format!("{over:?} are not killed, {:?} not said", self.warns))?;
        let looks = self.looks && self.mode != Mode::Exited;
        law(Law::Returning, !looks, || "nobody looks whether the memory is back".to_owned())
    }

    fn drain_after(&self) -> Checked {
        let left = self.workers.values().filter(|worker| worker.is_process()).count() + self.jobs.len();
        let asked = self.shelves.values().any(|shelf| shelf.asked > 0);
        let ends = self.mode == Mode::Draining && left == 0 && !asked;
        law(Law::Drains, !ends, || "nothing is left, and no exit".to_owned())
    }

    fn saving_after(&mut self, step: &Step<'_>) -> Checked {
        law(Law::Saving, self.saving.ends.is_none(), || format!("{:?} is not given up", self.saving.ends))?;
        let shown = step.dispatcher.saving().map(|view| (view.queue, view.until));
        let kept = self.saving.kept.as_ref().map(|kept| (kept.queue.clone(), kept.until));
        law(Law::Saving, shown == kept, || format!("shows {shown:?}, keeps {kept:?}"))
    }

    /// A tick is asked for at the time when something is due.
    fn wakes_after(&self, step: &Step<'_>) -> Checked {
        let wake = step.dispatcher.next_wake();
        let past = matches!(step.input, Input::Tick) && wake.is_some_and(|wake| wake <= step.now);
        law(Law::Wakes, !past, || format!("a tick is wanted at {wake:?}, after one at {}", step.now))?;
        if self.mode != Mode::Working {
            return Ok(());
        }
        let due = |at: grange_dispatch::Time| at <= step.now || wake.is_some_and(|wake| wake <= at);
        for (queue, shelf) in
            self.shelves.iter().filter(|(queue, shelf)| self.is_open(queue) && shelf.asked == 0)
        {
            let here = !self.plugins[&queue.lane.plugin].gone;
            let rung = shelf.bells.is_empty() || due(shelf.due);
            law(Law::Wakes, !here || rung, || format!("{queue} is due at {}, wake at {wake:?}", shelf.due))?;
            let bound = shelf.bells.is_empty() && self.patience_ms(&queue.lane.plugin) == 0;
            let again = !bound || shelf.again_at.is_none_or(due);
            law(Law::Wakes, !here || again, || {
                format!("{queue} is due at {:?}, wake at {wake:?}", shelf.again_at)
            })?;
        }
        let until = self.saving.kept.as_ref().is_none_or(|kept| due(kept.until));
        law(Law::Wakes, until, || format!("{:?} is kept, wake at {wake:?}", self.saving.kept))
    }

    /// Nothing waits beside a free slot, or beside room for a worker.
    fn no_slot_idles(&self, step: &Step<'_>, name: &PluginName) -> Checked {
        let waiting: Vec<_> =
            self.jobs.iter().filter(|(_, hand)| hand.at == At::Waiting && hand.plugin() == name).collect();
        let alone = self.wants().get(name).is_none_or(|classes| classes.len() == 1);
        let beside = waiting.iter().find(|(_, hand)| alone && self.takers(step, hand).next().is_some());
        law(Law::Placement, beside.is_none(), || format!("{beside:?} waits beside a free slot"))?;
        let known = &self.plugins[name];
        let coming = self.workers_of(name).filter(|(_, worker)| worker.life == Life::Starting);
        let coming: usize = coming.map(|(_, worker)| worker.concurrency).sum();
        let processes = self.workers_of(name).filter(|(_, worker)| worker.is_process()).count();
        let room = processes < known.spec.max_workers as usize && !known.gone && self.is_light(name);
        let looked_at = matches!(step.input, Input::Tick) && step.now >= known.rest_until;
        let lacking = looked_at && room && waiting.len() > coming;
        law(Law::Placement, !lacking, || format!("{waiting:?} wait for {name}, and none is started"))
    }

    /// Where there is room, no bell and no unseen queue is left without a pull.
    fn bells_after(&self, step: &Step<'_>, name: &PluginName) -> Checked {
        let rung = matches!(step.input, Input::Bell { queue, .. }
            if queue.lane.plugin == *name && self.shelves.contains_key(queue));
        let looked_at = rung || matches!(step.input, Input::Tick | Input::Reconnected | Input::Host(_));
        let open = self.mode == Mode::Working && !self.plugins[name].gone;
        if !looked_at || !open || self.is_looking(name) {
            return Ok(());
        }
        let stale = matches!(step.input, Input::Host(reading) if reading.taken_at < self.estate.taken_at);
        let hopeful = self.shelves_of(name).find(|(queue, shelf)| {
            let room = if self.is_light(name) {
                self.free_light(name, step.now) > 0
            } else {
                let kept = self.saving.kept.as_ref().is_some_and(|kept| kept.queue != **queue);
                !kept
                    && step.waiting().next().is_none()
                    && self.surely_fits(name, &queue.lane.class, step.now)
            };
            self.is_hopeful(queue, shelf, step.now) && room && !self.is_kept_waiting(queue, step.now)
        });
        law(Law::Bells, stale || hopeful.is_none(), || format!("{hopeful:?} is not pulled"))
    }

    /// Bells are heard in turn with those who can do as much.
    fn hearing_after(&self, step: &Step<'_>, name: &PluginName) -> Checked {
        let ear = self.ears.get(name).copied();
        let open = self.mode == Mode::Working && !self.plugins[name].gone;
        law(Law::Hearing, ear.is_some() == open, || format!("{name} is heard: {ear:?}, open: {open}"))?;
        // While the answer to a pull is open, all may be heard as before.
        let asking = self.plugins.keys().any(|name| self.is_looking(name));
        let looked_at = matches!(step.input, Input::Tick | Input::Reconnected);
        if !open || asking || !looked_at {
            return Ok(());
        }
        let free = |worker: &super::ledger::Worker| worker.given.len() < worker.concurrency;
        let warm = self
            .workers_of(name)
            .any(|(_, worker)| worker.life == Life::Ready && (self.is_brief(name) || free(worker)));
        law(Law::Hearing, (ear == Some(Ear::Warm)) == warm, || {
            format!("{name} is heard: {ear:?}, warm: {warm}")
        })?;
        let room = if self.is_light(name) {
            self.free_light(name, step.now) > 0
        } else {
            let default = Class::plugin_default();
            let certain = self.is_quiet() && self.saving.kept.is_none();
            if !certain {
                return Ok(());
            }
            self.surely_fits(name, &default, step.now)
        };
        let right = warm || (ear == Some(Ear::Cold)) == room;
        law(Law::Hearing, right, || format!("{name} is heard: {ear:?}, room: {room}"))
    }

    /// The heartbeat's numbers of a plugin are the ledger's.
    fn shown(&self, step: &Step<'_>, name: &PluginName) -> Checked {
        let live = || self.workers_of(name).map(|(_, worker)| worker).filter(|worker| worker.is_live());
        let waiting = step.waiting().filter(|worker| worker.plugin == *name).count();
        let given: usize = live().map(|worker| worker.given.len()).sum();
        let spec = &self.plugins[name].spec;
        let view = step.dispatcher.view(name);
        let shown = (view.workers as usize, view.running as usize, view.slots);
        let has = (live().count() + waiting, given, spec.concurrency * spec.max_workers);
        law(Law::Accounts, shown == has, || format!("{name} shows {shown:?}, has {has:?}"))
    }

    /// And so are those of workers and of the host.
    fn host_shown(&self, step: &Step<'_>) -> Checked {
        let told = |worker: &&WorkerView| worker.state != WorkerState::Waiting;
        let shown: Vec<_> = step.shown.iter().filter(told).collect();
        let has = self.workers.iter().map(|(id, worker)| {
            let state = match worker.life {
                Life::Starting => WorkerState::Starting,
                Life::Ready if worker.given.is_empty() => WorkerState::Idle,
                Life::Ready => WorkerState::Busy,
                Life::Ending => WorkerState::Ending,
                Life::Returning(_) => WorkerState::Returning,
            };
            (*id, &worker.plugin, state, &worker.grant, worker.given.len().min(worker.concurrency))
        });
        let same = has.clone().eq(shown.iter().map(|worker| {
            (worker.worker, &worker.plugin, worker.state, &worker.grant, worker.running as usize)
        }));
        law(Law::Accounts, same, || format!("shows {shown:?}, has {:?}", has.collect::<Vec<_>>()))?;
        let nothing = grange_dispatch::WorkerUse::default();
        let mut held = self.all_held();
        held.extend(step.waiting().map(|worker| (&worker.grant, &nothing)));
        let room = self.estate.room(&held);
        let view = step.dispatcher.host();
        let amount = |mb: i64| u64::try_from(mb).unwrap_or(0);
        for device in &view.devices {
            let uuid = &device.uuid;
            let known = room.devices.iter().find(|known| known.uuid == *uuid).unwrap();
            let on = |grant: &&Grant| grant.devices.contains(uuid);
            let granted: u64 =
                held.iter().map(|(grant, _)| *grant).filter(on).map(|grant| grant.vram_mb).sum();
            let free = if known.exclusive { 0 } else { amount(known.free_mb) };
            let has =
                (granted, free, known.usable_mb, known.shares, known.exclusive, known.quarantine.is_some());
            let shown = (device.granted_mb, device.grantable_mb, device.usable_mb, device.shares);
            let shown = (shown.0, shown.1, shown.2, shown.3, device.exclusive, device.quarantine.is_some());
            law(Law::Accounts, shown == has, || format!("{uuid} shows {shown:?}, has {has:?}"))?;
            let others = self.estate.gpus[uuid].others_mb - self.estate.gpus[uuid].baseline_mb;
            law(Law::Accounts, device.foreign_mb == others, || format!("{device:?}, others use {others}"))?;
        }
        let listed = |device: &&Device| device.shares > 0 || !self.estate.gpus[&device.uuid].forgotten;
        let has = (
            room.devices.iter().filter(listed).count(),
            amount(room.ram_mb),
            room.ram_usable_mb,
            amount(room.cpus),
        );
        let shown =
            (view.devices.len(), view.ram_grantable_mb, view.ram_usable_mb, u64::from(view.cpus_grantable));
        law(Law::Accounts, shown == has, || format!("shows {shown:?}, has {has:?}"))
    }
}
