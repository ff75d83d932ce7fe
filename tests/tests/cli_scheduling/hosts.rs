//! What the farm says of its hosts, and what jobs took.

use super::{BARE, NOT_FOUND, SMALL, USAGE, begun, eventually_shows, gates, host, submitted};
use grange_tests::gpus::Gpu;
use grange_tests::{Farm, GpuHost, plugin, repository};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;

#[tokio::test]
async fn agents_are_watched_until_ctrl_c() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let grange = farm.grange("alice");
    let mut tables = grange.start(&["agents", "--watch", "--every", "200ms"]);
    let mut lines = grange.start(&["agents", "h1", "--watch", "--every", "200ms", "--output", "json"]);
    tables.says("\n\n").await;
    tables.signal(Signal::INT);
    let said = tables.end().await.ends(0);
    assert!(said.out.matches("AGENT").count() > 1 && said.out.contains("Ctrl-C ends"), "{said:#?}");
    lines.says("}\n{").await;
    lines.signal(Signal::INT);
    for line in lines.end().await.ends(0).json_lines() {
        assert_eq!((&line["agent"], line["heartbeat_age_ms"].is_u64()), (&json!("h1"), true));
    }
    grange.run(&["agents", "h2", "--watch"]).await.fails(NOT_FOUND, &["no agent `h2` is up", "is it `h1`?"]);
    grange
        .run(&["agents", "unquarantine", "h1", "GPU-0"])
        .await
        .fails(NOT_FOUND, &["agent `h1` has no GPU `GPU-0`", "grange agents h1"]);
}

