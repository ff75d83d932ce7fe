//! The streams and buckets as DESIGN.md says.

use crate::farm::{Farm, lane, options, server};
use grange_broker_client::topology::{
    Change, TopologyOptions, ensure, ensure_queue, queue_state, queues, remove, remove_queue,
};
use grange_broker_client::{Broker, ErrorKind};
use grange_protocol::name::{Class, MAX_CLASS_BYTES, MAX_NAME_BYTES, Owner};
use grange_protocol::subject::{JobKey, Queue};
use serde_json::{Value, json};
use std::time::Duration;

fn queue(plugin: &str, owner: &str) -> Queue {
    Queue { lane: lane(plugin), owner: Owner::new(owner).unwrap() }
}

async fn config(broker: &Broker, stream: &str) -> Value {
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    let answer = broker.request(subject, "".into()).await.unwrap();
    serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].clone()
}

#[tokio::test]
async fn it_is_made_once_and_is_as_designed() {
    let farm = Farm::start().await;
    let again = ensure(&farm.broker, &TopologyOptions::default()).await.unwrap();
    assert_eq!(again.len(), 10);
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
            ensure_queue(&broker, &queue("echo", "alice")).await.unwrap();
        });
    }
    starting.join_all().await;
}

#[tokio::test]
async fn a_queue_is_always_the_same() {
    let farm = Farm::start().await;
    for _ in 0..3 {
        ensure_queue(&farm.broker, &queue("echo", "alice")).await.unwrap();
    }
    let subject = format!("$JS.API.CONSUMER.INFO.GRANGE_JOBS.{}", queue("echo", "alice").consumer());
    let answer = farm.broker.request(subject, "".into()).await.unwrap();
    let config = serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].clone();
    for (field, value) in [
        ("ack_policy", json!("explicit")),
        ("ack_wait", json!(30_000_000_000_u64)),
        ("max_deliver", json!(-1)),
        ("max_ack_pending", json!(-1)),
        ("max_waiting", json!(4096)),
        ("filter_subject", json!(queue("echo", "alice").filter())),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
}

#[tokio::test]
async fn queues_are_found_by_their_names_and_removed() {
    let farm = Farm::start().await;
    assert_eq!(queues(&farm.broker).await.unwrap(), []);
    // More than one page of names.
    let mut wanted: Vec<Queue> = (0..1030).map(|n| queue("echo", &format!("owner-{n}"))).collect();
    wanted.sort();
    for made in &wanted {
        ensure_queue(&farm.broker, made).await.unwrap();
    }
    let strange = json!({ "stream_name": "GRANGE_JOBS", "config": {
        "name": "somebody", "durable_name": "somebody", "filter_subject": "grange.jobs.*.*.other.*.*",
        "ack_policy": "explicit", "deliver_policy": "all",
    }});
    let create = "$JS.API.CONSUMER.CREATE.GRANGE_JOBS.somebody.grange.jobs.*.*.other.*.*".to_owned();
    let made = farm.broker.request(create, strange.to_string().into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&made.payload).contains("error"));
    assert_eq!(queues(&farm.broker).await.unwrap(), wanted);
    let gone = wanted.pop().unwrap();
    remove_queue(&farm.broker, &gone).await.unwrap();
    remove_queue(&farm.broker, &gone).await.unwrap();
    assert_eq!(queues(&farm.broker).await.unwrap(), wanted);
    assert_eq!(queue_state(&farm.broker, &gone).await.unwrap(), None);
}

#[tokio::test]
async fn the_longest_names_make_a_queue() {
    let farm = Farm::start().await;
    let mut longest = queue(&"p".repeat(MAX_NAME_BYTES), &"o".repeat(MAX_NAME_BYTES));
    longest.lane.class = Class::new("c".repeat(MAX_CLASS_BYTES)).unwrap();
    assert_eq!(longest.consumer().len(), 255);
    ensure_queue(&farm.broker, &longest).await.unwrap();
    assert_eq!(queues(&farm.broker).await.unwrap(), [longest]);
}

#[tokio::test]
async fn a_queue_counts_the_tickets_of_its_owner_in_its_lane() {
    let farm = Farm::start().await;
    let (mine, theirs) = (queue("echo", "alice"), queue("echo", "bob"));
    ensure_queue(&farm.broker, &mine).await.unwrap();
    ensure_queue(&farm.broker, &theirs).await.unwrap();
    for (owner, job) in [("alice", "1"), ("bob", "1"), ("alice", "2")] {
        let key = JobKey { owner: owner.parse().unwrap(), job: job.parse().unwrap() };
        farm.broker.jetstream().publish(key.ticket(&mine.lane), "".into()).await.unwrap().await.unwrap();
    }
    let state = queue_state(&farm.broker, &mine).await.unwrap().unwrap();
    assert_eq!((state.waiting, state.handed_out, state.pulls, state.delivered), (2, 0, 0, 0));
    assert_eq!(queue_state(&farm.broker, &theirs).await.unwrap().unwrap().waiting, 1);
}

#[tokio::test]
async fn nothing_is_left_and_that_is_told() {
    let farm = Farm::start().await;
    remove(&farm.broker).await.unwrap();
    remove(&farm.broker).await.unwrap();
    let error = farm.ledger.read(&crate::farm::new_key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTopology, "{error}");
    let error = ensure_queue(&farm.broker, &queue("echo", "alice")).await.unwrap_err();
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
