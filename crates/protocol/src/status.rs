//! What an agent says of itself: its heartbeat, and what it answers on its control subjects.

use crate::name::{AgentName, Incarnation, JobId, Owner, PluginName};
use crate::resource::Capacity;
use serde::{Deserialize, Serialize};

/// How often a heartbeat is put, milliseconds.
pub const HEARTBEAT_MS: u64 = 2_000;
/// How long a heartbeat stands, seconds.
pub const HEARTBEAT_TTL_S: u64 = 6;

/// Whether an agent takes work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It does.
    #[default]
    Ready,
    /// It finishes what it has.
    Draining,
}

/// Whether a plugin can run on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// Its environment is being built.
    Preparing,
    /// Jobs can start.
    Ready,
    /// It cannot be prepared; the reason says why.
    Failed,
}

impl PluginState {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// One plugin on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginStatus {
    /// Its name.
    pub name: PluginName,
    /// Its version.
    pub version: String,
    /// One line about it.
    #[serde(default)]
    pub description: String,
    /// What it is for, e.g. `transcription`.
    #[serde(default)]
    pub category: String,
    /// Whether it can run here.
    pub state: PluginState,
    /// Why not, or what is being done.
    #[serde(default)]
    pub reason: String,
    /// Workers that are up.
    pub workers: u32,
    /// Runs going on.
    pub running: u32,
    /// Runs that fit at one time.
    pub slots: u32,
}

/// An attempt that an agent holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAttempt {
    /// The job's owner.
    pub owner: Owner,
    /// The job.
    pub job: JobId,
    /// The attempt's number.
    pub number: u32,
    /// The sequence of its claim.
    pub claim: u64,
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Version of this shape; 1.
    pub v: u32,
    /// Who.
    pub agent: AgentName,
    /// Which life.
    pub incarnation: Incarnation,
    /// The build.
    pub version: String,
    /// The host's own name.
    #[serde(default)]
    pub host: String,
    /// Whether it takes work.
    #[serde(default)]
    pub state: AgentState,
    /// How work is kept apart, e.g. `process`.
    #[serde(default)]
    pub isolation: String,
    /// When it came up, Unix milliseconds.
    #[serde(default)]
    pub started_ms: u64,
    /// What the host has.
    #[serde(default)]
    pub capacity: Capacity,
    /// Attempts held.
    #[serde(default)]
    pub attempts: Vec<HeldAttempt>,
    /// Every claim of this life up to this state sequence is either listed or over.
    #[serde(default)]
    pub covers: u64,
    /// Its plugins.
    #[serde(default)]
    pub plugins: Vec<PluginStatus>,
    /// What its operator should know, e.g. a manifest that was skipped.
    #[serde(default)]
    pub notices: Vec<String>,
}

impl AgentStatus {
    /// A status that says nothing yet.
    pub fn silent(agent: AgentName) -> Self {
        Self {
            v: 1,
            agent,
            incarnation: Incarnation::new("none").expect("a fixed name"),
            version: String::new(),
            host: String::new(),
            state: AgentState::Ready,
            isolation: String::new(),
            started_ms: 0,
            capacity: Capacity::default(),
            attempts: Vec::new(),
            covers: 0,
            plugins: Vec::new(),
            notices: Vec::new(),
        }
    }
}

/// `grange.ctl.<agent>.cancel`: somebody asked for a job's end; the record says so already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelOrder {
    /// The job's owner.
    pub owner: Owner,
    /// The job.
    pub job: JobId,
}

/// What a control verb answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlAnswer {
    /// Whether it is done, or under way.
    pub ok: bool,
    /// What happened.
    #[serde(default)]
    pub message: String,
}
