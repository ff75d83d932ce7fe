//! `grange up`: a farm of one that other processes find, that outlives its agent's end, and that leaves no process.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_tests::processes::{all_gone, descendants, is_alive, named, signal};
use grange_tests::{Grange, Running, began, binary, eventually, lines, plugin, repository};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A farm of one that is ready, and the command line that finds it by its state folder only.
async fn up(grange: &Grange) -> Running {
    let echo = repository().join("examples/plugins/echo").display().to_string();
    let gate = plugin("gate").display().to_string();
    let line = ["up", "--plugins", &echo, "--plugins", &gate, "--output", "json"];
    let farm = grange.start(&line);
    farm.says("\"event\":\"ready\"").await;
    farm
}

/// A home with a state folder that is not the usual one.
fn home() -> Grange {
    let grange = Grange::bare();
    let state = grange.path("farm").display().to_string();
    grange.with("GRANGE_STATE", &state).with("GRANGE_OWNER", "alice")
}

async fn works(grange: &Grange) {
    let said = grange.run(&["submit", "echo", "text=good", "--output", "quiet"]).await.ends(0);
    assert_eq!(said.out, "\"good\"\n", "{said:#?}");
}

/// The farm's processes; the broker and the agent are among them.
fn tree(farm: &Running) -> Vec<u32> {
    let tree = farm.descendants();
    let has = |name: &str| !named(&tree, name).is_empty();
    assert!(has("nats-server") && has("grange-agent"), "{tree:?}");
    tree
}

