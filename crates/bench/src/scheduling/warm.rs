//! The warm host wins: eight agents that all have eight plugins, each plugin loaded on one of them. Jobs come at random;
//! those that find the loaded worker free should go there, and the others should not wait for it.

use super::arrivals::{Coming, Dice, poisson, send};
use super::ground::{BenchPlugin, Ground, Servers};
use super::watch::{Life, Watch};
use crate::figures::{Samples, round};
use anyhow::{Result, bail};
use grange_broker_client::bucket::Bucket;
use grange_protocol::facts::{OVERVIEW_KEY, Overview};
use grange_protocol::subject::LANES_BUCKET;
use grange_tests::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const AGENTS: usize = 8;
const START_MS: u64 = 1_000;
/// Longer than what counts as brief (50 ms): then slots are back before another agent could help.
const RUN_MS: u64 = 80;
/// Of one worker.
const LOAD: f64 = 0.4;
const WINDOW: Duration = Duration::from_secs(15);
/// Jobs of the first seconds do not count: the agents hear from the overview who is warm.
const LEAD_IN: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(40);
/// How often all agents are made to start a plugin, until the right one has.
const WARM_UPS: usize = 5;
const WARM_UP_RUN_MS: u64 = 300;

/// One server, or three.
pub(crate) async fn measure(servers: Servers) -> Result<Value> {
    let mut ground = Ground::open(servers).await?;
    for agent in 0..AGENTS {
        let plugins: Vec<BenchPlugin> = (0..AGENTS)
            .map(|plugin| BenchPlugin {
                start_ms: START_MS,
                // Everywhere but on its own host a plugin's worker leaves at once, so that it is cold again.
                leaves: plugin != agent,
                ..BenchPlugin::new(plugin_name(plugin))
            })
            .collect();
        ground.start_agent(&agent_name(agent), &plugins, "")?;
    }
    ground.ready().await;
    let watch = Watch::open(ground.connection().await?).await?;
    warm_up(&ground, &watch).await?;
    let mut dice = Dice::new(1);
    let per_s = LOAD / Duration::from_millis(RUN_MS).as_secs_f64() * AGENTS as f64;
    let coming =
        poisson(per_s, LEAD_IN + WINDOW, &mut dice, |at, dice| job(&ground, dice.pick(AGENTS), at, RUN_MS));
    send(&ground, &watch, coming).await?;
    let lives = watch.all_ended_well(LIMIT).await?;
    ground.keep(&format!("warm-{servers:?}"), &lives)?;
    Ok(report(&lives))
}

fn plugin_name(place: usize) -> String {
    format!("warm-{place}")
}

fn agent_name(place: usize) -> String {
    format!("host-{place}")
}

fn job(ground: &Ground, plugin: usize, at: Duration, run_ms: u64) -> Coming {
    Coming { at, owner: ground.client.owner.clone(), lane: Client::lane(&plugin_name(plugin)), run_ms }
}

/// Lets every agent run every plugin once, so that each has the start measured and the plugin's own host stays warm, and
/// waits until the farm knows who is warm.
async fn warm_up(ground: &Ground, watch: &Watch) -> Result<()> {
    let mut missing: Vec<usize> = (0..AGENTS).collect();
    for _ in 0..WARM_UPS {
        let jobs = missing.iter().flat_map(|plugin| std::iter::repeat_n(*plugin, AGENTS));
        let jobs = jobs.map(|plugin| job(ground, plugin, Duration::ZERO, WARM_UP_RUN_MS)).collect();
        send(ground, watch, jobs).await?;
        let lives = watch.all_ended_well(LIMIT).await?;
        let came = |plugin: &usize| lives.iter().any(|life| is_warm_one(life) && of(life, *plugin));
        missing.retain(|plugin| !came(plugin));
        if missing.is_empty() {
            return known_warm(ground).await;
        }
    }
    bail!("plugins {missing:?} never started on their own hosts");
}

async fn known_warm(ground: &Ground) -> Result<()> {
    let bucket = Bucket::new(ground.broker(), LANES_BUCKET);
    let begun = Instant::now();
    loop {
        let overview =
            bucket.get::<Overview>(OVERVIEW_KEY).await?.map(|entry| entry.value).unwrap_or_default();
        if overview.warm.len() == AGENTS && overview.warm.values().all(|agents| *agents == 1) {
            return Ok(());
        }
        if begun.elapsed() > LIMIT {
            bail!("the overview does not say that each plugin is warm once: {:?}", overview.warm);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn of(life: &Life, plugin: usize) -> bool {
    life.lane.plugin.as_str() == plugin_name(plugin)
}

/// Whether the host where the plugin is loaded took the job.
fn is_warm_one(life: &Life) -> bool {
    let place = |name: &str| name.rsplit_once('-').map(|(_, place)| place.to_owned());
    place(&life.agent) == place(life.lane.plugin.as_str())
}

/// Whether the loaded worker had nothing to do when the job came: everything that it took before had ended.
fn found_free(lives: &[Life], job: &Life) -> bool {
    !lives.iter().any(|other| {
        is_warm_one(other)
            && other.lane.plugin == job.lane.plugin
            && other.stored_us < job.stored_us
            && job.stored_us < other.ended_us
    })
}

fn report(lives: &[Life]) -> Value {
    let lead_in_us = lives.first().map_or(0, |first| first.sent_us) + LEAD_IN.as_micros() as u64;
    let (mut warm, mut busy, mut cold) = (Samples::default(), Samples::default(), Samples::default());
    let mut cold_begin = Samples::default();
    let (mut counted, mut free, mut found_busy) = (0, 0, 0);
    for life in lives.iter().filter(|life| life.sent_us >= lead_in_us) {
        counted += 1;
        let warm_one = is_warm_one(life);
        if found_free(lives, life) {
            free += 1;
            if warm_one {
                warm.push(life.to_claim());
            }
        } else {
            found_busy += 1;
            if warm_one {
                busy.push(life.to_claim());
            } else {
                cold.push(life.to_claim());
                cold_begin.push(life.to_begin());
            }
        }
    }
    json!({
        "agents": AGENTS, "plugins": AGENTS, "load": LOAD, "start_ms": START_MS, "run_ms": RUN_MS, "jobs": counted,
        "found_warm_free": free,
        "to_warm_share": round(warm.count() as f64 / f64::from(free.max(1)), 4),
        "warm_claim": warm.summary(),
        "found_warm_busy": found_busy,
        "taken_by_warm": busy.count(),
        "cold_claim": cold.summary(),
        "cold_begin": cold_begin.summary(),
    })
}
