//! What clients and the harness saw, in the order of one monotonic clock, one JSON line each.
//!
//! Owns the words of the history and the file it is kept in. Never judges.

use grange_protocol::failure::FailureKind;
use grange_protocol::record::{Record, State};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Nanoseconds of this machine's monotonic clock: the one that the workers write down too.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// What a job is to do, as its witness and its checker need to know it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// SHA-256 of its payload.
    pub input_sha256: String,
    /// Chunks of each whole attempt.
    pub chunks: u64,
    /// What happens in each attempt, from the first; after these it returns.
    pub fates: Vec<String>,
    /// It hears no cancel.
    pub deaf: bool,
    /// Most attempts that its budgets allow.
    pub attempts_max: u32,
}

/// What a cancel led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancelling {
    /// Nobody held it.
    AtOnce,
    /// The holder was asked.
    Requested,
    /// It had ended.
    AlreadyEnded,
    /// No answer: nobody knows.
    Unknown,
}

/// What of a record matters here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// The record's sequence.
    pub revision: u64,
    /// Its state.
    pub state: State,
    /// The newest attempt's number; 0: none.
    pub attempt: u32,
    /// Its claim.
    pub claim: u64,
    /// Its agent.
    pub agent: String,
    /// Somebody asked for its end.
    pub cancel_requested: bool,
    /// Each moment's state and attempt, oldest first.
    pub moments: Vec<(State, u32)>,
    /// Why it failed.
    pub failure: Option<FailureKind>,
    /// The failure's text.
    pub message: String,
    /// Chunks of the outcome.
    pub chunks: u64,
    /// The execution that the result names.
    pub execution: Option<String>,
    /// The digest that the result names.
    pub digest: Option<String>,
}

impl Sight {
    /// What a record says, stored at this sequence.
    pub fn of(record: &Record, revision: u64) -> Self {
        let attempt = record.attempt.as_ref();
        let outcome = record.outcome.as_ref();
        let result = outcome.and_then(|outcome| outcome.result.as_ref()).map(|json| json.value());
        let word = |name: &str| Some(result.as_ref()?.get(name)?.as_str()?.to_owned());
        let failure = outcome.and_then(|outcome| outcome.failure.as_ref());
        Self {
            revision,
            state: record.state,
            attempt: attempt.map_or(0, |attempt| attempt.number),
            claim: attempt.map_or(0, |attempt| attempt.claim.unwrap_or(revision)),
            agent: attempt.map_or_else(String::new, |attempt| attempt.agent.to_string()),
            cancel_requested: record.cancel_requested.is_some(),
            moments: record.history.iter().map(|m| (m.state, m.attempt.unwrap_or(0))).collect(),
            failure: failure.map(|failure| failure.kind),
            message: failure.map_or_else(String::new, |failure| failure.message.clone()),
            chunks: outcome.map_or(0, |outcome| outcome.chunks),
            execution: word("execution"),
            digest: word("digest"),
        }
    }
}

/// One thing that was seen or done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Fact {
    /// A client is about to submit. The same job may be submitted again.
    Submitting {
        /// The job.
        job: String,
        /// What it is to do.
        wanted: Wanted,
    },
    /// The farm accepted it.
    Submitted {
        /// The job.
        job: String,
    },
    /// The farm said no.
    NotSubmitted {
        /// The job.
        job: String,
        /// Why.
        why: String,
    },
    /// No answer: nobody knows.
    SubmitUnknown {
        /// The job.
        job: String,
        /// What was said.
        why: String,
    },
    /// A client is about to ask for its end.
    Cancelling {
        /// The job.
        job: String,
    },
    /// What that led to.
    Cancelled {
        /// The job.
        job: String,
        /// How.
        how: Cancelling,
    },
    /// A reader saw a record.
    Seen {
        /// The job.
        job: String,
        /// Who.
        reader: String,
        /// What.
        sight: Sight,
    },
    /// A reader looked for an accepted job and found neither record nor ticket.
    NotFound {
        /// The job.
        job: String,
    },
    /// A follower came to the end.
    Followed {
        /// The job.
        job: String,
        /// Every chunk it was given: attempt, index, value. A switch to another attempt begins anew.
        chunks: Vec<(u32, u64, String)>,
        /// The state it was told at the end.
        state: Option<State>,
        /// Chunks of the outcome it was told.
        told: u64,
        /// An error ended it.
        error: Option<String>,
    },
    /// A fault begins or ends.
    Fault {
        /// Which.
        fault: String,
        /// With whom.
        target: String,
        /// It begins.
        begins: bool,
    },
    /// Everything is healed.
    Healed,
    /// A number that must stay bounded.
    Gauge {
        /// What.
        name: String,
        /// The number.
        value: u64,
        /// What it must not exceed.
        limit: u64,
    },
}

/// A fact and when it was noted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The monotonic clock.
    pub at_ns: u64,
    /// The fact.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What was there at the very end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finale {
    /// The newest record of every job that has one.
    pub records: BTreeMap<String, Sight>,
    /// From the healing until all had ended, milliseconds; None: they did not in time.
    pub settled_ms: Option<u64>,
    /// What was left behind: processes, folders, locks.
    pub left: Vec<String>,
    /// Places where a secret was found that must be nowhere.
    pub secrets: Vec<String>,
}

/// The history as it grows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct History(Arc<Mutex<(Vec<Event>, File)>>);

impl History {
    /// A history that is kept in this file too.
    pub fn new(path: &Path) -> std::io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new((Vec::new(), File::create(path)?)))))
    }

    /// Notes a fact now.
    pub fn note(&self, fact: Fact) {
        let mut inner = self.0.lock().expect("no holder panics");
        let event = Event { at_ns: now_ns(), fact };
        let mut line = serde_json::to_vec(&event).expect("a fact is JSON");
        line.push(b'\n');
        inner.1.write_all(&line).expect("the history can be written");
        inner.0.push(event);
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().expect("no holder panics").0.clone()
    }
}
