//! Compare-and-set on records, and what runs out.

use crate::farm::{Farm, eventually, lane, new_key};
use grange_broker_client::ErrorKind;
use grange_protocol::lifecycle::queue;
use grange_protocol::ownership::Stored;
use std::time::Duration;

#[tokio::test]
async fn one_of_two_writers_wins() {
    let farm = Farm::start().await;
    let key = new_key();
    assert!(matches!(farm.ledger.read(&key).await.unwrap(), Stored::Nothing));
    assert!(matches!(farm.ledger.read_copy(&key).await.unwrap(), Stored::Nothing));
    let record = queue(&lane("echo"), 7);
    let first = farm.ledger.write_later(&key, 0, &record, None).await.unwrap();
    let second = farm.ledger.write_later(&key, 0, &record, None).await.unwrap();
    let sequence = first.await.unwrap();
    assert_eq!(second.await.unwrap_err().kind(), ErrorKind::Conflict);
    for stored in [farm.ledger.read(&key).await.unwrap(), farm.ledger.read_copy(&key).await.unwrap()] {
        let Stored::Record { sequence: at, stored_ms, record: found } = stored else { panic!("{stored:?}") };
        assert_eq!((at, &*found), (sequence, &record));
        assert!(stored_ms > 1_700_000_000_000, "{stored_ms}");
    }
    farm.ledger.write(&key, sequence, &record, None).await.unwrap();
}

#[tokio::test]
async fn a_record_that_runs_out_leaves_a_marker() {
    let farm = Farm::start().await;
    let key = new_key();
    let record = queue(&lane("echo"), 7);
    let short = farm.ledger.write(&key, 0, &record, Some(Duration::from_millis(10))).await.unwrap_err();
    assert_eq!(short.kind(), ErrorKind::Invalid);
    let sequence = farm.ledger.write(&key, 0, &record, Some(Duration::from_secs(1))).await.unwrap();
    let marker = eventually("a marker", async || match farm.ledger.read(&key).await.unwrap() {
        Stored::Marker { sequence } => Some(sequence),
        _ => None,
    })
    .await;
    assert!(marker > sequence);
    assert!(matches!(farm.ledger.read_copy(&key).await.unwrap(), Stored::Marker { .. }));
    assert_eq!(farm.ledger.write(&key, 0, &record, None).await.unwrap_err().kind(), ErrorKind::Conflict);
    farm.ledger.write(&key, marker, &record, None).await.unwrap();
}
