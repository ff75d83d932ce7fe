//! A job's life: states, history, priorities, cancels, limits, retries.

use grange_broker_client::cancel::Cancelled;
use grange_broker_client::follow::{Since, Update};
use grange_broker_client::query::job_status;
use grange_protocol::failure::FailureKind;
use grange_protocol::json::Json;
use grange_protocol::lifecycle::request_cancel;
use grange_protocol::name::{Class, JobId};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Record, State};
use grange_protocol::ticket::Priority;
use grange_tests::processes::{all_gone, named};
use grange_tests::{Client, Farm, Returned, began, eventually, lines, plugin};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn open(gate: &Path) {
    std::fs::write(gate, "").expect("the gate opens");
}

fn states(record: &Record) -> Vec<State> {
    record.history.iter().map(|moment| moment.state).collect()
}

#[tokio::test]
async fn a_record_tells_the_life_of_its_job() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let gate = farm.path("gate");
    let key = client.submit("gate", &json!({"until": gate, "label": "a"})).await;
    let running = client.reaches(&key, State::Running).await;
    let attempt = running.attempt.as_ref().unwrap();
    assert_eq!((attempt.number, attempt.agent.as_str(), attempt.lease_s), (1, "h1", 30));
    assert!(running.outcome.is_none() && running.submitted_ms > 1_700_000_000_000);
    open(&gate);
    let record = client.end(&key).await;
    assert_eq!(states(&record), [State::Running, State::Succeeded]);
    assert!(
        record.history.iter().all(|m| m.attempt == Some(1) && m.agent.as_ref().unwrap().as_str() == "h1")
    );
    assert!(record.history[1].at_ms >= record.history[0].at_ms);
    assert_eq!(record.value()["label"], "a");
    let outcome = record.outcome.as_ref().unwrap();
    assert!(outcome.usage.run_ms > 0.0 && outcome.chunks == 0 && outcome.chunks_sha256.is_none());
    client.no_tickets().await;
}

#[tokio::test]
async fn arguments_arrive_as_they_were_given() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("given"), plugin("gate")]).await;
    let client = farm.client("alice").await;
    let mut submission = client.submission("given", &json!({"ü": {"deep": [1, 2.5, null, true]}}));
    submission.ticket.args = Some(Json::from(&json!([1, "zwei", [3], -0.5e-3, 9_007_199_254_740_993_i64])));
    let key = client.send(submission).await;
    let value = client.end(&key).await.value();
    assert_eq!(value["args"], json!([1, "zwei", [3], -0.0005, 9_007_199_254_740_993_i64]));
    assert_eq!(value["kwargs"], json!({"ü": {"deep": [1, 2.5, null, true]}}));
    let record = client.run("gate", &json!({"no_such": 1})).await;
    assert_eq!(record.failure().kind, FailureKind::InvalidInput);
    assert!(record.failure().message.contains("no_such"), "{}", record.failure());
}

#[tokio::test]
async fn the_higher_priority_goes_first_when_a_slot_is_free() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let blocker = client.submit("gate", &json!({"until": gate, "log": log, "label": "first"})).await;
    client.reaches(&blocker, State::Running).await;
    let mut keys = Vec::new();
    for priority in [Priority::Low, Priority::Normal, Priority::High, Priority::Urgent] {
        for n in 0..2 {
            let label = format!("{priority} {n}");
            let mut submission = client.submission("gate", &json!({"log": log, "label": label}));
            submission.lane.priority = priority;
            keys.push(client.send(submission).await);
        }
    }
    open(&gate);
    for key in &keys {
        assert_eq!(client.end(key).await.state, State::Succeeded);
    }
    let order =
        ["first", "urgent 0", "urgent 1", "high 0", "high 1", "normal 0", "normal 1", "low 0", "low 1"];
    assert_eq!(lines(&log), order);
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_never_runs() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let log = farm.path("log");
    let key = client.submit("gate", &json!({"log": log, "label": "cancelled"})).await;
    assert_eq!(client.cancel(&key).await, Cancelled::AtOnce);
    assert_eq!(client.record(&key).await.unwrap().state, State::Cancelled);
    assert_eq!(client.cancel(&key).await, Cancelled::AlreadyEnded(State::Cancelled));
    assert_eq!(client.tickets().await, [""; 0]);
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    client.run("gate", &json!({"log": log, "label": "good"})).await.value();
    assert_eq!(lines(&log), ["good"]);
}

#[tokio::test]
async fn a_running_job_that_listens_is_cancelled_and_its_worker_stays() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let before = client.run("gate", &json!({})).await.value();
    let key = client.submit("gate", &json!({"until": farm.path("never")})).await;
    client.reaches(&key, State::Running).await;
    assert_eq!(client.cancel(&key).await, Cancelled::Requested);
    let record = client.end(&key).await;
    assert_eq!(record.state, State::Cancelled);
    assert_eq!(record.cancel_requested.as_ref().unwrap().reason, "the test wants it");
    let after = client.run("gate", &json!({})).await.value();
    assert_eq!(before["pid"], after["pid"], "the worker is still the same");
    client.no_tickets().await;
}

