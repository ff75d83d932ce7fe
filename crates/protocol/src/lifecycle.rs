//! What may become of a job: one pure function for every move. Every move is written by compare-and-set, so two
//! movers never both win.
//!
//! ```text
//!   (nothing) ─► queued ─► claimed ─► running ─► succeeded | failed | cancelled
//!       │          │  ▲       │          │
//!       │          │  └───────┴──────────┴──► retrying ─► claimed | running | failed | cancelled
//!       │          └─► expired | refused | cancelled            (queued and retrying: also into another lane)
//!       └─► claimed | running | failed | cancelled | refused       (a ticket needs no record before it is claimed)
//! ```
//! A terminal record never changes.

use crate::failure::Failure;
use crate::limit::{MAX_NOTE_BYTES, keep_start};
use crate::record::{Attempt, CancelRequest, Fence, Holder, Outcome, Record, State, Tries};
use crate::subject::Lane;

/// Why a move is not allowed. A defined answer, not a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It ended already.
    #[error("the job is already {0}")]
    Ended(State),
    /// Another attempt holds it, or none.
    #[error("attempt {0} no longer holds the job")]
    Lost(u32),
    /// The move does not start here.
    #[error("a job that is {from} cannot become {to}")]
    NotFromHere {
        /// Where it is.
        from: State,
        /// Where it should go.
        to: State,
    },
}

/// What an agent states when it claims.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who.
    pub holder: Holder,
    /// The lease that is asked for, seconds.
    pub lease_s: u32,
    /// Held ahead: it starts when the one before has ended.
    pub ahead: bool,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// Why an attempt ends without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryCause {
    /// The run ended with an error.
    PluginError,
    /// The worker process ended in the middle.
    WorkerCrashed,
    /// The agent or host was lost, or restarted.
    HostLost,
    /// A GPU failed under it; counted as a lost host.
    GpuFailed,
    /// It never started: nothing is counted.
    NotStarted,
}

/// The record of a job that waits with a deadline.
pub fn queue(lane: &Lane, at_ms: u64) -> Record {
    let mut record = Record::new(lane, State::Queued, at_ms);
    record.enter(State::Queued, at_ms, "");
    record
}

/// The record of a job that waits, and waits in lane `to` from now on. Its ticket is to be published there; one that lies
/// elsewhere is passed on (`ownership::Verdict::Moved`). `from` and `submitted_ms` are of a job without a record.
pub fn move_to(
    before: Option<&Record>,
    from: &Lane,
    to: &Lane,
    submitted_ms: u64,
    at_ms: u64,
) -> Result<Record, Denied> {
    let mut record = before.cloned().unwrap_or_else(|| Record::new(from, State::Queued, submitted_ms));
    let state = match record.state {
        State::Queued | State::Retrying => record.state,
        held @ (State::Claimed | State::Running) => {
            return Err(Denied::NotFromHere { from: held, to: State::Queued });
        }
        State::Succeeded | State::Failed | State::Cancelled | State::Expired | State::Refused => {
            return Err(Denied::Ended(record.state));
        }
    };
    let note = format!("moved from `{}` to `{to}`", record.lane());
    let Lane { priority, plugin, class } = to.clone();
    (record.priority, record.plugin, record.class) = (priority, plugin, class);
    record.backoff_ms = 0;
    record.enter(state, at_ms, note);
    Ok(record)
}

/// The record of a new attempt on what `before` says (None: nothing was written yet). Where somebody asked for an end
/// before, that is what it gets: the record is `cancelled`, and nothing starts.
pub fn claim(
    before: Option<&Record>,
    lane: &Lane,
    submitted_ms: u64,
    claim: &Claim,
) -> Result<Record, Denied> {
    let mut record = match before {
        Some(before) if before.state.is_terminal() => return Err(Denied::Ended(before.state)),
        Some(before) => before.clone(),
        None => Record::new(lane, State::Queued, submitted_ms),
    };
    record.submitted_ms = if record.submitted_ms == 0 { submitted_ms } else { record.submitted_ms };
    let number = record.attempt.as_ref().map_or(1, |a| a.number + 1);
    let taken_over = record.state.is_held();
    if taken_over {
        count(&mut record.tries, RetryCause::HostLost);
    }
    (record.backoff_ms, record.avoid_ms) = (0, 0);
    record.attempt = Some(Attempt {
        number,
        agent: claim.holder.agent.clone(),
        incarnation: claim.holder.incarnation.clone(),
        claim: None,
        lease_s: claim.lease_s,
        claimed_ms: claim.at_ms,
    });
    if record.cancel_requested.is_some() {
        record.outcome = Some(Outcome::default());
        record.enter(State::Cancelled, claim.at_ms, "cancelled before another attempt began");
        return Ok(record);
    }
    let state = if claim.ahead { State::Claimed } else { State::Running };
    record.enter(state, claim.at_ms, if taken_over { "taken over from a lost holder" } else { "" });
    Ok(record)
}

