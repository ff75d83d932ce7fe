//! Ends: a run ended, a worker is gone, somebody wants a run to stop, time is up.

use super::{Dispatcher, Touched};
use crate::jobs::{Job, Phase, Stop, StopCause};
use crate::vocabulary::{Action, Conclusion, RunEnd, Time, WorkerId};
use crate::workers::Stage;
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::subject::JobKey;

impl Dispatcher {
    /// A worker is gone. The runs that were going on crashed, those behind them never started.
    pub(super) fn worker_exited(&mut self, id: WorkerId, out: &mut Vec<Action>) -> Touched {
        let Some(worker) = self.workers.remove(id) else { return Touched::Nobody };
        let by_itself = worker.stage == Stage::Ready;
        for (place, key) in worker.given.iter().enumerate() {
            let running = (place as u64) < u64::from(worker.concurrency);
            match self.jobs.get(key).and_then(|job| job.stop).map(|stop| stop.cause) {
                Some(StopCause::Cancelled) => self.conclude(key, Conclusion::Cancelled, out),
                Some(StopCause::TimedOut) => self.conclude(key, self.timed_out(key), out),
                Some(StopCause::Lost) => {
                    self.forget(key, out);
                }
                None if running && by_itself => {
                    self.conclude(key, Conclusion::Retry(RetryCause::WorkerCrashed), out);
                }
                Some(StopCause::AgentStops) | None => {
                    self.conclude(key, Conclusion::Retry(RetryCause::NotStarted), out);
                }
            }
        }
        Touched::Freed(worker.plugin)
    }

    pub(super) fn run_ended(
        &mut self,
        key: &JobKey,
        end: RunEnd,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Touched {
        let Some(job) = self.jobs.get(key) else { return Touched::Nobody };
        let Phase::Given(worker) = job.phase else { return Touched::Nobody };
        let (plugin, cause) = (job.plugin.clone(), job.stop.map(|stop| stop.cause));
        let next = self.workers.take_back(worker, key);
        if let Some(known) = self.plugins.get_mut(&plugin) {
            if let Some(job) = next.and_then(|next| self.jobs.get_mut(&next)) {
                job.begin(known.spec.timeout_ms, now);
            }
            // A run that was cut short says nothing of how long runs take.
            if !end.cancelled {
                known.ran(end.run_ms);
            }
        }
        match cause {
            Some(StopCause::Lost) => {
                self.forget(key, out);
            }
            Some(StopCause::Cancelled) if end.cancelled => self.conclude(key, Conclusion::Cancelled, out),
            Some(StopCause::TimedOut) if end.cancelled => self.conclude(key, self.timed_out(key), out),
            Some(StopCause::AgentStops) if end.cancelled => {
                self.conclude(key, Conclusion::Retry(RetryCause::NotStarted), out);
            }
            Some(_) | None => self.conclude(key, Conclusion::Reported, out),
        }
        Touched::Freed(plugin)
    }

    pub(super) fn timed_out(&self, key: &JobKey) -> Conclusion {
        let limit = self.jobs.get(key).and_then(|job| self.timeout_of(job)).unwrap_or_default();
        let text = format!("the run took longer than its limit of {} s", limit as f64 / 1000.0);
        Conclusion::Failed(Box::new(Failure::new(FailureKind::TimedOut, text)))
    }

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
                    StopCause::TimedOut | StopCause::AgentStops => {
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
            .filter(|(_, job)| given(job).is_some() && job.stop.is_none())
            .filter(|(_, job)| job.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &late {
            self.stop(key, StopCause::TimedOut, now, out);
        }
        for job in self.jobs.values() {
            let (Some(worker), Some(stop)) = (given(job), job.stop) else { continue };
            let entry = self.workers.get_mut(worker).filter(|entry| entry.stage != Stage::Ending);
            if let Some(entry) = entry.filter(|_| stop.kill_at <= now) {
                entry.stage = Stage::Ending;
                out.push(Action::KillWorker { worker });
            }
        }
    }
}
