//! The agent itself: how long a cold worker takes, and how much memory the agent holds.

use crate::figures::{Samples, mib};
use crate::site::{PLUGINS, Site, plugin_folders};
use anyhow::Result;
use futures_util::stream::{FuturesUnordered, StreamExt};
use grange_broker_client::submit::submit_later;
use grange_local_farm::options::SyncInterval;
use grange_tests::Farm;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// Jobs whose acceptance is awaited at one time.
const SUBMIT_WINDOW: usize = 1024;

/// The first job of a plugin on an agent that has no worker yet: from the submit to the result.
pub(crate) async fn cold_start(times: usize) -> Result<Value> {
    let farm = Farm::start().await;
    let mut report = Map::new();
    let mut samples: Vec<Samples> = PLUGINS.iter().map(|_| Samples::default()).collect();
    for n in 0..times {
        let name = format!("cold{n}");
        let agent = farm.agent(&name, &plugin_folders()).await;
        let client = farm.client("bench").await;
        for ((_, plugin), samples) in PLUGINS.iter().zip(&mut samples) {
            let begun = Instant::now();
            client.run(plugin, &json!({"text": "x"})).await;
            samples.push(begun.elapsed());
        }
        drop(agent);
    }
    for ((name, _), samples) in PLUGINS.iter().zip(&mut samples) {
        report.insert((*name).to_owned(), samples.summary());
    }
    Ok(Value::Object(report))
}

/// Resident memory of the agent: at rest, and with `queued` jobs in its lane.
pub(crate) async fn memory(queued: usize) -> Result<Value> {
    let site = Site::open(SyncInterval::Default).await?;
    let outcomes = site.outcomes().await?;
    for (_, plugin) in PLUGINS {
        site.run(&outcomes, site.submission(plugin, &json!({"text": "x"}), false)).await?;
    }
    let idle = site.agent.rss_bytes();
    let (_, plugin) = PLUGINS[0];
    let mut accepted = FuturesUnordered::new();
    for n in 0..=queued {
        // The first one keeps the worker busy, so that the others wait.
        let kwargs = if n == 0 { json!({"delay_s": 3600}) } else { json!({"text": "x"}) };
        let submission = site.submission(plugin, &kwargs, false);
        accepted.push(submit_later(&site.client.broker, &site.client.ledger, submission).await?.1);
        while accepted.len() >= SUBMIT_WINDOW {
            if let Some(answer) = accepted.next().await {
                answer?;
            }
        }
    }
    while let Some(answer) = accepted.next().await {
        answer?;
    }
    let loaded = site.agent.rss_bytes();
    let server = site.farm.nats.rss_bytes()?;
    Ok(json!({
        "agent_idle_mib": mib(idle),
        "agent_queued_mib": mib(loaded),
        "queued_jobs": queued,
        "server_queued_mib": mib(server),
    }))
}