#[tokio::test]
async fn a_running_job_that_does_not_listen_is_killed_with_all_its_processes() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("stubborn"), plugin("gate")]).await;
    let client = farm.client("alice").await;
    let key = client.submit("stubborn", &json!({"log": farm.path("log")})).await;
    let tree = agent.tree_with("sleep", 2).await;
    let asked = Instant::now();
    assert_eq!(client.cancel(&key).await, Cancelled::Requested);
    let limit = Duration::from_secs(2); // one second of grace, and one more
    all_gone(&tree, limit.saturating_sub(asked.elapsed())).await;
    assert!(asked.elapsed() >= Duration::from_millis(900), "it was given its grace: {:?}", asked.elapsed());
    assert_eq!(client.end(&key).await.state, State::Cancelled);
    client.run("gate", &json!({})).await.value();
    assert_eq!(lines(&farm.path("log")), ["1"]);
}

#[tokio::test]
async fn a_cancel_that_comes_too_late_says_so() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let key = client.submit("gate", &json!({})).await;
    client.end(&key).await.value();
    assert_eq!(client.cancel(&key).await, Cancelled::AlreadyEnded(State::Succeeded));
    assert_eq!(client.record(&key).await.unwrap().state, State::Succeeded);
}

#[tokio::test]
async fn a_cancel_whose_word_was_lost_is_found_after_a_reconnect() {
    let mut farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let key = client.submit("gate", &json!({"until": farm.path("never")})).await;
    client.reaches(&key, State::Running).await;
    let Stored::Record { sequence, record, .. } = client.ledger.read(&key).await.unwrap() else { panic!() };
    let asked = request_cancel(Some((&record, sequence)), &record.lane(), "no word of it", 1).unwrap();
    client.ledger.write(&key, sequence, &asked, None).await.unwrap();
    farm.nats.kill().await.unwrap();
    farm.nats.restart().await.unwrap();
    let client = farm.client("alice").await;
    assert_eq!(client.end(&key).await.state, State::Cancelled);
}

#[tokio::test]
async fn a_run_beyond_its_time_fails() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("gate"), plugin("stubborn")]).await;
    let client = farm.client("alice").await;
    let mut listens = client.submission("gate", &json!({"until": farm.path("never")}));
    listens.ticket.limits.timeout_s = Some(1);
    let mut blocks = client.submission("stubborn", &json!({"log": farm.path("log")}));
    blocks.ticket.limits.timeout_s = Some(1);
    blocks.ticket.limits.cancel_grace_s = Some(0);
    for submission in [listens, blocks] {
        let key = client.send(submission).await;
        let record = client.end(&key).await;
        assert_eq!(record.failure().kind, FailureKind::TimedOut);
        assert!(record.failure().message.contains("1 s"), "{}", record.failure());
        assert_eq!(record.attempt.as_ref().unwrap().number, 1);
    }
    eventually("no process of the plugin is left", SOON, async || {
        match named(&agent.descendants(), "sleep") {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        }
    })
    .await;
    client.run("gate", &json!({})).await.value();
}

#[tokio::test]
async fn a_job_that_waits_too_long_expires_and_never_runs() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    let log = farm.path("log");
    let mut submission = client.submission("gate", &json!({"log": log, "label": "late"}));
    submission.max_wait = Some(Duration::from_secs(1));
    let key = client.send(submission).await;
    assert_eq!(client.record(&key).await.unwrap().state, State::Queued);
    let mut follow = client.follow(&key, Since::Start).await;
    let told = tokio::time::timeout(SOON, async {
        loop {
            if let Some(Update::State { expired_marker: true, .. }) = follow.next().await.unwrap() {
                return;
            }
        }
    });
    told.await.expect("the follower is told when the wait is over");
    let view = job_status(&client.broker, &client.ledger, &key).await.unwrap();
    assert_eq!(view.state(), State::Expired);
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    assert_eq!(client.rest(follow).await.record().state, State::Expired);
    client.run("gate", &json!({"log": log, "label": "good"})).await.value();
    assert_eq!(lines(&log), ["good"]);
    client.no_tickets().await;
}

