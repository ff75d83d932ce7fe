//! Following one job: its record and its events, live and from history, each once and in order.
//!
//! Owns the subscriptions to the republished copies and decides when to read again. Never writes, never keeps a
//! consumer. What a message means for the chunks is in `reader`.
//!
//! ```text
//!   subscribe ─► read record ─► read events ─► live copies ──(terminal record, every chunk there)──► End
//!                    ▲               ▲             │  └──────(a marker: the waiting time ran out)─────► End
//!                    └───────────────┴─────────────┘ a gap, a reconnect, a slow consumer, 5 s without news
//! ```

mod reader;
mod update;

pub use update::{Since, Update};

use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::expiry;
use crate::headers;
use crate::history;
use crate::ledger::Ledger;
use crate::refusals::Refusal;
use async_nats::{Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use grange_protocol::ownership::Stored;
use grange_protocol::record::Record;
use grange_protocol::subject::{EVENTS, JobKey};
use reader::{Event, Reader, Taken, Verdict};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// After so long without news the record is read again.
const SILENCE: Duration = Duration::from_secs(5);
/// How long an announced event may be missing from what can be read.
const MISSING: Duration = Duration::from_secs(10);
/// How long the broker may be out of reach before a follower gives up.
const OUTAGE: Duration = Duration::from_secs(120);
/// Between two reads of something that is not there yet.
const AGAIN: Duration = Duration::from_millis(20);
/// Events that are read at a time.
const PAGE: usize = 512;

/// Follows one job. Dropping it ends the subscriptions.
#[derive(Debug)]
pub struct Follow {
    broker: Broker,
    ledger: Ledger,
    key: JobKey,
    states: Subscriber,
    events: Subscriber,
    disturbances: watch::Receiver<u64>,
    refusal: Refusal,
    reader: Reader,
    out: VecDeque<Update>,
    /// The newest record's sequence.
    revision: u64,
    /// The record has to be read.
    record_due: bool,
    /// Events have to be read.
    events_due: bool,
    /// Older attempts are part of the history that is to be read.
    all_attempts: bool,
    end: Option<Ending>,
    /// The waiting time ran out, and what that makes of the job has to be read.
    ran_out: bool,
    /// Where a read of several pages goes on.
    cursor: Option<u64>,
    /// The last time that anything came.
    heard: Instant,
    missing_since: Option<Instant>,
    failing_since: Option<Instant>,
    done: bool,
}

/// A terminal record whose events are not all there yet.
#[derive(Debug)]
struct Ending {
    record: Box<Record>,
    sequence: u64,
}

impl Follow {
    /// Subscribes, then reads what there is already. A job that nobody knows yet is waited for.
    pub async fn start(broker: &Broker, key: &JobKey, since: Since) -> Result<Self, Error> {
        let mut follow = Self::subscribe(broker, key, since).await?;
        follow.all_attempts = true;
        follow.read_record().await?;
        Ok(follow)
    }

    /// Only subscribes: for a job that is submitted afterwards over the same connection.
    pub async fn before_submit(broker: &Broker, key: &JobKey) -> Result<Self, Error> {
        Self::subscribe(broker, key, Since::Start).await
    }

    async fn subscribe(broker: &Broker, key: &JobKey, since: Since) -> Result<Self, Error> {
        let client = broker.client();
        let disturbances = broker.disturbances();
        let refusal = broker.refusal(key.on_state().into());
        let states = client.subscribe(key.on_state()).await.map_err(|_| Error::closed())?;
        let events = client.subscribe(key.on_events()).await.map_err(|_| Error::closed())?;
        Ok(Self {
            broker: broker.clone(),
            ledger: Ledger::new(broker),
            key: key.clone(),
            states,
            events,
            disturbances,
            refusal,
            reader: Reader::new(since),
            out: VecDeque::new(),
            revision: 0,
            record_due: false,
            events_due: false,
            all_attempts: false,
            end: None,
            ran_out: false,
            cursor: None,
            heard: Instant::now(),
            missing_since: None,
            failing_since: None,
            done: false,
        })
    }

    /// The next update; None after the end. Safe to drop and call again. `DigestMismatch`: the chunks are not those
    /// of the outcome. `NotFound`: events are no longer kept. `Unauthorised`: this user may not follow this owner's jobs.
    pub async fn next(&mut self) -> Result<Option<Update>, Error> {
        loop {
            if let Some(update) = self.out.pop_front() {
                return Ok(Some(update));
            }
            if self.done {
                return Ok(None);
            }
            let step = if self.ran_out {
                self.expire().await
            } else if self.record_due {
                self.read_record().await
            } else if self.events_due {
                self.read_events().await
            } else if self.end.is_some() {
                self.conclude()
            } else {
                self.listen().await
            };
            match step {
                Ok(()) => self.failing_since = None,
                Err(error) => self.endure(error).await?,
            }
        }
    }

    /// An outage is waited out, for a while; anything else ends the following.
    async fn endure(&mut self, error: Error) -> Result<(), Error> {
        let passing =
            matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unreachable | ErrorKind::NoJetStream);
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if self.done || !passing || since.elapsed() > OUTAGE {
            self.done = true;
            return Err(error);
        }
        tracing::debug!(%error, job = %self.key, "following is interrupted");
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }

    async fn listen(&mut self) -> Result<(), Error> {
        // Copies come over one connection in order; with events first, none is left behind by its record.
        tokio::select! {
            biased;
            message = self.events.next() => match message {
                Some(message) => self.take_event(&message),
                None => Err(self.closed()),
            },
            message = self.states.next() => match message {
                Some(message) => self.take_state(&message),
                None => Err(self.closed()),
            },
            changed = self.disturbances.changed() => match changed {
                Ok(()) => {
                    self.read_again();
                    Ok(())
                }
                Err(_) => Err(self.closed()),
            },
            error = self.refusal.refused() => Err(error),
            () = tokio::time::sleep_until(self.heard + SILENCE) => {
                self.read_again();
                Ok(())
            }
        }
    }

    fn closed(&mut self) -> Error {
        self.done = true;
        Error::closed()
    }

    fn read_again(&mut self) {
        self.heard = Instant::now();
        self.record_due = true;
        self.events_due = self.reader.token().is_some();
    }

    fn take_event(&mut self, message: &Message) -> Result<(), Error> {
        self.heard = Instant::now();
        let Some(event) = Event::live(message) else { return Ok(()) };
        // The record that claimed the attempt came before; it is told before.
        while self.reader.is_news(&event) {
            let Some(Some(message)) = self.states.next().now_or_never() else { break };
            self.take_state(&message)?;
        }
        if self.reader.take(&event, &mut self.out)? == Taken::Gap {
            self.events_due = true;
        }
        Ok(())
    }

    fn take_state(&mut self, message: &Message) -> Result<(), Error> {
        self.heard = Instant::now();
        let Some(copied) = &message.headers else { return Ok(()) };
        let Some(sequence) = headers::number(copied, headers::SEQUENCE) else { return Ok(()) };
        if copied.get(headers::MARKER).is_some() {
            self.marker(sequence);
            return Ok(());
        }
        let record = Record::read(&message.payload)
            .map_err(|e| Error::malformed(&format!("the record of `{}`", self.key), e))?;
        // Across a cluster the end may overtake its events.
        let events_behind = record.state.is_terminal()
            && (self.broker.client().server_info().cluster.is_some()
                || self.disturbances.has_changed().unwrap_or(true));
        self.take_record(sequence, Box::new(record), events_behind);
        Ok(())
    }

    async fn read_record(&mut self) -> Result<(), Error> {
        match self.ledger.read(&self.key).await? {
            Stored::Nothing => {}
            Stored::Marker { sequence } => self.marker(sequence),
            Stored::Record { sequence, record, .. } => self.take_record(sequence, record, true),
        }
        self.record_due = false;
        Ok(())
    }

    fn marker(&mut self, sequence: u64) {
        if sequence > self.revision {
            self.revision = sequence;
            self.ran_out = true;
            self.out.push_back(Update::State { sequence, record: None, expired_marker: true });
        }
    }

    /// Ends with `expired` when the waiting time has run out, whether or not anybody has written that yet.
    async fn expire(&mut self) -> Result<(), Error> {
        let record = expiry::record(&self.broker, &self.ledger, &self.key).await?;
        self.ran_out = false;
        if record.state.is_terminal() {
            self.end = Some(Ending { record, sequence: self.revision });
        } else {
            // Somebody began it anew.
            self.record_due = true;
        }
        Ok(())
    }

    /// Takes a record; `events_behind`: its events may not have come.
    fn take_record(&mut self, sequence: u64, record: Box<Record>, events_behind: bool) {
        if sequence <= self.revision {
            return;
        }
        self.revision = sequence;
        if let Some(fence) = record.fence(sequence) {
            let token = fence.token();
            let first = self.reader.token().is_none();
            if self.all_attempts && token.number == 1 {
                self.all_attempts = false;
            }
            // The history of older attempts comes first, and switches by itself.
            if !self.all_attempts {
                self.cursor = None;
                self.reader.switch(token, &mut self.out);
            }
            self.events_due |= events_behind && (first || record.state.is_terminal());
        }
        if record.state.is_terminal() {
            self.end = Some(Ending { record, sequence });
        } else {
            self.out.push_back(Update::State { sequence, record: Some(record), expired_marker: false });
        }
    }

    async fn read_events(&mut self) -> Result<(), Error> {
        let subject = match self.reader.token() {
            Some(token) if !self.all_attempts => self.key.events(&token),
            _ => format!("grange.events.{}.{}.*", self.key.owner, self.key.job),
        };
        let from = self.cursor.unwrap_or(self.reader.last() + 1);
        let page = history::page(&self.broker, EVENTS, &subject, from, PAGE).await?;
        self.cursor = page.messages.last().map(|m| m.sequence + 1);
        for message in &page.messages {
            if let Some(event) = Event::stored(message) {
                self.reader.take(&event, &mut self.out)?;
            }
        }
        if page.remaining > 0 && self.cursor.is_some() {
            return Ok(());
        }
        self.cursor = None;
        self.all_attempts = false;
        self.events_due = false;
        if self.reader.is_behind() {
            return self.miss().await;
        }
        self.missing_since = None;
        Ok(())
    }

    /// Something that was announced is not there: a replica may be behind.
    async fn miss(&mut self) -> Result<(), Error> {
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        self.events_due = true;
        if since.elapsed() > MISSING {
            let text =
                format!("events of job `{}` are no longer kept; its record still has the outcome", self.key);
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        if self.out.is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Ends, if every chunk is there and is right; else lets events be read again.
    fn conclude(&mut self) -> Result<(), Error> {
        if let Some(Some(message)) = self.events.next().now_or_never() {
            return self.take_event(&message);
        }
        let Some(Ending { record, sequence }) = self.end.take() else { return Ok(()) };
        if let Some(fence) = record.fence(sequence) {
            self.reader.switch(fence.token(), &mut self.out);
        }
        match self.reader.verify(&record) {
            Verdict::Right => {
                self.out.push_back(Update::End(record));
                self.done = true;
                Ok(())
            }
            Verdict::Incomplete => {
                self.end = Some(Ending { record, sequence });
                self.events_due = true;
                self.reader.await_more();
                Ok(())
            }
            Verdict::Wrong => {
                let text =
                    format!("the chunks of job `{}` are not those of its outcome; run it again", self.key);
                Err(Error::new(ErrorKind::DigestMismatch, text))
            }
        }
    }
}
