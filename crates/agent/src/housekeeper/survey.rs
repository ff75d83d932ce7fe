//! A look at the farm: how the queues stand, who lives and what they run, how long tickets have waited. Writes what it saw
//! as the overview. Bounded: what did not fit into one look comes in a later one.

use super::summary::{Looked, Waiting, overview};
use super::unheld::{Unheld, suspicious};
use futures_util::{StreamExt, stream};
use grange_broker_client::bucket::Bucket;
use grange_broker_client::connect::Broker;
use grange_broker_client::error::Error;
use grange_broker_client::query;
use grange_broker_client::topology::{QueueState, queue_state};
use grange_broker_client::upkeep::{Lying, StreamEnd, queue_states, stream_end, tickets};
use grange_protocol::facts::OVERVIEW_KEY;
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::{JobKey, LANES_BUCKET, Queue};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the listing of all queues may take; a cluster's servers may be slow to answer together.
const LISTING: Duration = Duration::from_secs(3);
/// Without a listing so many queues are asked one by one: those that had something.
const ONE_BY_ONE: usize = 128;
/// Requests that are out at a time.
const AT_ONCE: usize = 16;
/// The oldest ticket of a queue is looked at again after so long, milliseconds: it may have been removed.
const OLDEST_STANDS_MS: u64 = 30_000;
/// Queues whose oldest tickets are compared with the heartbeats in one look, and how many of each.
const SUSPICIOUS_QUEUES: usize = 32;
const SUSPICIOUS_TICKETS: usize = 32;

/// What one look showed.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// When, Unix milliseconds of the broker.
    pub(super) now_ms: u64,
    /// The newest ticket's sequence at that time.
    pub(super) last_ticket: u64,
    /// What the queues' consumers say.
    pub(super) queues: BTreeMap<Queue, QueueState>,
    /// All queues were listed.
    pub(super) is_whole: bool,
    /// Every agent that lives.
    pub(super) agents: Vec<AgentStatus>,
}

/// The oldest ticket of a queue that nobody was given.
#[derive(Clone, Copy, Debug)]
struct Oldest {
    sequence: u64,
    stored_ms: u64,
    looked_ms: u64,
}

impl Oldest {
    fn stands(&self, state: &QueueState, now_ms: u64) -> bool {
        self.sequence > state.delivered && now_ms.saturating_sub(self.looked_ms) < OLDEST_STANDS_MS
    }
}

/// Looks again and again.
pub(super) struct Survey {
    broker: Broker,
    bucket: Bucket,
    oldest: BTreeMap<Queue, Oldest>,
    unheld: Unheld,
    last_suspicious: Option<Queue>,
    last: BTreeMap<Queue, QueueState>,
}

impl Survey {
    pub(super) fn new(broker: &Broker) -> Self {
        Self {
            broker: broker.clone(),
            bucket: Bucket::new(broker, LANES_BUCKET),
            oldest: BTreeMap::new(),
            unheld: Unheld::default(),
            last_suspicious: None,
            last: BTreeMap::new(),
        }
    }

    /// Looks once, and writes the overview. `orphans`: tickets of queues that have no consumer.
    pub(super) async fn look(&mut self, orphans: &BTreeMap<Queue, Waiting>) -> Result<Standing, Error> {
        let StreamEnd { now_ms, last_ticket } = stream_end(&self.broker).await?;
        let agents = query::agents(&self.broker).await?;
        let agents: Vec<AgentStatus> = agents.into_iter().map(|(status, _)| status).collect();
        let (queues, is_whole) = self.queues().await?;
        self.find_oldest(&queues, now_ms).await?;
        self.find_returned(&queues, &agents, now_ms).await?;
        let oldest = self.oldest.iter().map(|(queue, oldest)| (queue.clone(), oldest.stored_ms)).collect();
        let returned = self.unheld.waiting(now_ms);
        let looked = Looked {
            now_ms,
            queues: &queues,
            oldest: &oldest,
            returned: &returned,
            orphans,
            agents: &agents,
        };
        self.bucket.put(OVERVIEW_KEY, &overview(&looked), None).await?;
        self.last.clone_from(&queues);
        Ok(Standing { now_ms, last_ticket, queues, is_whole, agents })
    }

