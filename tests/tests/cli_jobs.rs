//! Jobs from the command line: what is submitted, followed, fetched, listed and cancelled, and what is on which stream.

use grange_tests::{Farm, Grange, binary, plugin, repository};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

const FAILED: i32 = 3;
const CANCELLED: i32 = 4;
const EXPIRED: i32 = 5;
const UNFINISHED: i32 = 10;

fn echo() -> PathBuf {
    repository().join("examples/plugins/echo")
}

/// The names of an object's fields.
#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Events of one kind.
fn events<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == kind).collect()
}

async fn submitted(grange: &Grange, words: &[&str]) -> String {
    let line = [&["submit", "--detach"], words].concat();
    grange.run(&line).await.ends(0).word()
}

const JOB: [&str; 10] =
    ["class", "due_ms", "job", "owner", "plugin", "priority", "record", "revision", "state", "waiting"];
const RESULT: [&str; 11] =
    ["agent", "attempts", "chunks", "failure", "files", "job", "owner", "plugin", "result", "state", "usage"];

#[tokio::test]
async fn a_submit_has_its_value_on_stdout_and_the_rest_on_stderr() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let grange = farm.grange("alice");
    let human = grange.run(&["submit", "echo", "text=hello you", "--no-stream"]).await.ends(0);
    assert_eq!(human.out, "hello you\n");
    human.complains(&["job ", "for `echo`", "succeeded in ", "on h1"]);
    let quiet = grange.run(&["submit", "echo", "text=hello you", "--output", "quiet"]).await.ends(0);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("\"hello you\"\n", ""));
    let json = grange.run(&["submit", "echo", "text=hello you", "--output", "json"]).await.ends(0);
    assert_eq!(json.err, "");
    let lines = json.json_lines();
    let (first, last) = (lines.first().unwrap(), lines.last().unwrap());
    let submitted = ["class", "event", "job", "owner", "plugin", "priority", "sequence"];
    assert_eq!((first["event"].as_str(), keys(first)), (Some("submitted"), submitted.to_vec()));
    assert_eq!(
        (&last["event"], &last["result"], &last["job"]),
        (&json!("end"), &json!("hello you"), &first["job"])
    );
    let end: BTreeSet<&str> = RESULT.into_iter().chain(["event"]).collect();
    assert_eq!(keys(last).into_iter().collect::<BTreeSet<_>>(), end);
    assert_eq!(events(&lines, "attempt").len(), 1);
    for state in events(&lines, "state") {
        assert_eq!(keys(state), ["event", "ran_out", "record", "revision", "state"]);
    }
}

#[tokio::test]
async fn a_stream_of_chunks_in_all_three_forms() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let grange = farm.grange("alice");
    let line = ["submit", "echo", "text=hi", "repeat=3", "--stream", "--output"];
    let with = |form: &'static str| [&line[..], &[form]].concat();
    let human = grange.run(&with("human")).await.ends(0);
    assert_eq!(human.out.lines().count(), 4, "three chunks and the value: {human:#?}");
    human.complains(&["3 chunks"]);
    assert_eq!(grange.run(&with("quiet")).await.ends(0).out, "\"hi\"\n");
    let lines = grange.run(&with("json")).await.ends(0).json_lines();
    let chunks = events(&lines, "chunk");
    let values: Vec<&Value> = chunks.iter().map(|chunk| &chunk["value"]).collect();
    let wanted = [0, 1, 2].map(|n| json!({"n": n, "text": "hi"}));
    assert_eq!(values, wanted.iter().collect::<Vec<_>>());
    assert_eq!(keys(chunks[0]), ["attempt", "event", "index", "sequence", "value"]);
    assert_eq!(lines.last().unwrap()["chunks"], 3);
    let without =
        grange.run(&["submit", "echo", "repeat=3", "--no-stream", "--output", "json"]).await.ends(0);
    assert!(events(&without.json_lines(), "chunk").is_empty(), "{without:#?}");
}

