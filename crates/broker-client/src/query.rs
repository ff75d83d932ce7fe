//! Looking: one job, a list of jobs, the agents.
//!
//! Owns what is read to answer, and never keeps a consumer. Never changes anything.

mod list;
pub(crate) mod subjects;

pub use list::{JobFilter, find_job, list_jobs};

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::history;
use crate::ledger::Ledger;
use crate::schedules::{self, Delayed};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Record, State};
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::{AGENTS_BUCKET, JOBS, JobKey, Lane, parse_ticket};
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
    /// Tickets of the same queue (the owner's part of the lane) that were accepted before it and are still there, those
    /// of running jobs too. None: not asked for.
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
    /// When and where it is submitted, where that is later.
    pub delayed: Option<Delayed>,
    /// Its waiting time ran out, and the record of that is not written yet.
    pub ran_out: bool,
}

/// The word for a job that is to be submitted later: it is in no state yet.
pub const DELAYED: &str = "delayed";

impl JobView {
    /// The state to show.
    pub fn state(&self) -> State {
        match &self.record {
            Some(record) => record.state,
            None if self.ran_out => State::Expired,
            None => State::Queued,
        }
    }

    /// The word for where it is: its state, or that it is delayed.
    pub fn word(&self) -> &'static str {
        if self.delayed.is_some() && self.state() == State::Queued { DELAYED } else { self.state().as_str() }
    }

    /// The lane, as far as anything says it.
    pub fn lane(&self) -> Option<Lane> {
        let record = self.record.as_ref().map(|r| r.lane());
        let waiting = || self.waiting.as_ref().map(|w| w.lane.clone());
        record.or_else(waiting).or_else(|| self.delayed.as_ref().map(|d| d.lane.clone()))
    }

    fn new(key: JobKey, stored: Stored) -> Self {
        let nothing = Self { key, sequence: 0, record: None, waiting: None, delayed: None, ran_out: false };
        match stored {
            Stored::Nothing => nothing,
            Stored::Marker { sequence } => Self { sequence, ran_out: true, ..nothing },
            Stored::Record { sequence, record, .. } => Self { sequence, record: Some(record), ..nothing },
        }
    }
}

/// What is known of one job, with its place in its queue while it waits. `NotFound`: no record and no ticket.
pub async fn job_status(broker: &Broker, ledger: &Ledger, key: &JobKey) -> Result<JobView, Error> {
    let mut view = JobView::new(key.clone(), ledger.read(key).await?);
    if matches!(view.state(), State::Queued | State::Retrying) {
        view.waiting = find_waiting(broker, key).await?;
        if view.waiting.is_none() && view.state() == State::Queued {
            view.delayed = schedules::delayed(broker, key).await?;
        }
        // It may have been carried between the two looks.
        if view.waiting.is_none() && view.delayed.is_none() {
            view.waiting = find_waiting(broker, key).await?;
        }
    }
    if view.record.is_none() && view.waiting.is_none() && view.delayed.is_none() && !view.ran_out {
        return Err(not_found(key.job.as_str()));
    }
    Ok(view)
}

async fn find_waiting(broker: &Broker, key: &JobKey) -> Result<Option<Waiting>, Error> {
    let Some(ticket) = api::leader_last(broker, JOBS, &key.any_ticket()).await? else { return Ok(None) };
    let mut waiting = waiting(&ticket)?;
    waiting.ahead = Some(count_ahead(broker, key, &waiting).await?);
    Ok(Some(waiting))
}

fn not_found(job: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no job `{job}`; see `grange jobs` for those that are kept"))
}

fn waiting(ticket: &StoredMessage) -> Result<Waiting, Error> {
    let (lane, _) = parse_ticket(&ticket.subject)
        .map_err(|e| Error::malformed(&format!("the ticket at `{}`", ticket.subject), e))?;
    Ok(Waiting { lane, sequence: ticket.sequence, submitted_ms: ticket.stored_ms, ahead: None })
}

/// All tickets of the queue, less those from this one on.
async fn count_ahead(broker: &Broker, key: &JobKey, waiting: &Waiting) -> Result<u64, Error> {
    let filter = key.queue(&waiting.lane).filter();
    let count = async |from| {
        let page = history::page(broker, JOBS, &filter, from, 1).await?;
        Ok::<u64, Error>(page.messages.len() as u64 + page.remaining)
    };
    let (all, from_here) = (count(1).await?, count(waiting.sequence).await?);
    Ok(all.saturating_sub(from_here))
}

/// Every agent's newest heartbeat, and how long ago the broker stored it (by this machine's clock), by name.
pub async fn agents(broker: &Broker) -> Result<Vec<(AgentStatus, Duration)>, Error> {
    let stream = format!("KV_{AGENTS_BUCKET}");
    let keys = subjects::list(broker, &stream, &format!("$KV.{AGENTS_BUCKET}.>")).await?;
    let now_ms = api::now_ms();
    let mut agents = Vec::with_capacity(keys.len());
    for message in history::last_of_each(broker, &stream, &keys).await? {
        let gone = [headers::MARKER, headers::OPERATION];
        if gone.into_iter().any(|name| message.headers.get(name).is_some()) {
            continue;
        }
        match serde_json::from_slice::<AgentStatus>(&message.payload) {
            Ok(status) => {
                agents.push((status, Duration::from_millis(now_ms.saturating_sub(message.stored_ms))));
            }
            Err(error) => tracing::warn!(%error, key = message.subject, "heartbeat cannot be read"),
        }
    }
    agents.sort_by(|a, b| a.0.agent.cmp(&b.0.agent));
    Ok(agents)
}
