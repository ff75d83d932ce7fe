//! Scheduling from the command line: what a job asks for, what becomes of one that nobody can start, why it waits, and
//! what the farm says of its hosts.

use grange_tests::{Farm, Grange, plugin};
use rustix::process::Signal;
use serde_json::{Value, json};

const OTHER: i32 = 1;
const USAGE: i32 = 2;
const CANCELLED: i32 = 4;
const NOT_FOUND: i32 = 7;

/// Submits without a look at the farm, and gives the job's id.
async fn submitted(grange: &Grange, words: &[&str]) -> String {
    let line = [&["submit", "--detach", "--unchecked"], words].concat();
    grange.run(&line).await.ends(0).word()
}

async fn status(grange: &Grange, job: &str) -> Value {
    grange.run(&["status", job, "--output", "json"]).await.ends(0).json()
}

#[tokio::test]
async fn a_request_that_cannot_be_meant_is_refused_before_anything_is_sent() {
    let farm = Farm::start().await;
    let grange = farm.grange("alice");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--gpus", "65"], &["--gpus", "at most 64 can be asked for"]),
        (&["--gpus", "0"], &["asks for nothing"]),
        (&["--vram", "300g"], &["`--vram` is 307200 MiB; at most 294912 MiB"]),
        (&["--vram", "99999t"], &["at most 16777216 MiB"]),
        (&["--vram", "much"], &["`much` is not an amount of memory"]),
        (&["--ram", "0"], &["asks for nothing"]),
        (&["--cpus", "513"], &["`--cpus` is 513; at most 512"]),
        (&["--on", "zone"], &["write it as `key=value`"]),
        (&["--on", "zone=a b"], &["letters, digits"]),
        (&["--on", "zone=a", "--on", "zone=b"], &["`--on zone` is given twice"]),
        (&["--policy", "hope"], &["queue, safety, permissive"]),
        (&["--policy", "permissive", "--vram", "8g"], &["`--vram` and the policy `permissive`", "hint: "]),
        (&["--policy", "safety", "--unchecked"], &["`--unchecked`", "safety"]),
        (&["--safety-ms", "100"], &["`--safety-ms`", "safety"]),
        (&["--priority", "1.5"], &["urgent, high, normal or low, or an integer"]),
    ];
    for (words, said) in cases {
        let line = [&["submit", "gate"], *words].concat();
        grange.run(&line).await.fails(USAGE, said);
    }
    let set = farm.grange("alice").with("GRANGE_POLICY", "hope");
    set.run(&["submit", "gate"]).await.fails(USAGE, &["GRANGE_POLICY: `hope` is not a policy"]);
    assert_eq!(grange.run(&["jobs", "--output", "json"]).await.ends(0).json(), json!([]));
}

#[tokio::test]
async fn what_a_job_asks_for_and_its_priority_make_its_lane() {
    let farm = Farm::start().await;
    let grange = farm.grange("alice");
    let large = submitted(&grange, &["gate", "--vram", "9g", "--on", "gpu=a100", "--priority", "12"]).await;
    let view = status(&grange, &large).await;
    assert_eq!((&view["class"], &view["priority"]), (&json!("g1+v12+gpu=a100"), &json!("urgent")));
    let low = submitted(&grange, &["gate", "--priority", "-1"]).await;
    assert_eq!(status(&grange, &low).await["priority"], "low");
    let any = farm.grange("alice").with("GRANGE_POLICY", "permissive");
    let any = submitted(&any, &["gate"]).await;
    assert_eq!(status(&grange, &any).await["class"], "any");
    let client = farm.client("alice").await;
    let mut tickets = client.tickets().await;
    tickets.sort();
    let mut wanted = vec![
        format!("grange.jobs.g1+v12+gpu=a100.urgent.gate.alice.{large}"),
        format!("grange.jobs.default.low.gate.alice.{low}"),
        format!("grange.jobs.any.normal.gate.alice.{any}"),
    ];
    wanted.sort();
    assert_eq!(tickets, wanted);
}

#[tokio::test]
async fn a_job_that_waits_gets_another_priority_and_one_that_ended_does_not() {
    let farm = Farm::start().await;
    let grange = farm.grange("alice");
    let job = submitted(&grange, &["gate"]).await;
    let moved = grange.run(&["priority", &job, "high"]).await.ends(0).word();
    assert_eq!(moved, format!("job {job} waits with priority high now; it was normal"));
    assert_eq!(status(&grange, &job).await["priority"], "high");
    let again = grange.run(&["priority", "@last", "5", "--output", "json"]).await.ends(0).json();
    assert_eq!(
        again,
        json!({"job": job, "owner": "alice", "priority": "high", "from": "high", "outcome": "unchanged"})
    );
    assert_eq!(grange.run(&["priority", &job, "-4", "--output", "quiet"]).await.ends(0).word(), "low");
    grange.run(&["priority", &job, "soon"]).await.fails(USAGE, &["urgent, high, normal or low"]);
    grange.run(&["cancel", &job]).await.ends(0);
    grange.run(&["result", &job]).await.fails(CANCELLED, &["cancelled"]);
    grange.run(&["priority", &job, "high"]).await.fails(OTHER, &["already cancelled", "grange status"]);
    grange.run(&["priority", "nothing-like-it", "high"]).await.fails(NOT_FOUND, &["no job"]);
}

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
