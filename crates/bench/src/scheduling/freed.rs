//! A slot becomes free: how soon the next job is claimed, by how many queues the agent has to look through. The worst
//! order: all but the last are higher, and empty, and the agent has to look into each of them, because its bell rang
//! while there was no room here and somebody else took the ticket.

use super::arrivals::{Coming, send};
use super::ground::{BenchPlugin, Ground, Servers};
use super::watch::Watch;
use crate::figures::Samples;
use anyhow::Result;
use bytes::Bytes;
use grange_protocol::name::Owner;
use grange_protocol::subject::{Lane, Queue};
use grange_protocol::ticket::Priority;
use grange_tests::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Queues that the agent looks through, and how many slots become free for that.
const STEPS: [(usize, usize); 7] = [(1, 32), (5, 32), (10, 32), (20, 36), (50, 16), (100, 16), (200, 16)];
/// More than an empty queue is left alone (250 ms).
const RUN_MS: u64 = 265;
/// The bells ring so long after a run began: well inside it.
const RING_AFTER: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(60);

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
    ground.make_queues(&empty).await?;
    ground.start_agent(&plugin, &[BenchPlugin::new(&plugin)], "")?;
    ground.ready().await;
    let lane = Lane { priority: Priority::Low, ..Client::lane(&plugin) };
    let owner = ground.client.owner.clone();
    let job = Coming { at: Duration::ZERO, owner, lane, run_ms: RUN_MS };
    // The first two bring worker and queue up.
    send(ground, watch, vec![job; freed + 2]).await?;
    let begun = Instant::now();
    let mut claimed = 0;
    while claimed < freed + 2 && begun.elapsed() < LIMIT {
        tokio::time::sleep(RING_AFTER / 20).await;
        if watch.claimed() > claimed {
            claimed = watch.claimed();
            tokio::time::sleep(RING_AFTER).await;
            ring(ground, &empty, claimed).await?;
        }
    }
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

/// Rings the bells of tickets that somebody else has taken already.
async fn ring(ground: &Ground, queues: &[Queue], round: usize) -> Result<()> {
    for Queue { lane: Lane { priority, plugin, class }, owner } in queues {
        let bell = format!("grange.bell.{class}.{priority}.{plugin}.{owner}.gone-{round}");
        ground.broker().client().publish(bell, Bytes::new()).await?;
    }
    Ok(ground.broker().client().flush().await?)
}
