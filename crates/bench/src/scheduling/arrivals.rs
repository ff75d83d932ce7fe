//! Jobs that come: how many a second, which, and how long each takes. The same seed gives the same arrivals.

use super::ground::Ground;
use super::watch::Watch;
use anyhow::Result;
use grange_broker_client::submit::{Submission, new_job_id, submit_later};
use grange_protocol::json::Json;
use grange_protocol::name::Owner;
use grange_protocol::subject::{JobKey, Lane};
use grange_protocol::ticket::Ticket;
use serde_json::json;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A small generator of numbers (SplitMix64): what matters is that a run can be had again.
pub(crate) struct Dice(u64);

impl Dice {
    /// Thrown from a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of so many.
    pub(crate) fn pick(&mut self, count: usize) -> usize {
        ((self.share() * count as f64) as usize).min(count.saturating_sub(1))
    }
}

/// A job that comes.
#[derive(Clone, Debug)]
pub(crate) struct Coming {
    /// When, from the beginning.
    pub(crate) at: Duration,
    /// Who submits it.
    pub(crate) owner: Owner,
    /// Where it waits.
    pub(crate) lane: Lane,
    /// How long it runs, milliseconds.
    pub(crate) run_ms: u64,
}

/// Poisson arrivals, `per_s` a second for `window`; `make` says which job.
pub(crate) fn poisson(
    per_s: f64,
    window: Duration,
    dice: &mut Dice,
    mut make: impl FnMut(Duration, &mut Dice) -> Coming,
) -> Vec<Coming> {
    let mut all = Vec::new();
    let mut at = 0.0;
    loop {
        at += -(1.0 - dice.share()).ln() / per_s;
        if at >= window.as_secs_f64() {
            return all;
        }
        all.push(make(Duration::from_secs_f64(at), dice));
    }
}

/// Sends each job at its time, whatever became of those before, and waits until the farm has accepted all.
pub(crate) async fn send(ground: &Ground, watch: &Watch, mut coming: Vec<Coming>) -> Result<()> {
    coming.sort_by_key(|job| job.at);
    let begun = Instant::now();
    let mut accepted = JoinSet::new();
    for job in coming {
        tokio::time::sleep_until(begun + job.at).await;
        let submission = submission(&job);
        if let Some(id) = &submission.job {
            watch.expect(JobKey { owner: job.owner.clone(), job: id.clone() }, job.lane.clone());
        }
        accepted.spawn(submit_later(ground.broker(), ground.ledger(), submission).await?.1);
    }
    while let Some(answer) = accepted.join_next().await {
        answer??;
    }
    Ok(())
}

fn submission(job: &Coming) -> Submission {
    let kwargs = Json::from(&json!({"ms": job.run_ms}));
    Submission {
        owner: job.owner.clone(),
        job: Some(new_job_id()),
        lane: job.lane.clone(),
        ticket: Ticket { kwargs: Some(kwargs), stream: Some(false), ..Ticket::default() },
        max_wait: None,
    }
}
