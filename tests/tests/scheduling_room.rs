//! Room on one host with fake GPUs: who gets it, who leaves for whom, and what waits until there is some.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::topology::queues;
use grange_protocol::name::{Class, Owner};
use grange_protocol::record::State;
use grange_protocol::status::{AgentStatus, WorkerState};
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Priority;
use grange_tests::gpus::{Gpu, Process};
use grange_tests::{Client, Farm, GpuHost, Returned, began, eventually, lines};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const GIB: u64 = 1024;

fn card(uuid: &str, gib: u64) -> Gpu {
    Gpu::new(uuid, "NVIDIA A100-SXM4-40GB", gib * GIB)
}

/// A plugin that asks for so much memory of one GPU, and uses it.
fn asks(mb: u64) -> Value {
    json!({"resources": {"vram_mb": mb}, "config": {"mb": mb}})
}

async fn host_is<T>(client: &Client, what: &str, found: impl Fn(&AgentStatus) -> Option<T>) -> T {
    eventually(what, SOON, async || match client.agent("h1").await {
        Some(status) => {
            found(&status).ok_or_else(|| format!("{:?} {:?}", status.capacity.gpus, status.workers))
        }
        None => Err("no heartbeat".to_owned()),
    })
    .await
}

fn workers_of(status: &AgentStatus, plugin: &str, state: WorkerState) -> usize {
    status.workers.iter().filter(|w| w.plugin.as_str() == plugin && w.state == state).count()
}

/// A job that waits at a gate.
fn gate(farm: &Farm, label: &str) -> Value {
    json!({"label": label, "log": farm.path("log"), "until": farm.path(&format!("gate-{label}"))})
}

fn open(farm: &Farm, label: &str) {
    std::fs::write(farm.path(&format!("gate-{label}")), "").unwrap();
}

async fn send(client: &Client, owner: &str, plugin: &str, priority: Priority, kwargs: &Value) -> JobKey {
    let mut submission = client.submission(plugin, kwargs);
    submission.owner = Owner::new(owner).unwrap();
    submission.lane.priority = priority;
    client.send(submission).await
}

async fn order(log: &Path, count: usize) -> Vec<String> {
    eventually(&format!("{count} runs began"), SOON, async || match lines(log) {
        lines if lines.len() >= count => Ok(lines),
        lines => Err(format!("{lines:?}")),
    })
    .await
}

