//! The ticket: a job that waits. Its subject says lane, owner and id; its body says the rest.

use crate::json::Json;
use crate::limit::{LEASE_RANGE_S, MAX_ARGUMENTS, MAX_MESSAGE_BYTES};
use crate::resource::ResourceRequest;
use crate::retry::{PolicyError, RetryPolicy};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How soon a job should start. Strict: a higher one always goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before everything.
    Urgent,
    /// Before the usual.
    High,
    /// The usual.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Priority {
    /// From the first to the last served.
    pub const ALL: [Self; 4] = [Self::Urgent, Self::High, Self::Normal, Self::Low];

    /// The token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not one of the four words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a priority; use urgent, high, normal or low")]
pub struct NotAPriority(String);

impl FromStr for Priority {
    type Err = NotAPriority;
    fn from_str(text: &str) -> Result<Self, NotAPriority> {
        Self::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| NotAPriority(text.to_owned()))
    }
}

/// What becomes of an attempt whose agent cannot reach the broker for as long as its lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPartition {
    /// It is stopped before others may take it over: no two attempts run at one time.
    #[default]
    Stop,
    /// It goes on, and its outcome counts if nobody took it over meanwhile: for runs without effects elsewhere that are too
    /// dear to begin anew.
    Continue,
}

/// Times that end a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeLimits {
    /// Longest run, seconds. None: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// How long the holder may be out of reach before others take over, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u32>,
    /// How long a cancelled run may take to stop by itself, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_grace_s: Option<u32>,
    /// What happens when the lease ends while the broker is out of the agent's reach.
    #[serde(skip_serializing_if = "is_default")]
    pub on_partition: OnPartition,
}

/// The body of a ticket. Every field may be left out; an empty body is a job without arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ticket {
    /// Version of this shape; 1.
    #[serde(skip_serializing_if = "is_zero")]
    pub v: u32,
    /// Positional arguments: a JSON array.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Json>,
    /// Named arguments: a JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kwargs: Option<Json>,
    /// Whether chunks are wanted; None: as the plugin does best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Times that end a run.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: TimeLimits,
    /// When it is tried again after an error, over the plugin's own policy.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: RetryPolicy,
    /// What the job asks for beyond its plugin's request; its lane's class is made of it (`class::class_of`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequest>,
}

fn is_zero(v: &u32) -> bool {
    *v == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The newest version of the ticket's shape that this build reads.
pub const TICKET_VERSION: u32 = 1;

/// Why a ticket cannot be run. The text reaches the submitter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Over the limit.
    #[error("ticket of {bytes} bytes exceeds the limit of {limit}; send large values as objects")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not JSON of the shape.
    #[error("ticket is not the JSON that `docs/wire.md` describes: {0}")]
    Malformed(String),
    /// A version from the future.
    #[error("ticket has version {0}; this agent reads up to {TICKET_VERSION}")]
    Version(u32),
    /// Its retry policy cannot be used.
    #[error(transparent)]
    Retry(#[from] PolicyError),
    /// A limit out of its range.
    #[error("`{field}` is {given}; it must be {range}")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// What was given.
        given: u64,
        /// What is allowed.
        range: String,
    },
}

impl Ticket {
    /// Reads and checks a ticket's body.
    pub fn read(body: &[u8]) -> Result<Self, TicketError> {
        if body.len() > MAX_MESSAGE_BYTES {
            return Err(TicketError::TooLarge { bytes: body.len(), limit: MAX_MESSAGE_BYTES });
        }
        if body.is_empty() {
            return Ok(Self::default());
        }
        // A derived reader also takes an array, field by field.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(TicketError::Malformed("it is not a JSON object".to_owned()));
        }
        let ticket: Self = serde_json::from_slice(body).map_err(|e| TicketError::Malformed(e.to_string()))?;
        ticket.check()?;
        Ok(ticket)
    }

    fn check(&self) -> Result<(), TicketError> {
        if self.v > TICKET_VERSION {
            return Err(TicketError::Version(self.v));
        }
        let malformed = |what: &str| TicketError::Malformed(what.to_owned());
        if self.args.as_ref().is_some_and(|a| !a.text().starts_with('[')) {
            return Err(malformed("`args` is not an array"));
        }
        if self.kwargs.as_ref().is_some_and(|k| !k.text().starts_with('{')) {
            return Err(malformed("`kwargs` is not an object"));
        }
        let commas = |json: &Option<Json>| json.as_ref().map_or(0, |j| j.text().matches(',').count());
        if commas(&self.args) + commas(&self.kwargs) >= MAX_ARGUMENTS {
            self.count_arguments()?;
        }
        self.retry.check()?;
        match self.limits.lease_s {
            Some(given) if !LEASE_RANGE_S.contains(&given) => Err(TicketError::OutOfRange {
                field: "limits.lease_s",
                given: given.into(),
                range: format!("{} to {}", LEASE_RANGE_S.start(), LEASE_RANGE_S.end()),
            }),
            _ => Ok(()),
        }
    }

    /// Counts only tickets that have so many commas that they could be over the limit.
    fn count_arguments(&self) -> Result<(), TicketError> {
        let count = |json: &Option<Json>| match json.as_ref().map(Json::value) {
            Some(serde_json::Value::Array(items)) => items.len(),
            Some(serde_json::Value::Object(fields)) => fields.len(),
            _ => 0,
        };
        let given = count(&self.args) + count(&self.kwargs);
        if given <= MAX_ARGUMENTS {
            return Ok(());
        }
        Err(TicketError::OutOfRange {
            field: "arguments",
            given: given as u64,
            range: format!("at most {MAX_ARGUMENTS}"),
        })
    }

    /// The body to publish.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a ticket is always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_ticket_is_nothing() {
        assert_eq!(Ticket::read(b"").unwrap(), Ticket::default());
        assert_eq!(Ticket::read(b"{}").unwrap(), Ticket::default());
        assert_eq!(Ticket::default().write(), b"{}");
    }

    #[test]
    fn unknown_fields_are_left_alone() {
        assert!(Ticket::read(br#"{"kwargs":{"a":1},"from_the_future":[1]}"#).is_ok());
    }

    #[test]
    fn bad_tickets_say_what_is_wrong() {
        let said = |b: &[u8]| Ticket::read(b).unwrap_err().to_string();
        assert!(said(b"{").contains("not the JSON"));
        assert!(said(b"[1]").contains("not a JSON object"));
        assert!(said(br#"{"args":{}}"#).contains("`args` is not an array"));
        assert!(said(br#"{"kwargs":[]}"#).contains("`kwargs` is not an object"));
        assert!(said(br#"{"v":9}"#).contains("version 9"));
        assert!(said(br#"{"limits":{"lease_s":1}}"#).contains("10 to 86400"));
        assert!(said(br#"{"retry":{"max_attempts":0}}"#).contains("1 to 1000"));
        assert!(said(br#"{"retry":{"kinds":["gremlins"]}}"#).contains("not known"));
        assert!(said(&vec![b' '; MAX_MESSAGE_BYTES + 1]).contains("exceeds the limit"));
        let many = format!(r#"{{"args":[{}]}}"#, vec!["1"; MAX_ARGUMENTS + 1].join(","));
        assert!(said(many.as_bytes()).contains("at most 1000"));
    }

    #[test]
    fn a_long_list_is_one_argument() {
        let long = format!(r#"{{"args":[[{}]]}}"#, vec!["1"; MAX_ARGUMENTS + 1].join(","));
        assert!(Ticket::read(long.as_bytes()).is_ok());
    }
}
