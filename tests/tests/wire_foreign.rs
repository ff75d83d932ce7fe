//! Clients that are none of ours: Python's nats-py with nothing but `docs/wire.md`, whose own code blocks are run.

use grange_broker_client::submit::job_id_of_key;
use grange_protocol::name::{JobId, Owner};
use grange_protocol::record::State;
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Priority;
use grange_tests::{Agent, Farm, Returned, repository};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::LazyLock;
use tokio::process::Command;

/// An interpreter with nats-py: `$GRANGE_TEST_PYTHON`, else the one that `make` makes for the checks.
static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(python) = std::env::var_os("GRANGE_TEST_PYTHON").filter(|python| !python.is_empty()) {
        return python.into();
    }
    let ready = ".tools/venv/ready";
    let made = std::process::Command::new("make").arg(ready).current_dir(repository()).status();
    assert!(made.is_ok_and(|status| status.success()), "`make {ready}` failed");
    repository().join(".tools/venv/bin/python")
});

/// A farm of one with the echo plugin.
async fn farm_of_one() -> (Farm, Agent) {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[repository().join("examples/plugins/echo")]).await;
    (farm, agent)
}

/// Plays a script of `tests/wire`, and answers what it told.
async fn play(farm: &Farm, script: &str, arguments: &[&str]) -> Value {
    let output = Command::new(&*PYTHON)
        .arg(repository().join("tests/wire").join(script))
        .args(arguments)
        .env("GRANGE_BROKER", farm.nats.url())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the interpreter starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {arguments:?}: {}\n{complaint}", output.status);
    serde_json::from_slice(&output.stdout).expect("a script tells one JSON value")
}

fn key(job: &Value) -> JobKey {
    let job = job.as_str().expect("a script tells the job's id");
    JobKey { owner: Owner::new("alice").expect("a name"), job: JobId::new(job).expect("a name") }
}

#[tokio::test]
async fn a_stranger_submits_follows_live_and_reads_the_result() {
    let (farm, _agent) = farm_of_one().await;
    let told = play(&farm, "submit_and_follow.py", &[]).await;
    assert_eq!((&told["state"], &told["result"]), (&json!("succeeded"), &json!("hi")));
    let record = farm.client("alice").await.end(&key(&told["job"])).await;
    assert_eq!(record.value(), json!("hi"));
    assert_eq!(record.outcome.as_ref().map(|o| o.chunks), Some(5));
}

#[tokio::test]
async fn a_stranger_reads_the_whole_history_of_a_job_that_ended() {
    let (farm, _agent) = farm_of_one().await;
    let client = farm.client("alice").await;
    let asked = json!({"text": "é\n", "repeat": 60, "delay_s": 0.002});
    let key = client.submit("echo", &asked).await;
    let record = client.end(&key).await;
    let told = play(&farm, "read_history.py", &["alice", key.job.as_str()]).await;
    let chunks: Vec<Value> = (0..60).map(|n| json!({"n": n, "text": "é\n"})).collect();
    assert_eq!(told["chunks"], json!(chunks));
    assert_eq!(told["result"], json!("é\n"));
    assert_eq!(told["record"], serde_json::to_value(&record).expect("a record is JSON"));
}

#[tokio::test]
async fn a_stranger_cancels() {
    let (farm, _agent) = farm_of_one().await;
    let told = play(&farm, "cancel.py", &[]).await;
    assert_eq!(told["state"], "cancelled");
    let client = farm.client("alice").await;
    for job in ["running", "waiting"] {
        let record = client.record(&key(&told[job])).await.expect("our reader finds the record too");
        assert_eq!(record.state, State::Cancelled, "{job}");
    }
    // The worker is free again.
    assert_eq!(client.run("echo", &json!({"text": "next"})).await.value(), json!("next"));
}

#[tokio::test]
async fn the_least_ticket_is_a_job_and_a_bad_one_is_told_so() {
    let (farm, _agent) = farm_of_one().await;
    let told = play(&farm, "least_ticket.py", &[]).await;
    assert_eq!(told["result"], "hello");
    assert!(told["why"].as_str().is_some_and(|why| why.contains("`args` is not an array")), "{told}");
    assert_eq!(told["dead"]["reason"], "malformed");
    farm.client("alice").await.no_tickets().await;
}

#[tokio::test]
async fn a_stranger_limits_the_wait() {
    let (farm, _agent) = farm_of_one().await;
    let told = play(&farm, "longest_wait.py", &[]).await;
    assert_eq!(told["states"], json!(["queued", "expired"]));
    let client = farm.client("alice").await;
    assert_eq!(client.end(&key(&told["started"])).await.value(), json!("hello"));
}

#[tokio::test]
async fn a_stranger_submits_later_and_by_a_key() {
    let (farm, _agent) = farm_of_one().await;
    let told = play(&farm, "later.py", &[]).await;
    assert_eq!(told["result"], json!("hello"));
    assert_eq!(told["of_key"], json!(job_id_of_key(&"alice".parse().unwrap(), "order 17").as_str()));
}

#[tokio::test]
async fn a_stranger_makes_the_same_classes_and_asks_for_more() {
    let (farm, _agent) = farm_of_one().await;
    let told = play(&farm, "classes.py", &[]).await;
    assert_eq!((&told["result"], &told["kind"]), (&json!("hello"), &json!("invalid_input")));
}

#[tokio::test]
async fn a_stranger_moves_a_job_that_waits() {
    let (farm, _agent) = farm_of_one().await;
    let told = play(&farm, "move.py", &[]).await;
    let client = farm.client("alice").await;
    let record = client.record(&key(&told["job"])).await.expect("a moved job has a record");
    assert_eq!((record.state, record.priority), (State::Queued, Priority::Low));
}

#[tokio::test]
async fn a_stranger_puts_and_gets_objects() {
    let (farm, _agent) = farm_of_one().await;
    let folder = farm.folder.path().join("objects");
    let told = play(&farm, "objects.py", &[folder.to_str().expect("a path")]).await;
    assert_eq!(told["kind"], "input_unavailable");
    assert!(told["message"].as_str().is_some_and(|m| m.contains("page-1.png")), "{told}");
}

#[tokio::test]
async fn a_stranger_sees_an_agent_and_sends_it_away() {
    let (farm, mut agent) = farm_of_one().await;
    let told = play(&farm, "agents.py", &[]).await;
    assert_eq!(told["agent"]["agent"], "h1");
    assert_eq!(told["ping"]["name"], "grange-agent");
    assert_eq!(told["drained"]["ok"], true);
    assert!(agent.wait(std::time::Duration::from_secs(10)).await.success());
}
