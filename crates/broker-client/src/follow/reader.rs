//! Puts event messages into order: each once, without gaps, one attempt at a time.
//!
//! Owns the chunk count and digest of the attempt that counts. Never does IO: messages go in, updates come out.

use super::update::{Since, Update};
use crate::api::StoredMessage;
use crate::error::{Error, ErrorKind};
use crate::headers;
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use grange_protocol::event::{ChunkError, ChunkTally, EventKind};
use grange_protocol::json::Json;
use grange_protocol::record::{Record, State};
use grange_protocol::subject::AttemptToken;
use std::collections::VecDeque;

/// One event message.
#[derive(Debug)]
pub(super) struct Event {
    token: AttemptToken,
    sequence: u64,
    /// The one before it of the same attempt, where that is known.
    previous: Option<u64>,
    kind: Option<EventKind>,
    first: u64,
    count: u64,
    body: Bytes,
}

impl Event {
    /// Reads a republished copy. None: not an event.
    pub(super) fn live(message: &Message) -> Option<Self> {
        let copied = message.headers.as_ref()?;
        let previous = headers::number(copied, headers::PREVIOUS)?;
        let sequence = headers::number(copied, headers::SEQUENCE)?;
        Self::read(&message.subject, sequence, Some(previous), copied, &message.payload)
    }

    /// Reads a stored message. None: not an event.
    pub(super) fn stored(message: &StoredMessage) -> Option<Self> {
        Self::read(&message.subject, message.sequence, None, &message.headers, &message.payload)
    }

    fn read(
        subject: &str,
        sequence: u64,
        previous: Option<u64>,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Option<Self> {
        Some(Self {
            token: AttemptToken::parse(subject.rsplit('.').next()?)?,
            sequence,
            previous,
            kind: headers::text(headers, headers::KIND).parse().ok(),
            first: headers::number(headers, headers::FIRST).unwrap_or(0),
            count: headers::number(headers, headers::COUNT).unwrap_or(0),
            body: body.clone(),
        })
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in, or does not count.
    Done,
    /// Something before it is missing; it was left out and has to be read from the stream.
    Gap,
}

/// Whether the chunks are those of the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are.
    Right,
    /// There are more to come.
    Incomplete,
    /// They are not.
    Wrong,
}

/// The chunks of the attempt.
#[derive(Debug)]
enum Chunks {
    /// From the first on.
    Whole(ChunkTally),
    /// From the middle on: a resumed reader cannot check the digest.
    Rest { next: u64 },
    /// Of a resumed reader, before its first chunk.
    Unknown,
}

/// The order of events.
#[derive(Debug)]
pub(super) struct Reader {
    after: u64,
    token: Option<AttemptToken>,
    /// The newest event that is in.
    last: u64,
    /// The newest event that was announced.
    announced: u64,
    /// The outcome says that there are more.
    more: bool,
    chunks: Chunks,
}

impl Reader {
    pub(super) fn new(since: Since) -> Self {
        let after = match since {
            Since::Start => 0,
            Since::After(sequence) => sequence,
        };
        Self { after, token: None, last: after, announced: 0, more: false, chunks: begin(after) }
    }

    /// The attempt that counts, as far as is known.
    pub(super) fn token(&self) -> Option<AttemptToken> {
        self.token
    }

    /// The newest event that is in.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Whether something is missing that was announced.
    pub(super) fn is_behind(&self) -> bool {
        self.last < self.announced || self.more
    }

    /// The outcome says that there are more chunks.
    pub(super) fn await_more(&mut self) {
        self.more = true;
    }

    /// Turns to an attempt, unless it is the same or an older one.
    pub(super) fn switch(&mut self, token: AttemptToken, out: &mut VecDeque<Update>) {
        if self.token.is_some_and(|now| order(now) >= order(token)) {
            return;
        }
        self.token = Some(token);
        self.last = self.after;
        self.announced = 0;
        self.more = false;
        self.chunks = begin(self.after);
        out.push_back(Update::Attempt { token });
    }

    /// Whether the message is of a newer attempt than any before.
    pub(super) fn is_news(&self, event: &Event) -> bool {
        self.token.is_none_or(|now| order(now) < order(event.token))
    }

