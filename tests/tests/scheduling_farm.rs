//! Several hosts with unlike fake GPUs: who takes what, and that no card is ever promised twice.

use grange_broker_client::bucket::Bucket;
use grange_protocol::facts::{OVERVIEW_KEY, OVERVIEW_MS, Overview};
use grange_protocol::record::{Record, State};
use grange_protocol::subject::JobKey;
use grange_protocol::subject::LANES_BUCKET;
use grange_protocol::ticket::Ticket;
use grange_tests::gpus::Gpu;
use grange_tests::{Agent, Client, Farm, GpuHost, Returned, began, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

fn card(uuid: &str, name: &str, mb: u64) -> Gpu {
    Gpu { return_ms: 50, ..Gpu::new(uuid, name, mb) }
}

fn asks(mb: u64) -> Value {
    json!({"resources": {"vram_mb": mb}, "config": {"mb": mb}, "max_workers": 8})
}

fn host_of(record: &Record) -> String {
    record.attempt.as_ref().map(|attempt| attempt.agent.to_string()).unwrap_or_default()
}

/// A host with these cards and every plugin of these tests.
fn host(farm: &Farm, name: &str, cards: Vec<Gpu>) -> GpuHost {
    GpuHost::new(farm, name, cards)
        .with("small", &asks(2_000))
        .with("medium", &asks(7_000))
        .with("large", &asks(20_000))
        .with("slow", &json!({"resources": {"vram_mb": 2_000}, "config": {"mb": 2_000, "load_ms": 3_000}}))
        .with("pair", &json!({"resources": {"gpus": 2, "vram_mb": 9_000}, "config": {"mb": 9_000}}))
}

async fn farm_of_five(farm: &Farm) -> (Vec<GpuHost>, Vec<Agent>) {
    let hosts = vec![
        host(farm, "h1", vec![card("h1-a", "NVIDIA T4", 15_360)]),
        host(farm, "h2", vec![card("h2-a", "NVIDIA A100-SXM4-40GB", 40_960)]),
        host(farm, "h3", vec![card("h3-a", "NVIDIA L4", 23_034), card("h3-b", "NVIDIA L4", 23_034)]),
        host(farm, "h4", vec![card("h4-a", "Tesla V100", 16_160), card("h4-b", "Tesla V100", 16_160)]),
        host(farm, "h5", vec![card("h5-a", "NVIDIA GeForce GTX 1650", 4_096)]),
    ];
    let mut agents = Vec::new();
    for host in &hosts {
        agents.push(host.start(farm).await);
    }
    (hosts, agents)
}

#[tokio::test]
async fn unlike_hosts_share_the_work_and_no_card_is_promised_twice() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let (hosts, _agents) = farm_of_five(&farm).await;
    let totals: BTreeMap<String, u64> =
        hosts.iter().flat_map(|host| host.gpus.script().gpus).map(|gpu| (gpu.uuid, gpu.memory_mb)).collect();
    let mut keys = Vec::new();
    for n in 0..48 {
        let plugin = ["small", "medium", "large", "small", "pair", "medium"][n % 6];
        keys.push((plugin, client.submit(plugin, &json!({"label": n.to_string()})).await));
    }
    // What the processes themselves say they use, looked at again and again until the last job has ended.
    let mut most: BTreeMap<String, u64> = BTreeMap::new();
    let begun = Instant::now();
    let mut left = keys.clone();
    while let Some((_, key)) = left.last() {
        for (uuid, mb) in hosts.iter().flat_map(GpuHost::used) {
            assert!(mb <= totals[&uuid], "{mb} MiB on {uuid}");
            let seen = most.entry(uuid).or_default();
            *seen = mb.max(*seen);
        }
        if client.record(key).await.is_some_and(|record| record.state.is_terminal()) {
            left.pop();
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{} jobs are left", left.len());
    }
    let mut by_plugin: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (plugin, key) in &keys {
        let record = client.end(key).await;
        record.value();
        by_plugin.entry(plugin).or_default().insert(host_of(&record));
    }
    let only =
        |plugin: &str, hosts: &[&str]| by_plugin[plugin].iter().all(|host| hosts.contains(&host.as_str()));
    assert!(only("large", &["h2", "h3"]), "{by_plugin:?}");
    assert!(only("pair", &["h3", "h4"]), "{by_plugin:?}");
    assert!(only("medium", &["h1", "h2", "h3", "h4"]), "{by_plugin:?}");
    assert!(by_plugin["small"].len() + by_plugin["medium"].len() > 2, "the work is shared: {by_plugin:?}");
}

#[tokio::test]
async fn jobs_go_to_the_host_that_is_warm_while_it_is_free() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let (_hosts, _agents) = farm_of_five(&farm).await;
    let first = client.run("slow", &json!({})).await;
    let warm = host_of(&first);
    // How long it starts is known everywhere: others leave a job to the warm one for a small part of that.
    eventually("every host knows how long it starts", SOON, async || {
        for host in ["h1", "h2", "h3", "h4", "h5"] {
            let status = client.agent(host).await.ok_or("no heartbeat")?;
            let plugin = status.plugins.iter().find(|plugin| plugin.name.as_str() == "slow");
            let start_ms = plugin.and_then(|plugin| plugin.start_ms);
            if start_ms.is_none_or(|ms| ms < 3_000) {
                return Err(format!("{host}: {start_ms:?}"));
            }
        }
        Ok(())
    })
    .await;
    // And who is warm: an overview says so, and two more follow; by then every agent has read one.
    let lanes = Bucket::new(&client.broker, LANES_BUCKET);
    let mut told_at = None;
    eventually("the farm knows who is warm", SOON, async || {
        let overview = lanes.get::<Overview>(OVERVIEW_KEY).await.unwrap().ok_or("no overview")?.value;
        if overview.warm.values().any(|agents| *agents == 1) {
            told_at.get_or_insert(overview.at_ms);
        }
        match told_at {
            Some(at_ms) if overview.at_ms >= at_ms + 2 * OVERVIEW_MS => Ok(()),
            _ => Err(format!("{overview:?}")),
        }
    })
    .await;
    for n in 0..30 {
        let record = client.run("slow", &json!({})).await;
        assert_eq!(host_of(&record), warm, "job {n}");
        assert_eq!(record.value()["pid"], first.value()["pid"]);
    }
}

