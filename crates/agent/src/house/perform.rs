//! Performing what the dispatcher said, one action after the other.

use super::House;
use super::rooms::WorkerEntry;
use crate::attempts::{call, ring};
use crate::cage::MARK;
use crate::claims::ClaimEnd;
use crate::clock::boot_ms;
use crate::news::HouseEvent;
use crate::scratch::WorkerFolder;
use crate::supervise::Order;
use crate::worker::{WorkerPlan, start};
use grange_dispatch::{Action, Grant, Input, WorkerId};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::frame::ToWorker;
use grange_protocol::name::PluginName;
use grange_protocol::subject::JobKey;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a worker that was let go may take to clean up, milliseconds.
const EXIT_GRACE_MS: u64 = 5_000;

impl House {
    /// Performs one action. What follows from it at once comes back as input.
    pub(super) async fn perform(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Hear { plugin, ear } => {
                if let Err(error) = self.bells.hear(&plugin, ear).await {
                    tracing::error!(%plugin, %error, "bells not heard; sweeps find the tickets");
                }
            }
            Action::Open { queue } => self.open_queue(queue),
            Action::Pull { queue, batch, wait } => self.pulls.pull(&queue, batch, wait).await,
            Action::Peek { queues } => self.pulls.peek(&queues).await,
            Action::PassOn { queue, job, hops } => self.bells.pass_on(&queue, job, hops).await,
            Action::Return { job, delay_ms } => self.hand_back(&job, delay_ms),
            Action::Claim { job, ahead } => self.claim(job, ahead).await,
            Action::Spawn { worker, plugin, grant } => return self.spawn(worker, &plugin, grant),
            Action::Run { worker, job } => return self.run(worker, &job),
            Action::CancelRun { worker, job } => self.cancel_run(worker, &job),
            Action::StopWorker { worker } => self.let_go(worker),
            Action::KillWorker { worker } => self.kill(worker),
            Action::Warn { worker, text } => self.warn(worker, text),
            Action::Look => self.inventory.look(),
            Action::Save { queue } => self.save(queue),
            Action::EndSave { queue } => self.end_save(&queue),
            Action::Conclude { job, how } => self.conclude(&job, how),
            Action::Forget { job } => self.forget(&job),
            Action::Exit => self.rooms.leaving = true,
        }
        None
    }

    /// Hands a ticket back; its bell rings when it can be had again.
    fn hand_back(&mut self, job: &JobKey, delay_ms: u64) {
        let Some(held) = self.rooms.jobs.remove(job) else { return };
        let claims = self.claims.clone();
        self.rooms.tasks.spawn(async move {
            claims.nak(&held.delivery.ack, delay_ms).await;
            if delay_ms > 0 {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            ring(&claims, &held.delivery.subject).await;
        });
    }

    async fn claim(&mut self, job: JobKey, ahead: bool) {
        let Some(held) = self.rooms.jobs.get(&job) else { return };
        self.rooms.coverage.claiming(&job);
        let deciding = self.claims.begin(held.delivery.clone(), ahead).await;
        let (claims, news, subject) = (self.claims.clone(), self.news.clone(), held.delivery.subject.clone());
        let lane = held.delivery.queue.lane.clone();
        self.rooms.tasks.spawn(async move {
            let end = deciding.await;
            if matches!(end, ClaimEnd::OwnerFull) {
                let _ = news.send(HouseEvent::OwnerFull(job.owner.clone())).await;
            }
            let comes_again_ms = end.comes_again_ms();
            let calls = matches!(end, ClaimEnd::Later { .. });
            let _ = news.send(HouseEvent::Claimed(job.clone(), Box::new(end))).await;
            let Some(ms) = comes_again_ms else { return };
            // Nobody rings when the broker has it back: whoever handed it back does.
            tokio::time::sleep(Duration::from_millis(ms)).await;
            if calls { call(&claims, &job, &lane).await } else { ring(&claims, &subject).await }
        });
    }

    fn spawn(&mut self, worker: WorkerId, name: &PluginName, grant: Grant) -> Option<Input> {
        let fail = |text: String| {
            let failure = Box::new(Failure::new(FailureKind::StartFailed, text));
            Some(Input::WorkerFailed { worker, failure })
        };
        let Some(plugin) = self.plugins.get(name) else { return fail(format!("`{name}` is gone")) };
        let Some(launch) = &plugin.launch else { return fail(format!("`{name}` is not prepared")) };
        let isolation = &self.config.isolation;
        let label = format!("{}-{}", self.claims.me.incarnation, worker.0);
        let folder = match WorkerFolder::make(&self.config.state_dir.join("scratch"), &label) {
            Ok(folder) => Arc::new(folder),
            Err(error) => {
                return fail(format!("a folder for the worker of `{name}` cannot be made: {error}"));
            }
        };
        let mut program = plugin.program(launch, isolation.passed(&self.environment), &grant.devices);
        program.env.insert("TMPDIR".to_owned(), folder.temporary().to_string_lossy().into_owned());
        program.env.insert(MARK.to_owned(), self.isolation.mark(&label));
        program.cage = self.isolation.cage(&label);
        program.bounds = isolation.bounds(plugin.manifest.limits.memory_mb, grant.ram_mb);
        program.scratch = Some(folder.path().to_owned());
        let plan = WorkerPlan {
            worker,
            plugin: name.to_string(),
            folder: folder.clone(),
            program,
            load: plugin.load(launch, &self.config.limits),
            log_line_bytes: self.config.limits.log_line_max_bytes,
            inline_bytes: self.config.limits.inline_bytes,
            output_bytes: self.config.limits.output_max_bytes,
            objects: self.objects.clone(),
        };
        let start_ms = u64::from(plugin.manifest.limits.start_timeout_s) * 1000;
        let handle = match start(plan, &self.news) {
            Ok((handle, _task)) => handle,
            Err(error) => {
                let why = crate::causes::chain(&error);
                self.start_failed(name, &why);
                return fail(why);
            }
        };
        handle.order(Order::Deadline(Some(self.idle_deadline_ns())));
        let (supervisor, gpus) = (handle.supervisor, grant.devices.join(","));
        tracing::info!(plugin = %name, worker = worker.0, supervisor, gpus, "worker starting");
        let entry = WorkerEntry {
            handle,
            folder,
            plugin: name.clone(),
            grant,
            began: boot_ms(),
            ready: false,
            releases: false,
            vram_mb: 0,
            patience_until: Some(boot_ms() + start_ms),
            runs: HashMap::new(),
            last_run: 0,
            failure: None,
            told_to_end: false,
        };
        self.rooms.workers.insert(worker, entry);
        self.watch_workers();
        None
    }

    fn cancel_run(&mut self, worker: WorkerId, job: &JobKey) {
        let Some(held) = self.rooms.jobs.get_mut(job) else { return };
        match (held.run, self.rooms.workers.get(&worker)) {
            (Some((_, run)), Some(entry)) if held.sent.is_some() => {
                entry.handle.frames.put(&ToWorker::Cancel { run }, self.config.limits.frame_bytes);
            }
            _ => held.stop_early = true,
        }
    }

    fn let_go(&mut self, worker: WorkerId) {
        let Some(entry) = self.rooms.workers.get_mut(&worker) else { return };
        let limit = self.config.limits.frame_bytes;
        if entry.releases {
            // What it holds goes first, should its clean-up never end.
            entry.handle.frames.put(&ToWorker::Release { id: 0 }, limit);
        }
        entry.handle.frames.put(&ToWorker::Exit, limit);
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
}
