//! The laws of workers: who is started with what, who leaves, who is killed.

use super::checks::Step;
use super::estate::covers;
use super::ledger::{At, Hand, Ledger, Life, Mode, Worker};
use super::{Checked, Law, broken, law};
use grange_dispatch::{Grant, Input, WorkerId, WorkerUse};
use grange_protocol::fit::{Device, place};
use grange_protocol::name::PluginName;

/// Whether a GPU has all that was given of it, and to no more than may have it.
fn is_sound(device: &Device) -> bool {
    let alone = !device.exclusive || device.shares == 1;
    device.free_mb >= 0 && device.quarantine.is_none() && alone
}

impl Ledger {
    pub(crate) fn spawn(
        &mut self,
        step: &Step<'_>,
        id: WorkerId,
        name: &PluginName,
        grant: &Grant,
    ) -> Checked {
        self.starts("spawn")?;
        law(Law::KnownWorkers, self.spawned.insert(id), || format!("{id:?} is not a new name"))?;
        let known = &self.plugins[name];
        law(Law::Rests, step.now >= known.rest_until, || format!("{name} is started in its rest"))?;
        let all = self.workers_of(name).filter(|(_, worker)| worker.is_process()).count();
        let fits = all < known.spec.max_workers as usize && !known.gone;
        law(Law::Capacity, fits, || format!("{name} has {all} workers, and gets one more"))?;
        let coming = || self.workers_of(name).filter(|(_, worker)| worker.life == Life::Starting);
        let waiting = || self.jobs.values().filter(|hand| hand.at == At::Waiting && hand.plugin() == name);
        let needed = waiting().any(|hand| {
            let need = self.need(name, &hand.queue.lane.class);
            let other = coming().any(|(_, worker)| worker.covers(need.as_ref()));
            covers(grant, need.as_ref()) && !other
        });
        let seats: usize = coming().map(|(_, worker)| worker.concurrency).sum();
        // What others left for may be for a ticket that was asked for.
        let asked = self.had_its_name(step, id) && self.wants().contains_key(name);
        law(Law::Capacity, needed || asked || waiting().count() > seats, || {
            format!("{name} gets a worker that nothing waits for")
        })?;
        self.is_booked(grant)?;
        if !grant.devices.is_empty() && grant.vram_mb == 0 {
            // Nothing was checked for it: others may have counted on a GPU without it.
            self.shaken = self.step;
        }
        let worker = Worker {
            plugin: name.clone(),
            life: Life::Starting,
            given: Vec::new(),
            concurrency: known.spec.concurrency as usize,
            grant: grant.clone(),
            used: WorkerUse::default(),
            idle_since: step.now,
            warned: false,
            fault: None,
            gone_by: None,
            stuck: false,
        };
        self.workers.insert(id, worker);
        Ok(())
    }

    /// Room was made for it: it has had its name since then.
    fn had_its_name(&self, step: &Step<'_>, id: WorkerId) -> bool {
        !self.workers.contains_key(&id) && step.before.iter().any(|worker| worker.worker == id)
    }

    /// What is given now is there: beside what was given before, and what others use.
    fn is_booked(&self, grant: &Grant) -> Checked {
        let nothing = WorkerUse::default();
        let mut held = self.all_held();
        held.push((grant, &nothing));
        let room = self.estate.room(&held);
        let checked = grant.devices.is_empty() || grant.vram_mb > 0;
        for device in room.devices.iter().filter(|device| grant.devices.contains(&device.uuid)) {
            law(Law::Booking, !checked || is_sound(device), || format!("{grant:?} leaves {device:?}"))?;
        }
        let ram = grant.ram_mb == 0 || room.ram_mb >= 0;
        let cpus = grant.cpus == 0 || room.cpus >= 0;
        law(Law::Booking, ram && cpus, || {
            format!("{grant:?} leaves {} MiB, {} cores", room.ram_mb, room.cpus)
        })
    }

