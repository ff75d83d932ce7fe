//! Workers that take more than they were given, do not listen, or leave processes behind, at every level of isolation
//! that this host has, and at the level of process trees, which every host has.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at the first surprise, and says what it left out"
)]

use grange_broker_client::cancel::Cancelled;
use grange_protocol::failure::FailureKind;
use grange_protocol::record::State;
use grange_protocol::subject::JobKey;
use grange_tests::processes::{is_alive, marked, signal};
use grange_tests::{Agent, Client, Farm, Returned, eventually, lines, plugin};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// The levels to test: what the host has, and process trees. A host without control groups is told apart by its
/// agent's own words.
const LEVELS: [&str; 2] = ["auto", "process"];

/// `hostile` with these limits in its manifest, in a folder of its own.
fn hostile(farm: &Farm, limits: &Value) -> PathBuf {
    let folder = farm.path("hostile");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = json!({"name": "hostile", "module": "hostile", "class": "Hostile",
        "paths": [plugin("hostile")], "limits": limits});
    std::fs::write(folder.join("plugin.json"), manifest.to_string()).unwrap();
    folder
}

async fn at_level(farm: &Farm, level: &str, limits: &Value, config: &str) -> (Agent, Client, bool) {
    let mut plan = farm.plan("h1", &[hostile(farm, limits), plugin("gate")]);
    plan.config = format!("[isolation]\nlevel = {level:?}\n{config}");
    let agent = plan.start();
    let client = farm.client("alice").await;
    let status = client.wait_for_plugins("h1").await;
    let caged = status.isolation.starts_with("cgroup-");
    assert!(caged || status.isolation == "process", "{}", status.isolation);
    if level == "auto" && !caged {
        let why = status.notices.iter().find(|notice| notice.contains("no control groups"));
        println!("no control groups here, so only process trees are tested: {}", why.expect("it says why"));
    }
    (agent, client, caged)
}

/// The mark of the only worker that wrote one.
async fn mark(path: &Path) -> String {
    eventually("the worker began", SOON, async || lines(path).first().cloned().ok_or("nothing is written"))
        .await
}

