//! I4 to I6, I8 and I11: what the workers say.

use super::{Invariant, Look, Verdict};
use crate::history::Cancelling;
use crate::witness::Line;
use grange_protocol::record::State;
use std::collections::BTreeMap;

/// Runs at a time in one worker of the harness's plugins.
const CONCURRENCY: usize = 2;

/// I4.
pub(super) fn as_often_as_allowed(look: &mut Look<'_>) {
    let case = look.case;
    let ran = case.executions.len();
    if case.last.is_some_and(|last| last.state == State::Succeeded) {
        look.check(Invariant::I4, ran > 0, || "it succeeded and never ran".to_owned());
        let must = case.wanted.map_or(0, |wanted| wanted.fates.len()) + 1;
        if look.calm && case.left_alone() {
            look.check(Invariant::I4, ran == must, || {
                format!("nothing went wrong and it ran {ran} times, not {must}")
            });
        }
    }
    if let Some(wanted) = case.wanted {
        let most = wanted.attempts_max as usize;
        look.check(Invariant::I4, ran <= most, || format!("it ran {ran} times, {most} are allowed"));
    }
    let mut attempts: Vec<u32> = case.executions.iter().map(|ran| ran.attempt).collect();
    attempts.sort_unstable();
    let twice: Vec<u32> = attempts.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    look.check(Invariant::I4, twice.is_empty(), || format!("attempts {twice:?} ran more than once"));
}

/// I5: not after the end was seen, not after a cancel that ended it, no other attempt after one that was asked for.
pub(super) fn not_after_the_end(look: &mut Look<'_>) {
    let case = look.case;
    let ended =
        case.sights.iter().filter(|(_, _, sight)| sight.state.is_terminal()).map(|(at, ..)| *at).min();
    let at_once = case.cancels.iter().filter(|(_, how)| *how == Cancelling::AtOnce).map(|(at, _)| *at).min();
    let asked = case.cancels.iter().filter(|(_, how)| *how == Cancelling::Requested).map(|(at, _)| *at).min();
    let held = case.sights.iter().filter(|(_, _, sight)| sight.cancel_requested).map(|(_, _, sight)| sight);
    let held = held.min_by_key(|sight| sight.revision).map(|sight| sight.attempt);
    for ran in &case.executions {
        let (number, start_ns) = (ran.attempt, ran.start_ns);
        look.check(Invariant::I5, ended.is_none_or(|at| start_ns <= at), || {
            format!("attempt {number} began after its end was seen")
        });
        look.check(Invariant::I5, at_once.is_none_or(|at| start_ns <= at), || {
            format!("attempt {number} began after it was cancelled")
        });
        let late = asked.is_some_and(|at| start_ns > at) && held.is_some_and(|held| number > held);
        look.check(Invariant::I5, !late, || {
            format!("attempt {number} began after attempt {held:?} was asked to stop")
        });
    }
}

/// I6: the kernel's word, and the workers' clocks.
pub(super) fn never_two(look: &mut Look<'_>) {
    let case = look.case;
    look.check(Invariant::I6, case.overlaps.is_empty(), || {
        format!("attempts {:?} found a process of another attempt alive", case.overlaps)
    });
    let mut spans: Vec<(u64, Option<u64>, u32)> = case
        .executions
        .iter()
        .map(|ran| (ran.start_ns, ran.end.as_ref().map(|end| end.at_ns), ran.attempt))
        .collect();
    spans.sort_unstable();
    for pair in spans.windows(2) {
        let [(_, end, first), (start, _, second)] = pair else { continue };
        look.check(Invariant::I6, end.is_none_or(|end| end <= *start), || {
            format!("attempt {second} began while attempt {first} ran")
        });
    }
}

/// I11: bytes and name.
pub(super) fn true_input(look: &mut Look<'_>) {
    let case = look.case;
    for ran in &case.executions {
        let same = case.wanted.is_some_and(|wanted| wanted.input_sha256 == ran.input_sha256);
        look.check(Invariant::I11, same, || format!("attempt {} was given other bytes", ran.attempt));
        let named = ran.named.rsplit('/').next() == Some(look.job);
        look.check(Invariant::I11, named, || {
            format!("attempt {} was told it is `{}`", ran.attempt, ran.named)
        });
    }
}

/// I8: locks of GPUs, and runs at a time in one process.
pub(super) fn within_capacity(lines: &[Line], verdict: &mut Verdict) {
    let mut running: BTreeMap<(u32, u64), Vec<&str>> = BTreeMap::new();
    for line in lines {
        match line {
            Line::Start { execution, pid, ticks, .. } => {
                let runs = running.entry((*pid, *ticks)).or_default();
                runs.push(execution);
                let count = runs.len();
                verdict.check(Invariant::I8, count <= CONCURRENCY, || {
                    format!("process {pid} runs {count} at a time, {CONCURRENCY} are allowed")
                });
            }
            Line::End { execution, .. } => {
                running.values_mut().for_each(|runs| runs.retain(|run| run != execution));
            }
            Line::Taken { job, lock, .. } => {
                let gpu = lock.starts_with("gpu-");
                verdict.check(Invariant::I8, !gpu, || format!("job {job} found `{lock}` taken"));
            }
            Line::Gone { .. } => {}
        }
    }
}
