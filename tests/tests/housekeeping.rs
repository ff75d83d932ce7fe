//! What goes on in a farm that no job asked for: the overview, the rounds through tickets, limits of owners.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::bucket::Bucket;
use grange_broker_client::topology::queues;
use grange_protocol::facts::{
    HOUSEKEEPER_KEY, HOUSEKEEPER_TTL_S, Housekeeper, OVERVIEW_KEY, OVERVIEW_MS, Overview, QueueFact,
    RunningByAgent,
};
use grange_protocol::lifecycle::request_cancel;
use grange_protocol::limit::LEASE_S;
use grange_protocol::record::State;
use grange_protocol::subject::{JobKey, LANES_BUCKET, parse_ticket};
use grange_tests::{Agent, Client, Farm, began, eventually, lines, plugin};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the housekeeper goes round.
const ROUND: Duration = Duration::from_secs(4);
const SOON: Duration = Duration::from_secs(20);

fn lanes(client: &Client) -> Bucket {
    Bucket::new(&client.broker, LANES_BUCKET)
}

/// Waits until the overview is as wanted.
async fn overview(client: &Client, what: &str, wanted: impl Fn(&Overview) -> bool) -> Overview {
    let lanes = lanes(client);
    eventually(&format!("the overview shows {what}"), SOON, async || {
        match lanes.get::<Overview>(OVERVIEW_KEY).await.unwrap() {
            Some(entry) if wanted(&entry.value) => Ok(entry.value),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

fn of<'a>(overview: &'a Overview, queue: &str) -> Option<&'a QueueFact> {
    overview.queues.iter().find(|fact| fact.queue == queue)
}

async fn keeper(client: &Client) -> Option<Housekeeper> {
    lanes(client).get(HOUSEKEEPER_KEY).await.unwrap().map(|entry| entry.value)
}

async fn gone(client: &Client, key: &JobKey) {
    eventually(&format!("the ticket of {key} is gone"), SOON, async || {
        let tickets = client.tickets().await;
        if tickets.iter().any(|ticket| ticket.ends_with(key.job.as_str())) {
            Err(format!("{tickets:?}"))
        } else {
            Ok(())
        }
    })
    .await;
}

#[tokio::test]
async fn a_wait_for_a_plugin_that_nobody_has_ends_in_a_record() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    overview(&client, "that somebody keeps house", |_| true).await;
    let wait = Duration::from_secs(2);
    let mut submission = client.submission("nobodys", &json!({}));
    submission.max_wait = Some(wait);
    let begun = Instant::now();
    let key = client.send(submission).await;
    let patient = client.submit("nobodys", &json!({})).await;
    let record = client.reaches(&key, State::Expired).await;
    let took = begun.elapsed();
    assert!(took >= wait && took < wait + 2 * ROUND, "{took:?}");
    assert_eq!((record.plugin.as_str(), record.attempt), ("nobodys", None));
    gone(&client, &key).await;
    assert_eq!(client.tickets().await.len(), 1, "the other one waits on");
    assert!(client.record(&patient).await.is_none());
    assert!(client.dead().await.is_empty(), "an agent may bring the plugin later");
}

#[tokio::test]
async fn the_overview_counts_what_waits_runs_and_is_loaded() {
    let farm = Farm::start().await;
    let _agents = (farm.agent("h1", &[plugin("gate")]).await, farm.agent("h2", &[plugin("witness")]).await);
    let (client, log, open) = (farm.client("alice").await, farm.path("log"), farm.path("open"));
    let job = |label: &str| json!({"label": label, "log": log, "until": open});
    let first = client.submit("gate", &job("first")).await;
    began(&log, "first").await;
    let begun = Instant::now();
    for label in ["a", "b", "c"] {
        client.submit("gate", &job(label)).await;
    }
    let bob = farm.client("bob").await;
    for _ in 0..2 {
        bob.submit("nobodys", &json!({})).await;
    }
    let (gate, nobodys) = ("default:normal:gate:alice", "default:normal:nobodys:bob");
    let told = overview(&client, "five tickets", |overview| {
        of(overview, gate).is_some_and(|fact| fact.waiting == 3)
            && of(overview, nobodys).is_some_and(|fact| fact.waiting == 2)
            && overview.running.len() == 1
    })
    .await;
    let age = Duration::from_millis(of(&told, gate).unwrap().oldest_ms);
    assert!(age <= begun.elapsed(), "{age:?}");
    assert_eq!(told.running, [("alice".parse().unwrap(), 1)].into());
    assert_eq!(told.warm, [("gate".parse().unwrap(), 1)].into());
    assert_eq!(told.agents.iter().map(|agent| agent.as_str()).collect::<Vec<_>>(), ["h1", "h2"]);
    let later =
        overview(&client, "a later moment", |overview| overview.at_ms >= told.at_ms + 2 * OVERVIEW_MS).await;
    for queue in [gate, nobodys] {
        let grown = of(&later, queue).unwrap().oldest_ms - of(&told, queue).unwrap().oldest_ms;
        assert!(grown.abs_diff(later.at_ms - told.at_ms) <= 2, "`{queue}` aged {grown} ms");
    }
    std::fs::write(&open, "").unwrap();
    client.end(&first).await;
    let empty = overview(&client, "nothing of alice", |overview| of(overview, gate).is_none()).await;
    assert!(of(&empty, nobodys).is_some());
    overview(&client, "nothing that runs", |overview| overview.running.is_empty()).await;
}

#[tokio::test]
async fn a_ticket_of_a_lost_agent_counts_as_waiting() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &[plugin("gate")]).await;
    let _other = farm.agent("h2", &[plugin("witness")]).await;
    let (client, log, open) = (farm.client("alice").await, farm.path("log"), farm.path("open"));
    client.submit("gate", &json!({"label": "lost", "log": log, "until": open})).await;
    began(&log, "lost").await;
    let gate = "default:normal:gate:alice";
    overview(&client, "that it runs", |overview| overview.running.len() == 1 && of(overview, gate).is_none())
        .await;
    agent.kill();
    let told = eventually("it counts as waiting", Duration::from_secs(40), async || {
        let entry = lanes(&client).get::<Overview>(OVERVIEW_KEY).await.unwrap();
        let overview = entry.map(|entry| entry.value).unwrap_or_default();
        of(&overview, gate).cloned().ok_or(format!("{overview:?}"))
    })
    .await;
    assert_eq!(told.waiting, 1);
    assert!(told.oldest_ms > 4_000, "it is as old as the ticket: {told:?}");
}

