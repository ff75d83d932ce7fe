//! Tickets that somebody was given and nobody holds: handed back, or of a holder that is gone. Their consumer counts them
//! among those that run, so they are told by what the heartbeats do not list, twice over a while. Pure.

use super::summary::Waiting;
use grange_broker_client::topology::QueueState;
use grange_broker_client::upkeep::{Lying, Tickets};
use grange_protocol::name::{Owner, PluginName};
use grange_protocol::status::{AgentStatus, HEARTBEAT_MS};
use grange_protocol::subject::{JobKey, Queue};
use std::collections::{BTreeMap, BTreeSet};

/// A ticket that no heartbeat lists for so long is nobody's, milliseconds: a claim is in the next heartbeat but one.
const NOBODYS_MS: u64 = 2 * HEARTBEAT_MS + 500;

/// What was found, and since when, Unix milliseconds of the broker.
#[derive(Debug, Default)]
pub(super) struct Unheld(BTreeMap<Queue, BTreeMap<u64, Since>>);

#[derive(Clone, Copy, Debug)]
struct Since {
    first_ms: u64,
    stored_ms: u64,
}

impl Unheld {
    /// Takes the oldest tickets of a queue. `held`: what the heartbeats list.
    pub(super) fn take(
        &mut self,
        queue: &Queue,
        page: &Tickets,
        delivered: u64,
        held: &BTreeSet<JobKey>,
        now_ms: u64,
    ) {
        let before = self.0.remove(queue).unwrap_or_default();
        let mut found = BTreeMap::new();
        for lying in &page.found {
            let Lying::Ticket(ticket) = lying else { continue };
            if ticket.sequence <= delivered && !held.contains(&ticket.key) {
                let first_ms = before.get(&ticket.sequence).map_or(now_ms, |since| since.first_ms);
                found.insert(ticket.sequence, Since { first_ms, stored_ms: ticket.stored_ms });
            }
        }
        if !found.is_empty() {
            self.0.insert(queue.clone(), found);
        }
    }

    /// Forgets queues that need no look.
    pub(super) fn keep(&mut self, suspicious: &BTreeSet<&Queue>) {
        self.0.retain(|queue, _| suspicious.contains(queue));
    }

    /// What waits again, as far as the oldest tickets show it.
    pub(super) fn waiting(&self, now_ms: u64) -> BTreeMap<Queue, Waiting> {
        let waiting = self.0.iter().filter_map(|(queue, found)| {
            let ripe = || found.values().filter(|since| now_ms.saturating_sub(since.first_ms) >= NOBODYS_MS);
            let oldest_ms = ripe().map(|since| since.stored_ms).min()?;
            Some((queue.clone(), Waiting { count: ripe().count() as u64, oldest_ms }))
        });
        waiting.collect()
    }
}

