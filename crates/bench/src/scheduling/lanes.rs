//! What queues cost the broker: how long a submit takes, and how much memory the server holds, by how many queues have a
//! consumer. No agents.

use super::ground::{Ground, Servers};
use crate::figures::{Samples, mib, round};
use anyhow::Result;
use grange_broker_client::submit::{Submission, submit};
use grange_protocol::name::Owner;
use grange_protocol::subject::{Lane, Queue};
use grange_protocol::ticket::{Priority, Ticket};
use grange_tests::Client;
use serde_json::{Value, json};
use std::time::Instant;

const STEPS: [usize; 3] = [10, 100, 1_000];
const SUBMITS: usize = 2_000;
const OWNERS: usize = 5;

/// Every step, each on a server of its own.
pub(crate) async fn measure() -> Result<Value> {
    let mut report = Vec::new();
    for lanes in STEPS {
        report.push(step(lanes).await?);
    }
    Ok(Value::Array(report))
}

async fn step(lanes: usize) -> Result<Value> {
    let ground = Ground::open(Servers::One).await?;
    let queues = (0..lanes).map(queue).collect::<Result<Vec<Queue>>>()?;
    let before = ground.server_rss_bytes()?;
    let begun = Instant::now();
    ground.make_queues(&queues).await?;
    let made_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let idle = ground.server_rss_bytes()?;
    let mut samples = Samples::default();
    for n in 0..SUBMITS {
        let Queue { lane, owner } = queues[n % lanes].clone();
        let submission = Submission { owner, job: None, lane, ticket: Ticket::default(), max_wait: None };
        let begun = Instant::now();
        submit(ground.broker(), ground.ledger(), submission).await?;
        samples.push(begun.elapsed());
    }
    let loaded = ground.server_rss_bytes()?;
    Ok(json!({
        "lanes": lanes, "made_ms": round(made_ms, 0), "submit": samples.summary(), "submits": SUBMITS,
        "server_empty_mib": mib(before), "server_idle_mib": mib(idle), "server_mib": mib(loaded),
    }))
}

/// Lanes of every priority, of several plugins and owners.
fn queue(n: usize) -> Result<Queue> {
    let levels = Priority::ALL.len();
    let plugin = format!("lanes-{}", n / levels / OWNERS);
    let lane = Lane { priority: Priority::ALL[n % levels], ..Client::lane(&plugin) };
    Ok(Queue { lane, owner: Owner::new(format!("owner-{}", n / levels % OWNERS))? })
}