#[tokio::test]
async fn another_keeps_house_when_the_one_who_did_is_killed() {
    let farm = Farm::start().await;
    let mut agents =
        vec![farm.agent("h1", &[plugin("gate")]).await, farm.agent("h2", &[plugin("gate")]).await];
    let client = farm.client("alice").await;
    overview(&client, "both agents", |overview| overview.agents.len() == 2).await;
    let first = keeper(&client).await.unwrap();
    let place = agents.iter().position(|agent| agent.plan().name == first.agent.as_str()).unwrap();
    let mut killed = agents.remove(place);
    killed.kill();
    let begun = Instant::now();
    let limit = Duration::from_secs(HOUSEKEEPER_TTL_S + HOUSEKEEPER_TTL_S / 3);
    let second = eventually("another keeps house", limit, async || match keeper(&client).await {
        Some(keeper) if keeper != first => Ok(keeper),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(second.agent.as_str(), agents[0].plan().name);
    let left = overview(&client, "one agent", |overview| overview.agents.len() == 1).await;
    assert_eq!(left.agents[0], second.agent);
    println!("the duty moved after {:?}", begun.elapsed());
    // One that drains gives it up at once; the other one's last life does not stand in its way.
    let back = killed.plan().start();
    client.wait_for_plugins(first.agent.as_str()).await;
    agents[0].signal(rustix::process::Signal::TERM);
    eventually("it is given up", SOON, async || match keeper(&client).await {
        Some(keeper) if keeper == second => Err(format!("{keeper:?}")),
        _ => Ok(()),
    })
    .await;
    overview(&client, "the one who came back", |overview| overview.agents == [first.agent.clone()]).await;
    drop(back);
}

#[tokio::test]
async fn a_ticket_whose_bell_nobody_heard_is_found() {
    let farm = Farm::start().await;
    let client = farm.client("alice").await;
    // Nobody is there to hear it, and its queue has no consumer that an agent could find.
    let key = client.submit("gate", &json!({"label": "silent"})).await;
    assert!(queues(&client.broker).await.unwrap().is_empty());
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let begun = Instant::now();
    client.reaches(&key, State::Succeeded).await;
    assert!(begun.elapsed() < 2 * ROUND + Duration::from_secs(5), "{:?}", begun.elapsed());
    client.no_tickets().await;
}

#[tokio::test]
async fn the_ticket_of_a_job_that_ended_while_it_waited_is_removed() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let stays = client.submit("nobodys", &json!({})).await;
    let key = client.submit("nobodys", &json!({})).await;
    // A submitter who may not delete tickets writes the record, and leaves it at that.
    let (lane, _) = parse_ticket(&key.ticket(&Client::lane("nobodys"))).unwrap();
    let cancelled = request_cancel(None, &lane, "the test wants it", 1).unwrap();
    client.ledger.write(&key, 0, &cancelled, None).await.unwrap();
    gone(&client, &key).await;
    let left = client.tickets().await;
    assert!(left.len() == 1 && left[0].ends_with(stays.job.as_str()), "{left:?}");
}

/// Begins and ends as the witness wrote them down, with how many of a label's first letter ran after each.
fn most_at_once(log: &Path, letter: char) -> (usize, usize) {
    let (mut now, mut most, mut ended) = (0usize, 0, 0);
    for line in lines(log) {
        match line.split_once(' ') {
            Some(("begin", label)) if label.starts_with(letter) => now += 1,
            Some(("end", label)) if label.starts_with(letter) => {
                now -= 1;
                ended += 1;
            }
            _ => {}
        }
        most = most.max(now);
    }
    (most, ended)
}

async fn limited(farm: &Farm, name: &str) -> Agent {
    let mut plan = farm.plan(name, &[plugin("witness")]);
    plan.config = "[limits]\nowner_running_max = 2\n".to_owned();
    let agent = plan.start();
    farm.client("harness").await.wait_for_plugins(name).await;
    agent
}

#[tokio::test]
async fn an_owner_never_runs_more_than_it_may_and_holds_nobody_up() {
    let farm = Farm::start().await;
    let _agents = [limited(&farm, "h1").await, limited(&farm, "h2").await, limited(&farm, "h3").await];
    let (alice, bob, log) = (farm.client("alice").await, farm.client("bob").await, farm.path("log"));
    let job = |label: String| json!({"label": label, "log": log, "seconds": 0.4});
    let (begun, mut keys) = (Instant::now(), Vec::new());
    for n in 0..12 {
        keys.push(alice.submit("witness", &job(format!("a{n}"))).await);
    }
    eventually("one of alice runs", SOON, async || match lines(&log) {
        lines if lines.is_empty() => Err("nothing began".to_owned()),
        _ => Ok(()),
    })
    .await;
    let mut other = bob.submission("witness", &job("b".to_owned()));
    other.ticket.limits.lease_s = Some(600);
    let other = bob.send(other).await;
    let record = bob.reaches(&other, State::Succeeded).await;
    assert_eq!(
        record.lease_s(),
        LEASE_S,
        "a gone agent's attempts count for its own lease, and must end by then"
    );
    let (_, ended) = most_at_once(&log, 'a');
    assert!(ended < 12, "bob waited for all of alice:\n{:?}", lines(&log));
    for key in &keys {
        eventually(&format!("{key} ends"), Duration::from_secs(60), async || match alice.record(key).await {
            Some(record) if record.state == State::Succeeded => Ok(()),
            other => Err(format!("{other:?}\n{:?}", lines(&log))),
        })
        .await;
    }
    let (most, ended) = most_at_once(&log, 'a');
    assert_eq!((most, ended), (2, 12), "{:?}", lines(&log));
    println!("twelve jobs of 0.4 s, two at a time: {:?}", begun.elapsed());
    eventually("all counts are given back", SOON, async || {
        let counts = lanes(&alice).list::<RunningByAgent>("running.*").await.unwrap();
        if counts.is_empty() { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}
