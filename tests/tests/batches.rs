//! Many jobs from one command: read one by one, numbered, resumable, waited for and cancelled together.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_tests::{Farm, Grange, Said, eventually, lines, plugin};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn last(said: &Said) -> Value {
    said.json_lines().pop().unwrap()
}

/// What a batch's file says, written into the home of `grange`.
fn file(grange: &Grange, name: &str, lines: &[Value]) -> String {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = grange.path(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn an_array_runs_each_number_once() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("witness")]).await;
    let (grange, log) = (farm.grange("alice"), farm.path("log"));
    let logged = format!("log={}", log.display());
    let words = [
        "submit",
        "witness",
        &logged,
        "--array",
        "5-24",
        "--arg",
        "label=n{}",
        "--batch-id",
        "b",
        "--output",
        "json",
    ];
    let said = grange.run(&words).await.ends(0);
    let end = last(&said);
    assert_eq!(
        (&end["event"], &end["batch"], &end["jobs"], &end["succeeded"]),
        (&json!("end"), &json!("b"), &json!(20), &json!(20))
    );
    let ran = |log: &std::path::Path| {
        let mut ran: Vec<String> = lines(log).into_iter().filter(|line| line.starts_with("begin")).collect();
        ran.sort();
        ran
    };
    let mut wanted: Vec<String> = (5..25).map(|n| format!("begin n{n}")).collect();
    wanted.sort();
    assert_eq!(ran(&log), wanted);
    assert_eq!(grange.run(&["result", "b-7", "--output", "quiet"]).await.ends(0).json(), json!("n7"));
    // The same again does nothing again; something else is refused.
    assert_eq!(last(&grange.run(&words).await.ends(0))["succeeded"], json!(20));
    assert_eq!(ran(&log), wanted);
    let other = ["submit", "witness", "--array", "5-24", "--arg", "label=m{}", "--batch-id", "b"];
    grange.run(&other).await.fails(2, &["batch `b` was begun with something else"]);
    let waited = grange.run(&["wait", "--batch", "b", "--output", "json"]).await.ends(0);
    assert_eq!(last(&waited)["succeeded"], json!(20));
    grange.run(&["wait", "--batch", "nobody"]).await.fails(7, &["`alice` has no batch `nobody`"]);
}

#[tokio::test]
async fn a_file_says_what_each_job_is_and_goes_on_where_it_stopped() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("witness"), plugin("given")]).await;
    let (grange, log) = (farm.grange("alice"), farm.path("log"));
    let good = |label: &str| json!({"kwargs": {"log": log, "label": label}});
    let bad = json!({"kwargs": {}, "colour": "red"});
    let path = file(&grange, "jobs", &[good("a"), good("b"), bad.clone(), good("c")]);
    let words = ["submit", "witness", "--batch", &path, "--batch-id", "t", "--output", "json"];
    let stopped = grange.run(&words).await.ends(2);
    stopped.complains(&["line 3: ", "unknown field `colour`", "--batch-id t"]);
    // Mended, it goes on at the third line, and what ran before does not run again.
    let other = json!({"plugin": "given", "args": [1], "priority": "high", "stream": false});
    file(&grange, "jobs", &[good("a"), good("b"), other, good("c")]);
    let end = last(&grange.run(&words).await.ends(0));
    assert_eq!((&end["jobs"], &end["succeeded"]), (&json!(4), &json!(4)));
    let mut ran = lines(&log);
    ran.retain(|line| line.starts_with("begin"));
    ran.sort();
    assert_eq!(ran, ["begin a", "begin b", "begin c"]);
    let given = grange.run(&["status", "t-3", "--output", "json"]).await.ends(0).json();
    assert_eq!((&given["plugin"], &given["priority"]), (&json!("given"), &json!("high")));
    assert_eq!(given["record"]["outcome"]["result"]["args"], json!([1]));
    // Another beginning is another batch.
    file(&grange, "jobs", &[good("x"), good("b"), bad.clone(), good("c")]);
    grange.run(&words).await.fails(2, &["was begun with something else"]);
    // Lines that are no job are left out where that is asked for.
    let path = file(&grange, "more", &[good("d"), bad, json!([1]), good("e")]);
    let words =
        ["submit", "witness", "--batch", &path, "--batch-id", "k", "--keep-going", "--output", "json"];
    let said = grange.run(&words).await.ends(0);
    let said = said.complains(&["line 2: ", "line 3: it is not a JSON object"]);
    assert_eq!((&last(&said)["succeeded"], &last(&said)["skipped"]), (&json!(2), &json!(2)));
    assert_eq!(last(&grange.run(&words).await.ends(0))["skipped"], json!(2));
    assert_eq!(
        last(&grange.run(&["wait", "--batch", "k", "--output", "json"]).await.ends(0))["jobs"],
        json!(2)
    );
}

#[tokio::test]
async fn a_batch_is_cancelled_and_waited_for_together() {
    let farm = Farm::start().await;
    let grange = farm.grange("alice");
    let words = ["submit", "nobody", "--unchecked", "--array", "1-300", "--detach", "--output", "quiet"];
    let batch = grange.run(&words).await.ends(0).word();
    let waited = ["wait", "--batch", &batch, "--timeout", "1s"];
    grange.run(&waited).await.ends(10).complains(&["300 jobs have not ended"]);
    let cancelled = grange.run(&["cancel", "--batch", &batch, "--output", "json"]).await.ends(0);
    assert_eq!(cancelled.json_lines().iter().filter(|line| line["outcome"] == "cancelled").count(), 300);
    let end = last(&grange.run(&["wait", "--batch", &batch, "--output", "json"]).await.ends(4));
    assert_eq!((&end["dropped"], &end["succeeded"]), (&json!(300), &json!(0)));
    // Jobs that are named one by one too, over the beginning of their ids.
    let one = format!("{batch}-17");
    grange.run(&["wait", &one, "--output", "json"]).await.ends(4);
    grange.run(&["wait", "no-such-job"]).await.fails(7, &["no job `no-such-job`"]);
}

#[tokio::test]
async fn one_that_is_killed_in_the_middle_goes_on_without_doubles() {
    let farm = Farm::start().await;
    let (grange, client) = (farm.grange("alice"), farm.client("alice").await);
    let words = [
        "submit",
        "given",
        "--unchecked",
        "--array",
        "0-9999",
        "--batch-id",
        "big",
        "--detach",
        "--output",
        "quiet",
    ];
    let running = grange.start(&words);
    eventually("some are accepted", SOON, async || match client.tickets().await.len() {
        0 => Err("none"),
        _ => Ok(()),
    })
    .await;
    // Dropped, it is killed, somewhere on its way.
    drop(running);
    grange.run(&words).await.ends(0);
    assert_eq!(client.tickets().await.len(), 10_000);
    let info = client.broker.request("$JS.API.STREAM.INFO.GRANGE_JOBS".to_owned(), "".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    assert_eq!(info["state"]["messages"], json!(10_000), "no number has two tickets");
}
