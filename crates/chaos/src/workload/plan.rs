//! Which jobs a seed stands for: a pure list.

use crate::history::Wanted;
use crate::schedule::{Chance, Schedule};
use grange_protocol::json::Json;
use grange_protocol::name::{Class, PluginName};
use grange_protocol::retry::RetryPolicy;
use grange_protocol::subject::Lane;
use grange_protocol::ticket::{Priority, Ticket, TimeLimits};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Crashes that a job gets: its own, and those of its neighbours in the worker and of the nemesis.
const CRASHES: u32 = 20;
/// And of a job that crashes always.
const POISON_CRASHES: u32 = 3;
const HOST_LOSSES: u32 = 20;
const PLUGIN_ERRORS: u32 = 3;
/// A run that hangs ends after so long, seconds.
const TIMEOUT_S: u32 = 25;

/// One job and what its client does about it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// When it is submitted.
    pub at_ms: u64,
    /// Its id.
    pub job: String,
    /// Whose it is.
    pub owner: String,
    /// Where it waits.
    pub lane: Lane,
    /// What is sent.
    pub ticket: Ticket,
    /// Longest wait.
    pub max_wait: Option<Duration>,
    /// What its witness must say.
    pub wanted: Wanted,
    /// Two clients submit it at once.
    pub twice: bool,
    /// When its end is asked for.
    pub cancel_at_ms: Option<u64>,
    /// It is followed from before it is submitted.
    pub follow_early: bool,
    /// It is followed from some time on.
    pub follow_late: bool,
}

/// The jobs of a schedule, the first at once.
pub fn plan(schedule: &Schedule) -> Vec<Planned> {
    let mut chance = Chance::new(schedule.seed, 2);
    let end_ms = schedule.secs * 1_000;
    let mean_ms = 100_000.0 / schedule.rate_centi.max(1) as f64;
    let mut jobs = Vec::new();
    let mut at_ms = 0;
    // A crash takes its neighbours in the worker along: where nothing is to go wrong nobody crashes.
    let crashes = !schedule.faults.is_empty();
    while at_ms < end_ms {
        let fates = fates(&mut chance, crashes);
        jobs.push(one(&mut chance, fates, schedule.seed, jobs.len(), at_ms));
        at_ms += 1 + chance.around(mean_ms) as u64;
    }
    jobs
}

fn one(chance: &mut Chance, fates: Vec<String>, seed: u64, index: usize, at_ms: u64) -> Planned {
    let job = format!("s{seed}-{index}");
    let poison = fates.len() > 4;
    let chunks = if chance.percent(40) { chance.between(1, 60) } else { 0 };
    let seconds = seconds(chance);
    let deaf = chance.percent(5);
    let gpu = chance.percent(10);
    let payload = "x".repeat(usize::try_from(chance.between(0, 2_000)).unwrap_or(0)) + &job;
    let cancel = chance.percent(10);
    let priorities = [(Priority::Urgent, 1), (Priority::High, 2), (Priority::Normal, 5), (Priority::Low, 2)];
    let priority = *chance.weighted(&priorities);
    let arguments = json!({
        "job": job, "payload": payload, "seconds": seconds, "chunks": chunks, "fates": fates, "deaf": deaf,
        "lines": if chance.percent(10) { 20 } else { 0 },
    });
    let ticket = Ticket {
        kwargs: Some(Json::from(&arguments)),
        stream: Some(chunks > 0),
        limits: TimeLimits { timeout_s: Some(TIMEOUT_S), ..TimeLimits::default() },
        retry: RetryPolicy {
            max_attempts: Some(PLUGIN_ERRORS),
            worker_crashes: Some(if poison { POISON_CRASHES } else { CRASHES }),
            host_losses: Some(HOST_LOSSES),
            backoff_ms: Some(200),
            backoff_max_ms: Some(1_000),
            kinds: None,
        },
        ..Ticket::default()
    };
    let follow = chance.percent(30);
    let follow_early = follow && chance.percent(50);
    Planned {
        at_ms,
        owner: format!("owner-{}", chance.below(3)),
        lane: Lane {
            priority,
            plugin: PluginName::new(if gpu { "chaos-gpu" } else { "chaos" }).expect("a name"),
            class: Class::plugin_default(),
        },
        ticket,
        max_wait: chance.percent(8).then(|| Duration::from_millis(chance.between(1_000, 15_000))),
        wanted: Wanted {
            input_sha256: hex::encode(Sha256::digest(payload.as_bytes())),
            chunks,
            fates,
            deaf,
            attempts_max: PLUGIN_ERRORS + CRASHES + HOST_LOSSES,
        },
        twice: chance.percent(5),
        cancel_at_ms: cancel.then(|| at_ms + chance.between(0, 3_000)),
        follow_early,
        follow_late: follow && !follow_early,
        job,
    }
}

/// Most return at once; some only after attempts that ended badly; a few never do.
fn fates(chance: &mut Chance, crashes: bool) -> Vec<String> {
    let all = [("raise", 3), ("crash", 3), ("exit", 2), ("leave_child", 3)];
    let kinds = if crashes { &all[..] } else { &all[..1] };
    if chance.percent(85) {
        return Vec::new();
    }
    if crashes && chance.percent(10) {
        return vec!["crash".to_owned(); 40];
    }
    let count = chance.between(1, 2);
    (0..count).map(|_| (*chance.weighted(kinds)).to_owned()).collect()
}

/// Short mostly; some go on beyond a lease.
fn seconds(chance: &mut Chance) -> f64 {
    let (low, high) =
        *chance.weighted(&[((0, 50), 60), ((50, 500), 28), ((500, 3_000), 9), ((5_000, 14_000), 3)]);
    chance.between(low, high) as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_list_of_jobs() {
        let schedule =
            Schedule { seed: 3, secs: 60, agents: 4, brokers: 1, rate_centi: 1_000, faults: Vec::new() };
        let (one, two) = (plan(&schedule), plan(&schedule));
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
        assert!((400..900).contains(&one.len()), "{}", one.len());
        assert!(one.iter().any(|job| job.wanted.deaf && job.cancel_at_ms.is_some()));
        assert!(one.iter().any(|job| job.max_wait.is_some()) && one.iter().any(|job| job.twice));
    }
}
