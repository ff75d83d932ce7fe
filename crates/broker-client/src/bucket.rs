//! A key-value bucket whose values may run out: what the farm knows of itself beyond records and heartbeats.
//!
//! Owns reading, compare-and-set and markers. Never decides what a value means, and keeps no watch.

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::history;
use crate::publish;
use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a create meets a key that changes under it before it gives up.
const TRIES: u32 = 8;
/// Values that one read of a list brings at most.
const PAGE: usize = 256;
/// How long the marker of a deleted key stays: longer than any reader may be behind.
const MARKER: Duration = Duration::from_secs(60);

/// One bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    broker: Broker,
    name: &'static str,
}

/// A value that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// The value.
    pub value: T,
    /// What an update has to expect.
    pub revision: u64,
    /// When the broker stored it, Unix milliseconds of the broker.
    pub stored_ms: u64,
}

/// What the newest message of a key is.
enum Newest {
    /// No value. What a create has to expect: the marker's revision, or 0.
    Gone(u64),
    Value(StoredMessage),
}

impl Bucket {
    /// The bucket of this name (`protocol::subject`).
    pub fn new(broker: &Broker, name: &'static str) -> Self {
        Self { broker: broker.clone(), name }
    }

    fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// What the leader has: what decisions are made on. None: no value, or one that ran out or was deleted.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Entry<T>>, Error> {
        match self.newest(key).await? {
            Newest::Gone(_) => Ok(None),
            Newest::Value(message) => read(&message).map(Some),
        }
    }

    /// What any replica has: to show, never to decide on.
    pub async fn get_copy<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Entry<T>>, Error> {
        match sort(api::copy_last(&self.broker, &self.stream(), &self.subject(key)).await?) {
            Newest::Gone(_) => Ok(None),
            Newest::Value(message) => read(&message).map(Some),
        }
    }

    /// Makes a key that has no value, and answers its revision. `ttl` of a second or more lets it run out. `Conflict`:
    /// it has one. `Timeout`: nobody knows; read, then decide.
    pub async fn create<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        ttl: Option<Duration>,
    ) -> Result<u64, Error> {
        let mut expect = 0;
        for _ in 0..TRIES {
            match self.update(key, expect, value, ttl).await {
                Err(e) if e.kind() == ErrorKind::Conflict => match self.newest(key).await? {
                    Newest::Gone(revision) if revision != expect => expect = revision,
                    // The leader had not seen the end of what it had when it refused.
                    Newest::Gone(_) => {}
                    Newest::Value(_) => return Err(e),
                },
                answer => return answer,
            }
        }
        let text = format!("key `{key}` of bucket `{}` came and went {TRIES} times; try again", self.name);
        Err(Error::new(ErrorKind::Conflict, text))
    }

    /// Writes the value if the key's newest revision is still this one, and answers the new revision. Its time to run
    /// out counts anew. `Conflict`: somebody else was first, or it ran out.
    pub async fn update<T: Serialize>(
        &self,
        key: &str,
        revision: u64,
        value: &T,
        ttl: Option<Duration>,
    ) -> Result<u64, Error> {
        let mut headers = time_to_live(key, ttl)?;
        headers.insert(headers::EXPECT, HeaderValue::from(revision));
        self.send(key, headers, self.write(key, value)?).await
    }

    /// Writes the value, whatever was there.
    pub async fn put<T: Serialize>(&self, key: &str, value: &T, ttl: Option<Duration>) -> Result<u64, Error> {
        self.send(key, time_to_live(key, ttl)?, self.write(key, value)?).await
    }

    /// Removes the value, if its revision is still this one. `Conflict`: somebody else was first, or it ran out.
    pub async fn delete(&self, key: &str, revision: u64) -> Result<(), Error> {
        // The marker is what every NATS client takes for the key's end.
        let mut headers = time_to_live(key, Some(MARKER))?;
        headers.insert(headers::EXPECT, HeaderValue::from(revision));
        headers.insert(headers::OPERATION, "PURGE");
        headers.insert(headers::ROLLUP, "sub");
        self.send(key, headers, Bytes::new()).await.map(|_| ())
    }

    /// The keys that fit `filter` (wildcards allowed) with their values, by key; as any replica has them. Values that
    /// cannot be read are left out.
    pub async fn list<T: DeserializeOwned>(&self, filter: &str) -> Result<BTreeMap<String, Entry<T>>, Error> {
        let (stream, subject) = (self.stream(), self.subject(filter));
        let beginning = self.subject("");
        let (mut found, mut from) = (BTreeMap::new(), 1);
        loop {
            // A bucket keeps one message a key, so reading on by sequence meets every key, a changed one last.
            let page = history::page(&self.broker, &stream, &subject, from, PAGE).await?;
            let Some(last) = page.messages.last() else { return Ok(found) };
            from = last.sequence + 1;
            for message in page.messages {
                let key = message.subject.strip_prefix(&beginning).unwrap_or_default().to_owned();
                match sort(Some(message)) {
                    Newest::Gone(_) => drop(found.remove(&key)),
                    Newest::Value(message) => match read(&message) {
                        Ok(entry) => drop(found.insert(key, entry)),
                        Err(error) => tracing::warn!(%error, key, bucket = self.name, "value is left out"),
                    },
                }
            }
            if page.remaining == 0 {
                return Ok(found);
            }
        }
    }

    async fn newest(&self, key: &str) -> Result<Newest, Error> {
        api::leader_last(&self.broker, &self.stream(), &self.subject(key)).await.map(sort)
    }

    fn write<T: Serialize>(&self, key: &str, value: &T) -> Result<Bytes, Error> {
        serde_json::to_vec(value).map(Bytes::from).map_err(|e| {
            let text = format!("value of key `{key}` of bucket `{}` cannot be JSON", self.name);
            Error::invalid(text).because(e)
        })
    }

    async fn send(&self, key: &str, headers: HeaderMap, value: Bytes) -> Result<u64, Error> {
        let sent = publish::send(&self.broker, self.subject(key), headers, value).await?;
        sent.stored().await.map(|stored| stored.sequence)
    }
}

fn sort(message: Option<StoredMessage>) -> Newest {
    let Some(message) = message else { return Newest::Gone(0) };
    let markers = [headers::MARKER, headers::OPERATION];
    if markers.into_iter().any(|name| message.headers.get(name).is_some()) {
        return Newest::Gone(message.sequence);
    }
    Newest::Value(message)
}

fn read<T: DeserializeOwned>(message: &StoredMessage) -> Result<Entry<T>, Error> {
    let value = serde_json::from_slice(&message.payload)
        .map_err(|e| Error::malformed(&format!("the value at `{}`", message.subject), e))?;
    Ok(Entry { value, revision: message.sequence, stored_ms: message.stored_ms })
}

fn time_to_live(key: &str, ttl: Option<Duration>) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    if let Some(ttl) = ttl {
        headers.insert(headers::TTL, headers::ttl(&format!("key `{key}`"), ttl)?);
    }
    Ok(headers)
}
