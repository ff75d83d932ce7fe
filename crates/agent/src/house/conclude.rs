//! How an attempt ended, put together from what was decided, what the worker reported and what the host showed.

use super::House;
use super::rooms::Held;
use crate::attempts::{Ending, Settlement};
use crate::clock::boot_ms;
use crate::restore::TicketCopy;
use grange_dispatch::{Conclusion, DeviceView};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::record::Usage;
use grange_protocol::subject::JobKey;

impl House {
    /// Writes how an attempt ended, then deals with its ticket.
    pub(super) fn conclude(&mut self, job: &JobKey, how: Conclusion) {
        let Some(held) = self.rooms.jobs.get_mut(job) else { return };
        // Its worker may live on: it was killed and hangs. What it says of the run is nobody's any more.
        if let Some((worker, run)) = held.run.take()
            && let Some(entry) = self.rooms.workers.get_mut(&worker)
        {
            entry.runs.remove(&run);
            entry.handle.sinks.remove(run);
        }
        let usage = used(held, boot_ms());
        let ending = match (how, held.ending.take()) {
            (Conclusion::Retry(RetryCause::GpuFailed), _) => {
                let failure = gpu_failure(&held.gpus, &self.rooms.core.host().devices);
                Ending::Retry(RetryCause::GpuFailed, Box::new(failure))
            }
            (how, reported) => ending(how, reported),
        };
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
            copy: TicketCopy::of(&held.delivery),
            policy: held.delivery.ticket.retry.clone(),
            events: held.events.clone(),
            scratch: held.scratch.clone(),
            folder: held.folder.take(),
            inline_bytes: self.config.limits.inline_bytes,
            output_bytes: self.config.limits.output_max_bytes,
            usage,
            ending,
        };
        self.rooms.tasks.spawn(settlement.run(self.news.clone()));
    }
}

/// What the attempt used. A run that ended without a report took the time since its frame was sent.
fn used(held: &Held, now_ms: u64) -> Usage {
    let mut usage = held.usage.clone();
    if let Some(sent) = held.sent.filter(|_| usage.run_ms == 0.0) {
        usage.run_ms = std::time::Duration::from_millis(now_ms.saturating_sub(sent)).as_secs_f64() * 1000.0;
    }
    usage.gpu_seconds = usage.run_ms / 1000.0 * f64::from(u32::try_from(held.gpus.len()).unwrap_or(u32::MAX));
    usage
}

/// What is written, by what was decided and what the worker reported.
fn ending(how: Conclusion, reported: Option<Ending>) -> Ending {
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
            Some(Ending::Returned { .. } | Ending::Failed(_) | Ending::Cancelled) | None => {
                let (kind, text) = match cause {
                    RetryCause::WorkerCrashed => {
                        (FailureKind::WorkerCrashed, "the worker process ended in the middle of the run")
                    }
                    RetryCause::HostLost => (FailureKind::HostLost, "the host was lost"),
                    RetryCause::GpuFailed => (FailureKind::GpuFailed, "a GPU failed under the run"),
                    RetryCause::PluginError => (FailureKind::PluginFailed, "the run ended with an error"),
                    RetryCause::NotStarted => {
                        (FailureKind::WorkerCrashed, "handed back before it ran to its end")
                    }
                };
                Ending::Retry(cause, Box::new(Failure::new(kind, text)))
            }
        },
    }
}

/// The evidence of a run whose GPU failed.
fn gpu_failure(gpus: &[String], devices: &[DeviceView]) -> Failure {
    let ill = devices.iter().filter(|device| gpus.contains(&device.uuid));
    let ill =
        ill.filter_map(|device| Some(format!("GPU `{}`: {}", device.uuid, device.quarantine.as_ref()?)));
    let ill: Vec<String> = ill.collect();
    let text = match ill.is_empty() {
        true => "a GPU failed under the run".to_owned(),
        false => format!("a GPU failed under the run; {}", ill.join("; ")),
    };
    Failure::new(FailureKind::GpuFailed, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_gpu_is_named_with_its_reason() {
        let device = |uuid: &str, quarantine: Option<&str>| DeviceView {
            uuid: uuid.to_owned(),
            quarantine: quarantine.map(str::to_owned),
            ..DeviceView::default()
        };
        let devices = [device("a", None), device("b", Some("XID 79")), device("c", Some("other"))];
        let gpus = ["a".to_owned(), "b".to_owned()];
        let failure = gpu_failure(&gpus, &devices);
        assert_eq!(failure.kind, FailureKind::GpuFailed);
        assert_eq!(failure.message, "a GPU failed under the run; GPU `b`: XID 79");
        assert_eq!(gpu_failure(&gpus, &[]).message, "a GPU failed under the run");
    }

    #[test]
    fn only_the_supervisor_knows_that_the_lease_ended() {
        let lost = Box::new(Failure::new(FailureKind::HostLost, "the lease ended"));
        let reported = Some(Ending::Retry(RetryCause::HostLost, lost));
        let written = ending(Conclusion::Retry(RetryCause::WorkerCrashed), reported);
        assert!(matches!(written, Ending::Retry(RetryCause::HostLost, _)));
    }
}
