//! Jobs on their way in and out of the house: tickets that arrive, claims that are decided, ends that are settled.

use super::House;
use super::rooms::{Claimed, Held};
use crate::claims::ClaimEnd;
use crate::clock::boot_ms;
use crate::tickets::Arrival;
use grange_dispatch::{Input, JobLimits};
use grange_protocol::record::Usage;
use grange_protocol::subject::JobKey;
use std::path::PathBuf;

impl House {
    /// Whether the attempt with this claim is in hand; what is said of another one comes too late.
    pub(super) fn holds(&self, job: &JobKey, claim: u64) -> bool {
        let held = self.rooms.jobs.get(job).and_then(|held| held.claim.as_ref());
        held.is_some_and(|claimed| claimed.fence.claim == claim)
    }

    pub(super) fn arrived(&mut self, arrival: Arrival) -> Input {
        match arrival {
            Arrival::Unusable(unusable) => {
                let claims = self.claims.clone();
                let queue = unusable.queue.clone();
                self.rooms.tasks.spawn(async move { claims.bury(*unusable).await });
                Input::Unusable { queue }
            }
            Arrival::Ticket(mut delivery) => {
                let (queue, job) = (delivery.queue.clone(), delivery.key.clone());
                if let Some(held) = self.rooms.jobs.get_mut(&job) {
                    // Delivered again while it is in hand: the newest delivery is the one to settle.
                    held.delivery.ack = delivery.ack;
                    return Input::Unusable { queue };
                }
                if let Some(plugin) = self.plugins.get(&queue.lane.plugin) {
                    let said = &plugin.manifest.retry;
                    delivery.ticket.retry = delivery.ticket.retry.over(said);
                }
                let ms = |s: Option<u32>| s.map(|s| u64::from(s) * 1000);
                let limits = JobLimits {
                    timeout_ms: ms(delivery.ticket.limits.timeout_s),
                    cancel_grace_ms: ms(delivery.ticket.limits.cancel_grace_s),
                };
                let resources = delivery.ticket.resources.clone().map(Box::new);
                let held = Held {
                    delivery: *delivery,
                    claim: None,
                    permit: None,
                    run: None,
                    sent: None,
                    gpus: Vec::new(),
                    stop_early: false,
                    events: None,
                    scratch: PathBuf::new(),
                    folder: None,
                    ending: None,
                    usage: Usage::default(),
                };
                self.rooms.jobs.insert(job.clone(), held);
                Input::Delivered { queue, job, limits, resources }
            }
        }
    }

    pub(super) fn claimed(&mut self, job: JobKey, end: ClaimEnd) -> Option<Input> {
        match end {
            ClaimEnd::Won(record, revision, permit) => {
                self.rooms.coverage.claimed(&job, Some(revision));
                let held = self.rooms.jobs.get_mut(&job)?;
                held.permit = permit;
                let fence = record.fence(revision)?;
                held.claim = Some(Claimed { record, revision, fence, since: boot_ms() });
                Some(Input::Claimed { job })
            }
            ClaimEnd::NotOurs | ClaimEnd::OwnerFull | ClaimEnd::Later { .. } => {
                self.rooms.coverage.claimed(&job, None);
                self.rooms.jobs.remove(&job);
                Some(Input::NotClaimed { job })
            }
        }
    }

    pub(super) fn settled(&mut self, job: JobKey) -> Option<Input> {
        let held = self.rooms.jobs.remove(&job)?;
        self.close_entry(&held);
        Some(Input::Settled { job })
    }

    /// Writes down that an attempt is over.
    pub(super) fn close_entry(&mut self, held: &Held) {
        let Some(claim) = &held.claim else { return };
        if let Err(error) = self.journal.end(claim.fence.claim) {
            tracing::error!(%error, "journal");
        }
    }
}
