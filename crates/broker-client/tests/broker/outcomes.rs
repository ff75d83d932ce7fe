//! Waiting for many jobs.

use crate::farm::{Farm, LIMIT, new_key, owner, tally};
use grange_broker_client::ErrorKind;
use grange_broker_client::outcomes::Outcomes;
use grange_protocol::lifecycle::conclude;
use grange_protocol::name::Owner;
use grange_protocol::record::{Outcome, State};
use grange_protocol::subject::JobKey;
use tokio::time::timeout;

#[tokio::test]
async fn two_thousand_jobs_end() {
    let farm = Farm::start().await;
    let outcomes = Outcomes::open(&farm.broker, &owner()).await.unwrap();
    let keys: Vec<_> = (0..2_000).map(|_| new_key()).collect();
    let waits: Vec<_> = keys.iter().map(|key| outcomes.wait(key)).collect();
    let mut written = Vec::new();
    for key in &keys {
        let wish = grange_protocol::lifecycle::Claim {
            holder: crate::farm::holder("h1"),
            lease_s: 30,
            ahead: false,
            at_ms: 1,
        };
        let running = grange_protocol::lifecycle::claim(None, &crate::farm::lane("echo"), 1, &wish).unwrap();
        written.push((key, running.clone(), farm.ledger.write_later(key, 0, &running, None).await.unwrap()));
    }
    let mut ended = Vec::new();
    for (key, running, write) in written {
        let sequence = write.await.unwrap();
        let fence = running.fence(sequence).unwrap();
        let done = conclude(&running, sequence, &fence, State::Succeeded, Outcome::default(), 2).unwrap();
        ended.push(farm.ledger.write_later(key, sequence, &done, None).await.unwrap());
    }
    for write in ended {
        write.await.unwrap();
    }
    for wait in waits {
        let record = timeout(LIMIT, wait).await.unwrap().unwrap();
        assert_eq!(record.state, State::Succeeded);
    }
}

#[tokio::test]
async fn an_end_that_was_not_heard_is_read() {
    let mut farm = Farm::start().await;
    let key = new_key();
    let (_, _, fence) = farm.claim(&key, "h1").await;
    farm.succeed(&key, &fence, &tally([])).await;
    // Opened too late to hear it: only reading helps, after a silence or a reconnect.
    let outcomes = Outcomes::open(&farm.broker, &owner()).await.unwrap();
    let wait = outcomes.wait(&key);
    farm.server.kill().await.unwrap();
    farm.server.restart().await.unwrap();
    assert_eq!(timeout(LIMIT, wait).await.unwrap().unwrap().state, State::Succeeded);
    let unheard = new_key();
    let (_, _, fence) = farm.claim(&unheard, "h1").await;
    farm.succeed(&unheard, &fence, &tally([])).await;
    assert_eq!(timeout(LIMIT, outcomes.wait(&unheard)).await.unwrap().unwrap().state, State::Succeeded);
}

#[tokio::test]
async fn a_place_is_one_and_is_given_back() {
    let farm = Farm::start().await;
    let outcomes = Outcomes::open(&farm.broker, &owner()).await.unwrap();
    let key = new_key();
    let first = outcomes.wait(&key);
    assert_eq!(outcomes.wait(&key).await.unwrap_err().kind(), ErrorKind::Conflict);
    drop(first);
    let again = outcomes.wait(&key);
    let other = JobKey { owner: Owner::new("bob").unwrap(), ..new_key() };
    assert_eq!(outcomes.wait(&other).await.unwrap_err().kind(), ErrorKind::Invalid);
    drop(outcomes);
    assert_eq!(timeout(LIMIT, again).await.unwrap().unwrap_err().kind(), ErrorKind::Unreachable);
}
