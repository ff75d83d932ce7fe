//! Figures: what a simulation and the oracle are compared by. Computed from lives and counts alone.

use crate::lives::{NEVER, Outcome, Sample};
use crate::mix::{Kind, Micros, Mix};
use serde_json::{Value, json};

/// Waits from the arrival to the start of a run, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waits {
    /// How many started.
    pub count: usize,
    /// Median.
    pub p50: f64,
    /// All but one in a hundred.
    pub p99: f64,
    /// The worst.
    pub worst: f64,
}

impl Waits {
    fn of(mut waits: Vec<Micros>) -> Self {
        waits.sort_unstable();
        let ms = |place: usize| waits.get(place).map_or(0.0, |wait| *wait as f64 / 1_000.0);
        let last = waits.len().saturating_sub(1);
        // The rank that is not exceeded by this share of all.
        let at = |percent: usize| (waits.len() * percent).div_ceil(100).saturating_sub(1);
        Self { count: waits.len(), p50: ms(at(50)), p99: ms(at(99)), worst: ms(last) }
    }

    fn json(&self) -> Value {
        json!({ "n": self.count, "p50_ms": self.p50, "p99_ms": self.p99, "worst_ms": self.worst })
    }
}

/// What one way of scheduling made of a mix.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// GPU-seconds that runs held, over those that there were until the horizon.
    pub utilisation: f64,
    /// The same of MiB-seconds of GPU memory: a large GPU counts for more.
    pub memory: f64,
    /// Seconds of runs until the horizon: work done, wherever it was.
    pub ran_s: f64,
    /// Shares of the GPUs until the horizon, by sampling: held by starting, idle and leaving workers.
    pub overhead: [f64; 3],
    /// The last end, seconds.
    pub makespan_s: f64,
    /// Jobs that started.
    pub started: usize,
    /// Share of starts in a worker that was loaded before the job came.
    pub warm: f64,
    /// By priority, urgent first.
    pub waits: [Waits; 4],
    /// All jobs.
    pub all: Waits,
    /// Jobs that want several GPUs.
    pub big: Waits,
    /// Single jobs beside one owner's thousands.
    pub single: Waits,
    /// Starts of that owner between the arrival of a single job and its start: median and most.
    pub bulk_before: (usize, usize),
    /// Workers told to leave, for each start.
    pub evictions: f64,
}

/// Figures of an outcome.
pub fn figures(mix: &Mix, outcome: &Outcome, horizon: Micros) -> Figures {
    let waits = |of: &dyn Fn(usize) -> bool| {
        let started = outcome.lives.iter().enumerate().filter(|(n, life)| life.started != NEVER && of(*n));
        Waits::of(started.map(|(n, life)| life.started.saturating_sub(mix.jobs[n].at)).collect())
    };
    let kind = |kind: Kind| waits(&|n| mix.jobs[n].kind == kind);
    let all = waits(&|_| true);
    let warm = outcome.lives.iter().filter(|life| life.started != NEVER && life.warm).count();
    let seconds = (horizon.saturating_sub(mix.begin) as f64 / 1e6).max(f64::MIN_POSITIVE);
    Figures {
        utilisation: outcome.held_until(horizon) / (mix.gpus() as f64 * seconds),
        overhead: overhead(mix, outcome, horizon),
        ran_s: outcome.ran_until(horizon),
        memory: outcome.memory_until(horizon) / (mix.gpu_memory_mb() * seconds),
        makespan_s: outcome.makespan.saturating_sub(mix.begin) as f64 / 1e6,
        started: all.count,
        warm: warm as f64 / all.count.max(1) as f64,
        waits: [0, 1, 2, 3].map(|level| waits(&|n| mix.level_of(n) == level)),
        big: kind(Kind::Big),
        single: kind(Kind::Single),
        bulk_before: bulk_before(mix, outcome),
        evictions: outcome.counts.evicted as f64 / all.count.max(1) as f64,
        all,
    }
}

fn overhead(mix: &Mix, outcome: &Outcome, horizon: Micros) -> [f64; 3] {
    let until: Vec<&Sample> = outcome.samples.iter().filter(|sample| sample.at <= horizon).collect();
    let share = |of: fn(&Sample) -> f64| {
        let sum: f64 = until.iter().map(|sample| of(sample)).sum();
        sum / (until.len() * mix.gpus()).max(1) as f64
    };
    [share(|sample| sample.starting), share(|sample| sample.idle), share(|sample| sample.leaving)]
}

