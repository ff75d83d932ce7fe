//! One host as the oracle sees it. What a worker is promised is taken at once; what leaves is given back when it is gone.

use crate::machine::{Ask, HostSpec, Machine, Share};
use crate::mix::{Micros, Shape};
use std::collections::BTreeMap;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// For others to leave.
    Waiting,
    Starting,
    Ready,
    Leaving,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) plugin: usize,
    ask: Ask,
    pub(super) share: Share,
    pub(super) stage: Stage,
    pub(super) given: Vec<usize>,
    pub(super) idle_since: Micros,
    /// Those who leave for it and are not gone.
    waits_for: Vec<usize>,
}

pub(super) struct Host {
    /// What is held or promised.
    promised: Machine,
    /// What is held.
    pub(super) held: Machine,
    pub(super) workers: BTreeMap<usize, Worker>,
    last: usize,
}

impl Host {
    pub(super) fn new(spec: &HostSpec) -> Self {
        Self { promised: Machine::new(spec), held: Machine::new(spec), workers: BTreeMap::new(), last: 0 }
    }

    fn live(&self) -> impl Iterator<Item = (usize, &Worker)> {
        self.workers
            .iter()
            .filter(|(_, worker)| worker.stage != Stage::Leaving)
            .map(|(n, worker)| (*n, worker))
    }

    /// A worker with a place for one more job of a shape: a loaded one before one that is coming up.
    pub(super) fn seat(&self, shape: &Shape, places: usize) -> Option<usize> {
        let serves = |worker: &Worker| {
            worker.plugin == shape.plugin && worker.given.len() < places && worker.ask.serves(&shape.ask)
        };
        let seats = self.live().filter(|(_, worker)| serves(worker));
        seats.min_by_key(|(n, worker)| (worker.stage != Stage::Ready, *n)).map(|(n, _)| n)
    }

    /// Books room that is free for one more worker.
    pub(super) fn book(&mut self, shape: &Shape, most: usize) -> Option<usize> {
        if self.live().filter(|(_, worker)| worker.plugin == shape.plugin).count() >= most {
            return None;
        }
        let share = self.promised.find(&shape.ask)?;
        Some(self.take_in(shape, share, Vec::new()))
    }

    fn take_in(&mut self, shape: &Shape, share: Share, waits_for: Vec<usize>) -> usize {
        // With those who leave still there it may be more than there is, for a moment.
        let _ = self.promised.take(&share);
        let (plugin, ask) = (shape.plugin, shape.ask.clone());
        let (given, stage) = (Vec::new(), Stage::Waiting);
        self.last += 1;
        self.workers.insert(self.last, Worker { plugin, ask, share, stage, given, idle_since: 0, waits_for });
        self.last
    }

    /// Books room that is free when idle workers leave: as few as will do, the least recently used first.
    pub(super) fn book_with_leavers(&mut self, shape: &Shape, most: usize) -> Option<(usize, Vec<usize>)> {
        let idle = |worker: &Worker| worker.stage == Stage::Ready && worker.given.is_empty();
        let mut idle: Vec<usize> = self.live().filter(|(_, worker)| idle(worker)).map(|(n, _)| n).collect();
        idle.sort_by_key(|n| (self.workers[n].idle_since, *n));
        let count = |without: &[usize]| {
            let own = self.live().filter(|(n, worker)| worker.plugin == shape.plugin && !without.contains(n));
            own.count()
        };
        let fits = |without: &[usize]| {
            let mut machine = self.promised.clone();
            for n in without {
                machine.leave(&self.workers[n].share);
                machine.give_back(&self.workers[n].share);
            }
            (count(without) < most).then(|| machine.find(&shape.ask)).flatten()
        };
        fits(&idle)?;
        let enough = (1..=idle.len()).find(|count| fits(&idle[..*count]).is_some())?;
        let mut leaving = idle[..enough].to_vec();
        let mut place = 0;
        while place < leaving.len() {
            let mut fewer = leaving.clone();
            fewer.remove(place);
            if fits(&fewer).is_some() {
                leaving = fewer;
            } else {
                place += 1;
            }
        }
        let share = fits(&leaving)?;
        for n in &leaving {
            if let Some(worker) = self.workers.get_mut(n) {
                worker.stage = Stage::Leaving;
            }
        }
        let worker = self.take_in(shape, share, leaving.clone());
        Some((worker, leaving))
    }

    /// A worker that left is gone, and its memory is back.
    pub(super) fn gone(&mut self, worker: usize) {
        let Some(gone) = self.workers.remove(&worker) else { return };
        for machine in [&mut self.promised, &mut self.held] {
            machine.leave(&gone.share);
            machine.give_back(&gone.share);
        }
        for other in self.workers.values_mut() {
            other.waits_for.retain(|leaver| *leaver != worker);
        }
    }

    /// Workers whose room is free now.
    pub(super) fn startable(&self) -> Vec<usize> {
        let due = |worker: &Worker| worker.stage == Stage::Waiting && worker.waits_for.is_empty();
        self.workers.iter().filter(|(_, worker)| due(worker)).map(|(n, _)| *n).collect()
    }
}
