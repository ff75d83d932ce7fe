//! The end of an attempt: store what it produced, write how it ended by compare-and-set, then deal with the ticket.
//!
//! One function, one order, so that it cannot be done in another: events, files, record, ticket.

use crate::bells::bell_of;
use crate::claims::Claims;
use crate::clock::unix_ms;
use crate::events::EventLog;
use crate::letters;
use crate::news::HouseEvent;
use crate::planted::{self, Bug};
use crate::restore::TicketCopy;
use crate::scratch::WorkerFolder;
use crate::values;
use bytes::Bytes;
use grange_broker_client::error::ErrorKind;
use grange_broker_client::objects::Objects;
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::json::Json;
use grange_protocol::lifecycle::{Denied, GivenUp, RetryCause, conclude, retry};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Fence, Outcome, Record, State, Usage};
use grange_protocol::retry::{Decision, Pause, RetryPolicy, cause_of, decide};
use grange_protocol::subject::{JobKey, Lane};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pauses between tries to write an end: from the first to the last, doubling.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// The plugin returned this.
    Returned {
        /// None means null.
        value: Option<Json>,
        /// There are `$file` marks inside.
        files: bool,
    },
    /// It failed; the policy says whether it is tried again.
    Failed(Box<Failure>),
    /// It was cancelled.
    Cancelled,
    /// No outcome: somebody tries again. The failure is the evidence, should the budget be spent.
    Retry(RetryCause, Box<Failure>),
}

/// What an end is written with.
pub struct Settlement {
    /// The broker and the records.
    pub claims: Claims,
    /// Where results go.
    pub objects: Objects,
    /// The job.
    pub key: JobKey,
    /// The attempt's fence.
    pub fence: Fence,
    /// The newest record that is known.
    pub record: Box<Record>,
    /// Its sequence.
    pub revision: u64,
    /// Where the ticket is settled.
    pub ack: String,
    /// The ticket's subject.
    pub ticket: String,
    /// The ticket, should it be gone when the job waits again.
    pub copy: TicketCopy,
    /// When it is tried again.
    pub policy: RetryPolicy,
    /// The attempt's events; None: it was never given to a worker.
    pub events: Option<EventLog>,
    /// The run's folder.
    pub scratch: PathBuf,
    /// The worker's folder, which holds that of the run.
    pub folder: Option<Arc<WorkerFolder>>,
    /// Largest inline result, bytes.
    pub inline_bytes: usize,
    /// Largest file, bytes.
    pub output_bytes: u64,
    /// What it used.
    pub usage: Usage,
    /// How it ended.
    pub ending: Ending,
}

/// What becomes of the record.
enum End {
    Terminal(State, Box<Outcome>),
    Again(RetryCause, Box<Failure>, Pause),
}

/// What the ticket is told once the record says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// The job has ended.
    Acknowledge,
    /// It waits again, after a rest.
    HandBack(Pause),
    /// It is another's.
    Nothing,
}

impl Settlement {
    /// Settles the attempt. The house hears of it before the ticket is told: a ticket that comes again at once must
    /// not find its own attempt still there.
    pub async fn run(mut self, news: mpsc::Sender<HouseEvent>) {
        let (chunks, chunks_sha256) = match &self.events {
            Some(events) => events.finish().await,
            None => (0, None),
        };
        if planted::is(Bug::EarlyAck) {
            self.claims.settle(&self.ack, Bytes::from_static(b"+ACK")).await;
        }
        let end = self.prepare(chunks, chunks_sha256).await;
        let word = self.write(&end).await;
        values::clear_scratch(std::mem::take(&mut self.scratch)).await;
        let _ = news.send(HouseEvent::Settled(self.key.clone())).await;
        match word {
            Word::Acknowledge => self.claims.settle(&self.ack, Bytes::from_static(b"+ACK")).await,
            Word::HandBack(pause) => {
                // First of all: an agent that leaves waits for nothing more once its jobs are settled.
                self.claims.nak(&self.ack, pause.backoff_ms).await;
                if let Err(error) = self.copy.restore_if_gone(&self.claims).await {
                    tracing::debug!(job = %self.key, %error, "its ticket was not looked for");
                }
                tokio::time::sleep(Duration::from_millis(pause.backoff_ms)).await;
                match pause.avoid_ms {
                    0 => ring(&self.claims, &self.ticket).await,
                    // Whoever hears bells in turn may be this very agent, which is to leave it to others.
                    _ => call(&self.claims, &self.key, &self.record.lane()).await,
                }
            }
            Word::Nothing => {}
        }
    }

    /// Stores results and decides between an end and another try.
    async fn prepare(&mut self, chunks: u64, chunks_sha256: Option<String>) -> End {
        let usage = self.usage.clone();
        let outcome = |result, failure| Outcome {
            result,
            failure,
            chunks,
            chunks_sha256: chunks_sha256.clone(),
            usage: usage.clone(),
            ..Outcome::default()
        };
        match self.ending.clone() {
            Ending::Returned { value, files } => match self.store(value, files).await {
                Ok((result, result_object)) => End::Terminal(
                    State::Succeeded,
                    Box::new(Outcome { result_object, ..outcome(result, None) }),
                ),
                Err(failure) => self.weigh(cause_of(failure.kind), Box::new(failure), &outcome).await,
            },
            Ending::Failed(failure) => self.weigh(cause_of(failure.kind), failure, &outcome).await,
            Ending::Cancelled => End::Terminal(State::Cancelled, Box::new(outcome(None, None))),
            Ending::Retry(cause, failure) => self.weigh(cause, failure, &outcome).await,
        }
    }