/// The terminal record of the attempt behind `fence`; `sequence` is where `before` is stored.
pub fn conclude(
    before: &Record,
    sequence: u64,
    fence: &Fence,
    state: State,
    outcome: Outcome,
    at_ms: u64,
) -> Result<Record, Denied> {
    let mut record = owned(before, sequence, fence)?;
    if !matches!(state, State::Succeeded | State::Failed | State::Cancelled) {
        return Err(Denied::NotFromHere { from: before.state, to: state });
    }
    let note = outcome.failure.as_ref().map(|f| f.kind.to_string()).unwrap_or_default();
    record.outcome = Some(outcome);
    record.enter(state, at_ms, note);
    Ok(record)
}

/// How an attempt that gets another one ended, and how long the job rests until then.
#[derive(Clone, Debug)]
pub struct GivenUp<'a> {
    /// Whose fault it was.
    pub cause: RetryCause,
    /// What happened; None: nothing of note.
    pub failure: Option<&'a Failure>,
    /// Nobody claims it before, milliseconds after it was stored.
    pub backoff_ms: u64,
    /// The attempt's agent leaves it to others for so much longer, milliseconds.
    pub avoid_ms: u64,
}

impl GivenUp<'_> {
    /// Without evidence and without a rest.
    pub fn at_once(cause: RetryCause) -> Self {
        Self { cause, failure: None, backoff_ms: 0, avoid_ms: 0 }
    }
}

/// The record of an attempt that ends without an outcome. What asked for a cancel meanwhile gets it.
pub fn retry(
    before: &Record,
    sequence: u64,
    fence: &Fence,
    given_up: &GivenUp<'_>,
    note: &str,
    at_ms: u64,
) -> Result<Record, Denied> {
    let mut record = owned(before, sequence, fence)?;
    count(&mut record.tries, given_up.cause);
    let note = keep_start(note, MAX_NOTE_BYTES);
    if let Some(failure) = given_up.failure {
        record.last_failure = Some(failure.clone());
    }
    if record.cancel_requested.is_some() {
        record.outcome = Some(Outcome::default());
        record.enter(State::Cancelled, at_ms, note);
    } else {
        (record.backoff_ms, record.avoid_ms) = (given_up.backoff_ms, given_up.avoid_ms);
        record.enter(State::Retrying, at_ms, note);
    }
    Ok(record)
}

/// The terminal record of a job whose holder is lost, and that has been lost too often: what may claim it
/// (`ownership::judge`) may write this instead. What asked for a cancel meanwhile gets it.
pub fn abandon(before: &Record, sequence: u64, outcome: Outcome, at_ms: u64) -> Result<Record, Denied> {
    if before.state.is_terminal() {
        return Err(Denied::Ended(before.state));
    }
    if !before.state.is_held() {
        return Err(Denied::NotFromHere { from: before.state, to: State::Failed });
    }
    let mut record = before.clone();
    remember_claim(&mut record, sequence);
    count(&mut record.tries, RetryCause::HostLost);
    if record.cancel_requested.is_some() {
        record.outcome = Some(Outcome::default());
        record.enter(State::Cancelled, at_ms, "cancelled before another attempt began");
        return Ok(record);
    }
    let note = outcome.failure.as_ref().map(|f| f.kind.to_string()).unwrap_or_default();
    record.outcome = Some(outcome);
    record.enter(State::Failed, at_ms, note);
    Ok(record)
}

/// The record after somebody asked for an end: at once for a job that nobody holds, else a request to the holder.
pub fn request_cancel(
    before: Option<(&Record, u64)>,
    lane: &Lane,
    reason: &str,
    at_ms: u64,
) -> Result<Record, Denied> {
    let mut record = before.map_or_else(|| Record::new(lane, State::Queued, 0), |(record, _)| record.clone());
    match record.state {
        State::Queued | State::Retrying => {
            record.outcome = Some(Outcome::default());
            record.enter(State::Cancelled, at_ms, reason);
            Ok(record)
        }
        State::Claimed | State::Running => {
            if record.cancel_requested.is_none() {
                record.cancel_requested = Some(CancelRequest { at_ms, reason: reason.to_owned() });
            }
            if let Some((_, sequence)) = before {
                remember_claim(&mut record, sequence);
            }
            Ok(record)
        }
        State::Succeeded | State::Failed | State::Cancelled | State::Expired | State::Refused => {
            Err(Denied::Ended(record.state))
        }
    }
}

