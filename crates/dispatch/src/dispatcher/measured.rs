//! What was measured of the host: faults, overruns, and memory that has to come back.

use super::{Dispatcher, Mode, Touched};
use crate::vocabulary::{Action, HostReading, Time, WorkerId};
use crate::workers::{Fault, KILLED_MS, Stage, Worker};

impl Dispatcher {
    pub(super) fn host_read(
        &mut self,
        mut reading: HostReading,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Touched {
        if reading.taken_at < self.host.taken_at() {
            return Touched::Nobody;
        }
        let given = self.given_to(|_, worker| worker.stage != Stage::Waiting);
        let ill = self.host.read(&mut reading, &given);
        for (id, used) in std::mem::take(&mut reading.workers) {
            if let Some(worker) = self.workers.get_mut(id).filter(|w| !matches!(w.stage, Stage::Returning(_)))
            {
                worker.used = self.host.used(&used);
            }
        }
        for place in ill {
            self.kill_those_on(place, out);
        }
        self.say_overruns(out);
        self.take_memory_back(now, out);
        self.drop_unsound_plans();
        Touched::Everybody
    }

    /// A GPU failed: whoever is on it cannot be trusted any more.
    fn kill_those_on(&mut self, place: usize, out: &mut Vec<Action>) {
        for (worker, entry) in self.workers.iter_mut() {
            if entry.is_live() && entry.stage != Stage::Waiting && entry.holding.devices.contains(&place) {
                entry.fault = Some(Fault::Gpu);
                entry.ends_by(self.now.saturating_add(KILLED_MS));
                out.push(Action::KillWorker { worker });
            }
        }
    }

    /// Workers that use more than they were given.
    fn say_overruns(&mut self, out: &mut Vec<Action>) {
        let (slack, kills) = (self.config.overrun_slack_mb, self.config.overrun_kills);
        let overrun = |worker: &Worker| {
            let granted = worker.holding.vram_mb;
            let (place, most) = *worker.used.vram_mb.iter().max_by_key(|(_, used)| *used)?;
            let uuid = self.host.uuid(place);
            let over = granted > 0 && most > granted.saturating_add(slack);
            over.then(|| format!("uses {most} MiB of GPU `{uuid}`, and was given {granted} MiB"))
        };
        for (id, worker) in self.workers.iter_mut() {
            let Some(text) = overrun(worker).filter(|_| worker.is_live()) else { continue };
            let text = format!("a worker of `{}` {text}", worker.plugin);
            if !std::mem::replace(&mut worker.warned, true) {
                out.push(Action::Warn { worker: id, text: text.clone() });
            }
            // One that loads has no run yet that could end for it.
            // What was learned is a guess of ours, not a promise of the plugin.
            let guessed = self.plugins.get(&worker.plugin).is_some_and(|plugin| plugin.spec.is_learned);
            if kills && !guessed && worker.stage == Stage::Ready {
                worker.fault = Some(Fault::OverLimit(text));
                worker.ends_by(self.now.saturating_add(KILLED_MS));
                out.push(Action::KillWorker { worker: id });
            }
        }
    }

    fn returning(&self) -> Vec<(WorkerId, Time)> {
        let returning = |(id, worker): (WorkerId, &Worker)| match worker.stage {
            Stage::Returning(since) => Some((id, since)),
            Stage::Waiting | Stage::Starting | Stage::Ready | Stage::Ending => None,
        };
        self.workers.iter().filter_map(returning).collect()
    }

    /// Grants of workers whose processes are gone: free when a look taken afterwards shows the memory back. A GPU that
    /// keeps it too long is quarantined.
    fn take_memory_back(&mut self, now: Time, out: &mut Vec<Action>) {
        let mut waits = false;
        for (id, since) in self.returning() {
            // In the same millisecond the look may have been the earlier one.
            if self.host.taken_at() <= since {
                waits = true;
                continue;
            }
            let Some(worker) = self.workers.get(id) else { continue };
            let kept = |place: &usize| self.host.unreturned_mb(*place).unwrap_or(0);
            let slack = self.config.vram_slack_mb;
            let missing: Vec<(usize, u64)> = worker
                .holding
                .devices
                .iter()
                .map(|place| (*place, kept(place)))
                .filter(|(place, kept)| *kept > slack && !self.host.is_quarantined(*place))
                .collect();
            if missing.is_empty() {
                self.workers.remove(id);
                continue;
            }
            if now.saturating_sub(since) < self.config.vram_return_ms {
                waits = true;
                continue;
            }
            let (plugin, seconds) = (worker.plugin.clone(), self.config.vram_return_ms as f64 / 1000.0);
            for (place, kept) in missing {
                let why =
                    format!("{kept} MiB are still in use {seconds} s after a worker of `{plugin}` ended");
                if self.host.quarantine(place, why) {
                    self.kill_those_on(place, out);
                }
            }
            self.workers.remove(id);
        }
        if waits && self.mode != Mode::Exited {
            out.push(Action::Look);
        }
    }

    /// Time passed: memory that should be back is looked for.
    pub(super) fn expect_memory_back(&mut self, now: Time, out: &mut Vec<Action>) {
        if !self.returning().is_empty() {
            self.full.clear();
            self.take_memory_back(now, out);
        }
    }
}
