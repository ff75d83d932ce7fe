//! Sums over the records that are kept.

use crate::farm::{Farm, holder, lane};
use grange_broker_client::usage::{UsageFilter, Used, usage};
use grange_protocol::lifecycle::{Claim, claim, conclude, end_unclaimed, queue};
use grange_protocol::name::{Owner, PluginName};
use grange_protocol::record::{Outcome, Record, State, Usage};
use grange_protocol::subject::JobKey;
use std::collections::BTreeMap;

fn ended(plugin: &str, state: State, run_ms: f64, gpu_seconds: f64, peak_vram_mb: u64) -> Record {
    let wish = Claim { holder: holder("h1"), lease_s: 30, ahead: false, at_ms: 5 };
    let running = claim(None, &lane(plugin), 1_000, &wish).unwrap();
    let usage = Usage { run_ms, gpu_seconds, peak_vram_mb };
    let outcome = Outcome { usage, ..Outcome::default() };
    conclude(&running, 1, &running.fence(1).unwrap(), state, outcome, 9).unwrap()
}

async fn write(farm: &Farm, owner: &str, job: &str, record: &Record) {
    let key = JobKey { owner: owner.parse().unwrap(), job: job.parse().unwrap() };
    farm.ledger.write(&key, 0, record, None).await.unwrap();
}

fn of<'a>(found: &'a BTreeMap<(Owner, PluginName), Used>, owner: &str, plugin: &str) -> &'a Used {
    &found[&(owner.parse().unwrap(), plugin.parse().unwrap())]
}

#[tokio::test]
async fn every_record_counts_once_for_its_owner_and_plugin() {
    let farm = Farm::start().await;
    for n in 0..1_100 {
        write(&farm, "alice", &format!("j{n}"), &ended("ocr", State::Succeeded, 500.0, 0.25, n)).await;
    }
    write(&farm, "alice", "bad", &ended("ocr", State::Failed, 1_000.0, 1.0, 9_000)).await;
    write(&farm, "alice", "gone", &ended("ocr", State::Cancelled, f64::MAX, f64::MAX, 1)).await;
    write(&farm, "alice", "other", &ended("echo", State::Succeeded, 2_000.0, 0.0, 0)).await;
    write(&farm, "bob", "queued", &queue(&lane("ocr"), 50_000)).await;
    let refused = end_unclaimed(None, &lane("ocr"), State::Refused, Outcome::default(), 60_000).unwrap();
    write(&farm, "bob", "refused", &refused).await;
    farm.broker.jetstream().publish("grange.state.bob.broken", "{".into()).await.unwrap().await.unwrap();
    let all = usage(&farm.broker, &UsageFilter::default()).await.unwrap();
    assert_eq!(all.len(), 3);
    let ocr = of(&all, "alice", "ocr");
    assert_eq!((ocr.jobs, ocr.succeeded, ocr.failed, ocr.dropped, ocr.unfinished), (1_102, 1_100, 1, 1, 0));
    assert_eq!(ocr.peak_vram_mb, 9_000);
    let bob = of(&all, "bob", "ocr");
    assert_eq!((bob.jobs, bob.unfinished, bob.dropped, bob.run_seconds), (2, 1, 1, 0.0));
    let echo = UsageFilter {
        owner: Some("alice".parse().unwrap()),
        plugin: Some("echo".parse().unwrap()),
        since_ms: None,
    };
    let echo = usage(&farm.broker, &echo).await.unwrap();
    assert_eq!(echo.len(), 1);
    assert_eq!(of(&echo, "alice", "echo").run_seconds, 2.0);
    let late = UsageFilter { since_ms: Some(50_000), ..UsageFilter::default() };
    let late = usage(&farm.broker, &late).await.unwrap();
    assert_eq!((late.len(), of(&late, "bob", "ocr").jobs), (1, 2));
}

#[test]
fn sums_are_of_amounts_only() {
    let mut used = Used::default();
    used.add(&ended("ocr", State::Succeeded, 1_500.0, 2.0, 10));
    used.add(&ended("ocr", State::Failed, f64::NAN, -3.0, 5));
    let mut twice = used.clone();
    twice.merge(&used);
    assert_eq!((used.run_seconds, used.gpu_seconds, used.peak_vram_mb), (1.5, 2.0, 10));
    assert_eq!((twice.jobs, twice.run_seconds, twice.peak_vram_mb), (4, 3.0, 10));
}
