//! Rounds through the records: those that ended long ago are forgotten, and a job that nobody could try again because its
//! ticket is gone is ended with that as its reason, instead of waiting for ever.
//!
//! Cost: a round reads at most `STEP` records on from where the last one stopped. Nothing is decided on what such a copy
//! says: the leader is asked, and every end is a compare-and-set.

use super::survey::Standing;
use super::verdict::{Care, care};
use crate::clock::unix_ms;
use grange_broker_client::connect::Broker;
use grange_broker_client::dead::{self, Dead};
use grange_broker_client::error::{Error, ErrorKind};
use grange_broker_client::ledger::Ledger;
use grange_broker_client::upkeep::{Lying, hand_out_again, has_ticket, life_of, ticket_of, written};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::lifecycle::{Denied, conclude, end_unclaimed};
use grange_protocol::name::{AgentName, Incarnation};
use grange_protocol::ownership::{Delivered, Stored, Verdict, judge};
use grange_protocol::record::{Holder, Outcome, Record, State};
use grange_protocol::subject::{JobKey, Lane};
use serde_json::json;
use std::time::Duration;

/// Records that one round looks at.
const STEP: usize = 512;
/// What is forgotten goes after so long; its marker stays for a day, so that a job id that comes again then is told.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Goes round after round.
pub(super) struct Records {
    broker: Broker,
    ledger: Ledger,
    keep: Duration,
    from: u64,
}

impl Records {
    /// `keep`: how long the record of a job that ended is kept.
    pub(super) fn new(broker: &Broker, keep: Duration) -> Self {
        Self { broker: broker.clone(), ledger: Ledger::new(broker), keep, from: 1 }
    }

