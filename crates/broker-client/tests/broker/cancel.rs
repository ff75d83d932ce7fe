//! A request for an end, against everything that a job may be.

use crate::farm::{Farm, new_key, tally};
use crate::submit::echo;
use futures_util::StreamExt;
use grange_broker_client::ErrorKind;
use grange_broker_client::cancel::{Cancelled, cancel};
use grange_broker_client::submit::{Submission, submit};
use grange_protocol::lifecycle::{Claim, claim};
use grange_protocol::ownership::Stored;
use grange_protocol::record::State;
use grange_protocol::status::CancelOrder;
use std::time::Duration;

#[tokio::test]
async fn a_job_that_nobody_holds_ends_at_once() {
    let farm = Farm::start().await;
    for max_wait in [None, Some(Duration::from_secs(60))] {
        let done = submit(&farm.broker, &farm.ledger, Submission { max_wait, ..echo() }).await.unwrap();
        let cancelled = cancel(&farm.broker, &farm.ledger, &done.key, "not needed").await.unwrap();
        assert_eq!(cancelled, Cancelled::AtOnce);
        let Stored::Record { record, .. } = farm.ledger.read(&done.key).await.unwrap() else { panic!() };
        assert_eq!(record.state, State::Cancelled);
        assert_eq!(record.history.last().unwrap().note, "not needed");
        assert_eq!(record.lane(), done.lane);
        let again = cancel(&farm.broker, &farm.ledger, &done.key, "").await.unwrap();
        assert_eq!(again, Cancelled::AlreadyEnded(State::Cancelled));
    }
    let jobs = farm.broker.jetstream().get_stream("GRANGE_JOBS").await.unwrap();
    assert_eq!(jobs.cached_info().state.messages, 0, "tickets are tidied away");
    let error = cancel(&farm.broker, &farm.ledger, &new_key(), "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_holder_is_told_and_keeps_its_fence() {
    let farm = Farm::start().await;
    let done = submit(&farm.broker, &farm.ledger, echo()).await.unwrap();
    let (_, _, fence) = farm.claim(&done.key, "h1").await;
    let mut orders = farm.broker.client().subscribe("grange.ctl.h1.cancel").await.unwrap();
    for _ in 0..2 {
        let cancelled = cancel(&farm.broker, &farm.ledger, &done.key, "enough").await.unwrap();
        assert_eq!(cancelled, Cancelled::Requested);
        let order: CancelOrder = serde_json::from_slice(&orders.next().await.unwrap().payload).unwrap();
        assert_eq!(order.job, done.key.job);
    }
    let Stored::Record { sequence, record, .. } = farm.ledger.read(&done.key).await.unwrap() else {
        panic!()
    };
    assert_eq!(record.cancel_requested.as_ref().unwrap().reason, "enough");
    assert!(record.held_by(&fence, sequence));
    farm.succeed(&done.key, &fence, &tally([])).await;
    let late = cancel(&farm.broker, &farm.ledger, &done.key, "").await.unwrap();
    assert_eq!(late, Cancelled::AlreadyEnded(State::Succeeded));
}

#[tokio::test]
async fn a_cancel_and_a_claim_never_both_win() {
    let farm = Farm::start().await;
    let mut seen = [0, 0];
    for _ in 0..60 {
        let done = submit(&farm.broker, &farm.ledger, echo()).await.unwrap();
        let wish = Claim { holder: crate::farm::holder("h1"), lease_s: 30, ahead: false, at_ms: 5 };
        let running = claim(None, &done.lane, 1, &wish).unwrap();
        let (cancelled, claimed) = tokio::join!(
            cancel(&farm.broker, &farm.ledger, &done.key, ""),
            farm.ledger.write(&done.key, 0, &running, None),
        );
        let Stored::Record { record, .. } = farm.ledger.read(&done.key).await.unwrap() else { panic!() };
        match (cancelled.unwrap(), claimed) {
            (Cancelled::AtOnce, Err(e)) => {
                assert_eq!(e.kind(), ErrorKind::Conflict);
                assert_eq!(record.state, State::Cancelled);
                seen[0] += 1;
            }
            (Cancelled::Requested, Ok(_)) => {
                assert!(record.state == State::Running && record.cancel_requested.is_some());
                seen[1] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(seen[0] + seen[1] == 60, "{seen:?}");
}
