//! Removing tickets that nobody needs any more: only tidying up. Who may not, or does not come to it, leaves a ticket that
//! an agent finds the record of, and acknowledges.
//!
//! Owns the removal and its silence. Never decides that a ticket is not needed.

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::Error;
use grange_protocol::subject::{JOBS, JobKey};
use serde_json::{Value, json};

/// Removes the newest ticket of a job.
pub(crate) async fn newest(broker: &Broker, key: &JobKey) {
    match api::leader_last(broker, JOBS, &key.any_ticket()).await {
        Ok(Some(ticket)) => this(broker, key, &ticket).await,
        Ok(None) => {}
        Err(error) => unsaid(key, &error),
    }
}

/// Removes this ticket.
pub(crate) async fn this(broker: &Broker, key: &JobKey, ticket: &StoredMessage) {
    let body = json!({ "seq": ticket.sequence, "no_erase": true });
    let verb = format!("STREAM.MSG.DELETE.{JOBS}");
    if let Err(error) = api::call::<Value>(broker, &verb, &ticket.subject, &body).await {
        unsaid(key, &error);
    }
}

fn unsaid(key: &JobKey, error: &Error) {
    tracing::debug!(%error, job = %key, "ticket that is not needed was not removed");
}
