//! Placement and demand: which worker gets a waiting job, when a worker is started, what is pulled, how a drain ends.

use super::{Dispatcher, Mode, SETTLING_MAX, Touched};
use crate::jobs::{Phase, StopCause};
use crate::vocabulary::{Action, Conclusion, Time};
use crate::workers::Stage;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::PluginName;
use grange_protocol::subject::JobKey;

impl Dispatcher {
    /// Gives waiting jobs to workers, and starts workers for those that still wait.
    pub(super) fn place(&mut self, name: &PluginName, now: Time, out: &mut Vec<Action>) {
        let Some(plugin) = self.plugins.get_mut(name) else { return };
        let (concurrency, slots) = (plugin.spec.concurrency, plugin.slots(&self.config));
        while let Some(key) = plugin.waiting.front() {
            let free = self.workers.least_loaded(name, concurrency);
            let Some(id) = free.or_else(|| self.workers.least_loaded(name, slots)) else { break };
            if let (Some(worker), Some(job)) = (self.workers.get_mut(id), self.jobs.get_mut(key)) {
                worker.given.push(key.clone());
                job.phase = Phase::Given(id);
                if (worker.given.len() as u64) <= u64::from(worker.concurrency) {
                    job.begin(plugin.spec.timeout_ms, now);
                }
                out.push(Action::Run { worker: id, job: key.clone() });
            }
            plugin.waiting.pop_front();
        }
        let starting = self.workers.live(name).map(|(_, w)| u32::from(w.stage == Stage::Starting)).sum();
        let wanted = u32::try_from(plugin.waiting.len()).unwrap_or(u32::MAX).div_ceil(concurrency);
        let allowed = plugin.spec.max_workers.saturating_sub(self.workers.count(name));
        if now >= plugin.rest_until && !plugin.gone && self.mode == Mode::Working {
            for _ in 0..wanted.saturating_sub(starting).min(allowed) {
                let worker = self.workers.start(name, concurrency);
                out.push(Action::Spawn { worker, plugin: name.clone() });
            }
        }
    }

    /// Asks for what can start now, and for nothing else.
    pub(super) fn pull(&mut self, name: &PluginName, now: Time, patience: Time, out: &mut Vec<Action>) {
        let Some(plugin) = self.plugins.get(name).filter(|p| !p.gone) else { return };
        if self.mode != Mode::Working || self.settling >= SETTLING_MAX {
            return;
        }
        let live = u32::try_from(self.workers.live(name).count()).unwrap_or(u32::MAX);
        let ending = self.workers.count(name) - live;
        let rests = now < plugin.rest_until;
        let workers = if rests { live } else { plugin.spec.max_workers.saturating_sub(ending) };
        let slots = workers.saturating_mul(plugin.slots(&self.config));
        let free = slots.saturating_sub(plugin.held).min(SETTLING_MAX - self.settling);
        let short = plugin.ahead(&self.config) > 0;
        if let Some(pull) = self.lanes.next(name, free, now, patience, short) {
            out.push(Action::Pull { lane: pull.lane, batch: pull.batch, wait: pull.wait });
        }
    }

    pub(super) fn drain(&mut self, out: &mut Vec<Action>) -> Touched {
        if self.mode == Mode::Working {
            self.mode = Mode::Draining;
            out.push(Action::Listen(Vec::new()));
            let waiting: Vec<JobKey> =
                self.plugins.values_mut().flat_map(|p| std::mem::take(&mut p.waiting)).collect();
            for job in waiting {
                self.conclude(&job, Conclusion::Retry(RetryCause::NotStarted), out);
            }
        }
        Touched::Nobody
    }

    pub(super) fn stop_all(&mut self, now: Time, out: &mut Vec<Action>) {
        let keys: Vec<JobKey> = self.jobs.keys().cloned().collect();
        for key in keys {
            self.stop(&key, StopCause::AgentStops, now, out);
        }
        for (worker, entry) in self.workers.iter_mut() {
            if entry.stage == Stage::Starting {
                entry.stage = Stage::Ending;
                out.push(Action::KillWorker { worker });
            }
        }
    }

    /// While draining: lets idle workers go, and exits when nothing is left.
    pub(super) fn leave(&mut self, out: &mut Vec<Action>) {
        if self.mode != Mode::Draining {
            return;
        }
        for (worker, entry) in self.workers.iter_mut() {
            if entry.given.is_empty() && entry.stage != Stage::Ending {
                let starting = entry.stage == Stage::Starting;
                entry.stage = Stage::Ending;
                out.push(if starting {
                    Action::KillWorker { worker }
                } else {
                    Action::StopWorker { worker }
                });
            }
        }
        if self.jobs.is_empty() && self.workers.is_empty() && !self.lanes.any_asked() {
            self.mode = Mode::Exited;
            out.push(Action::Exit);
        }
    }
}
