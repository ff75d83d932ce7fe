//! The streams and buckets as DESIGN.md says.

use crate::farm::{Farm, lane, options, server};
use grange_broker_client::topology::{Change, TopologyOptions, ensure, ensure_lane, remove};
use grange_broker_client::{Broker, ErrorKind};
use serde_json::{Value, json};
use std::time::Duration;

async fn config(broker: &Broker, stream: &str) -> Value {
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    let answer = broker.request(subject, "".into()).await.unwrap();
    serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].clone()
}

#[tokio::test]
async fn it_is_made_once_and_is_as_designed() {
    let farm = Farm::start().await;
    let again = ensure(&farm.broker, &TopologyOptions::default()).await.unwrap();
    assert_eq!(again.len(), 9);
    for ensured in &again {
        assert_eq!(ensured.change, Change::Unchanged, "{}", ensured.name);
    }
    let jobs = config(&farm.broker, "GRANGE_JOBS").await;
    for (field, value) in [
        ("retention", json!("workqueue")),
        ("max_consumers", json!(5000)),
        ("duplicate_window", json!(120_000_000_000_u64)),
        ("discard", json!("new")),
        ("max_msg_size", json!(1_000_000)),
        ("allow_direct", json!(true)),
        ("republish", json!({"src": "grange.jobs.>", "dest": "grange.bell.>", "headers_only": true})),
    ] {
        assert_eq!(jobs[field], value, "{field}");
    }
    assert_ne!(jobs["allow_msg_ttl"], true, "tickets never run out");
    let state = config(&farm.broker, "GRANGE_STATE").await;
    assert_eq!(state["max_msgs_per_subject"], 1);
    assert_eq!(state["allow_msg_ttl"], true);
    assert_eq!(state["subject_delete_marker_ttl"], 86_400_000_000_000_u64);
    let heartbeats = farm.broker.jetstream().get_key_value("grange_agents").await.unwrap();
    heartbeats.put("host-1", "{}".into()).await.unwrap();
    assert_eq!(heartbeats.get("host-1").await.unwrap().unwrap(), "{}");
}

#[tokio::test]
async fn what_differs_is_set_right_and_sizes_are_the_operators() {
    let farm = Farm::start().await;
    let mut jobs = config(&farm.broker, "GRANGE_JOBS").await;
    jobs["max_consumers"] = json!(7);
    jobs["max_bytes"] = json!(12_345_678);
    let body = serde_json::to_vec(&jobs).unwrap();
    let subject = "$JS.API.STREAM.UPDATE.GRANGE_JOBS".to_owned();
    let answer = farm.broker.request(subject, body.into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer.payload).contains("\"error\""));
    let done = ensure(&farm.broker, &TopologyOptions::default()).await.unwrap();
    assert_eq!(done[0].change, Change::Updated(vec!["max_consumers".to_owned()]));
    assert_eq!(config(&farm.broker, "GRANGE_JOBS").await["max_bytes"], 12_345_678);
    let resized = TopologyOptions {
        resize: true,
        jobs_max_bytes: 1 << 29,
        events_max_age: Duration::from_secs(3600),
        ..TopologyOptions::default()
    };
    ensure(&farm.broker, &resized).await.unwrap();
    assert_eq!(config(&farm.broker, "GRANGE_JOBS").await["max_bytes"], 1 << 29);
    assert_eq!(config(&farm.broker, "GRANGE_EVENTS").await["max_age"], 3_600_000_000_000_u64);
}

#[tokio::test]
async fn several_may_start_at_once() {
    let (server, _folder) = server("").await;
    let mut starting = tokio::task::JoinSet::new();
    for size in 0..6 {
        let url = server.url();
        starting.spawn(async move {
            let broker = Broker::connect(&options(&url)).await.unwrap();
            let options = TopologyOptions { dead_max_bytes: (1 << 20) + size, ..TopologyOptions::default() };
            ensure(&broker, &options).await.unwrap();
            ensure_lane(&broker, &lane("echo")).await.unwrap();
        });
    }
    starting.join_all().await;
}

#[tokio::test]
async fn a_lane_is_always_the_same() {
    let farm = Farm::start().await;
    for _ in 0..3 {
        ensure_lane(&farm.broker, &lane("echo")).await.unwrap();
    }
    let subject = format!("$JS.API.CONSUMER.INFO.GRANGE_JOBS.{}", lane("echo").consumer());
    let answer = farm.broker.request(subject, "".into()).await.unwrap();
    let config = serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].clone();
    for (field, value) in [
        ("ack_policy", json!("explicit")),
        ("ack_wait", json!(30_000_000_000_u64)),
        ("max_deliver", json!(-1)),
        ("max_ack_pending", json!(-1)),
        ("max_waiting", json!(4096)),
        ("filter_subject", json!(lane("echo").filter())),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
}

#[tokio::test]
async fn nothing_is_left_and_that_is_told() {
    let farm = Farm::start().await;
    remove(&farm.broker).await.unwrap();
    remove(&farm.broker).await.unwrap();
    let error = farm.ledger.read(&crate::farm::new_key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTopology, "{error}");
    let error = ensure_lane(&farm.broker, &lane("echo")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTopology, "{error}");
}

#[tokio::test]
async fn a_server_with_too_little_room_is_named() {
    let (server, _folder) = server("").await;
    let broker = Broker::connect(&options(&server.url())).await.unwrap();
    let greedy = TopologyOptions { jobs_max_bytes: 1 << 60, ..TopologyOptions::default() };
    let error = ensure(&broker, &greedy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
}
