//! Everything that was seen of one job, side by side.

use super::Evidence;
use crate::history::{Cancelling, Fact, Sight, Wanted};
use crate::witness::Line;
use std::collections::BTreeMap;

/// One execution, as its worker wrote it down.
#[derive(Debug)]
pub(super) struct Execution<'a> {
    pub(super) id: &'a str,
    pub(super) named: &'a str,
    pub(super) attempt: u32,
    pub(super) agent: &'a str,
    pub(super) input_sha256: &'a str,
    pub(super) start_ns: u64,
    pub(super) end: Option<End<'a>>,
}

/// How an execution ended by itself.
#[derive(Debug)]
pub(super) struct End<'a> {
    pub(super) how: &'a str,
    pub(super) chunks: u64,
    pub(super) digest: &'a str,
    pub(super) at_ns: u64,
}

/// One job.
#[derive(Debug, Default)]
pub(super) struct Case<'a> {
    pub(super) wanted: Option<&'a Wanted>,
    pub(super) accepted: bool,
    pub(super) refused: bool,
    pub(super) unknown: bool,
    /// When, and how it ended.
    pub(super) cancels: Vec<(u64, Cancelling)>,
    /// When, by whom.
    pub(super) sights: Vec<(u64, &'a str, &'a Sight)>,
    pub(super) executions: Vec<Execution<'a>>,
    /// Job locks that were taken: attempt.
    pub(super) overlaps: Vec<u32>,
    pub(super) not_found: u64,
    pub(super) followed: Vec<&'a Fact>,
    pub(super) last: Option<&'a Sight>,
}

impl Case<'_> {
    /// Whether the job had only fates that let it succeed, and nobody touched it.
    pub(super) fn left_alone(&self) -> bool {
        self.cancels.is_empty()
    }
}

/// Sorts what was seen by job.
pub(super) fn cases<'a>(evidence: &Evidence<'a>) -> BTreeMap<&'a str, Case<'a>> {
    let mut cases: BTreeMap<&str, Case<'_>> = BTreeMap::new();
    for event in evidence.events {
        let at_ns = event.at_ns;
        match &event.fact {
            Fact::Submitting { job, wanted } => cases.entry(job).or_default().wanted = Some(wanted),
            Fact::Submitted { job } => cases.entry(job).or_default().accepted = true,
            Fact::NotSubmitted { job, .. } => cases.entry(job).or_default().refused = true,
            Fact::SubmitUnknown { job, .. } => cases.entry(job).or_default().unknown = true,
            Fact::Cancelled { job, how } => cases.entry(job).or_default().cancels.push((at_ns, *how)),
            Fact::Seen { job, reader, sight } => {
                cases.entry(job).or_default().sights.push((at_ns, reader, sight));
            }
            Fact::NotFound { job } => cases.entry(job).or_default().not_found += 1,
            Fact::Followed { job, .. } => cases.entry(job).or_default().followed.push(&event.fact),
            Fact::Cancelling { .. } | Fact::Fault { .. } | Fact::Healed | Fact::Gauge { .. } => {}
        }
    }
    for (job, sight) in &evidence.finale.records {
        cases.entry(job).or_default().last = Some(sight);
    }
    for line in evidence.lines {
        take(&mut cases, line);
    }
    cases
}

fn take<'a>(cases: &mut BTreeMap<&'a str, Case<'a>>, line: &'a Line) {
    match line {
        Line::Start { execution, job, named, attempt, agent, input_sha256, at_ns, .. } => {
            cases.entry(job).or_default().executions.push(Execution {
                id: execution,
                named,
                attempt: *attempt,
                agent,
                input_sha256,
                start_ns: *at_ns,
                end: None,
            });
        }
        Line::End { execution, job, how, chunks, digest, at_ns, .. } => {
            let case = cases.entry(job).or_default();
            if let Some(found) = case.executions.iter_mut().find(|found| found.id == execution) {
                found.end = Some(End { how, chunks: *chunks, digest, at_ns: *at_ns });
            }
        }
        Line::Taken { job, attempt, lock, .. } if lock.starts_with("job-") => {
            cases.entry(job).or_default().overlaps.push(*attempt);
        }
        Line::Taken { .. } | Line::Gone { .. } => {}
    }
}
