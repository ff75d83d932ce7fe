//! Runs a mix both ways and compares.

use crate::farm::{Settings, simulate};
use crate::figures::{Comparison, figures};
use crate::mix::Mix;
use crate::mix::catalog::{Load, Size, named};
use crate::oracle::{Pace, schedule};
use std::time::Instant;

/// GPU-seconds are counted until the oracle has done this share of the work: until then enough waits for everybody. A
/// share of the jobs would end at once where most of them are short, and nearly all of the work is in a few.
const HORIZON: f64 = 0.8;

/// A mix, by the farm and by the oracle.
pub fn compare(mix: &Mix, load: &str, settings: &Settings) -> Comparison {
    let best = schedule(mix, pace(settings));
    let began = Instant::now();
    let outcome = simulate(mix, settings);
    let took_s = began.elapsed().as_secs_f64();
    let horizon =
        if mix.begin > 0 { best.work_share(HORIZON) } else { mix.jobs.last().map_or(0, |job| job.at) };
    let mut violations = outcome.violations.clone();
    violations.extend(best.violations.iter().cloned());
    Comparison {
        name: mix.name.clone(),
        load: load.to_owned(),
        size: (mix.seed, mix.hosts.len(), mix.gpus(), mix.jobs.len()),
        horizon_s: horizon.saturating_sub(mix.begin) as f64 / 1e6,
        farm: figures(mix, &outcome, horizon),
        oracle: figures(mix, &best, horizon),
        counts: outcome.counts,
        violations,
        took_s,
    }
}

fn pace(settings: &Settings) -> Pace {
    let Settings { stop, memory, config, .. } = *settings;
    Pace { stop, memory, age_after: config.age_after_ms * 1_000 }
}

/// How many jobs of a mix the oracle starts in a second when all of them wait.
pub fn capacity(name: &str, size: Size, settings: &Settings) -> Option<f64> {
    let mix = named(name, size, Load::Backlog)?;
    let best = schedule(&mix, pace(settings));
    let horizon = best.work_share(HORIZON);
    let started = best.lives.iter().filter(|life| life.started < horizon).count();
    Some(started as f64 / (horizon.saturating_sub(mix.begin) as f64 / 1e6).max(1e-6))
}