#[tokio::test]
async fn values_are_json_where_they_can_be() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("given")]).await;
    let grange = farm.grange("alice");
    let given = async |words: &[&str]| {
        let line = [&["submit", "given", "--output", "quiet"], words].concat();
        grange.run(&line).await.ends(0).json()
    };
    let typed = given(&[
        "n=3",
        "f=0.5",
        "on=true",
        "nothing=null",
        "list=[1,\"x\"]",
        "of={\"a\":1}",
        "text=hello you",
        "s=\"3\"",
        "empty=",
        "eq=a=b",
        "ü=ö",
        "big=9007199254740993",
    ])
    .await;
    let wanted = json!({
        "n": 3, "f": 0.5, "on": true, "nothing": null, "list": [1, "x"], "of": {"a": 1}, "text": "hello you",
        "s": "3", "empty": "", "eq": "a=b", "ü": "ö", "big": 9_007_199_254_740_993_i64,
    });
    assert_eq!(typed, json!({"args": [], "kwargs": wanted}));
    let object = given(&["--args-json", r#"{"a": [1], "b": null}"#, "c=1"]).await;
    assert_eq!(object, json!({"args": [], "kwargs": {"a": [1], "b": null, "c": 1}}));
    let array = given(&["--args-json", r#"[1, "zwei", null]"#, "--args-json", r#"{"k": 2}"#]).await;
    assert_eq!(array, json!({"args": [1, "zwei", null], "kwargs": {"k": 2}}));
    fs::write(grange.path("args.json"), r#"{"from": "a file"}"#).unwrap();
    assert_eq!(given(&["--args-json", "@args.json"]).await["kwargs"], json!({"from": "a file"}));
    assert_eq!(given(&[]).await, json!({"args": [], "kwargs": {}}));
}

#[tokio::test]
async fn files_go_in_and_come_back_with_the_same_bytes() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let grange = farm.grange("alice");
    fs::write(grange.path("page one.bin"), vec![7; 3_000_001]).unwrap();
    let sent = grange.run(&["submit", "echo", "--file", "read=page one.bin", "--output", "quiet"]).await;
    assert_eq!(sent.ends(0).json(), json!({"size": 3_000_001, "name": "page one.bin"}));
    let bytes: Vec<u8> = (0..=255).cycle().take(2_500_000).collect();
    let line = ["submit", "echo", "write_bytes=2500000", "--out", "results"];
    let said = grange.run(&[&line[..], &["--output", "json"]].concat()).await.ends(0);
    let end = said.json_lines().pop().unwrap();
    assert_eq!(keys(&end["files"][0]), ["name", "path", "sha256", "size"]);
    let path = end["files"][0]["path"].as_str().unwrap().to_owned();
    assert_eq!(end["result"], json!(path));
    assert_eq!(fs::read(grange.path(&path)).unwrap(), bytes);
    // What is there is kept: the same bytes stay, others get a name of their own.
    grange.run(&line).await.ends(0);
    fs::write(grange.path(&path), "mine").unwrap();
    let again = grange.run(&["result", "@last", "--out", "results", "--output", "quiet"]).await.ends(0);
    assert_eq!(again.json(), json!("results/echo-2500000-2.bin"));
    assert_eq!(fs::read(grange.path(&path)).unwrap(), b"mine");
    assert_eq!(fs::read(grange.path("results/echo-2500000-2.bin")).unwrap(), bytes);
    assert_eq!(fs::read_dir(grange.path("results")).unwrap().count(), 2);
    let left = grange.run(&["result", "@last"]).await.ends(0);
    left.complains(&["`echo-2500000.bin` can be fetched", "--out DIR"]);
}

#[tokio::test]
async fn a_detached_job_is_found_again_by_every_command() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("talker"), plugin("gate")]).await;
    let grange = farm.grange("alice");
    let gate = farm.path("gate");
    let job = submitted(
        &grange,
        &[
            "talker",
            "count=4",
            "lines=2",
            "steps=2",
            "name=t",
            &format!("until={}", gate.display()),
            "--stream",
        ],
    )
    .await;
    let mut waiting = grange.start(&["result", "@last", "--wait", "--output", "json"]);
    let mut watching = grange.start(&["watch", &job, "--output", "json"]);
    watching.says("\"index\":2").await;
    let early = grange.run(&["result", &job]).await;
    early.fails(UNFINISHED, &["is running on h1", "--wait", "grange watch"]);
    assert_eq!(grange.run(&["status", &job, "--output", "quiet"]).await.ends(0).word(), "running");
    let so_far = grange.run(&["logs", &job]).await.ends(0);
    assert!(so_far.out.contains("t out 1\n") && so_far.out.contains("t err 1\n"), "{so_far:#?}");
    fs::write(&gate, "").unwrap();
    let result = waiting.end().await.ends(0).json();
    assert_eq!((keys(&result), &result["result"]), (RESULT.to_vec(), &json!({"said": 4})));
    let lines = watching.end().await.ends(0).json_lines();
    assert_eq!(grange.run(&["result", &job, "--output", "json"]).await.ends(0).json(), result);
    let status = grange.run(&["status", &job, "--output", "json"]).await.ends(0).json();
    assert_eq!((keys(&status), &status["state"]), (JOB.to_vec(), &json!("succeeded")));
    assert_eq!(keys(events(&lines, "progress")[0]), ["attempt", "event", "message", "progress", "sequence"]);
    let logs = grange.run(&["logs", &job, "--output", "json"]).await.ends(0).json_lines();
    let stdout: Vec<&Value> = logs.iter().filter(|l| l["stream"] == "stdout").map(|l| &l["line"]).collect();
    assert_eq!(
        (keys(&logs[0]), stdout),
        (vec!["attempt", "line", "stream"], vec![&json!("t out 0"), &json!("t out 1")])
    );
    // `--from`: exactly what came after. Chunks may share a sequence; the gate stood behind chunk 2.
    let indices = |lines: &[Value]| {
        let chunks = events(lines, "chunk");
        chunks.iter().map(|chunk| chunk["index"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let chunks = events(&lines, "chunk");
    let last = chunks[2]["sequence"].as_u64().unwrap();
    let first = chunks.iter().position(|chunk| chunk["sequence"] == last).unwrap() as u64;
    let since = async |sequence: u64| {
        let line = ["watch", &job, "--from", &sequence.to_string(), "--output", "json"];
        grange.run(&line).await.ends(0).json_lines()
    };
    assert_eq!(indices(&lines), [0, 1, 2, 3]);
    assert_eq!(indices(&since(last - 1).await), (first..4).collect::<Vec<_>>());
    let rest = since(last).await;
    assert_eq!(indices(&rest), [3]);
    assert!(events(&rest, "log").is_empty() && rest.last() == lines.last(), "{rest:?}");
}

#[tokio::test]
async fn a_failure_ends_with_3_and_says_what_was_raised() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo(), plugin("gate")]).await;
    let grange = farm.grange("alice");
    let said = grange.run(&["submit", "echo", "fail=the page is upside down", "--no-stream"]).await;
    said.fails(FAILED, &["failed", "EchoError", "the page is upside down"]);
    let again = grange.run(&["result", "@last"]).await;
    again.fails(FAILED, &["EchoError", "the page is upside down", "Traceback"]);
    let quiet = grange.run(&["result", "@last", "--output", "quiet"]).await;
    quiet.fails(FAILED, &["failed", "the page is upside down"]);
    let json = grange.run(&["result", "@last", "--output", "json"]).await.ends(FAILED).json();
    let failure = &json["failure"];
    assert_eq!(
        (&failure["exception"], &failure["message"]),
        (&json!("EchoError"), &json!("the page is upside down"))
    );
    assert_eq!((&json["state"], &json["result"]), (&json!("failed"), &Value::Null));
    let never = format!("until={}", farm.path("never").display());
    let said = grange.run(&["submit", "gate", &never, "--timeout", "1s"]).await;
    said.fails(FAILED, &["failed", "timed_out", "1 s"]);
    grange.run(&["submit", "echo"]).await.ends(0);
}

