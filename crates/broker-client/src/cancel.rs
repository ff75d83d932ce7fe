//! Asking for a job's end.
//!
//! Owns the compare-and-set loop of the request and the word to the holder. Never kills anything.

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::ledger::Ledger;
use crate::{schedules, tidy};
use grange_protocol::lifecycle::{Denied, request_cancel};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Record, State};
use grange_protocol::status::CancelOrder;
use grange_protocol::subject::{JOBS, JobKey, Lane, control, parse_ticket};

/// How often the record may change under the request before it gives up.
const TRIES: u32 = 16;

/// What a request for an end led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// Nobody held the job: it is `cancelled` now.
    AtOnce,
    /// An agent holds it; the request is written down and the agent was told.
    Requested,
    /// It had ended before.
    AlreadyEnded(State),
}

/// Writes the request for a job's end, with the asker's reason. `NotFound`: no record and no ticket.
pub async fn cancel(
    broker: &Broker,
    ledger: &Ledger,
    key: &JobKey,
    reason: &str,
) -> Result<Cancelled, Error> {
    let mut unknown = None;
    for _ in 0..TRIES {
        let (expect, before) = match ledger.read(key).await? {
            Stored::Nothing => (0, None),
            Stored::Marker { .. } => return Ok(Cancelled::AlreadyEnded(State::Expired)),
            Stored::Record { sequence, record, .. } => (sequence, Some(record)),
        };
        let lane = match &before {
            Some(record) => record.lane(),
            None => ticket_lane(broker, key).await?,
        };
        let asked = before.as_ref().is_some_and(|r| r.state.is_held() && r.cancel_requested.is_some());
        let basis = before.as_deref().map(|record| (record, expect));
        let record = match request_cancel(basis, &lane, reason, api::now_ms()) {
            // The write without an answer was ours, and it came through.
            Err(Denied::Ended(State::Cancelled)) if unknown.is_some() => {
                clear(broker, key).await?;
                return Ok(Cancelled::AtOnce);
            }
            Err(Denied::Ended(state)) => {
                // Of a cancel that came no further than the record.
                if state == State::Cancelled {
                    schedules::tidy(broker, key).await?;
                }
                return Ok(Cancelled::AlreadyEnded(state));
            }
            Err(denied) => {
                return Err(Error::new(ErrorKind::Conflict, format!("job `{key}`")).because(denied));
            }
            Ok(record) => record,
        };
        if asked {
            tell(broker, key, &record).await;
            return Ok(Cancelled::Requested);
        }
        match ledger.write(key, expect, &record, None).await {
            Ok(_) if record.state == State::Cancelled => {
                clear(broker, key).await?;
                return Ok(Cancelled::AtOnce);
            }
            Ok(_) => {
                tell(broker, key, &record).await;
                return Ok(Cancelled::Requested);
            }
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            Err(e) if e.kind() == ErrorKind::Timeout => unknown = Some(e),
            Err(e) => return Err(e),
        }
    }
    let text = format!("job `{key}` changed {TRIES} times while its end was asked for; try again");
    Err(unknown.unwrap_or_else(|| Error::new(ErrorKind::Conflict, text)))
}

async fn ticket_lane(broker: &Broker, key: &JobKey) -> Result<Lane, Error> {
    let Some(ticket) = api::leader_last(broker, JOBS, &key.any_ticket()).await? else {
        if let Some(delayed) = schedules::delayed(broker, key).await? {
            return Ok(delayed.lane);
        }
        // It may have been carried between the two looks.
        if let Some(ticket) = api::leader_last(broker, JOBS, &key.any_ticket()).await? {
            return lane_of(&ticket, key);
        }
        return Err(Error::new(ErrorKind::NotFound, format!("no job `{key}`")));
    };
    lane_of(&ticket, key)
}

fn lane_of(ticket: &StoredMessage, key: &JobKey) -> Result<Lane, Error> {
    let subject = parse_ticket(&ticket.subject);
    subject.map(|(lane, _)| lane).map_err(|e| Error::malformed(&format!("the ticket of `{key}`"), e))
}

/// Removes what is left of a job that is cancelled now. A schedule has to go: the record may be forgotten before its time.
async fn clear(broker: &Broker, key: &JobKey) -> Result<(), Error> {
    schedules::tidy(broker, key).await?;
    tidy::newest(broker, key).await;
    Ok(())
}

/// A word to the holder, so that it does not have to find out. It finds out anyway.
async fn tell(broker: &Broker, key: &JobKey, record: &Record) {
    let Some(attempt) = &record.attempt else { return };
    let order = CancelOrder { owner: key.owner.clone(), job: key.job.clone() };
    let body = serde_json::to_vec(&order).expect("an order is always JSON");
    let subject = control(&attempt.agent, "cancel");
    let told = async {
        broker.client().publish(subject, body.into()).await.map_err(|_| Error::closed())?;
        broker.client().flush().await.map_err(|_| Error::closed())
    };
    if let Err(error) = told.await {
        tracing::debug!(%error, job = %key, agent = %attempt.agent, "holder was not told of the cancel");
    }
}
