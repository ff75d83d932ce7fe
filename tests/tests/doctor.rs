//! `grange doctor` names what is wrong with a broker, and what mends it.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_tests::{Farm, Grange, eventually, plugin};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// The checks of a kind that are not well, with their texts and advice.
async fn finds(grange: &Grange, check: &str, code: i32) -> Vec<(String, String)> {
    let said = grange.run(&["doctor", "--output", "json"]).await.ends(code);
    let of_kind = |line: &Value| line["check"] == check && line["verdict"] != "ok";
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    said.json_lines().iter().filter(|l| of_kind(l)).map(|l| (text(&l["text"]), text(&l["advice"]))).collect()
}

async fn api(farm: &Farm, verb: &str, body: Value) -> Value {
    let broker = farm.broker().await;
    let answer = broker.request(format!("$JS.API.{verb}"), body.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
    answer
}

#[tokio::test]
async fn a_stream_that_differs_is_named_and_init_mends_it() {
    let farm = Farm::start().await;
    let grange = farm.grange("alice");
    assert_eq!(finds(&grange, "streams", 0).await, []);
    let mut config = api(&farm, "STREAM.INFO.GRANGE_JOBS", json!({})).await["config"].clone();
    config["discard"] = "old".into();
    config["duplicate_window"] = 1_000_000_000.into();
    api(&farm, "STREAM.UPDATE.GRANGE_JOBS", config).await;
    let found = finds(&grange, "streams", 8).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].0.contains("`discard` is \"old\", not \"new\"") && found[0].0.contains("`duplicate_window`")
    );
    assert!(found[0].1.contains("`grange init`"));
    grange.run(&["init"]).await.ends(0);
    assert_eq!(finds(&grange, "streams", 0).await, []);
    // What no update changes.
    api(&farm, "STREAM.DELETE.GRANGE_DEAD", json!({})).await;
    let made = json!({"name": "GRANGE_DEAD", "subjects": ["grange.dead.*.*"], "storage": "memory"});
    api(&farm, "STREAM.CREATE.GRANGE_DEAD", made).await;
    let found = finds(&grange, "streams", 8).await;
    assert!(
        found[0].0.contains("`storage` is \"memory\"") && found[0].1.contains("delete the stream"),
        "{found:?}"
    );
}

#[tokio::test]
async fn risks_are_named() {
    let farm = Farm::start().await;
    let grange = farm.grange("alice");
    // Without its monitoring pages nobody can know.
    let sync = finds(&grange, "durability", 0).await;
    assert!(sync[0].0.contains("cannot be known") && sync[0].1.contains("power cut"), "{sync:?}");
    let client = farm.client("alice").await;
    client.submit("nobodys", &json!({})).await;
    let waits = finds(&grange, "queues", 0).await;
    assert!(waits[0].0.contains("1 tickets lie") && waits[0].0.contains("no agent"), "{waits:?}");
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let broker = farm.broker().await;
    let stored = broker.request("grange.dead.malformed.x".to_owned(), "{}".into()).await.unwrap();
    assert!(!stored.payload.is_empty(), "the stream says that it has it");
    assert!(finds(&grange, "dead letters", 0).await[0].0.starts_with("1 dead letter"));
    eventually("the ticket that nobody takes is named", SOON, async || {
        match finds(&grange, "queues", 0).await.first() {
            Some((text, _)) if text.contains("`nobodys`") && text.contains("no agent has it") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    grange.run(&["agents", "drain", "h1", "--wait", "--reason", "new driver"]).await.ends(0);
    assert!(finds(&grange, "agents", 0).await[0].0.contains("drained: new driver"));
}
