//! Places for attempts, where an owner's number is limited.

use crate::{Farm, eventually};
use grange_agent::overview::{Latest, Reading};
use grange_agent::permits::{Grant, Permit, Permits};
use grange_broker_client::Broker;
use grange_broker_client::bucket::Bucket;
use grange_protocol::facts::{Overview, RunningByAgent};
use grange_protocol::name::{AgentName, Owner};
use grange_protocol::subject::LANES_BUCKET;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

const LEASE_S: u32 = 30;

fn name(text: &str) -> AgentName {
    AgentName::new(text).unwrap()
}

fn alice() -> Owner {
    Owner::new("alice").unwrap()
}

/// Nobody keeps house.
fn nothing() -> Latest {
    watch::channel(None).1
}

fn permits(broker: &Broker, agent: &str, most: u32, latest: Latest) -> Permits {
    Permits::new(broker, name(agent), most, LEASE_S, latest)
}

async fn granted(permits: &Permits) -> Permit {
    match permits.acquire(&alice()).await {
        Grant::Granted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

async fn counts(broker: &Broker) -> Option<(Vec<(String, u32)>, u64)> {
    let bucket = Bucket::new(broker, LANES_BUCKET);
    let entry = bucket.get::<RunningByAgent>(&RunningByAgent::key(&alice())).await.unwrap()?;
    let counts = entry.value.0.iter().map(|(agent, count)| (agent.to_string(), *count)).collect();
    Some((counts, entry.revision))
}

fn of(agent: &str, count: u32) -> (String, u32) {
    (agent.to_owned(), count)
}

#[tokio::test]
async fn many_agents_together_never_have_more_than_the_limit() {
    let farm = Farm::start().await;
    let (running, most, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), 40);
    let (mut keeping, mut working) = (JoinSet::new(), JoinSet::new());
    for agent in ["h1", "h2", "h3", "h4"] {
        let permits = permits(&farm.broker().await, agent, 3, nothing());
        keeping.spawn(permits.clone().keep());
        for _ in 0..3 {
            let (permits, running, most) = (permits.clone(), running.clone(), most.clone());
            working.spawn(async move {
                let mut had = 0;
                while had < done {
                    let Grant::Granted(permit) = permits.acquire(&alice()).await else {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    };
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                    had += 1;
                }
            });
        }
    }
    tokio::time::timeout(Duration::from_secs(60), working.join_all()).await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 3);
    let broker = farm.broker().await;
    eventually("everything is given back", async || counts(&broker).await.is_none()).await;
}

#[tokio::test]
async fn a_place_that_is_followed_by_another_attempt_is_not_counted_twice() {
    let farm = Farm::start().await;
    let broker = farm.broker().await;
    let permits = permits(&broker, "h1", 1, nothing());
    let first = granted(&permits).await;
    let before = counts(&broker).await.unwrap();
    assert_eq!(before.0, [of("h1", 1)]);
    assert!(matches!(permits.acquire(&alice()).await, Grant::Full));
    drop(first);
    let second = granted(&permits).await;
    assert_eq!(counts(&broker).await.unwrap(), before, "nothing was written");
    permits.settle().await.unwrap();
    assert_eq!(counts(&broker).await.unwrap(), before, "it is in use");
    drop(second);
    permits.settle().await.unwrap();
    assert_eq!(counts(&broker).await, None);
    let other = Owner::new("bob").unwrap();
    assert!(matches!(permits.acquire(&other).await, Grant::Granted(_)), "owners are apart");
}

#[tokio::test]
async fn an_agent_that_is_gone_for_a_lease_counts_no_more() {
    let farm = Farm::start().await;
    let broker = farm.broker().await;
    let lost = permits(&broker, "lost", 2, nothing());
    let _never = (granted(&lost).await, granted(&lost).await);
    let (overviews, latest) = watch::channel(None);
    let heir = permits(&broker, "h1", 2, latest);
    assert!(matches!(heir.acquire(&alice()).await, Grant::Full), "nobody says who lives");
    let overview = |agents: &[&str]| Overview {
        agents: agents.iter().map(|agent| name(agent)).collect(),
        ..Overview::default()
    };
    let now = grange_agent::clock::boot_ms();
    let ago = |seconds: u64| now.saturating_sub(seconds * 1000);
    let seen = Reading::default().followed_by(overview(&["h1", "lost"]), ago(50));
    let missed = seen.followed_by(overview(&["h1"]), ago(5));
    overviews.send_replace(Some(Arc::new(missed)));
    assert!(matches!(heir.acquire(&alice()).await, Grant::Full), "its attempts may still run");
    let gone = seen.followed_by(overview(&["h1"]), ago(40)).followed_by(overview(&["h1"]), ago(2));
    overviews.send_replace(Some(Arc::new(gone)));
    let _permit = granted(&heir).await;
    assert_eq!(counts(&broker).await.unwrap().0, [of("h1", 1)]);
}

#[tokio::test]
async fn what_the_last_life_counted_is_given_back() {
    let farm = Farm::start().await;
    let broker = farm.broker().await;
    let before = permits(&broker, "h1", 5, nothing());
    let _never = (granted(&before).await, granted(&before).await, granted(&before).await);
    let other = permits(&broker, "h2", 5, nothing());
    let _kept = granted(&other).await;
    let after = permits(&broker, "h1", 5, nothing());
    let used = granted(&after).await;
    assert_eq!(counts(&broker).await.unwrap().0, [of("h1", 3), of("h2", 1)], "one of those is used");
    let _keeping = JoinSet::from_iter([after.clone().keep()]);
    eventually("the others are given back", async || {
        counts(&broker).await.unwrap().0 == [of("h1", 1), of("h2", 1)]
    })
    .await;
    drop(used);
    eventually("and this one", async || counts(&broker).await.unwrap().0 == [of("h2", 1)]).await;
}

#[tokio::test]
async fn without_an_answer_nobody_knows_and_nothing_is_lost() {
    let mut farm = Farm::start().await;
    let broker = farm.broker().await;
    let permits = permits(&broker, "h1", 1, nothing());
    farm.server.kill().await.unwrap();
    assert!(matches!(permits.acquire(&alice()).await, Grant::Unknown));
    farm.server.restart().await.unwrap();
    let mut permit = None;
    eventually("there is a place", async || match permits.acquire(&alice()).await {
        Grant::Granted(granted) => {
            permit = Some(granted);
            true
        }
        _ => false,
    })
    .await;
    assert_eq!(counts(&broker).await.unwrap().0, [of("h1", 1)]);
    assert!(matches!(permits.acquire(&alice()).await, Grant::Full));
    drop(permit);
}
