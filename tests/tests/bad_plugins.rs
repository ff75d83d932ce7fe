//! Plugins that cannot start, that misbehave while they run, and what becomes of their jobs and of everybody else's.

use grange_broker_client::follow::Since;
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::record::{Record, State};
use grange_protocol::status::PluginState;
use grange_tests::processes::named;
use grange_tests::{Agent, Client, Farm, Returned, eventually, plugin};
use serde_json::json;
use std::time::{Duration, Instant};

const RSS_LIMIT: u64 = 256 << 20;

async fn at_work(farm: &Farm) -> (Agent, Client) {
    let agent = farm.agent("h1", &["broken", "misbehave", "flood", "gate"].map(plugin)).await;
    (agent, farm.client("alice").await)
}

async fn good(client: &Client) {
    client.run("gate", &json!({})).await.value();
}

async fn fails(client: &Client, plugin: &str, how: Option<&str>) -> Box<Record> {
    let kwargs = how.map_or(json!({}), |how| json!({"how": how}));
    let record = client.run(plugin, &kwargs).await;
    assert_eq!(record.state, State::Failed, "{plugin} {how:?}: {:?}", record.outcome);
    record
}

fn holds(failure: &Failure, kind: FailureKind, text: &str) {
    let said = format!("{failure} {:?} {:?}", failure.stderr, failure.exception);
    assert!(failure.kind == kind && said.contains(text), "not {kind} with {text:?}: {failure:?}");
}

#[tokio::test]
async fn a_plugin_that_cannot_start_says_why_at_once() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    for (name, stage, cause) in [
        ("import-error", "import", "package_that_nobody_has"),
        ("no-module", "import", "no_such_module"),
        ("no-class", "import", "NoSuchClass"),
        ("construct-error", "construct", "no room for a model"),
        ("initialize-error", "initialize", "the model is for another machine"),
    ] {
        let begun = Instant::now();
        let record = fails(&client, name, None).await;
        // The limit for a start is 120 s.
        assert!(begun.elapsed() < Duration::from_secs(10), "`{name}` took {:?}", begun.elapsed());
        let failure = record.failure();
        holds(failure, FailureKind::StartFailed, cause);
        assert!(failure.message.contains(name) && failure.message.contains(stage), "{failure}");
        assert!(
            failure.exception.is_some() && failure.traceback.as_ref().unwrap().contains(cause),
            "{failure:?}"
        );
        good(&client).await;
    }
    holds(fails(&client, "import-error", None).await.failure(), FailureKind::StartFailed, "nobody_has");
    assert!(client.dead().await.is_empty());
}

#[tokio::test]
async fn a_worker_that_ends_before_it_is_ready_is_told_with_its_last_words() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let record = fails(&client, "exits-at-import", None).await;
    holds(record.failure(), FailureKind::StartFailed, "no licence found");
    assert_eq!(record.failure().exit_code, Some(9));
    let record = fails(&client, "not-executable", None).await;
    holds(record.failure(), FailureKind::StartFailed, "could not be started");
    assert!(record.failure().stderr.as_ref().unwrap().contains("frames.py"), "{:?}", record.failure());
    good(&client).await;
}

#[tokio::test]
async fn a_plugin_that_hangs_at_its_start_is_ended() {
    let farm = Farm::start().await;
    let (agent, client) = at_work(&farm).await;
    let begun = Instant::now();
    let record = fails(&client, "hangs", None).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    holds(record.failure(), FailureKind::TimedOut, "was not ready in time");
    assert!(record.failure().message.contains("hangs"), "{}", record.failure());
    let left = named(&agent.descendants(), "sleep");
    assert!(left.is_empty(), "{left:?}");
    good(&client).await;
    let key = client.submit("hangs", &json!({})).await;
    client.reaches(&key, State::Running).await;
    client.cancel(&key).await;
    assert_eq!(client.end(&key).await.state, State::Cancelled, "nobody has to wait for the start");
}

#[tokio::test]
async fn a_plugin_whose_program_is_missing_is_reported_and_its_jobs_wait() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let status = client.wait_for_plugins("h1").await;
    for (name, path) in [("no-interpreter", "nowhere/bin/python"), ("no-executable", "./nowhere")] {
        let plugin = status.plugins.iter().find(|plugin| plugin.name.as_str() == name).unwrap();
        assert_eq!(plugin.state, PluginState::Failed);
        assert!(plugin.reason.contains(path) && plugin.reason.contains("build"), "{plugin:?}");
    }
    let key = client.submit("no-interpreter", &json!({})).await;
    good(&client).await;
    assert!(client.record(&key).await.is_none(), "another host may have it");
    client.tickets_left(1).await;
}

