//! Rounds through the ticket stream: finds tickets that no queue gives out, whose jobs have ended, moved, or waited too
//! long, and deals with each as an agent would that was given it.
//!
//! Cost: the stream is never read as a whole. A round walks on from where the last one stopped, at most `STEP` tickets
//! around the stream and as many of those that came since; a farm without a backlog has few at any time, however many
//! jobs pass through. With a backlog of n tickets each is looked at every n/`STEP` rounds, and deadlines that were seen
//! once are kept in memory, so that they are met in time.

use super::records::lost_holder;
use super::summary::Waiting;
use super::survey::Standing;
use super::verdict::{Deadlines, Errand, errand};
use crate::causes::chain;
use crate::clock::unix_ms;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use grange_broker_client::connect::Broker;
use grange_broker_client::dead::{self, Dead};
use grange_broker_client::error::{Error, ErrorKind};
use grange_broker_client::ledger::Ledger;
use grange_broker_client::priority::forward;
use grange_broker_client::topology::{ensure_queue, queue_state};
use grange_broker_client::upkeep::{
    Lying, Ticket, Unreadable, hand_out_again, records, remove_ticket, tickets,
};
use grange_protocol::class;
use grange_protocol::lifecycle::end_unclaimed;
use grange_protocol::ownership::{Delivered, Verdict, judge};
use grange_protocol::record::{Holder, Outcome, State};
use grange_protocol::status::PluginState;
use grange_protocol::subject::{JobKey, Queue};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Tickets that one round looks at around the stream, and among the new ones.
const STEP: usize = 2_048;
/// Tickets that are read at a time; the broker cuts a page at 4 MiB.
const PAGE: usize = 512;
/// Jobs about which the leader is asked in one round.
const ERRANDS: usize = 512;
/// Queues without a consumer that are remembered.
const ORPHANS: usize = 512;
/// Requests that are out at a time.
const AT_ONCE: usize = 16;

/// Tickets that lie where no consumer takes them.
#[derive(Clone, Debug)]
struct Orphans {
    /// One of their jobs, to call agents by.
    job: JobKey,
    waiting: Waiting,
}

/// Goes round after round.
pub(super) struct Rounds {
    broker: Broker,
    ledger: Ledger,
    me: Holder,
    /// From here on tickets are new.
    fresh: u64,
    /// From here on the way around the stream continues.
    around: u64,
    deadlines: Deadlines,
    orphans: BTreeMap<Queue, Orphans>,
}

impl Rounds {
    pub(super) fn new(broker: &Broker, me: Holder) -> Self {
        Self {
            broker: broker.clone(),
            ledger: Ledger::new(broker),
            me,
            fresh: 1,
            around: 1,
            deadlines: Deadlines::default(),
            orphans: BTreeMap::new(),
        }
    }

    /// Tickets of queues that have no consumer.
    pub(super) fn orphans(&self) -> BTreeMap<Queue, Waiting> {
        self.orphans.iter().map(|(queue, orphans)| (queue.clone(), orphans.waiting)).collect()
    }

    /// One round; answers how many tickets it met. `standing`: what the newest look at the farm showed.
    pub(super) async fn go(&mut self, standing: &Standing) -> Result<usize, Error> {
        let new = self.walk_new(standing.last_ticket).await?;
        let around = self.walk_around().await?;
        let (mut met, mut seen) = (Vec::new(), BTreeSet::new());
        for lying in new.into_iter().chain(around) {
            match lying {
                Lying::Ticket(ticket) if seen.insert(ticket.sequence) => met.push(ticket),
                Lying::Unreadable(unreadable) if seen.insert(unreadable.sequence) => {
                    done(&unreadable.subject, self.bury(&unreadable).await)?;
                }
                Lying::Ticket(_) | Lying::Unreadable(_) => {}
            }
        }
        self.note_orphans(&met, standing);
        let asked = self.look_up(met, standing).await?;
        let due = self.deadlines.due(standing.now_ms, ERRANDS);
        self.settle(errands(due, asked)).await?;
        self.care_for_orphans(standing).await?;
        Ok(seen.len())
    }

