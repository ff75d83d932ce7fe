//! A run from the dispatcher's word to its frame: folder, journal, inputs, events, frame.

use super::House;
use crate::clock::{boot_id, boot_ms};
use crate::events::{EventLimits, EventLog};
use crate::journal::Entry;
use crate::link::RunSink;
use crate::news::HouseEvent;
use crate::values;
use grange_dispatch::{Input, RunEnd, WorkerId};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::frame::{Run, ToWorker};
use grange_protocol::json::Json;
use grange_protocol::subject::JobKey;

impl House {
    /// Gives a job to a worker. Only after the attempt is written down; only with its inputs in place.
    pub(super) fn run(&mut self, worker: WorkerId, job: &JobKey) -> Option<Input> {
        let held = self.rooms.jobs.get_mut(job)?;
        let claim = held.claim.as_ref()?;
        let entry = self.rooms.workers.get_mut(&worker)?;
        entry.last_run += 1;
        let run = entry.last_run;
        entry.runs.insert(run, job.clone());
        held.run = Some((worker, run));
        held.gpus.clone_from(&entry.grant.devices);
        // Models stay loaded: what was seen before this run is its as well.
        held.usage.peak_vram_mb = entry.vram_mb;
        held.scratch = entry.folder.path().join(format!("{}-{}", job.job, claim.fence.claim));
        held.folder = Some(entry.folder.clone());
        let written = self.journal.begin(Entry {
            owner: job.owner.clone(),
            job: job.job.clone(),
            number: claim.fence.number,
            claim: claim.fence.claim,
            agent: claim.fence.holder.agent.clone(),
            incarnation: claim.fence.holder.incarnation.clone(),
            ack: held.delivery.ack.clone(),
            ticket: held.delivery.subject.clone(),
            retry: held.delivery.ticket.retry.clone(),
            supervisor: entry.handle.supervisor,
            supervisor_began: entry.handle.supervisor_began,
            boot: boot_id().to_owned(),
        });
        if let Err(error) = written {
            tracing::error!(%error, "journal");
            let failure = Failure::new(FailureKind::Internal, crate::causes::chain(&error));
            return self.fail_run(job, failure);
        }
        let nothing = |text: &str| Json::parse(text).expect("a constant");
        let ticket = &held.delivery.ticket;
        let args = ticket.args.clone().unwrap_or_else(|| nothing("[]"));
        let kwargs = ticket.kwargs.clone().unwrap_or_else(|| nothing("{}"));
        if !values::has_objects(&args) && !values::has_objects(&kwargs) {
            return self.send_run(job, args, kwargs);
        }
        let (cache, scratch, news, job) =
            (self.cache.clone(), held.scratch.clone(), self.news.clone(), job.clone());
        self.rooms.tasks.spawn(async move {
            let both = async {
                let args = values::fetch_inputs(&cache, &args, &scratch.join("args")).await?;
                Ok((args, values::fetch_inputs(&cache, &kwargs, &scratch.join("kwargs")).await?))
            };
            let inputs = both.await.map_err(Box::new);
            let _ = news.send(HouseEvent::Inputs(job, inputs)).await;
        });
        None
    }

    /// The inputs are in place, or cannot be had.
    pub(super) fn inputs_ready(
        &mut self,
        job: &JobKey,
        inputs: Result<(Json, Json), Box<Failure>>,
    ) -> Option<Input> {
        let held = self.rooms.jobs.get(job)?;
        held.run?;
        match inputs {
            Err(failure) => self.fail_run(job, *failure),
            Ok(_) if held.stop_early => {
                let end = RunEnd { run_ms: 0.0, cancelled: true };
                Some(Input::RunEnded { job: job.clone(), end })
            }
            Ok((args, kwargs)) => self.send_run(job, args, kwargs),
        }
    }

    fn send_run(&mut self, job: &JobKey, args: Json, kwargs: Json) -> Option<Input> {
        let held = self.rooms.jobs.get_mut(job)?;
        let (worker, run) = held.run?;
        let claim = held.claim.as_ref()?;
        let entry = self.rooms.workers.get(&worker)?;
        let limits = &self.config.limits;
        let (frames, frame_bytes) = (entry.handle.frames.clone(), limits.frame_bytes);
        let credit = Box::new(move |chunks| {
            frames.put(&ToWorker::Credit { run, chunks }, frame_bytes);
        });
        let event_limits =
            EventLimits { buffer_bytes: limits.event_buffer_bytes, log_bytes: limits.log_max_bytes };
        let events = EventLog::new(&self.claims.broker, job, &claim.fence.token(), event_limits, credit);
        held.events = Some(events.clone());
        entry.handle.sinks.insert(run, RunSink { events, scratch: held.scratch.clone() });
        let frame = ToWorker::Run(Box::new(Run {
            run,
            args,
            kwargs,
            stream: held.delivery.ticket.stream,
            scratch: held.scratch.to_string_lossy().into_owned(),
            job: job.job.to_string(),
            attempt: claim.fence.number,
        }));
        held.sent = Some(boot_ms());
        // Its lease may be another than what its worker had while it was idle.
        let entry = self.rooms.workers.get(&worker)?;
        self.order_deadline(entry);
        if entry.handle.frames.put(&frame, frame_bytes) {
            return None;
        }
        let text = format!("the arguments exceed the worker's frame limit of {frame_bytes} bytes");
        self.fail_run(job, Failure::new(FailureKind::InvalidInput, text))
    }

    /// A run that never reached its worker ends like one that did.
    fn fail_run(&mut self, job: &JobKey, failure: Failure) -> Option<Input> {
        let held = self.rooms.jobs.get_mut(job)?;
        held.ending = Some(crate::attempts::Ending::Failed(Box::new(failure)));
        // It says nothing of how long runs take.
        Some(Input::RunEnded { job: job.clone(), end: RunEnd { run_ms: f64::NAN, cancelled: false } })
    }
}
