//! Many jobs: which there are, and which one a short id means.
//!
//! Owns joining records with tickets. Never reads more of them than are asked for.

use super::{JobView, not_found, subjects, waiting};
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::history;
use crate::ledger::read_stored;
use crate::schedules;
use grange_protocol::name::{JobId, Owner, PluginName};
use grange_protocol::ownership::Stored;
use grange_protocol::record::State;
use grange_protocol::subject::{JOBS, JobKey, STATE, parse_state, parse_ticket};
use std::collections::{BTreeMap, BTreeSet};

/// Jobs that are read at a time.
const PAGE: usize = 256;

/// Which jobs to list.
#[derive(Clone, Debug)]
pub struct JobFilter {
    /// Of this owner only.
    pub owner: Option<Owner>,
    /// In this state only, by its word; `delayed` too.
    pub state: Option<&'static str>,
    /// Of this plugin only.
    pub plugin: Option<PluginName>,
    /// At most so many.
    pub limit: usize,
}

impl Default for JobFilter {
    /// The newest 50 of everybody.
    fn default() -> Self {
        Self { owner: None, state: None, plugin: None, limit: 50 }
    }
}

/// What lies where of one job.
#[derive(Debug, Default)]
struct Places {
    record: Option<String>,
    ticket: Option<String>,
    schedule: Option<String>,
}

/// Jobs, newest first by their ids, those that wait without a record too. For people: every subject is listed once.
pub async fn list_jobs(broker: &Broker, filter: &JobFilter) -> Result<Vec<JobView>, Error> {
    let mut places: Vec<(JobKey, Places)> = find_places(broker, filter).await?.into_iter().collect();
    places.sort_by(|a, b| b.0.job.cmp(&a.0.job).then_with(|| a.0.owner.cmp(&b.0.owner)));
    let mut views = Vec::new();
    for page in places.chunks(PAGE) {
        for view in read_page(broker, page).await? {
            let fits = filter.state.is_none_or(|word| view.word() == word)
                && filter.plugin.as_ref().is_none_or(|p| view.lane().is_none_or(|lane| lane.plugin == *p));
            if fits {
                views.push(view);
            }
            if views.len() >= filter.limit {
                return Ok(views);
            }
        }
    }
    Ok(views)
}

async fn find_places(broker: &Broker, filter: &JobFilter) -> Result<BTreeMap<JobKey, Places>, Error> {
    let owner = filter.owner.as_ref().map_or("*", Owner::as_str);
    let plugin = filter.plugin.as_ref().map_or("*", PluginName::as_str);
    let mut places: BTreeMap<JobKey, Places> = BTreeMap::new();
    for subject in subjects::list(broker, STATE, &format!("grange.state.{owner}.*")).await? {
        if let Some(key) = parse_state(&subject) {
            places.entry(key).or_default().record = Some(subject);
        }
    }
    let tickets = format!("grange.jobs.*.*.{plugin}.{owner}.*");
    for subject in subjects::list(broker, JOBS, &tickets).await? {
        if let Ok((_, key)) = parse_ticket(&subject) {
            places.entry(key).or_default().ticket = Some(subject);
        }
    }
    for (key, subject) in schedules::all_delayed(broker, filter.owner.as_ref()).await? {
        places.entry(key).or_default().schedule = Some(subject);
    }
    Ok(places)
}

async fn read_page(broker: &Broker, page: &[(JobKey, Places)]) -> Result<Vec<JobView>, Error> {
    let records: Vec<String> = page.iter().filter_map(|(_, p)| p.record.clone()).collect();
    let mut stored = BTreeMap::new();
    for message in history::last_of_each(broker, STATE, &records).await? {
        stored.insert(message.subject.clone(), message);
    }
    let mut views = Vec::with_capacity(page.len());
    let mut wanted = Vec::new();
    for (key, places) in page {
        let message = places.record.as_ref().and_then(|subject| stored.remove(subject));
        let view = match read_stored(message) {
            Ok(stored) => JobView::new(key.clone(), stored),
            Err(error) => {
                tracing::warn!(%error, job = %key, "record cannot be read");
                JobView::new(key.clone(), Stored::Nothing)
            }
        };
        if matches!(view.state(), State::Queued | State::Retrying) {
            wanted.extend(places.ticket.clone());
        }
        views.push(view);
    }
    for ticket in history::last_of_each(broker, JOBS, &wanted).await? {
        let Ok((_, key)) = parse_ticket(&ticket.subject) else { continue };
        if let Some(view) = views.iter_mut().find(|view| view.key == key) {
            view.waiting = Some(waiting(&ticket)?);
        }
    }
    let schedules: Vec<String> = page.iter().filter_map(|(_, p)| p.schedule.clone()).collect();
    let delayed = schedules::read_all(broker, &schedules).await?;
    for ((_, places), view) in page.iter().zip(&mut views) {
        if view.waiting.is_none() && view.state() == State::Queued {
            view.delayed = places.schedule.as_ref().and_then(|subject| delayed.get(subject)).cloned();
        }
    }
    // What went between the reads is gone.
    views.retain(|v| v.record.is_some() || v.waiting.is_some() || v.delayed.is_some() || v.ran_out);
    Ok(views)
}

/// Finds the job that an id, or its unique beginning, names. `Invalid`: several jobs begin so.
pub async fn find_job(broker: &Broker, id: &JobId, owner: Option<&Owner>) -> Result<JobKey, Error> {
    let owner = owner.map_or("*", Owner::as_str);
    let exact = matching(broker, owner, id.as_str(), &|_| true).await?;
    if let Some(key) = one_of(id, exact)? {
        return Ok(key);
    }
    let begins = |key: &JobKey| key.job.as_str().starts_with(id.as_str());
    let found = matching(broker, owner, "*", &begins).await?;
    one_of(id, found)?.ok_or_else(|| not_found(id.as_str()))
}

async fn matching(
    broker: &Broker,
    owner: &str,
    job: &str,
    fits: &dyn Fn(&JobKey) -> bool,
) -> Result<BTreeSet<JobKey>, Error> {
    let states = subjects::list(broker, STATE, &format!("grange.state.{owner}.{job}")).await?;
    let mut found: BTreeSet<JobKey> = states.iter().filter_map(|s| parse_state(s)).filter(fits).collect();
    let tickets = subjects::list(broker, JOBS, &format!("grange.jobs.*.*.*.{owner}.{job}")).await?;
    if found.is_empty() || job == "*" {
        let only = if owner == "*" { None } else { Owner::new(owner).ok() };
        let fits_too = |key: &JobKey| (job == "*" || key.job.as_str() == job) && fits(key);
        found.extend(schedules::all_delayed(broker, only.as_ref()).await?.into_keys().filter(fits_too));
    }
    found.extend(tickets.iter().filter_map(|s| parse_ticket(s).ok()).map(|(_, key)| key).filter(fits));
    Ok(found)
}

fn one_of(id: &JobId, found: BTreeSet<JobKey>) -> Result<Option<JobKey>, Error> {
    if found.len() > 1 {
        let some: Vec<String> = found.iter().take(3).map(|key| format!("`{key}`")).collect();
        let text = format!(
            "`{id}` means {} jobs, e.g. {}; give more of it, or the owner",
            found.len(),
            some.join(", ")
        );
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    Ok(found.into_iter().next())
}
