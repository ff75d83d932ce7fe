//! What workers say, and what their ends mean for the runs they had.

use super::House;
use crate::attempts::{Ending, crash_failure};
use crate::clock::boot_ms;
use crate::gone::Gone;
use crate::news::WorkerEvent;
use crate::planted::{self, Bug};
use grange_dispatch::{Input, RunEnd, WorkerId};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::frame::{LINK_PROTOCOL, Raised};
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::status::PluginState;

/// How long a worker whose link ended may take to end itself, milliseconds.
const LINK_GRACE_MS: u64 = 500;

impl House {
    /// A worker's word.
    pub(super) fn worker_said(&mut self, worker: WorkerId, event: WorkerEvent) -> Option<Input> {
        let entry = self.rooms.workers.get_mut(&worker)?;
        match event {
            WorkerEvent::Ready(ready) if ready.protocol == LINK_PROTOCOL => {
                entry.ready = true;
                entry.releases = ready.releases;
                entry.patience_until = None;
                if let Some(plugin) = self.plugins.get_mut(&entry.plugin) {
                    plugin.state = PluginState::Ready;
                    plugin.reason.clear();
                }
                tracing::info!(plugin = %entry.plugin, worker = worker.0, "worker ready");
                let took_ms = boot_ms().saturating_sub(entry.began);
                if let Some(entry) = self.rooms.workers.get(&worker) {
                    self.learn_start(entry, took_ms);
                }
                self.start_succeeded();
                Some(Input::WorkerReady { worker })
            }
            WorkerEvent::Ready(ready) => {
                let text = format!(
                    "the worker of `{}` speaks version {} of the link, this agent {LINK_PROTOCOL}",
                    entry.plugin, ready.protocol
                );
                entry.failure = Some(Failure::new(FailureKind::StartFailed, text));
                entry.kill();
                None
            }
            WorkerEvent::LoadFailed { stage, raised } => {
                let text =
                    format!("`{}` failed at {stage}: {}: {}", entry.plugin, raised.class, raised.message);
                let failure = Failure::new(FailureKind::StartFailed, text);
                entry.failure = Some(failure.raised(raised.class, Some(&raised.traceback)));
                None
            }
            WorkerEvent::Done { run, value, files, ms } => {
                self.run_ended(worker, run, Ending::Returned { value, files }, ms, false)
            }
            WorkerEvent::Error { run, raised, kind, cancelled, ms } => {
                let failure = Box::new(plugin_failure(&kind, raised));
                self.run_ended(worker, run, Ending::Failed(failure), ms, cancelled)
            }
            WorkerEvent::Spoilt { run, failure, ms } => {
                self.run_ended(worker, run, Ending::Failed(failure), ms, false)
            }
            WorkerEvent::Broke(why) => {
                let text = format!("the worker of `{}` broke the protocol: {why}", entry.plugin);
                tracing::error!(worker = worker.0, text, "worker");
                entry.failure = Some(Failure::new(FailureKind::WorkerCrashed, text));
                entry.kill();
                None
            }
            WorkerEvent::Closed => {
                // Without its link a worker is of no use; one that is ending by itself may do so, and say how.
                let end = boot_ms() + LINK_GRACE_MS;
                entry.patience_until = Some(entry.patience_until.map_or(end, |at| at.min(end)));
                None
            }
        }
    }

    fn run_ended(
        &mut self,
        worker: WorkerId,
        run: u64,
        ending: Ending,
        ms: f64,
        cancelled: bool,
    ) -> Option<Input> {
        let entry = self.rooms.workers.get_mut(&worker)?;
        let job = entry.runs.remove(&run)?;
        let held = self.rooms.jobs.get_mut(&job)?;
        held.ending = Some(ending);
        held.usage.run_ms = ms;
        Some(Input::RunEnded { job, end: RunEnd { run_ms: ms, cancelled } })
    }

    /// A worker's process tree is gone.
    pub(super) fn worker_gone(&mut self, worker: WorkerId, gone: &Gone) -> Option<Input> {
        let entry = self.rooms.workers.remove(&worker)?;
        self.rooms.host.warnings.remove(&worker);
        self.watch_workers();
        let (code, signal) = gone.status();
        tracing::info!(plugin = %entry.plugin, worker = worker.0, code, signal, "worker gone");
        if !entry.ready {
            let of_plugin = entry.failure.is_some();
            let failure = entry.failure.unwrap_or_else(|| gone.start_failure(entry.plugin.as_str()));
            if !of_plugin && !entry.told_to_end {
                self.start_failed(&entry.plugin, &failure.message);
            }
            if let Some(plugin) = self.plugins.get_mut(&entry.plugin) {
                (plugin.state, plugin.reason) = (PluginState::Failed, failure.message.clone());
            }
            tracing::warn!(plugin = %entry.plugin, failure = failure.message, "worker did not come up");
            return Some(Input::WorkerFailed { worker, failure: Box::new(failure) });
        }
        let by_deadline = gone.was_killed() && !entry.told_to_end;
        let excess = gone.excess_failure(entry.plugin.as_str());
        let (cause, failure) = if let Some(failure) = excess {
            (RetryCause::WorkerCrashed, failure)
        } else if by_deadline {
            let text = "the lease ended: the broker was out of reach for too long, so the run was stopped";
            (RetryCause::HostLost, Failure::new(FailureKind::HostLost, text))
        } else {
            let crash =
                || Failure { peak_ram_mb: gone.peak_ram_mb(), ..crash_failure(code, signal, &gone.stderr) };
            (RetryCause::WorkerCrashed, entry.failure.unwrap_or_else(crash))
        };
        for job in entry.runs.values() {
            if let Some(held) = self.rooms.jobs.get_mut(job) {
                held.ending = Some(if planted::is(Bug::CrashIsSuccess) {
                    Ending::Returned { value: None, files: false }
                } else {
                    Ending::Retry(cause, Box::new(failure.clone()))
                });
            }
        }
        Some(Input::WorkerExited { worker })
    }
}

/// What a plugin raised, as the record keeps it.
fn plugin_failure(kind: &str, raised: Raised) -> Failure {
    let kind = match kind {
        "unserialisable" => FailureKind::Unserialisable,
        "bad_arguments" => FailureKind::InvalidInput,
        "too_large" => FailureKind::OutputTooLarge,
        "out_of_disk" => FailureKind::OutOfDisk,
        _ => FailureKind::PluginFailed,
    };
    Failure::new(kind, &raised.message).raised(raised.class, Some(&raised.traceback))
}
