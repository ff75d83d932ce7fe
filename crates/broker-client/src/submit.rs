//! Submitting a job: one acknowledged publish, and before it a `queued` record where the wait is limited.
//!
//! Owns ids and the order of the two writes. Never checks a plugin's arguments.

use crate::api;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::ledger::Ledger;
use crate::post::{Post, TRIES};
use crate::publish::Pending;
use bytes::Bytes;
use grange_protocol::class::class_of;
use grange_protocol::lifecycle;
use grange_protocol::limit::MAX_MESSAGE_BYTES;
use grange_protocol::name::{Class, JobId, Owner};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Record, State};
use grange_protocol::subject::{JobKey, Lane};
use grange_protocol::ticket::Ticket;
use sha2::{Digest, Sha256};
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
    /// When it is submitted, Unix milliseconds, where that is later.
    pub due_ms: Option<u64>,
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

/// Submits a job whose id stands for this one request (`job_id_of_key`): a digest of it is in the record from the
/// beginning. The same request again is a duplicate, whatever became of the job, for as long as that is known.
/// `Conflict`: the id stands for another request, or for one that cannot be compared.
pub async fn submit_once(
    broker: &Broker,
    ledger: &Ledger,
    submission: Submission,
) -> Result<Submitted, Error> {
    start(broker, ledger, submission, Once::ThisRequest).await?.1.settle().await
}

/// Whether an id stands for one request, and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once {
    /// It does.
    ThisRequest,
    /// It is just a name.
    AnyRequest,
}

/// Submits and returns the job's name with a future of the acceptance. Tickets are sent in the order of the calls.
pub async fn submit_later(
    broker: &Broker,
    ledger: &Ledger,
    submission: Submission,
) -> Result<(JobKey, impl Future<Output = Result<Submitted, Error>> + Send + use<>), Error> {
    let (key, accepted) = start(broker, ledger, submission, Once::AnyRequest).await?;
    Ok((key, accepted.settle()))
}

async fn start(
    broker: &Broker,
    ledger: &Ledger,
    submission: Submission,
    once: Once,
) -> Result<(JobKey, Accepted), Error> {
    let (key, body) = check(&submission)?;
    let revision = match begin(ledger, &key, &submission, once, submission.max_wait).await? {
        Begun::At(revision) => revision,
        Begun::Known(known) => return Ok((key, Accepted::Known(known))),
    };
    let lane = submission.lane;
    let (broker, subject, message_id) = (broker.clone(), key.ticket(&lane), key.to_string());
    let post = Post { broker, subject, message_id, revision, body };
    let first = post.send().await?;
    Ok((key.clone(), Accepted::Sent(Box::new(Sent { post, first, key, lane }))))
}

/// A submission on its way.
enum Accepted {
    /// The same was submitted before.
    Known(Submitted),
    /// Its ticket was sent.
    Sent(Box<Sent>),
}

/// A ticket whose acceptance is not known.
struct Sent {
    post: Post,
    first: Pending,
    key: JobKey,
    lane: Lane,
}

impl Accepted {
    async fn settle(self) -> Result<Submitted, Error> {
        match self {
            Self::Known(known) => Ok(known),
            Self::Sent(sent) => {
                let Sent { post, first, key, lane } = *sent;
                let stored = post.settle(first).await?;
                let (sequence, duplicate) = (stored.sequence, stored.duplicate);
                Ok(Submitted { key, lane, sequence, duplicate, due_ms: None })
            }
        }
    }
}

/// Checks a submission; answers its name and its ticket's body.
pub(crate) fn check(submission: &Submission) -> Result<(JobKey, Bytes), Error> {
    check_class(&submission.lane, &submission.ticket)?;
    let job = submission.job.clone().unwrap_or_else(new_job_id);
    let body = Bytes::from(submission.ticket.write());
    if body.len() > MAX_MESSAGE_BYTES {
        let text = format!(
            "ticket of {} bytes exceeds the limit of {MAX_MESSAGE_BYTES}; send large values as objects",
            body.len()
        );
        return Err(Error::new(ErrorKind::TooLarge, text));
    }
    Ok((JobKey { owner: submission.owner.clone(), job }, body))
}

