//! Jobs that nobody can ever place must not delay those that somebody can: they wait in front, of the same plugins and
//! with higher priority, while others come.

use super::arrivals::{Coming, Dice, poisson, send};
use super::ground::{BenchPlugin, Ground, Servers};
use super::watch::Watch;
use crate::figures::{Samples, per_second};
use anyhow::Result;
use futures_util::stream::{FuturesUnordered, StreamExt};
use grange_broker_client::submit::{Submission, submit_later};
use grange_protocol::class::class_of;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::Lane;
use grange_protocol::ticket::{Priority, Ticket};
use grange_tests::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const AGENTS: usize = 8;
const PLUGINS: usize = 4;
/// Half of them ask for too much memory, half for a label that no host has.
const UNPLACEABLE: usize = 10_000;
const SUBMIT_WINDOW: usize = 1_024;
const RUN_MS: u64 = 200;
/// Of the cores that the hosts give, one each.
const LOAD: f64 = 0.5;
const WINDOW: Duration = Duration::from_secs(14);
const LIMIT: Duration = Duration::from_secs(40);
const INVENTORY: &str = "[inventory]\ncpus = 1\nram_mb = 65536\nlabels = { zone = \"lab\" }\n\
                         [[inventory.gpu]]\nuuid = \"GPU-0\"\nname = \"Bench\"\nvram_mb = 24576\n";

/// On one server.
pub(crate) async fn measure() -> Result<Value> {
    let mut ground = Ground::open(Servers::One).await?;
    for agent in 0..AGENTS {
        let plugin =
            |place| BenchPlugin { resources: json!({"cpus": 1}), ..BenchPlugin::new(plugin_name(place)) };
        let plugins: Vec<BenchPlugin> = (0..PLUGINS).map(plugin).collect();
        ground.start_agent(&format!("host-{agent}"), &plugins, INVENTORY)?;
    }
    ground.ready().await;
    let begun = Instant::now();
    fill(&ground).await?;
    let filled = per_second(UNPLACEABLE, begun.elapsed());
    let watch = Watch::open(ground.connection().await?).await?;
    let mut dice = Dice::new(3);
    let per_s = LOAD * AGENTS as f64 / Duration::from_millis(RUN_MS).as_secs_f64();
    let coming = poisson(per_s, WINDOW, &mut dice, |at, dice| Coming {
        at,
        owner: ground.client.owner.clone(),
        lane: Client::lane(&plugin_name(dice.pick(PLUGINS))),
        run_ms: RUN_MS,
    });
    send(&ground, &watch, coming).await?;
    let lives = watch.all_ended_well(LIMIT).await?;
    let left = ground.client.tickets().await.len();
    ground.keep("unplaceable", &lives)?;
    let (mut claim, mut begin) = (Samples::default(), Samples::default());
    for life in &lives {
        claim.push(life.to_claim());
        begin.push(life.to_begin());
    }
    Ok(json!({
        "agents": AGENTS, "unplaceable": UNPLACEABLE, "still_queued": left, "submitted_per_s": filled, "load": LOAD,
        "claim": claim.summary(), "begin": begin.summary(),
    }))
}

fn plugin_name(place: usize) -> String {
    format!("unplaceable-{place}")
}

async fn fill(ground: &Ground) -> Result<()> {
    let too_much = ResourceRequest { gpus: 1, vram_mb: 200_000, ..ResourceRequest::default() };
    let nowhere = [("zone".to_owned(), "nowhere".to_owned())].into();
    let nowhere = ResourceRequest { on: nowhere, ..ResourceRequest::default() };
    let mut accepted = FuturesUnordered::new();
    for n in 0..UNPLACEABLE {
        let asked = if n % 2 == 0 { &too_much } else { &nowhere };
        let submission = Submission {
            owner: ground.client.owner.clone(),
            job: None,
            lane: Lane {
                priority: Priority::Urgent,
                class: class_of(asked)?,
                ..Client::lane(&plugin_name(n / 2 % PLUGINS))
            },
            ticket: Ticket { resources: Some(asked.clone()), ..Ticket::default() },
            max_wait: None,
        };
        accepted.push(submit_later(ground.broker(), ground.ledger(), submission).await?.1);
        while accepted.len() >= SUBMIT_WINDOW {
            if let Some(answer) = accepted.next().await {
                answer?;
            }
        }
    }
    while let Some(answer) = accepted.next().await {
        answer?;
    }
    Ok(())
}