    /// The next step on the way around.
    pub(super) async fn go(&mut self, standing: &Standing) -> Result<(), Error> {
        let (found, next, remaining) = written(&self.broker, self.from, STEP).await?;
        self.from = if remaining == 0 { 1 } else { next };
        let keep_ms = u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX);
        for (key, known) in found {
            let done = match care(&known, &standing.agents, keep_ms, standing.now_ms) {
                Care::Leave => continue,
                Care::Forget => self.forget(&key).await,
                Care::NeedsTicket => self.find_ticket(&key).await,
            };
            match done {
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) => tracing::debug!(job = %key, %error, "record is looked at again later"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Lets the record of a job that ended run out. Never while a ticket is left, which would make it look new.
    async fn forget(&self, key: &JobKey) -> Result<(), Error> {
        let Stored::Record { sequence, record, .. } = self.ledger.read(key).await? else { return Ok(()) };
        if !record.state.is_terminal() || has_ticket(&self.broker, &key.any_ticket()).await? {
            return Ok(());
        }
        self.ledger.write(key, sequence, &record, Some(FORGOTTEN_AFTER)).await?;
        tracing::debug!(job = %key, "it ended long ago; its record runs out");
        Ok(())
    }

    /// Ends a job that has no ticket any more; where there is one and its holder is lost, it is given out again.
    async fn find_ticket(&self, key: &JobKey) -> Result<(), Error> {
        let stored = self.ledger.read(key).await?;
        let Stored::Record { sequence, record, .. } = &stored else { return Ok(()) };
        if record.state.is_terminal() {
            return Ok(());
        }
        let is_lost = record.state == State::Retrying
            || lost_holder(&self.broker, key, &record.lane(), &stored).await?;
        if !is_lost {
            return Ok(());
        }
        match ticket_of(&self.broker, key).await? {
            Some(Lying::Ticket(ticket)) if record.state.is_held() => {
                hand_out_again(&self.broker, &ticket).await
            }
            Some(_) => Ok(()),
            None => self.end(key, *sequence, record).await,
        }
    }

    async fn end(&self, key: &JobKey, sequence: u64, before: &Record) -> Result<(), Error> {
        let text = "its ticket is gone from the queue, and nobody is left who runs it; submit it again";
        let failure = Failure::new(FailureKind::HostLost, text);
        let Ok(record) = without_ticket(before, sequence, failure.clone(), unix_ms()) else { return Ok(()) };
        // The evidence first: an end that is not written is tried again.
        let evidence = json!({ "failure": failure, "record": before });
        dead::bury(&self.broker, "ticket_lost", Dead::Job(key), &evidence).await?;
        self.ledger.write(key, sequence, &record, None).await?;
        tracing::warn!(job = %key, "a job whose ticket is gone has failed");
        Ok(())
    }
}

/// The end of a job that nobody can try again: `cancelled` where somebody wanted that, else `failed`.
fn without_ticket(before: &Record, sequence: u64, failure: Failure, at_ms: u64) -> Result<Record, Denied> {
    let (state, outcome) = match &before.cancel_requested {
        Some(_) => (State::Cancelled, Outcome::default()),
        None => (State::Failed, Outcome { failure: Some(failure), ..Outcome::default() }),
    };
    match before.fence(sequence).filter(|_| before.state.is_held()) {
        // In the name of the holder that is lost: should it not be, it finds the job ended.
        Some(fence) => conclude(before, sequence, &fence, state, outcome, at_ms),
        None => end_unclaimed(Some(before), &before.lane(), state, outcome, at_ms),
    }
}

/// Whether what the leader said of a held job, together with its holder's heartbeat, lets somebody else take it.
pub(super) async fn lost_holder(
    broker: &Broker,
    key: &JobKey,
    lane: &Lane,
    stored: &Stored,
) -> Result<bool, Error> {
    let Stored::Record { record, .. } = stored else { return Ok(false) };
    let Some(attempt) = record.attempt.as_ref().filter(|_| record.state.is_held()) else { return Ok(false) };
    let (now_ms, life) = life_of(broker, Some(&attempt.agent)).await?;
    let verdict = judge(Delivered { lane, base: 0 }, stored, &nobody(), now_ms, Some(&life));
    tracing::trace!(job = %key, ?verdict, "looked at its holder");
    Ok(matches!(verdict, Verdict::Claim { .. }))
}

/// The housekeeper judges as one who holds nothing: what its own agent lost is lost too.
fn nobody() -> Holder {
    let agent = AgentName::new("housekeeper").expect("a constant");
    Holder { agent, incarnation: Incarnation::new("none").expect("a constant") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::lifecycle::{Claim, GivenUp, RetryCause, claim, request_cancel, retry};
    use grange_protocol::subject::Queue;

    fn running() -> Record {
        let lane = Queue::parse("default:high:ocr:alice").unwrap().lane;
        claim(None, &lane, 1, &Claim { holder: nobody(), lease_s: 30, ahead: false, at_ms: 1 }).unwrap()
    }

    #[test]
    fn a_job_that_nobody_can_try_again_ends_as_its_owner_would_expect() {
        let why = || Failure::new(FailureKind::HostLost, "gone");
        let held = running();
        let ended = without_ticket(&held, 9, why(), 2).unwrap();
        assert_eq!(
            (ended.state, ended.outcome.unwrap().failure.unwrap().kind),
            (State::Failed, FailureKind::HostLost)
        );
        let back =
            retry(&held, 9, &held.fence(9).unwrap(), &GivenUp::at_once(RetryCause::HostLost), "", 2).unwrap();
        assert_eq!(without_ticket(&back, 10, why(), 3).unwrap().state, State::Failed);
        let asked = request_cancel(Some((&held, 9)), &held.lane(), "", 2).unwrap();
        assert_eq!(without_ticket(&asked, 10, why(), 3).unwrap().state, State::Cancelled);
        assert!(without_ticket(&ended_one(), 11, why(), 3).is_err());
    }

    fn ended_one() -> Record {
        without_ticket(&running(), 9, Failure::new(FailureKind::HostLost, "gone"), 2).unwrap()
    }
}
