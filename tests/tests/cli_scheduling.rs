//! Scheduling from the command line: what a job asks for, what becomes of one that nobody can start, why it waits, and
//! what the farm says of its hosts.

#[path = "cli_scheduling/hosts.rs"]
mod hosts;
#[path = "cli_scheduling/why.rs"]
mod why;

use grange_tests::{Agent, Farm, Grange, began, eventually, lines, plugin};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const OTHER: i32 = 1;
const USAGE: i32 = 2;
const CANCELLED: i32 = 4;
const EXPIRED: i32 = 5;
const REFUSED: i32 = 6;
const NOT_FOUND: i32 = 7;

/// A host with 8 cores, 16 GiB of memory and one GPU of 8 GiB.
const SMALL: &str = "[inventory]\ncpus = 8\nram_mb = 16384\nlabels = { zone = \"lab\" }\n\
    [[inventory.gpu]]\nuuid = \"GPU-small\"\nname = \"NVIDIA L4\"\nvram_mb = 8192\n";
/// A host without a GPU.
const BARE: &str = "[inventory]\ncpus = 4\nram_mb = 8192\nnvml_library = \"/nowhere/libnvidia-ml.so\"\n";

/// A plugin folder with gates: they hold what is said here, and wait until a file is there.
fn gates(farm: &Farm, folder: &str, plugins: &[(&str, Value)]) -> PathBuf {
    let folder = farm.path(folder);
    fs::create_dir_all(&folder).expect("a folder");
    for (name, resources) in plugins {
        let manifest = json!({
            "name": name, "version": "1", "description": "Waits", "module": "gate", "class": "Gate",
            "paths": [plugin("gate")], "resources": resources,
        });
        fs::write(folder.join(format!("{name}.json")), manifest.to_string()).expect("a manifest");
    }
    folder
}

/// An agent on a host that is as its configuration says, prepared.
async fn host(farm: &Farm, name: &str, config: &str, plugins: &[PathBuf]) -> Agent {
    let mut plan = farm.plan(name, plugins);
    plan.config = config.to_owned();
    let agent = plan.start();
    farm.client("harness").await.wait_for_plugins(name).await;
    agent
}

/// A job that has begun and goes on until the file `open` is there.
async fn begun(farm: &Farm, grange: &Grange, plugin: &str, label: &str) -> String {
    let log = farm.path("began");
    let (until, log_) = (farm.path("open").display().to_string(), log.display().to_string());
    let line = [
        "submit",
        "--detach",
        plugin,
        &format!("label={label}"),
        &format!("until={until}"),
        &format!("log={log_}"),
    ];
    let job = grange.run(&line).await.ends(0).word();
    began(&log, label).await;
    job
}

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
async fn safety_refuses_with_what_is_needed_and_what_each_host_has() {
    let farm = Farm::start().await;
    let plugins = gates(&farm, "plugins", &[("reader", json!({"gpus": 1, "vram_mb": 4096}))]);
    let _small = host(&farm, "h1", SMALL, std::slice::from_ref(&plugins)).await;
    let _bare = host(&farm, "h2", BARE, &[plugins]).await;
    let _other = host(&farm, "h3", SMALL, &[plugin("gate")]).await;
    let grange = farm.grange("alice");
    let safe = ["submit", "reader", "--policy", "safety"];
    let said = grange.run(&[&safe[..], &["--vram", "12g"]].concat()).await;
    said.fails(
        REFUSED,
        &[
            "no host can start `reader` now",
            "it needs 1 GPU with 12288 MiB of VRAM",
            "\n  h1  needs 12288 MiB of VRAM, has 8192 MiB at most\n",
            "\n  h2  needs 1 GPU(s), has none\n",
            "\n  h3  does not have the plugin\n",
            "hint: nothing was submitted",
        ],
    );
    let json =
        grange.run(&[&safe[..], &["--on", "zone=shed", "--output", "json"]].concat()).await.ends(REFUSED);
    let error: Value = serde_json::from_str(&json.err).expect("an object");
    assert_eq!((&error["exit"], json.out.as_str()), (&json!(6), ""), "{json:#?}");
    assert!(
        error["details"][0].as_str().is_some_and(|text| text.contains("needs zone=shed, has zone=lab")),
        "{error}"
    );
    assert_eq!(grange.run(&["jobs", "--output", "json"]).await.ends(0).json(), json!([]), "nothing was sent");
    // What is taken is refused, though it could wait.
    let first = begun(&farm, &grange, "reader", "first").await;
    eventually_shows(&grange, &["agents"], "reader 1 busy", &mut String::new()).await;
    grange.run(&safe).await.fails(REFUSED, &["h1  all its 1 places are taken"]);
    let waits = grange.run(&["submit", "reader", "--detach"]).await.ends(0);
    assert_eq!(waits.err, "", "{waits:#?}");
    fs::write(farm.path("open"), "").expect("a file");
    for job in [&first, &waits.word()] {
        grange.run(&["result", job, "--wait"]).await.ends(0);
    }
    // And what can start does.
    eventually_shows(&grange, &["agents"], "reader 1 idle", &mut String::new()).await;
    let set = farm.grange("alice").with("GRANGE_POLICY", "safety");
    set.run(&["submit", "reader", "label=x"]).await.ends(0).complains(&["succeeded", "on h1"]);
}