    pub(crate) fn stop_worker(&mut self, step: &Step<'_>, id: WorkerId) -> Checked {
        let Some(worker) = self.workers.get(&id).cloned() else {
            return broken(Law::KnownWorkers, format!("{id:?} is stopped, and is not there"));
        };
        law(Law::Eviction, worker.is_idle(), || format!("{id:?} is let go, and is at work: {worker:?}"))?;
        let known = &self.plugins[&worker.plugin];
        let kept = known.spec.keep_warm_ms;
        let over = kept.is_some_and(|kept| step.now - worker.idle_since >= kept);
        let processes = self.workers_of(&worker.plugin).filter(|(_, worker)| worker.is_process()).count();
        let many = processes > known.spec.max_workers as usize;
        let entry = self.workers.get_mut(&id).unwrap();
        (entry.life, entry.gone_by) = (Life::Ending, Some(step.now + 20_000));
        if self.mode != Mode::Working || known.gone || over || many {
            return Ok(());
        }
        self.evicted.push(id);
        Ok(())
    }

    /// Whoever was let go made room for a worker that is waited for now, and was the right one.
    pub(crate) fn evictions(&mut self, step: &Step<'_>) -> Checked {
        let evicted = std::mem::take(&mut self.evicted);
        if evicted.is_empty() {
            return Ok(());
        }
        let new = |id: WorkerId| step.before.iter().all(|worker| worker.worker != id);
        // One that is started at once needs no room, but a place that is promised to a third.
        let comes = step.shown.iter().any(|worker| new(worker.worker));
        law(Law::Eviction, comes, || format!("{evicted:?} are let go for nobody"))?;
        let claimants: Vec<_> = step.waiting().filter(|worker| new(worker.worker)).collect();
        let [claimant] = claimants[..] else { return Ok(()) };
        let name = &claimant.plugin;
        let unplaced = |hand: &&Hand| hand.is_unplaced() && hand.plugin() == name;
        let mut hands = self.jobs.values().filter(unplaced);
        let (Some(hand), None) = (hands.next(), hands.next()) else { return Ok(()) };
        // What was planned before something else changed may be unneeded by now, or others would do.
        let alone = self.last_wanted.iter().all(|(other, last)| other == name || *last < hand.step);
        if hand.step <= self.shaken || !alone || self.saving.kept.is_some() || self.asked(name) > 0 {
            return Ok(());
        }
        let need = self.need(name, &hand.queue.lane.class).unwrap_or_default();
        let fits = |leaving: &[WorkerId]| {
            let staying = self.workers.iter().filter(|(id, _)| !leaving.contains(id));
            let staying: Vec<&Worker> = staying.map(|(_, worker)| worker).collect();
            let count = staying.iter().filter(|worker| worker.plugin == *name && worker.is_process()).count();
            let held: Vec<_> = staying.iter().map(|worker| (&worker.grant, &worker.used)).collect();
            count < self.plugins[name].spec.max_workers as usize
                && place(&need, &self.estate.room(&held)).is_ok()
        };
        for (place, id) in evicted.iter().enumerate() {
            let mut leaving = evicted.clone();
            leaving.remove(place);
            law(Law::Eviction, !fits(&leaving), || format!("{id:?} is let go, and {leaving:?} are enough"))?;
            let since = self.workers[id].idle_since;
            let older = self.workers.iter().find(|(other, worker)| {
                let serves = worker.plugin == *name && self.serves(worker, hand);
                let idle = worker.is_idle() && !serves && worker.idle_since < since;
                let mut swapped = leaving.clone();
                swapped.push(**other);
                idle && fits(&swapped)
            });
            law(Law::Eviction, older.is_none(), || {
                format!("{id:?} is let go, and {older:?} was idle for longer")
            })?;
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self, step: &Step<'_>, id: WorkerId) -> Checked {
        let Some(worker) = self.workers.get(&id) else {
            return broken(Law::KnownWorkers, format!("{id:?} is killed, and is not there"));
        };
        let late = matches!(step.input, Input::Tick) && self.is_overdue(step.now, worker);
        let unborn = matches!(self.mode, Mode::Drained | Mode::Draining) && worker.life == Life::Starting;
        let ill = self.kills.remove(&id);
        let worker = self.workers.get_mut(&id).unwrap();
        let right = worker.is_live() && (late || unborn || ill);
        law(Law::Stops, right, || format!("{id:?} is killed: {worker:?}"))?;
        self.shaken = self.step;
        (worker.life, worker.gone_by) = (Life::Ending, Some(step.now + 10_000));
        Ok(())
    }
}