    /// What came since the last round, as far as one round can look at it; the rest is met on the way around.
    async fn walk_new(&mut self, last_ticket: u64) -> Result<Vec<Lying>, Error> {
        let (found, next, remaining) = self.walk(self.fresh).await?;
        self.fresh = if remaining == 0 { next } else { next.max(last_ticket + 1) };
        Ok(found)
    }

    /// The next step on the way around; at the end it begins again.
    async fn walk_around(&mut self) -> Result<Vec<Lying>, Error> {
        let (found, next, remaining) = self.walk(self.around).await?;
        self.around = if remaining == 0 { 1 } else { next };
        Ok(found)
    }

    async fn walk(&self, mut from: u64) -> Result<(Vec<Lying>, u64, u64), Error> {
        let (mut found, mut remaining) = (Vec::new(), 0);
        while found.len() < STEP {
            let page = tickets(&self.broker, None, from, PAGE).await?;
            // The broker cuts large tickets off, and one page of those is enough.
            let is_last = page.found.len() < PAGE;
            found.extend(page.found);
            (from, remaining) = (page.next, page.remaining);
            if is_last || remaining == 0 {
                break;
            }
        }
        Ok((found, from, remaining))
    }

    /// What is to be done about these tickets, by copies of their records: those about which the leader has to be asked.
    async fn look_up(&mut self, met: Vec<Ticket>, standing: &Standing) -> Result<Vec<Ticket>, Error> {
        let keys: Vec<JobKey> = met.iter().map(|ticket| ticket.key.clone()).collect();
        let known = records(&self.broker, &keys).await?;
        let mut asked = Vec::new();
        for ticket in met {
            let Some(known) = known.get(&ticket.key) else { continue };
            match errand(&ticket, known, &self.me, &standing.agents, standing.now_ms) {
                Errand::Leave => {}
                Errand::Ask => asked.push(ticket),
                Errand::Watch(runs_out_ms) => self.deadlines.watch(ticket, runs_out_ms),
            }
        }
        Ok(asked)
    }

    /// Ends what is to be ended, by what the leader says.
    async fn settle(&self, asked: Vec<Ticket>) -> Result<(), Error> {
        let settle = |ticket: Ticket| async { (ticket.key.to_string(), self.settle_one(ticket).await) };
        let mut answers = stream::iter(asked).map(settle).buffer_unordered(AT_ONCE);
        while let Some((job, answer)) = answers.next().await {
            done(&job, answer)?;
        }
        Ok(())
    }