/// The terminal record of a job that no attempt ever gets: refused, expired, cancelled, or failed before any run.
pub fn end_unclaimed(
    before: Option<&Record>,
    lane: &Lane,
    state: State,
    outcome: Outcome,
    at_ms: u64,
) -> Result<Record, Denied> {
    let mut record = before.cloned().unwrap_or_else(|| Record::new(lane, State::Queued, 0));
    if record.state.is_terminal() {
        return Err(Denied::Ended(record.state));
    }
    if record.state.is_held() || !state.is_terminal() || state == State::Succeeded {
        return Err(Denied::NotFromHere { from: record.state, to: state });
    }
    let note = outcome.failure.as_ref().map(|f| f.kind.to_string()).unwrap_or_default();
    record.outcome = Some(outcome);
    record.enter(state, at_ms, note);
    Ok(record)
}

/// One more try that ended so.
pub fn count(tries: &mut Tries, cause: RetryCause) {
    let count = match cause {
        RetryCause::PluginError => &mut tries.plugin_errors,
        RetryCause::WorkerCrashed => &mut tries.worker_crashes,
        RetryCause::HostLost | RetryCause::GpuFailed => &mut tries.host_losses,
        RetryCause::NotStarted => return,
    };
    *count = count.saturating_add(1);
}

/// A copy with the claim's sequence written down, if the attempt still holds the job.
fn owned(before: &Record, sequence: u64, fence: &Fence) -> Result<Record, Denied> {
    if before.state.is_terminal() {
        return Err(Denied::Ended(before.state));
    }
    if !before.held_by(fence, sequence) {
        return Err(Denied::Lost(fence.number));
    }
    let mut record = before.clone();
    remember_claim(&mut record, sequence);
    Ok(record)
}

