//! The one JSON line that a run ends with.
//!
//! Owns counts and figures. What a violation is says the checker.

use crate::checker::Verdict;
use crate::history::{Cancelling, Event, Fact, Finale};
use crate::schedule::Schedule;
use crate::witness::Line;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Violations that are written out.
const SHOWN: usize = 40;

/// The line.
pub fn report(
    schedule: &Schedule,
    profile: &str,
    verdict: &Verdict,
    (events, lines, finale): (&[Event], &[Line], &Finale),
) -> Value {
    let violations = verdict.violations();
    let invariants: BTreeMap<String, Value> = verdict
        .0
        .iter()
        .map(|(which, tally)| {
            let said = json!({"checked": tally.checked, "violations": tally.violations.len()});
            (which.to_string(), said)
        })
        .collect();
    json!({
        "seed": schedule.seed,
        "profile": profile,
        "secs": schedule.secs,
        "agents": schedule.agents,
        "brokers": schedule.brokers,
        "ok": violations.is_empty(),
        "jobs": jobs(events, finale),
        "executions": lines.iter().filter(|line| matches!(line, Line::Start { .. })).count(),
        "faults": faults(events),
        "settled_ms": finale.settled_ms,
        "figures": figures(schedule, events, lines),
        "invariants": invariants,
        "violations": violations.iter().take(SHOWN).collect::<Vec<_>>(),
    })
}

fn jobs(events: &[Event], finale: &Finale) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut accepted = std::collections::BTreeSet::new();
    for event in events {
        match &event.fact {
            Fact::Submitted { job } => drop(accepted.insert(job)),
            Fact::SubmitUnknown { .. } => *counts.entry("submit_unknown".into()).or_default() += 1,
            Fact::NotSubmitted { .. } => *counts.entry("submit_refused".into()).or_default() += 1,
            Fact::Cancelled { .. } => *counts.entry("cancels".into()).or_default() += 1,
            Fact::Followed { .. } => *counts.entry("followed".into()).or_default() += 1,
            _ => {}
        }
    }
    counts.insert("accepted".into(), accepted.len() as u64);
    for last in finale.records.values() {
        *counts.entry(last.state.to_string()).or_default() += 1;
        if let Some(kind) = last.failure {
            *counts.entry(format!("failed.{kind}")).or_default() += 1;
        }
    }
    counts
}

fn faults(events: &[Event]) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for event in events {
        if let Fact::Fault { fault, begins: true, .. } = &event.fact {
            *counts.entry(fault.as_str()).or_default() += 1;
        }
    }
    counts
}

/// One execution as far as it matters here.
struct Span<'a> {
    job: &'a str,
    agent: &'a str,
    start_ns: u64,
    end_ns: Option<u64>,
}

fn spans(lines: &[Line]) -> Vec<Span<'_>> {
    let mut spans: BTreeMap<&str, Span<'_>> = BTreeMap::new();
    for line in lines {
        match line {
            Line::Start { execution, job, agent, at_ns, .. } => {
                spans.insert(execution, Span { job, agent, start_ns: *at_ns, end_ns: None });
            }
            Line::End { execution, at_ns, .. } | Line::Gone { execution, at_ns, .. } => {
                if let Some(span) = spans.get_mut(execution.as_str()) {
                    span.end_ns = Some(*at_ns);
                }
            }
            Line::Taken { .. } => {}
        }
    }
    spans.into_values().collect()
}

/// The longest of each, milliseconds.
fn figures(schedule: &Schedule, events: &[Event], lines: &[Line]) -> BTreeMap<&'static str, u64> {
    let spans = spans(lines);
    let mut figures: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut longest = |name, from_ns: u64, to_ns: u64| {
        let ms = to_ns.saturating_sub(from_ns) / 1_000_000;
        let known = figures.entry(name).or_default();
        *known = (*known).max(ms);
    };
    for (at, event) in events.iter().enumerate() {
        match &event.fact {
            Fact::Fault { fault, target, begins: true } if fault == "kill_agent" => {
                let index = target.parse::<usize>().unwrap_or(0) % schedule.agents.max(1);
                let agent = format!("host-{index}");
                let back_ns = back(&events[at..], target);
                for next_ns in next_starts(&spans, &agent, event.at_ns) {
                    longest("agent_killed_to_next_start_ms", event.at_ns, next_ns);
                    if next_ns >= back_ns {
                        longest("agent_restarted_to_next_start_ms", back_ns, next_ns);
                    }
                }
            }
            Fact::Cancelled { job, how: Cancelling::Requested } => {
                let lived = |span: &&Span<'_>| {
                    span.job == job
                        && span.start_ns < event.at_ns
                        && span.end_ns.is_some_and(|end| end > event.at_ns)
                };
                for span in spans.iter().filter(lived) {
                    longest("cancel_to_gone_ms", event.at_ns, span.end_ns.unwrap_or(0));
                }
            }
            _ => {}
        }
    }
    figures
}

/// When the killed agent was started again.
fn back(rest: &[Event], target: &str) -> u64 {
    let found = rest.iter().find(|event| {
        matches!(&event.fact, Fact::Fault { fault, target: whom, begins: false } if fault == "kill_agent" && whom == target)
    });
    found.map_or(u64::MAX, |event| event.at_ns)
}

/// The next starts of the jobs that ran on an agent at a moment and did not end by then.
fn next_starts(spans: &[Span<'_>], agent: &str, at_ns: u64) -> Vec<u64> {
    let ran = spans.iter().filter(|span| {
        span.agent == agent && span.start_ns < at_ns && span.end_ns.is_none_or(|end| end > at_ns)
    });
    ran.filter_map(|ran| {
        let later = spans.iter().filter(|span| span.job == ran.job && span.start_ns > at_ns);
        later.map(|span| span.start_ns).min()
    })
    .collect()
}
