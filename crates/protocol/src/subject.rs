//! Every subject, header and name on the broker, built and read in one place.

use crate::name::{AgentName, Class, JobId, NameError, Owner, PluginName};
use crate::ticket::Priority;
use std::fmt;

/// Stream of tickets.
pub const JOBS: &str = "GRANGE_JOBS";
/// Stream of state records.
pub const STATE: &str = "GRANGE_STATE";
/// Stream of events.
pub const EVENTS: &str = "GRANGE_EVENTS";
/// Stream of what could not be run.
pub const DEAD: &str = "GRANGE_DEAD";
/// Bucket of heartbeats.
pub const AGENTS_BUCKET: &str = "grange_agents";
/// Bucket of lane facts and reservations.
pub const LANES_BUCKET: &str = "grange_lanes";
/// Bucket of what the farm should have.
pub const PLUGINS_BUCKET: &str = "grange_plugins";
/// Bucket of sessions.
pub const SESSIONS_BUCKET: &str = "grange_sessions";
/// Bucket of pipeline runs.
pub const RUNS_BUCKET: &str = "grange_runs";

/// Header: the state revision that a ticket builds on. `0` when absent.
pub const STATE_HEADER: &str = "Grange-State";
/// Header of an event: `chunk`, `progress`, `log` or `dropped`.
pub const KIND_HEADER: &str = "Grange-Kind";
/// Header of a `chunk` event: the index of its first chunk.
pub const FIRST_HEADER: &str = "Grange-First";
/// Header of a `chunk` event: how many chunks it carries.
pub const COUNT_HEADER: &str = "Grange-Count";
/// Header of the republished copy: its sequence in the stream.
pub const SEQUENCE_HEADER: &str = "Nats-Sequence";
/// Header of the republished copy: the previous sequence of the same subject.
pub const PREVIOUS_HEADER: &str = "Nats-Last-Sequence";
/// Header: duplicate detection.
pub const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";
/// Header: compare-and-set on a subject.
pub const EXPECT_HEADER: &str = "Nats-Expected-Last-Subject-Sequence";
/// Header of a bell that an agent passed on: how often.
pub const HOPS_HEADER: &str = "Grange-Hops";
/// Header: how long a message is kept.
pub const TTL_HEADER: &str = "Nats-TTL";
/// Header of a marker: why the value before it is gone.
pub const MARKER_HEADER: &str = "Nats-Marker-Reason";

/// What can be pulled together. Ordered by priority first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Urgent lanes come first.
    pub priority: Priority,
    /// The plugin.
    pub plugin: PluginName,
    /// What the job needs of a host.
    pub class: Class,
}

/// One owner's part of a lane: what one pull asks. Owners wait in queues of their own, so that an agent can take turns
/// between them, and leave one alone that has enough running, without ever being handed what it must give back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    /// The lane.
    pub lane: Lane,
    /// Whose jobs.
    pub owner: Owner,
}

impl Queue {
    /// The durable consumer's name: `<class>:<priority>:<plugin>:<owner>`.
    pub fn consumer(&self) -> String {
        let Lane { priority, plugin, class } = &self.lane;
        format!("{class}:{priority}:{plugin}:{}", self.owner)
    }

    /// Reads a consumer's name. None: it is nobody's queue.
    pub fn parse(consumer: &str) -> Option<Self> {
        let mut parts = consumer.split(':');
        let class = Class::new(parts.next()?).ok()?;
        let priority = parts.next()?.parse().ok()?;
        let plugin = PluginName::new(parts.next()?).ok()?;
        let owner = Owner::new(parts.next()?).ok()?;
        parts.next().is_none().then_some(Self { lane: Lane { priority, plugin, class }, owner })
    }

    /// What the consumer takes out of the stream.
    pub fn filter(&self) -> String {
        let Lane { priority, plugin, class } = &self.lane;
        format!("grange.jobs.{class}.{priority}.{plugin}.{}.*", self.owner)
    }