    /// What the policy says of an attempt without a result.
    async fn weigh(
        &self,
        cause: RetryCause,
        failure: Box<Failure>,
        outcome: &impl Fn(Option<Json>, Option<Failure>) -> Outcome,
    ) -> End {
        let failed = |failure| End::Terminal(State::Failed, Box::new(outcome(None, Some(failure))));
        match decide(&self.policy, &self.record.tries, cause, failure.kind, chance()) {
            Decision::Again(pause) => End::Again(cause, failure, pause),
            Decision::Final => failed(*failure),
            Decision::Spent { tries } => {
                let failure = letters::last_of(*failure, cause, tries, &self.record);
                letters::bury(&self.claims.broker, &self.key, &self.record, &failure).await;
                failed(failure)
            }
        }
    }

    async fn store(
        &self,
        value: Option<Json>,
        files: bool,
    ) -> Result<(Option<Json>, Option<grange_protocol::object::ObjectRef>), Failure> {
        let Some(mut value) = value else { return Ok((None, None)) };
        if files {
            let (scratch, limit) = (&self.scratch, self.output_bytes);
            value = values::store_files(&self.objects, &value, scratch, limit, values::Left::Given).await?;
        }
        if value.text().len() <= self.inline_bytes {
            return Ok((Some(value), None));
        }
        let object = values::store_text(&self.objects, &value, "result.json").await?;
        Ok((None, Some(object)))
    }

    /// Writes the end until it stands or the job is another's.
    async fn write(&mut self, end: &End) -> Word {
        let mut wait = PAUSE_FIRST;
        let first = planted::is(Bug::IgnoreFence).then(|| (self.record.clone(), self.revision));
        loop {
            let (record, revision) = match &first {
                Some((record, revision)) => (record, *revision),
                None => (&self.record, self.revision),
            };
            let next = match end {
                End::Terminal(state, outcome) => {
                    conclude(record, revision, &self.fence, *state, (**outcome).clone(), unix_ms())
                }
                End::Again(cause, failure, Pause { backoff_ms, avoid_ms }) => {
                    let note = failure.to_string();
                    let (failure, backoff_ms, avoid_ms) = (Some(&**failure), *backoff_ms, *avoid_ms);
                    let given_up = GivenUp { cause: *cause, failure, backoff_ms, avoid_ms };
                    retry(record, revision, &self.fence, &given_up, &note, unix_ms())
                }
            };
            let pause = match end {
                End::Again(_, _, pause) => *pause,
                End::Terminal(..) => Pause::default(),
            };
            let record = match next {
                Ok(record) => record,
                Err(Denied::Ended(_)) => return Word::Acknowledge,
                Err(Denied::Lost(_)) if self.was_given_up() => return Word::HandBack(pause),
                Err(Denied::Lost(_) | Denied::NotFromHere { .. }) => {
                    tracing::warn!(job = %self.key, attempt = self.fence.number, "the job is another's; nothing is reported");
                    return Word::Nothing;
                }
            };
            match self.claims.ledger.write(&self.key, self.revision, &record, None).await {
                Ok(_) if record.state.is_terminal() => return Word::Acknowledge,
                Ok(_) => return Word::HandBack(pause),
                Err(error) => {
                    if error.kind() != ErrorKind::Conflict {
                        tracing::warn!(job = %self.key, %error, "end not written yet");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(PAUSE_LAST);
                    }
                    self.read_again().await;
                }
            }
        }
    }

    /// A refused or unanswered write: what does the leader say?
    async fn read_again(&mut self) {
        match self.claims.ledger.read(&self.key).await {
            Ok(Stored::Record { sequence, record, .. }) => {
                self.revision = sequence;
                self.record = record;
            }
            Ok(Stored::Nothing | Stored::Marker { .. }) => {
                tracing::error!(job = %self.key, "the record is gone from the broker");
                self.record.attempt = None;
            }
            Err(error) => tracing::warn!(job = %self.key, %error, "record not read"),
        }
    }

    /// An earlier try to give this very attempt up arrived, though nobody said so.
    fn was_given_up(&self) -> bool {
        self.record.state == State::Retrying && self.record.fence(self.revision).as_ref() == Some(&self.fence)
    }
}

/// Rings the bell of a ticket that waits again.
pub async fn ring(claims: &Claims, ticket: &str) {
    if let Err(error) = claims.broker.client().publish(bell_of(ticket), Bytes::new()).await {
        tracing::debug!(ticket, %error, "bell not rung; a sweep will find the ticket");
    }
}

/// Calls every agent that has room to a ticket that waits again.
pub async fn call(claims: &Claims, key: &JobKey, lane: &Lane) {
    if let Err(error) = claims.broker.client().publish(key.call(lane), Bytes::new()).await {
        tracing::debug!(job = %key, %error, "agents not called; a sweep will find the ticket");
    }
}

/// A number by chance, evenly spread.
fn chance() -> u64 {
    // The last 32 bits of such an id are random.
    let random = uuid::Uuid::now_v7().as_u128() & u128::from(u32::MAX);
    let random = u64::try_from(random).unwrap_or(0);
    random << 32 | random
}

/// The evidence of a worker that ended in the middle of a run.
pub fn crash_failure(code: Option<i32>, signal: Option<i32>, stderr: &str) -> Failure {
    let how = match (code, signal) {
        (_, Some(signal)) => format!("by signal {signal}"),
        (Some(code), None) => format!("with exit status {code}"),
        (None, None) => "without a trace".to_owned(),
    };
    let mut failure = Failure::new(
        FailureKind::WorkerCrashed,
        format!("the worker process ended {how} in the middle of the run"),
    );
    failure.exit_code = code;
    failure.signal = signal;
    failure.stderr = (!stderr.is_empty()).then(|| stderr.to_owned());
    failure
}
