//! Every agent of a loaded farm is drained, ended and started again, one after the other: no job is lost, none starts twice.

use grange_protocol::record::State;
use grange_protocol::subject::JobKey;
use grange_tests::{Agent, Client, Farm, Grange, eventually, lines, plugin};
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// Jobs that are submitted and have not begun, at most: always enough for every agent.
const BEHIND: usize = 40;
/// Jobs at least.
const JOBS: usize = 150;

/// Keeps the farm busy until it is told to stop.
async fn load(client: Client, log: PathBuf, stop: Arc<AtomicBool>) -> Vec<JobKey> {
    let mut keys = Vec::new();
    while !stop.load(Ordering::Relaxed) || keys.len() < JOBS {
        let begun = lines(&log).iter().filter(|line| line.starts_with("begin ")).count();
        if keys.len().saturating_sub(begun) >= BEHIND {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let seconds = 0.02 + 0.03 * (keys.len() % 7) as f64;
        let label = format!("job-{}", keys.len());
        let arguments = json!({"label": label, "log": log, "seconds": seconds});
        keys.push(client.submit("witness", &arguments).await);
    }
    keys
}

/// What the workers wrote down: each job began once and ended once.
async fn once_each(client: &Client, log: &Path, keys: &[JobKey]) {
    for key in keys {
        let record = client.end(key).await;
        // One that waited for a worker was handed back, as its next attempt: it had not begun.
        assert_eq!(record.state, State::Succeeded, "{record:?}");
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines(log) {
        *counts.entry(line).or_default() += 1;
    }
    for number in 0..keys.len() {
        for moment in ["begin", "end"] {
            let line = format!("{moment} job-{number}");
            assert_eq!(counts.remove(&line), Some(1), "{line}");
        }
    }
    assert!(counts.is_empty(), "{counts:?}");
    client.no_tickets().await;
}

/// So many jobs have begun.
async fn begun(log: &Path, count: usize) {
    eventually(&format!("{count} jobs have begun"), SOON, async || match lines(log).len() {
        there if there >= count => Ok(()),
        there => Err(there),
    })
    .await;
}

async fn farm_of_four(farm: &Farm) -> Vec<Agent> {
    let mut agents = Vec::new();
    for number in 0..4 {
        agents.push(farm.agent(&format!("h{number}"), &[plugin("witness")]).await);
    }
    agents
}

/// Ends an agent by the signal that a service manager sends, and starts it again.
async fn restart(agent: &mut Agent, client: &Client) {
    agent.signal(Signal::TERM);
    assert!(agent.wait(SOON).await.success());
    *agent = agent.plan().start();
    client.wait_for_plugins(&agent.plan().name).await;
}

#[tokio::test]
async fn a_rolling_restart_by_signal_loses_nothing_and_doubles_nothing() {
    let farm = Farm::start().await;
    let mut agents = farm_of_four(&farm).await;
    let (client, log) = (farm.client("alice").await, farm.path("log"));
    let stop = Arc::new(AtomicBool::new(false));
    let loading = tokio::spawn(load(client.clone(), log.clone(), stop.clone()));
    begun(&log, 8).await;
    for agent in &mut agents {
        restart(agent, &client).await;
    }
    stop.store(true, Ordering::Relaxed);
    let keys = loading.await.unwrap();
    once_each(&client, &log, &keys).await;
}

#[tokio::test]
async fn a_rolling_restart_by_drain_loses_nothing_and_doubles_nothing() {
    let farm = Farm::start().await;
    let mut agents = farm_of_four(&farm).await;
    let (client, log) = (farm.client("alice").await, farm.path("log"));
    let operator: Grange = farm.grange("alice");
    let stop = Arc::new(AtomicBool::new(false));
    let loading = tokio::spawn(load(client.clone(), log.clone(), stop.clone()));
    begun(&log, 8).await;
    for agent in &mut agents {
        let name = agent.plan().name.clone();
        operator.run(&["agents", "drain", &name, "--wait"]).await.ends(0);
        restart(agent, &client).await;
        operator.run(&["agents", "undrain", &name]).await.ends(0);
    }
    stop.store(true, Ordering::Relaxed);
    let keys = loading.await.unwrap();
    once_each(&client, &log, &keys).await;
}
