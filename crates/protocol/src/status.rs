//! What an agent says of itself: its heartbeat, and what it answers on its control subjects.

use crate::capacity::{Capacity, Gpu};
use crate::fit::{Device, Room};
use crate::name::{AgentName, Incarnation, JobId, Owner, PluginName};
use crate::resource::{ON_HOST, ResourceRequest};
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
    /// What one worker takes from the host, as it is admitted now.
    #[serde(default, deserialize_with = "crate::resource::lenient")]
    pub resources: ResourceRequest,
    /// Highest memory that a worker was seen to use on one GPU, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_vram_mb: Option<u64>,
    /// How long a worker takes until it is ready, milliseconds, smoothed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<u64>,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Room is made for it: idle workers leave.
    Waiting,
    /// It loads.
    Starting,
    /// It is loaded and has nothing to do.
    Idle,
    /// It runs jobs.
    Busy,
    /// It was told to end.
    Ending,
    /// Its processes are gone; its GPU memory is not back yet.
    Returning,
}

impl WorkerState {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Ending => "ending",
            Self::Returning => "returning",
        }
    }
}

/// One worker, and what was given to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its plugin.
    pub plugin: PluginName,
    /// What it is doing.
    pub state: WorkerState,
    /// Its GPUs.
    #[serde(default)]
    pub gpus: Vec<String>,
    /// Memory given on each of them, MiB.
    #[serde(default)]
    pub vram_mb: u64,
    /// It has them for itself.
    #[serde(default)]
    pub exclusive: bool,
    /// Host memory given, MiB.
    #[serde(default)]
    pub ram_mb: u64,
    /// Cores given.
    #[serde(default)]
    pub cpus: u32,
    /// Memory that it uses on the GPU where it uses most, MiB.
    #[serde(default)]
    pub vram_used_mb: u64,
    /// Runs going on.
    #[serde(default)]
    pub running: u32,
    /// Runs that fit at one time; 0: not said.
    #[serde(default)]
    pub slots: u32,
    /// Since when it is idle, milliseconds ago; 0 while it is not.
    #[serde(default)]
    pub idle_ms: u64,
}

/// A host keeps room free for a job that needs more than is free at any moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavingStatus {
    /// For which queue, `<class>/<priority>/<plugin>/<owner>`.
    pub queue: String,
    /// Which GPUs.
    #[serde(default)]
    pub gpus: Vec<String>,
    /// For how long still, milliseconds.
    pub left_ms: u64,
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
    /// Its plugin; absent from agents of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginName>,
}

/// A host takes nothing new, and why. It stays so, also over a restart of its agent, until somebody undrains it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Why, in words.
    #[serde(default)]
    pub reason: String,
    /// The agent itself decided it: its host fails whatever it starts.
    #[serde(default)]
    pub automatic: bool,
    /// Nothing runs any more, and no worker is left.
    #[serde(default)]
    pub done: bool,
    /// What still runs is stopped and handed back after so long, milliseconds; None: it may finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
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
    /// Its workers.
    #[serde(default)]
    pub workers: Vec<WorkerStatus>,
    /// What it keeps room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saving: Option<SavingStatus>,
    /// Its host is drained and stays up; beside `state`, so that who does not know it still sees `draining`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,
    /// How many attempts of one owner the whole farm may run at one time, as this agent's operator says; None: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_running_max: Option<u32>,
    /// What its operator should know, e.g. a manifest that was skipped.
    #[serde(default)]
    pub notices: Vec<String>,
}

impl AgentStatus {
    /// What may be given of this host, as far as the heartbeat says.
    pub fn room(&self) -> Room {
        let capacity = &self.capacity;
        let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        let device = |gpu: &Gpu| Device {
            uuid: gpu.uuid.clone(),
            name: gpu.name.clone(),
            compute: gpu.compute.clone(),
            free_mb: signed(gpu.grantable_mb),
            usable_mb: gpu.usable_mb,
            shares: gpu.shares,
            exclusive: gpu.exclusive,
            quarantine: gpu.quarantine.clone(),
            links: gpu.links.clone(),
        };
        let mut labels = capacity.labels.clone();
        labels.insert(ON_HOST.to_owned(), self.agent.to_string());
        Room {
            devices: capacity.gpus.iter().map(device).collect(),
            ram_mb: signed(capacity.ram_grantable_mb),
            ram_usable_mb: capacity.ram_usable_mb,
            cpus: capacity.cpus_grantable.into(),
            cpus_usable: capacity.cpus_usable,
            driver: capacity.driver.clone(),
            labels,
        }
    }

    /// Its state in one word: `ready`, `draining` or `drained`.
    pub fn state_word(&self) -> &'static str {
        match (self.state, &self.drain) {
            (AgentState::Ready, _) => "ready",
            (AgentState::Draining, Some(drain)) if drain.done => "drained",
            (AgentState::Draining, _) => "draining",
        }
    }

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
            workers: Vec::new(),
            saving: None,
            drain: None,
            owner_running_max: None,
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

/// `grange.ctl.<agent>.unquarantine`: a GPU may be used again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnquarantineOrder {
    /// Which; None: every one of the host.
    pub gpu: Option<String>,
}

/// `grange.ctl.<agent>.drain`: take nothing new, finish what runs, hand back what waits. No body: the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainOrder {
    /// What runs longer than so many seconds is stopped and handed back; None: it may finish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Leave when it is done, as after SIGTERM, and remember nothing of it.
    pub exit: bool,
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