/// Writes the claim's sequence into a record that is about to get a new sequence of its own.
pub fn remember_claim(record: &mut Record, sequence: u64) {
    if let Some(attempt) = record.attempt.as_mut() {
        attempt.claim.get_or_insert(sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{AgentName, Class, Incarnation, PluginName};
    use crate::ticket::Priority;
    use proptest::prelude::*;

    fn lane() -> Lane {
        let plugin = PluginName::new("echo").unwrap();
        Lane { priority: Priority::Normal, plugin, class: Class::plugin_default() }
    }

    fn holder(n: u32) -> Holder {
        Holder {
            agent: AgentName::new(format!("a{n}")).unwrap(),
            incarnation: Incarnation::new(format!("i{n}")).unwrap(),
        }
    }

    fn claim_by(n: u32, ahead: bool) -> Claim {
        Claim { holder: holder(n), lease_s: 30, ahead, at_ms: 5 }
    }

    #[test]
    fn a_zombie_cannot_conclude() {
        let first = claim(None, &lane(), 1, &claim_by(1, false)).unwrap();
        let old = first.fence(10).unwrap();
        let second = claim(Some(&first), &lane(), 1, &claim_by(2, false)).unwrap();
        assert_eq!(second.attempt.as_ref().unwrap().number, 2);
        let denied = conclude(&second, 11, &old, State::Succeeded, Outcome::default(), 9);
        assert_eq!(denied, Err(Denied::Lost(1)));
        let mine = second.fence(11).unwrap();
        let done = conclude(&second, 11, &mine, State::Succeeded, Outcome::default(), 9).unwrap();
        assert_eq!(done.attempt.as_ref().unwrap().claim, Some(11));
    }

    #[test]
    fn a_cancel_request_keeps_the_fence() {
        let running = claim(None, &lane(), 1, &claim_by(1, false)).unwrap();
        let fence = running.fence(10).unwrap();
        let asked = request_cancel(Some((&running, 10)), &lane(), "why", 6).unwrap();
        assert!(asked.held_by(&fence, 11), "the request's own sequence must not become the claim's");
        assert!(conclude(&asked, 11, &fence, State::Cancelled, Outcome::default(), 7).is_ok());
    }

    #[test]
    fn a_retry_of_a_cancelled_job_cancels_it() {
        let running = claim(None, &lane(), 1, &claim_by(1, false)).unwrap();
        let fence = running.fence(10).unwrap();
        let asked = request_cancel(Some((&running, 10)), &lane(), "", 6).unwrap();
        let ended = retry(&asked, 11, &fence, &GivenUp::at_once(RetryCause::HostLost), "", 7).unwrap();
        assert_eq!(ended.state, State::Cancelled);
    }

    #[test]
    fn a_takeover_of_a_cancelled_job_cancels_it() {
        let running = claim(None, &lane(), 1, &claim_by(1, false)).unwrap();
        let asked = request_cancel(Some((&running, 10)), &lane(), "", 6).unwrap();
        assert_eq!(claim(Some(&asked), &lane(), 1, &claim_by(2, false)).unwrap().state, State::Cancelled);
    }

    #[test]
    fn a_rest_ends_with_the_claim_and_the_evidence_stays() {
        let running = claim(None, &lane(), 1, &claim_by(1, false)).unwrap();
        let fence = running.fence(10).unwrap();
        let failure = Failure::new(crate::failure::FailureKind::PluginFailed, "no");
        let cause = RetryCause::PluginError;
        let given_up = GivenUp { cause, failure: Some(&failure), backoff_ms: 7, avoid_ms: 9 };
        let resting = retry(&running, 10, &fence, &given_up, &"x".repeat(9_999), 7).unwrap();
        assert_eq!((resting.state, resting.backoff_ms, resting.avoid_ms), (State::Retrying, 7, 9));
        assert_eq!(resting.tries.plugin_errors, 1);
        assert!(resting.history.last().unwrap().note.len() < 1_000);
        let moved = move_to(Some(&resting), &lane(), &lane(), 1, 8).unwrap();
        assert_eq!((moved.backoff_ms, moved.avoid_ms), (0, 9), "who moves it wants it soon");
        let again = claim(Some(&resting), &lane(), 1, &claim_by(2, false)).unwrap();
        assert_eq!((again.backoff_ms, again.avoid_ms), (0, 0));
        assert_eq!(again.last_failure, Some(failure));
    }

    #[test]
    fn a_job_that_was_lost_too_often_is_abandoned_once() {
        let running = claim(None, &lane(), 1, &claim_by(1, false)).unwrap();
        let fence = running.fence(10).unwrap();
        let failed = abandon(&running, 10, Outcome::default(), 6).unwrap();
        assert_eq!((failed.state, failed.tries.host_losses), (State::Failed, 1));
        let late = conclude(&failed, 11, &fence, State::Succeeded, Outcome::default(), 7);
        assert_eq!(late, Err(Denied::Ended(State::Failed)));
        assert!(abandon(&queue(&lane(), 1), 10, Outcome::default(), 6).is_err());
    }

    #[test]
    fn same_agent_same_number_other_claim_is_another_attempt() {
        let running = claim(None, &lane(), 1, &claim_by(1, false)).unwrap();
        assert!(!running.held_by(&running.fence(10).unwrap(), 12));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Claim(u32, bool),
        Conclude(usize, bool),
        Retry(usize),
        Cancel,
        Move,
        End,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u32..4, any::<bool>()).prop_map(|(a, h)| Step::Claim(a, h)),
            (0usize..8, any::<bool>()).prop_map(|(f, ok)| Step::Conclude(f, ok)),
            (0usize..8).prop_map(Step::Retry),
            Just(Step::Cancel),
            Just(Step::Move),
            Just(Step::End),
        ]
    }

    proptest! {
        /// Whoever moves, in whatever order: one terminal state, nothing after it, and only the holder concludes.
        #[test]
        fn one_end_and_nothing_after(steps in proptest::collection::vec(step(), 1..40)) {
            let mut stored: Option<(Record, u64)> = None;
            let mut fences: Vec<Fence> = Vec::new();
            let mut ends = 0;
            for step in steps {
                let before = stored.as_ref().map(|(r, s)| (r, *s));
                let ended = before.is_some_and(|(r, _)| r.state.is_terminal());
                let next = match step {
                    Step::Claim(a, ahead) => claim(before.map(|b| b.0), &lane(), 1, &claim_by(a, ahead)),
                    Step::Conclude(f, ok) => match (before, fences.get(f)) {
                        (Some((r, s)), Some(fence)) => {
                            let state = if ok { State::Succeeded } else { State::Failed };
                            let moved = conclude(r, s, fence, state, Outcome::default(), 2);
                            prop_assert_eq!(moved.is_ok(), r.held_by(fence, s));
                            moved
                        }
                        _ => continue,
                    },
                    Step::Retry(f) => match (before, fences.get(f)) {
                        (Some((r, s)), Some(fence)) => {
                            retry(r, s, fence, &GivenUp::at_once(RetryCause::HostLost), "", 2)
                        }
                        _ => continue,
                    },
                    Step::Cancel => request_cancel(before, &lane(), "", 2),
                    Step::Move => move_to(before.map(|b| b.0), &lane(), &lane(), 1, 2),
                    Step::End => end_unclaimed(before.map(|b| b.0), &lane(), State::Expired, Outcome::default(), 2),
                };
                if let Ok(record) = next {
                    prop_assert!(!ended, "moved after the end");
                    ends += u32::from(record.state.is_terminal());
                    prop_assert!(record.history.len() <= crate::limit::MAX_HISTORY);
                    let sequence = before.map_or(10, |b| b.1 + 1);
                    if record.attempt.as_ref().is_some_and(|a| a.claim.is_none()) && record.state.is_held() {
                        fences.push(record.fence(sequence).unwrap());
                    }
                    stored = Some((record, sequence));
                }
            }
            prop_assert!(ends <= 1);
        }
    }
}
