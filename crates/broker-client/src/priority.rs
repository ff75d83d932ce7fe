//! Moving a job that waits into another lane: its record first, then its ticket.
//!
//! Owns both halves: what somebody does who wants another priority, and what an agent does that meets a ticket in a lane
//! where its job no longer waits. Never moves a job that somebody holds.
//!
//! ```text
//!   record (queued, new lane) ─► ticket into the new lane ─► old ticket removed
//!            └── from here on it is moved, whoever does the rest
//! ```

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::ledger::{Ledger, read_stored};
use crate::post::Post;
use crate::upkeep::clock_ms;
use crate::{schedules, tidy};
use bytes::Bytes;
use grange_protocol::lifecycle;
use grange_protocol::ownership::Stored;
use grange_protocol::record::Record;
use grange_protocol::subject::{JOBS, JobKey, Lane, STATE, parse_ticket};
use grange_protocol::ticket::Priority;
use std::time::Duration;

/// How often the job may change under the move before it gives up.
const TRIES: u32 = 16;
/// Between two looks at a job that is on its way into its lane.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
/// The shortest time that the broker lets a record run out in.
const SHORTEST: Duration = Duration::from_secs(1);

/// What a change of a job's priority led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reprioritised {
    /// It waits with the new priority, behind those that waited there before.
    Moved {
        /// What it had.
        from: Priority,
    },
    /// It had it already.
    Unchanged,
}

/// Gives a job that waits another priority. `Conflict`: it runs, or has ended. `NotFound`: there is no such job.
/// `StorageFull`: it is moved, but its ticket finds no room; asking again is safe.
pub async fn reprioritise(
    broker: &Broker,
    ledger: &Ledger,
    key: &JobKey,
    priority: Priority,
) -> Result<Reprioritised, Error> {
    let mut unknown = None;
    for _ in 0..TRIES {
        let found = look(broker, key).await?;
        let Some((lane, ticket)) = &found.ticket else {
            let record = found.check(key)?;
            match schedules::reprioritise(broker, ledger, key, priority).await? {
                Some(from) if from == priority => return Ok(Reprioritised::Unchanged),
                Some(from) => return Ok(Reprioritised::Moved { from }),
                None => {}
            }
            // It may have fired, and be on its way.
            if schedules::delayed(broker, key).await?.is_some() {
                tokio::time::sleep(ON_ITS_WAY).await;
                continue;
            }
            match record {
                // Its ticket may have gone between the two reads, or not have come yet.
                Some(_) => continue,
                None => return Err(Error::new(ErrorKind::NotFound, format!("no job `{key}`"))),
            }
        };
        let now = found.check(key)?.map_or_else(|| lane.clone(), Record::lane);
        let wanted = Lane { priority, ..now.clone() };
        if wanted == now {
            if *lane != now {
                // The record was moved, and whoever did it came no further.
                carry_over(broker, key, &now, found.expect, ticket).await?;
            }
            return Ok(unknown.map_or(Reprioritised::Unchanged, |from| Reprioritised::Moved { from }));
        }
        let moved =
            lifecycle::move_to(found.record.as_deref(), lane, &wanted, ticket.stored_ms, api::now_ms())
                .map_err(|denied| refused(key).because(denied))?;
        match ledger.write(key, found.expect, &moved, found.rest(broker).await?).await {
            Ok(revision) => {
                carry_over(broker, key, &wanted, revision, ticket).await?;
                return Ok(Reprioritised::Moved { from: now.priority });
            }
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            Err(e) if e.kind() == ErrorKind::Timeout => unknown = Some(now.priority),
            Err(e) => return Err(e),
        }
    }
    let text = format!(
        "job `{key}` changed {TRIES} times while it was to be moved, or its ticket is not there yet; \
                        try again"
    );
    Err(Error::new(ErrorKind::Conflict, text))
}

/// Passes on a ticket that was met in lane `from`, of a job that waits in lane `to` by its record at revision `expect`
/// (`ownership::Verdict::Moved`). Only after that may the old ticket be acknowledged. A ticket that is no longer there
/// was passed on by whoever moved the job.
pub async fn forward(
    broker: &Broker,
    key: &JobKey,
    from: &Lane,
    to: &Lane,
    expect: u64,
) -> Result<(), Error> {
    match api::leader_last(broker, JOBS, &key.ticket(from)).await? {
        Some(ticket) => publish(broker, key, to, expect, ticket.payload).await,
        None => Ok(()),
    }
}

