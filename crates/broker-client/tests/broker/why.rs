//! Why a job waits.

use crate::farm::{Farm, lane, new_key, tally};
use crate::submit::echo;
use futures_util::StreamExt;
use grange_broker_client::ErrorKind;
use grange_broker_client::bucket::Bucket;
use grange_broker_client::submit::{Submission, submit};
use grange_broker_client::topology::ensure_queue;
use grange_broker_client::why::{Reason, Why, why};
use grange_protocol::facts::{OVERVIEW_KEY, Overview, QueueFact, RunningByAgent};
use grange_protocol::record::State;
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::{AGENTS_BUCKET, JobKey, LANES_BUCKET, Lane, Queue};
use grange_protocol::ticket::Priority;
use std::time::Duration;

fn host(name: &str, free_mb: u64) -> AgentStatus {
    let plugin = serde_json::from_str(
        r#"{"name":"echo","version":"1","state":"ready","workers":0,"running":0,"slots":2,
            "resources":{"ram_mb":1000}}"#,
    )
    .unwrap();
    let mut host = AgentStatus { plugins: vec![plugin], ..AgentStatus::silent(name.parse().unwrap()) };
    (host.capacity.ram_mb, host.capacity.ram_usable_mb, host.capacity.ram_grantable_mb) =
        (8_000, 7_000, free_mb);
    host
}

async fn beat(farm: &Farm, status: &AgentStatus) {
    Bucket::new(&farm.broker, AGENTS_BUCKET).put(status.agent.as_str(), status, None).await.unwrap();
}

async fn send(farm: &Farm, owner: &str, priority: Priority) -> JobKey {
    let lane = Lane { priority, ..lane("echo") };
    let one = Submission { owner: owner.parse().unwrap(), lane, ..echo() };
    submit(&farm.broker, &farm.ledger, one).await.unwrap().key
}

async fn ask(farm: &Farm, key: &JobKey) -> Why {
    why(&farm.broker, key).await.unwrap()
}

#[tokio::test]
async fn each_host_says_its_reason() {
    let farm = Farm::start().await;
    let key = send(&farm, "alice", Priority::Normal).await;
    let alone = ask(&farm, &key).await;
    assert_eq!((alone.reason, alone.state, alone.hosts.len()), (Reason::NoAgents, State::Queued, 0));
    assert!(alone.age_ms.unwrap() < 30_000 && alone.left_ms.is_none());
    let other = AgentStatus { plugins: Vec::new(), ..host("h2", 0) };
    beat(&farm, &other).await;
    assert_eq!(ask(&farm, &key).await.reason, Reason::Nowhere);
    beat(&farm, &host("h1", 900)).await;
    let busy = ask(&farm, &key).await;
    assert_eq!(busy.reason, Reason::NoRoom);
    let said: Vec<_> = busy.hosts.iter().map(|h| (h.agent.as_str(), h.answer, h.text.as_str())).collect();
    assert_eq!(
        said,
        [
            ("h1", "busy", "needs 1000 MiB of memory, 900 MiB free"),
            ("h2", "not_installed", "does not have the plugin"),
        ]
    );
    beat(&farm, &host("h1", 4_000)).await;
    assert_eq!(ask(&farm, &key).await.reason, Reason::Soon);
    let shown = serde_json::to_value(ask(&farm, &key).await).unwrap();
    assert_eq!((&shown["reason"], &shown["hosts"][0]["answer"]), (&"soon".into(), &"now".into()));
    assert_eq!(shown["place"]["queue"], "default/normal/echo/alice");
}

