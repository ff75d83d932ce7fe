//! What reaches whom: eight unlike hosts that are busy for most of the time, ten plugins, four priorities, two owners.
//! Whether tickets are handed to agents that cannot use them, whether any waits although there is room, and whether a
//! lower job goes before a higher one.

use super::arrivals::{Coming, Dice, poisson, send};
use super::ground::{BenchPlugin, Ground, Servers};
use super::watch::{Life, Watch};
use crate::figures::{Samples, round};
use anyhow::Result;
use grange_broker_client::topology::queues;
use grange_protocol::name::Owner;
use grange_protocol::subject::{Lane, Queue};
use grange_protocol::ticket::Priority;
use grange_tests::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Of the time of all cores that the hosts give.
const LOAD: f64 = 0.7;
/// Runs take from here …
const RUN_FROM_MS: u64 = 150;
/// … to here, milliseconds, all alike.
const RUN_TO_MS: u64 = 450;
const WINDOW: Duration = Duration::from_secs(20);
/// What comes in the first seconds is left out of waits and inversions: the first workers come up.
const LEAD_IN: Duration = Duration::from_secs(3);
/// Longer than the ack wait (30 s), so that a ticket that waits for it is seen to.
const LIMIT: Duration = Duration::from_secs(45);
/// A job that waited nearly the ack wait got its ticket only with that, microseconds.
const ACK_WAITED_US: u64 = 29_000_000;
/// A higher job must have waited so long when a lower one is taken, before that counts, microseconds.
const WAITED_US: u64 = 5_000;
const PLUGINS: usize = 10;
const OWNERS: [&str; 2] = ["bench-a", "bench-b"];

/// Cores, GPUs and the memory of each, MiB.
const HOSTS: [(u32, usize, u64); 8] = [
    (2, 1, 16_384),
    (2, 1, 24_576),
    (3, 2, 24_576),
    (4, 1, 27_648),
    (2, 0, 0),
    (1, 0, 0),
    (4, 0, 0),
    (2, 1, 16_384),
];
/// The last two plugins want a GPU with so much memory, MiB: of any two jobs only one fits on one GPU.
const VRAM_MB: [u64; 2] = [14_000, 20_000];

/// One server, or three.
pub(crate) async fn measure(servers: Servers) -> Result<Value> {
    let mut ground = Ground::open(servers).await?;
    let owners = OWNERS.map(|owner| Owner::new(owner).expect("a fixed name"));
    ground.make_queues(&queues_of(&owners)).await?;
    for place in 0..HOSTS.len() {
        ground.start_agent(&agent_name(place), &plugins(), &inventory(place))?;
    }
    ground.ready().await;
    let watch = Watch::open(ground.connection().await?).await?;
    let slots: u32 = HOSTS.iter().map(|(cores, _, _)| cores).sum();
    let mean_s = Duration::from_millis(u64::midpoint(RUN_FROM_MS, RUN_TO_MS)).as_secs_f64();
    let mut dice = Dice::new(2);
    let coming = poisson(LOAD * f64::from(slots) / mean_s, LEAD_IN + WINDOW, &mut dice, |at, dice| Coming {
        at,
        owner: owners[dice.pick(owners.len())].clone(),
        lane: Lane {
            priority: Priority::ALL[dice.pick(Priority::ALL.len())],
            ..Client::lane(&plugin_name(dice.pick(PLUGINS)))
        },
        run_ms: RUN_FROM_MS + dice.pick((RUN_TO_MS - RUN_FROM_MS) as usize) as u64,
    });
    send(&ground, &watch, coming).await?;
    let lives = watch.all_ended(LIMIT).await;
    let deliveries = deliveries(&ground).await?;
    ground.keep(&format!("delivery-{servers:?}"), &lives)?;
    Ok(report(&lives, slots, deliveries))
}

fn plugin_name(place: usize) -> String {
    format!("delivery-{place}")
}

fn agent_name(place: usize) -> String {
    format!("host-{place}")
}

/// All of them are there before the agents come up, so that each agent knows where to look.
fn queues_of(owners: &[Owner]) -> Vec<Queue> {
    let mut all = Vec::new();
    for (plugin, priority) in (0..PLUGINS).flat_map(|plugin| Priority::ALL.map(|priority| (plugin, priority)))
    {
        let lane = Lane { priority, ..Client::lane(&plugin_name(plugin)) };
        all.extend(owners.iter().map(|owner| Queue { lane: lane.clone(), owner: owner.clone() }));
    }
    all
}

/// What a plugin wants of a GPU, MiB.
fn vram_mb(plugin: usize) -> Option<u64> {
    VRAM_MB.get(plugin.checked_sub(PLUGINS - VRAM_MB.len())?).copied()
}

fn plugins() -> Vec<BenchPlugin> {
    let resources = |plugin| match vram_mb(plugin) {
        Some(vram_mb) => json!({"cpus": 1, "gpus": 1, "vram_mb": vram_mb}),
        None => json!({"cpus": 1}),
    };
    let plugin = |place| BenchPlugin {
        resources: resources(place),
        // What the host has is the only limit.
        max_workers: HOSTS.iter().map(|(cores, _, _)| *cores).max().unwrap_or(1),
        ..BenchPlugin::new(plugin_name(place))
    };
    (0..PLUGINS).map(plugin).collect()
}