    /// Takes one message into account.
    pub(super) fn take(&mut self, event: &Event, out: &mut VecDeque<Update>) -> Result<Taken, Error> {
        self.switch(event.token, out);
        if self.token != Some(event.token) || event.sequence <= self.last {
            return Ok(Taken::Done);
        }
        if event.previous.is_some_and(|previous| previous > self.last) {
            self.announced = self.announced.max(event.sequence);
            return Ok(Taken::Gap);
        }
        let taken = match event.kind {
            Some(EventKind::Chunk) => self.take_chunks(event, out)?,
            Some(kind) => told(kind, event, out)?,
            // A kind from the future: in, but not understood.
            None => Taken::Done,
        };
        if taken == Taken::Done {
            self.last = event.sequence;
        }
        Ok(taken)
    }

    fn take_chunks(&mut self, event: &Event, out: &mut VecDeque<Update>) -> Result<Taken, Error> {
        if matches!(self.chunks, Chunks::Unknown) {
            self.chunks = match event.first {
                0 => Chunks::Whole(ChunkTally::default()),
                next => Chunks::Rest { next },
            };
        }
        let answer = match &mut self.chunks {
            Chunks::Whole(tally) => tally.receive(event.first, event.count, &event.body),
            Chunks::Rest { next } => continue_at(next, event),
            Chunks::Unknown => Ok(false),
        };
        match answer {
            Ok(true) => {
                self.more = false;
                lines(&event.body, event, out, event.first)?;
                Ok(Taken::Done)
            }
            Ok(false) => Ok(Taken::Done),
            // A copy can be behind one that was lost; what is stored cannot.
            Err(ChunkError::Gap { .. }) if event.previous.is_some() => {
                self.announced = self.announced.max(event.sequence);
                Ok(Taken::Gap)
            }
            Err(error @ ChunkError::Gap { .. }) => {
                let text =
                    format!("chunks of attempt `{}` are no longer kept; start after them", event.token);
                Err(Error::new(ErrorKind::NotFound, text).because(error))
            }
            Err(error @ ChunkError::Count { .. }) => Err(malformed(event, error)),
        }
    }

    /// Compares the chunks with the outcome.
    pub(super) fn verify(&self, record: &Record) -> Verdict {
        let Some(outcome) = &record.outcome else { return Verdict::Right };
        let silent = outcome.chunks == 0 && outcome.chunks_sha256.is_none();
        if self.token.is_none() || record.attempt.is_none() || (silent && record.state != State::Succeeded) {
            return Verdict::Right;
        }
        let there = match &self.chunks {
            Chunks::Whole(tally) => tally.count(),
            Chunks::Rest { next } => *next,
            Chunks::Unknown => return Verdict::Right,
        };
        match there.cmp(&outcome.chunks) {
            std::cmp::Ordering::Less => return Verdict::Incomplete,
            std::cmp::Ordering::Greater => return Verdict::Wrong,
            std::cmp::Ordering::Equal => {}
        }
        match (&self.chunks, &outcome.chunks_sha256) {
            (Chunks::Whole(tally), Some(said)) if tally.sha256() != *said => Verdict::Wrong,
            _ => Verdict::Right,
        }
    }
}

fn begin(after: u64) -> Chunks {
    if after == 0 { Chunks::Whole(ChunkTally::default()) } else { Chunks::Unknown }
}

fn order(token: AttemptToken) -> (u32, u64) {
    (token.number, token.claim)
}

fn continue_at(next: &mut u64, event: &Event) -> Result<bool, ChunkError> {
    if event.first < *next {
        return Ok(false);
    }
    if event.first > *next {
        return Err(ChunkError::Gap { expected: *next, first: event.first });
    }
    let found = event.body.iter().filter(|b| **b == b'\n').count() as u64;
    if found != event.count {
        return Err(ChunkError::Count { said: event.count, found });
    }
    *next += found;
    Ok(true)
}

/// Passes on what is not a chunk.
fn told(kind: EventKind, event: &Event, out: &mut VecDeque<Update>) -> Result<Taken, Error> {
    let (token, sequence) = (event.token, event.sequence);
    match kind {
        EventKind::Chunk => {}
        EventKind::Progress => {
            let progress = serde_json::from_slice(&event.body).map_err(|e| malformed(event, e))?;
            out.push_back(Update::Progress { token, sequence, progress });
        }
        EventKind::Dropped => {
            let dropped = serde_json::from_slice(&event.body).map_err(|e| malformed(event, e))?;
            out.push_back(Update::Dropped { token, sequence, dropped });
        }
        EventKind::Log => {
            for line in event.body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let line = serde_json::from_slice(line).map_err(|e| malformed(event, e))?;
                out.push_back(Update::Log { token, sequence, line });
            }
        }
    }
    Ok(Taken::Done)
}

