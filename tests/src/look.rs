//! Looking at the broker and at files from outside, and publishing as a stranger would.

use crate::client::Client;
use crate::eventually::eventually;
use async_nats::HeaderMap;
use bytes::Bytes;
use grange_broker_client::cancel::{Cancelled, cancel};
use grange_broker_client::publish;
use grange_protocol::subject::{DEAD, JOBS, JobKey, Queue};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Something in `GRANGE_DEAD`.
#[derive(Clone, Debug)]
pub struct Buried {
    /// Where it lies.
    pub subject: String,
    /// Its body.
    pub body: Value,
}

/// What a queue's consumer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFacts {
    /// Deliveries so far, repeated ones too.
    pub deliveries: u64,
    /// Tickets that nobody was given yet.
    pub waiting: u64,
    /// Tickets that somebody was given and that are not settled.
    pub unsettled: u64,
}

/// The lines of a file; none when it is not there.
pub fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until a file has this line: a plugin writes its label down when it begins.
pub async fn began(log: &Path, label: &str) {
    eventually(&format!("`{label}` began"), Duration::from_secs(20), async || match lines(log) {
        lines if lines.iter().any(|line| line == label) => Ok(()),
        lines => Err(format!("{lines:?}")),
    })
    .await;
}

impl Client {
    /// Waits until no ticket is left in any lane.
    pub async fn no_tickets(&self) {
        self.tickets_left(0).await;
    }

    /// Waits until so many tickets are left: an outcome is known before its ticket is acknowledged.
    pub async fn tickets_left(&self, count: usize) {
        let left = format!("{count} tickets are left");
        eventually(&left, Duration::from_secs(20), async || match self.tickets().await {
            tickets if tickets.len() == count => Ok(()),
            tickets => Err(format!("{tickets:?}")),
        })
        .await;
    }

    /// Asks for a job's end.
    pub async fn cancel(&self, key: &JobKey) -> Cancelled {
        cancel(&self.broker, &self.ledger, key, "the test wants it").await.expect("a cancel is answered")
    }

    /// Stores a message as a foreign client would, and answers its sequence.
    pub async fn put(&self, subject: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> u64 {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.insert(*name, *value);
        }
        let sent = publish::send(&self.broker, subject.to_owned(), all, body.into()).await;
        sent.expect("it is sent").stored().await.expect("it is stored").sequence
    }

    /// The subjects of a stream that fit a filter.
    pub async fn subjects(&self, stream: &str, filter: &str) -> Vec<String> {
        let info = self.ask(&format!("STREAM.INFO.{stream}"), &json!({"subjects_filter": filter})).await;
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        subjects.into_iter().map(|(subject, _)| subject).collect()
    }

    /// Tickets that lie in the queue, whoever has them.
    pub async fn tickets(&self) -> Vec<String> {
        self.subjects(JOBS, "grange.jobs.>").await
    }

    /// Everything in `GRANGE_DEAD`, every message of every subject.
    pub async fn dead(&self) -> Vec<Buried> {
        let state = self.ask(&format!("STREAM.INFO.{DEAD}"), &Value::Null).await["state"].clone();
        let last = state["last_seq"].as_u64().expect("a stream has a last sequence");
        let mut found = Vec::new();
        for seq in 1..=last {
            let answer = self.ask(&format!("DIRECT.GET.{DEAD}"), &json!({ "seq": seq })).await;
            let subject = answer["subject"].as_str().unwrap_or_default().to_owned();
            found.push(Buried { subject, body: answer["body"].clone() });
        }
        found
    }

    /// What a queue's consumer says; it has none until a ticket was put there.
    pub async fn queue_facts(&self, queue: &Queue) -> QueueFacts {
        let info = self.ask(&format!("CONSUMER.INFO.{JOBS}.{}", queue.consumer()), &Value::Null).await;
        if info["error"]["err_code"] == 10014 {
            return QueueFacts { deliveries: 0, waiting: 0, unsettled: 0 };
        }
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("a consumer: {info}"));
        QueueFacts {
            deliveries: number(&info["delivered"]["consumer_seq"]),
            waiting: number(&info["num_pending"]),
            unsettled: number(&info["num_ack_pending"]),
        }
    }

    /// Asks the JetStream API. A message that is got directly comes as `{"subject", "body"}`.
    async fn ask(&self, verb: &str, body: &Value) -> Value {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let answer = self.broker.request(format!("$JS.API.{verb}"), body).await.expect("the API answers");
        let value = serde_json::from_slice(&answer.payload).unwrap_or(Value::Null);
        match answer.headers.as_ref().and_then(|headers| headers.get("Nats-Subject")) {
            Some(subject) => json!({ "subject": subject.as_str(), "body": value }),
            None => value,
        }
    }
}
