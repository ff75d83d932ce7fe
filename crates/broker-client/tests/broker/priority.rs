//! Another priority for a job that waits.

use crate::farm::{Farm, eventually, holder, lane, new_key, tally};
use crate::submit::echo;
use grange_broker_client::ErrorKind;
use grange_broker_client::cancel::{Cancelled, cancel};
use grange_broker_client::priority::{Reprioritised, forward, reprioritise};
use grange_broker_client::submit::{Submission, submit};
use grange_protocol::lifecycle::{Claim, claim, move_to};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Record, State};
use grange_protocol::subject::{JobKey, Lane};
use grange_protocol::ticket::{Priority, Ticket};
use std::time::Duration;

fn high() -> Lane {
    Lane { priority: Priority::High, ..lane("echo") }
}

fn speaking() -> Submission {
    let args = Some(serde_json::from_str("[1,2]").unwrap());
    Submission { ticket: Ticket { args, ..Ticket::default() }, ..echo() }
}

async fn record(farm: &Farm, key: &JobKey) -> (u64, Record) {
    match farm.ledger.read(key).await.unwrap() {
        Stored::Record { sequence, record, .. } => (sequence, *record),
        other => panic!("{other:?}"),
    }
}

/// The tickets that there are, oldest first: subject, `Grange-State`, `Nats-Msg-Id`, body.
async fn tickets(farm: &Farm) -> Vec<(String, String, String, String)> {
    let mut jobs = farm.broker.jetstream().get_stream("GRANGE_JOBS").await.unwrap();
    let state = jobs.info().await.unwrap().state.clone();
    let mut found = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let Ok(message) = jobs.get_raw_message(sequence).await else { continue };
        let header = |name: &str| message.headers.get(name).unwrap().as_str().to_owned();
        let body = String::from_utf8(message.payload.to_vec()).unwrap();
        found.push((message.subject.to_string(), header("Grange-State"), header("Nats-Msg-Id"), body));
    }
    found
}

#[tokio::test]
async fn a_job_that_waits_is_moved_with_its_ticket() {
    let farm = Farm::start().await;
    let done = submit(&farm.broker, &farm.ledger, speaking()).await.unwrap();
    let answer = reprioritise(&farm.broker, &farm.ledger, &done.key, Priority::High).await.unwrap();
    assert_eq!(answer, Reprioritised::Moved { from: Priority::Normal });
    let (revision, moved) = record(&farm, &done.key).await;
    assert_eq!((moved.state, moved.lane()), (State::Queued, high()));
    assert!(moved.submitted_ms > 0, "the time of its submission is kept");
    let id = format!("{}/m{revision}", done.key);
    let body = r#"{"args":[1,2]}"#.to_owned();
    assert_eq!(tickets(&farm).await, [(done.key.ticket(&high()), revision.to_string(), id, body)]);
    let again = reprioritise(&farm.broker, &farm.ledger, &done.key, Priority::High).await.unwrap();
    assert_eq!(again, Reprioritised::Unchanged);
    assert_eq!(record(&farm, &done.key).await.0, revision);
    let back = reprioritise(&farm.broker, &farm.ledger, &done.key, Priority::Normal).await.unwrap();
    assert_eq!(back, Reprioritised::Moved { from: Priority::High });
    assert_eq!(tickets(&farm).await[0].0, done.key.ticket(&lane("echo")));
    assert_eq!(cancel(&farm.broker, &farm.ledger, &done.key, "").await.unwrap(), Cancelled::AtOnce);
    assert_eq!(tickets(&farm).await, []);
}

#[tokio::test]
async fn the_time_that_it_may_wait_goes_on() {
    let farm = Farm::start().await;
    let wait = Submission { max_wait: Some(Duration::from_secs(3)), ..echo() };
    let done = submit(&farm.broker, &farm.ledger, wait).await.unwrap();
    for priority in [Priority::High, Priority::Low, Priority::Urgent] {
        reprioritise(&farm.broker, &farm.ledger, &done.key, priority).await.unwrap();
        let state = farm.broker.jetstream().get_stream("GRANGE_STATE").await.unwrap();
        let stored = state.get_last_raw_message_by_subject(&done.key.state()).await.unwrap();
        let ttl = stored.headers.get("Nats-TTL").unwrap().as_str().to_owned();
        let ms: u64 = ttl.strip_suffix("ms").unwrap().parse().unwrap();
        assert!((1_000..=3_000).contains(&ms), "{ttl}");
    }
    eventually("the job expired", async || match farm.ledger.read(&done.key).await.unwrap() {
        Stored::Marker { .. } => Some(()),
        _ => None,
    })
    .await;
    let error = reprioritise(&farm.broker, &farm.ledger, &done.key, Priority::High).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("expired"), "{error}");
}

