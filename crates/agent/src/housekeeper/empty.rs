//! Which queues have been empty for so long that their consumers are not worth keeping. Pure.

use grange_broker_client::topology::QueueState;
use grange_protocol::subject::Queue;
use std::collections::BTreeMap;

/// A queue that is empty for so long loses its consumer, milliseconds; the next ticket makes it again.
pub(super) const EMPTY_MS: u64 = 3_600_000;

/// Since when each queue is empty. In memory only: another housekeeper counts anew.
#[derive(Debug, Default)]
pub(super) struct Empty(BTreeMap<Queue, Since>);

#[derive(Clone, Copy, Debug)]
struct Since {
    first_ms: u64,
    /// The newest ticket that was given out by then: another one means that it was used in between.
    delivered: u64,
}

impl Empty {
    /// Takes a look at all queues, at a moment of any clock that goes on; answers those that have had their time.
    pub(super) fn look(&mut self, queues: &BTreeMap<Queue, QueueState>, now_ms: u64) -> Vec<Queue> {
        self.0.retain(|queue, _| queues.get(queue).is_some_and(is_empty));
        let mut over = Vec::new();
        for (queue, state) in queues.iter().filter(|(_, state)| is_empty(state)) {
            let now = Since { first_ms: now_ms, delivered: state.delivered };
            let since = self.0.entry(queue.clone()).or_insert(now);
            if since.delivered != state.delivered {
                *since = now;
            }
            if now_ms.saturating_sub(since.first_ms) >= EMPTY_MS {
                over.push(queue.clone());
            }
        }
        over
    }
}

/// Whether nothing waits and nobody runs anything of it.
pub(super) fn is_empty(state: &QueueState) -> bool {
    state.waiting == 0 && state.handed_out == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(waiting: u64, handed_out: u64, delivered: u64) -> BTreeMap<Queue, QueueState> {
        let queue = Queue::parse("default:high:ocr:alice").unwrap();
        [(queue, QueueState { waiting, handed_out, pulls: 1, delivered })].into()
    }

    #[test]
    fn an_hour_without_anything_is_enough() {
        let mut empty = Empty::default();
        assert!(empty.look(&one(0, 0, 5), 1_000).is_empty());
        assert!(empty.look(&one(0, 0, 5), EMPTY_MS).is_empty());
        assert_eq!(empty.look(&one(0, 0, 5), EMPTY_MS + 1_000).len(), 1);
        assert_eq!(empty.look(&one(0, 0, 5), EMPTY_MS + 2_000).len(), 1, "again, until it is gone");
        assert!(empty.look(&BTreeMap::new(), EMPTY_MS + 3_000).is_empty());
        assert!(empty.look(&one(0, 0, 5), EMPTY_MS + 4_000).is_empty(), "a new one counts anew");
    }

    #[test]
    fn a_ticket_in_between_begins_the_hour_again() {
        for used in [one(1, 0, 5), one(0, 1, 5), one(0, 0, 6)] {
            let mut empty = Empty::default();
            empty.look(&one(0, 0, 5), 0);
            assert!(empty.look(&used, 10_000).is_empty());
            let after = used.values().next().unwrap().delivered;
            assert!(empty.look(&one(0, 0, after), EMPTY_MS + 5_000).is_empty(), "{used:?}");
            assert_eq!(empty.look(&one(0, 0, after), 2 * EMPTY_MS + 5_000).len(), 1);
        }
    }
}
