//! Claims: makes a delivered job this agent's own, by compare-and-set, or finds out whose it is.
//!
//! Never starts anything: only a record that was stored with this agent's name on it lets a job begin.

use crate::clock::unix_ms;
use crate::letters;
use crate::permits::{Grant, Permit, Permits};
use crate::planted::{self, Bug};
use crate::tickets::{Delivery, Unusable};
use bytes::Bytes;
use grange_broker_client::connect::Broker;
use grange_broker_client::dead::{self, Dead};
use grange_broker_client::error::{Error, ErrorKind};
use grange_broker_client::ledger::Ledger;
use grange_broker_client::priority;
use grange_broker_client::upkeep::life_of;
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::lifecycle::{self, Claim, RetryCause, end_unclaimed};
use grange_protocol::ownership::{Delivered, Heartbeat, Stored, Verdict, could_start, judge};
use grange_protocol::record::{Holder, Outcome, Record, State};
use grange_protocol::retry::{Decision, decide};
use grange_protocol::subject::Lane;
use serde_json::json;
use std::time::Duration;

/// Most rounds of one claim; then the ticket is handed back for a while.
const ROUNDS: u32 = 8;
/// Pause when the broker did not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// A ticket whose claim could not be decided comes back after this, milliseconds.
const UNDECIDED_MS: u64 = 5_000;
/// A ticket whose owner has enough running comes back after this, milliseconds.
pub const OWNER_FULL_MS: u64 = 1_000;

/// How a claim ended.
#[derive(Debug)]
pub enum ClaimEnd {
    /// The job is ours: this record is stored at this sequence. With a place among its owner's attempts, where these are
    /// limited.
    Won(Box<Record>, u64, Option<Permit>),
    /// It is not, or cannot be run; the ticket was dealt with.
    NotOurs,
    /// Its owner has as many running as it may: the ticket comes back after `OWNER_FULL_MS`.
    OwnerFull,
    /// Not yet, or nobody knows: the ticket comes again after this, milliseconds.
    Later {
        /// Milliseconds.
        ms: u64,
    },
}

impl ClaimEnd {
    /// After how many milliseconds the ticket can be had again, if it was handed back.
    pub fn comes_again_ms(&self) -> Option<u64> {
        match self {
            Self::OwnerFull => Some(OWNER_FULL_MS),
            Self::Later { ms } => Some(*ms),
            Self::Won(..) | Self::NotOurs => None,
        }
    }
}

/// What claims are written with.
#[derive(Clone)]
pub struct Claims {
    /// The broker.
    pub broker: Broker,
    /// The records.
    pub ledger: Ledger,
    /// Who claims.
    pub me: Holder,
    /// The lease when a job asks for none, seconds.
    pub lease_s: u32,
    /// Places for attempts, where an owner's number is limited.
    pub permits: Option<Permits>,
}

impl Claims {
    /// The record that a claim on nothing writes.
    fn first(&self, delivery: &Delivery, before: Option<&Record>, ahead: bool) -> Option<Record> {
        let forgetful = before.filter(|_| planted::is(Bug::ForgetCancel));
        let forgetful = forgetful.map(|record| Record { cancel_requested: None, ..record.clone() });
        let before = forgetful.as_ref().or(before);
        let claim = Claim {
            holder: self.me.clone(),
            lease_s: self.lease_of(delivery.ticket.limits.lease_s),
            ahead,
            at_ms: unix_ms(),
        };
        lifecycle::claim(before, &delivery.queue.lane, delivery.submitted_ms, &claim).ok()
    }

    /// The lease of an attempt, seconds. Where an owner's number is limited it is never longer than the agent's own: others
    /// count a gone agent's attempts for that long and no longer.
    fn lease_of(&self, asked_s: Option<u32>) -> u32 {
        let asked_s = asked_s.unwrap_or(self.lease_s);
        if self.permits.is_some() { asked_s.min(self.lease_s) } else { asked_s }
    }

    /// Sends the plain claim of a new job in the caller's order; the future says how it ended. Where an owner's number is
    /// limited, a place comes first, and the order is that of the places.
    pub async fn begin(
        &self,
        delivery: Delivery,
        ahead: bool,
    ) -> impl Future<Output = ClaimEnd> + Send + use<> {
        let claims = self.clone();
        let sent = match &self.permits {
            None => Some(claims.clone().send(delivery.clone(), ahead).await),
            Some(_) => None,
        };
        async move {
            match (sent, &claims.permits) {
                (Some(answer), _) => answer.await,
                (None, Some(permits)) => claims.begin_with(permits, delivery, ahead).await,
                (None, None) => ClaimEnd::NotOurs,
            }
        }
    }