/// How many of the thousands started while a single job waited.
fn bulk_before(mix: &Mix, outcome: &Outcome) -> (usize, usize) {
    let lives = || outcome.lives.iter().zip(&mix.jobs).filter(|(life, _)| life.started != NEVER);
    let mut bulk: Vec<Micros> =
        lives().filter(|(_, job)| job.kind == Kind::Bulk).map(|(life, _)| life.started).collect();
    bulk.sort_unstable();
    let before = |at: Micros| bulk.partition_point(|start| *start < at);
    let singles = lives().filter(|(_, job)| job.kind == Kind::Single);
    let mut starts: Vec<usize> =
        singles.map(|(life, job)| before(life.started).saturating_sub(before(job.at))).collect();
    starts.sort_unstable();
    (starts.get(starts.len() / 2).copied().unwrap_or(0), starts.last().copied().unwrap_or(0))
}

impl Figures {
    /// For the document.
    pub fn json(&self) -> Value {
        let waits: Vec<Value> = self.waits.iter().map(Waits::json).collect();
        json!({
            "utilisation": self.utilisation,
            "memory": self.memory,
            "ran_s": self.ran_s,
            "overhead": { "starting": self.overhead[0], "idle": self.overhead[1], "leaving": self.overhead[2] },
            "makespan_s": self.makespan_s,
            "started": self.started,
            "warm": self.warm,
            "wait": self.all.json(),
            "wait_by_priority": waits,
            "big": self.big.json(),
            "single": self.single.json(),
            "bulk_starts_before_single": { "p50": self.bulk_before.0, "most": self.bulk_before.1 },
            "evictions_per_start": self.evictions,
        })
    }
}

/// One mix, both ways.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The mix's name.
    pub name: String,
    /// `backlog`, or jobs in a second.
    pub load: String,
    /// Seed, hosts, GPUs, jobs.
    pub size: (u64, usize, usize, usize),
    /// Until when GPU-seconds were counted: the oracle had done four fifths of the work, seconds.
    pub horizon_s: f64,
    /// The farm of agents.
    pub farm: Figures,
    /// The oracle.
    pub oracle: Figures,
    /// What the farm did besides.
    pub counts: crate::lives::Counts,
    /// What must never be.
    pub violations: Vec<String>,
    /// How long the simulation of the farm took, seconds.
    pub took_s: f64,
}

impl Comparison {
    /// Utilisation over the oracle's.
    pub fn ratio(&self) -> f64 {
        self.farm.utilisation / self.oracle.utilisation.max(f64::MIN_POSITIVE)
    }

    /// The same by memory.
    pub fn memory_ratio(&self) -> f64 {
        self.farm.memory / self.oracle.memory.max(f64::MIN_POSITIVE)
    }

    /// Seconds of runs over the oracle's.
    pub fn work_ratio(&self) -> f64 {
        self.farm.ran_s / self.oracle.ran_s.max(f64::MIN_POSITIVE)
    }

    /// Share of deliveries that were handed back.
    pub fn over_delivery(&self) -> f64 {
        (self.counts.returned + self.counts.given_up) as f64 / self.counts.delivered.max(1) as f64
    }

    /// Share of claims while one of a higher priority that fits had waited.
    pub fn inversions(&self) -> f64 {
        self.counts.inversions as f64 / self.counts.claims.max(1) as f64
    }

    /// Pulls for each start.
    pub fn pulls_per_start(&self) -> f64 {
        self.counts.pulls as f64 / self.farm.started.max(1) as f64
    }

    /// For the document.
    pub fn json(&self) -> Value {
        let (seed, hosts, gpus, jobs) = self.size;
        json!({
            "mix": self.name,
            "load": self.load,
            "seed": seed,
            "hosts": hosts,
            "gpus": gpus,
            "jobs": jobs,
            "horizon_s": self.horizon_s,
            "ratio": self.ratio(),
            "memory_ratio": self.memory_ratio(),
            "work_ratio": self.work_ratio(),
            "over_delivery": self.over_delivery(),
            "inversions": self.inversions(),
            "pulls_per_start": self.pulls_per_start(),
            "empty_pulls": self.counts.empty_pulls,
            "bells": self.counts.bells,
            "inputs": self.counts.inputs,
            "reservations": self.counts.savings,
            "farm": self.farm.json(),
            "oracle": self.oracle.json(),
            "violations": self.violations,
            "took_s": self.took_s,
        })
    }
}
