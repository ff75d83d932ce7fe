//! What an onlooker learns of workers when the host is looked at: who fails with a GPU, who overruns, whose memory is back.

use super::ledger::{Ledger, Life, Orphan, Worker};
use grange_dispatch::{HostReading, Time, WorkerId};

impl Ledger {
    pub(crate) fn host(&mut self, now: Time, reading: &HostReading) {
        if reading.taken_at < self.estate.taken_at {
            return;
        }
        self.shaken = self.step;
        let Self { estate, workers, .. } = self;
        let held: Vec<_> = workers.values().map(|worker| (&worker.grant, &worker.used)).collect();
        let ill = estate.read(reading, &held);
        for (id, used) in &reading.workers {
            if let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.is_process()) {
                worker.used = used.clone();
            }
        }
        self.fails(&ill, None);
        let (slack, kills) = (self.config.overrun_slack_mb, self.config.overrun_kills);
        let spared = |id: &WorkerId, worker: &Worker| worker.is_live() && !self.kills.contains(id);
        let live = self.workers.iter_mut().filter(|(id, worker)| spared(id, worker));
        for (id, worker) in live.collect::<Vec<_>>() {
            let most = worker.used.vram_mb.values().max().copied().unwrap_or(0);
            if worker.grant.vram_mb > 0 && most > worker.grant.vram_mb + slack {
                if !std::mem::replace(&mut worker.warned, true) {
                    self.warns.insert(*id);
                }
                let guessed = self.plugins[&worker.plugin].spec.is_learned;
                if kills && !guessed && worker.life == Life::Ready {
                    worker.fault = Some(Orphan::OverLimit);
                    self.kills.insert(*id);
                }
            }
        }
        self.memory_back(now, false);
    }

    /// GPUs fail: workers on them have to be killed, apart from those that are killed at this time anyway.
    fn fails(&mut self, ill: &[String], killed_at: Option<Time>) {
        let late = |worker: &Worker| killed_at.is_some_and(|now| self.is_overdue(now, worker));
        let spared =
            self.workers.iter().filter(|(id, w)| w.is_live() && !late(w) && !self.kills.contains(id));
        let on = |worker: &Worker| worker.grant.devices.iter().any(|uuid| ill.contains(uuid));
        for id in spared.filter(|(_, worker)| on(worker)).map(|(id, _)| *id).collect::<Vec<_>>() {
            self.workers.get_mut(&id).unwrap().fault = Some(Orphan::GpuFailed);
            self.kills.insert(id);
        }
    }

    /// Whether a run on this worker had its grace and did not stop.
    pub(crate) fn is_overdue(&self, now: Time, worker: &Worker) -> bool {
        worker.given.iter().any(|job| self.jobs[job].stop.is_some_and(|stop| stop.kill_at <= now))
    }

    /// Grants come back when a look that was taken afterwards shows the memory back.
    pub(crate) fn memory_back(&mut self, now: Time, is_tick: bool) {
        let returning = self.workers.iter().filter_map(|(id, worker)| match worker.life {
            Life::Returning(since) => Some((*id, since)),
            Life::Starting | Life::Ready | Life::Ending => None,
        });
        for (id, since) in returning.collect::<Vec<_>>() {
            let missing = self.estate.missing(&self.workers[&id].grant);
            let seen = self.estate.taken_at > since;
            if seen && missing.is_empty() {
                self.workers.remove(&id);
            } else if seen && now - since >= self.config.vram_return_ms {
                for uuid in &missing {
                    self.estate.gpus.get_mut(uuid).unwrap().quarantined = true;
                }
                self.fails(&missing, is_tick.then_some(now));
                self.workers.remove(&id);
            } else {
                self.looks = true;
            }
        }
    }
}
