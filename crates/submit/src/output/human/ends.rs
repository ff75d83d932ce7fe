//! How a job ended, in one line, and why it did not succeed.

use super::{LOG_MARK, listings};
use crate::output::screen::{Look, Style, clean, clean_lines};
use crate::output::words::Ended;
use crate::units;
use grange_protocol::record::State;

/// Last lines of a traceback that are shown.
const TRACEBACK_LINES: usize = 24;

/// `succeeded in 3.2 s on host-1, 25 chunks, 3.1 GPU-seconds`
pub(super) fn line(end: &Ended, look: Look) -> String {
    let record = &end.record;
    let outcome = record.outcome.clone().unwrap_or_default();
    let (mark, style) = match record.state {
        State::Succeeded => ("✔", Style::Green),
        State::Cancelled | State::Expired | State::Refused => ("■", Style::Yellow),
        _ => ("✘", Style::Red),
    };
    let mut rest = String::new();
    if outcome.usage.run_ms > 0.0 {
        rest.push_str(&format!(" in {}", units::millis(outcome.usage.run_ms)));
    }
    if let Some(attempt) = &record.attempt {
        rest.push_str(&format!(" on {}", attempt.agent));
        if attempt.number > 1 {
            rest.push_str(&format!(", attempt {}", attempt.number));
        }
    }
    if outcome.chunks > 0 {
        let s = if outcome.chunks == 1 { "" } else { "s" };
        rest.push_str(&format!(", {} chunk{s}", outcome.chunks));
    }
    if let Some(used) = listings::gpu_use(&outcome.usage) {
        rest.push_str(&format!(", {used}"));
    }
    let word = look.paint(style, &format!("{mark} {}", record.state));
    format!("{word}{}", look.paint(Style::Dim, &rest))
}

/// The failure with the end of its traceback; nothing where there is none.
pub(super) fn failure(end: &Ended, look: Look) -> Vec<String> {
    let Some(failure) = end.record.outcome.as_ref().and_then(|outcome| outcome.failure.as_ref()) else {
        return Vec::new();
    };
    let raised = failure.exception.as_deref().filter(|name| !failure.message.contains(name));
    let raised = raised.map(|name| format!("{}: ", clean(name))).unwrap_or_default();
    // A job that never ran did not fail by anything: why it was refused is all there is to say.
    let kind = if end.record.state == State::Refused { String::new() } else { format!("{}: ", failure.kind) };
    let mut lines = vec![format!("{kind}{raised}{}", clean_lines(&failure.message))];
    let shown = |text: &Option<String>| text.as_deref().map(clean_lines).unwrap_or_default();
    for text in [shown(&failure.traceback), shown(&failure.stderr)] {
        let count = text.lines().count();
        let last = text.lines().skip(count.saturating_sub(TRACEBACK_LINES));
        lines.extend(last.map(|line| look.paint(Style::Dim, &format!("{LOG_MARK}{line}"))));
    }
    lines
}