    /// Where a pull is asked.
    pub fn pull(&self) -> String {
        format!("$JS.API.CONSUMER.MSG.NEXT.{JOBS}.{}", self.consumer())
    }

    /// Key in the lanes' bucket of the host that saves up for this queue.
    pub fn saving(&self) -> String {
        let Lane { priority, plugin, class } = &self.lane;
        format!("save.{class}.{priority}.{plugin}.{}", self.owner)
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.lane, self.owner)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.class, self.priority, self.plugin)
    }
}

/// A job as the farm names it: ids are unique inside an owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey {
    /// Who submitted it.
    pub owner: Owner,
    /// Its id.
    pub job: JobId,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.job)
    }
}

impl JobKey {
    /// Subject of the state record.
    pub fn state(&self) -> String {
        format!("grange.state.{}.{}", self.owner, self.job)
    }

    /// Where readers hear of the record.
    pub fn on_state(&self) -> String {
        format!("grange.on.state.{}.{}", self.owner, self.job)
    }

    /// Subject of one attempt's events.
    pub fn events(&self, token: &AttemptToken) -> String {
        format!("grange.events.{}.{}.{token}", self.owner, self.job)
    }

    /// Where readers hear of events, of any attempt.
    pub fn on_events(&self) -> String {
        format!("grange.on.events.{}.{}.*", self.owner, self.job)
    }

    /// Subject of the ticket in a lane.
    pub fn ticket(&self, lane: &Lane) -> String {
        format!("grange.jobs.{}.{}.{}.{}.{}", lane.class, lane.priority, lane.plugin, self.owner, self.job)
    }

    /// Whose queue of a lane the job waits in.
    pub fn queue(&self, lane: &Lane) -> Queue {
        Queue { lane: lane.clone(), owner: self.owner.clone() }
    }

    /// Finds the ticket, whichever lane it lies in.
    pub fn any_ticket(&self) -> String {
        format!("grange.jobs.*.*.*.{}.{}", self.owner, self.job)
    }

    /// Where an agent that cannot answer the ticket's bell calls the others.
    pub fn call(&self, lane: &Lane) -> String {
        format!("grange.call.{}.{}.{}.{}.{}", lane.class, lane.priority, lane.plugin, self.owner, self.job)
    }

    /// Where a job that could not be run is kept.
    pub fn dead(&self, reason: &str) -> String {
        format!("grange.dead.{reason}.{}", self.job)
    }
}

/// Names the events of one attempt: `<number>-<claim sequence>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptToken {
    /// The attempt's number, from 1.
    pub number: u32,
    /// The sequence of the record that claimed it.
    pub claim: u64,
}

impl fmt::Display for AttemptToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.claim)
    }
}

impl AttemptToken {
    /// Reads the token back.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, claim) = text.split_once('-')?;
        Some(Self { number: number.parse().ok()?, claim: claim.parse().ok()? })
    }
}

/// Why a subject is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Not the shape.
    #[error("subject `{0}` is not `grange.jobs.<class>.<priority>.<plugin>.<owner>.<job>`")]
    Shape(String),
    /// A token is not a name.
    #[error("subject `{subject}`: {error}")]
    Name {
        /// The subject.
        subject: String,
        /// What is wrong with the token.
        error: NameError,
    },
    /// Not a priority.
    #[error("subject `{subject}`: `{given}` is not a priority; use urgent, high, normal or low")]
    Priority {
        /// The subject.
        subject: String,
        /// What stands there.
        given: String,
    },
}

