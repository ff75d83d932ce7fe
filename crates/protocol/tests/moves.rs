//! A job that is moved between lanes while agents claim it and somebody cancels it, in every order and with movers that stop
//! halfway: it is never lost, never run twice, and never started in a lane where it does not wait.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use grange_protocol::lifecycle::{Claim, claim, conclude, move_to, request_cancel};
use grange_protocol::name::{AgentName, Class, Incarnation, PluginName};
use grange_protocol::ownership::{Delivered, Stored, Verdict, judge};
use grange_protocol::record::{Fence, Holder, Outcome, Record, State};
use grange_protocol::subject::Lane;
use grange_protocol::ticket::Priority;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn lane(priority: Priority) -> Lane {
    Lane { priority, plugin: PluginName::new("echo").unwrap(), class: Class::plugin_default() }
}

#[derive(Clone, Debug)]
struct Ticket {
    id: u64,
    lane: Lane,
    base: u64,
    /// An agent has it.
    out: bool,
}

/// The broker: one state subject, tickets, and the ids that it remembers.
#[derive(Default)]
struct Broker {
    sequence: u64,
    newest: u64,
    record: Option<Record>,
    tickets: Vec<Ticket>,
    remembered: BTreeSet<String>,
}

impl Broker {
    fn write(&mut self, expect: u64, record: Record) -> Option<u64> {
        if expect != self.newest {
            return None;
        }
        assert!(!self.record.as_ref().is_some_and(|old| old.state.is_terminal()), "written after the end");
        self.sequence += 1;
        (self.newest, self.record) = (self.sequence, Some(record));
        Some(self.newest)
    }

    fn publish(&mut self, id: String, lane: Lane, base: u64) {
        if self.remembered.insert(id) {
            self.sequence += 1;
            self.tickets.push(Ticket { id: self.sequence, lane, base, out: false });
        }
    }

    fn remove(&mut self, id: u64) {
        self.tickets.retain(|ticket| ticket.id != id);
    }

    fn stored(&self) -> Stored {
        match &self.record {
            None => Stored::Nothing,
            Some(record) => {
                Stored::Record { sequence: self.newest, stored_ms: 0, record: Box::new(record.clone()) }
            }
        }
    }
}

/// Whoever wants another priority, step by step; each may be the last.
#[derive(Clone, Debug)]
enum Mover {
    Looks(Lane),
    Writes { to: Lane, expect: u64, record: Option<Box<Record>>, ticket: Ticket },
    Publishes { to: Lane, revision: u64, old: u64 },
    Removes { old: u64 },
    Done,
}

impl Mover {
    fn step(self, broker: &mut Broker) -> Self {
        match self {
            Self::Looks(to) => match broker.tickets.last() {
                Some(ticket) => Self::Writes {
                    to,
                    expect: broker.newest,
                    record: broker.record.clone().map(Box::new),
                    ticket: ticket.clone(),
                },
                None => Self::Done,
            },
            Self::Writes { to, expect, record, ticket } => {
                if record.as_ref().is_some_and(|record| record.state.is_held() || record.state.is_terminal())
                {
                    return Self::Done;
                }
                let now = record.as_ref().map_or_else(|| ticket.lane.clone(), |record| record.lane());
                if now == to {
                    return if ticket.lane == to {
                        Self::Done
                    } else {
                        Self::Publishes { to, revision: expect, old: ticket.id }
                    };
                }
                let Ok(moved) = move_to(record.as_deref(), &ticket.lane, &to, 1, 2) else {
                    return Self::Done;
                };
                match broker.write(expect, moved) {
                    Some(revision) => Self::Publishes { to, revision, old: ticket.id },
                    None => Self::Looks(to),
                }
            }
            Self::Publishes { to, revision, old } => {
                broker.publish(format!("m{revision}"), to, revision);
                Self::Removes { old }
            }
            Self::Removes { old } => {
                broker.remove(old);
                Self::Done
            }
            Self::Done => Self::Done,
        }
    }
}

/// An agent with one ticket at a time.
enum Agent {
    Free,
    Has(Ticket),
    Conflict(Ticket),
    PassesOn(Ticket, Lane, u64),
    Runs(Ticket, Fence),
    Acknowledges(Ticket),
}

fn holder(n: usize) -> Holder {
    Holder {
        agent: AgentName::new(format!("a{n}")).unwrap(),
        incarnation: Incarnation::new(format!("i{n}")).unwrap(),
    }
}

struct World {
    broker: Broker,
    movers: Vec<Mover>,
    agents: [Agent; 2],
    starts: u32,
}

impl World {
    fn new() -> Self {
        let mut broker = Broker::default();
        broker.publish("job".to_owned(), lane(Priority::Normal), 0);
        Self { broker, movers: Vec::new(), agents: [Agent::Free, Agent::Free], starts: 0 }
    }

    fn claim(&mut self, n: usize, ticket: Ticket, expect: u64, before: Option<&Record>) -> Agent {
        let wish = Claim { holder: holder(n), lease_s: 30, ahead: false, at_ms: 3 };
        let record = claim(before, &ticket.lane, 1, &wish).unwrap();
        let terminal = record.state.is_terminal();
        let waits_in = self.broker.record.as_ref().map(Record::lane);
        match self.broker.write(expect, record.clone()) {
            Some(_) if terminal => Agent::Acknowledges(ticket),
            Some(sequence) => {
                assert!(waits_in.is_none_or(|lane| lane == ticket.lane), "started where it does not wait");
                self.starts += 1;
                Agent::Runs(ticket, record.fence(sequence).unwrap())
            }
            None => Agent::Conflict(ticket),
        }
    }