#[tokio::test]
async fn only_a_job_that_waits_is_moved() {
    let farm = Farm::start().await;
    let done = submit(&farm.broker, &farm.ledger, echo()).await.unwrap();
    let move_it =
        async || reprioritise(&farm.broker, &farm.ledger, &done.key, Priority::Low).await.unwrap_err();
    let (_, _, fence) = farm.claim(&done.key, "h1").await;
    let error = move_it().await;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("is running on `h1`"), "{error}");
    farm.succeed(&done.key, &fence, &tally([])).await;
    assert!(move_it().await.to_string().contains("is already succeeded"));
    let nobody = reprioritise(&farm.broker, &farm.ledger, &new_key(), Priority::Low).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_ticket_that_was_left_behind_is_passed_on_once() {
    let farm = Farm::start().await;
    let done = submit(&farm.broker, &farm.ledger, speaking()).await.unwrap();
    // Whoever moved it came no further than the record.
    let moved = move_to(None, &lane("echo"), &high(), 1, 2).unwrap();
    let revision = farm.ledger.write(&done.key, 0, &moved, None).await.unwrap();
    for _ in 0..3 {
        forward(&farm.broker, &done.key, &lane("echo"), &high(), revision).await.unwrap();
    }
    let found = tickets(&farm).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((&found[1].0, &found[1].1), (&done.key.ticket(&high()), &revision.to_string()));
    assert_eq!(found[0].3, found[1].3);
    // The one who asks again finishes what was begun.
    let other = submit(&farm.broker, &farm.ledger, speaking()).await.unwrap();
    farm.ledger.write(&other.key, 0, &moved, None).await.unwrap();
    let again = reprioritise(&farm.broker, &farm.ledger, &other.key, Priority::High).await.unwrap();
    assert_eq!(again, Reprioritised::Unchanged);
    assert_eq!(tickets(&farm).await.last().unwrap().0, other.key.ticket(&high()));
    let gone = new_key();
    forward(&farm.broker, &gone, &lane("echo"), &high(), 7).await.unwrap();
}

#[tokio::test]
async fn a_move_and_a_claim_never_both_win() {
    let farm = Farm::start().await;
    for _ in 0..40 {
        let done = submit(&farm.broker, &farm.ledger, echo()).await.unwrap();
        let wish = Claim { holder: holder("h1"), lease_s: 30, ahead: false, at_ms: 5 };
        let running = claim(None, &done.lane, 1, &wish).unwrap();
        let (moved, claimed) = tokio::join!(
            reprioritise(&farm.broker, &farm.ledger, &done.key, Priority::High),
            farm.ledger.write(&done.key, 0, &running, None),
        );
        let (_, now) = record(&farm, &done.key).await;
        match (moved, claimed) {
            (Ok(Reprioritised::Moved { .. }), Err(e)) => {
                assert_eq!((e.kind(), now.state), (ErrorKind::Conflict, State::Queued));
            }
            (Err(e), Ok(_)) => assert_eq!((e.kind(), now.state), (ErrorKind::Conflict, State::Running)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn of_many_moves_at_once_the_last_record_has_a_ticket() {
    let farm = Farm::start().await;
    for _ in 0..10 {
        let done = submit(&farm.broker, &farm.ledger, speaking()).await.unwrap();
        let mut moving = tokio::task::JoinSet::new();
        for priority in [Priority::High, Priority::Low, Priority::Urgent, Priority::High] {
            let (broker, ledger, key) = (farm.broker.clone(), farm.ledger.clone(), done.key.clone());
            moving.spawn(async move { reprioritise(&broker, &ledger, &key, priority).await.unwrap() });
        }
        moving.join_all().await;
        let (revision, now) = record(&farm, &done.key).await;
        let found = tickets(&farm).await;
        let there = (done.key.ticket(&now.lane()), revision.to_string());
        assert!(found.iter().any(|t| (&t.0, &t.1) == (&there.0, &there.1)), "{there:?} not in {found:?}");
        cancel(&farm.broker, &farm.ledger, &done.key, "").await.unwrap();
    }
}
