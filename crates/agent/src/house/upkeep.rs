//! What goes on without news: deadlines, heartbeats, words to the broker that work goes on.

use super::House;
use super::rooms::WorkerEntry;
use crate::clock::{boot_ms, boot_ns};
use crate::heartbeat::beat;
use crate::lease::worker_deadline;
use crate::news::HouseEvent;
use crate::restore::TicketCopy;
use crate::supervise::Order;
use bytes::Bytes;
use grange_dispatch::Input;
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::ownership::Stored;
use grange_protocol::ticket::OnPartition;

/// Between two heartbeats that something called for lies at least so long, milliseconds.
const TELL_PAUSE_MS: u64 = 200;

impl House {
    /// When an idle worker's supervisor may kill it, unless it hears from this agent again.
    pub(super) fn idle_deadline_ns(&self) -> u64 {
        boot_ns() + u64::from(self.config.limits.lease_s) * 1_000_000_000
    }

    /// The lease was renewed: every supervisor learns its new deadline.
    pub(super) fn extend_deadlines(&mut self) {
        for entry in self.rooms.workers.values() {
            self.order_deadline(entry);
        }
    }

    /// One supervisor learns its deadline, by what its worker runs.
    pub(super) fn order_deadline(&self, entry: &WorkerEntry) {
        let held = entry.runs.values().filter_map(|job| self.rooms.jobs.get(job));
        let ends = held.filter_map(|held| {
            let lease_s = held.claim.as_ref()?.record.lease_s();
            let stops = held.delivery.ticket.limits.on_partition == OnPartition::Stop;
            Some(stops.then(|| self.lease.deadline_ns(lease_s)))
        });
        entry.handle.order(Order::Deadline(worker_deadline(ends, self.idle_deadline_ns())));
    }

    /// Time passed.
    pub async fn tick(&mut self) {
        let overdue = self.pulls.overdue();
        if !overdue.is_empty() {
            self.pulls.rebuild().await;
        }
        for queue in overdue {
            self.decide(Input::PullEnded { queue }).await;
        }
        let now = boot_ms();
        for (id, entry) in &mut self.rooms.workers {
            if entry.patience_until.is_some_and(|at| at <= now) {
                entry.patience_until = None;
                if !entry.ready {
                    let text = format!("the worker of `{}` was not ready in time", entry.plugin);
                    entry.failure.get_or_insert_with(|| Failure::new(FailureKind::TimedOut, text));
                }
                tracing::warn!(worker = id.0, plugin = %entry.plugin, "patience with the worker is over");
                entry.kill();
            }
        }
        self.wake().await;
        self.tell_learned().await;
        self.keep_drain().await;
        self.watch_workers();
        self.compare_host();
        if self.rooms.to_tell && now.saturating_sub(self.rooms.told_at) >= TELL_PAUSE_MS {
            self.heartbeat();
        }
    }

    /// The dispatcher wanted to be asked now.
    pub async fn wake(&mut self) {
        self.decide(Input::Tick).await;
    }

    /// Tells the broker that what is held is still worked on.
    pub async fn keep_alive(&mut self) {
        for held in self.rooms.jobs.values().filter(|held| held.claim.is_some()) {
            self.claims.settle(&held.delivery.ack, Bytes::from_static(b"+WPI")).await;
        }
    }

    /// Puts a heartbeat. While the broker is away, idle workers are told to wait on.
    pub fn heartbeat(&mut self) {
        (self.rooms.to_tell, self.rooms.told_at) = (false, boot_ms());
        let status = self.status();
        self.farm.own.says(&status);
        let beating = beat(self.claims.broker.clone(), status, self.lease.clone(), self.news.clone());
        self.rooms.tasks.spawn(beating);
        let idle = self.idle_deadline_ns();
        for entry in self.rooms.workers.values().filter(|entry| entry.runs.is_empty()) {
            entry.handle.order(Order::Deadline(Some(idle)));
        }
    }

    /// Does every attempt that is held for at least so long still hold its job, and did somebody ask for its end?
    pub fn check_ownership(&mut self, held_ms: u64) {
        let now = boot_ms();
        for (key, held) in &self.rooms.jobs {
            let Some(claim) = &held.claim else { continue };
            if now.saturating_sub(claim.since) < held_ms {
                continue;
            }
            let (fence, key, news) = (claim.fence.clone(), key.clone(), self.news.clone());
            let (claims, copy) = (self.claims.clone(), TicketCopy::of(&held.delivery));
            self.rooms.tasks.spawn(async move {
                let found = match claims.ledger.read(&key).await {
                    Ok(Stored::Record { sequence, record, .. }) if record.held_by(&fence, sequence) => {
                        if let Err(error) = copy.restore_if_gone(&claims).await {
                            tracing::debug!(job = %key, %error, "its ticket was not looked for");
                        }
                        record.cancel_requested.map(|_| HouseEvent::CancelRequested(key))
                    }
                    Ok(_) => Some(HouseEvent::Lost(key, fence.claim)),
                    Err(error) => {
                        tracing::warn!(job = %key, %error, "ownership not checked");
                        None
                    }
                };
                if let Some(event) = found {
                    let _ = news.send(event).await;
                }
            });
        }
    }
}
