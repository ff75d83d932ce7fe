//! What commands hand to an output.

use grange_broker_client::schedules::CronView;
use grange_broker_client::usage::Used;
use grange_protocol::name::{Owner, PluginName};
use grange_protocol::object::ObjectRef;
use grange_protocol::record::Record;
use grange_protocol::status::{AgentStatus, PluginState, PluginStatus};
use grange_protocol::subject::JobKey;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Note,
    Warning,
}

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
        }
    }
}

/// A file on its way to the store.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) elapsed: Duration,
}

/// An object of a result that now lies on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchedFile {
    pub(crate) object: ObjectRef,
    pub(crate) path: PathBuf,
}

/// How a job ended, and what it gave.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) key: JobKey,
    pub(crate) record: Box<Record>,
    /// What the plugin returned, with paths in the place of fetched objects. None: the job did not succeed.
    pub(crate) result: Option<Value>,
    pub(crate) files: Vec<FetchedFile>,
    /// Objects of the result that were not fetched.
    pub(crate) left: Vec<ObjectRef>,
    /// The chunks were shown before.
    pub(crate) followed: bool,
}

/// One plugin, over all agents.
#[derive(Clone, Debug)]
pub(crate) struct PluginEntry {
    pub(crate) name: PluginName,
    /// Agent and what it says of the plugin.
    pub(crate) hosts: Vec<(String, PluginStatus)>,
}

/// Agents to show, each with the age of its heartbeat.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Agents<'a> {
    /// All of them.
    All(&'a [(AgentStatus, Duration)]),
    /// One, with all that it says of itself.
    One(&'a AgentStatus, Duration),
}

/// Whether something is shown once, or again and again: on a terminal in the place of what was shown before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Showing {
    Once,
    Again,
}

/// What a plugin's rows stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// One for a plugin, over all hosts.
    Overall,
    /// One for each host that has it.
    ByHost,
}

/// A recurring job.
#[derive(Clone, Debug)]
pub(crate) struct CronRow {
    pub(crate) view: CronView,
    /// When it is submitted next, Unix milliseconds, as far as this machine can tell.
    pub(crate) next_ms: Option<u64>,
}

/// How far a batch of jobs is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchRow {
    /// The batch's id; None: jobs that were named one by one.
    pub(crate) batch: Option<String>,
    /// Jobs that there are to be; None: not known yet.
    pub(crate) jobs: Option<u64>,
    /// Jobs that the farm accepted.
    pub(crate) submitted: u64,
    /// Jobs that an agent has.
    pub(crate) running: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// Cancelled, expired or refused.
    pub(crate) dropped: u64,
    /// Lines of the file that are no job.
    pub(crate) skipped: u64,
}

impl BatchRow {
    pub(crate) fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.dropped
    }
}

/// What one owner's jobs of one plugin took.
#[derive(Clone, Debug)]
pub(crate) struct UsageRow {
    pub(crate) owner: Owner,
    pub(crate) plugin: PluginName,
    pub(crate) used: Used,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
    /// What to do.
    pub(crate) advice: Option<String>,
}

/// What happens to the farm of one.
#[derive(Clone, Debug)]
pub(crate) enum FarmNews {
    /// The broker answers.
    Broker { url: String, version: String, durability: String },
    /// Where objects lie.
    Objects { url: String },
    /// The agent's first heartbeat came.
    Agent { status: Box<AgentStatus>, log: PathBuf },
    /// Something that the agent's operator should know.
    Notice { text: String },
    /// A plugin came to a state.
    Plugin { name: PluginName, version: String, state: PluginState, reason: String },
    /// Jobs can be submitted, and every plugin is ready or has failed.
    Ready { plugins: usize, failed: usize },
    /// The agent ended by itself and is started again.
    AgentLost { how: String },
    /// The broker ended by itself and was started again.
    BrokerLost,
    /// The farm is asked to end.
    Stopping { signal: &'static str },
    /// Nothing of it runs any more.
    Stopped,
}