#[tokio::test]
async fn under_queue_a_job_that_no_host_could_ever_run_is_told_so_and_waits() {
    let farm = Farm::start().await;
    let plugins = gates(&farm, "plugins", &[("reader", json!({"gpus": 1, "vram_mb": 4096}))]);
    let _small = host(&farm, "h1", SMALL, &[plugins]).await;
    let grange = farm.grange("alice");
    let said = grange.run(&["submit", "reader", "--detach", "--vram", "9000"]).await.ends(0);
    let wanted = "warning: no host of this farm could run it: `h1`: needs 9000 MiB of VRAM, has 8192 MiB at most; it waits\n";
    assert_eq!(said.err, wanted);
    assert_eq!(status(&grange, &said.word()).await["state"], "queued");
    let fits = grange.run(&["submit", "reader", "--detach", "--vram", "8g"]).await.ends(0);
    assert_eq!(fits.err, "", "{fits:#?}");
    grange.run(&["result", &fits.word(), "--wait"]).await.ends(0);
}

#[tokio::test]
async fn under_safety_what_nobody_claims_in_time_is_refused() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("gate")]).await;
    let grange = farm.grange("alice");
    // Its heartbeat stands for a while, and it claims nothing.
    agent.signal(Signal::STOP);
    let began = Instant::now();
    let followed = grange.run(&["submit", "gate", "--policy", "safety", "--safety-ms", "200"]).await;
    followed.fails(REFUSED, &["refused", "no agent claimed it within 200 ms"]);
    grange.run(&["result", "@last"]).await.fails(REFUSED, &["refused", "within 200 ms"]);
    let detached = grange.run(&["submit", "gate", "--policy", "safety", "--detach"]).await;
    assert!(began.elapsed() < Duration::from_secs(5), "the heartbeat still stands: {detached:#?}");
    detached.fails(REFUSED, &["was refused: no agent claimed it within 500 ms", "--policy queue"]);
    agent.signal(Signal::CONT);
    grange.run(&["submit", "gate", "--policy", "safety"]).await.ends(0);
    farm.client("alice").await.no_tickets().await;
}

#[tokio::test]
async fn a_wait_that_runs_out_is_told_at_the_time_without_any_agent() {
    let farm = Farm::start().await;
    let grange = farm.grange("alice");
    let late = ["submit", "gate", "--unchecked", "--max-wait", "2s"];
    let began = Instant::now();
    let mut followed = grange.start(&late);
    let job = submitted(&grange, &["gate", "--max-wait", "2s"]).await;
    let (mut watched, mut waited) =
        (grange.start(&["watch", &job]), grange.start(&["result", &job, "--wait"]));
    for command in [&mut followed, &mut watched, &mut waited] {
        command.end().await.fails(EXPIRED, &["expired"]);
    }
    let took = began.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(6), "{took:?}");
    grange.run(&["result", &job]).await.fails(EXPIRED, &["expired"]);
}

#[tokio::test]
async fn a_job_that_gets_a_higher_priority_starts_before_older_ones() {
    let farm = Farm::start().await;
    let _agent =
        host(&farm, "h1", SMALL, &[gates(&farm, "plugins", &[("ocr", json!({"gpus": 1, "vram_mb": 2000}))])])
            .await;
    let grange = farm.grange("alice");
    begun(&farm, &grange, "ocr", "running").await;
    let log = format!("log={}", farm.path("began").display());
    let mut jobs = Vec::new();
    for label in ["one", "two", "three"] {
        jobs.push(submitted(&grange, &["ocr", &format!("label={label}"), &log]).await);
    }
    grange.run(&["priority", &jobs[2], "urgent"]).await.ends(0);
    // The agent has heard of the queue that it waits in now.
    let mut shown = String::new();
    eventually_shows(&grange, &["why", &jobs[2], "--output", "json"], "\"open\":true", &mut shown).await;
    fs::write(farm.path("open"), "").expect("a file");
    for job in &jobs {
        grange.run(&["result", job, "--wait"]).await.ends(0);
    }
    assert_eq!(lines(&farm.path("began")), ["running", "three", "one", "two"]);
    farm.client("alice").await.no_tickets().await;
}

/// Runs a command until this is on its stdout, which is kept.
async fn eventually_shows(grange: &Grange, words: &[&str], text: &str, shown: &mut String) {
    *shown = eventually(&format!("`{text}` is shown"), Duration::from_secs(20), async || {
        match grange.run(words).await.ends(0).out {
            out if out.contains(text) => Ok(out),
            out => Err(out),
        }
    })
    .await;
}