async fn none_marked(mark: &str, limit: Duration) {
    eventually("no process of the worker is left", limit, async || match marked(mark) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .await;
}

async fn many_marked(mark: &str, count: usize) -> Vec<u32> {
    eventually("the storm is there", SOON, async || match marked(mark) {
        some if some.len() >= count => Ok(some),
        some => Err(format!("{} of {count}", some.len())),
    })
    .await
}

async fn good(client: &Client) {
    client.run("gate", &json!({})).await.value();
}

async fn in_a_storm(farm: &Farm, client: &Client) -> (JobKey, String) {
    let log = farm.path("marks");
    let kwargs = json!({"how": "storm", "children": 9, "pids": log, "block": true});
    let key = client.submit("hostile", &kwargs).await;
    let mark = mark(&log).await;
    // Nine children, three of them with a child, three with one that has one too, and the worker itself.
    many_marked(&mark, 19).await;
    (key, mark)
}

#[tokio::test]
async fn the_level_is_advertised_and_can_be_demanded() {
    let farm = Farm::start().await;
    let (_agent, client, caged) = at_level(&farm, "auto", &json!({}), "").await;
    let said = client.agent("h1").await.unwrap().isolation;
    let grange = farm.grange("alice");
    let shown = grange.run(&["agents", "h1"]).await;
    assert!(shown.out.contains(&said), "{said}: {}", shown.out);
    let shown: Value =
        serde_json::from_str(&grange.run(&["agents", "h1", "--output", "json"]).await.out).unwrap();
    assert_eq!(shown["isolation"], said);
    let mut plan = farm.plan("h2", &[plugin("gate")]);
    plan.config = "[isolation]\nlevel = \"cgroup\"".to_owned();
    let mut demands = plan.start();
    if caged {
        assert_eq!(client.wait_for_plugins("h2").await.isolation, said);
    } else {
        assert!(!demands.wait(SOON).await.success());
        assert!(demands.log().contains("Delegate=yes"), "{}", demands.log());
    }
}

#[tokio::test]
async fn memory_over_the_limit_ends_the_attempt_with_its_peak() {
    for level in LEVELS {
        let farm = Farm::start().await;
        let (_agent, client, _) = at_level(&farm, level, &json!({"memory_mb": 96}), "").await;
        let fits = client.run("hostile", &json!({"how": "allocate", "mib": 20})).await;
        assert_eq!(fits.value(), 20, "{level}");
        let record = client.run("hostile", &json!({"how": "allocate", "mib": 4_000})).await;
        let failure = record.failure();
        assert_eq!(failure.kind, FailureKind::OutOfMemory, "{level}: {failure:?}");
        assert!(failure.message.contains("96 MiB"), "{failure}");
        assert!(failure.peak_ram_mb.is_some_and(|peak| (80..4_000).contains(&peak)), "{level}: {failure:?}");
        good(&client).await;
    }
}

#[tokio::test]
async fn a_worker_that_forks_without_end_is_stopped() {
    for level in LEVELS {
        let farm = Farm::start().await;
        let (_agent, client, caged) = at_level(&farm, level, &json!({}), "processes_max = 64").await;
        let log = farm.path("marks");
        let key = client.submit("hostile", &json!({"how": "bomb", "pids": log})).await;
        let record = client.end(&key).await;
        if caged {
            let made = record.value();
            assert!(made["made"].as_u64().is_some_and(|made| (16..64).contains(&made)), "{made}");
        } else {
            assert_eq!(record.state, State::Failed, "{:?}", record.outcome);
        }
        good(&client).await;
        let gone = client.submit("hostile", &json!({"how": "os._exit"})).await;
        client.end(&gone).await;
        for mark in lines(&log).iter().filter(|_| !caged) {
            none_marked(mark, SOON).await;
        }
    }
}

#[tokio::test]
async fn a_cancel_reaches_processes_that_left_the_session_and_do_not_listen() {
    for level in LEVELS {
        let farm = Farm::start().await;
        let (_agent, client, _) = at_level(&farm, level, &json!({"cancel_grace_s": 1}), "").await;
        let (key, mark) = in_a_storm(&farm, &client).await;
        let asked = Instant::now();
        assert_eq!(client.cancel(&key).await, Cancelled::Requested);
        none_marked(&mark, SOON).await;
        println!("{level}: all gone {:?} after the cancel, with a grace of 1 s", asked.elapsed());
        assert_eq!(client.end(&key).await.state, State::Cancelled);
        good(&client).await;
    }
}

#[tokio::test]
async fn a_supervisor_that_is_killed_leaves_nobody_behind() {
    for level in LEVELS {
        let farm = Farm::start().await;
        let (agent, client, _) = at_level(&farm, level, &json!({}), "").await;
        let (key, mark) = in_a_storm(&farm, &client).await;
        let before = marked(&mark);
        let supervisors = agent.supervisors();
        assert!(!supervisors.is_empty());
        for pid in supervisors {
            signal(pid, Signal::KILL);
        }
        eventually("the storm is over", SOON, async || {
            let left: Vec<u32> = before.iter().copied().filter(|pid| is_alive(*pid)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        client.cancel(&key).await;
        assert!(client.end(&key).await.state.is_terminal());
        good(&client).await;
    }
}

#[tokio::test]
async fn the_next_life_ends_what_a_dead_agent_and_its_supervisors_left() {
    for level in LEVELS {
        let farm = Farm::start().await;
        let (mut agent, client, _) = at_level(&farm, level, &json!({}), "").await;
        let (key, mark) = in_a_storm(&farm, &client).await;
        let groups = agent.groups();
        let supervisors = agent.supervisors();
        for pid in &supervisors {
            signal(*pid, Signal::STOP);
        }
        agent.kill();
        for pid in supervisors {
            signal(pid, Signal::KILL);
        }
        assert!(!marked(&mark).is_empty(), "{level}: somebody is left, or this test shows nothing");
        client.cancel(&key).await;
        let _next = agent.plan().clone().start();
        none_marked(&mark, SOON).await;
        let old = mark.rsplit('/').next().unwrap().to_owned();
        eventually("the groups are removed", SOON, async || {
            match groups.iter().map(|group| group.join(&old)).find(|group| group.exists()) {
                None => Ok(()),
                Some(group) => Err(format!("{} is there", group.display())),
            }
        })
        .await;
        assert!(client.end(&key).await.state.is_terminal());
        good(&client).await;
    }
}

#[tokio::test]
async fn a_worker_sees_what_it_is_meant_to_see() {
    let farm = Farm::start().await;
    let mut plan = farm.plan("h1", &[plugin("hostile")]);
    plan.environment = ["AWS_SECRET_ACCESS_KEY", "GRANGE_NOTHING", "NATS_CREDS", "CANARY"]
        .map(|name| (name.to_owned(), "canary-31".to_owned()))
        .to_vec();
    plan.environment.push(("HTTPS_PROXY".to_owned(), "http://proxy:1".to_owned()));
    let _agent = plan.start();
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    let seen = client.run("hostile", &json!({})).await.value();
    let environment = &seen["environment"];
    assert!(!environment.to_string().contains("canary-31"), "{environment}");
    assert_eq!(environment["HTTPS_PROXY"], "http://proxy:1");
    assert_eq!(environment["TMPDIR"], seen["temporary"]);
    let text = |value: &Value| PathBuf::from(value.as_str().unwrap());
    let temporary = text(&seen["temporary"]);
    assert!(temporary.starts_with(plan.state.join("scratch")), "{}", temporary.display());
    assert!(text(&seen["scratch"]).starts_with(temporary.parent().unwrap()));
    assert_eq!(
        (&seen["mode"], &seen["core"], &seen["address_space"]),
        (&json!(0o700), &json!(0), &json!(true))
    );
    assert_eq!((&seen["no_new_privs"], &seen["oom_score_adj"]), (&json!("1"), &json!(500)));
    assert!(seen["open_files"].as_u64().unwrap() <= 65_536);
}

#[tokio::test]
async fn a_scratch_folder_is_bounded_and_goes_with_its_worker() {
    let farm = Farm::start().await;
    let config = "scratch_max_mb = 16";
    let (mut agent, client, _) = at_level(&farm, "auto", &json!({"keep_warm_s": 0}), config).await;
    let scratch = agent.plan().state.join("scratch");
    let failure = client.run("hostile", &json!({"how": "fill", "mib": 64})).await.failure().clone();
    assert_eq!(failure.kind, FailureKind::OutOfDisk, "{failure:?}");
    assert!(failure.message.contains("16 MiB"), "{failure}");
    let failure = client.run("hostile", &json!({"how": "no_space"})).await.failure().clone();
    assert_eq!(failure.kind, FailureKind::OutOfDisk, "{failure:?}");
    assert_eq!(client.run("hostile", &json!({"how": "leave", "files": 20_000})).await.value(), 20_000);
    let empty = async || {
        eventually("the scratch folder is empty", SOON, async || {
            let left: Vec<PathBuf> =
                std::fs::read_dir(&scratch).into_iter().flatten().flatten().map(|e| e.path()).collect();
            // The worker of `gate`, if there is one, keeps its own.
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    };
    empty().await;
    let log = farm.path("marks");
    client.submit("hostile", &json!({"pids": log, "block": true})).await;
    let mark = mark(&log).await;
    agent.kill();
    none_marked(&mark, SOON).await;
    let worker = mark.rsplit('/').next().unwrap().to_owned();
    assert!(scratch.join(&worker).exists(), "a dead agent removes nothing");
    let _next = agent.plan().clone().start();
    eventually("the next life removes it", SOON, async || {
        if scratch.join(&worker).exists() { Err("it is there") } else { Ok(()) }
    })
    .await;
}
