//! What became of each job, however it was scheduled: the raw figures that everything published is computed from.

use crate::mix::Micros;

/// Not yet, or never.
pub const NEVER: Micros = Micros::MAX;

/// One job.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Its run began.
    pub started: Micros,
    /// Its run ended.
    pub ended: Micros,
    /// How many GPUs its run held.
    pub weight: f64,
    /// How much GPU memory, MiB.
    pub memory_mb: f64,
    /// The worker was loaded before the job came to it.
    pub warm: bool,
    /// How often it was started.
    pub starts: u32,
    /// How often it ended.
    pub ends: u32,
}

impl Default for Life {
    fn default() -> Self {
        Self { started: NEVER, ended: NEVER, weight: 0.0, memory_mb: 0.0, warm: false, starts: 0, ends: 0 }
    }
}

/// Counts of one simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Inputs that dispatchers took.
    pub inputs: u64,
    /// Bells that agents heard.
    pub bells: u64,
    /// Pulls that agents sent.
    pub pulls: u64,
    /// Pulls that brought nothing.
    pub empty_pulls: u64,
    /// Tickets that agents got.
    pub delivered: u64,
    /// Tickets handed back before a claim.
    pub returned: u64,
    /// Jobs handed back after a claim, not started.
    pub given_up: u64,
    /// Claims.
    pub claims: u64,
    /// Claims while a job of a higher priority that fits had waited.
    pub inversions: u64,
    /// Workers started.
    pub spawned: u64,
    /// Idle workers that were told to leave.
    pub evicted: u64,
    /// Reservations made.
    pub savings: u64,
}

/// What the GPUs were held for at one moment, in whole GPUs by memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Micros,
    /// By workers at work.
    pub running: f64,
    /// By workers that come up.
    pub starting: f64,
    /// By loaded workers without work.
    pub idle: f64,
    /// By workers that leave, until their memory is back.
    pub leaving: f64,
}

/// How a mix went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// By job.
    pub lives: Vec<Life>,
    /// Counts.
    pub counts: Counts,
    /// What must never be: over-committed hosts, jobs that ran twice, runs on workers that do not serve them.
    pub violations: Vec<String>,
    /// The last end of a run.
    pub makespan: Micros,
    /// What the GPUs were held for, every two seconds.
    pub samples: Vec<Sample>,
}

impl Outcome {
    /// GPU-seconds that runs held until this time.
    pub fn held_until(&self, horizon: Micros) -> f64 {
        let held = |life: &Life| {
            let until = life.ended.min(horizon);
            life.weight * until.saturating_sub(life.started) as f64 / 1e6
        };
        self.lives.iter().map(held).sum()
    }

    /// MiB-seconds of GPU memory that runs held until this time.
    pub fn memory_until(&self, horizon: Micros) -> f64 {
        let held =
            |life: &Life| life.memory_mb * life.ended.min(horizon).saturating_sub(life.started) as f64 / 1e6;
        self.lives.iter().map(held).sum()
    }

    /// Seconds of runs until this time.
    pub fn ran_until(&self, horizon: Micros) -> f64 {
        let ran = |life: &Life| life.ended.min(horizon).saturating_sub(life.started) as f64 / 1e6;
        self.lives.iter().map(ran).sum()
    }

    /// When so large a share of all seconds of runs was done.
    pub fn work_share(&self, share: f64) -> Micros {
        let wanted = self.ran_until(self.makespan) * share;
        let (mut before, mut after) = (0, self.makespan);
        while before + 1 < after {
            let between = before.midpoint(after);
            if self.ran_until(between) < wanted {
                before = between;
            } else {
                after = between;
            }
        }
        after
    }
}
