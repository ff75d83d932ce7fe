//! What must hold, judged on what was seen: a pure function of history, witness and finale.
//!
//! Owns the invariants I1 to I14 of `docs/faults.md`. Never looks at a process, a clock or a broker. H is hard, always; F
//! holds where nothing went wrong (`Evidence::calm`).

mod case;
mod ends;
mod executions;
mod records;
pub mod streams;

use crate::history::{Event, Fact, Finale};
use crate::witness::Line;
use case::{Case, cases};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Invariant {
    /// H: an accepted job has one terminal state at the end, one whose submit was refused has none.
    I1,
    /// H: a terminal record never changes; every reader sees a part of one history.
    I2,
    /// H: an accepted result was made by the attempt that held the job, and is what its worker gave.
    I3,
    /// H: a success ran at least once, nothing more often than its budgets allow, no attempt twice. F: as often as it must.
    I4,
    /// H: nothing starts after a cancel was acknowledged, or after the end.
    I5,
    /// H: two attempts of one job never overlap.
    I6,
    /// H: a follower is given the chunks of the attempt that counts, each once, in order.
    I7,
    /// H: nobody else is on a GPU of its own; a worker runs no more than it may.
    I8,
    /// H: nothing is left of a job that ended.
    I9,
    /// H: everything ends within a minute of the healing.
    I10,
    /// H: a worker is given what was submitted.
    I11,
    /// H: secrets stay where they are.
    I12,
    /// H: an accepted job is somewhere at any time.
    I13,
    /// H: memory, descriptors, threads and consumers are bounded.
    I14,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I11,
        Self::I12,
        Self::I13,
        Self::I14,
    ];
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// After the healing everything has to end within this, milliseconds.
pub const SETTLE_LIMIT_MS: u64 = 60_000;

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// By clients.
    pub events: &'a [Event],
    /// By workers.
    pub lines: &'a [Line],
    /// At the end.
    pub finale: &'a Finale,
    /// Nothing went wrong, so the F parts hold too.
    pub calm: bool,
}

/// How often an invariant was looked at, and where it did not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Cases looked at.
    pub checked: u64,
    /// What was wrong, in words.
    pub violations: Vec<String>,
}

/// The judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict(pub BTreeMap<Invariant, Tally>);

impl Verdict {
    /// Looks at one case.
    fn check(&mut self, invariant: Invariant, holds: bool, said: impl FnOnce() -> String) {
        let tally = self.0.entry(invariant).or_default();
        tally.checked += 1;
        if !holds {
            tally.violations.push(said());
        }
    }

    /// Which did not hold.
    pub fn broken(&self) -> Vec<Invariant> {
        self.0.iter().filter(|(_, tally)| !tally.violations.is_empty()).map(|(which, _)| *which).collect()
    }

    /// Every violation, with its invariant in front.
    pub fn violations(&self) -> Vec<String> {
        let all = self.0.iter();
        all.flat_map(|(which, tally)| tally.violations.iter().map(move |said| format!("{which}: {said}")))
            .collect()
    }
}

/// Judges.
pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict(Invariant::ALL.into_iter().map(|which| (which, Tally::default())).collect());
    for (job, case) in &cases(evidence) {
        let mut look = Look { job, case, calm: evidence.calm, verdict: &mut verdict };
        records::one_end(&mut look);
        records::one_history(&mut look);
        records::true_result(&mut look);
        executions::as_often_as_allowed(&mut look);
        executions::not_after_the_end(&mut look);
        executions::never_two(&mut look);
        executions::true_input(&mut look);
        streams::whole(&mut look);
        ends::somewhere(&mut look);
    }
    executions::within_capacity(evidence.lines, &mut verdict);
    ends::nothing_left(evidence.finale, &mut verdict);
    ends::settled(evidence.finale, &mut verdict);
    ends::secrets(evidence.lines, evidence.finale, &mut verdict);
    for event in evidence.events {
        if let Fact::Gauge { name, value, limit } = &event.fact {
            verdict.check(Invariant::I14, value <= limit, || format!("{name} is {value}, more than {limit}"));
        }
    }
    verdict
}

/// One job under the lens.
struct Look<'a> {
    job: &'a str,
    case: &'a Case<'a>,
    calm: bool,
    verdict: &'a mut Verdict,
}

impl Look<'_> {
    fn check(&mut self, invariant: Invariant, holds: bool, said: impl FnOnce() -> String) {
        let job = self.job;
        self.verdict.check(invariant, holds, || format!("job {job}: {}", said()));
    }
}
