//! I9, I10, I12 and I13: what is left, whether it came to an end, what was seen that must not be, what was nowhere.

use super::{Invariant, Look, SETTLE_LIMIT_MS, Verdict};
use crate::history::Finale;
use crate::witness::Line;

/// I13.
pub(super) fn somewhere(look: &mut Look<'_>) {
    let missed = look.case.not_found;
    look.check(Invariant::I13, missed == 0, || format!("it was accepted, and nowhere at {missed} looks"));
}

/// I9.
pub(super) fn nothing_left(finale: &Finale, verdict: &mut Verdict) {
    verdict.check(Invariant::I9, finale.left.is_empty(), || format!("left behind: {:?}", finale.left));
}

/// I10.
pub(super) fn settled(finale: &Finale, verdict: &mut Verdict) {
    let holds = finale.settled_ms.is_some_and(|ms| ms <= SETTLE_LIMIT_MS);
    verdict.check(Invariant::I10, holds, || match finale.settled_ms {
        Some(ms) => format!("everything had ended {ms} ms after the healing, {SETTLE_LIMIT_MS} are allowed"),
        None => {
            let open = finale.records.iter().filter(|(_, last)| !last.state.is_terminal());
            let open: Vec<String> = open.map(|(job, last)| format!("{job} is {}", last.state)).collect();
            format!("not everything had ended {SETTLE_LIMIT_MS} ms after the healing: {open:?}")
        }
    });
}

/// I12.
pub(super) fn secrets(lines: &[Line], finale: &Finale, verdict: &mut Verdict) {
    for line in lines {
        if let Line::Start { job, secrets, .. } = line {
            verdict.check(Invariant::I12, secrets.is_empty(), || {
                format!("a worker of job {job} saw {secrets:?}")
            });
        }
    }
    verdict
        .check(Invariant::I12, finale.secrets.is_empty(), || format!("a secret is in {:?}", finale.secrets));
}
