//! Agents and brokers that leave, freeze or die: nothing is lost, nothing runs on, nothing counts twice.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::follow::Since;
use grange_broker_client::priority::{Reprioritised, reprioritise};
use grange_protocol::record::{Record, State};
use grange_protocol::status::AgentState;
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Priority;
use grange_tests::processes::{all_gone, left, signal};
use grange_tests::{Agent, Client, Farm, Returned, began, eventually, lines, plugin};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// How long a worker's tree may outlive its agent.
const TREE_LIMIT: Duration = Duration::from_secs(2);
/// The shortest lease that there is.
const LEASE: Duration = Duration::from_secs(10);

fn plugins() -> [PathBuf; 3] {
    ["gate", "stubborn", "talker"].map(plugin)
}

fn states(record: &Record) -> Vec<State> {
    record.history.iter().map(|moment| moment.state).collect()
}

async fn draining(client: &Client) {
    eventually("the agent drains", SOON, async || match client.agent("h1").await {
        Some(status) if status.state == AgentState::Draining => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// The job ended well, in its second attempt, and one attempt alone succeeded.
async fn second_attempt_won(client: &Client, key: &JobKey) -> Box<Record> {
    let record = client.end(key).await;
    assert_eq!(record.state, State::Succeeded, "{record:?}");
    assert_eq!(record.attempt.as_ref().unwrap().number, 2, "{record:?}");
    client.no_tickets().await;
    record
}

/// A job that blocks in its first attempt with processes of its own, and these.
async fn blocked(farm: &Farm, agent: &Agent, client: &Client) -> (JobKey, Vec<u32>) {
    let arguments = json!({"log": farm.path("log"), "until_attempt": 2});
    let key = client.submit("stubborn", &arguments).await;
    (key, agent.tree_with("sleep", 2).await)
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_leaves_what_waits() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &plugins()).await;
    let client = farm.client("alice").await;
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let runs = client.submit("gate", &json!({"until": gate, "log": log, "label": "runs"})).await;
    began(&log, "runs").await;
    let waits = client.submit("gate", &json!({"log": log, "label": "waits"})).await;
    let tree = agent.descendants();
    agent.signal(Signal::TERM);
    draining(&client).await;
    let comes_late = client.submit("gate", &json!({"log": log, "label": "late"})).await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(client.end(&runs).await.value()["attempt"], 1);
    assert!(agent.wait(SOON).await.success());
    assert_eq!(left(&tree), [0; 0], "of {tree:?}");
    assert_eq!(lines(&log), ["runs"]);
    client.tickets_left(2).await;
    let _next = farm.agent("h2", &plugins()).await;
    for key in [waits, comes_late] {
        client.end(&key).await.value();
    }
    assert_eq!(lines(&log), ["runs", "waits", "late"]);
}

#[tokio::test]
async fn an_idle_agent_leaves_at_once_and_takes_its_warm_workers_along() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &plugins()).await;
    let client = farm.client("alice").await;
    client.run("gate", &json!({})).await.value();
    let tree = agent.descendants();
    assert!(tree.len() >= 2, "a supervisor and a worker: {tree:?}");
    agent.signal(Signal::INT);
    assert!(agent.wait(Duration::from_secs(3)).await.success());
    assert_eq!(left(&tree), [0; 0], "of {tree:?}");
}

#[tokio::test]
async fn a_second_signal_hands_back_what_runs() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &plugins()).await;
    let client = farm.client("alice").await;
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let listens = client.submit("gate", &json!({"until": gate, "log": log, "label": "listens"})).await;
    began(&log, "listens").await;
    let (blocks, tree) = blocked(&farm, &agent, &client).await;
    agent.signal(Signal::TERM);
    draining(&client).await;
    agent.signal(Signal::INT);
    assert!(agent.wait(Duration::from_secs(4)).await.success(), "one second of grace, and a few");
    assert_eq!(left(&tree), [0; 0], "of {tree:?}");
    for key in [&listens, &blocks] {
        let record = client.record(key).await.unwrap();
        assert_eq!(states(&record), [State::Running, State::Retrying]);
        assert_eq!((record.tries.worker_crashes, record.tries.host_losses), (0, 0), "nobody is to blame");
    }
    std::fs::write(&gate, "").unwrap();
    let _next = farm.agent("h2", &plugins()).await;
    for key in [&listens, &blocks] {
        let record = second_attempt_won(&client, key).await;
        assert_eq!(record.attempt.as_ref().unwrap().agent.as_str(), "h2");
    }
}