#[tokio::test]
async fn what_a_plugin_raises_fails_its_job_and_keeps_its_worker() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let pid = client.run("gate", &json!({})).await.value()["pid"].clone();
    for (how, kind, text) in [
        ("raise", FailureKind::PluginFailed, "the page is upside down"),
        ("raise at length", FailureKind::PluginFailed, "xxxx"),
        ("raise mutely", FailureKind::PluginFailed, "MuteError"),
        ("recurse", FailureKind::PluginFailed, "RecursionError"),
        ("sys.exit", FailureKind::PluginFailed, "SystemExit"),
        ("unserialisable", FailureKind::Unserialisable, "result.pages[1].lock"),
        ("contains itself", FailureKind::Unserialisable, "result"),
        ("20 MiB", FailureKind::OutputTooLarge, "8388608"),
    ] {
        let record = fails(&client, "misbehave", Some(how)).await;
        holds(record.failure(), kind, text);
        assert!(record.failure().message.len() < 20_000);
        assert_eq!(record.attempt.as_ref().unwrap().number, 1, "{how}: it was the plugin's own word");
        assert_eq!(client.run("misbehave", &json!({"how": "good"})).await.value(), "good");
    }
    let raised = fails(&client, "misbehave", Some("raise")).await;
    let failure = raised.failure();
    assert_eq!(failure.exception.as_deref(), Some("ValueError"));
    assert!(failure.traceback.as_ref().unwrap().contains("misbehave.py"), "{failure:?}");
    assert_eq!(client.run("gate", &json!({})).await.value()["pid"], pid);
    assert!(client.dead().await.is_empty());
}

#[tokio::test]
async fn a_worker_that_is_killed_fails_its_job_after_three_tries() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    for (how, code, signal) in
        [("os._exit", Some(7), None), ("SIGSEGV", None, Some(11)), ("SIGKILL", None, Some(9))]
    {
        let record = fails(&client, "misbehave", Some(how)).await;
        holds(record.failure(), FailureKind::WorkerCrashed, "");
        assert_eq!((record.failure().exit_code, record.failure().signal), (code, signal), "{how}");
        assert_eq!(record.attempt.as_ref().unwrap().number, 3);
        assert_eq!(client.run("misbehave", &json!({"how": "good"})).await.value(), "good");
        good(&client).await;
    }
    assert_eq!(client.dead().await.len(), 3);
}

#[tokio::test]
async fn garbage_on_any_descriptor_harms_at_most_its_own_job() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let key = client.submit("misbehave", &json!({"how": "garbage"})).await;
    let story = client.story(&key, Since::Start).await;
    assert_eq!(story.record().value(), "printed");
    assert!(story.logs.iter().any(|log| log.line.contains("not a frame")), "{:?}", story.logs);
    for how in ["close streams", "thread", "interrupt", "descriptors"] {
        let record = client.run("misbehave", &json!({"how": how})).await;
        assert_eq!(record.state, State::Succeeded, "{how}: {:?}", record.outcome);
        assert_eq!(client.run("misbehave", &json!({"how": "good"})).await.value(), "good");
    }
    // Whoever closes every descriptor closes the link: the worker cannot be saved, only its job is lost.
    let record = fails(&client, "misbehave", Some("close all")).await;
    holds(record.failure(), FailureKind::WorkerCrashed, "");
    assert_eq!(client.run("misbehave", &json!({"how": "good"})).await.value(), "good");
    good(&client).await;
}

#[tokio::test]
async fn what_is_written_past_the_worker_belongs_to_the_run_that_wrote_it() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    for n in 0..50 {
        let key = client.submit("misbehave", &json!({"how": "say"})).await;
        let story = client.story(&key, Since::Start).await;
        assert_eq!(story.lines("stdout"), ["said past the worker"], "run {n}");
    }
}

#[tokio::test]
async fn a_flood_of_logs_is_cut_and_says_so() {
    let farm = Farm::start().await;
    let (agent, client) = at_work(&farm).await;
    let key = client.submit("flood", &json!({"printed_mib": 50, "written_mib": 50})).await;
    let mut highest = 0;
    eventually("the flood is over", Duration::from_secs(120), async || {
        highest = highest.max(agent.rss_bytes());
        match client.record(&key).await {
            Some(record) if record.state.is_terminal() => Ok(()),
            record => Err(format!("{:?}", record.map(|record| record.state))),
        }
    })
    .await;
    assert!(highest <= RSS_LIMIT, "the agent held {} MiB", highest >> 20);
    let story = client.story(&key, Since::Start).await;
    assert_eq!(story.record().value(), "printed");
    assert_eq!(story.dropped.len(), 1);
    let dropped = &story.dropped[0];
    let kept = story.logs.len() as u64;
    assert_eq!((dropped.what.as_str(), kept + dropped.lines), ("log", 100 << 10));
    assert!(story.logs.iter().all(|log| log.line.len() == 1023));
    assert!(dropped.bytes > dropped.lines * 1023 && kept * 1023 > 14 << 20, "{dropped:?}, {kept} kept");
    good(&client).await;
}

#[tokio::test]
async fn a_worker_that_breaks_the_link_is_ended() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    for (mode, text) in [
        ("start-garbage", "exceeds the limit"),
        ("start-oversized", "4294967295"),
        ("protocol", "version 99"),
        ("unknown", "gossip"),
        ("no-json", "not valid"),
        ("truncated", "exit status 0"),
        ("leaves", "exit status 0"),
    ] {
        let name = format!("frames-{mode}");
        let record = fails(&client, &name, None).await;
        let (kind, attempts) = match mode {
            "protocol" => (FailureKind::StartFailed, 1),
            _ => (FailureKind::WorkerCrashed, 3),
        };
        holds(record.failure(), kind, text);
        assert_eq!(record.attempt.as_ref().unwrap().number, attempts, "{mode}");
        good(&client).await;
    }
    assert_eq!(client.run("frames-wrong-run", &json!({})).await.value(), "mine");
    for _ in 0..2 {
        assert_eq!(client.run("frames-twice", &json!({})).await.value(), "first");
    }
}