fn inventory(place: usize) -> String {
    let (cores, gpus, vram_mb) = HOSTS[place];
    let mut text = format!("[inventory]\ncpus = {cores}\nram_mb = 65536\n");
    for gpu in 0..gpus {
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "[[inventory.gpu]]\nuuid = \"GPU-{place}-{gpu}\"\nname = \"Bench\"\nvram_mb = {vram_mb}"
        );
    }
    text
}

/// How often all queues handed a ticket out, repeated ones too.
async fn deliveries(ground: &Ground) -> Result<u64> {
    let mut all = 0;
    for queue in queues(ground.broker()).await? {
        all += ground.client.queue_facts(&queue).await.deliveries;
    }
    Ok(all)
}

fn report(lives: &[Life], slots: u32, deliveries: u64) -> Value {
    let ended = lives.iter().filter(|life| life.done_us > 0).count();
    let first_us = lives.iter().map(|life| life.sent_us).min().unwrap_or(0);
    let last_us = lives.iter().map(|life| life.sent_us).max().unwrap_or(0);
    let held_us: u64 = lives.iter().map(|life| life.ended_us.saturating_sub(life.claimed_us)).sum();
    let ran_us: u64 = lives.iter().map(|life| life.done_us.saturating_sub(life.began_us)).sum();
    let share = |us: u64| round(us as f64 / (f64::from(slots) * (last_us - first_us).max(1) as f64), 3);
    // Nothing crashes here: each job needs one delivery, and every other one was for nothing.
    let over = deliveries.saturating_sub(lives.len() as u64);
    let waited = lives.iter().filter(|life| waited_us(life) >= ACK_WAITED_US || life.claimed_us == 0).count();
    let counted_from_us = first_us + LEAD_IN.as_micros() as u64;
    let counted = lives.iter().filter(|life| life.claimed_us > counted_from_us);
    let inverted = counted.clone().filter(|life| is_inverted(lives, life, decided_us(life))).count();
    let at_claim = counted.clone().filter(|life| is_inverted(lives, life, life.taken_us)).count();
    let mut waits: BTreeMap<Priority, Samples> = BTreeMap::new();
    for life in counted.clone() {
        waits.entry(life.lane.priority).or_default().push(life.to_claim());
    }
    let waits: serde_json::Map<String, Value> =
        waits.iter_mut().map(|(priority, samples)| (priority.to_string(), samples.summary())).collect();
    json!({
        "agents": HOSTS.len(), "plugins": PLUGINS, "owners": OWNERS.len(), "slots": slots,
        "jobs": lives.len(), "succeeded": ended, "counted": counted.clone().count(),
        "running_share": share(ran_us), "held_share": share(held_us),
        "deliveries": deliveries, "over_delivered": over,
        "over_delivered_share": round(over as f64 / deliveries.max(1) as f64, 5),
        "given_back_after_claim": lives.iter().map(|life| life.given_back).sum::<u32>(),
        "waited_for_ack_wait": waited,
        "inverted": inverted,
        "inverted_at_claim": at_claim,
        "inverted_share": round(inverted as f64 / counted.count().max(1) as f64, 4),
        "claim": waits,
    })
}

fn waited_us(life: &Life) -> u64 {
    life.claimed_us.saturating_sub(life.stored_us)
}

/// When an agent decided to ask for this job: with its pull. What was stored after that, it could not know of. Another
/// agent may have asked the same queue later, so this is never too early.
fn decided_us(life: &Life) -> u64 {
    if life.asked_us > 0 { life.asked_us } else { life.taken_us }
}

/// Whether an agent took a job although a higher one that would have fitted there had waited at that time.
fn is_inverted(lives: &[Life], low: &Life, at_us: u64) -> bool {
    lives.iter().any(|high| {
        high.lane.priority < low.lane.priority
            && high.stored_us > 0
            && high.stored_us + WAITED_US < at_us
            && high.taken_us > low.taken_us
            && would_fit(lives, high, low)
    })
}

/// Whether the host that took `low` could have taken `high` in its stead: it gives a core either way, so what is left
/// to ask is a GPU that is large enough and on which no other job runs.
fn would_fit(lives: &[Life], high: &Life, low: &Life) -> bool {
    let Some(needed_mb) = wanted_mb(high) else { return true };
    let Some((_, gpus, vram_mb)) = (0..HOSTS.len()).find(|p| agent_name(*p) == low.agent).map(|p| HOSTS[p])
    else {
        return false;
    };
    let beside = |life: &&Life| {
        life.agent == low.agent
            && wanted_mb(life).is_some()
            && life.taken_us < low.taken_us
            && life.ended_us > low.taken_us
    };
    vram_mb >= needed_mb && lives.iter().filter(beside).count() < gpus
}

fn wanted_mb(life: &Life) -> Option<u64> {
    let place = (0..PLUGINS).find(|place| plugin_name(*place) == life.lane.plugin.as_str())?;
    vram_mb(place)
}