/// Reads lane and job out of a ticket's subject, or a bell's.
pub fn parse_ticket(subject: &str) -> Result<(Lane, JobKey), SubjectError> {
    let shape = || SubjectError::Shape(subject.to_owned());
    let rest = subject
        .strip_prefix("grange.jobs.")
        .or_else(|| subject.strip_prefix("grange.bell."))
        .or_else(|| subject.strip_prefix("grange.call."))
        .ok_or_else(shape)?;
    let mut tokens = rest.split('.');
    let mut next = || tokens.next().ok_or_else(shape);
    let (class, priority, plugin, owner, job) = (next()?, next()?, next()?, next()?, next()?);
    if tokens.next().is_some() {
        return Err(shape());
    }
    let name = |error| SubjectError::Name { subject: subject.to_owned(), error };
    let lane = Lane {
        class: Class::new(class).map_err(name)?,
        priority: priority.parse().map_err(|_| SubjectError::Priority {
            subject: subject.to_owned(),
            given: priority.to_owned(),
        })?,
        plugin: PluginName::new(plugin).map_err(name)?,
    };
    let key = JobKey { owner: Owner::new(owner).map_err(name)?, job: JobId::new(job).map_err(name)? };
    Ok((lane, key))
}

/// Reads the job out of `grange.state.…` or its republished copy.
pub fn parse_state(subject: &str) -> Option<JobKey> {
    let rest = subject.strip_prefix("grange.state.").or_else(|| subject.strip_prefix("grange.on.state."))?;
    let (owner, job) = rest.split_once('.')?;
    Some(JobKey { owner: Owner::new(owner).ok()?, job: JobId::new(job).ok()? })
}

/// Reads the attempt out of `grange.events.…` or its republished copy.
pub fn parse_events(subject: &str) -> Option<(JobKey, AttemptToken)> {
    let rest =
        subject.strip_prefix("grange.events.").or_else(|| subject.strip_prefix("grange.on.events."))?;
    let (job, token) = rest.rsplit_once('.')?;
    let (owner, job) = job.split_once('.')?;
    Some((JobKey { owner: Owner::new(owner).ok()?, job: JobId::new(job).ok()? }, AttemptToken::parse(token)?))
}

/// The bells of a plugin: of every class, priority and owner.
pub fn bells(plugin: &PluginName) -> String {
    format!("grange.bell.*.*.{plugin}.>")
}

/// Bells of a plugin that an agent could not answer: heard by all that have room, not in turn.
pub fn calls(plugin: &PluginName) -> String {
    format!("grange.call.*.*.{plugin}.>")
}

/// Republished records of everything that an owner has.
pub fn on_states(owner: &Owner) -> String {
    format!("grange.on.state.{owner}.*")
}

/// Where an agent answers one verb.
pub fn control(agent: &AgentName, verb: &str) -> String {
    format!("grange.ctl.{agent}.{verb}")
}

/// A heartbeat's subject in its bucket.
pub fn heartbeat(agent: &AgentName) -> String {
    format!("$KV.{AGENTS_BUCKET}.{agent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_subject_is_read_back() {
        let subject = "grange.jobs.default.high.ocr.alice.0190-ab";
        let (lane, key) = parse_ticket(subject).unwrap();
        assert_eq!(key.ticket(&lane), subject);
        let queue = Queue { lane, owner: key.owner.clone() };
        assert_eq!(queue.consumer(), "default:high:ocr:alice");
        assert_eq!(Queue::parse(&queue.consumer()), Some(queue));
        assert_eq!(Queue::parse("default:high:ocr"), None);
        assert_eq!(parse_ticket(&subject.replace("jobs", "bell")).unwrap().1, key);
        assert_eq!(parse_state(&key.on_state()), Some(key));
    }

    #[test]
    fn bad_subjects_say_what_is_wrong() {
        let said = |s: &str| parse_ticket(s).unwrap_err().to_string();
        assert!(said("grange.jobs.default.normal.ocr.alice").contains("is not `grange.jobs."));
        assert!(said("grange.jobs.default.normal.ocr.alice.1.2").contains("is not `grange.jobs."));
        assert!(said("grange.jobs.default.soon.ocr.alice.1").contains("`soon` is not a priority"));
        assert!(said("grange.jobs.default.normal.o$r.alice.1").contains("plugin name `o$r`"));
    }

    #[test]
    fn events_carry_their_attempt() {
        let key = JobKey { owner: Owner::new("a").unwrap(), job: JobId::new("j").unwrap() };
        let token = AttemptToken { number: 2, claim: 77 };
        assert_eq!(parse_events(&key.events(&token)), Some((key, token)));
    }
}
