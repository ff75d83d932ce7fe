//! Tickets that get lost, and holders that do: what is left finds the job, or says that it cannot be tried again.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use async_nats::jetstream;
use grange_protocol::failure::FailureKind;
use grange_protocol::record::State;
use grange_protocol::subject::{JOBS, JobKey};
use grange_tests::{Agent, Client, Farm, Returned, began, eventually, lines, plugin};
use serde_json::json;
use std::time::Duration;

/// The shortest lease that there is, seconds.
const LEASE_S: u32 = 10;
/// A machine that does many other things is given this.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that keeps records of ended jobs for a second.
async fn agent(farm: &Farm, name: &str) -> Agent {
    let mut plan = farm.plan(name, &[plugin("gate"), plugin("stubborn")]);
    plan.config = "[limits]\nrecord_keep_s = 1\n".to_owned();
    let agent = plan.start();
    farm.client("harness").await.wait_for_plugins(name).await;
    agent
}

/// Removes every ticket as an operator by mistake would.
async fn purge(client: &Client) {
    let context = jetstream::new(client.broker.client().clone());
    context.get_stream(JOBS).await.unwrap().purge().await.unwrap();
}

async fn has_a_ticket_again(client: &Client, key: &JobKey) {
    eventually("its ticket is back", PATIENCE, async || match client.tickets().await {
        tickets if tickets.iter().any(|ticket| ticket.ends_with(key.job.as_str())) => Ok(()),
        tickets => Err(format!("{tickets:?}")),
    })
    .await;
}

#[tokio::test]
async fn a_ticket_that_was_deleted_under_a_running_job_is_published_again_by_its_holder() {
    let farm = Farm::start().await;
    let mut first = agent(&farm, "h1").await;
    let client = farm.client("alice").await;
    let (gate, log) = (farm.path("gate"), farm.path("log"));
    let mut submission = client.submission("gate", &json!({"until": gate, "log": log, "label": "x"}));
    submission.ticket.limits.lease_s = Some(LEASE_S);
    let key = client.send(submission).await;
    began(&log, "x").await;
    // Twice: what was published again can be lost again.
    for _ in 0..2 {
        purge(&client).await;
        has_a_ticket_again(&client, &key).await;
    }
    // It is worth having: the job outlives its host.
    let _second = agent(&farm, "h2").await;
    first.kill();
    std::fs::write(&gate, "").unwrap();
    let reached = eventually("it runs elsewhere", PATIENCE, async || match lines(&log) {
        lines if lines.len() == 2 => Ok(lines),
        lines => Err(format!("{lines:?}")),
    })
    .await;
    assert_eq!(reached, ["x", "x"]);
    client.no_tickets().await;
}

#[tokio::test]
async fn a_job_whose_ticket_and_host_are_gone_has_failed() {
    let farm = Farm::start().await;
    let (mut first, mut second) = (agent(&farm, "h1").await, agent(&farm, "h2").await);
    let client = farm.client("alice").await;
    let (log, never) = (farm.path("log"), farm.path("never"));
    let mut submission = client.submission("gate", &json!({"until": never, "log": log, "label": "x"}));
    submission.ticket.limits.lease_s = Some(LEASE_S);
    let key = client.send(submission).await;
    began(&log, "x").await;
    let running = client.record(&key).await.unwrap();
    let holder = running.attempt.as_ref().unwrap().agent.to_string();
    let dies = if holder == "h1" { &mut first } else { &mut second };
    dies.signal(rustix::process::Signal::STOP);
    purge(&client).await;
    dies.kill();
    // Its record is kept for a second only, and what is in `GRANGE_DEAD` for longer.
    let dead = eventually("it is given up", PATIENCE, async || match client.dead().await {
        dead if dead.is_empty() => Err(format!("{:?}", client.record(&key).await)),
        dead => Ok(dead),
    })
    .await;
    assert_eq!(dead[0].subject, format!("grange.dead.ticket_lost.{}", key.job));
    assert_eq!(dead[0].body["evidence"]["failure"]["kind"], FailureKind::HostLost.as_str());
    eventually("its record says so", PATIENCE, async || match client.record(&key).await {
        Some(record) if record.state == State::Failed => Ok(()),
        record => Err(format!("{record:?}")),
    })
    .await;
    assert_eq!(lines(&log), ["x"]);
}

#[tokio::test]
async fn the_record_of_a_job_that_ended_long_ago_is_forgotten() {
    let farm = Farm::start().await;
    let _agent = agent(&farm, "h1").await;
    let client = farm.client("alice").await;
    let key = client.submit("gate", &json!({})).await;
    client.end(&key).await.value();
    // A record that runs out is one that was written again with a time to live.
    let ledger = jetstream::new(client.broker.client().clone()).get_stream("GRANGE_STATE").await.unwrap();
    eventually("its record runs out", PATIENCE, async || {
        match ledger.get_last_raw_message_by_subject(&key.state()).await {
            Ok(message) if message.headers.get("Nats-TTL").is_some() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(client.record(&key).await.unwrap().state, State::Succeeded, "it is there until then");
    let waits = client.submit("nobodys", &json!({})).await;
    assert!(client.record(&waits).await.is_none(), "one that waits is no record");
}

#[tokio::test]
async fn another_host_has_the_job_soon_after_its_lease_is_over() {
    let farm = Farm::start().await;
    let mut first = agent(&farm, "h1").await;
    let client = farm.client("alice").await;
    let mut submission = client.submission("stubborn", &json!({"log": farm.path("log"), "until_attempt": 2}));
    submission.ticket.limits.lease_s = Some(LEASE_S);
    let key = client.send(submission).await;
    first.tree_with("sleep", 2).await;
    let _second = agent(&farm, "h2").await;
    let killed = std::time::Instant::now();
    first.kill();
    let log = farm.path("log");
    eventually("the second attempt began", PATIENCE, async || match lines(&log) {
        lines if lines == ["1", "2"] => Ok(()),
        lines => Err(format!("{lines:?}; {:?}", client.record(&key).await)),
    })
    .await;
    // The broker alone would give the ticket out again after 25 to 30 s.
    println!("host lost, lease {LEASE_S} s: the next attempt began after {:?}", killed.elapsed());
    client.no_tickets().await;
}
