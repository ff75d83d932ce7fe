//! From what was looked at to the overview: pure.

use crate::overview::{loaded, running};
use grange_broker_client::topology::QueueState;
use grange_protocol::facts::{Overview, QueueFact};
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::Queue;
use std::collections::BTreeMap;

/// Most queues that an overview lists; those whose tickets wait longest stay. Every agent reads it all the time.
const MOST_QUEUES: usize = 2_000;
/// Largest overview, bytes: a message of the broker's default size holds it.
const MOST_BYTES: usize = 900_000;

/// Tickets that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// How many.
    pub(super) count: u64,
    /// When the oldest of them was stored, Unix milliseconds of the broker.
    pub(super) oldest_ms: u64,
}

/// What one look at the farm brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked<'a> {
    /// When, Unix milliseconds of the broker.
    pub(super) now_ms: u64,
    /// What the queues' consumers say.
    pub(super) queues: &'a BTreeMap<Queue, QueueState>,
    /// When the oldest ticket that nobody was given yet was stored, of queues that have one.
    pub(super) oldest: &'a BTreeMap<Queue, u64>,
    /// Tickets that somebody was given and nobody holds.
    pub(super) returned: &'a BTreeMap<Queue, Waiting>,
    /// Tickets of queues without a consumer.
    pub(super) orphans: &'a BTreeMap<Queue, Waiting>,
    /// Every agent that lives.
    pub(super) agents: &'a [AgentStatus],
}

/// The overview that says it.
pub(super) fn overview(looked: &Looked<'_>) -> Overview {
    let mut waiting: BTreeMap<&Queue, Waiting> = BTreeMap::new();
    let mut add = |queue, more: Waiting| {
        let sum = waiting.entry(queue).or_insert(Waiting { count: 0, oldest_ms: looked.now_ms });
        sum.count += more.count;
        sum.oldest_ms = sum.oldest_ms.min(more.oldest_ms);
    };
    for (queue, state) in looked.queues.iter().filter(|(_, state)| state.waiting > 0) {
        let oldest_ms = looked.oldest.get(queue).copied().unwrap_or(looked.now_ms);
        add(queue, Waiting { count: state.waiting, oldest_ms });
    }
    looked.returned.iter().for_each(|(queue, returned)| add(queue, *returned));
    let orphans = looked.orphans.iter().filter(|(queue, _)| !looked.queues.contains_key(queue));
    orphans.for_each(|(queue, orphans)| add(queue, *orphans));
    let mut all: Vec<(&Queue, Waiting)> = waiting.into_iter().collect();
    if all.len() > MOST_QUEUES {
        all.sort_by_key(|(_, waiting)| waiting.oldest_ms);
        all.truncate(MOST_QUEUES);
    }
    let mut overview = Overview { v: 1, at_ms: looked.now_ms, ..Overview::default() };
    for (queue, Waiting { count, oldest_ms }) in all {
        let oldest_ms = looked.now_ms.saturating_sub(oldest_ms);
        overview.queues.push(QueueFact { queue: queue.consumer(), waiting: count, oldest_ms });
    }
    for status in looked.agents {
        for plugin in loaded(status) {
            *overview.warm.entry(plugin).or_default() += 1;
        }
        for (owner, count) in running(status) {
            *overview.running.entry(owner).or_default() += count;
        }
        overview.agents.push(status.agent.clone());
    }
    shrink(&mut overview, MOST_BYTES);
    overview
}