    /// One step of an agent. False: there is nothing for it to do.
    fn agent(&mut self, n: usize, pick: usize) -> bool {
        let now = std::mem::replace(&mut self.agents[n], Agent::Free);
        self.agents[n] = match now {
            Agent::Free => {
                let mut free: Vec<&mut Ticket> = self.broker.tickets.iter_mut().filter(|t| !t.out).collect();
                if free.is_empty() {
                    return false;
                }
                let place = pick % free.len();
                free[place].out = true;
                Agent::Has(free[place].clone())
            }
            Agent::Has(ticket) => {
                let base = ticket.base;
                self.claim(n, ticket, base, None)
            }
            Agent::Conflict(ticket) => {
                let stored = self.broker.stored();
                let delivered = Delivered { lane: &ticket.lane, base: ticket.base };
                match judge(delivered, &stored, &holder(n), 0, None) {
                    Verdict::Claim { expect, before } => self.claim(n, ticket, expect, before.as_deref()),
                    Verdict::Moved { lane, expect } => Agent::PassesOn(ticket, lane, expect),
                    Verdict::Ended(_) => Agent::Acknowledges(ticket),
                    Verdict::Held { .. } | Verdict::Mine => {
                        self.give_back(&ticket);
                        Agent::Free
                    }
                    other @ (Verdict::Expired { .. } | Verdict::AskHeartbeat(_) | Verdict::Early { .. }) => {
                        unreachable!("{other:?}: nothing runs out here, nothing rests, and nobody is lost")
                    }
                }
            }
            Agent::PassesOn(ticket, lane, expect) => {
                // Of a ticket that is gone, whoever moved it made the new one.
                if self.broker.tickets.iter().any(|there| there.id == ticket.id) {
                    self.broker.publish(format!("m{expect}"), lane, expect);
                }
                Agent::Acknowledges(ticket)
            }
            Agent::Runs(ticket, fence) => {
                let record = self.broker.record.clone().unwrap();
                let state =
                    if record.cancel_requested.is_some() { State::Cancelled } else { State::Succeeded };
                let expect = self.broker.newest;
                let done = conclude(&record, expect, &fence, state, Outcome::default(), 4).unwrap();
                self.broker.write(expect, done).unwrap();
                Agent::Acknowledges(ticket)
            }
            Agent::Acknowledges(ticket) => {
                self.broker.remove(ticket.id);
                Agent::Free
            }
        };
        true
    }

    fn give_back(&mut self, ticket: &Ticket) {
        for there in self.broker.tickets.iter_mut().filter(|there| there.id == ticket.id) {
            there.out = false;
        }
    }

    fn cancel(&mut self) {
        let before = self.broker.record.clone();
        let basis = before.as_ref().map(|record| (record, self.broker.newest));
        let at = self.broker.tickets.last().map_or_else(|| lane(Priority::Normal), |t| t.lane.clone());
        if let Ok(record) = request_cancel(basis, &at, "", 5) {
            self.broker.write(self.broker.newest, record);
        }
    }

    fn is_over(&self) -> bool {
        self.broker.record.as_ref().is_some_and(|record| record.state.is_terminal())
    }
}

#[derive(Clone, Debug)]
enum Step {
    NewMover(Priority),
    Mover(usize),
    Agent(usize, usize),
    Cancel,
    /// Two minutes pass: message ids are forgotten.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0usize..4).prop_map(|n| Step::NewMover(Priority::ALL[n])),
        8 => (0usize..4).prop_map(Step::Mover),
        6 => (0usize..2, 0usize..4).prop_map(|(n, pick)| Step::Agent(n, pick)),
        1 => Just(Step::Cancel),
        1 => Just(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn a_moved_job_is_neither_lost_nor_run_twice(steps in proptest::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::NewMover(priority) => world.movers.push(Mover::Looks(lane(priority))),
                Step::Mover(n) => {
                    if let Some(mover) = world.movers.get_mut(n) {
                        *mover = mover.clone().step(&mut world.broker);
                    }
                }
                Step::Agent(n, pick) => {
                    world.agent(n, pick);
                }
                Step::Cancel => world.cancel(),
                Step::Forget => world.broker.remembered.clear(),
            }
            prop_assert!(world.is_over() || !world.broker.tickets.is_empty(), "no ticket is left of a job that waits");
        }
        // The movers stop wherever they are; the agents go on.
        for round in 0..200 {
            let busy = world.agent(0, round) | world.agent(1, round / 2);
            if !busy && world.broker.tickets.is_empty() {
                break;
            }
        }
        prop_assert!(world.is_over(), "{:?}", world.broker.record);
        prop_assert!(world.broker.tickets.is_empty(), "{:?}", world.broker.tickets);
        prop_assert!(world.starts <= 1);
        let cancelled = world.broker.record.as_ref().is_some_and(|record| record.state == State::Cancelled);
        prop_assert!(cancelled || world.starts == 1);
    }
}
