//! Jobs that are submitted again and again: each firing is a job of its own, a missed one is made up for once.

use grange_tests::{Client, Farm, Grange, eventually, lines, plugin};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// The jobs of a recurring one that have records, by their ids.
async fn jobs_of(client: &Client, name: &str) -> Vec<String> {
    let subjects = client.subjects("GRANGE_STATE", "grange.state.*.*").await;
    let ids = subjects.iter().filter_map(|subject| subject.rsplit('.').next());
    let mut ids: Vec<String> =
        ids.filter(|id| id.starts_with(&format!("{name}-"))).map(str::to_owned).collect();
    ids.sort();
    ids
}

async fn shown(grange: &Grange, name: &str) -> Value {
    grange.run(&["cron", "show", name, "--output", "json"]).await.ends(0).json()
}

#[tokio::test]
async fn each_firing_is_a_job_of_its_own() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("witness")]).await;
    let (grange, client, log) = (farm.grange("alice"), farm.client("alice").await, farm.path("log"));
    let logged = format!("log={}", log.display());
    let add = ["cron", "add", "often", "@every 1s", "witness", &logged, "label=tick", "--max-wait", "1h"];
    grange.run(&add).await.ends(0).complains(&["`often` submits its first job at"]);
    grange.run(&add).await.fails(1, &["`alice` has a recurring job `often` already", "remove that first"]);
    let ran = eventually("it ran three times", SOON, async || {
        match lines(&log).iter().filter(|line| *line == "end tick").count() {
            count if count >= 3 => Ok(count),
            count => Err(count),
        }
    })
    .await;
    let cron = shown(&grange, "often").await;
    assert_eq!((&cron["when"], &cron["plugin"]), (&json!("@every 1s"), &json!("witness")));
    assert!(
        cron["next_ms"].is_u64() && cron["last"]["job"].as_str().unwrap().starts_with("often-"),
        "{cron}"
    );
    assert_eq!(grange.run(&["cron", "list", "--output", "quiet"]).await.ends(0).word(), "often");
    grange.run(&["cron", "list"]).await.ends(0);
    grange.run(&["cron", "remove", "often"]).await.ends(0);
    grange.run(&["cron", "remove", "often"]).await.fails(7, &["no recurring job `often`"]);
    grange.run(&["cron", "show", "often"]).await.fails(7, &["no recurring job `often`"]);
    assert!(jobs_of(&client, "often").await.len() >= ran);
    // What it submitted goes on, and no more comes: every run is of a job of its own.
    client.no_tickets().await;
    let (jobs, runs) = (jobs_of(&client, "often").await, lines(&log));
    assert_eq!(runs.iter().filter(|line| *line == "begin tick").count(), jobs.len(), "{jobs:?} {runs:?}");
}

#[tokio::test]
async fn one_is_started_beside_its_times() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("given")]).await;
    let grange = farm.grange("alice");
    let add = ["cron", "add", "nightly", "0 6 * * mon-fri", "--tz", "Europe/Berlin", "given", "n=1"];
    grange.run(&add).await.ends(0);
    let cron = shown(&grange, "nightly").await;
    assert_eq!((&cron["when"], &cron["zone"]), (&json!("0 0 6 * * 1,2,3,4,5"), &json!("Europe/Berlin")));
    assert_eq!((&cron["last"], &cron["kwargs"]), (&json!(null), &json!({"n": 1})));
    let job = grange.run(&["cron", "run", "nightly"]).await.ends(0).word();
    assert!(job.starts_with("nightly-"), "{job}");
    eventually("it is there", SOON, async || match grange.run(&["status", &job]).await {
        said if said.code == Some(0) => Ok(()),
        said => Err(said.err),
    })
    .await;
    let result = grange.run(&["result", &job, "--wait", "--output", "quiet"]).await.ends(0).json();
    assert_eq!(result["kwargs"], json!({"n": 1}));
    assert_eq!(shown(&grange, "nightly").await["last"]["job"], json!(job));
    // Somebody else's are listed, and are not in the way.
    farm.grange("bob").run(&["cron", "add", "nightly", "@daily", "given"]).await.ends(0);
    let all = grange.run(&["cron", "list", "--output", "json"]).await.ends(0).json();
    assert_eq!(all.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_missed_firing_is_made_up_for_once() {
    let mut farm = Farm::start().await;
    let grange = farm.grange("alice");
    let log = farm.path("log");
    let logged = format!("log={}", log.display());
    let add = ["cron", "add", "rare", "@every 4s", "witness", &logged, "label=made-up", "--unchecked"];
    grange.run(&add).await.ends(0);
    farm.nats.kill().await.unwrap();
    // Three times pass while nobody is there.
    let down = std::time::Instant::now();
    eventually("three times passed", SOON, async || match down.elapsed() {
        long if long > Duration::from_secs(13) => Ok(()),
        short => Err(format!("{short:?}")),
    })
    .await;
    farm.nats.restart().await.unwrap();
    let client = farm.client("alice").await;
    eventually("one is made up for", SOON, async || {
        match client.subjects("GRANGE_SCHEDULES", "grange.tick.>").await {
            ticks if ticks.is_empty() => Err("none"),
            _ => Ok(()),
        }
    })
    .await;
    farm.grange("alice").run(&["cron", "remove", "rare"]).await.ends(0);
    let missed = client.subjects("GRANGE_SCHEDULES", "grange.tick.>").await;
    assert_eq!(missed.len(), 1, "of one subject: {missed:?}");
    let _agent = farm.agent("h1", &[plugin("witness")]).await;
    eventually("it ran", SOON, async || match lines(&log) {
        ran if ran.contains(&"end made-up".to_owned()) => Ok(()),
        ran => Err(format!("{ran:?}")),
    })
    .await;
    client.no_tickets().await;
    // One made up for, and at most the next one that came before it was removed.
    assert!(jobs_of(&client, "rare").await.len() <= 2, "{:?}", lines(&log));
}

#[tokio::test]
async fn what_cannot_recur_is_told_before_anything_is_sent() {
    let farm = Farm::start().await;
    let grange = farm.grange("alice");
    let add = async |words: &[&str]| {
        let line = [&["cron", "add"], words, &["given", "--unchecked"]].concat();
        grange.run(&line).await
    };
    add(&["a", "0 6 * *"]).await.fails(2, &["has 4 fields", "@every 30m"]);
    add(&["a", "61 6 * * *"]).await.fails(2, &["minute `61` is not from 0 to 59"]);
    add(&["a", "@every 0s"]).await.fails(2, &["is no time from 1s to 366d"]);
    add(&["a", "0 0 31 2 *"]).await.fails(2, &["never comes"]);
    add(&["a", "@daily", "--tz", "Mars/Olympus"]).await.fails(2, &["`Mars/Olympus` is no time zone"]);
    add(&["a", "@every 1h", "--tz", "UTC"]).await.fails(2, &["it has no time zone"]);
    add(&["a.b", "@daily"]).await.fails(2, &["has a `.`"]);
    add(&[&"n".repeat(44), "@daily"]).await.fails(2, &["43 bytes at most"]);
    let client = farm.client("alice").await;
    assert!(client.subjects("GRANGE_SCHEDULES", ">").await.is_empty());
}