#[tokio::test]
async fn a_constraint_chooses_the_host_and_an_amount_the_card() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let (_hosts, _agents) = farm_of_five(&farm).await;
    for (resources, host) in [
        (json!({"on": {"gpu": "v100"}}), "h4"),
        (json!({"on": {"gpu": "a100"}}), "h2"),
        (json!({"on": {"host": "h3"}}), "h3"),
        (json!({"vram_mb": 30_000}), "h2"),
    ] {
        let ticket = Ticket {
            resources: Some(serde_json::from_value(resources.clone()).unwrap()),
            ..client.submission("small", &json!({})).ticket
        };
        let mut submission = client.submission("small", &json!({}));
        submission.lane.class = grange_protocol::class::class_of(ticket.resources.as_ref().unwrap()).unwrap();
        submission.ticket = ticket;
        let key = client.send(submission).await;
        let record = client.end(&key).await;
        assert_eq!(host_of(&record), host, "{resources}");
    }
}

#[tokio::test]
async fn a_gpu_that_fails_is_quarantined_and_its_job_runs_elsewhere() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let (hosts, _agents) = farm_of_five(&farm).await;
    let gate = farm.path("gate");
    let log = farm.path("log");
    let key = client.submit("large", &json!({"label": "runs", "log": log, "until": gate})).await;
    began(&log, "runs").await;
    let first = client.record(&key).await.unwrap();
    let sick = host_of(&first);
    let host = &hosts[if sick == "h2" { 1 } else { 2 }];
    let used = host.used();
    let uuid = used.iter().find(|(_, mb)| **mb >= 20_000).map(|(uuid, _)| uuid.clone()).unwrap();
    host.gpus.xid(&uuid, 79);
    eventually("the GPU is quarantined", SOON, async || {
        let status = client.agent(&sick).await.ok_or("no heartbeat")?;
        let gpu = status.capacity.gpus.iter().find(|gpu| gpu.uuid == uuid);
        match gpu.and_then(|gpu| gpu.quarantine.clone()) {
            Some(why) if why.contains("79") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    let record = client.end(&key).await;
    let second = record.value();
    assert_eq!(second["attempt"], 2);
    assert_ne!(second["gpus"].as_str(), Some(uuid.as_str()));
    assert_eq!(record.tries.host_losses, 1, "a lost GPU is no fault of the plugin");
    assert_eq!(record.tries.worker_crashes, 0);
}

/// Small jobs, as many as wait at any moment.
async fn small_ones(client: &Client, mut out: Vec<JobKey>) -> Vec<JobKey> {
    while out.len() < 6 {
        out.push(client.submit("small", &json!({"label": "s"})).await);
    }
    out
}

/// Keeps a host full of small jobs until the big one began; whoever ends is followed by the next.
async fn stream_of_small_ones(client: &Client, mut out: Vec<JobKey>, big: &JobKey) -> u32 {
    let mut ended = 0;
    let begun = Instant::now();
    loop {
        out = small_ones(client, out).await;
        let mut running = Vec::new();
        for key in out {
            match client.record(&key).await {
                Some(record) if record.state.is_terminal() => ended += 1,
                _ => running.push(key),
            }
        }
        out = running;
        if client.record(big).await.is_some_and(|record| record.state != State::Queued) {
            for key in &out {
                client.end(key).await.value();
            }
            return ended;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "the big job starves; {ended} small ones ended");
    }
}

#[tokio::test]
async fn a_big_job_gets_its_room_behind_a_stream_of_small_ones() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let cards = vec![card("h1-a", "NVIDIA L4", 23_034), card("h1-b", "NVIDIA L4", 23_034)];
    let host = GpuHost::new(&farm, "h1", cards)
        .configured("[scheduling]\nsave_after_s = 2\nage_after_s = 3600\n")
        .with(
            "small",
            &json!({"resources": {"gpus": 1, "exclusive": true, "vram_mb": 2_000}, "max_workers": 2,
            "config": {"mb": 2_000}, "limits": {"keep_warm_s": 0}}),
        )
        .with("big", &json!({"resources": {"gpus": 2, "vram_mb": 20_000}, "config": {"mb": 20_000}}));
    let _agent = host.start(&farm).await;
    let gate = farm.path("gate");
    let log = farm.path("log");
    for label in ["one", "two"] {
        client.submit("small", &json!({"label": label, "log": log, "until": gate})).await;
        began(&log, label).await;
    }
    let small = small_ones(&client, Vec::new()).await;
    let big = client.submit("big", &json!({"label": "big", "log": log})).await;
    std::fs::write(&gate, "").unwrap();
    let ended = stream_of_small_ones(&client, small, &big).await;
    client.end(&big).await.value();
    assert!(ended > 0, "small jobs went on meanwhile");
}
