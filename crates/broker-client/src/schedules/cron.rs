//! Jobs that are submitted again and again: laid down, listed, started at once, taken away.

use super::carry::LastJob;
use super::{check_room, purge};
use crate::api::{self, StoredMessage};
use crate::bucket::Bucket;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::history;
use crate::publish;
use crate::query::subjects;
use crate::submit::{Submission, check};
use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use grange_protocol::name::{JobId, Owner};
use grange_protocol::schedule::{
    self, MAX_CRON_NAME_BYTES, SCHEDULES, check_cron_name, parse_due, parse_schedule, tick_job,
};
use grange_protocol::subject::{JobKey, LANES_BUCKET, Lane};
use grange_protocol::ticket::Ticket;
use std::time::Duration;

/// A job that is to be submitted again and again.
#[derive(Clone, Debug)]
pub struct Cron {
    /// What its jobs are named after.
    pub name: JobId,
    /// When, as the server reads it: six fields, or `@every 30m`.
    pub pattern: String,
    /// The time zone of the fields. None: UTC.
    pub zone: Option<String>,
    /// What is submitted; its id is that of no job.
    pub submission: Submission,
}

/// What is known of one.
#[derive(Clone, Debug, PartialEq)]
pub struct CronView {
    /// Whose.
    pub owner: Owner,
    /// What its jobs are named after.
    pub name: JobId,
    /// When, as the server reads it.
    pub pattern: String,
    /// The time zone of the fields. None: UTC.
    pub zone: Option<String>,
    /// Where its jobs wait.
    pub lane: Lane,
    /// What they are to do; None: it cannot be read.
    pub ticket: Option<Ticket>,
    /// How long each may wait for a start.
    pub max_wait: Option<Duration>,
    /// When it was laid down, Unix milliseconds of the broker.
    pub created_ms: u64,
    /// Its last job, and when that was submitted, Unix milliseconds.
    pub last: Option<(String, u64)>,
}

/// Lays it down. `Conflict`: the owner has one of that name. `Invalid`: the server does not take the pattern or the zone.
pub async fn add(broker: &Broker, cron: &Cron) -> Result<(), Error> {
    check_cron_name(&cron.name).map_err(|e| {
        let text =
            format!("`{}` cannot name a recurring job; {MAX_CRON_NAME_BYTES} bytes at most", cron.name);
        Error::invalid(text).because(e)
    })?;
    let (_, body) = check(&cron.submission)?;
    check_room(broker).await?;
    let Submission { owner, lane, max_wait, .. } = &cron.submission;
    let mut all = HeaderMap::new();
    all.insert(headers::WHEN, cron.pattern.as_str());
    all.insert(headers::TARGET, schedule::tick(lane, owner, &cron.name).as_str());
    all.insert(headers::EXPECT, HeaderValue::from(0u64));
    if let Some(zone) = &cron.zone {
        all.insert(headers::ZONE, zone.as_str());
    }
    if let Some(wait) = max_wait {
        all.insert(headers::MAX_WAIT, headers::ttl("a job's wait", *wait)?);
    }
    let subject = schedule::cron(owner, &cron.name);
    let sent = publish::send(broker, subject, all, body).await?;
    sent.stored().await.map(|_| ()).map_err(|e| match e.kind() {
        ErrorKind::Conflict => Error::new(
            ErrorKind::Conflict,
            format!("`{}` has a recurring job `{}` already; remove that first", owner, cron.name),
        ),
        ErrorKind::Other => {
            let zone = cron.zone.as_ref().map(|zone| format!(" in the zone `{zone}`")).unwrap_or_default();
            Error::invalid(format!("the broker does not take `{}`{zone}", cron.pattern)).because(e)
        }
        _ => e,
    })
}

/// All of an owner, or of everybody, by name.
pub async fn list(
    broker: &Broker,
    owner: Option<&Owner>,
    name: Option<&JobId>,
) -> Result<Vec<CronView>, Error> {
    let (owner, name) = (owner.map_or("*", Owner::as_str), name.map_or("*", JobId::as_str));
    let mut subjects = match subjects::list(broker, SCHEDULES, &format!("grange.cron.{owner}.{name}")).await {
        Err(e) if e.kind() == ErrorKind::NoTopology => return Ok(Vec::new()),
        subjects => subjects?,
    };
    subjects.sort();
    let mut views = Vec::with_capacity(subjects.len());
    for message in history::last_of_each(broker, SCHEDULES, &subjects).await? {
        let Some(mut view) = read(&message) else {
            tracing::warn!(subject = message.subject, "recurring job cannot be read");
            continue;
        };
        let key = schedule::last_job_key(&view.owner, &view.name);
        view.last = match Bucket::new(broker, LANES_BUCKET).get_copy::<LastJob>(&key).await {
            Ok(last) => last.map(|entry| (entry.value.job, entry.value.at_ms)),
            Err(e) if e.kind() == ErrorKind::Unauthorised => None,
            Err(e) => return Err(e),
        };
        views.push(view);
    }
    views.sort_by(|a, b| (&a.name, &a.owner).cmp(&(&b.name, &b.owner)));
    Ok(views)
}

fn read(message: &StoredMessage) -> Option<CronView> {
    let key = parse_schedule(&message.subject)?;
    let text = |name| Some(headers::text(&message.headers, name)).filter(|text| !text.is_empty());
    Some(CronView {
        owner: key.owner,
        name: key.job,
        pattern: text(headers::WHEN)?.to_owned(),
        zone: text(headers::ZONE).map(str::to_owned),
        lane: parse_due(text(headers::TARGET)?, message.sequence).ok()?.lane,
        ticket: Ticket::read(&message.payload).ok(),
        max_wait: text(headers::MAX_WAIT).and_then(headers::read_ttl),
        created_ms: message.stored_ms,
        last: None,
    })
}

/// Takes it away; jobs that it submitted go on. `NotFound`: there is none.
pub async fn remove(broker: &Broker, owner: &Owner, name: &JobId) -> Result<(), Error> {
    if purge(broker, &schedule::cron(owner, name)).await? { Ok(()) } else { Err(none(owner, name)) }
}

/// Submits a job of it now, and answers its name. `NotFound`: there is none.
pub async fn run(broker: &Broker, owner: &Owner, name: &JobId) -> Result<JobKey, Error> {
    let stored = api::leader_last(broker, SCHEDULES, &schedule::cron(owner, name)).await?;
    let message = stored.ok_or_else(|| none(owner, name))?;
    let target = headers::text(&message.headers, headers::TARGET).to_owned();
    let mut all = HeaderMap::new();
    if let Some(wait) = message.headers.get(headers::MAX_WAIT) {
        all.insert(headers::MAX_WAIT, wait.clone());
    }
    // Told apart from other such orders, so that one whose answer was lost can be given again.
    all.insert(headers::MESSAGE_ID, crate::submit::new_job_id().as_str());
    let sent = publish::send(broker, target.clone(), all.clone(), message.payload.clone()).await?;
    let stored = match sent.stored().await {
        Err(e) if e.kind() == ErrorKind::Timeout => {
            publish::send(broker, target, all, message.payload).await?.stored().await?
        }
        stored => stored?,
    };
    let job = tick_job(name, stored.sequence)
        .map_err(|e| Error::invalid(format!("`{name}` cannot name a job")).because(e))?;
    Ok(JobKey { owner: owner.clone(), job })
}

fn none(owner: &Owner, name: &JobId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("`{owner}` has no recurring job `{name}`; see `grange cron list`"),
    )
}
