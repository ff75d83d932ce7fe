//! Jobs that are to be submitted later: what lies in the schedules' stream, and how it gets there and out of it.
//!
//! Owns the messages of that stream. Never decides what becomes of a job: its record does, and it is asked at each step.
//!
//! ```text
//!   submit_at ─► schedule ──(its time; the server)──► due ──(carry; an agent)──► ticket
//!                   │ cancel: the record first, then the schedule goes            ▲
//!                   └ another priority: replaced, if it has not fired             └ only if the record lets it
//! ```
//! The record comes first where a job is cancelled: what fires in that moment finds it, and goes no further. The other
//! way round a client that dies between the two would leave a job that neither waits nor is known to have ended.

mod carry;
mod cron;
mod delay;

pub use carry::{Carried, DueMessage, carry, ensure_consumer, read_delivery};
pub use cron::{Cron, CronView, add as add_cron, list as list_crons, remove as remove_cron, run as run_cron};
pub use delay::submit_at;
pub(crate) use delay::{reprioritise, tidy};

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::{history, query::subjects};
use grange_protocol::name::Owner;
use grange_protocol::schedule::{self, SCHEDULES, parse_due, parse_schedule};
use grange_protocol::subject::{JobKey, Lane};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::macros::format_description;

/// Bytes of schedules above which no more are taken: the stream has no limit of its own.
pub const SCHEDULES_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// What a one-time schedule's pattern begins with.
const AT: &str = "@at ";

/// A job that is to be submitted later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// When, Unix milliseconds.
    pub due_ms: u64,
    /// Its time has come; it is on its way into its lane, which needs an agent that is up.
    pub fired: bool,
    /// Where it will wait.
    pub lane: Lane,
    /// When it was submitted, Unix milliseconds of the broker.
    pub submitted_ms: u64,
    /// The message's sequence in the schedules' stream.
    pub sequence: u64,
}

/// A schedule, or what it fired, as it is stored.
struct Found {
    delayed: Delayed,
    message: StoredMessage,
}

/// What is known of a job that is to be submitted later. None: nothing lies there.
pub async fn delayed(broker: &Broker, key: &JobKey) -> Result<Option<Delayed>, Error> {
    Ok(find(broker, key).await?.map(|found| found.delayed))
}

/// The schedule first: what fires in between is found as due.
async fn find(broker: &Broker, key: &JobKey) -> Result<Option<Found>, Error> {
    for subject in [schedule::delayed(key), schedule::any_due(key)] {
        let stored = match api::leader_last(broker, SCHEDULES, &subject).await {
            // A farm that was made before there were schedules, or a user who may not read them.
            Err(e) if matches!(e.kind(), ErrorKind::NoTopology | ErrorKind::Unauthorised) => return Ok(None),
            stored => stored?,
        };
        if let Some(message) = stored
            && let Some(delayed) = read_delayed(&message)
        {
            return Ok(Some(Found { delayed, message }));
        }
    }
    Ok(None)
}

/// Reads a one-time schedule, or what it fired.
fn read_delayed(message: &StoredMessage) -> Option<Delayed> {
    let (sequence, submitted_ms) = (message.sequence, message.stored_ms);
    if parse_schedule(&message.subject).is_some() {
        let due_ms = api::read_time(headers::text(&message.headers, headers::WHEN).strip_prefix(AT)?).ok()?;
        let lane = parse_due(headers::text(&message.headers, headers::TARGET), sequence).ok()?.lane;
        return Some(Delayed { due_ms, fired: false, lane, submitted_ms, sequence });
    }
    let lane = parse_due(&message.subject, sequence).ok()?.lane;
    Some(Delayed { due_ms: submitted_ms, fired: true, lane, submitted_ms, sequence })
}

/// Every job of these owners that is to be submitted later. None: of everybody.
pub(crate) async fn all_delayed(
    broker: &Broker,
    owner: Option<&Owner>,
) -> Result<BTreeMap<JobKey, String>, Error> {
    let owner = owner.map_or("*", Owner::as_str);
    let mut found = BTreeMap::new();
    for filter in [format!("grange.due.*.*.*.{owner}.*"), format!("grange.schedule.{owner}.*")] {
        let subjects = match subjects::list(broker, SCHEDULES, &filter).await {
            Err(e) if matches!(e.kind(), ErrorKind::NoTopology | ErrorKind::Unauthorised) => {
                return Ok(found);
            }
            subjects => subjects?,
        };
        for subject in subjects {
            let key = parse_schedule(&subject).or_else(|| parse_due(&subject, 0).ok().map(|due| due.key));
            if let Some(key) = key {
                found.insert(key, subject);
            }
        }
    }
    Ok(found)
}

/// Reads what `all_delayed` named.
pub(crate) async fn read_all(
    broker: &Broker,
    subjects: &[String],
) -> Result<BTreeMap<String, Delayed>, Error> {
    let messages = history::last_of_each(broker, SCHEDULES, subjects).await?;
    Ok(messages.into_iter().filter_map(|m| Some((m.subject.clone(), read_delayed(&m)?))).collect())
}

/// `2026-12-01T08:00:00.000Z`
fn at_pattern(at_ms: u64) -> Result<String, Error> {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000);
    let text = at.ok().and_then(|at| at.format(&format).ok());
    let text = text.ok_or_else(|| Error::invalid(format!("{at_ms} ms is no time that can be written")))?;
    Ok(format!("{AT}{text}"))
}

/// Refuses another schedule where there are too many.
async fn check_room(broker: &Broker) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Info {
        state: Holds,
    }
    #[derive(Deserialize)]
    struct Holds {
        bytes: u64,
    }
    let info: Result<Info, Error> =
        api::call(broker, &format!("STREAM.INFO.{SCHEDULES}"), SCHEDULES, &Value::Null).await;
    let info = info.map_err(|e| match e.kind() {
        ErrorKind::NoTopology => Error::new(
            ErrorKind::NoTopology,
            format!("the farm has no stream `{SCHEDULES}` for what comes later; `grange init` makes it"),
        )
        .because(e),
        _ => e,
    })?;
    if info.state.bytes < SCHEDULES_MAX_BYTES {
        return Ok(());
    }
    let text = format!(
        "`{SCHEDULES}` holds {} bytes; no more than {SCHEDULES_MAX_BYTES} are taken",
        info.state.bytes
    );
    Err(Error::new(ErrorKind::StorageFull, text))
}

/// Removes what lies at exactly this subject; whether there was something.
async fn purge(broker: &Broker, subject: &str) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Purged {
        purged: u64,
    }
    let body = serde_json::json!({ "filter": subject });
    let done: Purged = api::call(broker, &format!("STREAM.PURGE.{SCHEDULES}"), subject, &body).await?;
    Ok(done.purged > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_the_server_reads_it() {
        assert_eq!(at_pattern(1_700_000_000_123).unwrap(), "@at 2023-11-14T22:13:20.123Z");
        assert!(at_pattern(u64::MAX).is_err());
    }
}
