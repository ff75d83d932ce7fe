//! What somebody would write who does not know that it lost its job, and what a stranger could do to a ticket.
//!
//! Owns the forged messages. Every one of them has to be refused, or be without any effect.

use async_nats::HeaderMap;
use bytes::Bytes;
use grange_broker_client::connect::Broker;
use grange_broker_client::ledger::Ledger;
use grange_broker_client::publish;
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Outcome, Record, State};
use grange_protocol::subject::{AttemptToken, COUNT_HEADER, FIRST_HEADER, JOBS, JobKey, KIND_HEADER};
use serde_json::json;
use std::time::Duration;

/// A forged write is not waited for: the broker may be away.
const PATIENCE: Duration = Duration::from_millis(500);

/// Writes an old fence's end, at the revision that it knew; and chunks of an attempt that nobody claimed.
pub(super) async fn write_stale(broker: &Broker, jobs: &[JobKey]) {
    for key in jobs {
        let stale = write_one(broker, key);
        let _ = tokio::time::timeout(PATIENCE, stale).await;
    }
}

async fn write_one(broker: &Broker, key: &JobKey) -> Option<()> {
    let ledger = Ledger::new(broker);
    let Ok(Stored::Record { sequence, record, .. }) = ledger.read(key).await else { return None };
    let claim = record.attempt.as_ref()?.claim.unwrap_or(sequence);
    let forged = Record { state: State::Succeeded, outcome: Some(Outcome::default()), ..(*record).clone() };
    // The revision before the newest, as a holder knows it that was frozen.
    let _ = ledger.write(key, sequence.saturating_sub(1).max(1), &forged, None).await;
    let token = AttemptToken { number: record.attempt.as_ref()?.number, claim: claim.saturating_sub(1) };
    let mut headers = HeaderMap::new();
    for (name, value) in [(KIND_HEADER, "chunk"), (FIRST_HEADER, "0"), (COUNT_HEADER, "1")] {
        headers.insert(name, value);
    }
    let body = Bytes::from_static(b"\"of a zombie\"\n");
    let sent = publish::send(broker, key.events(&token), headers, body).await.ok()?;
    let _ = sent.stored().await;
    Some(())
}

/// Deletes the tickets of these jobs, as whoever may use the API can.
pub(super) async fn delete_tickets(broker: &Broker, jobs: &[JobKey]) {
    for key in jobs {
        let body = json!({"filter": key.any_ticket()}).to_string();
        let asked = broker.request(format!("$JS.API.STREAM.PURGE.{JOBS}"), body.into());
        let _ = tokio::time::timeout(PATIENCE, asked).await;
    }
}
