//! The oracle: one central scheduler that sees every host at every instant and pays for no message. First fit: whenever
//! something frees or comes, the highest priority first, then the oldest job; a loaded worker first, then the first host
//! with room, then the first where idle workers can leave. Starts, ends and returns of memory take as long as in the farm.
//!
//! Its state is as small as it can be: jobs of one shape and priority are one line, and what did not fit before is tried
//! again only on the host where something changed.

mod host;

use crate::chance::Chance;
use crate::lives::{Life, Outcome};
use crate::mix::{Micros, Mix};
use host::{Host, Stage, Worker};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// How long things take, as in the farm. Ranges are microseconds, from and to.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// An idle worker that was told to leave is gone.
    pub stop: (Micros, Micros),
    /// Its GPU memory is back so long after that.
    pub memory: (Micros, Micros),
    /// A job rises one priority each time that it has waited so long.
    pub age_after: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Come(usize),
    Ready { host: usize, worker: usize },
    Ended { host: usize, worker: usize, job: usize },
    Gone { host: usize, worker: usize },
}

struct Oracle<'a> {
    mix: &'a Mix,
    pace: Pace,
    chance: Chance,
    now: Micros,
    turns: u64,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    hosts: Vec<Host>,
    /// Waiting jobs by shape and priority.
    lines: Vec<VecDeque<usize>>,
    outcome: Outcome,
}

/// Priorities.
const LEVELS: usize = 4;

/// Runs a mix until every job that some host can run has ended.
pub fn schedule(mix: &Mix, pace: Pace) -> Outcome {
    let mut oracle = Oracle {
        mix,
        pace,
        chance: Chance::new(mix.seed, 4),
        now: 0,
        turns: 0,
        events: BinaryHeap::new(),
        hosts: mix.hosts.iter().map(Host::new).collect(),
        lines: vec![VecDeque::new(); mix.shapes.len() * LEVELS],
        outcome: Outcome { lives: vec![Life::default(); mix.jobs.len()], ..Outcome::default() },
    };
    let placeable = mix.placeable();
    for (n, job) in mix.jobs.iter().enumerate() {
        if placeable[mix.queues[job.queue].shape] {
            oracle.at(job.at.max(mix.begin), Event::Come(n));
        }
    }
    while let Some(Reverse((at, _, event))) = oracle.events.pop() {
        oracle.now = at;
        oracle.happen(event);
    }
    oracle.outcome
}

