//! Jobs that are submitted later: at their time, once, through restarts of the broker, and not after a cancel.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::schedules::submit_at;
use grange_broker_client::submit::{Once, Submission};
use grange_protocol::name::JobId;
use grange_protocol::record::State;
use grange_protocol::subject::JobKey;
use grange_tests::{Client, Farm, Grange, Returned, eventually, lines, plugin};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(60);
const CANCELLED: i32 = 4;

fn in_ms(ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap() + ms
}

fn witness(client: &Client, log: &Path, label: &str) -> Submission {
    let submission = client.submission("witness", &json!({"log": log, "label": label}));
    Submission { job: Some(JobId::new(label).unwrap()), ..submission }
}

async fn later(client: &Client, submission: Submission, at_ms: u64) -> JobKey {
    let sent = submit_at(&client.broker, &client.ledger, submission, Once::AnyRequest, at_ms).await;
    sent.unwrap().key
}

/// What lies in the schedules' stream.
async fn nothing_is_left(client: &Client) {
    eventually("no schedule is left", SOON, async || {
        match client.subjects("GRANGE_SCHEDULES", "grange.>").await {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
}

async fn state(grange: &Grange, job: &str) -> String {
    grange.run(&["status", job, "--output", "quiet"]).await.ends(0).word()
}

#[tokio::test]
async fn a_delayed_job_is_shown_and_runs_at_its_time() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("given")]).await;
    let grange = farm.grange("alice");
    let far = ["submit", "given", "n=1", "--at", "2030-12-01T08:00+01:00", "--detach"];
    let far = grange.run(&far).await.ends(0).word();
    assert_eq!(state(&grange, &far).await, "delayed");
    let status = grange.run(&["status", &far, "--output", "json"]).await.ends(0).json();
    assert_eq!(
        (&status["state"], &status["due_ms"], &status["plugin"]),
        (&json!("delayed"), &json!(1_922_338_800_000_u64), &json!("given"))
    );
    let human = grange.run(&["status", &far]).await.ends(0).out;
    assert!(human.contains("submitted at 2030-12-01 07:00:00"), "{human}");
    let listed = grange.run(&["jobs", "--state", "delayed", "--output", "quiet"]).await.ends(0).word();
    assert_eq!(listed, far);
    let why = grange.run(&["why", &far, "--output", "json"]).await.ends(0).json();
    assert_eq!((&why["reason"], &why["due_ms"]), (&json!("delayed"), &status["due_ms"]));
    grange.run(&["result", &far]).await.fails(10, &["is delayed, so it has no result yet"]);

    // Another priority is that of its time.
    grange.run(&["priority", &far, "low"]).await.ends(0);
    let moved = grange.run(&["status", &far, "--output", "json"]).await.ends(0).json();
    assert_eq!((&moved["priority"], &moved["due_ms"]), (&json!("low"), &status["due_ms"]));

    // Cancelled, it is gone at once.
    assert_eq!(grange.run(&["cancel", &far, "--output", "quiet"]).await.ends(0).word(), "cancelled");
    assert_eq!(state(&grange, &far).await, "cancelled");
    assert_eq!(grange.run(&["cancel", &far, "--output", "quiet"]).await.ends(0).word(), "cancelled");
    nothing_is_left(&farm.client("alice").await).await;

    // One that is near is followed to its end.
    let near = grange.run(&["submit", "given", "n=2", "--delay", "1s", "--output", "json"]).await.ends(0);
    let events = near.json_lines();
    assert!(events[0]["due_ms"].is_u64(), "{near:#?}");
    let end = events.last().unwrap();
    assert_eq!((&end["state"], &end["result"]["kwargs"]), (&json!("succeeded"), &json!({"n": 2})));
}

#[tokio::test]
async fn its_time_is_kept_by_a_broker_that_was_down() {
    let mut farm = Farm::start().await;
    let client = farm.client("alice").await;
    let log = farm.path("log");
    let (soon, at_ms) = (witness(&client, &log, "soon"), in_ms(1_500));
    let soon = later(&client, soon, at_ms).await;
    let far = later(&client, witness(&client, &log, "far"), in_ms(3_600_000)).await;
    farm.nats.kill().await.unwrap();
    eventually("its time is past", SOON, async || if in_ms(0) > at_ms { Ok(()) } else { Err("it is not") })
        .await;
    farm.nats.restart().await.unwrap();
    let client = farm.client("alice").await;
    // Nobody is there to carry it: it waits for an agent.
    let grange = farm.grange("alice");
    eventually("it has fired", SOON, async || {
        match client.subjects("GRANGE_SCHEDULES", "grange.due.>").await {
            due if due.len() == 1 => Ok(()),
            due => Err(format!("{due:?}")),
        }
    })
    .await;
    assert_eq!(state(&grange, "soon").await, "delayed");
    let _agent = farm.agent("h1", &[plugin("witness")]).await;
    assert_eq!(client.end(&soon).await.value(), json!("soon"));
    assert_eq!(state(&grange, "far").await, "delayed");
    assert_eq!(client.cancel(&far).await, grange_broker_client::cancel::Cancelled::AtOnce);
    nothing_is_left(&client).await;
    assert_eq!(lines(&log), ["begin soon", "end soon"]);
}

