//! Jobs that are refused when nobody can start them at once.

use crate::farm::{Farm, new_key};
use crate::submit::echo;
use grange_broker_client::ErrorKind;
use grange_broker_client::bucket::Bucket;
use grange_broker_client::safety::{Looked, Settled, Watch, look, refuse};
use grange_broker_client::submit::{Submission, submit};
use grange_protocol::failure::FailureKind;
use grange_protocol::ownership::Stored;
use grange_protocol::record::State;
use grange_protocol::status::{AgentStatus, PluginState, PluginStatus};
use grange_protocol::subject::{AGENTS_BUCKET, Lane};
use grange_protocol::ticket::Ticket;
use std::time::Duration;

const SOON: Duration = Duration::from_millis(50);

fn host(name: &str) -> AgentStatus {
    let plugin: PluginStatus = serde_json::from_str(
        r#"{"name":"echo","version":"1","state":"ready","workers":0,"running":0,"slots":2,
            "resources":{"ram_mb":1000}}"#,
    )
    .unwrap();
    let mut host = AgentStatus { plugins: vec![plugin], ..AgentStatus::silent(name.parse().unwrap()) };
    (host.capacity.ram_mb, host.capacity.ram_usable_mb, host.capacity.ram_grantable_mb) = (8_000, 7_000, 900);
    host
}

#[tokio::test]
async fn the_heartbeats_say_whether_somebody_could() {
    let farm = Farm::start().await;
    let lane = echo().lane;
    let Looked::CouldNot(refusal) = look(&farm.broker, &lane, None).await.unwrap() else { panic!() };
    assert!(refusal.to_string().contains("no agent is there"));
    let agents = Bucket::new(&farm.broker, AGENTS_BUCKET);
    agents.put("h1", &host("h1"), None).await.unwrap();
    let Looked::CouldNot(refusal) = look(&farm.broker, &lane, None).await.unwrap() else { panic!() };
    let said = refusal.to_string();
    assert!(said.contains("needs 1000 MiB of memory, 900 MiB free"), "{said}");
    let mut free = host("h2");
    free.capacity.ram_grantable_mb = 1_000;
    agents.put("h2", &free, None).await.unwrap();
    assert_eq!(look(&farm.broker, &lane, None).await.unwrap(), Looked::Could(Vec::new()));
    let more = serde_json::from_str(r#"{"ram_mb":6000}"#).unwrap();
    let big = Lane { class: "m8".parse().unwrap(), ..lane };
    assert!(matches!(look(&farm.broker, &big, Some(&more)).await.unwrap(), Looked::CouldNot(_)));
    free.plugins[0].state = PluginState::Failed;
    agents.put("h2", &free, None).await.unwrap();
    assert!(matches!(look(&farm.broker, &echo().lane, None).await.unwrap(), Looked::CouldNot(_)));
}

#[tokio::test]
async fn what_nobody_claims_is_refused_with_the_reason() {
    let farm = Farm::start().await;
    for max_wait in [None, Some(Duration::from_secs(60))] {
        let submission = Submission { job: Some(new_key().job), max_wait, ..echo() };
        let key = grange_protocol::subject::JobKey {
            owner: submission.owner.clone(),
            job: submission.job.clone().unwrap(),
        };
        let watch = Watch::open(&farm.broker, &farm.ledger, &key).await.unwrap();
        let ticket = submission.ticket.clone();
        let submitted = submit(&farm.broker, &farm.ledger, submission).await.unwrap();
        let settled = watch.settle(&submitted, &ticket, SOON).await.unwrap();
        let Settled::Refused(record) = settled else { panic!("{settled:?}") };
        let failure = record.outcome.as_ref().unwrap().failure.as_ref().unwrap();
        assert_eq!((record.state, failure.kind), (State::Refused, FailureKind::PluginUnavailable));
        assert_eq!(
            failure.message,
            "no agent claimed it within 50 ms; no host can start `echo` now; no agent is there"
        );
        let Stored::Record { record: stored, .. } = farm.ledger.read(&key).await.unwrap() else { panic!() };
        assert_eq!(stored, record);
    }
    let jobs = farm.broker.jetstream().get_stream("GRANGE_JOBS").await.unwrap();
    assert_eq!(jobs.cached_info().state.messages, 0, "tickets are tidied away");
}

#[tokio::test]
async fn what_was_claimed_meanwhile_goes_on() {
    let farm = Farm::start().await;
    let submission = Submission { job: Some(new_key().job), ..echo() };
    let owner = submission.owner.clone();
    let key = grange_protocol::subject::JobKey { owner, job: submission.job.clone().unwrap() };
    let watch = Watch::open(&farm.broker, &farm.ledger, &key).await.unwrap();
    let submitted = submit(&farm.broker, &farm.ledger, submission).await.unwrap();
    // Far longer than the test may take: it ends because the claim is heard.
    let settled = {
        let ticket = Ticket::default();
        let waiting = watch.settle(&submitted, &ticket, Duration::from_secs(600));
        let (settled, _) = tokio::join!(waiting, farm.claim(&key, "h1"));
        settled.unwrap()
    };
    assert_eq!(settled, Settled::Taken);
    // And when the claim was not heard, the leader says so.
    let late = refuse(&farm.broker, &farm.ledger, &key, &submitted.lane, "late").await.unwrap();
    assert_eq!(late, Settled::Taken);
    let Stored::Record { record, .. } = farm.ledger.read(&key).await.unwrap() else { panic!() };
    assert_eq!(record.state, State::Running);
}

#[tokio::test]
async fn a_refusal_and_a_claim_never_both_win() {
    let farm = Farm::start().await;
    for round in 0..40 {
        let submitted = submit(&farm.broker, &farm.ledger, echo()).await.unwrap();
        let wish = grange_protocol::lifecycle::Claim {
            holder: crate::farm::holder("h1"),
            lease_s: 30,
            ahead: false,
            at_ms: 5,
        };
        let running = grange_protocol::lifecycle::claim(None, &submitted.lane, 1, &wish).unwrap();
        let (refused, claimed) = tokio::join!(
            refuse(&farm.broker, &farm.ledger, &submitted.key, &submitted.lane, "nobody"),
            async {
                // Now between the refusal's read and its write, now beside its write.
                if round % 2 == 1 {
                    farm.ledger.read(&submitted.key).await.unwrap();
                }
                farm.ledger.write(&submitted.key, 0, &running, None).await
            },
        );
        match (refused.unwrap(), claimed) {
            (Settled::Refused(_), Err(e)) => assert_eq!(e.kind(), ErrorKind::Conflict),
            (Settled::Taken, Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