/// Queues of which more tickets were given out than the heartbeats list, those that were looked at longest ago first
/// (`after`: the last one).
pub(super) fn suspicious<'a>(
    queues: &'a BTreeMap<Queue, QueueState>,
    agents: &[AgentStatus],
    after: Option<&Queue>,
) -> Vec<&'a Queue> {
    let mut listed: BTreeMap<(&Owner, Option<&PluginName>), u64> = BTreeMap::new();
    for held in agents.iter().flat_map(|status| &status.attempts) {
        *listed.entry((&held.owner, held.plugin.as_ref())).or_default() += 1;
    }
    let mut out: BTreeMap<(&Owner, &PluginName), u64> = BTreeMap::new();
    for (queue, state) in queues {
        *out.entry((&queue.owner, &queue.lane.plugin)).or_default() += state.handed_out;
    }
    let is_short = |queue: &Queue| {
        let (owner, plugin) = (&queue.owner, &queue.lane.plugin);
        // An agent of before does not say which plugin it runs: it may be this one.
        let listed = |plugin| listed.get(&(owner, plugin)).copied().unwrap_or(0);
        out[&(owner, plugin)] > listed(Some(plugin)) + listed(None)
    };
    let found = queues.iter().filter(|(queue, state)| state.handed_out > 0 && is_short(queue));
    let (first, later): (Vec<_>, Vec<_>) =
        found.map(|(queue, _)| queue).partition(|queue| after.is_none_or(|after| *queue > after));
    first.into_iter().chain(later).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_broker_client::upkeep::Ticket;
    use grange_protocol::status::HeldAttempt;

    fn queue(name: &str) -> Queue {
        Queue::parse(name).unwrap()
    }

    fn key(job: &str) -> JobKey {
        JobKey { owner: "alice".parse().unwrap(), job: job.parse().unwrap() }
    }

    fn page(of: &Queue, tickets: &[(u64, &str)]) -> Tickets {
        let ticket = |(sequence, job): &(u64, &str)| {
            let (key, lane) = (key(job), of.lane.clone());
            let (sequence, stored_ms) = (*sequence, sequence * 100);
            Lying::Ticket(Ticket { key, lane, sequence, stored_ms, base: Some(0) })
        };
        Tickets { found: tickets.iter().map(ticket).collect(), next: 0, remaining: 0 }
    }

    fn beat(attempts: &[(&str, Option<&str>)]) -> AgentStatus {
        let held = |(job, plugin): &(&str, Option<&str>)| HeldAttempt {
            owner: "alice".parse().unwrap(),
            job: job.parse().unwrap(),
            number: 1,
            claim: 1,
            plugin: plugin.map(|plugin| plugin.parse().unwrap()),
        };
        AgentStatus {
            attempts: attempts.iter().map(held).collect(),
            ..AgentStatus::silent("h1".parse().unwrap())
        }
    }

    #[test]
    fn a_ticket_that_nobody_lists_for_a_while_waits() {
        let (ocr, mut unheld) = (queue("default:high:ocr:alice"), Unheld::default());
        let look = page(&ocr, &[(1, "held"), (2, "lost"), (3, "lost-too"), (9, "never-given")]);
        let held = [key("held")].into();
        unheld.take(&ocr, &look, 8, &held, 10_000);
        assert!(unheld.waiting(10_000).is_empty(), "its claim may be on its way");
        unheld.take(&ocr, &look, 8, &held, 12_000);
        assert!(unheld.waiting(12_000).is_empty());
        unheld.take(&ocr, &look, 8, &held, 14_500);
        assert_eq!(unheld.waiting(14_500), [(ocr.clone(), Waiting { count: 2, oldest_ms: 200 })].into());
        let taken = [key("held"), key("lost")].into();
        unheld.take(&ocr, &look, 8, &taken, 16_000);
        assert_eq!(unheld.waiting(16_000), [(ocr.clone(), Waiting { count: 1, oldest_ms: 300 })].into());
        unheld.keep(&BTreeSet::new());
        assert!(unheld.waiting(16_000).is_empty());
    }

    #[test]
    fn tickets_that_come_and_go_never_count() {
        let (ocr, mut unheld) = (queue("default:high:ocr:alice"), Unheld::default());
        for n in 0..20u64 {
            let job = format!("j{n}");
            unheld.take(&ocr, &page(&ocr, &[(n, &job)]), n, &BTreeSet::new(), n * 2_000);
            assert!(unheld.waiting(n * 2_000).is_empty());
        }
    }

    #[test]
    fn only_queues_with_more_out_than_listed_are_looked_at_in_turn() {
        let state = |handed_out| QueueState { waiting: 0, handed_out, pulls: 0, delivered: 1 };
        let (a, b, c, d) = (
            queue("default:high:asr:alice"),
            queue("default:high:ocr:alice"),
            queue("default:low:ocr:alice"),
            queue("default:low:tts:alice"),
        );
        let queues = [(a.clone(), state(1)), (b.clone(), state(1)), (c.clone(), state(1)), (d, state(0))];
        let queues: BTreeMap<Queue, QueueState> = queues.into();
        let agents = [beat(&[("1", Some("asr")), ("2", Some("ocr"))])];
        assert_eq!(suspicious(&queues, &agents, None), [&b, &c]);
        assert_eq!(suspicious(&queues, &agents, Some(&b)), [&c, &b]);
        let old = [beat(&[("1", Some("asr")), ("2", Some("ocr")), ("3", None)])];
        assert!(suspicious(&queues, &old, None).is_empty());
        assert_eq!(suspicious(&queues, &[], None), [&a, &b, &c]);
    }
}
