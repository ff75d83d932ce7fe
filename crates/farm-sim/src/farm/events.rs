//! The order of events. Ties keep the order in which they were made.

use crate::mix::Micros;
use grange_dispatch::{Ear, HostReading, WorkerId};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::rc::Rc;

/// What the housekeeper says, as it was at one moment.
#[derive(Debug)]
pub(super) struct Overview {
    /// Queues that hold tickets, with the age of the oldest, milliseconds.
    pub(super) waiting: std::collections::BTreeMap<grange_protocol::subject::Queue, u64>,
    /// Agents with a loaded worker, by plugin.
    pub(super) warm: Vec<u32>,
}

/// What an agent says to the broker.
#[derive(Debug)]
pub(super) enum Word {
    Hear { plugin: usize, ear: Option<Ear> },
    Open { queue: usize },
    Pull { queue: usize, number: u64, batch: u32, wait: bool },
    Call { job: usize, hops: u32 },
    HandBack { job: usize, delay: Micros },
    Claim { job: usize },
    Conclude { job: usize, again: bool },
    Save { queue: usize },
    EndSave { queue: usize },
}

/// What an agent hears, from the broker or from its own host.
#[derive(Debug)]
pub(super) enum News {
    /// It comes up.
    Up,
    Tick,
    /// The tick that the dispatcher asked for.
    Wake(u64),
    Bell {
        job: usize,
        ear: Ear,
        hops: u32,
    },
    Opened {
        queue: usize,
    },
    Ticket {
        job: usize,
    },
    PullEnded {
        queue: usize,
        number: u64,
    },
    Claimed {
        job: usize,
    },
    Settled {
        job: usize,
    },
    Facts(Rc<Overview>),
    SaveGranted {
        queue: usize,
    },
    SaveRefused {
        queue: usize,
    },
    /// A look at the host begins.
    Look,
    Looked(Box<HostReading>),
    Ready(WorkerId),
    Exited(WorkerId),
    /// GPU memory of a process that is gone is free.
    MemoryBack(WorkerId),
    RunEnded {
        worker: WorkerId,
        job: usize,
    },
}

/// One event.
#[derive(Debug)]
pub(super) enum Event {
    /// A ticket is stored.
    Publish {
        job: usize,
    },
    /// A queue's consumer counts a ticket.
    Count {
        job: usize,
        again: bool,
    },
    /// A ticket that was handed back is due.
    Due {
        job: usize,
    },
    Expire {
        queue: usize,
        agent: usize,
        number: u64,
    },
    Overview,
    /// A word arrives at the broker.
    ToBroker(usize, Word),
    /// The broker answers, or passes something on.
    FromBroker(usize, News),
    /// News arrive.
    ToAgent(usize, News),
}

struct Entry {
    at: Micros,
    turn: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.turn).cmp(&(other.at, other.turn))
    }
}

/// What is still to happen.
#[derive(Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<Entry>>,
    turns: u64,
}

impl Events {
    pub(super) fn add(&mut self, at: Micros, event: Event) {
        self.turns += 1;
        self.heap.push(Reverse(Entry { at, turn: self.turns, event }));
    }

    pub(super) fn next(&mut self) -> Option<(Micros, Event)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}
