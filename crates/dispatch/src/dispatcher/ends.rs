//! Ends of runs and workers, and the way of a grant back: by evidence, not by hope.

use super::{Dispatcher, Mode, Touched};
use crate::jobs::{Phase, StopCause};
use crate::vocabulary::{Action, Conclusion, RunEnd, Time, WorkerId};
use crate::workers::{Fault, Stage, Worker};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::subject::JobKey;

impl Dispatcher {
    /// A worker is gone. The runs that were going on crashed, those behind them never started.
    pub(super) fn worker_exited(&mut self, id: WorkerId, now: Time, out: &mut Vec<Action>) -> Touched {
        let Some(worker) = self.workers.get(id).filter(|w| !matches!(w.stage, Stage::Returning(_))) else {
            return Touched::Nobody;
        };
        let worker = worker.clone();
        for (place, key) in worker.given.iter().enumerate() {
            let running = (place as u64) < u64::from(worker.concurrency);
            self.end_with_worker(key, &worker, running, out);
        }
        self.return_grant(id, now, out);
        Touched::Freed(worker.plugin)
    }

    /// Workers that were told to end and are not gone in time: the processes hang in the kernel, most often with their
    /// GPU. Their runs end as if they were gone; what they hold stays theirs until they are.
    pub(super) fn give_up_stuck(&mut self, now: Time, out: &mut Vec<Action>) {
        let late = |worker: &Worker| {
            worker.stage == Stage::Ending && !worker.is_stuck && worker.gone_by.is_some_and(|by| by <= now)
        };
        let stuck: Vec<WorkerId> =
            self.workers.iter().filter(|(_, worker)| late(worker)).map(|(id, _)| id).collect();
        for id in stuck {
            let Some(entry) = self.workers.get_mut(id) else { continue };
            let worker = entry.clone();
            (entry.is_stuck, entry.gives_way_to) = (true, None);
            entry.given.clear();
            let text = format!(
                "a worker of `{}` was killed and does not end; what it holds stays taken until it does",
                worker.plugin
            );
            out.push(Action::Warn { worker: id, text });
            for (place, key) in worker.given.iter().enumerate() {
                let running = (place as u64) < u64::from(worker.concurrency);
                self.end_with_worker(key, &worker, running, out);
            }
            self.drop_unsound_plans();
        }
    }

    /// How a job ends whose worker is gone.
    fn end_with_worker(&mut self, key: &JobKey, worker: &Worker, running: bool, out: &mut Vec<Action>) {
        let by_itself = worker.stage == Stage::Ready;
        match (self.jobs.get(key).and_then(|job| job.stop).map(|stop| stop.cause), &worker.fault) {
            (Some(StopCause::Lost), _) => {
                self.forget(key, out);
            }
            (_, Some(Fault::OverLimit(text))) if running => {
                let failure = Failure::new(FailureKind::OverLimit, text);
                self.conclude(key, Conclusion::Failed(Box::new(failure)), out);
            }
            (Some(StopCause::Cancelled), _) => self.conclude(key, Conclusion::Cancelled, out),
            (Some(StopCause::TimedOut), _) => self.conclude(key, self.timed_out(key), out),
            (_, Some(Fault::Gpu)) if running => {
                self.conclude(key, Conclusion::Retry(RetryCause::GpuFailed), out);
            }
            (None, None) if running && by_itself => {
                self.conclude(key, Conclusion::Retry(RetryCause::WorkerCrashed), out);
            }
            (Some(StopCause::AgentStops | StopCause::Behind) | None, _) => {
                self.conclude(key, Conclusion::Retry(RetryCause::NotStarted), out);
            }
        }
    }

    /// The processes of a worker are gone: what it held is free, but its GPU memory only when it is seen to be back.
    pub(super) fn return_grant(&mut self, id: WorkerId, now: Time, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.holding.devices.is_empty() {
            self.workers.remove(id);
            return;
        }
        worker.given.clear();
        if worker.stage != Stage::Ending {
            // It would have left for somebody, and died before: nobody may count on its room.
            worker.gives_way_to = None;
        }
        worker.stage = Stage::Returning(now);
        worker.used = Default::default();
        (worker.holding.ram_mb, worker.holding.cpus) = (0, 0);
        // It may have been about to leave for another: its room is not free yet.
        self.drop_unsound_plans();
        if self.mode != Mode::Exited {
            out.push(Action::Look);
        }
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
        let next = self.workers.take_back(worker, key, now);
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
            Some(StopCause::AgentStops | StopCause::Behind) if end.cancelled => {
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
}
