//! Brokers that die, come back, or stop to deliver without a word: no job pays for it, and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::cancel::{Cancelled, cancel};
use grange_broker_client::topology::queues;
use grange_protocol::record::State;
use grange_tests::{Client, Farm, Returned, eventually, lines, plugin};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A machine that does many other things is given this.
const PATIENCE: Duration = Duration::from_secs(80);
const CONNECTIONS: usize = 30;
const OUTAGES: usize = 3;
const JOBS: usize = 60;
const RACES: usize = 200;

#[tokio::test]
async fn a_broker_that_is_killed_under_load_costs_no_attempt_and_leaves_no_consumer() {
    let mut farm = Farm::start().await;
    let agents = [farm.agent("h1", &[plugin("witness")]).await, farm.agent("h2", &[plugin("witness")]).await];
    let client = farm.client("alice").await;
    let log = farm.path("log");
    let mut others = Vec::new();
    for _ in 0..CONNECTIONS {
        others.push(farm.broker().await);
    }
    let job = |n: usize| json!({"label": format!("j{n}"), "log": log, "seconds": 0.2});
    let mut keys = vec![client.submit("witness", &job(0)).await];
    client.end(&keys[0]).await.value();
    let before = queues(&client.broker).await.unwrap();
    for n in 1..JOBS {
        keys.push(client.submit("witness", &job(n)).await);
    }
    for outage in 0..OUTAGES {
        eventually("some ran", PATIENCE, async || match lines(&log).len() {
            n if n >= 12 * (outage + 1) => Ok(()),
            n => Err(format!("{n} lines")),
        })
        .await;
        farm.nats.kill().await.unwrap();
        farm.nats.restart().await.unwrap();
    }
    for key in &keys {
        let record =
            eventually(&format!("{key} ends"), PATIENCE, async || match client.ledger.read(key).await {
                Ok(grange_protocol::ownership::Stored::Record { record, .. })
                    if record.state.is_terminal() =>
                {
                    Ok(record)
                }
                other => Err(format!("{other:?}")),
            })
            .await;
        record.value();
        assert_eq!(record.attempt.as_ref().unwrap().number, 1, "{record:?}");
    }
    for other in &others {
        eventually("every connection is back", PATIENCE, async || other.settle().await).await;
    }
    assert_eq!(queues(&client.broker).await.unwrap(), before, "consumers after {OUTAGES} outages");
    let ran = lines(&log);
    let unlike: BTreeSet<&String> = ran.iter().collect();
    assert_eq!((ran.len(), unlike.len()), (2 * JOBS, 2 * JOBS), "each began once and ended once");
    client.no_tickets().await;
    drop(agents);
}

/// Passes on all that a server sends, but nothing more for the subscription that the first ticket came for.
async fn deaf_relay(server: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("nats://{}", listener.local_addr().unwrap());
    let server = server.trim_start_matches("nats://").to_owned();
    let deaf = Arc::<Mutex<Option<String>>>::default();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, deaf) = (TcpStream::connect(&server).await.unwrap(), deaf.clone());
            let (mut from_client, to_client) = client.into_split();
            let (from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(relay(BufReader::new(from_server), to_client, deaf));
        }
    });
    address
}

async fn relay(
    mut from: BufReader<tokio::net::tcp::OwnedReadHalf>,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    deaf: Arc<Mutex<Option<String>>>,
) -> std::io::Result<()> {
    loop {
        let mut frame = Vec::new();
        if from.read_until(b'\n', &mut frame).await? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&frame).trim_end().to_owned();
        let words: Vec<&str> = line.split(' ').collect();
        if let ["MSG" | "HMSG", subject, sid, .., size] = words[..] {
            let begin = frame.len();
            frame.resize(begin + size.parse::<usize>().unwrap() + 2, 0);
            from.read_exact(&mut frame[begin..]).await?;
            if is_deaf(&deaf, subject, sid) {
                continue;
            }
        }
        to.write_all(&frame).await?;
    }
}

fn is_deaf(deaf: &Mutex<Option<String>>, subject: &str, sid: &str) -> bool {
    let mut deaf = deaf.lock().unwrap();
    if deaf.is_none() && subject.starts_with("grange.jobs.") {
        *deaf = Some(sid.to_owned());
    }
    deaf.as_deref() == Some(sid)
}

#[tokio::test]
async fn a_pull_that_is_never_answered_is_asked_anew_in_another_way() {
    let farm = Farm::start().await;
    let mut plan = farm.plan("h1", &[plugin("gate")]);
    plan.broker = deaf_relay(farm.nats.url()).await;
    let agent = plan.start();
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    let swallowed = client.submit("gate", &json!({"label": "swallowed"})).await;
    eventually("the agent notices", Duration::from_secs(30), async || match agent.log() {
        log if log.contains("another inbox is used") => Ok(()),
        log => Err(log),
    })
    .await;
    client.run("gate", &json!({"label": "next"})).await.value();
    // Its ticket is given out again when nobody said anything of it for the broker's ack wait.
    eventually("the swallowed one ends", PATIENCE, async || match client.record(&swallowed).await {
        Some(record) if record.state == State::Succeeded => Ok(()),
        record => Err(format!("{record:?}")),
    })
    .await;
}

/// Asks for the end of a job that starts at this very moment: whoever wins, nothing starts after an end was promised.
async fn race(client: &Client, log: &std::path::Path, n: usize) -> Cancelled {
    let key = client.submit("witness", &json!({"label": n.to_string(), "log": log, "seconds": 0.0})).await;
    for _ in 0..n % 7 {
        tokio::task::yield_now().await;
    }
    let said = cancel(&client.broker, &client.ledger, &key, "a race").await.unwrap();
    let began = lines(log).contains(&format!("begin {n}"));
    let record = client.end(&key).await;
    match said {
        Cancelled::AtOnce => assert!(record.state == State::Cancelled && !began, "{n}: {record:?}"),
        Cancelled::AlreadyEnded(state) => assert_eq!(record.state, state, "{n}"),
        Cancelled::Requested => {
            assert!(matches!(record.state, State::Cancelled | State::Succeeded), "{n}: {record:?}");
        }
    }
    said
}

#[tokio::test]
async fn a_cancel_that_races_a_start_is_told_the_truth() {
    let farm = Farm::start().await;
    let _agents =
        [farm.agent("h1", &[plugin("witness")]).await, farm.agent("h2", &[plugin("witness")]).await];
    let (client, log) = (farm.client("alice").await, farm.path("log"));
    client.run("witness", &json!({"label": "warm", "log": log, "seconds": 0.0})).await.value();
    let mut at_once = Vec::new();
    let mut counts = [0; 3];
    for n in 0..RACES {
        match race(&client, &log, n).await {
            Cancelled::AtOnce => {
                counts[0] += 1;
                at_once.push(n);
            }
            Cancelled::Requested => counts[1] += 1,
            Cancelled::AlreadyEnded(_) => counts[2] += 1,
        }
    }
    println!(
        "of {RACES} cancels {} came before the start, {} during the run, {} after it",
        counts[0], counts[1], counts[2]
    );
    client.no_tickets().await;
    let ran = lines(&log);
    let late: Vec<usize> = at_once.into_iter().filter(|n| ran.contains(&format!("begin {n}"))).collect();
    assert!(late.is_empty(), "{late:?} began although they had been cancelled");
}