fn events(farm: &Running) -> Vec<Value> {
    farm.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A job at a gate that has begun; with its id.
async fn running_job(grange: &Grange, label: &str) -> String {
    let until = format!("until={}", grange.path("gate").display());
    let log = format!("log={}", grange.path("log").display());
    let line = ["submit", "gate", &format!("label={label}"), &log, &until, "--detach"];
    let job = grange.run(&line).await.ends(0).word();
    began(&grange.path("log"), label).await;
    job
}

#[tokio::test]
async fn the_first_job_works_from_another_process() {
    let grange = home();
    let farm = up(&grange).await;
    let told: Value = serde_json::from_slice(&fs::read(grange.path("farm/farm.json")).unwrap()).unwrap();
    let all = events(&farm);
    let broker = all.iter().find(|event| event["event"] == "broker").unwrap();
    assert_eq!((&told["broker"], &told["pid"]), (&broker["url"], &json!(farm.pid())));
    assert!(broker["url"].as_str().unwrap().starts_with("nats://127.0.0.1:"), "{broker}");
    works(&grange).await;
    fs::write(grange.path("page.txt"), "hello").unwrap();
    let sent = grange.run(&["submit", "echo", "--file", "read=page.txt", "--output", "quiet"]).await.ends(0);
    assert_eq!(sent.json(), json!({"size": 5, "name": "page.txt"}));
    let doctor = grange.run(&["doctor", "--output", "json"]).await.ends(0);
    for check in doctor.json_lines() {
        assert!(check["verdict"] == "ok" || check["check"] == "durability", "{check}");
    }
    let plugins = grange.run(&["plugins", "--output", "quiet"]).await.ends(0);
    assert_eq!(plugins.out, "echo\ngate\nwide\n");
}

#[tokio::test]
async fn a_killed_agent_is_started_again_and_its_job_succeeds() {
    let grange = home();
    let farm = up(&grange).await;
    let job = running_job(&grange, "first").await;
    let before = tree(&farm);
    // Its workers' supervisors have its name too; they are below it.
    let agents = named(&before, "grange-agent");
    let is_above = |pid: u32| agents.iter().all(|other| *other == pid || descendants(pid).contains(other));
    let agent = agents.iter().copied().find(|pid| is_above(*pid)).unwrap();
    fs::remove_file(grange.path("log")).unwrap();
    signal(agent, Signal::KILL);
    farm.says("\"event\":\"agent_lost\"").await;
    began(&grange.path("log"), "first").await;
    assert!(!is_alive(agent));
    fs::write(grange.path("gate"), "").unwrap();
    let said = grange.run(&["result", &job, "--wait", "--output", "json"]).await.ends(0).json();
    assert_eq!((&said["attempts"], &said["result"]["attempt"]), (&json!(2), &json!(2)));
    let broker = named(&before, "nats-server");
    assert_eq!(named(&tree(&farm), "nats-server"), broker, "the broker is the same");
    works(&grange).await;
}

#[tokio::test]
async fn an_interrupt_ends_everything() {
    let grange = home();
    let mut farm = up(&grange).await;
    works(&grange).await;
    let all = tree(&farm);
    farm.signal(Signal::INT);
    let said = farm.end().await.ends(0);
    let last = said.json_lines();
    let last: Vec<&Value> = last.iter().rev().take(2).map(|event| &event["event"]).collect();
    assert_eq!(last, [&json!("stopped"), &json!("stopping")]);
    all_gone(&all, Duration::from_millis(500)).await;
    assert!(!grange.path("farm/farm.json").exists());
}

#[tokio::test]
async fn an_interrupt_lets_a_running_job_end() {
    let grange = home();
    let mut farm = up(&grange).await;
    let job = running_job(&grange, "at the end").await;
    let mut waiting = grange.start(&["result", &job, "--wait", "--output", "json"]);
    let mut following = grange.start(&["watch", &job, "--output", "json"]);
    following.says("\"running\"").await;
    let all = tree(&farm);
    farm.signal(Signal::INT);
    farm.says("\"event\":\"stopping\"").await;
    assert_eq!(grange.run(&["status", &job, "--output", "quiet"]).await.ends(0).word(), "running");
    fs::write(grange.path("gate"), "").unwrap();
    assert_eq!(waiting.end().await.ends(0).json()["attempts"], 1);
    assert_eq!(following.end().await.ends(0).json_lines().last().unwrap()["state"], "succeeded");
    farm.end().await.ends(0);
    all_gone(&all, Duration::from_millis(500)).await;
}

#[tokio::test]
async fn a_killed_up_leaves_no_process_and_no_lost_job() {
    let grange = home();
    let mut farm = up(&grange).await;
    let job = running_job(&grange, "first").await;
    let all = tree(&farm);
    farm.signal(Signal::KILL);
    assert_eq!(farm.end().await.code, None);
    all_gone(&all, Duration::from_secs(5)).await;
    // Its address is still told, and the way back with it.
    let said = grange.run(&["status", &job]).await;
    said.fails(8, &["farm.json", "grange up"]);
    fs::write(grange.path("gate"), "").unwrap();
    let _again = up(&grange).await;
    let said = grange.run(&["result", &job, "--wait", "--output", "json"]).await.ends(0).json();
    assert_eq!(said["result"]["label"], "first");
    works(&grange).await;
}

#[tokio::test]
async fn a_second_up_on_the_same_folder_is_refused() {
    let grange = home();
    let farm = up(&grange).await;
    let all = tree(&farm);
    let folder = grange.path("farm").display().to_string();
    let said = grange.run(&["up"]).await;
    said.fails(1, &["a farm runs already", &folder, "hint: ", "another --state"]);
    works(&grange).await;
    assert!(all.iter().all(|pid| is_alive(*pid)));
    // Another folder is another farm.
    let other = grange.path("other").display().to_string();
    let second = grange.start(&["up", "--state", &other, "--output", "json"]);
    second.says("\"event\":\"ready\"").await;
    let said = grange.run(&["plugins", "--state", &other, "--output", "json"]).await.ends(0);
    assert_eq!(said.json(), json!([]));
    works(&grange).await;
}

#[tokio::test]
async fn jobs_that_wait_go_on_at_the_next_up() {
    let grange = home();
    let mut farm = up(&grange).await;
    works(&grange).await;
    let kept = grange.run(&["jobs", "--output", "quiet"]).await.ends(0).word();
    let blocker = running_job(&grange, "blocker").await;
    let log = format!("log={}", grange.path("log").display());
    let mut jobs = Vec::new();
    for label in ["one", "two", "three"] {
        let line = ["submit", "gate", &format!("label={label}"), &log, "--detach"];
        jobs.push(grange.run(&line).await.ends(0).word());
    }
    farm.signal(Signal::INT);
    farm.says("\"event\":\"stopping\"").await;
    fs::write(grange.path("gate"), "").unwrap();
    farm.end().await.ends(0);
    assert_eq!(lines(&grange.path("log")), ["blocker"], "a farm that ends begins nothing");
    let _again = up(&grange).await;
    for job in &jobs {
        grange.run(&["result", job, "--wait", "--output", "quiet"]).await.ends(0);
    }
    assert_eq!(lines(&grange.path("log")), ["blocker", "one", "two", "three"]);
    for job in [&kept, &blocker] {
        grange.run(&["result", job, "--output", "quiet"]).await.ends(0);
    }
}

#[tokio::test]
async fn a_job_that_a_second_interrupt_stopped_goes_on_at_the_next_up() {
    let grange = home();
    let mut farm = up(&grange).await;
    let job = running_job(&grange, "first").await;
    let all = tree(&farm);
    farm.signal(Signal::INT);
    farm.says("\"event\":\"stopping\"").await;
    farm.signal(Signal::INT);
    farm.end().await.ends(0);
    all_gone(&all, Duration::from_millis(500)).await;
    fs::write(grange.path("gate"), "").unwrap();
    let _again = up(&grange).await;
    works(&grange).await;
    // A broker that ends forgets that a ticket was handed back: it comes again when its lease is over, after 30 s.
    let said = grange.run(&["result", &job, "--wait", "--output", "json"]).await.ends(0).json();
    assert_eq!((&said["attempts"], &said["result"]["label"]), (&json!(2), &json!("first")));
}

#[tokio::test]
async fn a_killed_broker_is_started_again() {
    let grange = home();
    let farm = up(&grange).await;
    let job = running_job(&grange, "first").await;
    let broker = named(&tree(&farm), "nats-server")[0];
    signal(broker, Signal::KILL);
    farm.says("\"event\":\"broker_lost\"").await;
    fs::write(grange.path("gate"), "").unwrap();
    let said = eventually("the farm answers again", SOON, async || {
        let said = grange.run(&["result", &job, "--wait", "--output", "json"]).await;
        if said.code == Some(0) { Ok(said) } else { Err(format!("{said:?}")) }
    })
    .await;
    assert_eq!(said.json()["attempts"], 1);
    works(&grange).await;
}

#[tokio::test]
async fn what_up_cannot_use_is_named() {
    let grange = home();
    let cases: [(&[&str], &str); 3] = [
        (&["--plugins", "no-such-folder"], "no-such-folder"),
        (&["--broker", "nats://127.0.0.1:9"], "grange-agent --broker"),
        (&["--agent", "/no/such/agent"], "/no/such/agent"),
    ];
    for (words, said) in cases {
        grange.run(&[&["up"], words].concat()).await.fails(2, &["error: ", said]);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    grange.run(&["up", "--port", &port]).await.fails(8, &["address already in use", "give another --port"]);
    assert!(!grange.path("farm/farm.json").exists());
    let _farm = up(&grange).await;
    works(&grange).await;
}

#[tokio::test]
async fn completions_are_a_script_that_bash_accepts() {
    let said = Grange::bare().run(&["completions", "bash"]).await.ends(0);
    assert!(said.out.contains("submit") && said.err.is_empty(), "{said:#?}");
    let mut bash =
        Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(said.out.as_bytes()).unwrap();
    let checked = bash.wait_with_output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    // And one that completes.
    let program = binary("grange").parent().unwrap().display().to_string();
    let line = "PATH=\"$0:$PATH\"; eval \"$(grange completions bash)\"; COMP_WORDS=(grange sub); COMP_CWORD=1; _grange grange sub grange; echo \"${COMPREPLY[@]}\"";
    let out = Command::new("bash").args(["-c", line, &program]).output().unwrap();
    assert_eq!(
        String::from_utf8(out.stdout).unwrap(),
        "submit\n",
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Grange::bare().run(&["completions", "tcsh"]).await.fails(2, &["tcsh", "bash"]);
}