    /// Asks for a place first.
    async fn begin_with(&self, permits: &Permits, delivery: Delivery, ahead: bool) -> ClaimEnd {
        match permits.acquire(&delivery.key.owner).await {
            Grant::Granted(permit) => match self.clone().send(delivery, ahead).await.await {
                ClaimEnd::Won(record, sequence, _) => ClaimEnd::Won(record, sequence, Some(permit)),
                end => end,
            },
            Grant::Full => {
                self.nak(&delivery.ack, OWNER_FULL_MS).await;
                ClaimEnd::OwnerFull
            }
            Grant::Unknown => self.later(&delivery, UNDECIDED_MS).await,
        }
    }

    /// Sends the claim; the future waits for its answer. A ticket that builds on a record is not plainly new: that record
    /// is read first, because a claim goes on from what it says.
    async fn send(self, delivery: Delivery, ahead: bool) -> impl Future<Output = ClaimEnd> + Send + use<> {
        let record = if delivery.base == 0 { self.first(&delivery, None, ahead) } else { None };
        let sent = match &record {
            Some(record) => Some(self.ledger.write_later(&delivery.key, delivery.base, record, None).await),
            None => None,
        };
        async move {
            let stored = match sent {
                Some(Ok(answer)) => answer.await,
                Some(Err(error)) => Err(error),
                None => Err(Error::new(ErrorKind::Conflict, "it has a record already")),
            };
            match (stored, record) {
                (Ok(sequence), Some(record)) => ClaimEnd::Won(Box::new(record), sequence, None),
                (Ok(_), None) => ClaimEnd::NotOurs,
                (Err(error), _) => self.decide(&delivery, ahead, error).await,
            }
        }
    }

    /// The plain claim was refused, or nobody knows: reads the leader and judges, a bounded number of times.
    async fn decide(&self, delivery: &Delivery, ahead: bool, first: Error) -> ClaimEnd {
        let mut trouble = first;
        for _ in 0..ROUNDS {
            if trouble.kind() != ErrorKind::Conflict {
                tokio::time::sleep(PAUSE).await;
            }
            match self.round(delivery, ahead).await {
                Ok(end) => return end,
                Err(error) => trouble = error,
            }
        }
        tracing::warn!(job = %delivery.key, error = %trouble, "claim not decided; the ticket goes back");
        self.later(delivery, UNDECIDED_MS).await
    }

    /// Hands a ticket back for so long.
    async fn later(&self, delivery: &Delivery, ms: u64) -> ClaimEnd {
        self.nak(&delivery.ack, ms).await;
        ClaimEnd::Later { ms }
    }

    async fn round(&self, delivery: &Delivery, ahead: bool) -> Result<ClaimEnd, Error> {
        let stored = self.ledger.read(&delivery.key).await?;
        let ticket = Delivered { lane: &delivery.queue.lane, base: delivery.base };
        let mut verdict = judge(ticket, &stored, &self.me, 0, None);
        if matches!(verdict, Verdict::AskHeartbeat(_) | Verdict::Held { .. } | Verdict::Early { .. }) {
            let holder = match &stored {
                Stored::Record { record, .. } => record.attempt.as_ref().map(|a| a.agent.clone()),
                Stored::Nothing | Stored::Marker { .. } => None,
            };
            let (now_ms, mut heartbeat) = if planted::is(Bug::HastyTakeover) {
                (unix_ms() + 3_600_000, Heartbeat { bucket_age_ms: 3_600_000, ..Heartbeat::default() })
            } else {
                life_of(&self.broker, holder.as_ref()).await?
            };
            heartbeat.others_could =
                holder == Some(self.me.agent.clone()) && self.others_could(ticket.lane).await?;
            verdict = judge(ticket, &stored, &self.me, now_ms, Some(&heartbeat));
        }
        match verdict {
            Verdict::Claim { expect, before } => {
                if let Some(ended) = self.abandon(delivery, expect, before.as_deref()).await? {
                    return Ok(ended);
                }
                let Some(record) = self.first(delivery, before.as_deref(), ahead) else {
                    return Err(Error::new(ErrorKind::Conflict, "the job moved on"));
                };
                let sequence = self.ledger.write(&delivery.key, expect, &record, None).await?;
                if record.state.is_terminal() {
                    return Ok(self.ended(delivery).await);
                }
                Ok(ClaimEnd::Won(Box::new(record), sequence, None))
            }
            Verdict::Moved { lane, expect } => {
                priority::forward(&self.broker, &delivery.key, &delivery.queue.lane, &lane, expect).await?;
                Ok(self.ended(delivery).await)
            }
            Verdict::Mine => match stored {
                Stored::Record { record, sequence, .. } => Ok(ClaimEnd::Won(record, sequence, None)),
                Stored::Nothing | Stored::Marker { .. } => Ok(ClaimEnd::NotOurs),
            },
            Verdict::Ended(_) => Ok(self.ended(delivery).await),
            Verdict::Expired { expect } => {
                let ended =
                    end_unclaimed(None, &delivery.queue.lane, State::Expired, Outcome::default(), unix_ms());
                if let Ok(record) = ended {
                    self.ledger.write(&delivery.key, expect, &record, None).await?;
                }
                Ok(self.ended(delivery).await)
            }
            Verdict::Held { look_again_ms } | Verdict::Early { look_again_ms } => {
                Ok(self.later(delivery, look_again_ms).await)
            }
            Verdict::AskHeartbeat(_) => {
                Err(Error::new(ErrorKind::Other, "the holder could not be looked up"))
            }
        }
    }

