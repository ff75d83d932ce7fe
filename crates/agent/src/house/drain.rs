//! A host that takes nothing new for a while, by an operator's word or by its own: what it is told, what it says of it, and
//! when what still runs is stopped.

use super::House;
use crate::clock::boot_ms;
use crate::drain::{DrainFile, Rule, StartFailures, Why};
use grange_dispatch::{Input, Time};
use grange_protocol::name::PluginName;
use grange_protocol::status::{ControlAnswer, DrainOrder, DrainStatus, WorkerState};
use tokio::sync::oneshot;

/// What an operator who gives no reason is said to have had.
const NO_REASON: &str = "an operator said so";

/// What is remembered of it.
#[derive(Debug, Default)]
pub(super) struct DrainRoom {
    /// The host is drained, for this reason.
    why: Option<Why>,
    /// When what runs is stopped.
    stop_at: Option<Time>,
    /// Workers that did not come up.
    failures: StartFailures,
    /// The host is to drain itself, for this reason.
    wanted: Option<String>,
}

impl House {
    /// A host that was drained when its agent ended is drained still.
    pub async fn resume_drain(&mut self) {
        if let Some(why) = DrainFile::new(&self.config.state_dir).read() {
            tracing::warn!(reason = why.reason, "the host is drained; `grange agents undrain` ends that");
            self.rooms.drain.why = Some(why);
            self.decide(Input::DrainRequested { exit: false }).await;
        }
    }

    /// An operator wants the host to take nothing new.
    pub(super) fn drain(
        &mut self,
        order: DrainOrder,
        reply: oneshot::Sender<ControlAnswer>,
    ) -> Option<Input> {
        if self.rooms.draining {
            let _ = reply.send(refused("the agent is leaving already"));
            return None;
        }
        if order.exit {
            let message = "leaving: nothing new is taken, what runs is finished".to_owned();
            let _ = reply.send(ControlAnswer { ok: true, message });
            return Some(self.leave());
        }
        let reason = order.reason.unwrap_or_else(|| NO_REASON.to_owned());
        self.rooms.drain.stop_at =
            order.deadline_s.map(|seconds| boot_ms().saturating_add(seconds.saturating_mul(1000)));
        let trouble = self.be_drained(Why { reason, automatic: false });
        let held = self.rooms.jobs.len();
        let held = format!("{held} job{} in hand", if held == 1 { "" } else { "s" });
        let message = format!("draining, {held}: nothing new is taken, what runs is finished{trouble}");
        let _ = reply.send(ControlAnswer { ok: true, message });
        Some(Input::DrainRequested { exit: false })
    }

    /// The agent ends when nothing is left.
    pub(super) fn leave(&mut self) -> Input {
        self.rooms.draining = true;
        self.farm.resign();
        Input::DrainRequested { exit: true }
    }

    /// What keeps the next life from knowing it, for people; else nothing.
    fn be_drained(&mut self, why: Why) -> String {
        tracing::warn!(reason = why.reason, automatic = why.automatic, "the host is drained");
        let written = DrainFile::new(&self.config.state_dir).write(&why);
        self.rooms.drain.why = Some(why);
        self.rooms.to_tell = true;
        match written {
            Ok(()) => String::new(),
            Err(error) => {
                tracing::error!(%error, "the drain is not written down");
                format!("; it cannot be written down ({error}), so a restart of the agent ends it")
            }
        }
    }

    /// An operator wants the host to take work again.
    pub(super) fn undrain(&mut self, reply: oneshot::Sender<ControlAnswer>) -> Option<Input> {
        if self.rooms.draining {
            let _ = reply.send(refused("the agent is leaving; start it again"));
            return None;
        }
        let Some(why) = self.rooms.drain.why.clone() else {
            let message = "the host is not drained".to_owned();
            let _ = reply.send(ControlAnswer { ok: true, message });
            return None;
        };
        if let Err(error) = DrainFile::new(&self.config.state_dir).remove() {
            let _ = reply.send(refused(&format!("the drain cannot be taken from the disk: {error}")));
            return None;
        }
        self.rooms.drain = DrainRoom::default();
        self.rooms.to_tell = true;
        tracing::info!(reason = why.reason, "the host is drained no more");
        let message = format!("takes work again; it was drained: {}", why.reason);
        let _ = reply.send(ControlAnswer { ok: true, message });
        Some(Input::UndrainRequested)
    }

    /// What the heartbeat says of it.
    pub(super) fn drain_status(&self) -> Option<DrainStatus> {
        let room = &self.rooms.drain;
        let why = room.why.as_ref()?;
        // Memory that is on its way back is no worker.
        let works = |state| state != WorkerState::Returning;
        let workers = self.rooms.core.workers().iter().any(|worker| works(worker.state));
        Some(DrainStatus {
            reason: why.reason.clone(),
            automatic: why.automatic,
            done: self.rooms.core.jobs_in_hand() == 0 && !workers,
            left_ms: room.stop_at.map(|at| at.saturating_sub(boot_ms())),
        })
    }

    /// Whether it takes nothing new, and stays up.
    pub(super) fn is_drained(&self) -> bool {
        self.rooms.drain.why.is_some()
    }

    /// A worker came up: this host can start something.
    pub(super) fn start_succeeded(&mut self) {
        self.rooms.drain.failures.clear();
    }

    /// A worker did not come up, and its plugin's code is not known to be the cause.
    pub(super) fn start_failed(&mut self, plugin: &PluginName, why: &str) {
        let limits = &self.config.limits;
        let rule = Rule {
            failures: limits.drain_after_start_failures,
            window_ms: u64::from(limits.start_failures_window_s) * 1000,
        };
        let could_start = self.plugins.values().filter(|plugin| plugin.launch.is_some()).count();
        let failures = &mut self.rooms.drain.failures;
        self.rooms.drain.wanted = failures.failed(boot_ms(), plugin, why, could_start, rule);
    }

    /// Time passed: does the host drain itself, and does what still runs have to stop?
    pub(super) async fn keep_drain(&mut self) {
        let room = &mut self.rooms.drain;
        let wanted = room.wanted.take().filter(|_| room.why.is_none());
        if let Some(reason) = wanted.filter(|_| !self.rooms.draining) {
            self.be_drained(Why { reason, automatic: true });
            self.decide(Input::DrainRequested { exit: false }).await;
        }
        let over = self.rooms.drain.stop_at.is_some_and(|at| at <= boot_ms());
        if over {
            self.rooms.drain.stop_at = None;
            tracing::warn!("the drain took too long: what runs is stopped and handed back");
            self.decide(Input::StopRuns).await;
        }
    }
}

fn refused(why: &str) -> ControlAnswer {
    ControlAnswer { ok: false, message: why.to_owned() }
}
