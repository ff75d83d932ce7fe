//! Whose job is it? What an agent does with a delivered ticket when it is not plainly new: a pure decision on what a
//! leader read showed. Only the broker's own times are compared.

use crate::admission::{Answer, explain};
use crate::name::AgentName;
use crate::record::{Holder, Record, State};
use crate::status::AgentStatus;
use crate::subject::Lane;

/// An agent that leaves a job to others looks again after so long, milliseconds: nobody else sees the ticket meanwhile.
const LEAVE_MS: u64 = 500;

/// What the leader said of a job's state subject.
#[derive(Clone, Debug)]
pub enum Stored {
    /// Nothing is there.
    Nothing,
    /// The value ran out of time; a marker took its place.
    Marker {
        /// The marker's sequence.
        sequence: u64,
    },
    /// A record.
    Record {
        /// Its sequence.
        sequence: u64,
        /// When the broker stored it, Unix milliseconds of the broker.
        stored_ms: u64,
        /// The record; boxed, it is the big one.
        record: Box<Record>,
    },
}

/// What is known of the agent that holds the job, or held it last, and of the others.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    /// Its newest heartbeat and when the broker stored it; None: its key ran out, or never was.
    pub newest: Option<(AgentStatus, u64)>,
    /// Of a key that ran out: when its last heartbeat was stored at the latest, Unix milliseconds of the broker. None: it
    /// said farewell, or was silent for longer than traces are kept, which is longer than any lease.
    pub last_ms: Option<u64>,
    /// How long the heartbeat bucket has existed, milliseconds: a bucket younger than a lease proves nothing.
    pub bucket_age_ms: u64,
    /// Another agent than the one that judges could start the job now, by what it says (`could_start`).
    pub others_could: bool,
}

/// What a delivered ticket says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Delivered<'a> {
    /// The lane that it was delivered from.
    pub lane: &'a Lane,
    /// The revision that it builds on (`Grange-State`); 0: none.
    pub base: u64,
}

/// What to do with the ticket.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Claim it, expecting this revision (0: nothing).
    Claim {
        /// The revision to expect.
        expect: u64,
        /// What the claim builds on.
        before: Option<Box<Record>>,
    },
    /// The job has ended: acknowledge the ticket.
    Ended(State),
    /// Its waiting time ran out, and nobody wrote that down yet: conclude `expired`, expecting this revision.
    Expired {
        /// The marker's revision.
        expect: u64,
    },
    /// It waits in another lane by now: see to it that its ticket lies there, as what builds on this revision, then
    /// acknowledge this one.
    Moved {
        /// Where it waits.
        lane: Lane,
        /// The record's revision.
        expect: u64,
    },
    /// This very agent holds it: leave the ticket alone.
    Mine,
    /// Another agent holds it: hand the ticket back for so long.
    Held {
        /// Milliseconds until it is worth another look.
        look_again_ms: u64,
    },
    /// It rests, or is left to others: hand the ticket back for so long.
    Early {
        /// Milliseconds until it is worth another look.
        look_again_ms: u64,
    },
    /// Another agent held it and is lost: heartbeats have to be looked at, if they were not.
    AskHeartbeat(Holder),
}

/// Decides. `broker_now_ms` is the broker's clock; `heartbeat` is None until it was looked up.
pub fn judge(
    ticket: Delivered<'_>,
    stored: &Stored,
    me: &Holder,
    broker_now_ms: u64,
    heartbeat: Option<&Heartbeat>,
) -> Verdict {
    match stored {
        Stored::Nothing if ticket.base == 0 => Verdict::Claim { expect: 0, before: None },
        Stored::Nothing => Verdict::Ended(State::Expired),
        Stored::Marker { sequence } if ticket.base > *sequence => {
            Verdict::Claim { expect: *sequence, before: None }
        }
        Stored::Marker { sequence } => Verdict::Expired { expect: *sequence },
        Stored::Record { sequence, stored_ms, record } => match record.state {
            State::Queued | State::Retrying if record.lane() != *ticket.lane => {
                Verdict::Moved { lane: record.lane(), expect: *sequence }
            }
            State::Queued => Verdict::Claim { expect: *sequence, before: Some(record.clone()) },
            State::Retrying => {
                judge_resting(*sequence, *stored_ms, record, &me.agent, broker_now_ms, heartbeat)
            }
            State::Claimed | State::Running => {
                judge_held(*sequence, *stored_ms, record, me, broker_now_ms, heartbeat)
            }
            State::Succeeded | State::Failed | State::Cancelled | State::Expired | State::Refused => {
                Verdict::Ended(record.state)
            }
        },
    }
}

