//! Submitting a job: one acknowledged publish, and before it a `queued` record where the wait is limited.
//!
//! Owns ids and the order of the two writes. Never checks a plugin's arguments.

use crate::api;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::ledger::Ledger;
use crate::post::{Post, TRIES};
use bytes::Bytes;
use grange_protocol::class::class_of;
use grange_protocol::lifecycle;
use grange_protocol::limit::MAX_MESSAGE_BYTES;
use grange_protocol::name::{Class, JobId, Owner};
use grange_protocol::ownership::Stored;
use grange_protocol::record::State;
use grange_protocol::subject::{JobKey, Lane};
use grange_protocol::ticket::Ticket;
use std::time::Duration;
use uuid::Uuid;

/// A job to submit.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Who submits.
    pub owner: Owner,
    /// The id; None: a new UUIDv7. The same id again within two minutes is the same job.
    pub job: Option<JobId>,
    /// Where it waits.
    pub lane: Lane,
    /// What to do. What it asks for beyond its plugin's request must be what the lane's class says.
    pub ticket: Ticket,
    /// Longest wait for a start, 1 s or more; then it is `expired`.
    pub max_wait: Option<Duration>,
}

/// A job that the farm has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Its name.
    pub key: JobKey,
    /// Where it waits.
    pub lane: Lane,
    /// The ticket's sequence.
    pub sequence: u64,
    /// It had been submitted before.
    pub duplicate: bool,
}

/// A new job id: ids sort by the time they were made.
pub fn new_job_id() -> JobId {
    JobId::from_uuid(Uuid::now_v7())
}

/// Submits and waits for the acceptance. `Invalid`: the ticket's resources are not what the lane's class says.
/// `StorageFull`: the queue has no room. `Conflict`: the id belongs to a job
/// that expired. `Timeout`: nobody knows; submitting again with the same id is safe.
pub async fn submit(broker: &Broker, ledger: &Ledger, submission: Submission) -> Result<Submitted, Error> {
    submit_later(broker, ledger, submission).await?.1.await
}

/// Submits and returns the job's name with a future of the acceptance. Tickets are sent in the order of the calls.
pub async fn submit_later(
    broker: &Broker,
    ledger: &Ledger,
    submission: Submission,
) -> Result<(JobKey, impl Future<Output = Result<Submitted, Error>> + Send + use<>), Error> {
    let Submission { owner, job, lane, ticket, max_wait } = submission;
    check_class(&lane, &ticket)?;
    let key = JobKey { owner, job: job.unwrap_or_else(new_job_id) };
    let body = Bytes::from(ticket.write());
    if body.len() > MAX_MESSAGE_BYTES {
        let text = format!(
            "ticket of {} bytes exceeds the limit of {MAX_MESSAGE_BYTES}; send large values as objects",
            body.len()
        );
        return Err(Error::new(ErrorKind::TooLarge, text));
    }
    let revision = match max_wait {
        None => 0,
        Some(wait) => queue(ledger, &key, &lane, wait).await?,
    };
    let (broker, subject, message_id) = (broker.clone(), key.ticket(&lane), key.to_string());
    let post = Post { broker, subject, message_id, revision, body };
    let first = post.send().await?;
    let named = key.clone();
    let accepted = async move {
        let stored = post.settle(first).await?;
        Ok(Submitted { key, lane, sequence: stored.sequence, duplicate: stored.duplicate })
    };
    Ok((named, accepted))
}

/// Agents pull by the class and start by the ticket: the two must say the same.
fn check_class(lane: &Lane, ticket: &Ticket) -> Result<(), Error> {
    let asked = ticket.resources.clone().unwrap_or_default();
    if lane.class == Class::any() {
        if asked.is_empty() {
            return Ok(());
        }
        return Err(Error::invalid(
            "a job of class `any` asks for no resources; leave them out, or the class",
        ));
    }
    let class =
        class_of(&asked).map_err(|e| Error::invalid("these resources cannot be asked for").because(e))?;
    if class == lane.class {
        return Ok(());
    }
    let text =
        format!("a job that asks for this is of class `{class}`, not `{}`; see `class_of`", lane.class);
    Err(Error::invalid(text))
}

/// Writes the `queued` record and answers its revision. A repeat of the same submission finds its own record.
async fn queue(ledger: &Ledger, key: &JobKey, lane: &Lane, wait: Duration) -> Result<u64, Error> {
    let record = lifecycle::queue(lane, api::now_ms());
    let mut failed = None;
    for _ in 0..TRIES {
        match ledger.write(key, 0, &record, Some(wait)).await {
            Ok(sequence) => return Ok(sequence),
            Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Timeout) => failed = Some(e),
            Err(e) => return Err(e),
        }
        match ledger.read(key).await? {
            Stored::Nothing => {}
            Stored::Record { sequence, record, .. } if record.state == State::Queued => return Ok(sequence),
            Stored::Record { record, .. } => {
                let text = format!("job `{key}` exists and is {}; use a new id", record.state);
                return Err(Error::new(ErrorKind::Conflict, text));
            }
            Stored::Marker { .. } => {
                let text = format!("job `{key}` exists and its waiting time ran out; use a new id");
                return Err(Error::new(ErrorKind::Conflict, text));
            }
        }
    }
    Err(failed.unwrap_or_else(Error::closed))
}
