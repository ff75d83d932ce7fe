//! stub
use crate::connect::Broker;
use crate::error::Error;
use crate::ledger::Ledger;
use grange_protocol::name::{JobId, Owner, PluginName};
use grange_protocol::record::{Record, State};
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::{JobKey, Lane};
use std::time::Duration;

/// A ticket that lies in its lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Where.
    pub lane: Lane,
    /// The ticket's sequence.
    pub sequence: u64,
    /// When the broker stored it, Unix milliseconds of the broker.
    pub submitted_ms: u64,
    /// Tickets of the lane that were accepted before it and are still there, running ones too. None: not asked for.
    pub ahead: Option<u64>,
}

/// What is known of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    /// Its name.
    pub key: JobKey,
    /// The record's sequence; 0 without one.
    pub sequence: u64,
    /// The record, once there is one.
    pub record: Option<Box<Record>>,
    /// The ticket, where the job still waits.
    pub waiting: Option<Waiting>,
    /// Its waiting time ran out, and the record of that is not written yet.
    pub ran_out: bool,
}

impl JobView {
    /// The state to show.
    pub fn state(&self) -> State {
        match &self.record {
            Some(record) => record.state,
            None if self.ran_out => State::Expired,
            None => State::Queued,
        }
    }
    /// The lane, as far as anything says it.
    pub fn lane(&self) -> Option<Lane> {
        self.record.as_ref().map(|r| r.lane()).or_else(|| self.waiting.as_ref().map(|w| w.lane.clone()))
    }
}

/// Which jobs to list.
#[derive(Clone, Debug)]
pub struct JobFilter {
    /// Of this owner only.
    pub owner: Option<Owner>,
    /// In this state only.
    pub state: Option<State>,
    /// Of this plugin only.
    pub plugin: Option<PluginName>,
    /// At most so many.
    pub limit: usize,
}

/// What is known of one job.
pub async fn job_status(broker: &Broker, ledger: &Ledger, key: &JobKey) -> Result<JobView, Error> {
    todo!("{broker:?} {ledger:?} {key}")
}

/// Finds the job that an id, or its unique beginning, names.
pub async fn find_job(broker: &Broker, id: &JobId, owner: Option<&Owner>) -> Result<JobKey, Error> {
    todo!("{broker:?} {id} {owner:?}")
}

/// Jobs, newest first.
pub async fn list_jobs(broker: &Broker, filter: &JobFilter) -> Result<Vec<JobView>, Error> {
    todo!("{broker:?} {filter:?}")
}

/// Every agent's newest heartbeat and how long ago the broker stored it.
pub async fn agents(broker: &Broker) -> Result<Vec<(AgentStatus, Duration)>, Error> {
    todo!("{broker:?}")
}