    async fn settle_one(&self, ticket: Ticket) -> Result<(), Error> {
        let Some(base) = ticket.base else { return Ok(()) };
        let stored = self.ledger.read(&ticket.key).await?;
        match judge(Delivered { lane: &ticket.lane, base }, &stored, &self.me, 0, None) {
            Verdict::Ended(state) => {
                tracing::debug!(job = %ticket.key, %state, "ticket of a job that has ended is removed");
            }
            Verdict::Expired { expect } => {
                let outcome = Outcome::default();
                let Ok(record) = end_unclaimed(None, &ticket.lane, State::Expired, outcome, unix_ms()) else {
                    return Ok(());
                };
                match self.ledger.write(&ticket.key, expect, &record, None).await {
                    Ok(_) => tracing::info!(job = %ticket.key, "its waiting time ran out"),
                    // Somebody was first; the next way around shows what it is now.
                    Err(error) if error.kind() == ErrorKind::Conflict => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            Verdict::Moved { lane, expect } => {
                forward(&self.broker, &ticket.key, &ticket.lane, &lane, expect).await?;
            }
            Verdict::Mine | Verdict::Held { .. } | Verdict::AskHeartbeat(_) => {
                if lost_holder(&self.broker, &ticket.key, &ticket.lane, &stored).await? {
                    tracing::info!(job = %ticket.key, "its holder is lost; the ticket is given out again");
                    hand_out_again(&self.broker, &ticket).await?;
                }
                return Ok(());
            }
            Verdict::Claim { .. } | Verdict::Early { .. } => return Ok(()),
        }
        remove_ticket(&self.broker, ticket.sequence).await
    }

    /// What names no queue is given to nobody: it is kept with its evidence, and does not lie in the way.
    async fn bury(&self, unreadable: &Unreadable) -> Result<(), Error> {
        let Unreadable { subject, sequence, why, excerpt } = unreadable;
        tracing::warn!(subject, why, "unusable ticket");
        let evidence = json!({ "why": why, "subject": subject, "excerpt": excerpt });
        dead::bury(&self.broker, "malformed", Dead::Subject(subject), &evidence).await?;
        remove_ticket(&self.broker, *sequence).await
    }

    fn note_orphans(&mut self, met: &[Ticket], standing: &Standing) {
        if !standing.is_whole {
            return;
        }
        for ticket in met {
            let queue = ticket.queue();
            if standing.queues.contains_key(&queue) || self.orphans.contains_key(&queue) {
                continue;
            }
            if self.orphans.len() >= ORPHANS {
                // One that can be helped comes before one that can only be reported.
                let useless = self.orphans.keys().find(|other| !is_served(other, standing)).cloned();
                match useless.filter(|_| is_served(&queue, standing)) {
                    Some(useless) => drop(self.orphans.remove(&useless)),
                    None => continue,
                }
            }
            let waiting = Waiting { count: 1, oldest_ms: ticket.stored_ms };
            self.orphans.insert(queue, Orphans { job: ticket.key.clone(), waiting });
        }
    }

    /// Makes the queues of tickets that nobody gives out, where an agent could take them. The others wait: an agent that
    /// has their plugin may come.
    async fn care_for_orphans(&mut self, standing: &Standing) -> Result<(), Error> {
        let count = |queue: Queue| async {
            let counted = self.count_orphans(&queue).await;
            (queue, counted)
        };
        let before: Vec<Queue> = self.orphans.keys().cloned().collect();
        let mut answers = stream::iter(before).map(count).buffer_unordered(AT_ONCE);
        let mut left = self.orphans.clone();
        while let Some((queue, counted)) = answers.next().await {
            match counted {
                Ok(Some(orphans)) => drop(left.insert(queue, orphans)),
                Ok(None) => drop(left.remove(&queue)),
                // What was known of it stands.
                Err(error) => done(&queue.consumer(), Err(error))?,
            }
        }
        drop(answers);
        for (queue, orphans) in &left {
            if is_served(queue, standing) {
                done(&queue.consumer(), self.open(queue, &orphans.job).await)?;
            }
        }
        self.orphans = left;
        Ok(())
    }

    /// What still lies there without a consumer. None: nothing, or it has one.
    async fn count_orphans(&self, queue: &Queue) -> Result<Option<Orphans>, Error> {
        if queue_state(&self.broker, queue).await?.is_some() {
            return Ok(None);
        }
        let page = tickets(&self.broker, Some(queue), 1, 1).await?;
        let Some(Lying::Ticket(ticket)) = page.found.first() else { return Ok(None) };
        let waiting = Waiting { count: 1 + page.remaining, oldest_ms: ticket.stored_ms };
        Ok(Some(Orphans { job: ticket.key.clone(), waiting }))
    }

    async fn open(&self, queue: &Queue, job: &JobKey) -> Result<(), Error> {
        match ensure_queue(&self.broker, queue).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                tracing::warn!(%queue, %error, "tickets wait: the stream has as many queues as it may");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        tracing::info!(%queue, "tickets lay in a queue that nobody gave out; agents are called");
        let called = self.broker.client().publish(job.call(&queue.lane), Bytes::new()).await;
        called.map_err(|error| Error::new(ErrorKind::Unreachable, error.to_string()))
    }
}

/// What the leader is asked about in one round: what ran out comes first, because nobody remembers it any more.
fn errands(due: Vec<Ticket>, asked: Vec<Ticket>) -> Vec<Ticket> {
    let mut seen = BTreeSet::new();
    due.into_iter().chain(asked).filter(|ticket| seen.insert(ticket.sequence)).take(ERRANDS).collect()
}

/// One errand that failed keeps no other back: it is met again on the next way around. Without the broker there is nothing
/// to go on with.
fn done(what: &str, errand: Result<(), Error>) -> Result<(), Error> {
    match errand {
        Err(error) if error.kind() != ErrorKind::Unreachable => {
            tracing::warn!(what, why = chain(&error), "not put in order; it is looked at again later");
            Ok(())
        }
        ended => ended,
    }
}

/// Whether an agent lives that could take tickets of this queue.
fn is_served(queue: &Queue, standing: &Standing) -> bool {
    class::read(&queue.lane.class).is_ok()
        && standing.agents.iter().flat_map(|status| &status.plugins).any(|plugin| {
            plugin.name == queue.lane.plugin
                && matches!(plugin.state, PluginState::Ready | PluginState::Preparing)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::status::AgentStatus;

    fn with(plugin: &str, state: &str) -> Standing {
        let mut status = serde_json::to_value(AgentStatus::silent("h1".parse().unwrap())).unwrap();
        status["plugins"] = json!([
            {"name": plugin, "version": "1", "state": state, "workers": 0, "running": 0, "slots": 0}
        ]);
        Standing { agents: vec![serde_json::from_value(status).unwrap()], ..Standing::default() }
    }

    #[test]
    fn what_ran_out_comes_before_whatever_else_is_to_be_asked() {
        let ticket = |sequence: u64| Ticket {
            key: JobKey { owner: "alice".parse().unwrap(), job: sequence.to_string().parse().unwrap() },
            lane: Queue::parse("default:high:ocr:alice").unwrap().lane,
            sequence,
            stored_ms: 1,
            base: Some(1),
        };
        let many = ERRANDS as u64;
        let asked: Vec<Ticket> = (0..many + 5).map(ticket).collect();
        let sequences = |tickets: Vec<Ticket>| tickets.iter().map(|t| t.sequence).collect::<Vec<_>>();
        let both = sequences(errands(vec![ticket(9_000), ticket(3), ticket(9_001)], asked));
        assert_eq!((&both[..4], both.len()), (&[9_000, 3, 9_001, 0][..], ERRANDS));
        assert_eq!(both.iter().filter(|sequence| **sequence == 3).count(), 1, "nothing is done twice");
    }

    #[test]
    fn an_errand_that_fails_ends_the_round_only_without_the_broker() {
        for kind in [ErrorKind::Timeout, ErrorKind::Conflict, ErrorKind::Invalid, ErrorKind::Other] {
            assert!(done("alice/1", Err(Error::new(kind, "no"))).is_ok(), "{kind:?}");
        }
        assert!(done("alice/1", Err(Error::new(ErrorKind::Unreachable, "no"))).is_err());
        assert!(done("alice/1", Ok(())).is_ok());
    }

    #[test]
    fn a_queue_is_served_where_its_plugin_is_and_its_class_can_be_read() {
        let queue = Queue::parse("default:high:ocr:alice").unwrap();
        assert!(is_served(&queue, &with("ocr", "ready")));
        assert!(is_served(&queue, &with("ocr", "preparing")));
        assert!(!is_served(&queue, &with("ocr", "failed")));
        assert!(!is_served(&queue, &with("asr", "ready")));
        assert!(!is_served(&queue, &Standing::default()));
        let strange = Queue::parse("fast:high:ocr:alice").unwrap();
        assert!(!is_served(&strange, &with("ocr", "ready")));
    }
}
