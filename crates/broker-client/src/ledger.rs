//! State records: read from the leader, written by compare-and-set.
//!
//! Owns reading and writing one record. Never decides what a record may become (`protocol::lifecycle`), and never
//! retries a write: only the caller knows whether it still wants it.

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::Error;
use crate::headers;
use crate::publish;
use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use grange_protocol::ownership::Stored;
use grange_protocol::record::Record;
use grange_protocol::subject::{JobKey, STATE};
use std::time::Duration;

/// The state records of all jobs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    broker: Broker,
}

impl Ledger {
    /// The ledger behind a connection.
    pub fn new(broker: &Broker) -> Self {
        Self { broker: broker.clone() }
    }

    /// What the leader has of a job: what decisions are made on.
    pub async fn read(&self, key: &JobKey) -> Result<Stored, Error> {
        api::leader_last(&self.broker, STATE, &key.state()).await.and_then(read_stored)
    }

    /// What any replica has of a job: to show, never to decide on.
    pub async fn read_copy(&self, key: &JobKey) -> Result<Stored, Error> {
        api::copy_last(&self.broker, STATE, &key.state()).await.and_then(read_stored)
    }

    /// Writes a record if the job's newest sequence is still `expect` (0: nothing was ever there), and answers the new
    /// sequence. `ttl` of a second or more makes it run out into a marker. `Conflict`: somebody else was first.
    /// `Timeout`: nobody knows; read, then decide.
    pub async fn write(
        &self,
        key: &JobKey,
        expect: u64,
        record: &Record,
        ttl: Option<Duration>,
    ) -> Result<u64, Error> {
        self.write_later(key, expect, record, ttl).await?.await
    }

    /// Sends a write and returns; the future that comes back waits for its answer. Writes are sent in the order of
    /// the calls.
    pub async fn write_later(
        &self,
        key: &JobKey,
        expect: u64,
        record: &Record,
        ttl: Option<Duration>,
    ) -> Result<impl Future<Output = Result<u64, Error>> + Send + use<>, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(headers::EXPECT, HeaderValue::from(expect));
        if let Some(ttl) = ttl {
            headers.insert(headers::TTL, headers::ttl("a record", ttl)?);
        }
        let pending = publish::send(&self.broker, key.state(), headers, record.write().into()).await?;
        Ok(async move { pending.stored().await.map(|stored| stored.sequence) })
    }
}

/// Reads a stored message of a state subject.
pub(crate) fn read_stored(message: Option<StoredMessage>) -> Result<Stored, Error> {
    let Some(message) = message else {
        return Ok(Stored::Nothing);
    };
    let sequence = message.sequence;
    if message.headers.get(headers::MARKER).is_some() {
        return Ok(Stored::Marker { sequence });
    }
    let record = Record::read(&message.payload)
        .map_err(|e| Error::malformed(&format!("the record at `{}`", message.subject), e))?;
    Ok(Stored::Record { sequence, stored_ms: message.stored_ms, record: Box::new(record) })
}
