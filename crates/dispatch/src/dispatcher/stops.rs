//! Stops: somebody wants a run to end, time is up, the agent leaves. Owns the order ask, wait, kill.

use super::{Dispatcher, Mode, Touched};
use crate::jobs::{Job, Phase, Stop, StopCause};
use crate::vocabulary::{Action, Conclusion, Time};
use crate::workers::{KILLED_MS, Stage};
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::subject::JobKey;

/// Runs that last longer keep nobody waiting behind them, milliseconds.
const BEHIND_MS: Time = 250;

impl Dispatcher {
    pub(super) fn timeout_of(&self, job: &Job) -> Option<u64> {
        let plugin = self.plugins.get(&job.plugin).and_then(|p| p.spec.timeout_ms);
        job.limits.timeout_ms.or(plugin)
    }

    /// Asks a job to stop, or ends it where it has not begun. The first cause stays, unless the job is lost.
    pub(super) fn stop(
        &mut self,
        key: &JobKey,
        cause: StopCause,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Touched {
        let Some(job) = self.jobs.get_mut(key) else { return Touched::Nobody };
        let plugin = job.plugin.clone();
        let spec_grace = self.plugins.get(&plugin).map_or(0, |p| p.spec.cancel_grace_ms);
        let grace = job.limits.cancel_grace_ms.unwrap_or(spec_grace);
        let fresh = Stop { cause, kill_at: now.saturating_add(grace) };
        let first = job.stop.is_none();
        match job.stop.as_mut() {
            Some(stop) if stop.cause == StopCause::Behind => *stop = fresh,
            Some(stop) if cause == StopCause::Lost => stop.cause = cause,
            Some(_) => {}
            None => job.stop = Some(fresh),
        }
        match job.phase {
            Phase::Claiming | Phase::Settling => Touched::Nobody,
            Phase::Given(worker) if first => {
                out.push(Action::CancelRun { worker, job: key.clone() });
                Touched::Nobody
            }
            Phase::Given(_) => Touched::Nobody,
            Phase::Waiting => {
                if let Some(known) = self.plugins.get_mut(&plugin) {
                    known.waiting.retain(|waiting| waiting != key);
                }
                match cause {
                    StopCause::Lost => return self.forget(key, out),
                    StopCause::Cancelled => self.conclude(key, Conclusion::Cancelled, out),
                    StopCause::TimedOut | StopCause::AgentStops | StopCause::Behind => {
                        self.conclude(key, Conclusion::Retry(RetryCause::NotStarted), out);
                    }
                }
                Touched::One(plugin)
            }
        }
    }

    /// Deadlines: runs that took too long are asked to stop, those that did not stop lose their worker.
    pub(super) fn enforce(&mut self, now: Time, out: &mut Vec<Action>) {
        let given = |job: &Job| match job.phase {
            Phase::Given(worker) => Some(worker),
            Phase::Claiming | Phase::Waiting | Phase::Settling => None,
        };
        let late: Vec<JobKey> = self
            .jobs
            .iter()
            .filter(|(_, job)| given(job).is_some())
            .filter(|(_, job)| job.stop.is_none_or(|stop| stop.cause == StopCause::Behind))
            .filter(|(_, job)| job.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &late {
            self.stop(key, StopCause::TimedOut, now, out);
        }
        for job in self.jobs.values() {
            let (Some(worker), Some(stop)) = (given(job), job.stop) else { continue };
            let entry = self.workers.get_mut(worker).filter(|entry| entry.is_live());
            if let Some(entry) = entry.filter(|_| stop.kill_at <= now) {
                entry.ends_by(self.now.saturating_add(KILLED_MS));
                out.push(Action::KillWorker { worker });
            }
        }
        self.hand_back_those_behind(now, out);
    }

    /// Jobs that are held behind runs that turned out long are handed back: others may run them now. Until runs are short
    /// again none is held ahead.
    fn hand_back_those_behind(&mut self, now: Time, out: &mut Vec<Action>) {
        let lasts = |key: &JobKey| {
            let began = self.jobs.get(key).and_then(|job| job.began);
            began.is_some_and(|began| now.saturating_sub(began) > BEHIND_MS)
        };
        let mut behind = Vec::new();
        for (id, worker) in self.workers.iter().filter(|(_, worker)| worker.stage == Stage::Ready) {
            let running = worker.given.len().min(worker.concurrency as usize);
            let (running, held) = worker.given.split_at(running);
            if running.iter().all(lasts) {
                behind.extend(held.iter().map(|key| (id, worker.plugin.clone(), key.clone())));
            }
        }
        for (worker, plugin, key) in behind {
            let Some(job) = self.jobs.get_mut(&key).filter(|job| job.stop.is_none()) else { continue };
            // Its worker is at work for another: it is not killed for this one.
            job.stop = Some(Stop { cause: StopCause::Behind, kill_at: Time::MAX });
            out.push(Action::CancelRun { worker, job: key });
            if let Some(known) = self.plugins.get_mut(&plugin) {
                known.ran(BEHIND_MS as f64);
            }
        }
    }

    pub(super) fn drain(&mut self, exit: bool, out: &mut Vec<Action>) -> Touched {
        let before = self.mode;
        self.mode = match before {
            Mode::Working | Mode::Drained if exit => Mode::Draining,
            Mode::Working | Mode::Drained => Mode::Drained,
            Mode::Draining | Mode::Exited => before,
        };
        if before == Mode::Working {
            self.end_saving(out);
            let waiting: Vec<JobKey> =
                self.plugins.values_mut().flat_map(|p| std::mem::take(&mut p.waiting)).collect();
            for job in waiting {
                self.conclude(&job, Conclusion::Retry(RetryCause::NotStarted), out);
            }
        }
        Touched::Everybody
    }

    pub(super) fn undrain(&mut self) -> Touched {
        if self.mode == Mode::Drained {
            self.mode = Mode::Working;
            // Bells rang that nobody heard here.
            for name in self.plugins.keys() {
                self.queues.renew(name);
            }
        }
        Touched::Everybody
    }

    pub(super) fn stop_all(&mut self, now: Time, out: &mut Vec<Action>) {
        let keys: Vec<JobKey> = self.jobs.keys().cloned().collect();
        for key in keys {
            self.stop(&key, StopCause::AgentStops, now, out);
        }
    }

    /// Workers that come up for nobody any more.
    pub(super) fn stop_starts(&mut self, out: &mut Vec<Action>) {
        for (worker, entry) in self.workers.iter_mut() {
            if entry.stage == Stage::Starting {
                entry.ends_by(self.now.saturating_add(KILLED_MS));
                out.push(Action::KillWorker { worker });
            }
        }
    }
}
