//! Acceptance of tickets.

use crate::farm::{Farm, lane, owner};
use grange_broker_client::ErrorKind;
use grange_broker_client::dead::{Dead, bury};
use grange_broker_client::submit::{Submission, new_job_id, submit, submit_later};
use grange_broker_client::topology::{TopologyOptions, ensure};
use grange_protocol::json::Json;
use grange_protocol::ownership::Stored;
use grange_protocol::record::State;
use grange_protocol::subject::Lane;
use grange_protocol::ticket::Ticket;
use serde_json::json;
use std::time::Duration;

pub(crate) fn echo() -> Submission {
    Submission { owner: owner(), job: None, lane: lane("echo"), ticket: Ticket::default(), max_wait: None }
}

#[tokio::test]
async fn the_same_id_is_the_same_job() {
    let farm = Farm::start().await;
    let submission = Submission { job: Some(new_job_id()), ..echo() };
    let first = submit(&farm.broker, &farm.ledger, submission.clone()).await.unwrap();
    assert!(!first.duplicate);
    let second = submit(&farm.broker, &farm.ledger, submission).await.unwrap();
    assert!(second.duplicate);
    assert_eq!((first.key, first.sequence), (second.key, second.sequence));
}

#[tokio::test]
async fn a_limited_wait_writes_a_record_that_the_ticket_builds_on() {
    let farm = Farm::start().await;
    let wait = Submission { job: Some(new_job_id()), max_wait: Some(Duration::from_secs(60)), ..echo() };
    let done = submit(&farm.broker, &farm.ledger, wait.clone()).await.unwrap();
    let Stored::Record { sequence, record, .. } = farm.ledger.read(&done.key).await.unwrap() else {
        panic!("no record");
    };
    assert_eq!(record.state, State::Queued);
    let jobs = farm.broker.jetstream().get_stream("GRANGE_JOBS").await.unwrap();
    let ticket = jobs.get_raw_message(done.sequence).await.unwrap();
    assert_eq!(ticket.headers.get("Grange-State").unwrap().as_str(), sequence.to_string());
    assert_eq!(ticket.headers.get("Nats-Msg-Id").unwrap().as_str(), done.key.to_string());
    assert!(submit(&farm.broker, &farm.ledger, wait.clone()).await.unwrap().duplicate);
    farm.claim(&done.key, "h1").await;
    let error = submit(&farm.broker, &farm.ledger, wait).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn tickets_are_sent_in_order_and_a_full_queue_says_so() {
    let farm = Farm::start().await;
    let mut accepted = Vec::new();
    for _ in 0..500 {
        accepted.push(submit_later(&farm.broker, &farm.ledger, echo()).await.unwrap().1);
    }
    let mut last = 0;
    for one in accepted {
        let sequence = one.await.unwrap().sequence;
        assert!(sequence > last);
        last = sequence;
    }
    let small = TopologyOptions { jobs_max_bytes: 150_000, resize: true, ..TopologyOptions::default() };
    ensure(&farm.broker, &small).await.unwrap();
    let kwargs = Some(Json::from(&json!({ "text": "x".repeat(100_000) })));
    let big = Submission { ticket: Ticket { kwargs, ..Ticket::default() }, ..echo() };
    let error = submit(&farm.broker, &farm.ledger, big).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
}

#[tokio::test]
async fn a_ticket_whose_resources_are_not_its_class_is_not_sent() {
    let farm = Farm::start().await;
    let asks = |text: &str| Ticket { resources: serde_json::from_str(text).unwrap(), ..Ticket::default() };
    let of = |class: &str| Lane { class: class.parse().unwrap(), ..lane("echo") };
    for (class, ticket, well) in [
        ("default", asks("null"), true),
        ("default", asks("{}"), true),
        ("any", asks("null"), true),
        ("g1+v12", asks(r#"{"vram_mb":9000}"#), true),
        ("g1+v12", asks("null"), false),
        ("g1+v8", asks(r#"{"vram_mb":9000}"#), false),
        ("g1+v16", asks(r#"{"vram_mb":9000}"#), false),
        ("default", asks(r#"{"vram_mb":9000}"#), false),
        ("any", asks(r#"{"cpus":2}"#), false),
    ] {
        let submission = Submission { lane: of(class), ticket: ticket.clone(), ..echo() };
        match submit(&farm.broker, &farm.ledger, submission).await {
            Ok(_) => assert!(well, "{class} {ticket:?}"),
            Err(error) => {
                assert!(!well, "{class} {ticket:?}: {error}");
                assert_eq!(error.kind(), ErrorKind::Invalid);
            }
        }
    }
}

#[tokio::test]
async fn a_ticket_over_the_limit_is_not_sent() {
    let farm = Farm::start().await;
    let kwargs = Some(Json::from(&json!({ "text": "x".repeat(1_000_001) })));
    let big = Submission { ticket: Ticket { kwargs, ..Ticket::default() }, ..echo() };
    let error = submit(&farm.broker, &farm.ledger, big).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("1000000"), "{error}");
}

#[tokio::test]
async fn the_dead_are_kept_once_with_their_evidence() {
    let farm = Farm::start().await;
    let key = crate::farm::new_key();
    let evidence = json!({ "why": "broken" });
    let first = bury(&farm.broker, "malformed", Dead::Job(&key), &evidence).await.unwrap();
    let again = bury(&farm.broker, "malformed", Dead::Job(&key), &evidence).await.unwrap();
    assert_eq!(first, again);
    let subject = "grange.jobs.default.soon.echo.a.b c";
    let second = bury(&farm.broker, "subject", Dead::Subject(subject), &evidence).await.unwrap();
    let dead = farm.broker.jetstream().get_stream("GRANGE_DEAD").await.unwrap();
    let kept = dead.get_raw_message(second).await.unwrap();
    assert_eq!(kept.subject.as_str(), "grange.dead.subject.bc");
    let body: serde_json::Value = serde_json::from_slice(&kept.payload).unwrap();
    assert_eq!((&body["subject"], &body["evidence"]), (&json!(subject), &evidence));
}
