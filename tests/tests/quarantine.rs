//! GPUs out of service: what their runs are told, who may put them back, and what a restart remembers.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::follow::Since;
use grange_protocol::status::ControlAnswer;
use grange_tests::gpus::Gpu;
use grange_tests::{Agent, Client, Farm, GpuHost, Returned, began, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn host(farm: &Farm, config: &str) -> GpuHost {
    let card = |uuid: &str| Gpu { uuid: uuid.to_owned(), memory_mb: 24_000, ..Gpu::default() };
    GpuHost::new(farm, "h1", vec![card("GPU-a"), card("GPU-b")])
        .with("vram", &json!({"resources": {"gpus": 1, "vram_mb": 8_000}}))
        .configured(config)
}

/// Waits until exactly these GPUs are out of service.
async fn ill(client: &Client, wanted: &[(&str, &str)]) {
    eventually(&format!("{wanted:?} are out of service"), SOON, async || {
        let status = client.agent("h1").await.ok_or("no heartbeat")?;
        let gpus = status.capacity.gpus.iter();
        let found: Vec<(String, String)> =
            gpus.filter_map(|gpu| Some((gpu.uuid.clone(), gpu.quarantine.clone()?))).collect();
        let same = found.len() == wanted.len()
            && found
                .iter()
                .zip(wanted)
                .all(|(found, wanted)| found.0 == wanted.0 && found.1.contains(wanted.1));
        if same { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// Starts the host's agent and waits for the first heartbeat of this life with its GPUs.
async fn start(farm: &Farm, client: &Client, host: &GpuHost) -> Agent {
    let before = client.agent("h1").await.map(|status| status.incarnation);
    let agent = host.start(farm).await;
    eventually("a heartbeat of this life", SOON, async || match client.agent("h1").await {
        Some(status) if Some(&status.incarnation) != before.as_ref() && status.capacity.gpus.len() == 2 => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    client.wait_for_plugins("h1").await;
    agent
}

async fn unquarantine(client: &Client, body: Value) -> ControlAnswer {
    let subject = "grange.ctl.h1.unquarantine".to_owned();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.broker.request(subject, body.into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

#[tokio::test]
async fn a_restart_remembers_what_is_out_of_service_until_an_operator_says_otherwise() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = host(&farm, "");
    let mut agent = start(&farm, &client, &host).await;
    host.gpus.xid("GPU-a", 79);
    ill(&client, &[("GPU-a", "79")]).await;
    agent.kill();
    let mut agent = start(&farm, &client, &host).await;
    ill(&client, &[("GPU-a", "79")]).await;
    assert_eq!(client.run("vram", &json!({})).await.value()["gpus"], "GPU-b");
    let unknown = unquarantine(&client, json!({"gpu": "GPU-b"})).await;
    assert!(!unknown.ok && unknown.message.contains("`GPU-b`"), "{unknown:?}");
    assert!(unknown.message.contains("quarantined: GPU-a"), "{unknown:?}");
    assert!(!unquarantine(&client, json!({"gpus": "GPU-a"})).await.ok, "a slip must not mean every GPU");
    let done = unquarantine(&client, json!({"gpu": "GPU-a"})).await;
    assert!(done.ok && done.message.contains("`GPU-a`"), "{done:?}");
    ill(&client, &[]).await;
    agent.kill();
    let _agent = start(&farm, &client, &host).await;
    ill(&client, &[]).await;
    assert!(
        unquarantine(&client, Value::Null).await.ok,
        "nothing named means every GPU, also when none is ill"
    );
}

#[tokio::test]
async fn a_gpu_that_was_taken_out_is_missed_until_an_operator_says_so_and_new_when_it_is_back() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = host(&farm, "");
    let _agent = start(&farm, &client, &host).await;
    let whole = host.gpus.script();
    host.gpus.change(|script| script.gpus.retain(|gpu| gpu.uuid != "GPU-a"));
    ill(&client, &[("GPU-a", "it is no longer there")]).await;
    assert!(unquarantine(&client, json!({"gpu": "GPU-a"})).await.ok);
    let listed = |wanted: &'static [&'static str]| {
        let client = client.clone();
        async move {
            eventually(&format!("{wanted:?} are listed, all in service"), SOON, async || {
                let status = client.agent("h1").await.ok_or("no heartbeat")?;
                let gpus = status.capacity.gpus;
                let fine = gpus.iter().all(|gpu| gpu.quarantine.is_none());
                let mut uuids: Vec<String> = gpus.into_iter().map(|gpu| gpu.uuid).collect();
                uuids.sort();
                if fine && uuids == wanted { Ok(()) } else { Err(format!("{uuids:?}")) }
            })
            .await;
        }
    };
    listed(&["GPU-b"]).await;
    assert_eq!(client.run("vram", &json!({})).await.value()["gpus"], "GPU-b");
    host.gpus.set(&whole);
    listed(&["GPU-a", "GPU-b"]).await;
}

#[tokio::test]
async fn a_run_on_a_gpu_that_fails_is_tried_again_with_the_reason_in_its_history() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = host(&farm, "");
    let _agent = start(&farm, &client, &host).await;
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let key = client.submit("vram", &json!({"mb": 3_000, "label": "runs", "log": log, "until": gate})).await;
    began(&log, "runs").await;
    host.gpus.xid("GPU-a", 79);
    ill(&client, &[("GPU-a", "79")]).await;
    std::fs::write(&gate, "").unwrap();
    let record = client.end(&key).await;
    assert_eq!(record.value()["gpus"], "GPU-b");
    assert_eq!((record.tries.host_losses, record.tries.worker_crashes), (1, 0));
    let notes: Vec<&str> = record.history.iter().map(|moment| moment.note.as_str()).collect();
    assert!(notes.iter().any(|note| note.contains("GPU `GPU-a`") && note.contains("79")), "{notes:?}");
}

#[tokio::test]
async fn a_run_says_what_it_used_and_is_told_when_that_is_too_much() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let host = host(&farm, "");
    let _agent = start(&farm, &client, &host).await;
    let gate = farm.path("gate");
    let key = client.submit("vram", &json!({"mb": 12_000, "until": gate})).await;
    let warned = "uses 12000 MiB";
    eventually("the overrun stands in the heartbeat", SOON, async || {
        match client.agent("h1").await.map(|status| status.notices) {
            Some(notices) if notices.iter().any(|notice| notice.contains(warned)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    let story = client.story(&key, Since::Start).await;
    let said = story.lines("agent");
    assert!(said.len() == 1 && said[0].contains(warned), "{:?}", story.logs);
    let usage = story.record().outcome.as_ref().unwrap().usage.clone();
    assert_eq!(usage.peak_vram_mb, 12_000);
    assert!((usage.gpu_seconds - usage.run_ms / 1000.0).abs() < 1e-6 && usage.gpu_seconds > 0.0, "{usage:?}");
}
