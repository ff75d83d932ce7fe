//! One JetStream publish and its acknowledgement, apart from each other so that a caller keeps its own order.
//!
//! Owns the sending. Never retries: what a missing answer means is for the caller to say.

use crate::connect::Broker;
use crate::error::{self, Error};
use crate::refusals::Refusal;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;

/// What the stream answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The sequence of the message in its stream.
    pub sequence: u64,
    /// The stream had this message id already; `sequence` is the first one's.
    pub duplicate: bool,
}

/// A message that is on its way. Dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "a publish without its acknowledgement may be lost"]
pub struct Pending {
    subject: Subject,
    ack: PublishAckFuture,
    refusal: Refusal,
}

/// Hands a message to the connection; messages of one caller are sent in the order of its calls. Waits only while
/// too many acknowledgements are outstanding (32,768).
pub async fn send(
    broker: &Broker,
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<Pending, Error> {
    let subject = Subject::from(subject);
    let refusal = broker.refusal(subject.clone());
    let message = PublishMessage::build().headers(headers).payload(payload);
    match broker.jetstream().send_publish(subject.clone(), message).await {
        Ok(ack) => Ok(Pending { subject, ack, refusal }),
        Err(error) => Err(error::from_publish(&subject, error)),
    }
}

impl Pending {
    /// Waits for the acknowledgement. `Timeout` means that nobody knows whether it was stored, `Unauthorised` that the
    /// server did not let it in.
    pub async fn stored(self) -> Result<Stored, Error> {
        match self.refusal.or(self.ack.into_future()).await? {
            Ok(ack) => Ok(Stored { sequence: ack.sequence, duplicate: ack.duplicate }),
            Err(error) => Err(error::from_publish(&self.subject, error)),
        }
    }
}
