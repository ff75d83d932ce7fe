//! The broker: queues with their consumers and waiting pulls, who hears which bells, who saves up for what. Knows no time
//! but what it is told; never decides who should get a job.

use crate::chance::Chance;
use crate::mix::Micros;
use grange_dispatch::Ear;
use std::collections::VecDeque;

/// A pull that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    agent: usize,
    number: u64,
    left: u32,
}

/// One queue.
#[derive(Clone, Debug, Default)]
struct Line {
    /// It has a consumer.
    open: bool,
    /// Tickets handed back: first.
    back: VecDeque<usize>,
    tickets: VecDeque<usize>,
    pulls: VecDeque<Waiting>,
    /// Who saves up for it, and until when at the latest.
    saver: Option<(usize, Micros)>,
}

/// Who hears a plugin's bells.
#[derive(Clone, Debug, Default)]
struct Listeners {
    warm: Vec<usize>,
    cold: Vec<usize>,
    all: Vec<usize>,
}

/// A ticket that goes to an agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) agent: usize,
    pub(super) job: usize,
}

#[derive(Debug)]
pub(super) struct Broker {
    lines: Vec<Line>,
    ears: Vec<Listeners>,
}

impl Broker {
    pub(super) fn new(queues: usize, plugins: usize) -> Self {
        Self { lines: vec![Line::default(); queues], ears: vec![Listeners::default(); plugins] }
    }

    /// An agent hears a plugin's bells so from now on.
    pub(super) fn hear(&mut self, agent: usize, plugin: usize, ear: Option<Ear>) {
        let ears = &mut self.ears[plugin];
        for group in [&mut ears.warm, &mut ears.cold, &mut ears.all] {
            if let Some(place) = group.iter().position(|member| *member == agent) {
                group.swap_remove(place);
            }
        }
        match ear {
            Some(Ear::Warm) => ears.warm.push(agent),
            Some(Ear::Cold) => ears.cold.push(agent),
            Some(Ear::All) => ears.all.push(agent),
            None => {}
        }
    }

    /// Who hears a bell: one of each group, and all who listen for themselves.
    pub(super) fn ring(&self, plugin: usize, chance: &mut Chance) -> Vec<(usize, Ear)> {
        let ears = &self.ears[plugin];
        let mut heard = Vec::with_capacity(ears.all.len() + 2);
        for (group, ear) in [(&ears.warm, Ear::Warm), (&ears.cold, Ear::Cold)] {
            if !group.is_empty() {
                heard.push((group[chance.below(group.len())], ear));
            }
        }
        heard.extend(ears.all.iter().map(|agent| (*agent, Ear::All)));
        heard
    }

    /// Who hears a call: everybody who hears a plugin's bells.
    pub(super) fn call(&self, plugin: usize) -> Vec<usize> {
        let Listeners { warm, cold, all } = &self.ears[plugin];
        warm.iter().chain(cold).chain(all).copied().collect()
    }

    pub(super) fn open(&mut self, queue: usize) {
        self.lines[queue].open = true;
    }

    /// Whether a queue has a consumer.
    pub(super) fn is_open(&self, queue: usize) -> bool {
        self.lines[queue].open
    }

    /// A ticket can be given; one that was handed back goes first.
    pub(super) fn count(&mut self, queue: usize, job: usize, again: bool) -> Option<Given> {
        let line = &mut self.lines[queue];
        let tickets = if again { &mut line.back } else { &mut line.tickets };
        tickets.push_back(job);
        let mut pull = line.pulls.pop_front()?;
        let job = line.back.pop_front().or_else(|| line.tickets.pop_front())?;
        pull.left -= 1;
        if pull.left > 0 {
            line.pulls.push_back(pull);
        }
        Some(Given { agent: pull.agent, job })
    }

    /// A pull: what is there, and whether the pull is over with less than it asked for.
    pub(super) fn pull(
        &mut self,
        queue: usize,
        (agent, number): (usize, u64),
        batch: u32,
        wait: bool,
    ) -> (Vec<usize>, Pulled) {
        let line = &mut self.lines[queue];
        let mut given = Vec::new();
        let mut left = batch;
        while left > 0 && line.open {
            let Some(job) = line.back.pop_front().or_else(|| line.tickets.pop_front()) else { break };
            given.push(job);
            left -= 1;
        }
        if left > 0 && wait && line.open {
            line.pulls.push_back(Waiting { agent, number, left });
            return (given, Pulled::Waits);
        }
        (given, if left > 0 { Pulled::Short } else { Pulled::Full })
    }

    /// A waiting pull's time is over. False: it was answered in full before.
    pub(super) fn expire(&mut self, queue: usize, agent: usize, number: u64) -> bool {
        let pulls = &mut self.lines[queue].pulls;
        let place = pulls.iter().position(|pull| (pull.agent, pull.number) == (agent, number));
        place.and_then(|place| pulls.remove(place)).is_some()
    }

    /// Makes an agent the one that saves up for a queue. False: another is.
    pub(super) fn save(&mut self, queue: usize, agent: usize, now: Micros, until: Micros) -> bool {
        let saver = &mut self.lines[queue].saver;
        if saver.is_some_and(|(_, until)| until > now) {
            return false;
        }
        *saver = Some((agent, until));
        true
    }

    pub(super) fn end_save(&mut self, queue: usize, agent: usize) {
        let saver = &mut self.lines[queue].saver;
        if saver.is_some_and(|(holder, _)| holder == agent) {
            *saver = None;
        }
    }

    /// The tickets at the heads of a queue that nobody was given.
    pub(super) fn heads(&self, queue: usize) -> impl Iterator<Item = usize> {
        let line = &self.lines[queue];
        line.back.front().into_iter().chain(line.tickets.front()).copied()
    }
}

/// How far a pull was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulled {
    /// With all that it asked for.
    Full,
    /// With less, and it is over.
    Short,
    /// With less, and it waits.
    Waits,
}