#[tokio::test]
async fn an_id_that_ended_never_runs_again() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("witness")]).await;
    let client = farm.client("alice").await;
    let log = farm.path("log");
    let key = later(&client, witness(&client, &log, "once"), in_ms(0)).await;
    client.end(&key).await;
    nothing_is_left(&client).await;
    // By our own client: it is known.
    let again = witness(&client, &log, "once");
    let again = submit_at(&client.broker, &client.ledger, again, Once::AnyRequest, in_ms(0)).await.unwrap();
    assert!(again.duplicate && again.due_ms.is_none());
    // By somebody who only knows NATS: a schedule that fires, what it fires, and a plain ticket.
    let target = "grange.due.default.normal.witness.alice.once";
    let body = json!({"kwargs": {"log": log, "label": "once"}}).to_string();
    let headers = [("Nats-Schedule", "@at 2020-01-01T00:00:00Z"), ("Nats-Schedule-Target", target)];
    client.put("grange.schedule.alice.once", &headers, body.clone()).await;
    nothing_is_left(&client).await;
    client.put(target, &[], body.clone()).await;
    nothing_is_left(&client).await;
    client.put("grange.jobs.default.normal.witness.alice.once", &[], body).await;
    client.no_tickets().await;
    assert_eq!(lines(&log), ["begin once", "end once"]);
}

#[tokio::test]
async fn a_cancel_that_races_with_its_time_is_true() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("witness")]).await;
    let client = farm.client("alice").await;
    let log = farm.path("log");
    for n in 0..12_u64 {
        let label = format!("race-{n}");
        let key = later(&client, witness(&client, &log, &label), in_ms(40 * n)).await;
        let outcome = client.cancel(&key).await;
        let record = client.end(&key).await;
        if outcome == grange_broker_client::cancel::Cancelled::AtOnce {
            assert_eq!(record.state, State::Cancelled);
        }
        if record.state == State::Succeeded {
            assert!(lines(&log).contains(&format!("end {label}")));
        }
    }
    nothing_is_left(&client).await;
    client.no_tickets().await;
    let ran = lines(&log);
    for n in 0..12 {
        let key = JobKey { owner: client.owner.clone(), job: JobId::new(format!("race-{n}")).unwrap() };
        let record = client.record(&key).await.unwrap();
        if record.state == State::Cancelled && record.attempt.is_none() {
            assert!(!ran.contains(&format!("begin race-{n}")), "it began after its cancel was acknowledged");
        }
    }
}

#[tokio::test]
async fn a_limited_wait_begins_with_its_time() {
    let farm = Farm::start().await;
    // This agent carries it, and cannot run it.
    let _agent = farm.agent("h1", &[plugin("given")]).await;
    let grange = farm.grange("alice");
    let words = ["submit", "witness", "--unchecked", "--delay", "1s", "--max-wait", "1s"];
    let said = grange.run(&words).await;
    assert_eq!(said.code, Some(5), "{said:#?}");
}

#[tokio::test]
async fn nobody_schedules_for_somebody_else() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("given")]).await;
    let client = farm.client("mallory").await;
    let target = "grange.due.default.normal.given.alice.stolen";
    let headers = [("Nats-Schedule", "@at 2020-01-01T00:00:00Z"), ("Nats-Schedule-Target", target)];
    client.put("grange.schedule.mallory.stolen", &headers, "").await;
    nothing_is_left(&client).await;
    let dead = client.dead().await;
    assert_eq!(dead.len(), 1);
    assert!(dead[0].body.to_string().contains("which may not"), "{}", dead[0].body);
    assert!(client.tickets().await.is_empty());
}

#[tokio::test]
async fn a_key_is_one_job() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("witness")]).await;
    let grange = farm.grange("alice");
    let log = farm.path("log");
    let logged = format!("log={}", log.display());
    let words =
        ["submit", "witness", &logged, "label=a", "--idempotency-key", "order 17", "--output", "quiet"];
    let (first, second) = tokio::join!(grange.run(&words), grange.run(&words));
    assert_eq!((first.ends(0).word(), second.ends(0).word()), ("\"a\"".into(), "\"a\"".into()));
    let again = grange.run(&[&words[..6], &["--detach"]].concat()).await.ends(0);
    again.complains(&["was submitted before; it is succeeded"]);
    assert_eq!(lines(&log), ["begin a", "end a"]);
    let other = grange.run(&["submit", "witness", &logged, "label=b", "--idempotency-key", "order 17"]).await;
    other.fails(1, &["this key was used for another request", "is succeeded"]);
    // Another owner's key is another job; a delayed one is one job too.
    let bob = farm.grange("bob");
    let keyed = ["submit", "witness", &logged, "label=c", "--idempotency-key", "order 17"];
    let delayed = [&keyed[..], &["--delay", "1h", "--detach"]].concat();
    let first = bob.run(&delayed).await.ends(0).word();
    let second = bob.run(&delayed).await.ends(0);
    assert_eq!(second.word(), first);
    second.complains(&["was submitted before; it is delayed"]);
    assert_eq!(bob.run(&["cancel", &first, "--output", "quiet"]).await.ends(0).word(), "cancelled");
    bob.run(&keyed).await.ends(CANCELLED);
    assert_eq!(lines(&log).len(), 2);
}
