//! The state record: the truth about one job, changed only by compare-and-set.

use crate::failure::Failure;
use crate::json::Json;
use crate::limit::{LEASE_S, MAX_HISTORY};
use crate::name::{AgentName, Class, Incarnation, PluginName};
use crate::object::ObjectRef;
use crate::subject::{AttemptToken, Lane};
use crate::ticket::Priority;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a job is in its life. The table of moves is in `lifecycle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits in its lane.
    Queued,
    /// An agent holds it and starts it within milliseconds.
    Claimed,
    /// A worker runs it.
    Running,
    /// An attempt ended without an outcome; it waits for the next.
    Retrying,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Ended because somebody asked.
    Cancelled,
    /// Nobody could start it in the time it was given.
    Expired,
    /// The farm said no.
    Refused,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Claimed,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
        Self::Refused,
    ];

    /// Whether nothing comes after it.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Queued | Self::Claimed | Self::Running | Self::Retrying => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired | Self::Refused => true,
        }
    }

    /// Whether an attempt holds the job.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Claimed | Self::Running)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Claimed => "claimed",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who holds an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The agent.
    pub agent: AgentName,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// One claimed run of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts from 1.
    pub number: u32,
    /// The agent that holds it.
    pub agent: AgentName,
    /// Which life of that agent.
    pub incarnation: Incarnation,
    /// The sequence of the record that claimed it; None inside that very record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<u64>,
    /// How long the holder may be out of reach, seconds.
    pub lease_s: u32,
    /// When it was claimed, Unix milliseconds of the holder's clock (to show, never to decide by).
    pub claimed_ms: u64,
}

impl Attempt {
    /// Who holds it.
    pub fn holder(&self) -> Holder {
        Holder { agent: self.agent.clone(), incarnation: self.incarnation.clone() }
    }
}

/// What lets one attempt write, and no other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The attempt's number.
    pub number: u32,
    /// Who holds it.
    pub holder: Holder,
    /// The sequence of the record that claimed it.
    pub claim: u64,
}

impl Fence {
    /// Names the attempt's events.
    pub fn token(&self) -> AttemptToken {
        AttemptToken { number: self.number, claim: self.claim }
    }
}

/// Somebody wants the job to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Why, in the asker's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// How many tries ended without an outcome, by whose fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tries {
    /// Runs that ended with an error that is tried again.
    pub plugin_errors: u32,
    /// Worker processes that ended in the middle.
    pub worker_crashes: u32,
    /// Hosts or agents that were lost.
    pub host_losses: u32,
}

/// What an attempt used and produced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Time inside the plugin, milliseconds.
    pub run_ms: f64,
    /// GPU time that was held, seconds.
    pub gpu_seconds: f64,
    /// Highest memory seen on one GPU, MiB.
    pub peak_vram_mb: u64,
}

/// How a job ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// What the plugin returned, of a job that succeeded. Absent means null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// Where the result's JSON lies, when it is larger than the inline limit; `result` is absent then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_object: Option<ObjectRef>,
    /// Why it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// How many chunks the attempt's stream has.
    pub chunks: u64,
    /// Their digest (`event`), when there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks_sha256: Option<String>,
    /// What it took.
    pub usage: Usage,
}

/// One step of a job's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// When, Unix milliseconds of the writer's clock.
    pub at_ms: u64,
    /// The state it came to.
    pub state: State,
    /// Which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Which agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// Why, where that is not plain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The truth about one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this shape; 1.
    pub v: u32,
    /// Where it is.
    pub state: State,
    /// The plugin.
    pub plugin: PluginName,
    /// What it needs of a host.
    pub class: Class,
    /// How soon.
    pub priority: Priority,
    /// When the broker accepted the ticket, Unix milliseconds of the broker's clock; 0 when not known.
    #[serde(default)]
    pub submitted_ms: u64,
    /// The newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// Somebody wants it to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested: Option<CancelRequest>,
    /// Tries that ended without an outcome.
    #[serde(default, skip_serializing_if = "no_tries")]
    pub tries: Tries,
    /// Of a record that is `retrying`: nobody claims it until it has lain in the store for so long, milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub backoff_ms: u64,
    /// Of a record that is `retrying`: the agent of the last attempt leaves it to others for so long after `backoff_ms`,
    /// milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub avoid_ms: u64,
    /// Why the last attempt ended, of a job that is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// Of a job whose id stands for one request: the request's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_sha256: Option<Box<str>>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Its life, oldest first, at most `MAX_HISTORY` moments.
    #[serde(default)]
    pub history: Vec<Moment>,
}

fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

fn no_tries(tries: &Tries) -> bool {
    *tries == Tries::default()
}

/// The newest version of the record's shape that this build reads.
pub const RECORD_VERSION: u32 = 1;

impl Record {
    /// Whether it waits and nobody ever began it: its ticket may be published again.
    pub fn is_untouched(&self) -> bool {
        self.state == State::Queued && self.attempt.is_none()
    }

    /// A record that begins in `state`, without a moment yet.
    pub fn new(lane: &Lane, state: State, submitted_ms: u64) -> Self {
        Self {
            v: RECORD_VERSION,
            state,
            plugin: lane.plugin.clone(),
            class: lane.class.clone(),
            priority: lane.priority,
            submitted_ms,
            attempt: None,
            cancel_requested: None,
            tries: Tries::default(),
            backoff_ms: 0,
            avoid_ms: 0,
            last_failure: None,
            request_sha256: None,
            outcome: None,
            history: Vec::new(),
        }
    }

    /// The lane that its ticket lies in.
    pub fn lane(&self) -> Lane {
        Lane { priority: self.priority, plugin: self.plugin.clone(), class: self.class.clone() }
    }

    /// The fence of the attempt in this record, which was stored at `sequence`.
    pub fn fence(&self, sequence: u64) -> Option<Fence> {
        let attempt = self.attempt.as_ref()?;
        Some(Fence {
            number: attempt.number,
            holder: attempt.holder(),
            claim: attempt.claim.unwrap_or(sequence),
        })
    }

    /// Whether the attempt behind `fence` still holds the job, by this record stored at `sequence`.
    pub fn held_by(&self, fence: &Fence, sequence: u64) -> bool {
        self.state.is_held() && self.fence(sequence).as_ref() == Some(fence)
    }

    /// Moves to a state and remembers it. The first moments give way when there are too many.
    pub(crate) fn enter(&mut self, state: State, at_ms: u64, note: impl Into<String>) {
        self.state = state;
        let attempt = self.attempt.as_ref();
        self.history.push(Moment {
            at_ms,
            state,
            attempt: attempt.map(|a| a.number),
            agent: attempt.map(|a| a.agent.clone()),
            note: note.into(),
        });
        if self.history.len() > MAX_HISTORY {
            self.history.remove(1);
        }
    }

    /// The message to publish.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is always JSON")
    }

    /// Reads a record.
    pub fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// The lease of the attempt, seconds.
    pub fn lease_s(&self) -> u32 {
        self.attempt.as_ref().map_or(LEASE_S, |a| a.lease_s)
    }
}
