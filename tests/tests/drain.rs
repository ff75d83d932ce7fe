//! A host that takes nothing new: by an operator's word, by its own, over a restart, and back again.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_protocol::record::State;
use grange_protocol::status::{AgentStatus, PluginState};
use grange_tests::{Client, Farm, Grange, Returned, began, eventually, lines, plugin};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

async fn shows(client: &Client, what: &str, wanted: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
    eventually(&format!("the heartbeat shows {what}"), SOON, async || match client.agent("h1").await {
        Some(status) if wanted(&status) => Ok(status),
        other => Err(format!("{other:?}")),
    })
    .await
}

async fn is(client: &Client, word: &str) -> AgentStatus {
    shows(client, word, |status| status.state_word() == word).await
}

async fn undrained(grange: &Grange, client: &Client) {
    grange.run(&["agents", "undrain", "h1"]).await.ends(0);
    is(client, "ready").await;
}

#[tokio::test]
async fn a_drained_host_finishes_what_runs_and_stays_until_it_is_undrained() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("gate")]).await;
    let (client, grange) = (farm.client("alice").await, farm.grange("alice"));
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let runs = client.submit("gate", &json!({"until": gate, "log": log, "label": "runs"})).await;
    began(&log, "runs").await;
    let waits = client.submit("gate", &json!({"log": log, "label": "waits"})).await;
    let words = ["agents", "drain", "h1", "--wait", "--reason", "new driver"];
    let mut drains = grange.start(&words);
    let status = is(&client, "draining").await;
    let drain = status.drain.unwrap();
    assert_eq!((drain.reason.as_str(), drain.automatic, drain.left_ms), ("new driver", false, None));
    let why = grange.run(&["why", waits.job.as_str()]).await.ends(0);
    assert!(why.out.contains("is drained: new driver"), "{why:?}");
    std::fs::write(&gate, "").unwrap();
    client.end(&runs).await.value();
    assert!(drains.end().await.ends(0).out.contains("h1: drained"));
    let status = is(&client, "drained").await;
    assert_eq!((status.workers.len(), lines(&log)), (0, vec!["runs".to_owned()]), "its warm worker left");
    let table = grange.run(&["agents"]).await.ends(0).out;
    assert!(table.contains("drained") && table.contains("new driver"), "{table}");
    assert!(client.record(&waits).await.is_none(), "nobody claimed it");
    // The next life of the agent is drained too.
    let mut agent = agent;
    agent.kill();
    let _next = agent.plan().start();
    let status = shows(&client, "the next life, drained", |next| {
        next.incarnation != status.incarnation && next.state_word() == "drained"
    })
    .await;
    assert_eq!(status.drain.unwrap().reason, "new driver");
    undrained(&grange, &client).await;
    assert_eq!(client.end(&waits).await.value()["label"], "waits");
    assert_eq!(grange.run(&["agents", "undrain", "h1"]).await.ends(0).out, "h1: the host is not drained\n");
}

#[tokio::test]
async fn what_runs_beyond_the_deadline_is_handed_back() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let (client, grange) = (farm.client("alice").await, farm.grange("alice"));
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let runs = client.submit("gate", &json!({"until": gate, "log": log, "label": "runs"})).await;
    began(&log, "runs").await;
    grange.run(&["agents", "drain", "h1", "--deadline", "1s", "--wait"]).await.ends(0);
    let record = client.reaches(&runs, State::Retrying).await;
    let tries = &record.tries;
    assert_eq!(
        (tries.plugin_errors, tries.worker_crashes, tries.host_losses),
        (0, 0, 0),
        "nobody is to blame"
    );
    std::fs::write(&gate, "").unwrap();
    let _other = farm.agent("h2", &[plugin("gate")]).await;
    let record = client.end(&runs).await;
    let attempt = record.attempt.as_ref().unwrap();
    assert_eq!((record.state, attempt.number, attempt.agent.as_str()), (State::Succeeded, 2, "h2"));
}

/// A plugin whose interpreter can be taken away.
fn breakable(folder: &Path, name: &str) {
    let place = folder.join(name);
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(plugin("gate").join("gate.py"), place.join("gate.py")).unwrap();
    let text = std::fs::read(plugin("gate").join("plugin.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
    manifest["name"] = name.into();
    manifest["python_path"] = "bin/python".into();
    std::fs::write(place.join("plugin.json"), manifest.to_string()).unwrap();
    mend(folder, name);
}

fn mend(folder: &Path, name: &str) {
    let python = folder.join(name).join("bin/python");
    std::fs::create_dir_all(python.parent().unwrap()).unwrap();
    std::fs::write(&python, "#!/bin/sh\nexec python3 \"$@\"\n").unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_host_that_fails_whatever_it_starts_drains_itself() {
    let farm = Farm::start().await;
    let folder = farm.path("plugins");
    for name in ["one", "two"] {
        breakable(&folder, name);
    }
    let _agent = farm.agent("h1", std::slice::from_ref(&folder)).await;
    let (client, grange) = (farm.client("alice").await, farm.grange("alice"));
    for name in ["one", "two"] {
        std::fs::remove_file(folder.join(name).join("bin/python")).unwrap();
    }
    for name in ["one", "two", "one", "two", "one"] {
        client.submit(name, &json!({})).await;
    }
    let status = is(&client, "drained").await;
    let drain = status.drain.unwrap();
    assert!(drain.automatic && drain.reason.contains("`one`, `two`"), "{drain:?}");
    // What is submitted now stays in its queue, for a host that can run it.
    let kept = client.submit("two", &json!({"label": "kept"})).await;
    for name in ["one", "two"] {
        mend(&folder, name);
    }
    undrained(&grange, &client).await;
    assert_eq!(client.end(&kept).await.value()["label"], "kept");
    shows(&client, "the plugin as ready", |status| {
        status.plugins.iter().any(|p| p.name.as_str() == "two" && p.state == PluginState::Ready)
    })
    .await;
}

#[tokio::test]
async fn a_plugin_that_cannot_start_takes_no_host_from_the_others() {
    let farm = Farm::start().await;
    let folder = farm.path("plugins");
    breakable(&folder, "broken");
    let _agent = farm.agent("h1", &[folder.clone(), plugin("gate")]).await;
    let client = farm.client("alice").await;
    std::fs::remove_file(folder.join("broken/bin/python")).unwrap();
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(client.submit("broken", &json!({})).await);
    }
    for key in &jobs {
        client.end(key).await;
    }
    client.run("gate", &json!({})).await.value();
    assert_eq!(client.agent("h1").await.unwrap().state_word(), "ready");
}