/// A job that rests is nobody's yet; then it is everybody's but the last agent's, as long as there is somebody else.
fn judge_resting(
    sequence: u64,
    stored_ms: u64,
    record: &Record,
    me: &AgentName,
    broker_now_ms: u64,
    heartbeat: Option<&Heartbeat>,
) -> Verdict {
    let rested_ms = broker_now_ms.saturating_sub(stored_ms);
    if rested_ms < record.backoff_ms {
        return Verdict::Early { look_again_ms: record.backoff_ms - rested_ms };
    }
    let last = record.attempt.as_ref().map(|attempt| attempt.holder()).filter(|last| last.agent == *me);
    let left_ms = record.backoff_ms.saturating_add(record.avoid_ms).saturating_sub(rested_ms);
    match (last, heartbeat) {
        (Some(last), None) if left_ms > 0 => Verdict::AskHeartbeat(last),
        (Some(_), Some(known)) if left_ms > 0 && known.others_could => {
            Verdict::Early { look_again_ms: left_ms.min(LEAVE_MS) }
        }
        (Some(_) | None, Some(_) | None) => {
            Verdict::Claim { expect: sequence, before: Some(Box::new(record.clone())) }
        }
    }
}

/// Whether an agent could start a job of this lane now, by what it says.
pub fn could_start(status: &AgentStatus, lane: &Lane) -> bool {
    matches!(explain(lane, None, status), Answer::Now(_) | Answer::Perhaps { .. })
}

fn judge_held(
    sequence: u64,
    stored_ms: u64,
    record: &Record,
    me: &Holder,
    broker_now_ms: u64,
    heartbeat: Option<&Heartbeat>,
) -> Verdict {
    let Some(fence) = record.fence(sequence) else {
        return Verdict::Claim { expect: sequence, before: Some(Box::new(record.clone())) };
    };
    if fence.holder == *me {
        return Verdict::Mine;
    }
    let lease_ms = u64::from(record.lease_s()) * 1000;
    let held_ms = broker_now_ms.saturating_sub(stored_ms);
    if held_ms < lease_ms {
        return Verdict::Held { look_again_ms: (lease_ms - held_ms).max(1000) };
    }
    let Some(heartbeat) = heartbeat else {
        return Verdict::AskHeartbeat(fence.holder);
    };
    if heartbeat.bucket_age_ms < lease_ms {
        return Verdict::Held { look_again_ms: lease_ms - heartbeat.bucket_age_ms };
    }
    if is_lost(&fence.holder, fence.claim, heartbeat, broker_now_ms, lease_ms, record) {
        return Verdict::Claim { expect: sequence, before: Some(Box::new(record.clone())) };
    }
    let heard_ms = heartbeat.newest.as_ref().map(|(_, stored_ms)| *stored_ms).or(heartbeat.last_ms);
    let silent_ms = heard_ms.map_or(0, |heard_ms| broker_now_ms.saturating_sub(heard_ms));
    Verdict::Held { look_again_ms: lease_ms.saturating_sub(silent_ms).max(1000) }
}

