//! Performing what the dispatcher said, one action after the other.

use super::{Held, House, WorkerEntry};
use crate::attempts::{Ending, Settlement, ring};
use crate::clock::boot_ms;
use crate::news::HouseEvent;
use crate::supervise::Order;
use crate::worker::{WorkerPlan, start};
use grange_dispatch::{Action, Conclusion, Input, WorkerId};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::frame::ToWorker;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::PluginName;
use grange_protocol::record::Usage;
use grange_protocol::subject::JobKey;
use std::collections::HashMap;

/// How long a worker that was let go may take to clean up, milliseconds.
const EXIT_GRACE_MS: u64 = 5_000;

impl House {
    /// Performs one action. What follows from it at once comes back as input.
    pub(super) async fn perform(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Listen(pairs) => {
                if let Err(error) = self.pulls.listen(&pairs).await {
                    tracing::error!(%error, "bells not heard; sweeps find the tickets");
                }
            }
            Action::Pull { lane, batch, wait } => self.pulls.pull(&lane, batch, wait).await,
            Action::Return { job } => self.hand_back(&job),
            Action::Claim { job, ahead } => self.claim(job, ahead).await,
            Action::Spawn { worker, plugin } => return self.spawn(worker, &plugin),
            Action::Run { worker, job } => return self.run(worker, &job),
            Action::CancelRun { worker, job } => self.cancel_run(worker, &job),
            Action::StopWorker { worker } => self.let_go(worker),
            Action::KillWorker { worker } => self.kill(worker),
            Action::Conclude { job, how } => self.conclude(&job, how),
            Action::Forget { job } => self.forget(&job),
            Action::Exit => self.rooms.leaving = true,
        }
        None
    }

    fn hand_back(&mut self, job: &JobKey) {
        let Some(held) = self.rooms.jobs.remove(job) else { return };
        let claims = self.claims.clone();
        self.rooms.tasks.spawn(async move {
            claims.nak(&held.delivery.ack, 0).await;
            ring(&claims, &held.delivery.subject).await;
        });
    }

    async fn claim(&mut self, job: JobKey, ahead: bool) {
        let Some(held) = self.rooms.jobs.get(&job) else { return };
        self.rooms.coverage.claiming(&job);
        let deciding = self.claims.begin(held.delivery.clone(), ahead).await;
        let news = self.news.clone();
        self.rooms.tasks.spawn(async move {
            let end = deciding.await;
            let _ = news.send(HouseEvent::Claimed(job, Box::new(end))).await;
        });
    }

    fn spawn(&mut self, worker: WorkerId, name: &PluginName) -> Option<Input> {
        let fail = |text: String| {
            let failure = Box::new(Failure::new(FailureKind::StartFailed, text));
            Some(Input::WorkerFailed { worker, failure })
        };
        let Some(plugin) = self.plugins.get(name) else { return fail(format!("`{name}` is gone")) };
        let Some(launch) = &plugin.launch else { return fail(format!("`{name}` is not prepared")) };
        let plan = WorkerPlan {
            worker,
            plugin: name.to_string(),
            program: plugin.program(launch, &self.environment),
            load: plugin.load(launch, &self.config.limits),
            log_line_bytes: self.config.limits.log_line_max_bytes,
            inline_bytes: self.config.limits.inline_bytes,
            output_bytes: self.config.limits.output_max_bytes,
            objects: self.objects.clone(),
        };
        let start_ms = u64::from(plugin.manifest.limits.start_timeout_s) * 1000;
        let handle = match start(plan, &self.news) {
            Ok((handle, _task)) => handle,
            Err(error) => return fail(crate::causes::chain(&error)),
        };
        handle.order(Order::Deadline(Some(self.idle_deadline_ns())));
        tracing::info!(plugin = %name, worker = worker.0, supervisor = handle.supervisor, "worker starting");
        let entry = WorkerEntry {
            handle,
            plugin: name.clone(),
            ready: false,
            patience_until: Some(boot_ms() + start_ms),
            runs: HashMap::new(),
            last_run: 0,
            failure: None,
            told_to_end: false,
        };
        self.rooms.workers.insert(worker, entry);
        None
    }

    fn cancel_run(&mut self, worker: WorkerId, job: &JobKey) {
        let Some(held) = self.rooms.jobs.get_mut(job) else { return };
        match (held.run, self.rooms.workers.get(&worker)) {
            (Some((_, run)), Some(entry)) if held.sent => {
                entry.handle.frames.put(&ToWorker::Cancel { run }, self.config.limits.frame_bytes);
            }
            _ => held.stop_early = true,
        }
    }

    fn let_go(&mut self, worker: WorkerId) {
        let Some(entry) = self.rooms.workers.get_mut(&worker) else { return };
        entry.handle.frames.put(&ToWorker::Exit, self.config.limits.frame_bytes);
        entry.patience_until = Some(boot_ms() + EXIT_GRACE_MS);
    }

    fn kill(&mut self, worker: WorkerId) {
        if let Some(entry) = self.rooms.workers.get_mut(&worker) {
            entry.kill();
        }
    }

    fn forget(&mut self, job: &JobKey) {
        let Some(held) = self.rooms.jobs.remove(job) else { return };
        tracing::warn!(job = %job, "another holder has the job; this attempt reports nothing");
        if let Some(events) = &held.events {
            events.abandon();
        }
        self.close_entry(&held);
    }

    fn conclude(&mut self, job: &JobKey, how: Conclusion) {
        let Some(held) = self.rooms.jobs.get_mut(job) else { return };
        if let Some((worker, run)) = held.run
            && let Some(entry) = self.rooms.workers.get_mut(&worker)
        {
            entry.runs.remove(&run);
            entry.handle.sinks.remove(run);
        }
        let ending = ending(held, how);
        let Some(claim) = &held.claim else { return };
        let settlement = Settlement {
            claims: self.claims.clone(),
            objects: self.objects.clone(),
            key: job.clone(),
            fence: claim.fence.clone(),
            record: claim.record.clone(),
            revision: claim.revision,
            ack: held.delivery.ack.clone(),
            ticket: held.delivery.subject.clone(),
            events: held.events.clone(),
            scratch: held.scratch.clone(),
            inline_bytes: self.config.limits.inline_bytes,
            output_bytes: self.config.limits.output_max_bytes,
            usage: std::mem::take(&mut held.usage),
            ending,
        };
        self.rooms.tasks.spawn(settlement.run(self.news.clone()));
    }
}

/// What is written, by what was decided and what the worker reported.
fn ending(held: &mut Held, how: Conclusion) -> Ending {
    let reported = held.ending.take();
    match how {
        Conclusion::Cancelled => Ending::Cancelled,
        Conclusion::Failed(failure) => Ending::Failed(failure),
        Conclusion::Reported => reported.unwrap_or_else(|| {
            let text = "the run ended without a report";
            Ending::Failed(Box::new(Failure::new(FailureKind::Internal, text)))
        }),
        Conclusion::Retry(cause) => match reported {
            // The dispatcher knows that the worker went; only the supervisor knows why.
            Some(Ending::Retry(RetryCause::HostLost, failure)) => {
                Ending::Retry(RetryCause::HostLost, failure)
            }
            Some(Ending::Retry(_, failure)) => Ending::Retry(cause, failure),
            _ => {
                let text = match cause {
                    RetryCause::WorkerCrashed => "the worker process ended in the middle of the run",
                    RetryCause::HostLost => "the host was lost",
                    RetryCause::NotStarted => "handed back before it ran to its end",
                };
                held.usage = Usage::default();
                Ending::Retry(cause, Box::new(Failure::new(FailureKind::WorkerCrashed, text)))
            }
        },
    }
}