#[tokio::test]
async fn a_place_counts_those_before_it_that_nobody_was_given() {
    let farm = Farm::start().await;
    beat(&farm, &host("h1", 4_000)).await;
    let mut keys = Vec::new();
    for n in 0..1_500 {
        let owner = if n % 3 == 0 { "bob" } else { "alice" };
        keys.push(send(&farm, owner, Priority::Normal).await);
    }
    let last = keys.iter().rev().find(|key| key.owner.as_str() == "alice").unwrap();
    let unseen = ask(&farm, last).await.place.unwrap();
    assert_eq!((unseen.ahead, unseen.open, unseen.handed_out), (999, false, false));
    let queue = last.queue(&lane("echo"));
    ensure_queue(&farm.broker, &queue).await.unwrap();
    let inbox = farm.broker.client().new_inbox();
    let mut given = farm.broker.client().subscribe(inbox.clone()).await.unwrap();
    let body = r#"{"batch":10,"no_wait":true}"#;
    farm.broker.client().publish_with_reply(queue.pull(), inbox, body.into()).await.unwrap();
    for _ in 0..10 {
        given.next().await.unwrap();
    }
    let asked = ask(&farm, last).await;
    let place = asked.place.unwrap();
    assert_eq!((place.ahead, place.waiting, place.open, place.handed_out), (989, 990, true, false));
    assert_eq!(asked.reason, Reason::InLine);
    let first = keys.iter().find(|key| key.owner.as_str() == "alice").unwrap();
    let given = ask(&farm, first).await;
    assert!(given.place.unwrap().handed_out);
    assert_eq!(given.reason, Reason::HandedOut);
}

#[tokio::test]
async fn who_goes_first_is_named() {
    let farm = Farm::start().await;
    beat(&farm, &host("h1", 4_000)).await;
    let key = send(&farm, "alice", Priority::Normal).await;
    let fact = |priority, plugin: &str, owner: &str| QueueFact {
        queue: Queue { lane: Lane { priority, ..lane(plugin) }, owner: owner.parse().unwrap() }.consumer(),
        waiting: 5,
        oldest_ms: 70_000,
    };
    let beside = fact(Priority::Normal, "echo", "bob");
    let above = fact(Priority::High, "echo", "carol");
    let mut overview = Overview {
        v: 1,
        queues: vec![
            fact(Priority::Normal, "echo", "alice"),
            fact(Priority::Low, "echo", "bob"),
            fact(Priority::Urgent, "other", "bob"),
            beside.clone(),
        ],
        running: [("alice".parse().unwrap(), 3)].into(),
        ..Overview::default()
    };
    let lanes = Bucket::new(&farm.broker, LANES_BUCKET);
    lanes.put(OVERVIEW_KEY, &overview, None).await.unwrap();
    let turns = ask(&farm, &key).await;
    assert_eq!((turns.reason, &turns.beside, &turns.higher), (Reason::Turns, &vec![beside], &vec![]));
    assert!(turns.overview_age_ms.unwrap() < 15_000);
    overview.queues.push(above.clone());
    lanes.put(OVERVIEW_KEY, &overview, None).await.unwrap();
    let higher = ask(&farm, &key).await;
    assert_eq!((higher.reason, higher.higher), (Reason::HigherFirst, vec![above]));
    assert_eq!((higher.running, higher.running_max), (Some(3), None));
    beat(&farm, &AgentStatus { owner_running_max: Some(3), ..host("h1", 4_000) }).await;
    assert_eq!(ask(&farm, &key).await.reason, Reason::OwnerFull);
    // The exact count goes before the overview.
    let count = RunningByAgent([("h1".parse().unwrap(), 2)].into());
    lanes.put(&RunningByAgent::key(&key.owner), &count, None).await.unwrap();
    let counted = ask(&farm, &key).await;
    assert_eq!((counted.running, counted.reason), (Some(2), Reason::HigherFirst));
}

#[tokio::test]
async fn a_job_that_does_not_wait_says_so() {
    let farm = Farm::start().await;
    let wait = Submission { max_wait: Some(Duration::from_secs(60)), ..echo() };
    let key = submit(&farm.broker, &farm.ledger, wait).await.unwrap().key;
    let left = ask(&farm, &key).await.left_ms.unwrap();
    assert!((30_000..=60_000).contains(&left), "{left}");
    let (_, _, fence) = farm.claim(&key, "h1").await;
    let running = ask(&farm, &key).await;
    assert_eq!((running.reason, running.agent.unwrap().as_str()), (Reason::Running, "h1"));
    assert_eq!(running.place, None);
    farm.succeed(&key, &fence, &tally([])).await;
    let ended = ask(&farm, &key).await;
    assert_eq!((ended.reason, ended.state), (Reason::Ended, State::Succeeded));
    assert_eq!(why(&farm.broker, &new_key()).await.unwrap_err().kind(), ErrorKind::NotFound);
}
