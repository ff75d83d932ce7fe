//! What owners used: jobs, run time, GPU time and GPU memory, as the records say that are kept.
//!
//! Owns the sums. Never estimates: what runs still counts when it has ended.

use crate::connect::Broker;
use crate::error::Error;
use crate::history;
use crate::ledger::read_stored;
use crate::query::subjects;
use grange_protocol::name::{Owner, PluginName};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Record, State};
use grange_protocol::subject::{STATE, parse_state};
use serde::Serialize;
use std::collections::BTreeMap;

/// Records that are read at a time.
const PAGE: usize = 1024;
/// The most that one record counts for.
const MOST: f64 = 1e15;

/// Which records to sum up.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    /// Of this owner only.
    pub owner: Option<Owner>,
    /// Of this plugin only.
    pub plugin: Option<PluginName>,
    /// Only jobs that were submitted at this time or later, Unix milliseconds.
    pub since_ms: Option<u64>,
}

/// What one owner used of one plugin.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Used {
    /// Jobs whose record is kept.
    pub jobs: u64,
    /// Those that wait or run.
    pub unfinished: u64,
    /// Those that ended well.
    pub succeeded: u64,
    /// Those that ended badly.
    pub failed: u64,
    /// Those that were cancelled, expired or refused.
    pub dropped: u64,
    /// Time inside the plugin of the attempts that ended the jobs, seconds.
    pub run_seconds: f64,
    /// GPU time that was held by them, seconds.
    pub gpu_seconds: f64,
    /// Highest memory seen on one GPU, MiB.
    pub peak_vram_mb: u64,
}

impl Used {
    /// Counts one job.
    pub fn add(&mut self, record: &Record) {
        self.jobs += 1;
        let counter = match record.state {
            State::Queued | State::Claimed | State::Running | State::Retrying => &mut self.unfinished,
            State::Succeeded => &mut self.succeeded,
            State::Failed => &mut self.failed,
            State::Cancelled | State::Expired | State::Refused => &mut self.dropped,
        };
        *counter += 1;
        if let Some(outcome) = &record.outcome {
            let usage = &outcome.usage;
            self.run_seconds += amount(usage.run_ms) / 1000.0;
            self.gpu_seconds += amount(usage.gpu_seconds);
            self.peak_vram_mb = self.peak_vram_mb.max(usage.peak_vram_mb);
        }
    }

    /// Counts what another counted.
    pub fn merge(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.unfinished += other.unfinished;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.dropped += other.dropped;
        self.run_seconds += other.run_seconds;
        self.gpu_seconds += other.gpu_seconds;
        self.peak_vram_mb = self.peak_vram_mb.max(other.peak_vram_mb);
    }
}

/// A record may be anybody's: what is no amount counts as none, and no sum of them becomes infinite.
fn amount(given: f64) -> f64 {
    if given.is_finite() && given > 0.0 { given.min(MOST) } else { 0.0 }
}

/// What each owner used of each plugin. For people: every record that fits is read once. Records that cannot be read are
/// left out.
pub async fn usage(
    broker: &Broker,
    filter: &UsageFilter,
) -> Result<BTreeMap<(Owner, PluginName), Used>, Error> {
    let owner = filter.owner.as_ref().map_or("*", Owner::as_str);
    let records = subjects::list(broker, STATE, &format!("grange.state.{owner}.*")).await?;
    let mut used: BTreeMap<(Owner, PluginName), Used> = BTreeMap::new();
    for page in records.chunks(PAGE) {
        for message in history::last_of_each(broker, STATE, page).await? {
            let Some(key) = parse_state(&message.subject) else { continue };
            let record = match read_stored(Some(message)) {
                Ok(Stored::Record { record, .. }) => record,
                Ok(Stored::Nothing | Stored::Marker { .. }) => continue,
                Err(error) => {
                    tracing::warn!(%error, job = %key, "record is left out");
                    continue;
                }
            };
            let is_of_it = filter.plugin.as_ref().is_none_or(|plugin| record.plugin == *plugin);
            if is_of_it && filter.since_ms.is_none_or(|since_ms| begun_ms(&record) >= since_ms) {
                used.entry((key.owner, record.plugin.clone())).or_default().add(&record);
            }
        }
    }
    Ok(used)
}

/// When it was submitted, or the first that is known of it.
fn begun_ms(record: &Record) -> u64 {
    match record.submitted_ms {
        0 => record.history.first().map_or(0, |moment| moment.at_ms),
        at_ms => at_ms,
    }
}