#[tokio::test]
async fn a_cancel_ends_with_4_and_a_wait_that_ran_out_with_5() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("gate")]).await;
    let grange = farm.grange("alice");
    let never = format!("until={}", farm.path("never").display());
    let mut following = grange.start(&["submit", "gate", &never, "--output", "json"]);
    following.says("\"running\"").await;
    let late = grange.run(&["submit", "gate", "--max-wait", "1s"]).await;
    late.fails(EXPIRED, &["expired"]);
    grange.run(&["result", "@last"]).await.fails(EXPIRED, &["expired"]);
    let running = grange.run(&["jobs", "--state", "running", "--output", "quiet"]).await.ends(0).word();
    let asked =
        grange.run(&["cancel", &running, "--reason", "enough", "--output", "json"]).await.ends(0).json();
    assert_eq!(
        (keys(&asked), &asked["outcome"]),
        (vec!["job", "outcome", "owner", "state"], &json!("requested"))
    );
    assert_eq!(following.end().await.ends(CANCELLED).json_lines().last().unwrap()["state"], "cancelled");
    grange.run(&["result", &running, "--wait"]).await.fails(CANCELLED, &["cancelled"]);
    let again = grange.run(&["cancel", &running, "--output", "json"]).await.ends(0).json();
    assert_eq!((&again["outcome"], &again["state"]), (&json!("ended_before"), &json!("cancelled")));
    drop(agent);
    let waiting = submitted(&grange, &["gate", "--unchecked"]).await;
    assert_eq!(grange.run(&["cancel", &waiting, "--output", "quiet"]).await.ends(0).word(), "cancelled");
    grange.run(&["result", &waiting]).await.fails(CANCELLED, &["cancelled"]);
}