#[tokio::test]
async fn agents_show_what_can_be_given_and_what_was() {
    let farm = Farm::start().await;
    let plugins = gates(&farm, "plugins", &[("reader", json!({"gpus": 1, "vram_mb": 4096, "cpus": 2}))]);
    let _small = host(&farm, "h1", SMALL, std::slice::from_ref(&plugins)).await;
    let _bare = host(&farm, "h2", BARE, &[plugins]).await;
    let grange = farm.grange("alice");
    let job = begun(&farm, &grange, "reader", "first").await;
    let mut shown = String::new();
    eventually_shows(&grange, &["agents"], "reader 1 busy", &mut shown).await;
    let cells = |name: &str| {
        let line = shown.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let h1 = cells("h1");
    let wanted = ["h1", "ready", "1 × NVIDIA L4", "4.0/8.0 GiB", "4.0 GiB", "1", "6/8", "16.0/16.0 GiB"];
    assert_eq!(h1[..wanted.len()], wanted, "{shown}");
    assert_eq!(cells("h2")[..8], ["h2", "ready", "-", "-", "-", "0", "4/4", "8.0/8.0 GiB"], "{shown}");
    let one = grange.run(&["agents", "h1"]).await.ends(0).out;
    for part in ["GPU-small", "zone=lab", "4.0 GiB of VRAM, 2 cores", &job, "alice"] {
        assert!(one.contains(part), "{part}: {one}");
    }
    let json = grange.run(&["agents", "h1", "--output", "json"]).await.ends(0).json();
    assert_eq!((&json["workers"][0]["vram_mb"], &json["attempts"][0]["job"]), (&json!(4096), &json!(job)));
    assert_eq!(grange.run(&["agents", "h1", "--output", "quiet"]).await.ends(0).word(), "ready");
    grange.run(&["agents", "h9"]).await.fails(NOT_FOUND, &["no agent `h9` is up", "`h1`, `h2`"]);
    let plugins = grange.run(&["plugins"]).await.ends(0).out;
    let row: Vec<&str> = plugins.lines().nth(1).unwrap_or_default().split("  ").map(str::trim).collect();
    assert!(row.contains(&"1 GPU with 4.0 GiB, 2 cores") && row.contains(&"2 ready"), "{plugins}");
    let by_host = grange.run(&["plugins", "reader"]).await.ends(0).out;
    assert_eq!(by_host.lines().count(), 3, "{by_host}");
    grange.run(&["plugins", "raeder"]).await.fails(NOT_FOUND, &["is it `reader`?"]);
    fs::write(farm.path("open"), "").expect("a file");
    grange.run(&["result", &job, "--wait"]).await.ends(0);
    eventually_shows(&grange, &["agents"], "reader 1 idle", &mut shown).await;
}

#[tokio::test]
async fn usage_sums_up_by_owner_and_plugin() {
    let farm = Farm::start().await;
    let plugins = gates(&farm, "plugins", &[("reader", json!({"gpus": 1, "vram_mb": 2000}))]);
    let _agent = host(&farm, "h1", SMALL, &[plugins, repository().join("examples/plugins/echo")]).await;
    let (alice, bob) = (farm.grange("alice"), farm.grange("bob"));
    let none = alice.run(&["usage"]).await.ends(0);
    assert_eq!((none.out.as_str(), none.err.as_str()), ("", "no records of jobs are kept\n"));
    for _ in 0..2 {
        alice.run(&["submit", "reader"]).await.ends(0);
    }
    alice.run(&["submit", "echo", "fail=as told", "--no-stream"]).await.ends(3);
    bob.run(&["submit", "reader"]).await.ends(0);
    let waits = submitted(&bob, &["nobody-has-it"]).await;
    bob.run(&["cancel", &waits]).await.ends(0);
    let own = alice.run(&["usage", "--output", "json"]).await.ends(0).json();
    let row = |rows: &Value, owner: &str, plugin: &str| {
        let rows = rows.as_array().expect("an array");
        rows.iter().find(|row| row["owner"] == owner && row["plugin"] == plugin).cloned().unwrap_or_default()
    };
    assert_eq!(own.as_array().map(Vec::len), Some(2), "{own}");
    let reader = row(&own, "alice", "reader");
    assert_eq!((&reader["jobs"], &reader["succeeded"]), (&json!(2), &json!(2)), "{own}");
    assert!(
        reader["gpu_seconds"].as_f64() > Some(0.0) && reader["run_seconds"].as_f64() > Some(0.0),
        "{own}"
    );
    assert_eq!(row(&own, "alice", "echo")["failed"], 1);
    let all = alice.run(&["usage", "--all", "--since", "1h", "--output", "json"]).await.ends(0).json();
    assert_eq!(
        (&row(&all, "bob", "reader")["jobs"], &row(&all, "bob", "nobody-has-it")["dropped"]),
        (&json!(1), &json!(1)),
        "{all}"
    );
    let of_bob = alice
        .run(&["usage", "--owner", "bob", "--plugin", "reader", "--output", "json"])
        .await
        .ends(0)
        .json();
    assert_eq!(of_bob, json!([row(&all, "bob", "reader")]));
    let table = alice.run(&["usage", "--all"]).await.ends(0).out;
    let sum: Vec<&str> = table.lines().last().unwrap_or_default().split_whitespace().collect();
    assert_eq!(sum[..5], ["all", "5", "3", "1", "1"], "{table}");
    alice.run(&["usage", "--all", "--owner", "bob"]).await.fails(USAGE, &["`--all` and `--owner bob`"]);
    // What one job took stands in its record.
    let job = alice.run(&["submit", "reader"]).await.ends(0);
    job.complains(&["succeeded", "GPU-seconds"]);
    let status = alice.run(&["status", "@last"]).await.ends(0).out;
    assert!(status.contains("GPU-seconds"), "{status}");
    alice.run(&["result", "@last"]).await.ends(0).complains(&["GPU-seconds"]);
}

#[tokio::test]
async fn a_gpu_that_was_taken_out_of_service_is_named_and_can_be_put_back() {
    let farm = Farm::start().await;
    let gpus = GpuHost::new(&farm, "h1", vec![Gpu::new("GPU-a1", "NVIDIA L4", 8192)])
        .with("reader", &json!({"resources": {"vram_mb": 4000}}));
    let _agent = gpus.start(&farm).await;
    let grange = farm.grange("alice");
    gpus.gpus.xid("GPU-a1", 79);
    let mut shown = String::new();
    eventually_shows(&grange, &["agents"], "h1: GPU GPU-a1 is quarantined: ", &mut shown).await;
    assert!(shown.contains("79"), "{shown}");
    let one = grange.run(&["agents", "h1"]).await.ends(0).out;
    assert!(one.contains("quarantined: "), "{one}");
    let job = submitted(&grange, &["reader"]).await;
    eventually_shows(&grange, &["why", &job], "h1  GPU `GPU-a1` is quarantined: ", &mut shown).await;
    let refused = grange.run(&["submit", "reader", "--policy", "safety"]).await;
    refused.fails(super::REFUSED, &["h1  GPU `GPU-a1` is quarantined"]);
    let answer =
        grange.run(&["agents", "unquarantine", "h1", "gpu-a", "--output", "json"]).await.ends(0).json();
    assert_eq!((&answer["agent"], &answer["ok"]), (&json!("h1"), &json!(true)), "{answer}");
    grange.run(&["result", &job, "--wait"]).await.ends(0);
    // Once more is no error.
    grange.run(&["agents", "unquarantine", "h1"]).await.ends(0);
}
