//! What the housekeeper asks of the broker: how the queues stand, which tickets lie in the stream, what their records say.
//!
//! Owns bounded reads of many things at once, and the removal of one ticket. Never decides what becomes of a job, and
//! reads replicas that may be behind: who acts on what it says asks the leader first.

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::history;
use crate::ledger::read_stored;
use crate::post::Post;
use crate::priority::runs_out;
use crate::topology::QueueState;
use async_nats::jetstream;
use bytes::Bytes;
use grange_protocol::name::AgentName;
use grange_protocol::ownership::{Heartbeat, Stored};
use grange_protocol::status::HEARTBEAT_TTL_S;
use grange_protocol::subject::{
    AGENTS_BUCKET, JOBS, JobKey, Lane, Queue, STATE, heartbeat, parse_state, parse_ticket,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error as _;
use time::OffsetDateTime;

/// Pages of consumers that are read at most: more than the stream may have.
const MAX_PAGES: usize = 64;
/// Bytes of a message that are kept as evidence.
const EXCERPT_BYTES: usize = 512;

/// Something in the ticket stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lying {
    /// A ticket.
    Ticket(Ticket),
    /// Its subject names no queue, so nobody is ever given it.
    Unreadable(Unreadable),
}

/// A ticket that lies in the stream, whoever has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The job.
    pub key: JobKey,
    /// In which lane it lies.
    pub lane: Lane,
    /// Its sequence.
    pub sequence: u64,
    /// When the broker stored it, Unix milliseconds of the broker.
    pub stored_ms: u64,
    /// The revision of the record that it builds on; 0: none. None: what it says is no number.
    pub base: Option<u64>,
}

impl Ticket {
    /// The queue that it lies in.
    pub fn queue(&self) -> Queue {
        self.key.queue(&self.lane)
    }
}

/// A message whose subject names no queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its subject.
    pub subject: String,
    /// Its sequence.
    pub sequence: u64,
    /// What is wrong with it.
    pub why: String,
    /// How its body begins.
    pub excerpt: String,
}

/// A page of the ticket stream, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Tickets {
    /// What lies there.
    pub found: Vec<Lying>,
    /// From which sequence the next page goes on.
    pub next: u64,
    /// How many more there are.
    pub remaining: u64,
}

/// What is stored of one job.
#[derive(Clone, Debug)]
pub struct Known {
    /// The record, a marker, or nothing.
    pub stored: Stored,
    /// When it runs out, Unix milliseconds of the broker. None: it stays.
    pub runs_out_ms: Option<u64>,
}

/// Every queue that has a consumer, with what that says. Consumers with names of another shape are left out; in a cluster
/// also those whose server did not answer in time.
pub async fn queue_states(broker: &Broker) -> Result<BTreeMap<Queue, QueueState>, Error> {
    #[derive(Deserialize)]
    struct Page {
        total: usize,
        #[serde(default)]
        consumers: Option<Vec<Consumer>>,
    }
    #[derive(Deserialize)]
    struct Consumer {
        name: String,
        num_pending: u64,
        num_ack_pending: u64,
        num_waiting: u64,
        delivered: Delivered,
    }
    #[derive(Deserialize)]
    struct Delivered {
        stream_seq: u64,
    }
    let (mut found, mut offset) = (BTreeMap::new(), 0);
    for _ in 0..MAX_PAGES {
        let body = json!({ "offset": offset });
        let page: Page = api::call(broker, &format!("CONSUMER.LIST.{JOBS}"), JOBS, &body).await?;
        let consumers = page.consumers.unwrap_or_default();
        offset += consumers.len();
        let end = consumers.is_empty() || offset >= page.total;
        found.extend(consumers.into_iter().filter_map(|consumer| {
            let state = QueueState {
                waiting: consumer.num_pending,
                handed_out: consumer.num_ack_pending,
                pulls: consumer.num_waiting,
                delivered: consumer.delivered.stream_seq,
            };
            Some((Queue::parse(&consumer.name)?, state))
        }));
        if end {
            break;
        }
    }
    Ok(found)
}

/// What lies in the ticket stream, or in one queue of it, from a sequence on: at most `batch` messages and 4 MiB.
pub async fn tickets(
    broker: &Broker,
    queue: Option<&Queue>,
    from: u64,
    batch: usize,
) -> Result<Tickets, Error> {
    let filter = queue.map_or_else(|| "grange.jobs.>".to_owned(), Queue::filter);
    let page = history::page(broker, JOBS, &filter, from, batch).await?;
    let next = page.messages.last().map_or(from, |last| last.sequence + 1);
    Ok(Tickets { found: page.messages.iter().map(read).collect(), next, remaining: page.remaining })
}

