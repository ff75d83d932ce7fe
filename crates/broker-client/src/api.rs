//! Requests to the JetStream API, and reading single stored messages.
//!
//! Owns the API's envelope: errors, base64, times. Never decides what an answer means for a job.

use crate::connect::Broker;
use crate::error::{self, Error, ErrorKind};
use crate::headers;
use async_nats::{HeaderMap, Message, jetstream};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One message of a stream.
#[derive(Clone, Debug)]
pub(crate) struct StoredMessage {
    pub subject: String,
    pub sequence: u64,
    /// When the broker stored it, Unix milliseconds of the broker.
    pub stored_ms: u64,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

/// Asks the API. `what` is the subject that an error should name.
pub(crate) async fn call<T: DeserializeOwned>(
    broker: &Broker,
    verb: &str,
    what: &str,
    body: &Value,
) -> Result<T, Error> {
    let payload = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let answer = match broker.request(format!("$JS.API.{verb}"), payload).await {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let text = "the broker's JetStream does not answer; is it enabled for this account?";
            return Err(Error::new(ErrorKind::NoJetStream, text).because(e));
        }
        answer => answer?,
    };
    read_answer(what, &answer.payload)
}

#[derive(Deserialize)]
struct Refusal {
    error: Option<jetstream::Error>,
}

fn read_answer<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, Error> {
    // A refused list has the fields of an empty one beside its error.
    if body.windows(8).any(|bytes| bytes == b"\"error\":")
        && let Some(refusal) = serde_json::from_slice::<Refusal>(body).ok().and_then(|r| r.error)
    {
        return Err(error::from_jetstream(what, refusal));
    }
    serde_json::from_slice::<T>(body)
        .map_err(|cause| Error::malformed(&format!("the broker's answer about `{what}`"), cause))
}

#[derive(Deserialize)]
struct GetAnswer {
    message: RawMessage,
}

#[derive(Deserialize)]
struct RawMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

/// The newest message of a subject (wildcards allowed), by the stream's leader.
pub(crate) async fn leader_last(
    broker: &Broker,
    stream: &str,
    subject: &str,
) -> Result<Option<StoredMessage>, Error> {
    let body = serde_json::json!({ "last_by_subj": subject });
    match call::<GetAnswer>(broker, &format!("STREAM.MSG.GET.{stream}"), subject, &body).await {
        Ok(answer) => answer.message.decode().map(Some),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl RawMessage {
    fn decode(self) -> Result<StoredMessage, Error> {
        let what = || format!("the stored message at `{}`", self.subject);
        let payload = STANDARD.decode(&self.data).map_err(|e| Error::malformed(&what(), e))?;
        let headers = STANDARD.decode(&self.hdrs).map_err(|e| Error::malformed(&what(), e))?;
        let stored_ms = read_time(&self.time).map_err(|e| Error::malformed(&what(), e))?;
        Ok(StoredMessage {
            headers: read_headers(&headers),
            subject: self.subject,
            sequence: self.seq,
            stored_ms,
            payload: payload.into(),
        })
    }
}

/// The newest message of a subject, by any replica: it may be behind.
pub(crate) async fn copy_last(
    broker: &Broker,
    stream: &str,
    subject: &str,
) -> Result<Option<StoredMessage>, Error> {
    let answer = match broker.request(format!("$JS.API.DIRECT.GET.{stream}.{subject}"), Bytes::new()).await {
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(error::no_topology(subject)),
        answer => answer?,
    };
    match answer.status.map(|s| s.as_u16()) {
        None => direct(answer).map(Some),
        Some(404) => Ok(None),
        Some(code) => {
            let text = format!("the broker refuses to read `{subject}` with status {code}");
            Err(Error::new(ErrorKind::Other, text))
        }
    }
}

/// Reads what a direct get sent: the message itself, its place in headers.
pub(crate) fn direct(message: Message) -> Result<StoredMessage, Error> {
    let headers = message.headers.unwrap_or_default();
    let what = || format!("the direct answer on `{}`", message.subject);
    let sequence = headers::number(&headers, headers::SEQUENCE)
        .ok_or_else(|| Error::new(ErrorKind::Other, format!("{} has no sequence", what())))?;
    let stored_ms =
        read_time(headers::text(&headers, headers::STORED)).map_err(|e| Error::malformed(&what(), e))?;
    let subject = headers::text(&headers, headers::SUBJECT).to_owned();
    Ok(StoredMessage { subject, sequence, stored_ms, headers, payload: message.payload })
}

/// Unix milliseconds of an RFC 3339 time.
pub(crate) fn read_time(text: &str) -> Result<u64, time::error::Parse> {
    let at = OffsetDateTime::parse(text, &Rfc3339)?;
    Ok(u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

/// Unix milliseconds of this machine's clock.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// Reads a `NATS/1.0` header block. Lines that are not headers are left out.
fn read_headers(block: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let text = String::from_utf8_lossy(block);
    for line in text.lines().skip(1) {
        if let Some((name, value)) = line.split_once(':')
            && let (Ok(name), Ok(value)) =
                (name.parse::<async_nats::HeaderName>(), value.trim().parse::<async_nats::HeaderValue>())
        {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_none_of_what_stands_beside_it() {
        #[derive(Debug, Deserialize)]
        struct Page {
            total: u64,
        }
        let refused =
            br#"{"error":{"code":404,"err_code":10059,"description":"stream not found"},"total":0}"#;
        assert_eq!(read_answer::<Page>("x", refused).unwrap_err().kind(), ErrorKind::NoTopology);
        assert_eq!(read_answer::<Page>("x", br#"{"total":3}"#).unwrap().total, 3);
        assert_eq!(read_answer::<Page>("x", b"{}").unwrap_err().kind(), ErrorKind::Other);
    }

    #[test]
    fn headers_and_times_are_read() {
        let headers = read_headers(b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nX:1\r\n\r\n");
        assert_eq!(headers.get("Nats-Marker-Reason").unwrap().as_str(), "MaxAge");
        assert_eq!(headers.get("X").unwrap().as_str(), "1");
        assert_eq!(read_time("1970-01-01T00:00:01.234567891Z").unwrap(), 1234);
    }
}
