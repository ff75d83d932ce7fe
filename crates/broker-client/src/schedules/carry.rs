//! Carrying what is due into the queues. Every agent does it, one of them each message; doing it twice is harmless.
//!
//! ```text
//!   due ─► no record ──────────────► ticket, building on nothing   ┐
//!       ─► no record, a wait ─► queued record ─► ticket on it      ├─► acknowledged
//!       ─► queued, never claimed ──► ticket on it                  │
//!       ─► anything else ──────────► nothing: the id is a job that was, or is ┘
//! ```

use crate::api;
use crate::bucket::Bucket;
use crate::connect::Broker;
use crate::dead::{self, Dead};
use crate::error::Error;
use crate::headers;
use crate::ledger::Ledger;
use crate::post::Post;
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use grange_protocol::lifecycle;
use grange_protocol::ownership::Stored;
use grange_protocol::schedule::{
    self, DUE_CONSUMER, DUE_FILTERS, Due, FIRED_BY_HEADER, SCHEDULES, parse_due,
};
use grange_protocol::subject::{JobKey, LANES_BUCKET};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// After so long without an acknowledgement another agent is given it, seconds.
const ACK_WAIT_S: u64 = 10;
/// Bytes of a bad message that are kept as evidence.
const EXCERPT_BYTES: usize = 512;
/// Pulls that may be out at one time: more than a farm has agents.
const MAX_PULLS: u32 = 8192;

/// Something that was fired, as it was delivered.
#[derive(Clone, Debug)]
pub struct DueMessage {
    /// Its subject.
    pub subject: String,
    /// Its sequence in the schedules' stream.
    pub sequence: u64,
    /// Its headers.
    pub headers: HeaderMap,
    /// The ticket's body.
    pub body: Bytes,
    /// Where it is settled.
    pub ack: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// Its job waits in its lane.
    Submitted(JobKey),
    /// Its job was there already: it was cancelled, or carried before, or the id had been used.
    Known(JobKey),
    /// It names no job that may be submitted; `GRANGE_DEAD` has it.
    Unusable(String),
}

/// The last job of a recurring one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastJob {
    pub job: String,
    pub at_ms: u64,
}

/// Makes the consumer, if it is not there.
pub async fn ensure_consumer(broker: &Broker) -> Result<(), Error> {
    let config = json!({
        "durable_name": DUE_CONSUMER, "filter_subjects": DUE_FILTERS, "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_S * 1_000_000_000, "max_deliver": -1, "max_ack_pending": -1, "max_waiting": MAX_PULLS,
    });
    let body = json!({ "stream_name": SCHEDULES, "config": config, "action": "" });
    let verb = format!("CONSUMER.CREATE.{SCHEDULES}.{DUE_CONSUMER}");
    api::call::<Value>(broker, &verb, SCHEDULES, &body).await.map(|_| ())
}

/// Reads a delivery of the consumer. None: it is none.
pub fn read_delivery(message: Message) -> Option<DueMessage> {
    let ack = message.reply.as_ref()?.to_string();
    let tokens: Vec<&str> = ack.split('.').collect();
    let shift = if tokens.len() == 9 { 0 } else { 2 };
    let sequence = tokens.get(5 + shift)?.parse().ok()?;
    let headers = message.headers.unwrap_or_default();
    Some(DueMessage { subject: message.subject.to_string(), sequence, headers, body: message.payload, ack })
}

/// Submits what was fired, unless its job is known. Only then may it be acknowledged.
pub async fn carry(broker: &Broker, ledger: &Ledger, message: &DueMessage) -> Result<Carried, Error> {
    let due = match parse_due(&message.subject, message.sequence) {
        Ok(due) => due,
        Err(error) => return bury(broker, message, error.to_string()).await,
    };
    // The server lets a schedule name any target: nobody's schedule makes jobs for somebody else.
    let fired_by = message.headers.get(FIRED_BY_HEADER).map(async_nats::HeaderValue::as_str);
    if let Some(other) = fired_by.filter(|subject| *subject != due.schedule) {
        let why = format!("`{other}` fired it, which may not; only `{}` may", due.schedule);
        return bury(broker, message, why).await;
    }
    let Due { key, cron, mut lane, .. } = due;
    let wait = headers::read_ttl(headers::text(&message.headers, headers::MAX_WAIT));
    let (before, record) = match ledger.read(&key).await? {
        Stored::Nothing => (0, None),
        Stored::Record { sequence, record, .. } if record.is_untouched() => {
            lane = record.lane();
            (sequence, Some(*record))
        }
        Stored::Record { .. } | Stored::Marker { .. } => return Ok(Carried::Known(key)),
    };
    let revision = match wait {
        None => before,
        // A conflict is somebody who ended it, or carries it too: it is looked at again.
        Some(wait) => {
            let record = record.unwrap_or_else(|| lifecycle::queue(&lane, api::now_ms()));
            ledger.write(&key, before, &record, Some(wait)).await?
        }
    };
    let (subject, message_id) = (key.ticket(&lane), key.to_string());
    let post = Post { broker: broker.clone(), subject, message_id, revision, body: message.body.clone() };
    let first = post.send().await?;
    post.settle(first).await?;
    if let Some(name) = cron {
        let last = LastJob { job: key.job.to_string(), at_ms: api::now_ms() };
        let noted = Bucket::new(broker, LANES_BUCKET);
        if let Err(error) = noted.put(&schedule::last_job_key(&key.owner, &name), &last, None).await {
            tracing::debug!(%error, job = %key, "last job of a recurring one was not noted");
        }
    }
    Ok(Carried::Submitted(key))
}

async fn bury(broker: &Broker, message: &DueMessage, why: String) -> Result<Carried, Error> {
    let start = &message.body[..message.body.len().min(EXCERPT_BYTES)];
    let evidence =
        json!({ "why": why, "sequence": message.sequence, "body": String::from_utf8_lossy(start) });
    dead::bury(broker, "malformed", Dead::Subject(&message.subject), &evidence).await?;
    Ok(Carried::Unusable(why))
}