    /// A job whose holder is lost, and that was lost too often, is not taken over but ended, with its evidence.
    async fn abandon(
        &self,
        delivery: &Delivery,
        expect: u64,
        before: Option<&Record>,
    ) -> Result<Option<ClaimEnd>, Error> {
        let Some(before) = before.filter(|before| before.state.is_held()) else { return Ok(None) };
        let (cause, kind) = (RetryCause::HostLost, FailureKind::HostLost);
        let Decision::Spent { tries } = decide(&delivery.ticket.retry, &before.tries, cause, kind, 0) else {
            return Ok(None);
        };
        let failure = letters::last_of(Failure::new(kind, "its holder was lost"), cause, tries, before);
        letters::bury(&self.broker, &delivery.key, before, &failure).await;
        let outcome = Outcome { failure: Some(failure), ..Outcome::default() };
        let Ok(record) = lifecycle::abandon(before, expect, outcome, unix_ms()) else { return Ok(None) };
        self.ledger.write(&delivery.key, expect, &record, None).await?;
        Ok(Some(self.ended(delivery).await))
    }

    async fn ended(&self, delivery: &Delivery) -> ClaimEnd {
        self.settle(&delivery.ack, Bytes::from_static(b"+ACK")).await;
        ClaimEnd::NotOurs
    }

    /// Whether another agent could start a job of this lane now.
    async fn others_could(&self, lane: &Lane) -> Result<bool, Error> {
        let agents = grange_broker_client::query::agents(&self.broker).await?;
        let mut others = agents.iter().filter(|(status, _)| status.agent != self.me.agent);
        Ok(others.any(|(status, _)| could_start(status, lane)))
    }

    /// Hands a ticket back for so long.
    pub async fn nak(&self, ack: &str, delay_ms: u64) {
        let body = match delay_ms {
            0 => "-NAK".to_owned(),
            ms => format!("-NAK {{\"delay\":{}}}", ms.saturating_mul(1_000_000)),
        };
        self.settle(ack, Bytes::from(body)).await;
    }

    /// Sends a word to a ticket's ack subject. A word that is lost is made good by redelivery and the record.
    pub async fn settle(&self, ack: &str, body: Bytes) {
        if let Err(error) = self.broker.client().publish(ack.to_owned(), body).await {
            tracing::debug!(ack, %error, "ticket not settled; it will come again");
        }
    }

    /// Deals with something that is no ticket: the record says why where there can be one, `GRANGE_DEAD` keeps the
    /// evidence, and it never comes back.
    pub async fn bury(&self, unusable: Unusable) {
        tracing::warn!(subject = unusable.subject, why = unusable.why, "unusable ticket");
        if let Some(key) = &unusable.key {
            let failure = Failure::new(FailureKind::InvalidInput, &unusable.why);
            let outcome = Outcome { failure: Some(failure), ..Outcome::default() };
            if let Ok(record) = end_unclaimed(None, &unusable.queue.lane, State::Failed, outcome, unix_ms()) {
                match self.ledger.write(key, unusable.base, &record, None).await {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    Err(error) => {
                        tracing::warn!(job = %key, %error, "failure not written; the ticket comes again");
                        return self.nak(&unusable.ack, UNDECIDED_MS).await;
                    }
                }
            }
        }
        let evidence = json!({"why": unusable.why, "subject": unusable.subject, "excerpt": unusable.excerpt});
        let dead = match &unusable.key {
            Some(key) => Dead::Job(key),
            None => Dead::Subject(&unusable.subject),
        };
        match dead::bury(&self.broker, unusable.reason, dead, &evidence).await {
            Ok(_) => self.settle(&unusable.ack, Bytes::from_static(b"+TERM")).await,
            Err(error) => {
                tracing::warn!(subject = unusable.subject, %error, "not buried; it comes again");
                self.nak(&unusable.ack, UNDECIDED_MS).await;
            }
        }
    }
}