#[tokio::test]
async fn an_idle_worker_leaves_for_a_job_that_needs_its_room() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = GpuHost::new(&farm, "h1", vec![card("GPU-a", 24)]);
    let host = host.with("ocr", &asks(16_000)).with("whisper", &asks(16_000)).with("small", &asks(4_000));
    let _agent = host.start(&farm).await;
    let first = client.run("ocr", &json!({})).await.value();
    assert_eq!(first["gpus"], "GPU-a");
    client.run("small", &json!({})).await.value();
    host_is(&client, "both stay warm", |status| {
        let warm = |plugin| workers_of(status, plugin, WorkerState::Idle);
        (warm("ocr") == 1 && warm("small") == 1).then_some(())
    })
    .await;
    client.run("whisper", &json!({})).await.value();
    host_is(&client, "only the one whose room was needed left", |status| {
        let warm = |plugin| workers_of(status, plugin, WorkerState::Idle);
        (warm("ocr") == 0 && warm("whisper") == 1 && warm("small") == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_busy_worker_is_not_asked_to_leave() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = GpuHost::new(&farm, "h1", vec![card("GPU-a", 24)]);
    let host = host.with("ocr", &asks(16_000)).with("whisper", &asks(16_000));
    let _agent = host.start(&farm).await;
    let runs = client.submit("ocr", &gate(&farm, "runs")).await;
    began(&farm.path("log"), "runs").await;
    let waits = client.submit("whisper", &json!({"label": "waits", "log": farm.path("log")})).await;
    // Two heartbeats and sweeps later it still waits.
    let seen = client.agent("h1").await.unwrap().covers;
    host_is(&client, "the agent goes on", |status| (status.covers >= seen).then_some(())).await;
    assert!(client.record(&waits).await.is_none(), "nobody claims what cannot start");
    open(&farm, "runs");
    assert_eq!(client.end(&runs).await.value()["attempt"], 1);
    assert_eq!(client.end(&waits).await.value()["attempt"], 1);
}

#[tokio::test]
async fn memory_that_others_use_is_not_given_away_until_they_give_it_back() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let mut gpu = card("GPU-a", 24);
    gpu.processes.push(Process { pid: 999_999, mb: 20_000, ..Process::default() });
    let host = GpuHost::new(&farm, "h1", vec![gpu]).with("ocr", &asks(8_000));
    let _agent = host.start(&farm).await;
    let waits = client.submit("ocr", &json!({})).await;
    host_is(&client, "the other's memory is seen", |status| {
        let gpu = &status.capacity.gpus[0];
        (gpu.foreign_mb >= 20_000 && gpu.grantable_mb < 8_000).then_some(())
    })
    .await;
    assert!(client.record(&waits).await.is_none());
    host.gpus.change_gpu("GPU-a", |gpu| gpu.processes.clear());
    client.end(&waits).await.value();
}

#[tokio::test]
async fn a_grant_comes_back_only_with_the_memory_and_else_the_gpu_is_quarantined() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let mut gpu = card("GPU-a", 24);
    gpu.keeps = true;
    let host = GpuHost::new(&farm, "h1", vec![gpu]).configured("[gpu]\nvram_return_s = 1\n");
    let holds = json!({"resources": {"vram_mb": 16_000}, "config": {"mb": 16_000, "releases": false}});
    let host = host.with("ocr", &holds).with("whisper", &asks(16_000));
    let _agent = host.start(&farm).await;
    client.run("ocr", &json!({})).await.value();
    let waits = client.submit("whisper", &json!({})).await;
    let why = host_is(&client, "the GPU is quarantined", |s| s.capacity.gpus[0].quarantine.clone()).await;
    assert!(why.contains("MiB are still in use") && why.contains("`ocr`"), "{why}");
    assert_ne!(client.record(&waits).await.map(|record| record.state), Some(State::Running));
    host.gpus.change_gpu("GPU-a", |gpu| gpu.keeps = false);
    let grange = farm.grange("alice");
    let said = grange.run(&["agents", "unquarantine", "h1", "GPU-a"]).await;
    said.ends(0);
    client.end(&waits).await.value();
}

#[tokio::test]
async fn several_gpus_are_those_that_are_linked_and_slices_are_gpus_too() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let mut gpus: Vec<Gpu> = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"].map(|uuid| card(uuid, 16)).into();
    for (one, other) in [(0, 2), (2, 0), (1, 3), (3, 1)] {
        let far = gpus[other].uuid.clone();
        gpus[one].links.push(far);
    }
    gpus.push(Gpu {
        mig: Some(vec![Gpu::new("MIG-1", "NVIDIA H100 MIG 1g.10gb", 10 * GIB)]),
        ..card("GPU-e", 80)
    });
    let host = GpuHost::new(&farm, "h1", gpus);
    let pair = json!({"resources": {"gpus": 2, "vram_mb": 8000}});
    let slice = json!({"resources": {"vram_mb": 8000, "on": {"gpu": "mig"}}});
    let host = host.with("pair", &pair).with("slice", &slice);
    let _agent = host.start(&farm).await;
    let given = client.run("pair", &json!({})).await.value()["gpus"].clone();
    assert!(given == "GPU-a,GPU-c" || given == "GPU-b,GPU-d", "{given}");
    assert_eq!(client.run("slice", &json!({})).await.value()["gpus"], "MIG-1");
}

