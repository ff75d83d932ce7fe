//! Why a job waits: its place, who goes first, and what each host says.
//!
//! Owns the gathering and the one word that sums it up. Never changes anything; what this user may not read is left out.

use crate::api::{self, StoredMessage};
use crate::bucket::Bucket;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::history;
use crate::ledger::read_stored;
use crate::priority::runs_out;
use crate::query;
use crate::schedules::{self, Delayed};
use crate::topology::queue_state;
use grange_protocol::admission::explain;
use grange_protocol::facts::{OVERVIEW_KEY, OVERVIEW_STALE_MS, Overview, QueueFact, RunningByAgent};
use grange_protocol::name::{AgentName, Class, JobId, Owner, PluginName};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Record, State};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::{JOBS, JobKey, LANES_BUCKET, Lane, Queue, STATE, parse_ticket};
use grange_protocol::ticket::{Priority, Ticket};
use serde::Serialize;
use std::time::Duration;

/// Why a job waits, or that it does not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// Whose.
    pub owner: Owner,
    /// Which.
    pub job: JobId,
    /// Where it is in its life.
    pub state: State,
    /// The one thing that matters most.
    pub reason: Reason,
    /// The plugin.
    pub plugin: PluginName,
    /// What it needs of a host.
    pub class: Class,
    /// How soon.
    pub priority: Priority,
    /// What it asks for beyond its plugin's request, where its ticket is there and says so.
    pub resources: Option<ResourceRequest>,
    /// The agent that has it, or had it last.
    pub agent: Option<AgentName>,
    /// How long ago it was submitted, or moved, milliseconds.
    pub age_ms: Option<u64>,
    /// When it is submitted, Unix milliseconds, where that is later.
    pub due_ms: Option<u64>,
    /// How long it may still wait, milliseconds. None: for ever.
    pub left_ms: Option<u64>,
    /// Its place in its queue, while it waits there.
    pub place: Option<Place>,
    /// Queues of its plugin that go before its own.
    pub higher: Vec<QueueFact>,
    /// Queues of other owners with the same priority: they take turns with its own.
    pub beside: Vec<QueueFact>,
    /// How old the overview is that says so, milliseconds. None: there is none.
    pub overview_age_ms: Option<u64>,
    /// Attempts that its owner has running. None: not known.
    pub running: Option<u32>,
    /// How many its owner may have running. None: any number.
    pub running_max: Option<u32>,
    /// What each host says, by name.
    pub hosts: Vec<HostSays>,
}

/// A place in a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The queue, `<class>/<priority>/<plugin>/<owner>`.
    pub queue: String,
    /// Tickets that come before it.
    pub ahead: u64,
    /// Tickets that wait there, this one among them.
    pub waiting: u64,
    /// It was handed to an agent before, which has it in hand or handed it back for a while.
    pub handed_out: bool,
    /// Some agent has seen the queue and can pull from it.
    pub open: bool,
}

/// What one host says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostSays {
    /// Who.
    pub agent: AgentName,
    /// How old its heartbeat is, milliseconds.
    pub age_ms: u64,
    /// `now`, `perhaps`, `busy`, `never`, `not_installed`, `not_ready` or `draining`.
    pub answer: &'static str,
    /// The same in words.
    pub text: String,
}

/// What matters most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It has ended.
    Ended,
    /// It runs.
    Running,
    /// No agent is there.
    NoAgents,
    /// No host that is there can ever run it as it is.
    Nowhere,
    /// Its owner has as many running as it may.
    OwnerFull,
    /// Every host that can run it is busy.
    NoRoom,
    /// More urgent jobs of its plugin wait.
    HigherFirst,
    /// Older jobs of its queue wait.
    InLine,
    /// Other owners' jobs wait; they take turns.
    Turns,
    /// Its time has not come.
    Delayed,
    /// An agent has its ticket and decides, or handed it back for a while.
    HandedOut,
    /// Nothing stands in its way: it should start within moments.
    Soon,
}

impl Reason {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "it has ended",
            Self::Running => "an agent has it",
            Self::NoAgents => "no agent is there",
            Self::Nowhere => "no host that is there can run it",
            Self::OwnerFull => "its owner has as many jobs running as it may",
            Self::NoRoom => "every host that can run it is busy",
            Self::HigherFirst => "more urgent jobs go first",
            Self::InLine => "older jobs of the same queue go first",
            Self::Turns => "other owners' jobs take turns with it",
            Self::Delayed => "its time has not come",
            Self::HandedOut => "an agent was given it and has not begun",
            Self::Soon => "nothing stands in its way",
        }
    }
}

