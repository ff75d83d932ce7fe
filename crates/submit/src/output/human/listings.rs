//! Tables of jobs, and one job with its history.

use crate::output::screen::{Look, Style, cut};
use crate::output::table::{Cell, Table};
use crate::units;
use grange_broker_client::query::JobView;
use grange_broker_client::schedules::Delayed;
use grange_protocol::record::{Record, State, Usage};
use std::time::Duration;

pub(super) fn state_style(state: State) -> Style {
    match state {
        State::Queued | State::Retrying => Style::Dim,
        State::Claimed | State::Running => Style::Cyan,
        State::Succeeded => Style::Green,
        State::Failed => Style::Red,
        State::Cancelled | State::Expired | State::Refused => Style::Yellow,
    }
}

fn submitted_ms(view: &JobView) -> u64 {
    let first = |record: &Record| record.history.first().map(|moment| moment.at_ms);
    view.waiting
        .as_ref()
        .map(|waiting| waiting.submitted_ms)
        .or_else(|| view.delayed.as_ref().map(|delayed| delayed.submitted_ms))
        .or_else(|| view.record.as_ref().map(|record| record.submitted_ms).filter(|at| *at > 0))
        .or_else(|| view.record.as_ref().and_then(|record| first(record)))
        .unwrap_or(0)
}

/// When it is submitted.
fn due(delayed: &Delayed) -> String {
    if delayed.fired {
        return "its time has come; an agent carries it into its lane".to_owned();
    }
    format!("submitted at {}", units::date_time(delayed.due_ms))
}

/// How long it ran, or how it is going.
fn run_time(record: &Record, now_ms: u64) -> String {
    if let Some(outcome) = &record.outcome {
        return if outcome.usage.run_ms > 0.0 { units::millis(outcome.usage.run_ms) } else { "-".to_owned() };
    }
    match &record.attempt {
        Some(attempt) if record.state.is_held() => {
            units::duration(Duration::from_secs(now_ms.saturating_sub(attempt.claimed_ms) / 1000))
        }
        _ => "-".to_owned(),
    }
}

/// `12.5 GPU-seconds, peak 6.0 GiB of VRAM`, as far as there is anything to say.
pub(super) fn gpu_use(usage: &Usage) -> Option<String> {
    let held =
        (usage.gpu_seconds > 0.0).then(|| format!("{} GPU-seconds", units::seconds(usage.gpu_seconds)));
    let peak = (usage.peak_vram_mb > 0).then(|| format!("peak {} of VRAM", units::mib(usage.peak_vram_mb)));
    let parts: Vec<String> = held.into_iter().chain(peak).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

pub(super) fn jobs(views: &[JobView], look: Look) -> Vec<String> {
    let now_ms = units::now_ms();
    let mut table = Table::new(["JOB", "PLUGIN", "STATE", "OWNER", "AGENT", ">RUN", ">SUBMITTED", "NOTE"]);
    for view in views {
        let lane = view.lane();
        let record = view.record.as_deref();
        let attempt = record.and_then(|record| record.attempt.as_ref());
        let failure = record.and_then(|record| record.outcome.as_ref()).and_then(|o| o.failure.as_ref());
        let note = match failure {
            Some(failure) => failure.message.lines().next().unwrap_or_default().to_owned(),
            None if record.is_some_and(|r| r.cancel_requested.is_some() && !r.state.is_terminal()) => {
                "cancel asked for".to_owned()
            }
            None => view.delayed.as_ref().map(due).unwrap_or_default(),
        };
        table.row([
            view.key.job.as_str().into(),
            lane.map_or("-".to_owned(), |lane| lane.plugin.to_string()).into(),
            Cell::styled(view.word(), state_style(view.state())),
            view.key.owner.as_str().into(),
            attempt.map_or("-", |attempt| attempt.agent.as_str()).into(),
            record.map_or("-".to_owned(), |record| run_time(record, now_ms)).into(),
            units::ago(submitted_ms(view), now_ms).into(),
            cut(&note, 80).into(),
        ]);
    }
    table.lines(look)
}

pub(super) fn job(view: &JobView, look: Look) -> Vec<String> {
    let now_ms = units::now_ms();
    let mut table = Table::new(["", ""]);
    let mut fact = |name: &str, cell: Cell| table.row([Cell::styled(name, Style::Dim), cell]);
    fact("job", view.key.job.as_str().into());
    fact("owner", view.key.owner.as_str().into());
    if let Some(lane) = view.lane() {
        fact("plugin", lane.plugin.as_str().into());
        fact("lane", format!("{}, {}", lane.class, lane.priority).into());
    }
    fact("state", Cell::styled(view.word(), state_style(view.state())));
    if let Some(delayed) = &view.delayed {
        fact("due", due(delayed).into());
    }
    let submitted = submitted_ms(view);
    if submitted > 0 {
        fact(
            "submitted",
            format!("{} ({})", units::date_time(submitted), units::ago(submitted, now_ms)).into(),
        );
    }
    if let Some(ahead) = view.waiting.as_ref().and_then(|waiting| waiting.ahead) {
        fact("before it", format!("{ahead} jobs of its lane").into());
    }
    if let Some(record) = &view.record {
        record_facts(record, now_ms, &mut fact);
    }
    let mut lines = table.lines(look);
    if let Some(record) = &view.record {
        lines.push(look.paint(Style::Dim, "history"));
        lines.extend(history(record, look).into_iter().map(|line| format!("  {line}")));
    }
    lines
}

fn record_facts(record: &Record, now_ms: u64, fact: &mut impl FnMut(&str, Cell)) {
    if let Some(attempt) = &record.attempt {
        fact("attempt", format!("{} on {}", attempt.number, attempt.agent).into());
        fact("run", run_time(record, now_ms).into());
    }
    if let Some(request) = &record.cancel_requested {
        let reason = if request.reason.is_empty() { String::new() } else { format!(": {}", request.reason) };
        fact("cancel", format!("asked for {}{reason}", units::ago(request.at_ms, now_ms)).into());
    }
    let tries = record.tries;
    if tries.worker_crashes + tries.host_losses > 0 {
        fact("lost", format!("{} crashes, {} hosts", tries.worker_crashes, tries.host_losses).into());
    }
    let Some(outcome) = &record.outcome else { return };
    if outcome.chunks > 0 {
        fact("chunks", outcome.chunks.to_string().into());
    }
    if let Some(used) = gpu_use(&outcome.usage) {
        fact("gpu", used.into());
    }
    if let Some(failure) = &outcome.failure {
        let message = failure.message.lines().next().unwrap_or_default();
        fact("failure", Cell::styled(format!("{}: {message}", failure.kind), Style::Red));
    }
}

fn history(record: &Record, look: Look) -> Vec<String> {
    let mut table = Table::new(["", "", "", ""]);
    for moment in &record.history {
        let attempt = moment.attempt.map(|number| format!("attempt {number}")).unwrap_or_default();
        let agent = moment.agent.as_ref().map(|agent| format!(" on {agent}")).unwrap_or_default();
        table.row([
            Cell::styled(units::date_time(moment.at_ms), Style::Dim),
            Cell::styled(moment.state.as_str(), state_style(moment.state)),
            format!("{attempt}{agent}").into(),
            moment.note.as_str().into(),
        ]);
    }
    table.lines(look)
}