fn read(message: &StoredMessage) -> Lying {
    match parse_ticket(&message.subject) {
        Ok((lane, key)) => {
            let base = match headers::text(&message.headers, headers::STATE) {
                "" => Some(0),
                base => base.parse().ok(),
            };
            let (sequence, stored_ms) = (message.sequence, message.stored_ms);
            Lying::Ticket(Ticket { key, lane, sequence, stored_ms, base })
        }
        Err(error) => {
            let start = &message.payload[..message.payload.len().min(EXCERPT_BYTES)];
            let excerpt = String::from_utf8_lossy(start).into_owned();
            let (subject, sequence) = (message.subject.clone(), message.sequence);
            Lying::Unreadable(Unreadable { subject, sequence, why: error.to_string(), excerpt })
        }
    }
}

/// What is stored of these jobs. Records that cannot be read are left out.
pub async fn records(broker: &Broker, keys: &[JobKey]) -> Result<BTreeMap<JobKey, Known>, Error> {
    let nothing = || Known { stored: Stored::Nothing, runs_out_ms: None };
    let mut known: BTreeMap<JobKey, Known> = keys.iter().map(|key| (key.clone(), nothing())).collect();
    let subjects: Vec<String> = keys.iter().map(JobKey::state).collect();
    for message in history::last_of_each(broker, STATE, &subjects).await? {
        let Some(key) = parse_state(&message.subject) else { continue };
        let runs_out_ms = runs_out(&message);
        match read_stored(Some(message)) {
            Ok(stored) => drop(known.insert(key, Known { stored, runs_out_ms })),
            Err(error) => {
                tracing::warn!(%error, job = %key, "record cannot be read");
                known.remove(&key);
            }
        }
    }
    Ok(known)
}

/// A page of the records, oldest write first: at most `batch` and 4 MiB from a sequence on, where the next page goes on,
/// and how many more there are. Records that cannot be read are left out.
pub async fn written(
    broker: &Broker,
    from: u64,
    batch: usize,
) -> Result<(Vec<(JobKey, Known)>, u64, u64), Error> {
    let page = history::page(broker, STATE, "grange.state.>", from, batch).await?;
    let next = page.messages.last().map_or(from, |last| last.sequence + 1);
    let mut found = Vec::with_capacity(page.messages.len());
    for message in page.messages {
        let Some(key) = parse_state(&message.subject) else { continue };
        let runs_out_ms = runs_out(&message);
        match read_stored(Some(message)) {
            Ok(stored) => found.push((key, Known { stored, runs_out_ms })),
            Err(error) => tracing::debug!(%error, job = %key, "record cannot be read"),
        }
    }
    Ok((found, next, page.remaining))
}

/// Whether a ticket of the job lies in the stream, whoever has it, by the leader. `subject` may be one with wildcards.
pub async fn has_ticket(broker: &Broker, subject: &str) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Info {
        state: Counts,
    }
    #[derive(Deserialize)]
    struct Counts {
        #[serde(default)]
        subjects: Option<BTreeMap<String, u64>>,
    }
    let body = json!({ "subjects_filter": subject });
    let info: Info = api::call(broker, &format!("STREAM.INFO.{JOBS}"), subject, &body).await?;
    Ok(info.state.subjects.is_some_and(|subjects| !subjects.is_empty()))
}

/// Publishes a ticket once more that is gone though its job has not ended. `nth`: tells this one from earlier ones.
pub async fn restore_ticket(
    broker: &Broker,
    key: &JobKey,
    subject: &str,
    revision: u64,
    nth: u64,
    body: Bytes,
) -> Result<(), Error> {
    let message_id = format!("{key}/r{revision}.{nth}");
    let post = Post { broker: broker.clone(), subject: subject.to_owned(), message_id, revision, body };
    let first = post.send().await?;
    post.settle(first).await.map(|_| ())
}

/// Has a ticket given out again at once that was given to somebody who is lost, and rings for it. Whoever gets it decides
/// by its record; where nobody had it any more, nothing happens.
pub async fn hand_out_again(broker: &Broker, ticket: &Ticket) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Info {
        delivered: Delivered,
    }
    #[derive(Deserialize)]
    struct Delivered {
        consumer_seq: u64,
    }
    let name = ticket.queue().consumer();
    let verb = format!("CONSUMER.INFO.{JOBS}.{name}");
    let info: Info = match api::call(broker, &verb, &name, &Value::Null).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        answer => answer?,
    };
    // Of an acknowledgement's subject the broker looks at the ticket, and that the delivery can have been.
    let (sequence, delivery) = (ticket.sequence, info.delivered.consumer_seq);
    let ack = format!("$JS.ACK.{JOBS}.{name}.1.{sequence}.{delivery}.0.0");
    let bell = ticket.key.ticket(&ticket.lane).replacen("grange.jobs.", "grange.bell.", 1);
    for (subject, word) in [(ack, "-NAK"), (bell, "")] {
        broker.client().publish(subject, word.into()).await.map_err(|_| Error::closed())?;
    }
    Ok(())
}

