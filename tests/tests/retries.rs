//! Attempts that end badly: who is tried again, after which rest, where, and what is left when the budget is spent.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use futures_util::StreamExt;
use grange_broker_client::cancel::{Cancelled, cancel};
use grange_protocol::failure::FailureKind;
use grange_protocol::record::{Record, State};
use grange_protocol::retry::RetryPolicy;
use grange_protocol::subject::JobKey;
use grange_tests::processes::is_alive;
use grange_tests::{Client, Farm, Returned, began, eventually, lines, plugin};
use serde_json::{Value, json};
use std::time::Duration;

/// How long anything that should happen soon may take.
const SOON: Duration = Duration::from_secs(60);

fn policy(max_attempts: u32, backoff_ms: u64) -> RetryPolicy {
    RetryPolicy { max_attempts: Some(max_attempts), backoff_ms: Some(backoff_ms), ..RetryPolicy::default() }
}

async fn submit(client: &Client, plugin: &str, kwargs: Value, retry: RetryPolicy) -> JobKey {
    let mut submission = client.submission(plugin, &kwargs);
    submission.ticket.retry = retry;
    client.send(submission).await
}

fn states(record: &Record) -> Vec<State> {
    record.history.iter().map(|moment| moment.state).collect()
}

/// The agents of the attempts that ended without a result.
fn hosts(record: &Record) -> Vec<&str> {
    let ends = record.history.iter().filter(|moment| moment.state == State::Retrying);
    ends.map(|moment| moment.agent.as_ref().unwrap().as_str()).collect()
}

#[tokio::test]
async fn an_error_is_tried_again_as_often_as_the_policy_says() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("flaky")]).await;
    let client = farm.client("alice").await;

    let key = submit(&client, "flaky", json!({"times": 2}), policy(3, 50)).await;
    let record = client.end(&key).await;
    assert_eq!(record.value(), json!(3));
    assert_eq!((record.tries.plugin_errors, record.tries.worker_crashes), (2, 0));
    assert_eq!(states(&record).iter().filter(|state| **state == State::Retrying).count(), 2);
    let last = record.last_failure.as_ref().unwrap();
    assert_eq!((last.kind, last.message.as_str()), (FailureKind::PluginFailed, "attempt 2 is no good"));

    // Without a policy an error is the end, and nothing to keep evidence of.
    let record = client.run("flaky", &json!({"times": 1})).await;
    assert_eq!(record.failure().message, "attempt 1 is no good");
    assert_eq!(record.attempt.as_ref().unwrap().number, 1);
    client.no_tickets().await;
    assert!(client.dead().await.is_empty());
}

#[tokio::test]
async fn the_policy_of_the_plugin_holds_unless_the_job_says_otherwise() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("flaky")]).await;
    let client = farm.client("alice").await;
    assert_eq!(client.run("patient", &json!({"times": 2})).await.value(), json!(3));

    let only_once = RetryPolicy { max_attempts: Some(1), ..RetryPolicy::default() };
    let key = submit(&client, "patient", json!({"times": 1}), only_once).await;
    assert_eq!(client.end(&key).await.failure().message, "attempt 1 is no good");

    let other_kinds = RetryPolicy { kinds: Some(vec![FailureKind::TimedOut]), ..RetryPolicy::default() };
    let key = submit(&client, "patient", json!({"times": 1}), other_kinds).await;
    assert_eq!(client.end(&key).await.failure().message, "attempt 1 is no good");
    assert!(client.dead().await.is_empty(), "no budget was spent");

    let key = client.submit("patient", &json!({"times": 9})).await;
    let record = client.end(&key).await;
    let why = record.failure();
    assert_eq!(why.message, "attempt 3 is no good; given up after 3 errors in 3 attempts");
    let dead = client.dead().await;
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0].subject, format!("grange.dead.plugin_failed.{}", key.job));
    let told = dead[0].body["evidence"]["attempts"].as_array().unwrap();
    let said: Vec<&str> = told.iter().map(|attempt| attempt["failure"].as_str().unwrap()).collect();
    assert_eq!(said[0], "plugin_failed: attempt 1 is no good");
    assert_eq!(said.len(), 3, "{said:?}");
}

