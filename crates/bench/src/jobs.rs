//! Jobs that do nothing: latency one at a time, and how many a second with all results in hand.

use crate::figures::{Samples, per_second, round};
use crate::raw::WINDOW;
use crate::site::{PLUGINS, Site};
use anyhow::Result;
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// Jobs before the clock runs: the worker starts, and what is measured is learned.
const WARM_UP: usize = 200;

/// One job after the other.
pub(crate) async fn latency(site: &Site, jobs: usize) -> Result<Value> {
    let outcomes = site.outcomes().await?;
    let mut report = Map::new();
    for (name, plugin) in PLUGINS {
        let mut samples = Samples::default();
        for n in 0..WARM_UP + jobs {
            let begun = Instant::now();
            site.run(&outcomes, site.submission(plugin, &json!({"text": "x"}), false)).await?;
            if n >= WARM_UP {
                samples.push(begun.elapsed());
            }
        }
        report.insert(name.to_owned(), samples.summary());
    }
    Ok(Value::Object(report))
}

/// Many jobs under way.
pub(crate) async fn throughput(site: &Site, jobs: usize) -> Result<Value> {
    let outcomes = site.outcomes().await?;
    let mut report = Map::new();
    for (name, plugin) in PLUGINS {
        for _ in 0..WARM_UP {
            site.run(&outcomes, site.submission(plugin, &json!({"text": "x"}), false)).await?;
        }
        let begun = Instant::now();
        let mut under_way = FuturesUnordered::new();
        let (mut sent, mut done) = (0, 0);
        while done < jobs {
            while sent < jobs && under_way.len() < WINDOW {
                under_way.push(site.run(&outcomes, site.submission(plugin, &json!({"text": "x"}), false)));
                sent += 1;
            }
            if let Some(ended) = under_way.next().await {
                ended?;
                done += 1;
            }
        }
        let rate = per_second(jobs, begun.elapsed());
        report.insert(name.to_owned(), json!({"jobs_per_s": rate, "jobs": jobs, "window": WINDOW}));
    }
    Ok(Value::Object(report))
}

/// Adds how many times the raw broker's figure each latency is, and what share of its rate each rate is.
pub(crate) fn compare(report: &mut Value) {
    let raw_ms = report["raw"]["one_by_one"]["p50_ms"].as_f64();
    let raw_rate = report["raw"]["jobs_per_s"].as_f64();
    for (name, _) in PLUGINS {
        if let (Some(raw), Some(ours)) = (raw_ms, report["latency"][name]["p50_ms"].as_f64()) {
            report["latency"][name]["times_raw"] = json!(round(ours / raw, 2));
        }
        if let (Some(raw), Some(ours)) = (raw_rate, report["throughput"][name]["jobs_per_s"].as_f64()) {
            report["throughput"][name]["share_of_raw"] = json!(round(ours / raw, 2));
        }
    }
}