#[tokio::test]
async fn jobs_are_listed_newest_first_and_filtered() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo(), plugin("gate")]).await;
    let (alice, bob) = (farm.grange("alice"), farm.grange("bob"));
    let listed = async |words: &[&str]| -> Vec<String> {
        let line = [&["jobs", "--output", "quiet"], words].concat();
        alice.run(&line).await.ends(0).out.lines().map(str::to_owned).collect()
    };
    let none = alice.run(&["jobs"]).await.ends(0);
    assert_eq!((none.out.as_str(), none.err.as_str()), ("", "no jobs\n"));
    alice.run(&["submit", "echo"]).await.ends(0);
    alice.run(&["submit", "echo", "fail=as told"]).await.ends(FAILED);
    bob.run(&["submit", "gate"]).await.ends(0);
    let all = alice.run(&["jobs", "--output", "json"]).await.ends(0).json();
    let jobs = all.as_array().unwrap();
    assert!(jobs.iter().all(|job| keys(job) == JOB), "{all}");
    let states: Vec<&str> = jobs.iter().map(|job| job["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["succeeded", "failed", "succeeded"]);
    let ids: Vec<String> = jobs.iter().map(|job| job["job"].as_str().unwrap().to_owned()).collect();
    assert_eq!(jobs[0]["owner"], "bob");
    assert_eq!(listed(&[]).await, ids);
    assert_eq!(listed(&["--limit", "2"]).await, ids[..2]);
    assert_eq!(listed(&["--owner", "alice"]).await, ids[1..]);
    assert_eq!(listed(&["--plugin", "gate"]).await, ids[..1]);
    assert_eq!(listed(&["--state", "failed"]).await, ids[1..2]);
    assert_eq!(listed(&["--state", "failed", "--owner", "bob"]).await, [""; 0]);
    let table = alice.run(&["jobs"]).await.ends(0).out;
    assert!(ids.iter().all(|id| table.contains(id.as_str())), "{table}");
    let agents = alice.run(&["agents", "--output", "json"]).await.ends(0).json();
    assert_eq!((agents[0]["agent"].as_str(), agents[0]["heartbeat_age_ms"].is_u64()), (Some("h1"), true));
    let plugins = alice.run(&["plugins", "--output", "json"]).await.ends(0).json();
    assert_eq!((keys(&plugins[0]), &plugins[0]["name"]), (vec!["hosts", "name"], &json!("echo")));
    assert_eq!(alice.run(&["plugins", "--output", "quiet"]).await.ends(0).out, "echo\ngate\nwide\n");
    for line in alice.run(&["doctor", "--output", "json"]).await.ends(0).json_lines() {
        assert_eq!(keys(&line), ["advice", "check", "text", "verdict"]);
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let grange = farm.grange("alice");
    let program = binary("grange").display().to_string();
    let line = "\"$0\" submit echo repeat=20000 --stream | head -1; echo \"${PIPESTATUS[0]}\"";
    let said = std::process::Command::new("bash")
        .args(["-c", line, &program])
        .env("GRANGE_BROKER", farm.nats.url())
        .env("GRANGE_STATE", grange.path("state"))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    assert_eq!(out.lines().last(), Some("0"), "{out}{err}");
    assert!(!err.contains("error"), "{err}");
    grange.run(&["submit", "echo"]).await.ends(0);
}