#[tokio::test]
async fn a_job_that_crashed_keeps_its_record_when_it_is_moved() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &plugins()).await;
    let (client, gate, log) = (farm.client("alice").await, farm.path("gate"), farm.path("log"));
    let worker = client.run("gate", &json!({})).await.value()["pid"].as_u64().unwrap();
    let key = client.submit("gate", &json!({"until": gate, "log": log, "label": "crashes"})).await;
    began(&log, "crashes").await;
    // An agent that drains takes nothing again, so that the job stays where it is.
    agent.signal(Signal::TERM);
    draining(&client).await;
    signal(u32::try_from(worker).unwrap(), Signal::KILL);
    let before = client.reaches(&key, State::Retrying).await;
    assert!(agent.wait(SOON).await.success());
    assert_eq!(before.tries.worker_crashes, 1);
    let moved = reprioritise(&client.broker, &client.ledger, &key, Priority::High).await.unwrap();
    assert_eq!(moved, Reprioritised::Moved { from: Priority::Normal });
    std::fs::write(&gate, "").unwrap();
    let _next = farm.agent("h2", &plugins()).await;
    let record = second_attempt_won(&client, &key).await;
    assert_eq!(record.value()["attempt"], 2);
    assert_eq!((record.tries.worker_crashes, record.lane().priority), (1, Priority::High));
    assert_eq!(record.submitted_ms, before.submitted_ms);
    assert!(states(&record).starts_with(&[State::Running, State::Retrying]), "{record:?}");
    assert_eq!(states(&record)[states(&record).len() - 2..], [State::Running, State::Succeeded]);
}

#[tokio::test]
async fn a_drain_that_takes_too_long_hands_back_what_runs() {
    let farm = Farm::start().await;
    let mut plan = farm.plan("h1", &plugins());
    plan.config = "[limits]\ndrain_grace_s = 1\n".to_owned();
    let mut agent = plan.start();
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    let (key, tree) = blocked(&farm, &agent, &client).await;
    agent.signal(Signal::TERM);
    assert!(agent.wait(Duration::from_secs(5)).await.success());
    assert_eq!(left(&tree), [0; 0], "of {tree:?}");
    assert_eq!(states(&client.record(&key).await.unwrap()), [State::Running, State::Retrying]);
}

#[tokio::test]
async fn the_tree_of_a_blocking_run_dies_with_its_agent() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &plugins()).await;
    let client = farm.client("alice").await;
    let (_key, tree) = blocked(&farm, &agent, &client).await;
    assert!(tree.len() >= 4, "supervisor, worker, child, grandchild: {tree:?}");
    agent.kill();
    all_gone(&tree, TREE_LIMIT).await;
}

#[tokio::test]
async fn a_restarted_agent_hands_back_what_its_last_life_held() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &plugins()).await;
    let client = farm.client("alice").await;
    let (key, tree) = blocked(&farm, &agent, &client).await;
    agent.kill();
    let restarted = Instant::now();
    let _next = agent.plan().start();
    let record = second_attempt_won(&client, &key).await;
    assert!(restarted.elapsed() < Duration::from_secs(5), "it took {:?}", restarted.elapsed());
    assert_eq!(left(&tree), [0; 0], "of {tree:?}");
    assert_eq!(states(&record), [State::Running, State::Retrying, State::Running, State::Succeeded]);
    assert_eq!((record.value(), record.tries.host_losses), (json!(2), 1));
    assert_eq!(lines(&farm.path("log")), ["1", "2"]);
}

#[tokio::test]
async fn a_third_signal_ends_the_agent_and_its_next_life_makes_it_good() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &plugins()).await;
    let client = farm.client("alice").await;
    let arguments = json!({"log": farm.path("log"), "until_attempt": 2});
    let mut submission = client.submission("stubborn", &arguments);
    submission.ticket.limits.cancel_grace_s = Some(600);
    let key = client.send(submission).await;
    let tree = agent.tree_with("sleep", 2).await;
    agent.signal(Signal::TERM);
    draining(&client).await;
    agent.signal(Signal::TERM);
    eventually("the second signal was heard", SOON, async || {
        agent.signal(Signal::TERM); // two signals that come at one time are one
        if left(&[agent.pid()]).is_empty() { Ok(()) } else { Err("it is there") }
    })
    .await;
    agent.wait(SOON).await;
    all_gone(&tree, TREE_LIMIT).await;
    let _next = agent.plan().start();
    second_attempt_won(&client, &key).await;
}

#[tokio::test]
async fn a_frozen_agent_loses_its_workers_at_the_end_of_the_lease() {
    let farm = Farm::start().await;
    let mut plan = farm.plan("h1", &plugins());
    plan.config = format!("[limits]\nlease_s = {}\n", LEASE.as_secs());
    let agent = plan.start();
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    let (key, tree) = blocked(&farm, &agent, &client).await;
    agent.signal(Signal::STOP);
    let frozen = Instant::now();
    all_gone(&tree, LEASE + Duration::from_secs(1)).await;
    assert!(frozen.elapsed() > LEASE / 2, "it was its lease that ended: {:?}", frozen.elapsed());
    agent.signal(Signal::CONT);
    let record = second_attempt_won(&client, &key).await;
    assert_eq!((record.tries.worker_crashes, record.tries.host_losses), (0, 1), "{record:?}");
}