/// On which record a submission's ticket builds.
pub(crate) enum Begun {
    /// The record's revision; 0: none.
    At(u64),
    /// The same request was submitted before, and somebody began it.
    Known(Submitted),
}

/// Writes the `queued` record where a submission needs one: for a limited wait, or to stand for a request.
pub(crate) async fn begin(
    ledger: &Ledger,
    key: &JobKey,
    submission: &Submission,
    once: Once,
    wait: Option<Duration>,
) -> Result<Begun, Error> {
    if wait.is_none() && once == Once::AnyRequest {
        return Ok(Begun::At(0));
    }
    let lane = &submission.lane;
    let mut record = lifecycle::queue(lane, api::now_ms());
    if once == Once::ThisRequest {
        record.request_sha256 = Some(request_digest(lane, &submission.ticket).into());
    }
    let mut failed = None;
    for _ in 0..TRIES {
        match ledger.write(key, 0, &record, wait).await {
            Ok(sequence) => return Ok(Begun::At(sequence)),
            Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Timeout) => failed = Some(e),
            Err(e) => return Err(e),
        }
        match ledger.read(key).await? {
            Stored::Nothing => {}
            Stored::Record { sequence, record: found, .. } => {
                return meet(key, &record, sequence, &found);
            }
            Stored::Marker { .. } => {
                let text = format!("job `{key}` exists and its waiting time ran out; use a new id");
                return Err(Error::new(ErrorKind::Conflict, text));
            }
        }
    }
    Err(failed.unwrap_or_else(Error::closed))
}

/// The id has a record already: of this very request, or of something else.
fn meet(key: &JobKey, mine: &Record, sequence: u64, found: &Record) -> Result<Begun, Error> {
    let conflict = |text: String| Err(Error::new(ErrorKind::Conflict, text));
    if mine.request_sha256.is_none() {
        return match found.state {
            // A repeat of the same submission finds its own record.
            State::Queued => Ok(Begun::At(sequence)),
            state => conflict(format!("job `{key}` exists and is {state}; use a new id")),
        };
    }
    match &found.request_sha256 {
        None => conflict(format!(
            "job `{key}` exists and is {}, but what it was asked cannot be compared: it was submitted without a key",
            found.state
        )),
        digest if *digest != mine.request_sha256 => conflict(format!(
            "this key was used for another request: job `{key}` is {}; use another key for other arguments",
            found.state
        )),
        Some(_) if found.is_untouched() => Ok(Begun::At(sequence)),
        Some(_) => {
            let (key, lane) = (key.clone(), found.lane());
            Ok(Begun::Known(Submitted { key, lane, sequence, duplicate: true, due_ms: None }))
        }
    }
}

/// What a request is told from another by: plugin, class and the whole ticket. How soon it should start is no part of it.
fn request_digest(lane: &Lane, ticket: &Ticket) -> String {
    let mut hasher = Sha256::new();
    for part in [lane.plugin.as_str().as_bytes(), lane.class.as_str().as_bytes(), &ticket.write()] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize())
}

/// The id of the job that an owner's key stands for: the same wherever and whenever it is given. The first 16 bytes of
/// SHA-256 over `<owner>/<key>`, as a UUID of version 8.
pub fn job_id_of_key(owner: &Owner, key: &str) -> JobId {
    let digest = Sha256::digest(format!("{owner}/{key}"));
    let bytes = digest.first_chunk::<16>().expect("a digest has 32 bytes");
    JobId::from_uuid(uuid::Builder::from_custom_bytes(*bytes).into_uuid())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_job_of_its_owner() {
        let id = |owner: &str, key: &str| job_id_of_key(&Owner::new(owner).unwrap(), key).to_string();
        assert_eq!(id("alice", "order 17"), id("alice", "order 17"));
        assert_ne!(id("alice", "order 17"), id("bob", "order 17"));
        assert_ne!(id("alice", "order 17"), id("alice", "order 18"));
        // As `docs/wire.md` has it.
        assert_eq!(id("alice", "order 17"), "a4e99c73-4247-8bfe-a5d8-0489debefc7c");
    }
}
