//! Ctrl-C while a job is followed: with a terminal it asks, without one the job is left.

use grange_tests::{Farm, Grange, Running, eventually, plugin};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const CANCELLED: i32 = 4;
const LEFT: i32 = 130;
const SOON: Duration = Duration::from_secs(20);
/// What the key sends.
const CTRL_C: &str = "\x03";

/// A job that waits at a gate and a command that follows it; with the gate and the job's id.
async fn follows(
    farm: &Farm,
    grange: &Grange,
    start: impl Fn(&[&str]) -> Running,
) -> (Running, PathBuf, String) {
    let gate = farm.path("gate-file");
    let until = format!("until={}", gate.display());
    let running = start(&["submit", "gate", "label=followed", &until, "--output", "json"]);
    let job = eventually("the job runs", SOON, async || {
        let said = grange.run(&["jobs", "--state", "running", "--output", "quiet"]).await.ends(0);
        said.out.lines().next().map(str::to_owned).ok_or(running.err())
    })
    .await;
    (running, gate, job)
}

#[tokio::test]
async fn an_interrupt_where_nobody_can_be_asked_leaves_the_job() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let grange = farm.grange("alice");
    let (mut running, gate, job) = follows(&farm, &grange, |words| grange.start(words)).await;
    running.signal(Signal::INT);
    let said = running.end().await.ends(LEFT).complains(&[&job, "left running", "grange watch"]);
    assert!(said.json_lines().iter().all(|line| line["event"] != "end"), "{said:#?}");
    let mut watching = grange.start(&["watch", &job]);
    // It follows when it listens: what it does not know yet is asked again until it is heard.
    let said = eventually("the watch is interrupted", SOON, async || {
        let status = fs::read_to_string(format!("/proc/{}/status", watching.pid())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim();
        match u64::from_str_radix(caught, 16).unwrap_or(0) & (1 << (Signal::INT.as_raw() - 1)) {
            0 => Err("it does not listen yet"),
            _ => Ok(()),
        }
    });
    said.await;
    watching.signal(Signal::INT);
    watching.end().await.fails(LEFT, &["error: interrupted", &job, "left running", "hint: "]);
    assert_eq!(grange.run(&["status", &job, "--output", "quiet"]).await.ends(0).word(), "running");
    fs::write(&gate, "").unwrap();
    let said = grange.run(&["result", &job, "--wait", "--output", "quiet"]).await.ends(0);
    assert_eq!((said.json()["label"].as_str(), said.json()["attempt"].as_u64()), (Some("followed"), Some(1)));
}

#[tokio::test]
async fn an_interrupt_on_a_terminal_asks_and_c_cancels() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let grange = farm.grange("alice");
    let (mut running, _gate, job) = follows(&farm, &grange, |words| grange.start_on_terminal(words)).await;
    running.types(CTRL_C);
    running.says("leave the job running, or cancel it? [l/c]").await;
    running.types("what\n");
    eventually("it asks again", SOON, async || match running.out() {
        out if out.matches("[l/c]").count() == 2 => Ok(()),
        out => Err(out),
    })
    .await;
    running.types("c\n");
    let said = running.end().await;
    assert_eq!(said.code, Some(CANCELLED), "{said:#?}");
    let told = fs::read_to_string(grange.path("stdout")).unwrap();
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["event"], &last["state"], &last["job"]),
        (&json!("end"), &json!("cancelled"), &json!(job))
    );
    grange.run(&["submit", "gate"]).await.ends(0);
}

#[tokio::test]
async fn an_interrupt_on_a_terminal_asks_and_l_or_a_second_one_leaves() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let grange = farm.grange("alice");
    let (mut running, gate, job) = follows(&farm, &grange, |words| grange.start_on_terminal(words)).await;
    running.types(CTRL_C);
    running.says("[l/c]").await;
    running.types("l\n");
    let said = running.end().await;
    assert_eq!(said.code, Some(LEFT), "{said:#?}");
    assert!(said.out.contains(&job) && said.out.contains("left running"), "{said:#?}");
    let mut watching = grange.start_on_terminal(&["watch", &job]);
    watching.says("runs on h1").await;
    watching.types(CTRL_C);
    watching.says("[l/c]").await;
    watching.types(CTRL_C);
    let said = watching.end().await;
    assert_eq!(said.code, Some(LEFT), "{said:#?}");
    assert!(said.out.contains('\x1b'), "a terminal has colours: {said:#?}");
    fs::write(&gate, "").unwrap();
    grange.run(&["result", &job, "--wait"]).await.ends(0);
}
