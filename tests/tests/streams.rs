//! What a job says while it runs: chunks, progress, logs, live and from history.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use grange_broker_client::follow::{Follow, Since};
use grange_broker_client::objects::Objects;
use grange_protocol::event::ChunkTally;
use grange_protocol::object::ObjectRef;
use grange_protocol::record::State;
use grange_protocol::subject::JobKey;
use grange_tests::{Client, Farm, Returned, Story, eventually, plugin};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

async fn at_work(farm: &Farm) -> (grange_tests::Agent, Client) {
    let agent = farm.agent("h1", &[plugin("talker"), plugin("given")]).await;
    (agent, farm.client("alice").await)
}

/// The chunks are these, from this index on, each once, in order.
fn said(story: &Story, from: u64, values: &[Value]) {
    let indices: Vec<u64> = story.chunks.iter().map(|(index, ..)| *index).collect();
    let expected: Vec<u64> = (from..from + values.len() as u64).collect();
    assert_eq!(indices, expected, "{:?}", story.end);
    assert!(story.values() == values, "the values differ");
}

fn numbers(count: u64) -> Vec<Value> {
    (0..count).map(|n| json!(n)).collect()
}

/// The record's count and digest are those of these chunks.
fn sealed(story: &Story, values: &[Value]) {
    let mut tally = ChunkTally::default();
    for value in values {
        tally.add(format!("{value}\n").as_bytes(), 1);
    }
    let outcome = story.record().outcome.as_ref().unwrap();
    assert_eq!(outcome.chunks, values.len() as u64);
    assert_eq!(outcome.chunks_sha256, (!values.is_empty()).then(|| tally.sha256()));
}

async fn hear_until_chunk(follow: &mut Follow, index: u64) -> Story {
    let mut story = Story::default();
    let heard = tokio::time::timeout(SOON, async {
        while story.chunks.last().is_none_or(|chunk| chunk.0 < index) {
            let update = follow.next().await.unwrap();
            story.take(update.unwrap_or_else(|| panic!("it has ended: {story:?}")));
        }
    });
    heard.await.expect("the chunk comes");
    story
}

#[tokio::test]
async fn chunks_come_live_and_from_history_in_order() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let gate = farm.path("gate");
    let key = client.submit("talker", &json!({"count": 10, "until": gate})).await;
    let mut follow = client.follow(&key, Since::Start).await;
    let first = hear_until_chunk(&mut follow, 5).await;
    said(&first, 0, &numbers(6));
    std::fs::write(&gate, "").unwrap();
    let rest = client.rest(follow).await;
    said(&rest, 6, &numbers(10)[6..]);
    assert_eq!(rest.record().value(), json!({"said": 10}));
    sealed(&rest, &numbers(10));
    let again = client.story(&key, Since::Start).await;
    said(&again, 0, &numbers(10));
    assert_eq!((again.attempts, again.record().state), (1, State::Succeeded));
}

#[tokio::test]
async fn a_reader_resumes_where_it_was() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let gate = farm.path("gate");
    let key = client.submit("talker", &json!({"count": 10, "until": gate})).await;
    let mut follow = client.follow(&key, Since::Start).await;
    let first = hear_until_chunk(&mut follow, 5).await;
    drop(follow);
    let since = Since::After(first.chunks.last().unwrap().1);
    let resumed = client.follow(&key, since).await;
    std::fs::write(&gate, "").unwrap();
    let rest = client.rest(resumed).await;
    said(&rest, 6, &numbers(10)[6..]);
    said(&client.story(&key, since).await, 6, &numbers(10)[6..]);
    let after_all = Since::After(rest.chunks.last().unwrap().1);
    said(&client.story(&key, after_all).await, 10, &[]);
}

#[tokio::test]
async fn twenty_thousand_chunks_arrive_with_their_digest() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let values: Vec<Value> = (0..20_000).map(|n| json!(format!("{n} {}", "x".repeat(64)))).collect();
    let key = client.submit("talker", &json!({"count": 20_000, "size": 64})).await;
    // One reads as it comes; the other subscribes and does not read until all is said.
    let slow = client.follow(&key, Since::Start).await;
    let story = client.story(&key, Since::Start).await;
    said(&story, 0, &values);
    sealed(&story, &values);
    said(&client.rest(slow).await, 0, &values);
    said(&client.story(&key, Since::Start).await, 0, &values);
}

