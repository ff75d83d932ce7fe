//! What waits and what stays: age against priority, one owner's many against another's one, idle workers and their turn to
//! leave, and what of a host a job may ask for.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use futures_util::future::join_all;
use grange_broker_client::topology::queues;
use grange_protocol::class::class_of;
use grange_protocol::name::Owner;
use grange_protocol::record::State;
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Priority;
use grange_tests::gpus::Gpu;
use grange_tests::processes::is_alive;
use grange_tests::{Client, Farm, GpuHost, Returned, began, eventually, lines};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// One owner's jobs that wait before another's one.
const MANY: usize = 10_000;
/// Jobs of a stream that wait at any moment.
const STREAM: usize = 4;

fn card(uuid: &str) -> Gpu {
    Gpu::new(uuid, "NVIDIA A100-SXM4-40GB", 24 * 1024)
}

fn asks(mb: u64) -> Value {
    json!({"resources": {"vram_mb": mb}, "config": {"mb": mb}})
}

/// Waits until the host's workers are as they should be.
async fn host_is(client: &Client, what: &str, found: impl Fn(&AgentStatus) -> bool) {
    eventually(what, SOON, async || match client.agent("h1").await {
        Some(status) if found(&status) => Ok(()),
        Some(status) => Err(format!("{:?}", status.workers)),
        None => Err("no heartbeat".to_owned()),
    })
    .await;
}

fn workers_of(status: &AgentStatus, plugin: &str) -> usize {
    status.workers.iter().filter(|worker| worker.plugin.as_str() == plugin).count()
}

async fn known_queues(client: &Client, count: usize) {
    eventually(&format!("{count} queues are known"), SOON, async || {
        match queues(&client.broker).await.unwrap() {
            known if known.len() == count => Ok(()),
            known => Err(format!("{known:?}")),
        }
    })
    .await;
}

async fn send(client: &Client, priority: Priority, kwargs: &Value) -> JobKey {
    let mut submission = client.submission("ocr", kwargs);
    submission.lane.priority = priority;
    client.send(submission).await
}

#[tokio::test]
async fn a_low_job_starts_in_the_end_beside_a_stream_of_high_ones() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = GpuHost::new(&farm, "h1", vec![card("GPU-a")]).with("ocr", &asks(16_000));
    let _agent = host.configured("[scheduling]\nage_after_s = 1\n").start(&farm).await;
    let (log, gate) = (farm.path("log"), farm.path("gate"));
    let first = send(&client, Priority::High, &json!({"label": "first", "log": log, "until": gate})).await;
    began(&log, "first").await;
    let low = send(&client, Priority::Low, &json!({"label": "low", "log": log})).await;
    let mut high = vec![first];
    let begun = Instant::now();
    loop {
        while high.len() <= STREAM {
            high.push(send(&client, Priority::High, &json!({"label": "high", "log": log})).await);
        }
        std::fs::write(&gate, "").unwrap();
        let mut left = Vec::new();
        for key in high {
            if client.record(&key).await.is_none_or(|record| !record.state.is_terminal()) {
                left.push(key);
            }
        }
        high = left;
        if client.record(&low).await.is_some_and(|record| record.state != State::Queued) {
            break;
        }
        assert!(begun.elapsed() < SOON, "the low job starves: {:?}", lines(&log).len());
    }
    client.end(&low).await.value();
    for key in &high {
        client.end(key).await.value();
    }
    let order = lines(&log);
    assert!(order.iter().position(|label| label == "low") > Some(1), "high ones went first: {order:?}");
}