fn lines(body: &[u8], event: &Event, out: &mut VecDeque<Update>, first: u64) -> Result<(), Error> {
    let lines = body.split_inclusive(|b| *b == b'\n');
    for (index, line) in (first..).zip(lines) {
        let text = std::str::from_utf8(line).map_err(|e| malformed(event, e))?.trim_end();
        let value = Json::parse(text).map_err(|e| malformed(event, e))?;
        out.push_back(Update::Chunk { token: event.token, index, sequence: event.sequence, value });
    }
    Ok(())
}

fn malformed(event: &Event, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::malformed(&format!("event {} of attempt `{}`", event.sequence, event.token), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u32, sequence: u64, previous: Option<u64>, first: u64, values: &[u32]) -> Event {
        let body: String = values.iter().map(|v| format!("{v}\n")).collect();
        Event {
            token: AttemptToken { number, claim: u64::from(number) },
            sequence,
            previous,
            kind: Some(EventKind::Chunk),
            first,
            count: values.len() as u64,
            body: body.into(),
        }
    }

    fn values(out: &VecDeque<Update>) -> Vec<(u32, u64)> {
        out.iter()
            .filter_map(|u| match u {
                Update::Chunk { token, index, .. } => Some((token.number, *index)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_lost_copy_is_a_gap_until_it_was_read() {
        let (mut reader, mut out) = (Reader::new(Since::Start), VecDeque::new());
        assert_eq!(reader.take(&chunk(1, 5, Some(0), 0, &[1]), &mut out).unwrap(), Taken::Done);
        assert_eq!(reader.take(&chunk(1, 9, Some(7), 2, &[3]), &mut out).unwrap(), Taken::Gap);
        assert!(reader.is_behind());
        assert_eq!(reader.take(&chunk(1, 7, None, 1, &[2]), &mut out).unwrap(), Taken::Done);
        assert_eq!(reader.take(&chunk(1, 9, None, 2, &[3]), &mut out).unwrap(), Taken::Done);
        assert!(!reader.is_behind());
        assert_eq!(values(&out), [(1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn a_newer_attempt_begins_anew_and_an_older_one_is_not_heard() {
        let (mut reader, mut out) = (Reader::new(Since::Start), VecDeque::new());
        reader.take(&chunk(1, 5, Some(0), 0, &[1]), &mut out).unwrap();
        reader.take(&chunk(2, 6, Some(0), 0, &[1, 2]), &mut out).unwrap();
        reader.take(&chunk(1, 7, Some(5), 1, &[2]), &mut out).unwrap();
        assert_eq!(values(&out), [(1, 0), (2, 0), (2, 1)]);
    }

    #[test]
    fn a_gap_in_what_is_stored_is_an_error() {
        let (mut reader, mut out) = (Reader::new(Since::Start), VecDeque::new());
        let error = reader.take(&chunk(1, 5, None, 3, &[1]), &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_resumed_reader_goes_on_in_the_middle() {
        let (mut reader, mut out) = (Reader::new(Since::After(7)), VecDeque::new());
        reader.take(&chunk(1, 7, None, 3, &[1]), &mut out).unwrap();
        reader.take(&chunk(1, 8, Some(7), 4, &[1]), &mut out).unwrap();
        assert_eq!(values(&out), [(1, 4)]);
        assert_eq!(reader.take(&chunk(1, 10, Some(8), 6, &[1]), &mut out).unwrap(), Taken::Gap);
    }
}
