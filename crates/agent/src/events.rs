//! The events of one attempt on their way to the broker: chunks, progress and logs in one order.
//!
//! One message is under way at a time; what comes meanwhile travels together in the next. So the order is exact, a
//! repeated publish is recognised by the subject's last sequence, and a slow broker gets few large messages, a fast
//! one many small ones. Never decides anything about the job.

use crate::planted::{self, Bug};
use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use bytes::Bytes;
use grange_broker_client::connect::Broker;
use grange_broker_client::error::ErrorKind;
use grange_broker_client::publish;
use grange_protocol::event::{ChunkTally, Dropped, EventKind, LogLine, Progress};
use grange_protocol::subject::{
    AttemptToken, COUNT_HEADER, EVENTS, EXPECT_HEADER, FIRST_HEADER, JobKey, KIND_HEADER, SEQUENCE_HEADER,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Most bytes of one event message; a single larger chunk was exchanged for a reference before it came here.
const MESSAGE_BYTES: usize = 512 * 1024;
/// Pause before a publish is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Limits of one attempt's events.
#[derive(Clone, Copy, Debug)]
pub struct EventLimits {
    /// Bytes that may wait; more makes the reader wait.
    pub buffer_bytes: usize,
    /// Most log bytes; more is counted, not kept.
    pub log_bytes: u64,
}

/// Tells a worker that so many of its chunks are stored.
pub type Credit = Box<dyn Fn(u32) + Send + Sync>;

/// The way of one attempt's events. Cheap to clone.
#[derive(Clone)]
pub struct EventLog(Arc<Shared>);

struct Shared {
    broker: Broker,
    subject: String,
    limits: EventLimits,
    credit: Credit,
    pending: Mutex<Pending>,
    /// Something to send, or nothing more will come.
    wake: Notify,
    /// Something was sent, or the log was given up.
    moved: Notify,
}

#[derive(Default)]
struct Pending {
    waiting: VecDeque<Segment>,
    bytes: usize,
    tally: ChunkTally,
    log_bytes: u64,
    dropped: Option<Dropped>,
    /// The sender runs.
    running: bool,
    /// Nothing more is taken: the attempt has ended, whatever its worker still says.
    complete: bool,
    /// Nobody wants it any more.
    abandoned: bool,
}

struct Segment {
    kind: EventKind,
    first: u64,
    count: u64,
    body: Vec<u8>,
}

impl EventLog {
    /// A log that has nothing yet; it costs nothing until something comes.
    pub fn new(
        broker: &Broker,
        key: &JobKey,
        token: &AttemptToken,
        limits: EventLimits,
        credit: Credit,
    ) -> Self {
        Self(Arc::new(Shared {
            broker: broker.clone(),
            subject: key.events(token),
            limits,
            credit,
            pending: Mutex::default(),
            wake: Notify::new(),
            moved: Notify::new(),
        }))
    }

    /// Adds one chunk: the text of a JSON value.
    pub fn chunk(&self, text: &str) {
        let mut pending = self.0.lock();
        let pending = &mut *pending;
        if pending.complete {
            return;
        }
        let first = pending.tally.count();
        if planted::is(Bug::LoseChunks) && first % 4 == 3 {
            pending.tally.add(b"lost\n", 1);
            return;
        }
        let body = match pending.waiting.back_mut() {
            Some(last) if last.kind == EventKind::Chunk && last.body.len() + text.len() < MESSAGE_BYTES => {
                last.count += 1;
                &mut last.body
            }
            _ => {
                let body = Vec::with_capacity(text.len() + 1);
                pending.waiting.push_back(Segment { kind: EventKind::Chunk, first, count: 1, body });
                &mut pending.waiting.back_mut().expect("it was just pushed").body
            }
        };
        let start = body.len();
        one_line(text, body);
        body.push(b'\n');
        pending.bytes += body.len() - start;
        pending.tally.add(&body[start..], 1);
        self.start(pending);
    }

    /// Adds how far the run is. A newer one takes the place of one that still waits.
    pub fn progress(&self, progress: &Progress) {
        let body = serde_json::to_vec(progress).unwrap_or_default();
        let mut pending = self.0.lock();
        if pending.complete {
            return;
        }
        if pending.waiting.back().is_some_and(|last| last.kind == EventKind::Progress)
            && let Some(last) = pending.waiting.pop_back()
        {
            pending.bytes -= last.body.len();
        }
        pending.push(EventKind::Progress, body);
        self.start(&mut pending);
    }

    /// Adds a log line, or counts it when there were too many.
    pub fn log(&self, line: &LogLine) {
        let mut body = serde_json::to_vec(line).unwrap_or_default();
        body.push(b'\n');
        let mut pending = self.0.lock();
        let bytes = body.len() as u64;
        if pending.complete {
            return;
        }
        if pending.log_bytes + bytes > self.0.limits.log_bytes {
            let dropped =
                pending.dropped.get_or_insert(Dropped { what: "log".to_owned(), lines: 0, bytes: 0 });
            dropped.lines += 1;
            dropped.bytes += bytes;
            return;
        }
        pending.log_bytes += bytes;
        pending.push(EventKind::Log, body);
        self.start(&mut pending);
    }

    /// Waits until less waits than the limit allows.
    pub async fn room(&self) {
        loop {
            let moved = self.0.moved.notified();
            {
                let pending = self.0.lock();
                if pending.bytes < self.0.limits.buffer_bytes || pending.abandoned {
                    return;
                }
            }
            moved.await;
        }
    }

    /// Waits until everything is stored. The number of chunks and their digest.
    pub async fn finish(&self) -> (u64, Option<String>) {
        {
            let mut pending = self.0.lock();
            if let Some(dropped) = pending.dropped.take() {
                let body = serde_json::to_vec(&dropped).unwrap_or_default();
                pending.push(EventKind::Dropped, body);
                self.start(&mut pending);
            }
            pending.complete = true;
        }
        self.0.wake.notify_one();
        loop {
            let moved = self.0.moved.notified();
            {
                let pending = self.0.lock();
                if !pending.running || pending.abandoned {
                    let chunks = pending.tally.count();
                    return (chunks, (chunks > 0).then(|| pending.tally.sha256()));
                }
            }
            moved.await;
        }
    }

    /// Nobody wants these events any more: the attempt lost its job.
    pub fn abandon(&self) {
        self.0.lock().abandoned = true;
        self.0.wake.notify_one();
        self.0.moved.notify_waiters();
    }

    fn start(&self, pending: &mut Pending) {
        if !pending.running {
            pending.running = true;
            tokio::spawn(send(self.0.clone()));
        }
        self.0.wake.notify_one();
    }
}

impl Pending {
    /// Puts a body behind what waits; log lines travel together.
    fn push(&mut self, kind: EventKind, body: Vec<u8>) {
        self.bytes += body.len();
        match self.waiting.back_mut() {
            Some(last)
                if kind == EventKind::Log
                    && last.kind == kind
                    && last.body.len() + body.len() < MESSAGE_BYTES =>
            {
                last.body.extend_from_slice(&body);
            }
            _ => self.waiting.push_back(Segment { kind, first: 0, count: 0, body }),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message. None: all is sent and nothing more will come.
    async fn next(&self) -> Option<Segment> {
        loop {
            let wake = self.wake.notified();
            {
                let mut pending = self.lock();
                if pending.abandoned {
                    pending.running = false;
                    return None;
                }
                if let Some(segment) = pending.waiting.pop_front() {
                    return Some(segment);
                }
                if pending.complete {
                    pending.running = false;
                    return None;
                }
            }
            wake.await;
        }
    }

    fn stored(&self, segment_bytes: usize) {
        self.lock().bytes -= segment_bytes;
        self.moved.notify_waiters();
    }
}

/// Sends one message after the other, each until it is stored.
async fn send(shared: Arc<Shared>) {
    let mut last_sequence = 0;
    while let Some(segment) = shared.next().await {
        let (bytes, count, kind) = (segment.body.len(), segment.count, segment.kind);
        let mut headers = HeaderMap::new();
        headers.insert(KIND_HEADER, kind.as_str());
        if kind == EventKind::Chunk {
            headers.insert(FIRST_HEADER, HeaderValue::from(segment.first));
            headers.insert(COUNT_HEADER, HeaderValue::from(count));
        }
        let body = Bytes::from(segment.body);
        last_sequence = store(&shared, headers, body, last_sequence).await;
        shared.stored(bytes);
        if kind == EventKind::Chunk {
            (shared.credit)(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }
    shared.moved.notify_waiters();
}

/// Publishes until the broker has it. This log is the only writer of its subject: a refused sequence means that an
/// earlier try arrived.
async fn store(shared: &Shared, mut headers: HeaderMap, body: Bytes, last_sequence: u64) -> u64 {
    headers.insert(EXPECT_HEADER, HeaderValue::from(last_sequence));
    let mut tried = false;
    while !shared.lock().abandoned {
        let sent = publish::send(&shared.broker, shared.subject.clone(), headers.clone(), body.clone()).await;
        let answer = match sent {
            Ok(pending) => pending.stored().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(stored) => return stored.sequence,
            Err(error) if tried && error.kind() == ErrorKind::Conflict => {
                if let Some(sequence) = newest(shared).await {
                    return sequence;
                }
            }
            Err(error) => tracing::debug!(subject = shared.subject, %error, "event not stored yet"),
        }
        tried = true;
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    last_sequence
}

/// The newest sequence of this log's subject.
async fn newest(shared: &Shared) -> Option<u64> {
    let subject = format!("$JS.API.DIRECT.GET.{EVENTS}.{}", shared.subject);
    let message = shared.broker.request(subject, Bytes::new()).await.ok()?;
    message.headers?.get(SEQUENCE_HEADER)?.as_str().parse().ok()
}

/// Appends a JSON value's text as one line. Only a value that was written over several lines is written anew.
fn one_line(text: &str, out: &mut Vec<u8>) {
    if !text.as_bytes().contains(&b'\n') {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Err(_) => out.extend(text.bytes().map(|b| if b == b'\n' { b' ' } else { b })),
    }
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_chunk_is_one_line() {
        let mut out = Vec::new();
        one_line("{\n \"a\": [1,\n2]}", &mut out);
        assert_eq!(out, br#"{"a":[1,2]}"#);
    }
}