#[tokio::test]
async fn a_job_rests_before_it_is_tried_again() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("flaky")]).await;
    let client = farm.client("alice").await;
    let mut records = client.broker.client().subscribe("grange.on.state.alice.*").await.unwrap();
    client.broker.client().flush().await.unwrap();
    let key = submit(&client, "flaky", json!({"times": 3}), policy(4, 800)).await;
    let end = client.end(&key).await;
    assert_eq!(end.value(), json!(4));
    let mut rests = Vec::new();
    while rests.len() < 3 {
        let record = Record::read(&records.next().await.unwrap().payload).unwrap();
        if record.state == State::Retrying {
            rests.push(record.backoff_ms);
        }
    }
    assert!(rests[0] <= 800 && rests[1] <= 1_600 && rests[2] <= 3_200, "{rests:?}");
    let at = |state: State| {
        let all = end.history.iter().filter(move |moment| moment.state == state);
        all.map(|moment| moment.at_ms).collect::<Vec<u64>>()
    };
    let (rested, began) = (at(State::Retrying), at(State::Running));
    for (n, rest) in rests.iter().enumerate() {
        let took = began[n + 1] - rested[n];
        // Half a millisecond each way is rounded off.
        assert!(took + 1 >= *rest, "rest {n} of {rest} ms took {took} ms");
    }
}

#[tokio::test]
async fn a_job_that_rests_is_cancelled_at_once() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("flaky")]).await;
    let client = farm.client("alice").await;
    let a_day = 86_400_000;
    let key = submit(&client, "flaky", json!({"times": 9}), policy(9, a_day)).await;
    client.reaches(&key, State::Retrying).await;
    let done = cancel(&client.broker, &client.ledger, &key, "changed my mind").await.unwrap();
    assert_eq!(done, Cancelled::AtOnce);
    assert_eq!(client.record(&key).await.unwrap().state, State::Cancelled);
    client.no_tickets().await;
}

#[tokio::test]
async fn a_crash_is_tried_elsewhere_and_its_evidence_is_kept() {
    let farm = Farm::start().await;
    let folders = [plugin("crash"), plugin("gate")];
    let agents = [farm.agent("h1", &folders).await, farm.agent("h2", &folders).await];
    let client = farm.client("alice").await;
    let at_once = RetryPolicy { backoff_ms: Some(0), ..RetryPolicy::default() };

    let key = submit(&client, "crash", json!({"how": "segv"}), at_once.clone()).await;
    let record = client.end(&key).await;
    let why = record.failure();
    assert_eq!((why.kind, why.signal, why.exit_code), (FailureKind::WorkerCrashed, Some(11), None));
    assert!(why.message.ends_with("given up after 3 crashes of its worker in 3 attempts"), "{why}");
    assert!(why.peak_ram_mb.is_some_and(|mb| mb > 0), "{why:?}");
    let (before, last) = (hosts(&record), record.attempt.as_ref().unwrap().agent.as_str());
    assert_ne!(before[0], before[1], "another host was free");
    assert_ne!(before[1], last, "another host was free");

    let key = submit(&client, "crash", json!({"how": "exit"}), at_once).await;
    let record = client.end(&key).await;
    let why = record.failure();
    assert_eq!((why.exit_code, why.signal), (Some(7), None));
    assert!(why.stderr.as_ref().unwrap().contains("the last words"), "{why:?}");

    // Whoever took the pill is well.
    for agent in &agents {
        assert!(is_alive(agent.pid()));
    }
    client.run("gate", &json!({})).await.value();
    let dead = client.dead().await;
    let kept: Vec<&Value> = dead.iter().map(|letter| &letter.body["evidence"]["ticket"]["body"]).collect();
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[1]["kwargs"], json!({"how": "exit"}), "it can be run again");
}

#[tokio::test]
async fn a_host_that_is_lost_too_often_takes_the_job_along() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let twice = RetryPolicy { host_losses: Some(2), ..RetryPolicy::default() };
    let key = submit(&client, "gate", json!({"until": gate, "log": log, "label": "1"}), twice).await;
    began(&log, "1").await;
    agent.kill();
    let mut agent = agent.plan().start();
    // In its second attempt it writes its label down once more.
    eventually("it began again", SOON, async || match lines(&log).len() {
        2 => Ok(()),
        other => Err(format!("{other} lines")),
    })
    .await;
    agent.kill();
    let _agent = agent.plan().start();
    let record = client.end(&key).await;
    let why = record.failure();
    assert_eq!(why.kind, FailureKind::HostLost);
    assert!(why.message.ends_with("given up after 2 lost hosts in 2 attempts"), "{why}");
    client.no_tickets().await;
    let dead = client.dead().await;
    assert_eq!(dead[0].subject, format!("grange.dead.host_lost.{}", key.job));
}
