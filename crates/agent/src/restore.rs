//! A ticket that is gone though its job has not ended (somebody deleted it, or forged its end) is published again by the
//! agent that holds the job: without one nobody would try the job again.
//!
//! Two tickets of one job are harmless, so nothing here has to be exact. Never writes a record.

use crate::claims::Claims;
use crate::clock::unix_ms;
use crate::tickets::Delivery;
use bytes::Bytes;
use grange_broker_client::error::Error;
use grange_broker_client::upkeep::{has_ticket, restore_ticket};
use grange_protocol::ownership::Stored;
use grange_protocol::subject::{JobKey, Lane};

/// What is published again.
#[derive(Clone, Debug)]
pub struct TicketCopy {
    key: JobKey,
    lane: Lane,
    subject: String,
    body: Bytes,
}

impl TicketCopy {
    /// Of a ticket that was delivered.
    pub fn of(delivery: &Delivery) -> Self {
        let Delivery { key, queue, subject, body, .. } = delivery;
        Self { key: key.clone(), lane: queue.lane.clone(), subject: subject.clone(), body: body.clone() }
    }

    /// Publishes it again, if it is gone and its job has not ended.
    pub async fn restore_if_gone(&self, claims: &Claims) -> Result<(), Error> {
        if has_ticket(&claims.broker, &self.subject).await? {
            return Ok(());
        }
        // It goes when its job has ended, or was moved to another lane.
        let Stored::Record { sequence, record, .. } = claims.ledger.read(&self.key).await? else {
            return Ok(());
        };
        if record.state.is_terminal() || record.lane() != self.lane {
            return Ok(());
        }
        tracing::warn!(job = %self.key, "its ticket is gone though it has not ended; it is published again");
        let (nth, body) = (unix_ms(), self.body.clone());
        restore_ticket(&claims.broker, &self.key, &self.subject, sequence, nth, body).await
    }
}
