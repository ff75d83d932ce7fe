//! Leases: who may run a job, for how long, and what becomes of it when its holder is frozen, cut off or killed.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::submit::Submission;
use grange_protocol::record::State;
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::OnPartition;
use grange_tests::processes::{all_gone, left};
use grange_tests::{Agent, Client, Farm, Returned, began, eventually, plugin};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

/// The shortest lease that there is, seconds.
const LEASE_S: u32 = 10;
/// How long the broker keeps a ticket to its holder before it gives it out again, and a little, seconds.
const LONGER_THAN_ACK_WAIT_S: u32 = 35;
/// A machine that does many other things is given this.
const PATIENCE: Duration = Duration::from_secs(80);

/// A job that blocks in its first attempt with processes of its own.
fn blocking(farm: &Farm, client: &Client, log: &str, lease_s: u32) -> Submission {
    let arguments = json!({"log": farm.path(log), "until_attempt": 2});
    let mut submission = client.submission("stubborn", &arguments);
    submission.ticket.limits.lease_s = Some(lease_s);
    submission
}

/// Waits until another agent has the job; by then nothing of the first attempt may be left.
async fn taken_over(client: &Client, key: &JobKey, by: &str, tree: &[u32]) {
    eventually(&format!("`{by}` has it"), PATIENCE, async || match client.record(key).await {
        Some(record) if record.attempt.as_ref().unwrap().agent.as_str() == by => {
            assert_eq!(left(tree), [0; 0], "of {tree:?}: two attempts at one time: {record:?}");
            Ok(())
        }
        record => Err(format!("{record:?}")),
    })
    .await;
}

async fn frozen_and_another(farm: &Farm, client: &Client, lease_s: u32) -> (Agent, Agent, JobKey, Vec<u32>) {
    let first = farm.agent("h1", &[plugin("stubborn")]).await;
    let key = client.send(blocking(farm, client, "log", lease_s)).await;
    let tree = first.tree_with("sleep", 2).await;
    let second = farm.agent("h2", &[plugin("stubborn")]).await;
    first.signal(Signal::STOP);
    (first, second, key, tree)
}

#[tokio::test]
async fn nobody_takes_what_a_frozen_holder_may_still_run() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    // Its heartbeat is gone after 6 s, and its ticket is given out again after 30 s: neither is the end of its lease.
    let (first, _second, key, tree) = frozen_and_another(&farm, &client, LONGER_THAN_ACK_WAIT_S).await;
    taken_over(&client, &key, "h2", &tree).await;
    let ended = client.end(&key).await;
    assert_eq!((ended.state, ended.value()), (State::Succeeded, json!(2)));
    // The one who was frozen says nothing that counts.
    first.signal(Signal::CONT);
    eventually("the first agent lets it go", PATIENCE, async || match client.agent("h1").await {
        Some(status) if status.attempts.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(client.record(&key).await.unwrap(), ended);
    client.no_tickets().await;
}

#[tokio::test]
async fn an_outage_beyond_the_lease_ends_what_is_to_stop_and_leaves_what_may_continue() {
    let mut farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("stubborn"), plugin("gate")]).await;
    let client = farm.client("alice").await;
    let (gate, log) = (farm.path("gate"), farm.path("gate-log"));
    let mut goes_on = client.submission("gate", &json!({"until": gate, "log": log, "label": "x"}));
    goes_on.ticket.limits.lease_s = Some(LEASE_S);
    goes_on.ticket.limits.on_partition = OnPartition::Continue;
    let goes_on = client.send(goes_on).await;
    began(&log, "x").await;
    let untouched = agent.descendants();
    let stops = client.send(blocking(&farm, &client, "log", LEASE_S)).await;
    let mut tree = agent.tree_with("sleep", 2).await;
    tree.retain(|pid| !untouched.contains(pid));
    farm.nats.kill().await.unwrap();
    all_gone(&tree, PATIENCE).await;
    assert_eq!(left(&untouched), untouched, "what may continue does");
    farm.nats.restart().await.unwrap();
    let client = farm.client("alice").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(client.end(&goes_on).await.value()["attempt"], 1, "it went on, and it counts");
    let ended = client.end(&stops).await;
    assert_eq!((ended.value(), ended.tries.host_losses), (json!(2), 1));
    client.no_tickets().await;
}