    /// How all queues stand; if that cannot be had, how those stand that had something.
    async fn queues(&self) -> Result<(BTreeMap<Queue, QueueState>, bool), Error> {
        let why = match tokio::time::timeout(LISTING, queue_states(&self.broker)).await {
            Ok(Ok(queues)) => return Ok((queues, true)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {LISTING:?}"),
        };
        tracing::debug!(why, "queues not listed; those that had something are asked one by one");
        let had = self.last.iter().filter(|(_, state)| state.waiting + state.handed_out > 0);
        let had: Vec<Queue> = had.map(|(queue, _)| queue.clone()).take(ONE_BY_ONE).collect();
        let ask = |queue: Queue| async move {
            let state = queue_state(&self.broker, &queue).await?;
            Ok::<_, Error>(state.map(|state| (queue, state)))
        };
        let mut answers = stream::iter(had).map(ask).buffer_unordered(AT_ONCE);
        let mut queues = BTreeMap::new();
        while let Some(answer) = answers.next().await {
            queues.extend(answer?);
        }
        Ok((queues, false))
    }

    /// Looks up the oldest ticket that nobody was given, where that is not known.
    async fn find_oldest(&mut self, queues: &BTreeMap<Queue, QueueState>, now_ms: u64) -> Result<(), Error> {
        let filled = |queue: &Queue| queues.get(queue).filter(|state| state.waiting > 0);
        self.oldest.retain(|queue, oldest| filled(queue).is_some_and(|state| oldest.stands(state, now_ms)));
        let open =
            queues.iter().filter(|(queue, state)| state.waiting > 0 && !self.oldest.contains_key(*queue));
        let open: Vec<(Queue, u64)> =
            open.map(|(queue, state)| (queue.clone(), state.delivered + 1)).collect();
        let broker = &self.broker;
        let look = |(queue, from): (Queue, u64)| async move {
            let page = tickets(broker, Some(&queue), from, 1).await?;
            let found = page.found.into_iter().find_map(|lying| match lying {
                Lying::Ticket(ticket) => {
                    let (sequence, stored_ms) = (ticket.sequence, ticket.stored_ms);
                    Some(Oldest { sequence, stored_ms, looked_ms: now_ms })
                }
                Lying::Unreadable(_) => None,
            });
            Ok::<_, Error>(found.map(|oldest| (queue, oldest)))
        };
        let mut answers = stream::iter(open).map(look).buffer_unordered(AT_ONCE);
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            found.extend(answer?);
        }
        drop(answers);
        self.oldest.extend(found);
        Ok(())
    }

    /// Compares the oldest tickets of queues that gave out more than the heartbeats list.
    async fn find_returned(
        &mut self,
        queues: &BTreeMap<Queue, QueueState>,
        agents: &[AgentStatus],
        now_ms: u64,
    ) -> Result<(), Error> {
        let all = suspicious(queues, agents, self.last_suspicious.as_ref());
        self.unheld.keep(&all.iter().copied().collect());
        let some: Vec<Queue> = all.into_iter().take(SUSPICIOUS_QUEUES).cloned().collect();
        if some.is_empty() {
            return Ok(());
        }
        let attempts = agents.iter().flat_map(|status| &status.attempts);
        let held: BTreeSet<JobKey> =
            attempts.map(|held| JobKey { owner: held.owner.clone(), job: held.job.clone() }).collect();
        let broker = &self.broker;
        let look = |queue: Queue| async move {
            let page = tickets(broker, Some(&queue), 1, SUSPICIOUS_TICKETS).await?;
            Ok::<_, Error>((queue, page))
        };
        let mut answers = stream::iter(some).map(look).buffered(AT_ONCE);
        let mut looked = Vec::new();
        while let Some(answer) = answers.next().await {
            looked.push(answer?);
        }
        drop(answers);
        for (queue, page) in looked {
            self.unheld.take(&queue, &page, queues[&queue].delivered, &held, now_ms);
            self.last_suspicious = Some(queue);
        }
        Ok(())
    }
}