impl Oracle<'_> {
    fn at(&mut self, at: Micros, event: Event) {
        self.turns += 1;
        self.events.push(Reverse((at, self.turns, event)));
    }

    fn line_of(&self, job: usize) -> usize {
        let queue = &self.mix.queues[self.mix.jobs[job].queue];
        queue.shape * LEVELS + usize::from(queue.level)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Come(job) => self.come(job),
            Event::Ready { host, worker } => {
                let entry = self.worker(host, worker);
                entry.stage = Stage::Ready;
                let given = entry.given.clone();
                for job in given {
                    self.begin(host, worker, job, false);
                }
                self.freed(host);
            }
            Event::Ended { host, worker, job } => {
                let life = &mut self.outcome.lives[job];
                (life.ended, life.ends) = (self.now, life.ends + 1);
                self.outcome.makespan = self.now;
                let now = self.now;
                let entry = self.worker(host, worker);
                entry.given.retain(|given| *given != job);
                entry.idle_since = now;
                self.freed(host);
            }
            Event::Gone { host, worker } => {
                self.hosts[host].gone(worker);
                for worker in self.hosts[host].startable() {
                    self.start(host, worker);
                }
                self.freed(host);
            }
        }
    }

    /// A job comes: to a loaded worker, else to the first host with room, else to the first where idle workers can leave.
    fn come(&mut self, job: usize) {
        let line = self.line_of(job);
        let shape = line / LEVELS;
        let alike = |line: &VecDeque<usize>| !line.is_empty();
        // What waits already was tried everywhere.
        let tried = (0..LEVELS).any(|level| alike(&self.lines[shape * LEVELS + level]));
        let placed =
            !tried && (self.give_warm(job) || self.give_cold(job, false) || self.give_cold(job, true));
        if !placed {
            self.lines[line].push_back(job);
        }
    }

    fn give_warm(&mut self, job: usize) -> bool {
        (0..self.hosts.len()).any(|host| self.seat(host, job))
    }

    fn give_cold(&mut self, job: usize, evict: bool) -> bool {
        (0..self.hosts.len()).any(|host| self.new_worker(host, job, evict))
    }

    /// Something became free on a host: the highest and oldest of what waits, as far as it fits.
    fn freed(&mut self, host: usize) {
        let mut heads: BinaryHeap<Reverse<(u64, usize, usize)>> = BinaryHeap::new();
        for (line, jobs) in self.lines.iter().enumerate() {
            if let Some(job) = jobs.front() {
                heads.push(Reverse((self.level(*job), *job, line)));
            }
        }
        let mut full = vec![false; self.mix.shapes.len()];
        while let Some(Reverse((_, job, line))) = heads.pop() {
            if full[line / LEVELS] {
                continue;
            }
            if self.seat(host, job) || self.new_worker(host, job, false) || self.new_worker(host, job, true) {
                self.lines[line].pop_front();
                if let Some(next) = self.lines[line].front() {
                    heads.push(Reverse((self.level(*next), *next, line)));
                }
            } else {
                full[line / LEVELS] = true;
            }
        }
    }

    /// The priority that counts.
    fn level(&self, job: usize) -> u64 {
        let waited = self.now.saturating_sub(self.mix.jobs[job].at);
        u64::from(self.mix.level_of(job)).saturating_sub(waited / self.pace.age_after.max(1))
    }

    /// Gives a job to a worker of this host that is loaded, or is coming up and has a place left.
    fn seat(&mut self, host: usize, job: usize) -> bool {
        let shape = self.mix.shape_of(job);
        let places = self.mix.plugins[shape.plugin].spec.concurrency as usize;
        let Some(worker) = self.hosts[host].seat(shape, places) else { return false };
        let entry = self.worker(host, worker);
        let ready = entry.stage == Stage::Ready;
        entry.given.push(job);
        if ready {
            self.begin(host, worker, job, true);
        }
        true
    }

    fn begin(&mut self, host: usize, worker: usize, job: usize, warm: bool) {
        let entry = &self.hosts[host].workers[&worker];
        let shared = f64::from(self.mix.plugins[entry.plugin].spec.concurrency);
        let (weight, memory_mb) = self.hosts[host].held.weight(&entry.share);
        let life = &mut self.outcome.lives[job];
        life.starts += 1;
        (life.started, life.warm) = (self.now, warm);
        (life.weight, life.memory_mb) = (weight / shared, memory_mb / shared);
        self.at(self.now + self.mix.jobs[job].run, Event::Ended { host, worker, job });
    }

    /// Starts a worker for a job, where `evict` with idle ones leaving.
    fn new_worker(&mut self, host: usize, job: usize, evict: bool) -> bool {
        let shape = self.mix.shape_of(job);
        let most = self.mix.plugins[shape.plugin].spec.max_workers as usize;
        if !evict {
            let Some(worker) = self.hosts[host].book(shape, most) else { return false };
            self.worker(host, worker).given.push(job);
            self.start(host, worker);
            return true;
        }
        let Some((worker, leaving)) = self.hosts[host].book_with_leavers(shape, most) else { return false };
        self.worker(host, worker).given.push(job);
        for leaver in leaving {
            self.outcome.counts.evicted += 1;
            let (stop, memory) = (self.pace.stop, self.pace.memory);
            let takes = self.chance.between(stop.0, stop.1) + self.chance.between(memory.0, memory.1);
            self.at(self.now + takes, Event::Gone { host, worker: leaver });
        }
        true
    }

    fn start(&mut self, host: usize, worker: usize) {
        self.outcome.counts.spawned += 1;
        let entry = self.worker(host, worker);
        entry.stage = Stage::Starting;
        let (plugin, share) = (entry.plugin, entry.share.clone());
        if !self.hosts[host].held.take(&share) {
            self.outcome.violations.push(format!("the oracle gives twice: {share:?} of host {host}"));
        }
        let takes = self.mix.plugins[plugin].start as f64 * (0.9 + 0.3 * self.chance.unit());
        self.at(self.now + takes as Micros, Event::Ready { host, worker });
    }

    fn worker(&mut self, host: usize, worker: usize) -> &mut Worker {
        self.hosts[host].workers.get_mut(&worker).expect("whoever is named is there until gone")
    }
}