/// Gathers what is known. `NotFound`: no record and no ticket.
pub async fn why(broker: &Broker, key: &JobKey) -> Result<Why, Error> {
    let state = api::leader_last(broker, STATE, &key.state()).await?;
    let runs_out_ms = state.as_ref().and_then(runs_out);
    let stored = read_stored(state)?;
    let ticket = api::leader_last(broker, JOBS, &key.any_ticket()).await?;
    let delayed = match (&stored, &ticket) {
        (Stored::Nothing, None) => schedules::delayed(broker, key).await?,
        (Stored::Record { record, .. }, None) if record.is_untouched() => {
            schedules::delayed(broker, key).await?
        }
        _ => None,
    };
    let mut why = Why::begin(key, &stored, ticket.as_ref(), delayed.as_ref())?;
    if let Some(delayed) = delayed {
        why.due_ms = Some(delayed.due_ms);
        why.read_hosts(&query::agents(broker).await?);
        let nobody = delayed.fired && why.hosts.is_empty();
        why.reason = if nobody { Reason::NoAgents } else { Reason::Delayed };
        return Ok(why);
    }
    if why.state.is_terminal() {
        return Ok(why);
    }
    let now_ms = crate::upkeep::stream_end(broker).await?.now_ms;
    let submitted_ms = match &stored {
        Stored::Record { record, .. } if record.submitted_ms > 0 => Some(record.submitted_ms),
        Stored::Record { .. } | Stored::Nothing | Stored::Marker { .. } => {
            ticket.as_ref().map(|t| t.stored_ms)
        }
    };
    why.age_ms = submitted_ms.map(|at_ms| now_ms.saturating_sub(at_ms));
    why.left_ms = runs_out_ms.map(|at_ms| at_ms.saturating_sub(now_ms));
    if why.state.is_held() {
        return Ok(why);
    }
    let queue = key.queue(&why.lane());
    if let Some(ticket) = &ticket {
        why.place = Some(place(broker, &queue, ticket.sequence).await?);
    }
    why.read_facts(broker, &queue, now_ms).await?;
    why.read_hosts(&query::agents(broker).await?);
    why.reason = why.most_important();
    Ok(why)
}

/// What this user may not read is not known.
fn optional<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.kind(), ErrorKind::Unauthorised | ErrorKind::NoTopology) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The place of a ticket in its queue: how many lie before it that nobody was given.
async fn place(broker: &Broker, queue: &Queue, ticket: u64) -> Result<Place, Error> {
    let name = queue.to_string();
    let Some(state) = optional(queue_state(broker, queue).await)?.flatten() else {
        let ahead = count(broker, queue, 1).await?.saturating_sub(count(broker, queue, ticket).await?);
        return Ok(Place { queue: name, ahead, waiting: ahead + 1, handed_out: false, open: false });
    };
    if ticket <= state.delivered {
        return Ok(Place { queue: name, ahead: 0, waiting: state.waiting + 1, handed_out: true, open: true });
    }
    let from_next = count(broker, queue, state.delivered + 1).await?;
    let ahead = from_next.saturating_sub(count(broker, queue, ticket).await?);
    Ok(Place { queue: name, ahead, waiting: from_next, handed_out: false, open: true })
}

/// Tickets of a queue from a sequence on. The broker counts them: only one is read.
async fn count(broker: &Broker, queue: &Queue, from: u64) -> Result<u64, Error> {
    let page = history::page(broker, JOBS, &queue.filter(), from, 1).await?;
    Ok(page.messages.len() as u64 + page.remaining)
}

