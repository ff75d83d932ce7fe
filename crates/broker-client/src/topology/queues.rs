//! Queues: the durable consumers of the ticket stream, one for each owner's part of a lane.
//!
//! Owns their one configuration and how they are made, found and removed. Never takes a ticket out of one.

use crate::api;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use grange_protocol::subject::{JOBS, Queue};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How long the stream keeps a ticket that was handed out and not settled before it hands it out again.
const ACK_WAIT: Duration = Duration::from_secs(30);
const MAX_WAITING_PULLS: u32 = 4_096;
/// Pages of names that are read at most: more than the stream may have consumers.
const MAX_PAGES: usize = 64;

/// What a queue's consumer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Tickets that nobody was given yet.
    pub waiting: u64,
    /// Tickets that were given to an agent and are not settled: running jobs among them.
    pub handed_out: u64,
    /// Pulls that wait for a ticket.
    pub pulls: u64,
    /// The newest ticket that was given to anybody, as its sequence; 0: none.
    pub delivered: u64,
}

/// Makes the queue's consumer; identical wherever it is called. `StorageFull`: the stream has as many as it may.
pub async fn ensure_queue(broker: &Broker, queue: &Queue) -> Result<(), Error> {
    let (name, filter) = (queue.consumer(), queue.filter());
    let body = json!({
        "stream_name": JOBS,
        "config": {
            "name": name,
            "durable_name": name,
            "filter_subject": filter,
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_policy": "explicit",
            "ack_wait": super::nanos(ACK_WAIT),
            "max_ack_pending": -1,
            "max_deliver": -1,
            "max_waiting": MAX_WAITING_PULLS,
        },
        "action": "",
    });
    let verb = format!("CONSUMER.CREATE.{JOBS}.{name}.{filter}");
    api::call::<super::Created>(broker, &verb, &filter, &body).await.map(|_| ())
}

/// Every queue that has a consumer. Consumers with names of another shape are left out.
pub async fn queues(broker: &Broker) -> Result<Vec<Queue>, Error> {
    #[derive(Deserialize)]
    struct Page {
        total: usize,
        #[serde(default)]
        consumers: Option<Vec<String>>,
    }
    let (mut found, mut offset) = (Vec::new(), 0);
    for _ in 0..MAX_PAGES {
        let body = json!({ "offset": offset });
        let page: Page = api::call(broker, &format!("CONSUMER.NAMES.{JOBS}"), JOBS, &body).await?;
        let names = page.consumers.unwrap_or_default();
        offset += names.len();
        found.extend(names.iter().filter_map(|name| Queue::parse(name)));
        if names.is_empty() || offset >= page.total {
            break;
        }
    }
    // A consumer that is removed between two pages moves the others by one place.
    found.sort();
    found.dedup();
    Ok(found)
}

/// Removes the queue's consumer. Its tickets stay in the stream; whoever makes it again gets them. One that is not
/// there is well.
pub async fn remove_queue(broker: &Broker, queue: &Queue) -> Result<(), Error> {
    let name = queue.consumer();
    let verb = format!("CONSUMER.DELETE.{JOBS}.{name}");
    match api::call::<super::Done>(broker, &verb, &name, &Value::Null).await {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What the queue's consumer says of itself. None: there is none.
pub async fn queue_state(broker: &Broker, queue: &Queue) -> Result<Option<QueueState>, Error> {
    #[derive(Deserialize)]
    struct Info {
        num_pending: u64,
        num_ack_pending: u64,
        num_waiting: u64,
        delivered: Delivered,
    }
    #[derive(Deserialize)]
    struct Delivered {
        stream_seq: u64,
    }
    let name = queue.consumer();
    match api::call::<Info>(broker, &format!("CONSUMER.INFO.{JOBS}.{name}"), &name, &Value::Null).await {
        Ok(info) => Ok(Some(QueueState {
            waiting: info.num_pending,
            handed_out: info.num_ack_pending,
            pulls: info.num_waiting,
            delivered: info.delivered.stream_seq,
        })),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