/// Leaves out what waits least long until the rest fits.
fn shrink(overview: &mut Overview, most_bytes: usize) {
    while !overview.queues.is_empty()
        && serde_json::to_vec(overview).map_or(0, |body| body.len()) > most_bytes
    {
        overview.queues.sort_by_key(|fact| std::cmp::Reverse(fact.oldest_ms));
        overview.queues.truncate(overview.queues.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::status::AgentState;

    fn queue(name: &str) -> Queue {
        Queue::parse(name).unwrap()
    }

    fn state(waiting: u64, handed_out: u64) -> QueueState {
        QueueState { waiting, handed_out, pulls: 0, delivered: 9 }
    }

    fn agent(name: &str, json: &serde_json::Value) -> AgentStatus {
        let mut whole = serde_json::to_value(AgentStatus::silent(name.parse().unwrap())).unwrap();
        for (key, value) in json.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn everything_that_waits_is_counted_once_with_its_age() {
        let (ocr, asr, tts, new) = (
            queue("default:high:ocr:alice"),
            queue("default:low:asr:bob"),
            queue("any:low:tts:bob"),
            queue("default:low:new:bob"),
        );
        let queues =
            [(ocr.clone(), state(3, 1)), (asr.clone(), state(0, 2)), (tts.clone(), state(0, 1))].into();
        let oldest = [(ocr.clone(), 9_000)].into();
        let returned = [
            (asr.clone(), Waiting { count: 1, oldest_ms: 4_000 }),
            (ocr.clone(), Waiting { count: 2, oldest_ms: 8_000 }),
        ];
        let orphans = [
            (new.clone(), Waiting { count: 7, oldest_ms: 1_000 }),
            // Its consumer came since.
            (ocr.clone(), Waiting { count: 99, oldest_ms: 1 }),
        ];
        let (returned, orphans) = (returned.into(), orphans.into());
        let looked = Looked {
            now_ms: 10_000,
            queues: &queues,
            oldest: &oldest,
            returned: &returned,
            orphans: &orphans,
            agents: &[],
        };
        let said = overview(&looked);
        let fact =
            |queue: &Queue, waiting, oldest_ms| QueueFact { queue: queue.consumer(), waiting, oldest_ms };
        let mut expected = vec![fact(&ocr, 5, 2_000), fact(&asr, 1, 6_000), fact(&new, 7, 9_000)];
        expected.sort_by_key(|fact| Queue::parse(&fact.queue));
        assert_eq!(said.queues, expected);
        assert_eq!((said.v, said.at_ms), (1, 10_000));
    }

    #[test]
    fn agents_are_added_up() {
        let json = serde_json::json!({
            "workers": [{"plugin": "ocr", "state": "busy"}, {"plugin": "ocr", "state": "idle"}],
            "attempts": [{"owner": "alice", "job": "1", "number": 1, "claim": 1}],
        });
        let mut leaving = agent("h3", &json);
        leaving.state = AgentState::Draining;
        let agents = [agent("h1", &json), agent("h2", &json), leaving];
        let (nothing, none) = (BTreeMap::new(), BTreeMap::new());
        let looked = Looked {
            now_ms: 1,
            queues: &BTreeMap::new(),
            oldest: &BTreeMap::new(),
            returned: &nothing,
            orphans: &none,
            agents: &agents,
        };
        let said = overview(&looked);
        assert_eq!(said.warm, [("ocr".parse().unwrap(), 2)].into(), "one that leaves is of no use");
        assert_eq!(said.running, [("alice".parse().unwrap(), 3)].into(), "what it runs counts still");
        assert_eq!(said.agents.len(), 3);
    }

    #[test]
    fn an_overview_that_grows_too_large_keeps_what_waits_longest() {
        let queues: BTreeMap<Queue, QueueState> = (0..MOST_QUEUES + 10)
            .map(|n| (queue(&format!("default:normal:some-plugin-{n}:some-owner-{n}")), state(1, 0)))
            .collect();
        let oldest = queues.keys().enumerate().map(|(n, queue)| (queue.clone(), n as u64)).collect();
        let (nothing, none) = (BTreeMap::new(), BTreeMap::new());
        let looked = Looked {
            now_ms: 1_000_000,
            queues: &queues,
            oldest: &oldest,
            returned: &nothing,
            orphans: &none,
            agents: &[],
        };
        let mut said = overview(&looked);
        assert_eq!(said.queues.len(), MOST_QUEUES);
        let size = |said: &Overview| serde_json::to_vec(said).unwrap().len();
        let youngest = |said: &Overview| said.queues.iter().map(|fact| fact.oldest_ms).min().unwrap();
        assert_eq!(youngest(&said), 1_000_000 - (MOST_QUEUES as u64 - 1));
        shrink(&mut said, 50_000);
        assert!((20_000..=50_000).contains(&size(&said)), "{}", size(&said));
        assert_eq!(youngest(&said), 1_000_000 - (said.queues.len() as u64 - 1));
    }
}