/// The newest ticket of a job, by the leader.
pub async fn ticket_of(broker: &Broker, key: &JobKey) -> Result<Option<Lying>, Error> {
    Ok(api::leader_last(broker, JOBS, &key.any_ticket()).await?.as_ref().map(read))
}

/// Removes one ticket. Only tidying up: an agent that gets it all the same finds the record. One that is not there is
/// well.
pub async fn remove_ticket(broker: &Broker, sequence: u64) -> Result<(), Error> {
    let body = json!({ "seq": sequence, "no_erase": true });
    let what = format!("ticket {sequence} of `{JOBS}`");
    match api::call::<Removed>(broker, &format!("STREAM.MSG.DELETE.{JOBS}"), &what, &body).await {
        Err(e) if e.kind() != ErrorKind::NotFound && !is_gone(&e) => Err(e),
        _ => Ok(()),
    }
}

/// The server has one code for every delete that failed (seen: 2.15.1, error 10057); only its text tells why.
fn is_gone(error: &Error) -> bool {
    let told = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    told.is_some_and(|told| told.to_string().contains("no message found"))
}

#[derive(Deserialize)]
struct Removed {
    #[expect(dead_code, reason = "its presence tells an answer from a refusal")]
    success: bool,
}

/// The ticket stream at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEnd {
    /// The moment, Unix milliseconds of the broker.
    pub now_ms: u64,
    /// The newest ticket's sequence, whether it is still there or not; 0: there never was one.
    pub last_ticket: u64,
}

/// How far the ticket stream has come.
pub async fn stream_end(broker: &Broker) -> Result<StreamEnd, Error> {
    let info: Info = api::call(broker, &format!("STREAM.INFO.{JOBS}"), JOBS, &Value::Null).await?;
    Ok(StreamEnd { now_ms: info.now_ms(), last_ticket: info.state.last_seq })
}

/// The broker's clock, Unix milliseconds.
pub async fn clock_ms(broker: &Broker) -> Result<u64, Error> {
    let verb = format!("STREAM.INFO.KV_{AGENTS_BUCKET}");
    let info: Info = api::call(broker, &verb, AGENTS_BUCKET, &Value::Null).await?;
    Ok(info.now_ms())
}

/// What the leader knows of an agent's life, with the broker's time at which it was asked, Unix milliseconds: what
/// decisions about its attempts are made on. None: only the time and the bucket's age.
pub async fn life_of(broker: &Broker, agent: Option<&AgentName>) -> Result<(u64, Heartbeat), Error> {
    let stream = format!("KV_{AGENTS_BUCKET}");
    // The time comes first: what is stored since then counts as now.
    let info: Info = api::call(broker, &format!("STREAM.INFO.{stream}"), AGENTS_BUCKET, &Value::Null).await?;
    let now_ms = info.now_ms();
    let mut life =
        Heartbeat { bucket_age_ms: now_ms.saturating_sub(unix_ms(info.created)), ..Heartbeat::default() };
    let Some(agent) = agent else { return Ok((now_ms, life)) };
    let Some(message) = api::leader_last(broker, &stream, &heartbeat(agent)).await? else {
        return Ok((now_ms, life));
    };
    if message.headers.get(headers::MARKER).is_some() {
        life.last_ms = Some(message.stored_ms.saturating_sub(HEARTBEAT_TTL_S * 1000));
    } else if message.headers.get(headers::OPERATION).is_none() {
        let status = serde_json::from_slice(&message.payload)
            .map_err(|e| Error::malformed(&format!("the heartbeat of `{agent}`"), e))?;
        life.newest = Some((status, message.stored_ms));
    }
    Ok((now_ms, life))
}

fn unix_ms(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

#[derive(Deserialize)]
struct Info {
    #[serde(with = "time::serde::rfc3339")]
    created: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    ts: OffsetDateTime,
    state: Reaches,
}

#[derive(Deserialize)]
struct Reaches {
    last_seq: u64,
}

impl Info {
    fn now_ms(&self) -> u64 {
        unix_ms(self.ts)
    }
}