#[tokio::test]
async fn a_plugin_waits_at_its_window_while_the_broker_is_slow() {
    let farm = Farm::start().await;
    let mut plan = farm.plan("h1", &[plugin("talker")]);
    plan.config = "[limits]\nchunk_window = 64\n".to_owned();
    let _agent = plan.start();
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    let (gate, tell) = (farm.path("gate"), farm.path("tell"));
    let arguments = json!({"count": 1000, "size": 1000, "until": gate, "tell": tell});
    let key = client.submit("talker", &arguments).await;
    let mut follow = client.follow(&key, Since::Start).await;
    hear_until_chunk(&mut follow, 500).await;
    farm.nats.freeze().await.unwrap();
    std::fs::write(&gate, "").unwrap();
    let told = || std::fs::read_to_string(&tell).unwrap().parse::<u64>().unwrap_or(0);
    eventually("the window is full", SOON, async || match told() {
        n if n >= 500 + 63 => Ok(()),
        n => Err(format!("it is at {n}")),
    })
    .await;
    // What was credited before the broker froze can be in flight beside one window.
    let held_at = told();
    assert!(held_at <= 500 + 2 * 64 + 1, "it went on to {held_at}");
    farm.nats.thaw().unwrap();
    let rest = client.rest(follow).await;
    assert_eq!(rest.chunks.last().unwrap().0, 999);
    let story = client.story(&key, Since::Start).await;
    let values: Vec<Value> = (0..1000).map(|n| json!(format!("{n} {}", "x".repeat(1000)))).collect();
    said(&story, 0, &values);
}

#[tokio::test]
async fn a_big_chunk_travels_by_reference() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let key = client.submit("talker", &json!({"count": 2, "size": 300_000})).await;
    let story = client.story(&key, Since::Start).await;
    assert_eq!(story.chunks.len(), 2);
    let objects = Objects::open(&farm.objects_url(), &BTreeMap::new()).await.unwrap();
    for (n, value) in story.values().iter().enumerate() {
        let object: ObjectRef = serde_json::from_value(value["$object"].clone()).unwrap();
        let path = farm.path("chunk");
        objects.get_to_file(&object, &path).await.unwrap();
        let text: String = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(text, format!("{n} {}", "x".repeat(300_000)));
    }
}

#[tokio::test]
async fn chunks_of_a_lost_attempt_do_not_count() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let key = client.submit("talker", &json!({"count": 10, "crash_at": 4})).await;
    let live = client.story(&key, Since::Start).await;
    let later = client.story(&key, Since::Start).await;
    for story in [&live, &later] {
        said(story, 0, &numbers(10));
        assert_eq!(story.attempts, 2);
        sealed(story, &numbers(10));
    }
    assert_eq!(live.record().attempt.as_ref().unwrap().number, 2);
}

#[tokio::test]
async fn progress_is_told_to_the_end() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let key = client.submit("talker", &json!({"steps": 50})).await;
    let story = client.story(&key, Since::Start).await;
    let last = story.progress.last().unwrap();
    assert_eq!((last.progress, last.message.as_str()), (1.0, "step 50"));
    assert!(story.progress.is_sorted_by(|a, b| a.progress < b.progress), "{:?}", story.progress);
}

#[tokio::test]
async fn lines_belong_to_the_run_that_printed_them() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let meet = farm.path("meet");
    std::fs::create_dir(&meet).unwrap();
    let names = ["left", "right"];
    let mut keys: Vec<JobKey> = Vec::new();
    for name in names {
        let arguments = json!({"name": name, "lines": 200, "count": 1, "meet": meet});
        keys.push(client.submit("talker", &arguments).await);
    }
    for (key, name) in keys.iter().zip(names) {
        let story = client.story(key, Since::Start).await;
        let expected = |stream: &str| (0..200).map(|n| format!("{name} {stream} {n}")).collect::<Vec<_>>();
        assert_eq!(story.lines("stdout"), expected("out"));
        assert_eq!(story.lines("stderr"), expected("err"));
    }
}

#[tokio::test]
async fn a_plugin_without_a_stream_gives_its_result_as_one_chunk() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let mut submission = client.submission("given", &json!({"a": 1}));
    submission.ticket.stream = Some(true);
    let key = client.send(submission).await;
    let story = client.story(&key, Since::Start).await;
    said(&story, 0, &[json!({"args": [], "kwargs": {"a": 1}})]);
    assert_eq!(story.record().value(), Value::Null);
    let mut submission = client.submission("talker", &json!({"count": 3}));
    submission.ticket.stream = Some(false);
    let key = client.send(submission).await;
    let story = client.story(&key, Since::Start).await;
    said(&story, 0, &[]);
    assert_eq!(story.record().value(), json!("not streamed"));
}