impl Why {
    fn begin(
        key: &JobKey,
        stored: &Stored,
        ticket: Option<&StoredMessage>,
        delayed: Option<&Delayed>,
    ) -> Result<Self, Error> {
        let record: Option<&Record> = match stored {
            Stored::Record { record, .. } => Some(record),
            Stored::Nothing | Stored::Marker { .. } => None,
        };
        let lies_in = ticket.and_then(|ticket| parse_ticket(&ticket.subject).ok()).map(|(lane, _)| lane);
        let not_found = || Error::new(ErrorKind::NotFound, format!("no job `{}`", key.job));
        let will_lie_in = || delayed.map(|delayed| delayed.lane.clone());
        let lane = record.map(Record::lane).or(lies_in).or_else(will_lie_in).ok_or_else(not_found)?;
        let state = match stored {
            Stored::Record { record, .. } => record.state,
            Stored::Marker { .. } => State::Expired,
            Stored::Nothing => State::Queued,
        };
        let resources = ticket.and_then(|ticket| Ticket::read(&ticket.payload).ok()?.resources);
        Ok(Self {
            owner: key.owner.clone(),
            job: key.job.clone(),
            state,
            reason: if state.is_terminal() { Reason::Ended } else { Reason::Running },
            plugin: lane.plugin,
            class: lane.class,
            priority: lane.priority,
            resources,
            agent: record.and_then(|record| record.attempt.as_ref()).map(|attempt| attempt.agent.clone()),
            age_ms: None,
            due_ms: None,
            left_ms: None,
            place: None,
            higher: Vec::new(),
            beside: Vec::new(),
            overview_age_ms: None,
            running: None,
            running_max: None,
            hosts: Vec::new(),
        })
    }

    /// The lane that it waits in.
    pub fn lane(&self) -> Lane {
        Lane { priority: self.priority, plugin: self.plugin.clone(), class: self.class.clone() }
    }

    /// Reads what the farm knows of its queues and owners.
    async fn read_facts(&mut self, broker: &Broker, own: &Queue, now_ms: u64) -> Result<(), Error> {
        let lanes = Bucket::new(broker, LANES_BUCKET);
        if let Some(overview) = optional(lanes.get_copy::<Overview>(OVERVIEW_KEY).await)?.flatten() {
            let age_ms = now_ms.saturating_sub(overview.stored_ms);
            self.overview_age_ms = Some(age_ms);
            if age_ms <= OVERVIEW_STALE_MS {
                self.read_overview(own, overview.value);
            }
        }
        let counted = RunningByAgent::key(&own.owner);
        if let Some(counted) = optional(lanes.get_copy::<RunningByAgent>(&counted).await)?.flatten() {
            self.running = Some(counted.value.total());
        }
        Ok(())
    }

    /// Takes what the overview says of other queues, and of its owner.
    fn read_overview(&mut self, own: &Queue, overview: Overview) {
        self.running = Some(overview.running.get(&self.owner).copied().unwrap_or(0));
        for fact in overview.queues {
            let Some(queue) = Queue::parse(&fact.queue) else { continue };
            if queue.lane.plugin != self.plugin || queue == *own || fact.waiting == 0 {
                continue;
            }
            match queue.lane.priority.cmp(&self.priority) {
                std::cmp::Ordering::Less => self.higher.push(fact),
                std::cmp::Ordering::Equal if queue.owner != self.owner => self.beside.push(fact),
                std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => {}
            }
        }
    }

    /// Takes what the heartbeats say.
    fn read_hosts(&mut self, agents: &[(AgentStatus, Duration)]) {
        let lane = self.lane();
        self.running_max = agents.iter().filter_map(|(status, _)| status.owner_running_max).min();
        self.hosts = agents
            .iter()
            .map(|(status, age)| {
                let answer = explain(&lane, self.resources.as_ref(), status);
                let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let word = answer.as_str();
                HostSays { agent: status.agent.clone(), age_ms, answer: word, text: answer.to_string() }
            })
            .collect();
    }

    /// Its owner has as many running as it may.
    pub fn is_owner_full(&self) -> bool {
        matches!((self.running, self.running_max), (Some(running), Some(most)) if running >= most)
    }

    fn most_important(&self) -> Reason {
        let says = |words: &[&str]| self.hosts.iter().any(|host| words.contains(&host.answer));
        let can_now = ["now", "perhaps"];
        let place = self.place.as_ref();
        if self.hosts.is_empty() {
            Reason::NoAgents
        } else if !says(&can_now) && !says(&["busy"]) {
            Reason::Nowhere
        } else if self.is_owner_full() {
            Reason::OwnerFull
        } else if !says(&can_now) {
            Reason::NoRoom
        } else if place.is_some_and(|place| place.handed_out) {
            Reason::HandedOut
        } else if !self.higher.is_empty() {
            Reason::HigherFirst
        } else if place.is_some_and(|place| place.ahead > 0) {
            Reason::InLine
        } else if !self.beside.is_empty() {
            Reason::Turns
        } else {
            Reason::Soon
        }
    }
}