/// Lost: silent for a whole lease, or speaking again (in any life) without this attempt.
fn is_lost(
    holder: &Holder,
    claim: u64,
    heartbeat: &Heartbeat,
    broker_now_ms: u64,
    lease_ms: u64,
    record: &Record,
) -> bool {
    let Some((status, stored_ms)) = &heartbeat.newest else {
        // Its key runs out long before its lease does.
        return heartbeat.last_ms.is_none_or(|last_ms| broker_now_ms.saturating_sub(last_ms) >= lease_ms);
    };
    if status.incarnation != holder.incarnation {
        return broker_now_ms.saturating_sub(*stored_ms) < lease_ms || status.covers >= claim;
    }
    if broker_now_ms.saturating_sub(*stored_ms) >= lease_ms {
        return true;
    }
    let number = record.attempt.as_ref().map_or(0, |a| a.number);
    let lists_it = status.attempts.iter().any(|held| held.claim == claim && held.number == number);
    status.covers >= claim && !lists_it
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;
    use crate::lifecycle::{Claim, GivenUp, RetryCause, claim, conclude, move_to, queue, retry};
    use crate::name::{Class, Incarnation, JobId, Owner, PluginName};
    use crate::record::Outcome;
    use crate::status::{AgentState, HeldAttempt};
    use crate::ticket::Priority;

    fn holder(agent: &str, life: &str) -> Holder {
        Holder { agent: AgentName::new(agent).unwrap(), incarnation: Incarnation::new(life).unwrap() }
    }

    fn lane(priority: Priority) -> Lane {
        Lane { priority, plugin: PluginName::new("p").unwrap(), class: Class::plugin_default() }
    }

    fn ticket(base: u64) -> Delivered<'static> {
        static NORMAL: std::sync::LazyLock<Lane> = std::sync::LazyLock::new(|| lane(Priority::Normal));
        Delivered { lane: &NORMAL, base }
    }

    fn running(by: &Holder) -> Record {
        claim(
            None,
            &lane(Priority::Normal),
            1,
            &Claim { holder: by.clone(), lease_s: 30, ahead: false, at_ms: 0 },
        )
        .unwrap()
    }

    fn stored(record: Record) -> Stored {
        Stored::Record { sequence: 10, stored_ms: 1_000, record: Box::new(record) }
    }

    fn status(life: &str, covers: u64, claims: &[u64]) -> AgentStatus {
        let held = |claim: &u64| HeldAttempt {
            owner: Owner::new("o").unwrap(),
            job: JobId::new("j").unwrap(),
            number: 1,
            claim: *claim,
            plugin: None,
        };
        AgentStatus {
            incarnation: Incarnation::new(life).unwrap(),
            covers,
            attempts: claims.iter().map(held).collect(),
            ..AgentStatus::silent(AgentName::new("other").unwrap())
        }
    }

    fn beat(status: AgentStatus, stored_ms: u64) -> Heartbeat {
        Heartbeat { newest: Some((status, stored_ms)), bucket_age_ms: 1_000_000, ..Heartbeat::default() }
    }

    /// No heartbeat is stored any more; the last one was by then.
    fn silent(last_ms: Option<u64>) -> Heartbeat {
        Heartbeat { last_ms, bucket_age_ms: 1_000_000, ..Heartbeat::default() }
    }

    const LATE: u64 = 40_000;

    #[test]
    fn a_heartbeat_that_ran_out_is_no_lease_that_did() {
        let (me, held) = (holder("me", "m"), stored(running(&holder("other", "o1"))));
        let said = |last_ms| judge(ticket(0), &held, &me, LATE, Some(&silent(Some(last_ms))));
        assert_eq!(said(LATE - 29_000), Verdict::Held { look_again_ms: 1_000 });
        assert_eq!(said(LATE - 8_000), Verdict::Held { look_again_ms: 22_000 });
        assert!(matches!(said(LATE - 30_000), Verdict::Claim { expect: 10, .. }));
        // One that speaks is looked at again when its lease can have ended at the earliest.
        let speaks = beat(status("o1", 99, &[10]), LATE - 2_000);
        let verdict = judge(ticket(0), &held, &me, LATE, Some(&speaks));
        assert_eq!(verdict, Verdict::Held { look_again_ms: 28_000 });
    }

    #[test]
    fn a_new_job_is_claimed_and_an_ended_one_acknowledged() {
        let me = holder("me", "m");
        assert_eq!(
            judge(ticket(0), &Stored::Nothing, &me, 0, None),
            Verdict::Claim { expect: 0, before: None }
        );
        let record = running(&me);
        let fence = record.fence(10).unwrap();
        let done = conclude(&record, 10, &fence, State::Failed, Outcome::default(), 0).unwrap();
        assert_eq!(judge(ticket(0), &stored(done), &me, 0, None), Verdict::Ended(State::Failed));
    }

    #[test]
    fn a_forgotten_job_never_looks_new() {
        let me = holder("me", "m");
        assert_eq!(judge(ticket(7), &Stored::Nothing, &me, 0, None), Verdict::Ended(State::Expired));
        assert_eq!(
            judge(ticket(7), &Stored::Marker { sequence: 9 }, &me, 0, None),
            Verdict::Expired { expect: 9 }
        );
    }

    #[test]
    fn a_resubmit_on_a_marker_is_claimed() {
        let verdict = judge(ticket(10), &Stored::Marker { sequence: 9 }, &holder("me", "m"), 0, None);
        assert_eq!(verdict, Verdict::Claim { expect: 9, before: None });
    }

    #[test]
    fn a_job_that_was_moved_is_passed_on_and_claimed_where_it_waits() {
        let (me, high) = (holder("me", "m"), lane(Priority::High));
        let queued = queue(&lane(Priority::Normal), 0);
        let moved = move_to(Some(&queued), &lane(Priority::Normal), &high, 0, 0).unwrap();
        let verdict = judge(ticket(0), &stored(moved.clone()), &me, 0, None);
        assert_eq!(verdict, Verdict::Moved { lane: high.clone(), expect: 10 });
        let there = Delivered { lane: &high, base: 10 };
        let verdict = judge(there, &stored(moved.clone()), &me, 0, None);
        assert_eq!(verdict, Verdict::Claim { expect: 10, before: Some(Box::new(moved)) });
    }

    #[test]
    fn mine_stays_mine() {
        let me = holder("me", "m");
        assert_eq!(judge(ticket(0), &stored(running(&me)), &me, LATE, None), Verdict::Mine);
    }

    #[test]
    fn takeover_needs_every_proof() {
        let (me, other) = (holder("me", "m"), holder("other", "o1"));
        let held = stored(running(&other));
        let claims = |beat: Option<&Heartbeat>, now| {
            matches!(judge(ticket(0), &held, &me, now, beat), Verdict::Claim { expect: 10, .. })
        };
        // Younger than the lease: whatever the heartbeat says.
        assert!(!claims(Some(&silent(None)), 20_000));
        assert_eq!(judge(ticket(0), &held, &me, LATE, None), Verdict::AskHeartbeat(other.clone()));
        // A young bucket proves nothing.
        assert!(!claims(Some(&Heartbeat { bucket_age_ms: 5_000, ..Heartbeat::default() }), LATE));
        // Silent for a lease.
        assert!(claims(Some(&silent(None)), LATE));
        assert!(claims(Some(&beat(status("o1", 99, &[10]), 1_000)), LATE));
        // Alive and lists it.
        assert!(!claims(Some(&beat(status("o1", 99, &[10]), LATE - 1_000)), LATE));
        // Alive, covers it, does not list it.
        assert!(claims(Some(&beat(status("o1", 99, &[]), LATE - 1_000)), LATE));
        // Alive, does not list it, but its heartbeat may be older than the claim.
        assert!(!claims(Some(&beat(status("o1", 9, &[]), LATE - 1_000)), LATE));
        // Another life of that agent speaks: the old one is gone.
        assert!(claims(Some(&beat(status("o2", 0, &[]), LATE - 1_000)), LATE));
    }

    fn resting(by: &Holder, backoff_ms: u64, avoid_ms: u64) -> Stored {
        let record = running(by);
        let fence = record.fence(9).unwrap();
        let cause = RetryCause::WorkerCrashed;
        let given_up = GivenUp { cause, failure: None, backoff_ms, avoid_ms };
        stored(retry(&record, 9, &fence, &given_up, FailureKind::WorkerCrashed.as_str(), 0).unwrap())
    }

    #[test]
    fn a_resting_job_is_nobodys_until_it_has_rested() {
        let (me, other) = (holder("me", "m"), holder("other", "o1"));
        let rests = resting(&me, 5_000, 0);
        for who in [&me, &other] {
            assert_eq!(judge(ticket(0), &rests, who, 3_000, None), Verdict::Early { look_again_ms: 3_000 });
            assert!(matches!(judge(ticket(0), &rests, who, 6_000, None), Verdict::Claim { expect: 10, .. }));
        }
        assert_eq!(judge(ticket(0), &rests, &me, 0, None), Verdict::Early { look_again_ms: 5_000 });
    }

    #[test]
    fn the_last_agent_leaves_it_to_others_that_could() {
        let (me, other) = (holder("me", "m"), holder("other", "o1"));
        let avoided = resting(&me, 1_000, 30_000);
        let known = |others_could| Heartbeat { others_could, ..Heartbeat::default() };
        let later_life = holder("me", "m2");
        for who in [&me, &later_life] {
            assert_eq!(judge(ticket(0), &avoided, who, 2_500, None), Verdict::AskHeartbeat(me.clone()));
            assert_eq!(
                judge(ticket(0), &avoided, who, 2_500, Some(&known(true))),
                Verdict::Early { look_again_ms: LEAVE_MS }
            );
            assert!(matches!(
                judge(ticket(0), &avoided, who, 2_500, Some(&known(false))),
                Verdict::Claim { .. }
            ));
            assert!(matches!(judge(ticket(0), &avoided, who, 32_000, None), Verdict::Claim { .. }));
        }
        assert_eq!(
            judge(ticket(0), &avoided, &me, 31_800, Some(&known(true))),
            Verdict::Early { look_again_ms: 200 }
        );
        assert!(matches!(judge(ticket(0), &avoided, &other, 2_500, None), Verdict::Claim { .. }));
    }

    #[test]
    fn only_an_agent_with_a_free_place_could_start_it() {
        let plugin = |state, running, slots| {
            serde_json::from_value(serde_json::json!({
                "name": "p", "version": "1", "state": state, "workers": 0, "running": running, "slots": slots
            }))
            .unwrap()
        };
        let could = |plugin| {
            let status = AgentStatus { plugins: vec![plugin], ..AgentStatus::silent("h".parse().unwrap()) };
            let draining = AgentStatus { state: AgentState::Draining, ..status.clone() };
            assert!(!could_start(&draining, &lane(Priority::Normal)));
            could_start(&status, &lane(Priority::Normal))
        };
        assert!(could(plugin("ready", 0, 1)));
        assert!(!could(plugin("ready", 1, 1)));
        assert!(!could(plugin("failed", 0, 1)));
    }
}