/// What is stored of a job.
struct Found {
    /// The newest revision; 0: nothing was ever there.
    expect: u64,
    record: Option<Box<Record>>,
    /// When the record runs out, Unix milliseconds of the broker.
    runs_out_ms: Option<u64>,
    ticket: Option<(Lane, StoredMessage)>,
}

async fn look(broker: &Broker, key: &JobKey) -> Result<Found, Error> {
    let state = api::leader_last(broker, STATE, &key.state()).await?;
    let runs_out_ms = state.as_ref().and_then(runs_out);
    let (expect, record) = match read_stored(state)? {
        Stored::Nothing => (0, None),
        Stored::Record { sequence, record, .. } => (sequence, Some(record)),
        Stored::Marker { .. } => {
            let text = format!("job `{key}` has expired: its waiting time ran out");
            return Err(Error::new(ErrorKind::Conflict, text));
        }
    };
    let ticket = match api::leader_last(broker, JOBS, &key.any_ticket()).await? {
        None => None,
        Some(ticket) => {
            let lane = parse_ticket(&ticket.subject)
                .map_err(|e| Error::malformed(&format!("the ticket of `{key}`"), e))?;
            Some((lane.0, ticket))
        }
    };
    Ok(Found { expect, record, runs_out_ms, ticket })
}

/// When a message with a time to live goes, Unix milliseconds of the broker.
pub(crate) fn runs_out(message: &StoredMessage) -> Option<u64> {
    let text = headers::text(&message.headers, headers::TTL);
    let ms = match text.strip_suffix("ms") {
        Some(ms) => ms.parse().ok()?,
        None => text.strip_suffix('s').unwrap_or(text).parse::<u64>().ok()?.saturating_mul(1000),
    };
    Some(message.stored_ms.saturating_add(ms))
}

impl Found {
    /// The record, if it is of a job that waits.
    fn check(&self, key: &JobKey) -> Result<Option<&Record>, Error> {
        match self.record.as_deref() {
            Some(record) if record.state.is_terminal() => {
                let text = format!("job `{key}` is already {}", record.state);
                Err(Error::new(ErrorKind::Conflict, text))
            }
            Some(record) if record.state.is_held() => {
                let agent = record.attempt.as_ref().map_or("an agent", |attempt| attempt.agent.as_str());
                let text = format!(
                    "job `{key}` is {} on `{agent}`; only a job that waits can be moved",
                    record.state
                );
                Err(Error::new(ErrorKind::Conflict, text))
            }
            record => Ok(record),
        }
    }

    /// What is left of the time that the job may wait.
    async fn rest(&self, broker: &Broker) -> Result<Option<Duration>, Error> {
        let Some(runs_out_ms) = self.runs_out_ms else { return Ok(None) };
        let left = Duration::from_millis(runs_out_ms.saturating_sub(clock_ms(broker).await?));
        Ok(Some(left.max(SHORTEST)))
    }
}

fn refused(key: &JobKey) -> Error {
    Error::new(ErrorKind::Conflict, format!("job `{key}` cannot be moved"))
}

/// Publishes the ticket where the job waits now, and removes the one that was found.
async fn carry_over(
    broker: &Broker,
    key: &JobKey,
    to: &Lane,
    revision: u64,
    old: &StoredMessage,
) -> Result<(), Error> {
    publish(broker, key, to, revision, old.payload.clone()).await?;
    // Left there, it would be passed on once more, which is recognised as a repeat.
    tidy::this(broker, key, old).await;
    Ok(())
}

async fn publish(broker: &Broker, key: &JobKey, to: &Lane, revision: u64, body: Bytes) -> Result<(), Error> {
    let post = Post {
        broker: broker.clone(),
        subject: key.ticket(to),
        message_id: format!("{key}/m{revision}"),
        revision,
        body,
    };
    let first = post.send().await?;
    post.settle(first).await.map(|_| ())
}
