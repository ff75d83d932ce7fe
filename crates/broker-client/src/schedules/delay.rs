//! A job that is submitted once, later: laid down, moved, taken away.

use super::{Found, at_pattern, check_room, find, purge};
use crate::api;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::ledger::Ledger;
use crate::post::TRIES;
use crate::publish;
use crate::submit::{Begun, Once, Submission, Submitted, begin, check};
use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use bytes::Bytes;
use grange_protocol::lifecycle;
use grange_protocol::ownership::Stored;
use grange_protocol::schedule;
use grange_protocol::subject::{JOBS, JobKey, Lane};
use grange_protocol::ticket::Priority;

/// Submits a job at this time, Unix milliseconds; one that is past is now. An id that is known already, as a job or as
/// one that is to come, is a duplicate: nothing changes, and the answer says when that one is due, where it is not yet.
/// The job's wait is limited from the time when it is due.
pub async fn submit_at(
    broker: &Broker,
    ledger: &Ledger,
    submission: Submission,
    once: Once,
    at_ms: u64,
) -> Result<Submitted, Error> {
    let (key, body) = check(&submission)?;
    check_room(broker).await?;
    if let Begun::Known(known) = begin(ledger, &key, &submission, once, None).await? {
        return Ok(known);
    }
    if let Some(known) = known(broker, ledger, &key, &submission.lane).await? {
        return Ok(known);
    }
    let mut all = HeaderMap::new();
    all.insert(headers::WHEN, at_pattern(at_ms)?.as_str());
    all.insert(headers::TARGET, schedule::due(&submission.lane, &key).as_str());
    all.insert(headers::EXPECT, HeaderValue::from(0u64));
    if let Some(wait) = submission.max_wait {
        all.insert(headers::MAX_WAIT, headers::ttl("a job's wait", wait)?);
    }
    let mut failed = None;
    for _ in 0..TRIES {
        let sent = publish::send(broker, schedule::delayed(&key), all.clone(), body.clone()).await?;
        match sent.stored().await {
            Ok(stored) => {
                let (lane, sequence) = (submission.lane, stored.sequence);
                return Ok(Submitted { key, lane, sequence, duplicate: false, due_ms: Some(at_ms) });
            }
            // It may be our own, of a try whose answer was lost.
            Err(e) if e.kind() == ErrorKind::Conflict => {
                if let Some(known) = self::known(broker, ledger, &key, &submission.lane).await? {
                    return Ok(Submitted { duplicate: failed.is_none(), ..known });
                }
                failed = Some(e);
            }
            Err(e) if e.kind() == ErrorKind::Timeout => failed = Some(e),
            Err(e) => return Err(e),
        }
    }
    Err(failed.unwrap_or_else(Error::closed))
}

/// What is there of this id already: a record that somebody began, a ticket, or a schedule.
async fn known(
    broker: &Broker,
    ledger: &Ledger,
    key: &JobKey,
    lane: &Lane,
) -> Result<Option<Submitted>, Error> {
    let known = |lane: Lane, sequence, due_ms| {
        Some(Submitted { key: key.clone(), lane, sequence, duplicate: true, due_ms })
    };
    if let Some(Found { delayed, .. }) = find(broker, key).await? {
        return Ok(known(delayed.lane, delayed.sequence, Some(delayed.due_ms)));
    }
    if let Some(ticket) = api::leader_last(broker, JOBS, &key.any_ticket()).await? {
        return Ok(known(lane.clone(), ticket.sequence, None));
    }
    Ok(match ledger.read(key).await? {
        Stored::Nothing => None,
        // Of a submission that came no further than its record.
        Stored::Record { record, .. } if record.is_untouched() => None,
        Stored::Record { sequence, record, .. } => known(record.lane(), sequence, None),
        Stored::Marker { sequence } => known(lane.clone(), sequence, None),
    })
}

/// Gives a job that is to come another priority, and answers the one it had. None: it is not there, or not any more.
pub(crate) async fn reprioritise(
    broker: &Broker,
    ledger: &Ledger,
    key: &JobKey,
    priority: Priority,
) -> Result<Option<Priority>, Error> {
    let Some(Found { delayed, message }) = find(broker, key).await? else { return Ok(None) };
    if delayed.fired {
        return Ok(None);
    }
    let from = delayed.lane.priority;
    let to = Lane { priority, ..delayed.lane.clone() };
    // Whoever carries the job goes by its record, where there is one.
    if let Stored::Record { sequence, record, .. } = ledger.read(key).await? {
        let moved =
            lifecycle::move_to(Some(&record), &delayed.lane, &to, delayed.submitted_ms, api::now_ms());
        let moved = moved.map_err(|e| {
            Error::new(ErrorKind::Conflict, format!("job `{key}` cannot be moved")).because(e)
        })?;
        ledger.write(key, sequence, &moved, None).await?;
    }
    if from == priority {
        return Ok(Some(from));
    }
    let mut all = HeaderMap::new();
    for name in [headers::WHEN, headers::MAX_WAIT] {
        if let Some(value) = message.headers.get(name.clone()) {
            all.insert(name, value.clone());
        }
    }
    all.insert(headers::TARGET, schedule::due(&to, key).as_str());
    all.insert(headers::EXPECT, HeaderValue::from(message.sequence));
    let body: Bytes = message.payload;
    match publish::send(broker, schedule::delayed(key), all, body).await?.stored().await {
        Ok(_) => Ok(Some(from)),
        // It fired, or somebody was faster.
        Err(e) if e.kind() == ErrorKind::Conflict => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes the schedule of a job that has ended. What it fired is dropped by whoever would carry it.
pub(crate) async fn tidy(broker: &Broker, key: &JobKey) -> Result<(), Error> {
    match purge(broker, &schedule::delayed(key)).await {
        Err(e) if e.kind() == ErrorKind::NoTopology => Ok(()),
        purged => purged.map(|_| ()),
    }
}
