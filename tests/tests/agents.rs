//! What an agent says of itself, and what it answers.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::topology::{TopologyOptions, ensure, remove};
use grange_protocol::record::State;
use grange_protocol::status::{AgentState, AgentStatus, ControlAnswer, PluginState, PluginStatus};
use grange_tests::{Agent, Client, Farm, Returned, began, eventually, plugin};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// Waits until the heartbeat of `h1` is as wanted.
async fn shows(
    client: &Client,
    what: &str,
    limit: Duration,
    wanted: impl Fn(&AgentStatus) -> bool,
) -> AgentStatus {
    eventually(&format!("the heartbeat shows {what}"), limit, async || match client.agent("h1").await {
        Some(status) if wanted(&status) => Ok(status),
        other => Err(format!("{other:?}")),
    })
    .await
}

fn of<'a>(status: &'a AgentStatus, name: &str) -> &'a PluginStatus {
    status.plugins.iter().find(|plugin| plugin.name.as_str() == name).unwrap()
}

async fn is_gone(client: &Client, limit: Duration) {
    eventually("the heartbeat is gone", limit, async || match client.agent("h1").await {
        None => Ok(()),
        Some(status) => Err(format!("{status:?}")),
    })
    .await;
}

async fn ask(client: &Client, subject: &str, body: Value) -> ControlAnswer {
    let answer = client.broker.request(subject.to_owned(), body.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

#[tokio::test]
async fn a_heartbeat_says_what_the_agent_is_and_has() {
    let farm = Farm::start().await;
    let mut plan = farm.plan("h1", &[plugin("gate")]);
    plan.config =
        "[inventory]\nnvml_library = \"/nonexistent/nvml\"\nlabels = { zone = \"lab\" }\n".to_owned();
    let agent = plan.start();
    let client = farm.client("alice").await;
    let status = client.wait_for_plugins("h1").await;
    assert_eq!((status.v, status.agent.as_str(), status.state), (1, "h1", AgentState::Ready));
    // What the host allows; `isolation.rs` tests both.
    assert!(status.isolation == "process" || status.isolation.starts_with("cgroup-"), "{}", status.isolation);
    assert!(!status.version.is_empty());
    assert!(status.started_ms > 1_700_000_000_000 && !status.host.is_empty());
    let capacity = &status.capacity;
    assert!(
        capacity.cpus >= 1 && capacity.ram_mb > 100 && capacity.ram_free_mb > 0 && capacity.gpus.is_empty()
    );
    assert_eq!(capacity.labels["zone"], "lab");
    assert_eq!(status.notices, [""; 0]);
    let (gate, wide) = (of(&status, "gate"), of(&status, "wide"));
    assert_eq!((gate.state, gate.slots, gate.workers, gate.running), (PluginState::Ready, 1, 0, 0));
    assert_eq!((gate.version.as_str(), gate.category.as_str(), wide.slots), ("1.0.0", "test", 4));
    assert_eq!(gate.description, "Waits until a file is there");
    assert_eq!(agent.log().matches("no NVML").count(), 1, "it is said once");
}

#[tokio::test]
async fn a_heartbeat_lists_what_is_held() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let gate = farm.path("gate");
    let key = client.submit("gate", &json!({"until": gate})).await;
    let running = client.reaches(&key, State::Running).await;
    let given = |status: &AgentStatus| !status.attempts.is_empty() && of(status, "gate").running == 1;
    let status = shows(&client, "the attempt", SOON, given).await;
    let held = &status.attempts[0];
    assert_eq!((&held.owner, &held.job, held.number), (&key.owner, &key.job, 1));
    assert!(status.covers >= held.claim && held.claim > 0);
    assert_eq!(status.incarnation, running.attempt.as_ref().unwrap().incarnation);
    assert_eq!((of(&status, "gate").workers, of(&status, "gate").running), (1, 1));
    std::fs::write(&gate, "").unwrap();
    client.end(&key).await.value();
    let status = shows(&client, "nothing held", SOON, |status| status.attempts.is_empty()).await;
    assert!(status.covers >= held.claim);
}

#[tokio::test]
async fn a_plugin_that_is_being_prepared_says_so_and_keeps_no_other_back() {
    let farm = Farm::start().await;
    let (gate, uv, folder) = (farm.path("gate"), farm.path("uv"), farm.path("plugins"));
    // Stands in for `uv`: it works until the gate is open, then it fails.
    let script = format!(
        "#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.02; done\necho 'no such package' >&2\nexit 1\n",
        gate.display()
    );
    std::fs::write(&uv, script).unwrap();
    std::fs::set_permissions(&uv, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let manifest =
        json!({"name": "built", "module": "m", "class": "C", "environment": {"requirements": ["x"]}});
    std::fs::write(folder.join("built.json"), manifest.to_string()).unwrap();
    let mut plan = farm.plan("h1", &[folder, plugin("gate")]);
    // By the environment, which wins over the file and over what the tests themselves are given.
    plan.environment.push(("GRANGE_UV".to_owned(), uv.display().to_string()));
    let _agent = plan.start();
    let client = farm.client("alice").await;
    let status =
        shows(&client, "the gate as ready", SOON, |status| of(status, "gate").state == PluginState::Ready)
            .await;
    assert_eq!(of(&status, "built").state, PluginState::Preparing);
    assert!(of(&status, "built").reason.contains("environment"), "{status:?}");
    client.run("gate", &json!({})).await.value();
    std::fs::write(&gate, "").unwrap();
    // A change is told at once, not with the next beat.
    let status = shows(&client, "the failure", Duration::from_secs(1), |status| {
        of(status, "built").state == PluginState::Failed
    })
    .await;
    assert!(of(&status, "built").reason.contains("no such package"), "{status:?}");
}

#[tokio::test]
async fn an_agent_that_leaves_says_farewell() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    agent.signal(Signal::TERM);
    assert!(agent.wait(SOON).await.success());
    assert!(client.agent("h1").await.is_none(), "its heartbeat went before it did");
}

#[tokio::test]
async fn the_heartbeat_of_an_agent_that_was_killed_runs_out() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let first = client.agent("h1").await.unwrap().incarnation;
    agent.kill();
    let killed = Instant::now();
    is_gone(&client, Duration::from_secs(8)).await;
    assert!(killed.elapsed() > Duration::from_secs(3), "it ran out, nobody took it away");
    let agent = agent.plan().start();
    let status = client.wait_for_plugins("h1").await;
    assert_ne!(status.incarnation, first);
    drop(agent);
}

