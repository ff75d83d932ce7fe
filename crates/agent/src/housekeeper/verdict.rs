//! What is to be done about a ticket that lies in the stream, by what a copy says of its job. Pure. A copy may be behind:
//! whatever ends or removes something is decided again on what the leader says.

use grange_broker_client::upkeep::{Known, Ticket};
use grange_protocol::ownership::{Delivered, Stored, Verdict, judge};
use grange_protocol::record::{Holder, State};
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::JobKey;
use std::collections::BTreeMap;

/// What was written so short a while ago is left to whoever wrote it: the ticket's settlement is on its way,
/// milliseconds.
const SETTLING_MS: u64 = 2_000;
/// Most deadlines that are remembered; later ones are seen again on the next way through the stream.
const MOST_DEADLINES: usize = 20_000;

/// What is to be done about a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Nothing.
    Leave,
    /// Its job may have ended, or moved: ask the leader.
    Ask,
    /// Its job's waiting time runs out then, Unix milliseconds of the broker.
    Watch(u64),
}

/// Says it. `now_ms`: Unix milliseconds of the broker. `agents`: what those said who live.
pub(super) fn errand(
    ticket: &Ticket,
    known: &Known,
    me: &Holder,
    agents: &[AgentStatus],
    now_ms: u64,
) -> Errand {
    // What is no number is for an agent to bury.
    let Some(base) = ticket.base else { return Errand::Leave };
    let is_young = match &known.stored {
        Stored::Record { stored_ms, .. } => now_ms.saturating_sub(*stored_ms) < SETTLING_MS,
        Stored::Nothing | Stored::Marker { .. } => false,
    };
    match judge(Delivered { lane: &ticket.lane, base }, &known.stored, me, 0, None) {
        Verdict::Ended(_) | Verdict::Moved { .. } if is_young => Errand::Leave,
        Verdict::Ended(_) | Verdict::Expired { .. } | Verdict::Moved { .. } => Errand::Ask,
        Verdict::Claim { before: Some(_), .. } => known.runs_out_ms.map_or(Errand::Leave, Errand::Watch),
        Verdict::Held { .. } | Verdict::AskHeartbeat(_) | Verdict::Mine
            if is_unheard(&known.stored, agents, now_ms) =>
        {
            Errand::Ask
        }
        Verdict::Claim { .. }
        | Verdict::Mine
        | Verdict::Held { .. }
        | Verdict::Early { .. }
        | Verdict::AskHeartbeat(_) => Errand::Leave,
    }
}

/// Whether a job was claimed longer ago than its lease by somebody whom nobody hears, or who speaks without it.
pub(super) fn is_unheard(stored: &Stored, agents: &[AgentStatus], now_ms: u64) -> bool {
    let Stored::Record { sequence, stored_ms, record } = stored else { return false };
    let Some(fence) = record.fence(*sequence).filter(|_| record.state.is_held()) else { return false };
    if now_ms.saturating_sub(*stored_ms) < u64::from(record.lease_s()) * 1000 {
        return false;
    }
    let speaks_for_it = |status: &AgentStatus| {
        status.agent == fence.holder.agent
            && status.incarnation == fence.holder.incarnation
            && (status.covers < fence.claim || status.attempts.iter().any(|held| held.claim == fence.claim))
    };
    !agents.iter().any(speaks_for_it)
}

/// What is to be done about a record, whatever lies in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Nothing.
    Leave,
    /// It ended so long ago that it may be forgotten, once it has no ticket any more.
    Forget,
    /// It waits or is lost: it needs a ticket.
    NeedsTicket,
}

/// A record that waits for so long has its ticket, whoever publishes it later than the record, milliseconds.
const TICKET_COMES_MS: u64 = 15_000;

/// Says it. `keep_ms`: how long a record of a job that ended is kept.
pub(super) fn care(known: &Known, agents: &[AgentStatus], keep_ms: u64, now_ms: u64) -> Care {
    let Stored::Record { stored_ms, record, .. } = &known.stored else { return Care::Leave };
    let age_ms = now_ms.saturating_sub(*stored_ms);
    match record.state {
        // A schedule may publish its ticket later, and one with a limited wait runs out by itself.
        State::Queued => Care::Leave,
        State::Retrying if age_ms >= TICKET_COMES_MS => Care::NeedsTicket,
        State::Claimed | State::Running if is_unheard(&known.stored, agents, now_ms) => Care::NeedsTicket,
        State::Retrying | State::Claimed | State::Running => Care::Leave,
        State::Succeeded | State::Failed | State::Cancelled | State::Expired | State::Refused => {
            if known.runs_out_ms.is_none() && age_ms >= keep_ms { Care::Forget } else { Care::Leave }
        }
    }
}

