//! A slot becomes free: how soon the next job is claimed, by how many queues the agent has to look through. The worst
//! order: all but the last are known, higher and empty, and have not been looked at for longer than an empty queue is
//! left alone (250 ms), since each run takes longer than that.

use super::arrivals::{Coming, send};
use super::ground::{BenchPlugin, Ground, Servers};
use super::watch::Watch;
use crate::figures::Samples;
use anyhow::Result;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use grange_broker_client::topology::ensure_queue;
use grange_protocol::name::Owner;
use grange_protocol::subject::{Lane, Queue};
use grange_protocol::ticket::Priority;
use grange_tests::Client;
use serde_json::{Value, json};
use std::time::Duration;

/// Queues that the agent looks through, and how many slots become free for that.
const STEPS: [(usize, usize); 7] = [(1, 32), (5, 32), (10, 32), (20, 36), (50, 16), (100, 16), (200, 16)];
/// More than an empty queue is left alone.
const RUN_MS: u64 = 265;
const LIMIT: Duration = Duration::from_secs(60);
/// Consumers that are made at one time.
const AT_ONCE: usize = 4;

/// Every step, on one server.
pub(crate) async fn measure() -> Result<Value> {
    let mut ground = Ground::open(Servers::One).await?;
    let watch = Watch::open(ground.connection().await?).await?;
    let mut report = Vec::new();
    for (lanes, freed) in STEPS {
        report.push(step(&mut ground, &watch, lanes, freed).await?);
    }
    Ok(Value::Array(report))
}

async fn step(ground: &mut Ground, watch: &Watch, lanes: usize, freed: usize) -> Result<Value> {
    let plugin = format!("freed-{lanes}");
    let empty = (1..lanes).map(|n| {
        let lane = Lane { priority: Priority::High, ..Client::lane(&plugin) };
        Owner::new(format!("owner-{n}")).map(|owner| Queue { lane, owner })
    });
    let empty: Vec<Queue> = empty.collect::<Result<_, _>>()?;
    let broker = ground.broker();
    let made = stream::iter(&empty).map(|queue| ensure_queue(broker, queue)).buffer_unordered(AT_ONCE);
    made.try_collect::<Vec<()>>().await?;
    // An agent finds the queues that are there when it comes up.
    ground.start_agent(&plugin, &[BenchPlugin::new(&plugin)], "")?;
    ground.ready().await;
    let lane = Lane { priority: Priority::Low, ..Client::lane(&plugin) };
    let owner = ground.client.owner.clone();
    let job = Coming { at: Duration::ZERO, owner, lane, run_ms: RUN_MS };
    // The first two bring worker and queue up.
    send(ground, watch, vec![job; freed + 2]).await?;
    let mut lives = watch.all_ended_well(LIMIT).await?;
    ground.keep(&plugin, &lives)?;
    ground.end_agents();
    lives.sort_by_key(|life| life.claimed_us);
    let mut samples = Samples::default();
    for pair in lives.windows(2).skip(1) {
        samples.push(Duration::from_micros(pair[1].claimed_us.saturating_sub(pair[0].done_us)));
    }
    Ok(json!({"lanes": lanes, "run_ms": RUN_MS, "claim": samples.summary()}))
}