#[tokio::test]
async fn a_freed_slot_goes_to_the_highest_priority_and_to_owners_in_turn() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = GpuHost::new(&farm, "h1", vec![card("GPU-a", 24)]);
    let host = host.with("ocr", &asks(16_000)).with("whisper", &asks(16_000));
    let _agent = host.start(&farm).await;
    let log = farm.path("log");
    let said = |label: &str| json!({"label": label, "log": log});
    let first = client.submit("ocr", &gate(&farm, "first")).await;
    began(&log, "first").await;
    let mut keys = vec![first];
    for n in 0..6 {
        keys.push(send(&client, "alice", "ocr", Priority::Normal, &said(&format!("alice-{n}"))).await);
    }
    keys.push(send(&client, "bob", "ocr", Priority::Normal, &said("bob")).await);
    keys.push(send(&client, "alice", "whisper", Priority::Low, &said("low")).await);
    keys.push(send(&client, "alice", "whisper", Priority::Urgent, &said("urgent")).await);
    eventually("every queue is known", SOON, async || match queues(&client.broker).await.unwrap() {
        known if known.len() == 4 => Ok(()),
        known => Err(format!("{known:?}")),
    })
    .await;
    open(&farm, "first");
    for key in &keys {
        client.end(key).await.value();
    }
    let order = order(&log, 10).await;
    let place = |label: &str| order.iter().position(|line| line == label).unwrap();
    assert_eq!(place("urgent"), 1, "{order:?}");
    assert!(place("bob") <= place("alice-2"), "{order:?}");
    assert_eq!(place("low"), 9, "{order:?}");
    assert!(place("alice-0") < place("alice-1") && place("alice-4") < place("alice-5"), "{order:?}");
}

#[tokio::test]
async fn an_unknown_need_takes_a_whole_gpu_until_its_peak_is_known() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = GpuHost::new(&farm, "h1", vec![card("GPU-a", 24)]);
    let host = host
        .with("unknown", &json!({"resources": {"gpus": 1}, "config": {"mb": 3000}}))
        .with("small", &asks(4_000));
    let _agent = host.start(&farm).await;
    let runs = client.submit("unknown", &gate(&farm, "runs")).await;
    began(&farm.path("log"), "runs").await;
    host_is(&client, "the GPU is its own", |status| status.capacity.gpus[0].exclusive.then_some(())).await;
    host_is(&client, "its memory is measured", |status| {
        status.workers.iter().any(|worker| worker.vram_used_mb == 3000).then_some(())
    })
    .await;
    open(&farm, "runs");
    assert_eq!(client.end(&runs).await.outcome.unwrap().usage.peak_vram_mb, 3000);
    host_is(&client, "what was learned is asked for", |status| {
        let plugin = status.plugins.iter().find(|plugin| plugin.name.as_str() == "unknown")?;
        let asked = plugin.resources.vram_mb;
        (plugin.peak_vram_mb == Some(3000) && (3000..3400).contains(&asked)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_uses_more_than_it_was_given_is_named_or_killed() {
    for (kills, state) in [(false, State::Succeeded), (true, State::Failed)] {
        let farm = Farm::start().await;
        let client = farm.client("alice").await;
        let action = if kills { "kill" } else { "warn" };
        let host = GpuHost::new(&farm, "h1", vec![card("GPU-a", 24)]);
        let host = host.configured(&format!("[gpu]\noverrun = \"{action}\"\noverrun_slack_mb = 100\n"));
        let host = host.with("ocr", &asks(4_000));
        let _agent = host.start(&farm).await;
        let mut kwargs = gate(&farm, "greedy");
        kwargs["mb"] = json!(9_000);
        let key = client.submit("ocr", &kwargs).await;
        began(&farm.path("log"), "greedy").await;
        if !kills {
            host_is(&client, "the overrun is said", |status| {
                let said =
                    |notice: &&String| notice.contains("uses 9000 MiB") && notice.contains("given 4000 MiB");
                status.notices.iter().find(said).map(|_| ())
            })
            .await;
            open(&farm, "greedy");
        }
        let record = client.end(&key).await;
        assert_eq!(record.state, state, "{:?}", record.outcome);
        if kills {
            assert!(record.failure().message.contains("9000 MiB"), "{}", record.failure());
        }
    }
}

#[tokio::test]
async fn a_permissive_job_runs_beside_what_fills_the_gpu() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = GpuHost::new(&farm, "h1", vec![card("GPU-a", 24)]);
    let host = host.with("ocr", &asks(20_000)).with("whisper", &asks(16_000));
    let _agent = host.start(&farm).await;
    let runs = client.submit("ocr", &gate(&farm, "runs")).await;
    began(&farm.path("log"), "runs").await;
    let mut submission = client.submission("whisper", &json!({}));
    submission.lane.class = Class::any();
    let beside = client.send(submission).await;
    assert_eq!(client.end(&beside).await.value()["gpus"], "GPU-a");
    open(&farm, "runs");
    client.end(&runs).await.value();
}
