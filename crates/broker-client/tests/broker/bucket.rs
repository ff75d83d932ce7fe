//! Values with compare-and-set and a time to run out.

use crate::farm::{Farm, eventually};
use grange_broker_client::ErrorKind;
use grange_broker_client::bucket::Bucket;
use grange_protocol::facts::{Housekeeper, RunningByAgent};
use grange_protocol::subject::LANES_BUCKET;
use std::time::Duration;

const KEY: &str = "housekeeper";

fn duty(agent: &str) -> Housekeeper {
    Housekeeper { agent: agent.parse().unwrap(), incarnation: "i1".parse().unwrap() }
}

fn lanes(farm: &Farm) -> Bucket {
    Bucket::new(&farm.broker, LANES_BUCKET)
}

#[tokio::test]
async fn one_of_many_that_create_at_once_wins() {
    let farm = Farm::start().await;
    let mut trying = tokio::task::JoinSet::new();
    for n in 0..8 {
        let lanes = lanes(&farm);
        trying.spawn(async move { lanes.create(KEY, &duty(&format!("h{n}")), None).await });
    }
    let answers = trying.join_all().await;
    let won: Vec<u64> = answers.iter().filter_map(|answer| answer.as_ref().ok().copied()).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    let lost = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(lost.map(|e| e.kind()).eq([ErrorKind::Conflict; 7]));
    let entry = lanes(&farm).get::<Housekeeper>(KEY).await.unwrap().unwrap();
    assert_eq!(entry.revision, won[0]);
    assert!(entry.stored_ms > 1_600_000_000_000);
}

#[tokio::test]
async fn an_update_expects_what_was_read() {
    let farm = Farm::start().await;
    let lanes = lanes(&farm);
    assert!(lanes.get::<Housekeeper>(KEY).await.unwrap().is_none());
    let first = lanes.create(KEY, &duty("h1"), None).await.unwrap();
    let second = lanes.update(KEY, first, &duty("h2"), None).await.unwrap();
    let error = lanes.update(KEY, first, &duty("h3"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(lanes.delete(KEY, first).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(lanes.get::<Housekeeper>(KEY).await.unwrap().unwrap().value, duty("h2"));
    assert_eq!(lanes.get_copy::<Housekeeper>(KEY).await.unwrap().unwrap().revision, second);
    let third = lanes.put(KEY, &duty("h4"), None).await.unwrap();
    assert!(third > second);
}

#[tokio::test]
async fn a_deleted_key_is_nothing_and_can_be_made_again() {
    let farm = Farm::start().await;
    let lanes = lanes(&farm);
    for _ in 0..2 {
        let revision = lanes.create(KEY, &duty("h1"), None).await.unwrap();
        lanes.delete(KEY, revision).await.unwrap();
        assert!(lanes.get::<Housekeeper>(KEY).await.unwrap().is_none());
        assert!(lanes.get_copy::<Housekeeper>(KEY).await.unwrap().is_none());
        assert!(lanes.list::<Housekeeper>("*").await.unwrap().is_empty());
    }
    // What another NATS client deleted is gone as well.
    lanes.create(KEY, &duty("h1"), None).await.unwrap();
    farm.broker.jetstream().get_key_value(LANES_BUCKET).await.unwrap().delete(KEY).await.unwrap();
    assert!(lanes.get::<Housekeeper>(KEY).await.unwrap().is_none());
    lanes.create(KEY, &duty("h2"), None).await.unwrap();
}

#[tokio::test]
async fn a_value_runs_out_unless_it_is_renewed() {
    let farm = Farm::start().await;
    let lanes = lanes(&farm);
    let second = Some(Duration::from_secs(1));
    let revision = lanes.create(KEY, &duty("h1"), second).await.unwrap();
    lanes.create("kept", &duty("h1"), Some(Duration::from_secs(600))).await.unwrap();
    assert_eq!(lanes.create(KEY, &duty("h2"), None).await.unwrap_err().kind(), ErrorKind::Conflict);
    eventually("the value ran out", async || {
        lanes.get::<Housekeeper>(KEY).await.unwrap().is_none().then_some(())
    })
    .await;
    let error = lanes.update(KEY, revision, &duty("h1"), second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let renewed = lanes.create(KEY, &duty("h2"), second).await.unwrap();
    lanes.update(KEY, renewed, &duty("h2"), Some(Duration::from_secs(600))).await.unwrap();
    assert!(lanes.get::<Housekeeper>("kept").await.unwrap().is_some());
    let error = lanes.create("short", &duty("h1"), Some(Duration::from_millis(10))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn keys_are_listed_by_their_beginning() {
    let farm = Farm::start().await;
    let lanes = lanes(&farm);
    let count = |n: u32| RunningByAgent([("h1".parse().unwrap(), n)].into());
    for n in 0..600 {
        lanes.create(&format!("running.o{n}"), &count(n), None).await.unwrap();
    }
    lanes.put("running.o7", &count(7_000), None).await.unwrap();
    lanes.create(KEY, &duty("h1"), None).await.unwrap();
    let raw = farm.broker.jetstream().get_key_value(LANES_BUCKET).await.unwrap();
    raw.put("running.strange", "[1]".into()).await.unwrap();
    let found = lanes.list::<RunningByAgent>("running.*").await.unwrap();
    assert_eq!(found.len(), 600);
    assert_eq!(found["running.o599"].value, count(599));
    assert_eq!(found["running.o7"].value, count(7_000));
    assert!(lanes.list::<RunningByAgent>("none.*").await.unwrap().is_empty());
}
