//! I1 to I3: what the records say.

use super::{Invariant, Look};
use crate::history::Sight;
use grange_protocol::limit::MAX_HISTORY;
use grange_protocol::record::State;

/// I1: one end for what was accepted, none for what was refused.
pub(super) fn one_end(look: &mut Look<'_>) {
    let case = look.case;
    if case.accepted {
        let state = case.last.map(|last| last.state);
        look.check(Invariant::I1, state.is_some_and(State::is_terminal), || match state {
            Some(state) => format!("it was accepted and is {state} at the end"),
            None => "it was accepted and is lost".to_owned(),
        });
    } else if case.refused && !case.unknown {
        look.check(Invariant::I1, case.last.is_none(), || "it was refused and has a record".to_owned());
        look.check(Invariant::I1, case.executions.is_empty(), || "it was refused and ran".to_owned());
    } else if case.unknown {
        // A record alone is no job: one that waits with a limit is written before its ticket, and runs out.
        let holds = case.last.is_none_or(|last| last.state.is_terminal());
        look.check(Invariant::I1, holds, || "nobody knew of its acceptance, and it hangs".to_owned());
    } else {
        look.check(Invariant::I1, case.wanted.is_some(), || "nobody submitted it".to_owned());
    }
}

/// I2: everything that anybody saw is a part of one history.
pub(super) fn one_history(look: &mut Look<'_>) {
    let mut sights: Vec<(&str, &Sight)> =
        look.case.sights.iter().map(|(_, reader, sight)| (*reader, *sight)).collect();
    sights.extend(look.case.last.map(|last| ("finale", last)));
    sights.sort_by_key(|(_, sight)| sight.revision);
    for pair in sights.windows(2) {
        let [(_, before), (reader, after)] = pair else { continue };
        let same = before.revision == after.revision;
        look.check(Invariant::I2, !same || before == after, || {
            format!("revision {} is {} and {}", after.revision, before.state, after.state)
        });
        look.check(Invariant::I2, same || !before.state.is_terminal(), || {
            let (then, now) = (before.state, after.state);
            format!("it was {then} at {} and {now} at {}, says {reader}", before.revision, after.revision)
        });
        // A record that waits with a limit runs out into a marker, which remembers nothing.
        let ran_out = before.state == State::Queued && after.state == State::Expired;
        let cut = after.moments.len() >= MAX_HISTORY || after.moments.is_empty() || ran_out;
        let grows = cut || after.moments.starts_with(&before.moments);
        look.check(Invariant::I2, grows, || {
            format!("its history changed from {:?} to {:?}", before.moments, after.moments)
        });
    }
    let newest = look.case.sights.iter().map(|(_, _, sight)| sight.revision).max();
    if let (Some(newest), Some(last)) = (newest, look.case.last) {
        look.check(Invariant::I2, newest <= last.revision, || {
            format!("revision {newest} was seen, and the last is {}", last.revision)
        });
    }
}

/// I3: the result names the execution that made it: one of the attempt and host that held the job, with its digest.
pub(super) fn true_result(look: &mut Look<'_>) {
    let Some(last) = look.case.last.filter(|last| last.state == State::Succeeded) else { return };
    let made = look.case.executions.iter().find(|made| Some(made.id) == last.execution.as_deref());
    look.check(Invariant::I3, made.is_some(), || {
        format!("its result names the execution {:?}, which no worker began", last.execution)
    });
    let Some(made) = made else { return };
    let holds = made.attempt == last.attempt && made.agent == last.agent;
    look.check(Invariant::I3, holds, || {
        let (number, agent) = (made.attempt, made.agent);
        format!("attempt {number} on {agent} made the result, {} on {} held it", last.attempt, last.agent)
    });
    let end = made.end.as_ref();
    let holds = end.is_some_and(|end| {
        end.how == "returned" && Some(end.digest) == last.digest.as_deref() && end.chunks == last.chunks
    });
    look.check(Invariant::I3, holds, || {
        format!("its worker ended with {end:?}, the record says {:?} and {} chunks", last.digest, last.chunks)
    });
}
