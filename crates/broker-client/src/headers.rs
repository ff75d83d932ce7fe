//! The wire's headers as the NATS client wants them, without an allocation per use.
//!
//! Owns nothing but names (`protocol::subject` says what they mean), and how numbers and times are written and read.

use crate::error::Error;
use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use grange_protocol::{schedule, subject};
use std::time::Duration;

pub(crate) const EXPECT: HeaderName = HeaderName::from_static(subject::EXPECT_HEADER);
pub(crate) const TTL: HeaderName = HeaderName::from_static(subject::TTL_HEADER);
pub(crate) const MESSAGE_ID: HeaderName = HeaderName::from_static(subject::MESSAGE_ID_HEADER);
pub(crate) const STATE: HeaderName = HeaderName::from_static(subject::STATE_HEADER);
pub(crate) const KIND: HeaderName = HeaderName::from_static(subject::KIND_HEADER);
pub(crate) const FIRST: HeaderName = HeaderName::from_static(subject::FIRST_HEADER);
pub(crate) const COUNT: HeaderName = HeaderName::from_static(subject::COUNT_HEADER);
pub(crate) const SEQUENCE: HeaderName = HeaderName::from_static(subject::SEQUENCE_HEADER);
pub(crate) const PREVIOUS: HeaderName = HeaderName::from_static(subject::PREVIOUS_HEADER);
pub(crate) const MARKER: HeaderName = HeaderName::from_static(subject::MARKER_HEADER);
pub(crate) const WHEN: HeaderName = HeaderName::from_static(schedule::WHEN_HEADER);
pub(crate) const TARGET: HeaderName = HeaderName::from_static(schedule::TARGET_HEADER);
pub(crate) const ZONE: HeaderName = HeaderName::from_static(schedule::ZONE_HEADER);
pub(crate) const MAX_WAIT: HeaderName = HeaderName::from_static(schedule::MAX_WAIT_HEADER);
/// Of a direct get: how many messages there are behind this one.
pub(crate) const REMAINING: HeaderName = HeaderName::from_static("Nats-Num-Pending");
/// Of a direct get: when the message was stored.
pub(crate) const STORED: HeaderName = HeaderName::from_static("Nats-Time-Stamp");
/// Of a direct get: the message's own subject.
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("Nats-Subject");
/// Of a key-value bucket: `DEL` or `PURGE` where a key was removed.
pub(crate) const OPERATION: HeaderName = HeaderName::from_static("KV-Operation");

/// Makes a message the only one of its subject.
pub(crate) const ROLLUP: HeaderName = HeaderName::from_static("Nats-Rollup");

/// A time as `ttl` writes it; a number alone is seconds.
pub(crate) fn read_ttl(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(ms) => ms.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s').unwrap_or(text).parse().ok().map(Duration::from_secs),
    }
}

/// How long `what` is kept. The server counts in seconds: it takes no less than one.
pub(crate) fn ttl(what: &str, ttl: Duration) -> Result<HeaderValue, Error> {
    if ttl < Duration::from_secs(1) {
        return Err(Error::invalid(format!("{what} cannot run out after {ttl:?}; give 1 s or more")));
    }
    Ok(HeaderValue::from(format!("{}ms", ttl.as_millis())))
}

/// A header's text; empty when it is not there.
pub(crate) fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).map_or("", async_nats::HeaderValue::as_str)
}

/// A header's number, if it is there and is one.
pub(crate) fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    headers.get(name)?.as_str().parse().ok()
}