#[tokio::test]
async fn an_agent_that_comes_before_the_streams_says_so_and_begins_when_they_are_there() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    remove(&client.broker).await.unwrap();
    let agent = farm.plan("h1", &[plugin("gate")]).start();
    eventually("the agent says what it waits for", SOON, async || match agent.log() {
        log if log.contains("the farm's streams are not there yet") && log.contains("grange init") => Ok(()),
        log => Err(log),
    })
    .await;
    assert!(!agent.log().contains("plugin ready"), "{}", agent.log());
    ensure(&client.broker, &TopologyOptions::default()).await.unwrap();
    client.wait_for_plugins("h1").await;
    client.run("gate", &json!({})).await.value();
}

#[tokio::test]
async fn an_agent_is_found_as_a_service() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    for verb in ["PING", "INFO"] {
        let answer = client.broker.request(format!("$SRV.{verb}.grange-agent"), "".into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["name"], "grange-agent");
        assert!(answer["version"].as_str().unwrap().starts_with("0."), "{answer}");
        if verb == "INFO" {
            let endpoints = answer["endpoints"].as_array().unwrap();
            let mut subjects: Vec<&str> = endpoints.iter().map(|e| e["subject"].as_str().unwrap()).collect();
            subjects.sort_unstable();
            let verbs = ["cancel", "drain", "undrain", "unquarantine"];
            assert_eq!(subjects, verbs.map(|verb| format!("grange.ctl.h1.{verb}")));
        }
    }
}

#[tokio::test]
async fn a_word_that_is_not_true_cancels_nothing() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let gate = farm.path("gate");
    let key = client.submit("gate", &json!({"until": gate})).await;
    client.reaches(&key, State::Running).await;
    let order = json!({"owner": "alice", "job": key.job.as_str()});
    for body in
        [order, json!({"owner": "alice", "job": "unknown"}), json!([1]), json!({"owner": "a.b", "job": "x"})]
    {
        let answer = ask(&client, "grange.ctl.h1.cancel", body).await;
        assert!(!answer.ok && !answer.message.is_empty(), "{answer:?}");
    }
    std::fs::write(&gate, "").unwrap();
    assert_eq!(client.end(&key).await.state, State::Succeeded);
}

#[tokio::test]
async fn an_agent_drains_and_leaves_when_it_is_told_to() {
    let farm = Farm::start().await;
    let mut agent: Agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let running = client.submit("gate", &json!({"until": gate, "log": log, "label": "runs"})).await;
    began(&log, "runs").await;
    let answer = ask(&client, "grange.ctl.h1.drain", json!({"exit": true})).await;
    assert!(answer.ok, "{answer:?}");
    let limit = Duration::from_secs(1);
    shows(&client, "the drain", limit, |status| status.state == AgentState::Draining).await;
    let waiting = client.submit("gate", &json!({"label": "waited"})).await;
    std::fs::write(&gate, "").unwrap();
    client.end(&running).await.value();
    assert!(agent.wait(SOON).await.success());
    assert!(client.record(&waiting).await.is_none(), "nobody claimed it");
    let _next = farm.agent("h2", &[plugin("gate")]).await;
    assert_eq!(client.end(&waiting).await.value()["label"], "waited");
}
