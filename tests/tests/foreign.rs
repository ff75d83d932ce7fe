//! Messages from publishers that know nothing of our library, or mean no good.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::topology::ensure_queue;
use grange_protocol::failure::FailureKind;
use grange_protocol::name::{JobId, Owner};
use grange_protocol::record::State;
use grange_protocol::subject::{JobKey, Queue};
use grange_tests::{Agent, Client, Farm, Returned, began, lines, plugin};
use serde_json::json;

const LANE: &str = "grange.jobs.default.normal.gate";

fn key(job: &str) -> JobKey {
    JobKey { owner: Owner::new("mallory").unwrap(), job: JobId::new(job).unwrap() }
}

/// Where everything here waits.
fn queue() -> Queue {
    key("none").queue(&Client::lane("gate"))
}

async fn at_work(farm: &Farm) -> (Agent, Client) {
    let agent = farm.agent("h1", &[plugin("gate"), plugin("given")]).await;
    (agent, farm.client("alice").await)
}

/// Everything is settled, what was buried was buried once, and the agent works on.
async fn all_is_well(agent: &mut Agent, client: &Client, buried: usize) {
    client.no_tickets().await;
    let facts = client.queue_facts(&queue()).await;
    assert_eq!((facts.waiting, facts.unsettled), (0, 0));
    let dead = client.dead().await;
    assert_eq!(dead.len(), buried, "{dead:?}");
    client.run("gate", &json!({})).await.value();
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    assert!(agent.descendants().len() >= 2, "the agent and its worker are there");
}