#[tokio::test]
async fn an_owners_thousands_do_not_keep_anothers_one_waiting() {
    let farm = Farm::start().await;
    let (alice, bob) = (farm.client("alice").await, farm.client("bob").await);
    let host = GpuHost::new(&farm, "h1", vec![card("GPU-a")]).with("ocr", &asks(16_000));
    let _agent = host.start(&farm).await;
    let (log, gate) = (farm.path("log"), farm.path("gate"));
    alice.submit("ocr", &json!({"label": "first", "log": log, "until": gate})).await;
    began(&log, "first").await;
    let one = json!({"label": "alice", "log": log});
    join_all((0..MANY).map(|_| alice.submit("ocr", &one))).await;
    let single = bob.submit("ocr", &json!({"label": "bob", "log": log})).await;
    known_queues(&alice, 2).await;
    std::fs::write(&gate, "").unwrap();
    bob.end(&single).await.value();
    let place = lines(&log).iter().position(|label| label == "bob").unwrap();
    assert!(place <= 4, "{place} of alice's began before");
}

#[tokio::test]
async fn an_idle_worker_leaves_when_its_time_is_over() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let brief =
        json!({"resources": {"vram_mb": 4_000}, "config": {"mb": 4_000}, "limits": {"keep_warm_s": 1}});
    let host = GpuHost::new(&farm, "h1", vec![card("GPU-a")]).with("brief", &brief);
    let _agent = host.with("stays", &asks(4_000)).start(&farm).await;
    let stays = client.run("stays", &json!({})).await.value()["pid"].clone();
    let first = client.run("brief", &json!({})).await.value();
    let pid = u32::try_from(first["pid"].as_u64().unwrap()).unwrap();
    eventually("it has left", SOON, async || if is_alive(pid) { Err(pid.to_string()) } else { Ok(()) }).await;
    assert_ne!(client.run("brief", &json!({})).await.value()["pid"], first["pid"]);
    assert_eq!(client.run("stays", &json!({})).await.value()["pid"], stays);
}

#[tokio::test]
async fn of_several_idle_workers_the_one_used_longest_ago_leaves() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let mut host = GpuHost::new(&farm, "h1", vec![card("GPU-a")]).with("large", &asks(10_000));
    for name in ["one", "two", "three"] {
        host = host.with(name, &asks(6_000));
    }
    let _agent = host.start(&farm).await;
    for name in ["one", "two", "three", "one"] {
        client.run(name, &json!({})).await.value();
    }
    client.run("large", &json!({})).await.value();
    host_is(&client, "the second left", |status| {
        workers_of(status, "two") == 0
            && ["one", "three", "large"].iter().all(|name| workers_of(status, name) == 1)
    })
    .await;
}

#[tokio::test]
async fn a_job_goes_where_memory_cores_driver_capability_and_label_are_what_it_asks_for() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = |name: &str, compute: (i32, i32), driver: &str, rest: &str| {
        let host = GpuHost::new(&farm, name, vec![Gpu { compute, ..card(name) }]).configured(rest);
        host.gpus.change(|script| driver.clone_into(&mut script.driver));
        host.with("ocr", &asks(2_000))
    };
    let small = "cpus = 2\nram_mb = 4096\nlabels = { zone = \"lab\" }\n";
    let large = "cpus = 8\nram_mb = 65536\nlabels = { zone = \"hall\" }\n";
    let (h1, h2) = (host("h1", (7, 5), "535.10", small), host("h2", (8, 9), "550.54", large));
    let _agents = [h1.start(&farm).await, h2.start(&farm).await];
    for (resources, wanted) in [
        (json!({"ram_mb": 30_000}), "h2"),
        (json!({"cpus": 4}), "h2"),
        (json!({"on": {"driver": "540"}}), "h2"),
        (json!({"on": {"compute": "8.0"}}), "h2"),
        (json!({"on": {"zone": "lab"}}), "h1"),
        (json!({"on": {"zone": "hall"}, "cpus": 8}), "h2"),
    ] {
        let mut submission = client.submission("ocr", &json!({}));
        submission.owner = Owner::new("alice").unwrap();
        submission.ticket.resources = Some(serde_json::from_value(resources.clone()).unwrap());
        submission.lane.class = class_of(submission.ticket.resources.as_ref().unwrap()).unwrap();
        let key = client.send(submission).await;
        let record = client.end(&key).await;
        record.value();
        let took = record.attempt.as_ref().map(|attempt| attempt.agent.to_string());
        assert_eq!(took.as_deref(), Some(wanted), "{resources}");
    }
}