#[tokio::test]
async fn a_job_that_starts_in_time_does_not_expire() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let gate = farm.path("gate");
    let mut submission = client.submission("gate", &json!({"until": gate}));
    submission.max_wait = Some(Duration::from_secs(1));
    let key = client.send(submission).await;
    let running = client.reaches(&key, State::Running).await;
    assert_eq!(states(&running), [State::Queued, State::Running], "the claim goes on from its record");
    // A second job outlasts the first one's wait: the broker has its chance to let the record run out.
    let mut other = client.submission("given", &json!({}));
    other.max_wait = Some(Duration::from_secs(2));
    let other = client.send(other).await;
    eventually("the other wait is over", SOON, async || match client.record(&other).await {
        None => Ok(()),
        Some(record) => Err(record.state.to_string()),
    })
    .await;
    assert_eq!(client.record(&key).await.unwrap(), running);
    open(&gate);
    client.end(&key).await.value();
}

#[tokio::test]
async fn the_same_id_twice_is_one_job() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let log = farm.path("log");
    for _ in 0..3 {
        let mut submission = client.submission("gate", &json!({"log": log, "label": "once"}));
        submission.job = Some(JobId::new("my-job").unwrap());
        let key = client.send(submission).await;
        client.end(&key).await.value();
    }
    assert_eq!(lines(&log), ["once"]);
}

#[tokio::test]
async fn a_ticket_that_comes_again_runs_once() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let lane = Client::lane("wide");
    let key = client.submit("wide", &json!({"until": gate, "log": log, "label": "once"})).await;
    began(&log, "once").await;
    let journal = std::fs::read_to_string(agent.plan().state.join("journal")).unwrap();
    let entry: serde_json::Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    let ack = entry["+"]["ack"].as_str().unwrap().to_owned();
    client.broker.client().publish(ack, "-NAK".into()).await.unwrap();
    // Whoever hands a ticket back rings its bell.
    let bell = key.ticket(&lane).replacen("grange.jobs.", "grange.bell.", 1);
    client.broker.client().publish(bell, "".into()).await.unwrap();
    eventually("the ticket was delivered again", SOON, async || {
        match client.queue_facts(&key.queue(&lane)).await {
            facts if facts.deliveries >= 2 => Ok(()),
            facts => Err(format!("{facts:?}")),
        }
    })
    .await;
    // Its bell rings for nothing: this job comes after it through the same agent.
    client.run("wide", &json!({"log": log, "label": "other"})).await.value();
    open(&gate);
    assert_eq!(client.end(&key).await.value()["attempt"], 1);
    assert_eq!(lines(&log), ["once", "other"]);
    client.no_tickets().await;
    // Another ticket of a job that has ended is settled without a run.
    client.put(&key.ticket(&lane), &[("Nats-Msg-Id", &format!("{}/m1", key.job))], "{}").await;
    client.no_tickets().await;
    assert_eq!(lines(&log), ["once", "other"]);
    assert_eq!(client.record(&key).await.unwrap().state, State::Succeeded);
}

#[tokio::test]
async fn a_crashed_run_is_tried_again() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("crash")]).await;
    let client = farm.client("alice").await;
    for how in ["exit", "segv", "orphan"] {
        let record = client.run("crash", &json!({"how": how, "times": 1})).await;
        assert_eq!(record.value(), json!(2));
        assert_eq!(record.tries.worker_crashes, 1);
        let states = states(&record);
        assert_eq!(
            (states.len(), states[1], states[3]),
            (4, State::Retrying, State::Succeeded),
            "{states:?}"
        );
        let left = named(&agent.descendants(), "sleep");
        assert!(left.is_empty(), "{left:?} outlived the worker that started them");
    }
    client.no_tickets().await;
    assert!(client.dead().await.is_empty());
}

#[tokio::test]
async fn a_job_that_crashes_its_worker_three_times_is_given_up_with_its_evidence() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("crash"), plugin("gate")]).await;
    let client = farm.client("alice").await;
    let key = client.submit("crash", &json!({})).await;
    let record = client.end(&key).await;
    let why = record.failure();
    assert_eq!((why.kind, why.exit_code, why.signal), (FailureKind::WorkerCrashed, Some(7), None), "{why:?}");
    assert!(why.stderr.as_ref().unwrap().contains("the last words"), "{why:?}");
    assert_eq!(record.attempt.as_ref().unwrap().number, 3);
    client.no_tickets().await;
    let dead = client.dead().await;
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0].subject, format!("grange.dead.worker_crashed.{}", key.job));
    assert_eq!((&dead[0].body["owner"], &dead[0].body["job"]), (&json!("alice"), &json!(key.job.as_str())));
    assert_eq!(dead[0].body["evidence"]["failure"]["exit_code"], 7);
    assert_eq!(dead[0].body["evidence"]["record"]["tries"]["worker_crashes"], 2);
    client.run("gate", &json!({})).await.value();
}

#[tokio::test]
async fn a_job_of_the_class_any_runs() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let mut submission = client.submission("gate", &json!({"label": "any"}));
    submission.lane.class = Class::any();
    let key = client.send(submission).await;
    let record = client.end(&key).await;
    assert_eq!((record.value()["label"].as_str(), record.class.as_str()), (Some("any"), "any"));
    client.no_tickets().await;
}
