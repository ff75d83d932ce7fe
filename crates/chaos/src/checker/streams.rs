//! I7: what followers were given.

use super::{Invariant, Look};
use crate::history::Fact;
use grange_protocol::record::State;

/// The value of a chunk: whoever knows the job knows it.
pub fn value(job: &str, attempt: u32, index: u64) -> String {
    format!("{job}/{attempt}/{index}")
}

/// Every chunk of the attempt that counts, each once, in order, and right.
pub(super) fn whole(look: &mut Look<'_>) {
    let case = look.case;
    for fact in &case.followed {
        let Fact::Followed { chunks, state, told, error, .. } = fact else { continue };
        // What ran out has no record that a follower could be shown.
        let ran_out = case.last.is_none_or(|last| last.state == State::Expired);
        look.check(Invariant::I7, error.is_none() || ran_out, || format!("following it failed: {error:?}"));
        let Some(state) = state else { continue };
        let same = case.last.is_none_or(|last| last.state == *state);
        look.check(Invariant::I7, same, || {
            format!("a follower was told {state}, and it is {:?}", case.last.map(|last| last.state))
        });
        // Only a success has a whole stream; what ended otherwise may have given chunks that nobody counted.
        let counted = *state != State::Succeeded || *told == chunks.len() as u64;
        look.check(Invariant::I7, counted, || {
            format!("a follower was given {} of {told} chunks", chunks.len())
        });
        let counts = case.last.map(|last| last.attempt);
        let wrong = chunks.iter().enumerate().find(|(at, (attempt, index, said))| {
            let right = value(look.job, *attempt, *index);
            *index != *at as u64 || *said != right || counts.is_some_and(|counts| counts != *attempt)
        });
        look.check(Invariant::I7, wrong.is_none(), || {
            format!("a follower was given {wrong:?}; attempt {counts:?} counts")
        });
        if *state == State::Succeeded
            && let Some(wanted) = case.wanted
        {
            let (given, all) = (chunks.len() as u64, wanted.chunks);
            look.check(Invariant::I7, given == all, || {
                format!("a follower was given {given} of {all} chunks")
            });
        }
    }
}