#[tokio::test]
async fn a_broker_that_is_away_for_longer_than_the_lease_costs_an_attempt() {
    let mut farm = Farm::start().await;
    let mut plan = farm.plan("h1", &plugins());
    plan.config = format!("[limits]\nlease_s = {}\n", LEASE.as_secs());
    let agent = plan.start();
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    let (key, tree) = blocked(&farm, &agent, &client).await;
    farm.nats.kill().await.unwrap();
    all_gone(&tree, LEASE + Duration::from_secs(1)).await;
    farm.nats.restart().await.unwrap();
    let client = farm.client("alice").await;
    let record = second_attempt_won(&client, &key).await;
    assert_eq!((record.tries.worker_crashes, record.tries.host_losses), (0, 1), "{record:?}");
}

#[tokio::test]
async fn another_agent_takes_over_from_one_that_never_comes_back() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &plugins()).await;
    let client = farm.client("alice").await;
    let arguments = json!({"log": farm.path("log"), "until_attempt": 2});
    let mut submission = client.submission("stubborn", &arguments);
    submission.ticket.limits.lease_s = Some(u32::try_from(LEASE.as_secs()).unwrap());
    let key = client.send(submission).await;
    agent.tree_with("sleep", 2).await;
    let _other = farm.agent("h2", &plugins()).await;
    agent.kill();
    // The lease, then the time until the broker gives the ticket out again.
    eventually("the other agent has it", Duration::from_secs(60), async || match client.record(&key).await {
        Some(record) if record.attempt.as_ref().unwrap().agent.as_str() == "h2" => Ok(()),
        record => Err(format!("{record:?}")),
    })
    .await;
    let record = second_attempt_won(&client, &key).await;
    assert_eq!(states(&record), [State::Running, State::Running, State::Succeeded]);
    assert_eq!(
        (record.tries.host_losses, record.history[1].note.as_str()),
        (1, "taken over from a lost holder")
    );
    assert_eq!(lines(&farm.path("log")), ["1", "2"]);
}

#[tokio::test]
async fn a_job_outlives_its_broker() {
    let mut farm = Farm::start().await;
    let _agent = farm.agent("h1", &plugins()).await;
    let client = farm.client("alice").await;
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let quiet = client.submit("gate", &json!({"until": gate, "log": log, "label": "quiet"})).await;
    let talks = client.submit("talker", &json!({"count": 1000, "until": gate})).await;
    began(&log, "quiet").await;
    client.reaches(&talks, State::Running).await;
    let follow = client.follow(&talks, Since::Start).await;
    farm.nats.kill().await.unwrap();
    std::fs::write(&gate, "").unwrap();
    farm.nats.restart().await.unwrap();
    let story = client.rest(follow).await;
    assert_eq!(story.values(), (0..1000).map(|n| json!(n)).collect::<Vec<Value>>());
    let client = farm.client("alice").await;
    for key in [&quiet, &talks] {
        let record = client.end(key).await;
        assert_eq!(states(&record), [State::Running, State::Succeeded]);
        assert_eq!(record.attempt.as_ref().unwrap().number, 1);
    }
    assert_eq!(lines(&log), ["quiet"]);
    client.no_tickets().await;
}

#[tokio::test]
async fn new_jobs_run_after_the_broker_was_away() {
    let mut farm = Farm::start().await;
    let _agent = farm.agent("h1", &plugins()).await;
    let client = farm.client("alice").await;
    let before = client.run("gate", &json!({})).await.value();
    for _ in 0..2 {
        farm.nats.kill().await.unwrap();
        farm.nats.restart().await.unwrap();
        let client = farm.client("alice").await;
        let after = client.run("gate", &json!({})).await.value();
        assert_eq!(before["pid"], after["pid"], "the warm worker stayed");
    }
}

#[tokio::test]
async fn an_agent_waits_for_its_broker() {
    let mut farm = Farm::start().await;
    farm.nats.kill().await.unwrap();
    let mut agent = farm.plan("h1", &plugins()).start();
    eventually("it says that it waits", SOON, async || match agent.log() {
        log if log.contains("broker is not reachable") => Ok(()),
        log => Err(log),
    })
    .await;
    farm.nats.restart().await.unwrap();
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    client.run("gate", &json!({})).await.value();
    agent.signal(Signal::TERM);
    assert!(agent.wait(SOON).await.success());
    farm.nats.kill().await.unwrap();
    let mut waits = farm.plan("h1", &plugins()).start();
    waits.signal(Signal::TERM);
    waits.wait(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn one_state_folder_is_for_one_agent() {
    let farm = Farm::start().await;
    let first = farm.agent("h1", &plugins()).await;
    let mut plan = farm.plan("h2", &plugins());
    plan.state.clone_from(&first.plan().state);
    let mut second = plan.start();
    assert_eq!(second.wait(SOON).await.code(), Some(1));
    let log = second.log();
    assert!(log.contains("another agent uses the state folder") && log.contains("agent-h1"), "{log}");
    let client = farm.client("alice").await;
    client.run("gate", &json!({})).await.value();
    assert!(client.agent("h2").await.is_none());
}