/// Tickets whose jobs' waiting time runs out, by when.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeMap<(u64, JobKey), Ticket>);

impl Deadlines {
    /// Remembers one.
    pub(super) fn watch(&mut self, ticket: Ticket, runs_out_ms: u64) {
        self.0.insert((runs_out_ms, ticket.key.clone()), ticket);
        if self.0.len() > MOST_DEADLINES {
            self.0.pop_last();
        }
    }

    /// Those that have run out by now, at most so many; they are forgotten.
    pub(super) fn due(&mut self, now_ms: u64, most: usize) -> Vec<Ticket> {
        let mut due = Vec::new();
        while due.len() < most
            && let Some(entry) = self.0.first_entry()
            && entry.key().0 <= now_ms
        {
            due.push(entry.remove());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::lifecycle::{
        Claim, GivenUp, RetryCause, claim, end_unclaimed, move_to, queue, retry,
    };
    use grange_protocol::record::{Outcome, Record, State};
    use grange_protocol::subject::{Lane, parse_ticket};
    use grange_protocol::ticket::Priority;

    const NOW: u64 = 100_000;

    fn ticket(job: &str, base: Option<u64>) -> Ticket {
        let (lane, key) = parse_ticket(&format!("grange.jobs.default.normal.ocr.alice.{job}")).unwrap();
        Ticket { key, lane, sequence: 7, stored_ms: 1_000, base }
    }

    fn me() -> Holder {
        Holder { agent: "h1".parse().unwrap(), incarnation: "i1".parse().unwrap() }
    }

    /// A heartbeat that is older than any claim.
    fn speaking(agent: &str, life: &str) -> AgentStatus {
        AgentStatus { incarnation: life.parse().unwrap(), ..AgentStatus::silent(agent.parse().unwrap()) }
    }

    #[test]
    fn a_job_whose_holder_nobody_hears_is_asked_about_when_its_lease_can_be_over() {
        let by = Claim {
            holder: Holder { agent: "h2".parse().unwrap(), ..me() },
            lease_s: 30,
            ahead: false,
            at_ms: 1,
        };
        let held = |stored_ms| known(claim(None, &ticket("1", None).lane, 1, &by).unwrap(), stored_ms, None);
        let said = |stored_ms, agents: &[AgentStatus]| {
            errand(&ticket("1", Some(0)), &held(stored_ms), &me(), agents, NOW)
        };
        let covering = AgentStatus { covers: 20, ..speaking("h2", "i1") };
        assert_eq!(said(1_000, &[]), Errand::Ask);
        assert_eq!(said(1_000, &[speaking("h1", "i1")]), Errand::Ask);
        assert_eq!(said(1_000, &[speaking("h2", "i2")]), Errand::Ask, "another life of it speaks");
        assert_eq!(said(1_000, &[covering]), Errand::Ask, "it speaks, and not of this job");
        assert_eq!(
            said(1_000, &[speaking("h2", "i1")]),
            Errand::Leave,
            "its word may be older than the claim"
        );
        assert_eq!(said(NOW - 29_000, &[]), Errand::Leave);
    }

    #[test]
    fn records_are_kept_for_a_while_and_those_that_wait_need_a_ticket() {
        let lane = ticket("1", None).lane;
        let said = |record: &Record, stored_ms, runs_out| {
            care(&known(record.clone(), stored_ms, runs_out), &[], 60_000, NOW)
        };
        let ended = end_unclaimed(None, &lane, State::Cancelled, Outcome::default(), 1).unwrap();
        assert_eq!(said(&ended, NOW - 59_000, None), Care::Leave);
        assert_eq!(said(&ended, NOW - 60_000, None), Care::Forget);
        assert_eq!(said(&ended, NOW - 60_000, Some(NOW + 1)), Care::Leave, "it is being forgotten");
        assert_eq!(said(&queue(&lane, 1), 0, None), Care::Leave);
        let by = Claim { holder: me(), lease_s: 30, ahead: false, at_ms: 1 };
        let held = claim(None, &lane, 1, &by).unwrap();
        assert_eq!(said(&held, NOW - 30_000, None), Care::NeedsTicket);
        assert_eq!(said(&held, NOW - 29_000, None), Care::Leave);
        let back = retry(&held, 20, &held.fence(20).unwrap(), &GivenUp::at_once(RetryCause::HostLost), "", 1)
            .unwrap();
        assert_eq!(said(&back, NOW - TICKET_COMES_MS, None), Care::NeedsTicket);
        assert_eq!(said(&back, NOW - 1_000, None), Care::Leave);
    }

    fn known(record: Record, stored_ms: u64, runs_out_ms: Option<u64>) -> Known {
        Known { stored: Stored::Record { sequence: 20, stored_ms, record: Box::new(record) }, runs_out_ms }
    }

    fn said(base: u64, known: &Known) -> Errand {
        errand(&ticket("1", Some(base)), known, &me(), &[speaking("h1", "i1"), speaking("h2", "i1")], NOW)
    }

    #[test]
    fn a_job_that_waits_or_runs_is_left_alone() {
        let lane = ticket("1", None).lane;
        let nothing = Known { stored: Stored::Nothing, runs_out_ms: None };
        assert_eq!(said(0, &nothing), Errand::Leave);
        let by = Claim { holder: me(), lease_s: 30, ahead: false, at_ms: 1 };
        assert_eq!(said(0, &known(claim(None, &lane, 1, &by).unwrap(), 1_000, None)), Errand::Leave);
        let by = Claim { holder: Holder { agent: "h2".parse().unwrap(), ..me() }, ..by };
        assert_eq!(said(0, &known(claim(None, &lane, 1, &by).unwrap(), 1_000, None)), Errand::Leave);
        assert_eq!(said(5, &known(queue(&lane, 1), 1_000, None)), Errand::Leave);
    }

    #[test]
    fn a_limited_wait_is_watched_from_the_first_look() {
        let queued = queue(&ticket("1", None).lane, 1);
        assert_eq!(said(20, &known(queued.clone(), 1_000, Some(700_000))), Errand::Watch(700_000));
        assert_eq!(said(20, &known(queued, NOW - 1, Some(700_000))), Errand::Watch(700_000));
    }

    #[test]
    fn what_has_ended_or_run_out_is_asked_about() {
        let lane = ticket("1", None).lane;
        let ended = end_unclaimed(None, &lane, State::Cancelled, Outcome::default(), 1).unwrap();
        assert_eq!(said(0, &known(ended.clone(), 1_000, None)), Errand::Ask);
        assert_eq!(said(0, &known(ended, NOW - 100, None)), Errand::Leave, "its ticket is being settled");
        let marker = Known { stored: Stored::Marker { sequence: 30 }, runs_out_ms: None };
        assert_eq!(said(20, &marker), Errand::Ask);
        assert_eq!(said(31, &marker), Errand::Leave, "it was submitted again since");
        assert_eq!(said(20, &Known { stored: Stored::Nothing, runs_out_ms: None }), Errand::Ask);
        let to = Lane { priority: Priority::High, ..lane.clone() };
        let moved = move_to(Some(&queue(&lane, 1)), &lane, &to, 1, 2).unwrap();
        assert_eq!(said(20, &known(moved.clone(), 1_000, Some(700_000))), Errand::Ask);
        assert_eq!(said(20, &known(moved, NOW - 100, Some(700_000))), Errand::Leave, "it is being moved");
    }

    #[test]
    fn a_header_that_is_no_number_is_not_guessed_at() {
        let marker = Known { stored: Stored::Marker { sequence: 30 }, runs_out_ms: None };
        assert_eq!(errand(&ticket("1", None), &marker, &me(), &[], NOW), Errand::Leave);
    }

    #[test]
    fn deadlines_come_in_their_order_and_are_bounded() {
        let mut deadlines = Deadlines::default();
        for n in (0..MOST_DEADLINES as u64 + 50).rev() {
            deadlines.watch(ticket(&n.to_string(), Some(1)), 1_000 + n);
        }
        let jobs = |tickets: Vec<Ticket>| -> Vec<String> {
            tickets.iter().map(|ticket| ticket.key.job.to_string()).collect()
        };
        assert_eq!(jobs(deadlines.due(1_001, 10)), ["0", "1"]);
        assert_eq!(jobs(deadlines.due(9_000_000, 2)), ["2", "3"]);
        assert_eq!(deadlines.due(9_000_000, usize::MAX).len(), MOST_DEADLINES - 4);
        assert!(deadlines.due(u64::MAX, usize::MAX).is_empty());
    }
}