#[tokio::test]
async fn an_empty_message_is_a_job_without_arguments() {
    let farm = Farm::start().await;
    let (mut agent, client) = at_work(&farm).await;
    for (job, body) in [("empty", ""), ("braces", "{}"), ("more", r#"{"from_the_future":[1],"v":1}"#)] {
        client.put(&format!("{LANE}.mallory.{job}"), &[], body).await;
        let record = client.end(&key(job)).await;
        assert_eq!(record.value()["label"], "", "{job}");
    }
    all_is_well(&mut agent, &client, 0).await;
}

#[tokio::test]
async fn bodies_that_are_no_tickets_are_buried_with_their_reason() {
    let farm = Farm::start().await;
    let (mut agent, client) = at_work(&farm).await;
    let deep = format!(r#"{{"args":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let many = format!(r#"{{"args":[{}]}}"#, vec!["1"; 2_000].join(","));
    let bad: [(&str, Vec<u8>, &str); 14] = [
        ("text", b"run my job please".to_vec(), "not the JSON"),
        ("cut", br#"{"args":[1,"#.to_vec(), "not the JSON"),
        ("number", b"7".to_vec(), "not the JSON"),
        ("binary", vec![0xff, 0xfe, 0x00, 0x80, 0x81], "not the JSON"),
        ("not-utf8", b"{\"args\":[\"\xff\xfe\"]}".to_vec(), "not the JSON"),
        ("two", b"{}{}".to_vec(), "not the JSON"),
        ("args", br#"{"args":{"a":1}}"#.to_vec(), "`args` is not an array"),
        ("kwargs", br#"{"kwargs":[1]}"#.to_vec(), "`kwargs` is not an object"),
        ("version", br#"{"v":2}"#.to_vec(), "version 2"),
        ("limits", br#"{"limits":{"timeout_s":-1}}"#.to_vec(), "not the JSON"),
        ("lease", br#"{"limits":{"lease_s":1}}"#.to_vec(), "10 to 86400"),
        ("stream", br#"{"stream":"yes"}"#.to_vec(), "not the JSON"),
        ("many", many.into_bytes(), "at most 1000"),
        ("deep", deep.into_bytes(), "nested 100000 deep; the limit is 256"),
    ];
    for (job, body, _) in &bad {
        client.put(&format!("{LANE}.mallory.{job}"), &[], body.clone()).await;
    }
    for (job, body, text) in &bad {
        let record = client.end(&key(job)).await;
        assert_eq!(record.failure().kind, FailureKind::InvalidInput, "{job}: {:?}", record.failure());
        assert!(record.failure().message.contains(text), "{job}: {}", record.failure());
        assert!(record.attempt.is_none(), "{job}: nobody ran it");
        client.no_tickets().await;
        let dead = client.dead().await;
        let dead =
            dead.iter().find(|dead| dead.body["job"] == *job).unwrap_or_else(|| panic!("{job}: {dead:?}"));
        assert_eq!(dead.subject, format!("grange.dead.malformed.{job}"));
        assert_eq!((&dead.body["owner"], &dead.body["reason"]), (&json!("mallory"), &json!("malformed")));
        assert!(dead.body["evidence"]["why"].as_str().unwrap().contains(text));
        let start = String::from_utf8_lossy(&body[..body.len().min(512)]).into_owned();
        assert_eq!(dead.body["evidence"]["excerpt"], start);
    }
    all_is_well(&mut agent, &client, bad.len()).await;
}

#[tokio::test]
async fn a_message_at_the_limit_is_taken_and_one_above_is_refused_by_the_broker() {
    let farm = Farm::start().await;
    let (mut agent, client) = at_work(&farm).await;
    let body = |bytes: usize| format!(r#"{{"args":["{}"]}}"#, "x".repeat(bytes - r#"{"args":[""]}"#.len()));
    let lane = "grange.jobs.default.normal.given.mallory";
    // The broker counts the headers and a few bytes more; half of the limit is surely below it.
    client.put(&format!("{lane}.large"), &[], body(990_000)).await;
    let record = client.end(&key("large")).await;
    assert_eq!(record.state, State::Succeeded, "{:?}", record.outcome);
    assert!(record.outcome.as_ref().unwrap().result_object.is_some());
    let context = client.broker.jetstream();
    let sent = context.publish(format!("{lane}.larger"), body(1_000_001).into()).await;
    let refused = match sent {
        Ok(pending) => pending.await.map(drop).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(!refused.is_empty() && client.record(&key("larger")).await.is_none());
    all_is_well(&mut agent, &client, 0).await;
}

#[tokio::test]
async fn subjects_that_name_no_job_are_buried() {
    let farm = Farm::start().await;
    let (mut agent, client) = at_work(&farm).await;
    let long = "x".repeat(200);
    let bad = [
        "own$er.job",
        "owner.jöb",
        "owner.a=b",
        &format!("{long}.other"),
        &format!("owner.{long}"),
        "ow,ner.$$",
    ];
    for rest in bad {
        client.put(&format!("{LANE}.{rest}"), &[], "{}").await;
    }
    client.no_tickets().await;
    let dead = client.dead().await;
    for rest in bad {
        let subject = format!("{LANE}.{rest}");
        let found: Vec<_> = dead.iter().filter(|dead| dead.body["subject"] == *subject).collect();
        assert_eq!(found.len(), 1, "`{subject}` in {dead:?}");
        assert!(found[0].subject.starts_with("grange.dead.malformed."));
        assert!(
            found[0].body["evidence"]["why"].as_str().unwrap().contains("limit of 64")
                || found[0].body["evidence"]["why"].as_str().unwrap().contains("are allowed")
        );
    }
    all_is_well(&mut agent, &client, bad.len()).await;
}

#[tokio::test]
async fn a_state_header_that_is_wrong_runs_nothing_twice() {
    let farm = Farm::start().await;
    let (mut agent, client) = at_work(&farm).await;
    let log = farm.path("log");
    let body = |label: &str| json!({"kwargs": {"log": log, "label": label}}).to_string();
    for (job, header) in
        [("word", "soon"), ("minus", "-1"), ("blank", " "), ("huge", "99999999999999999999999")]
    {
        client.put(&format!("{LANE}.mallory.{job}"), &[("Grange-State", header)], body(job)).await;
        let record = client.end(&key(job)).await;
        assert_eq!(record.failure().kind, FailureKind::InvalidInput, "{job}");
        assert!(record.failure().message.contains("Grange-State"), "{}", record.failure());
    }
    client.no_tickets().await;
    // A revision that never was: the ticket builds on something that ran out, so it is over.
    client.put(&format!("{LANE}.mallory.future"), &[("Grange-State", "12345")], body("future")).await;
    client.no_tickets().await;
    assert_eq!(lines(&log), [""; 0]);
    // A wrong revision of a job that runs: one run goes on, and the ticket is settled with it.
    let gate = farm.path("gate");
    let running = json!({"kwargs": {"log": log, "label": "runs", "until": gate}}).to_string();
    client.put(&format!("{LANE}.mallory.runs"), &[], running).await;
    began(&log, "runs").await;
    client.put(&format!("{LANE}.mallory.runs"), &[("Grange-State", "7")], body("again")).await;
    std::fs::write(&gate, "").unwrap();
    client.end(&key("runs")).await.value();
    client.no_tickets().await;
    assert_eq!(lines(&log), ["runs"]);
    all_is_well(&mut agent, &client, 4).await;
}

#[tokio::test]
async fn bad_messages_that_waited_for_the_agent_are_buried_once_by_two_agents() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    ensure_queue(&client.broker, &queue()).await.unwrap();
    for n in 0..50 {
        client.put(&format!("{LANE}.mallory.bad-{n}"), &[], "no ticket").await;
    }
    let mut agent = farm.plan("h1", &[plugin("gate")]).start();
    let _other = farm.plan("h2", &[plugin("gate")]).start();
    for n in 0..50 {
        assert_eq!(client.end(&key(&format!("bad-{n}"))).await.failure().kind, FailureKind::InvalidInput);
    }
    all_is_well_of_two(&mut agent, &client).await;
}

async fn all_is_well_of_two(agent: &mut Agent, client: &Client) {
    client.no_tickets().await;
    assert_eq!(client.dead().await.len(), 50);
    client.run("gate", &json!({})).await.value();
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}

#[tokio::test]
async fn words_on_the_agents_own_subjects_do_no_harm() {
    let farm = Farm::start().await;
    let (mut agent, client) = at_work(&farm).await;
    let nats = client.broker.client();
    for body in ["", "garbage", "\u{0}", "{\"seq\":1}"] {
        // Bells that ring for nothing, or for no queue at all.
        nats.publish("grange.bell.default.normal.gate.mallory.none".to_owned(), body.into()).await.unwrap();
        nats.publish("grange.bell.default.soon.gate.mallory.none".to_owned(), body.into()).await.unwrap();
        nats.publish("grange.bell.any.high.gate.x.y.z".to_owned(), body.into()).await.unwrap();
        nats.publish("grange.ctl.h1.cancel".to_owned(), body.into()).await.unwrap();
        nats.publish("grange.on.state.alice.job".to_owned(), body.into()).await.unwrap();
        nats.publish("$KV.grange_agents.h1.more".to_owned(), body.into()).await.unwrap();
    }
    nats.flush().await.unwrap();
    client.run("gate", &json!({})).await.value();
    assert_eq!(client.queue_facts(&queue()).await.unsettled, 0);
    all_is_well(&mut agent, &client, 0).await;
}
