//! Waiting for many jobs.

use crate::farm::{Farm, LIMIT, new_key, options, owner, server, tally};
use crate::submit::echo;
use grange_broker_client::outcomes::Outcomes;
use grange_broker_client::submit::{Submission, submit};
use grange_broker_client::topology::{TopologyOptions, ensure};
use grange_broker_client::{Broker, ErrorKind, Options};
use grange_protocol::lifecycle::{conclude, end_unclaimed};
use grange_protocol::name::Owner;
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Outcome, State};
use grange_protocol::subject::JobKey;
use std::time::{Duration, Instant};
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
async fn a_waiting_time_that_runs_out_is_an_end_when_it_happens() {
    let farm = Farm::start().await;
    let outcomes = Outcomes::open(&farm.broker, &owner()).await.unwrap();
    let short = Submission { max_wait: Some(Duration::from_secs(1)), ..echo() };
    let key = JobKey { owner: owner(), job: new_key().job };
    let wait = outcomes.wait(&key);
    let sent = Instant::now();
    submit(&farm.broker, &farm.ledger, Submission { job: Some(key.job.clone()), ..short.clone() })
        .await
        .unwrap();
    // Nobody is there who could write it down.
    let record = timeout(LIMIT, wait).await.unwrap().unwrap();
    assert_eq!((record.state, record.lane()), (State::Expired, short.lane.clone()));
    let took = sent.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    // Heard or read, it is the same.
    let again = timeout(LIMIT, outcomes.wait(&key)).await.unwrap().unwrap();
    assert_eq!(again.state, State::Expired);
    // Written by whoever met the ticket, and the ticket gone.
    let Stored::Marker { sequence } = farm.ledger.read(&key).await.unwrap() else { panic!() };
    let written = end_unclaimed(None, &short.lane, State::Expired, Outcome::default(), 7).unwrap();
    farm.ledger.write(&key, sequence, &written, None).await.unwrap();
    let jobs = farm.broker.jetstream().get_stream("GRANGE_JOBS").await.unwrap();
    jobs.purge().await.unwrap();
    assert_eq!(*timeout(LIMIT, outcomes.wait(&key)).await.unwrap().unwrap(), written);
}

#[tokio::test]
async fn one_of_many_expires_and_the_others_go_on() {
    let farm = Farm::start().await;
    let outcomes = Outcomes::open(&farm.broker, &owner()).await.unwrap();
    let keys: Vec<_> = (0..50).map(|_| new_key()).collect();
    let mut waits: Vec<_> = keys.iter().map(|key| outcomes.wait(key)).collect();
    for (n, key) in keys.iter().enumerate() {
        let max_wait = Some(Duration::from_secs(if n == 7 { 1 } else { 600 }));
        let one = Submission { job: Some(key.job.clone()), max_wait, ..echo() };
        submit(&farm.broker, &farm.ledger, one).await.unwrap();
    }
    let expired = waits.remove(7);
    assert_eq!(timeout(LIMIT, expired).await.unwrap().unwrap().state, State::Expired);
    let (_, _, fence) = farm.claim(&keys[0], "h1").await;
    farm.succeed(&keys[0], &fence, &tally([])).await;
    assert_eq!(timeout(LIMIT, waits.remove(0)).await.unwrap().unwrap().state, State::Succeeded);
}

#[tokio::test]
async fn who_may_not_hear_is_told_so() {
    let users = r#"authorization { users: [
        { user: admin, password: p }
        { user: eve, password: p, permissions: { publish: ">", subscribe: [ "_INBOX_eve.>", "grange.on.*.eve.>" ] } }
    ] }
    "#;
    let (server, _folder) = server(users).await;
    let connect = async |user: &str| {
        let who = Options { user: Some(user.into()), password: Some("p".into()), ..options(&server.url()) };
        Broker::connect(&who).await.unwrap()
    };
    ensure(&connect("admin").await, &TopologyOptions::default()).await.unwrap();
    let eve = connect("eve").await;
    let outcomes = Outcomes::open(&eve, &owner()).await.unwrap();
    let error = timeout(LIMIT, outcomes.wait(&new_key())).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
    assert!(error.to_string().contains("owner `alice`"), "{error}");
    let later = outcomes.wait(&new_key()).await.unwrap_err();
    assert_eq!(later.kind(), ErrorKind::Unauthorised, "{later}");
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
