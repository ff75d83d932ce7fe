//! What could not be run, kept with its evidence.
//!
//! Owns the message in `GRANGE_DEAD`. Never decides that something is dead.

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::Error;
use crate::headers;
use crate::publish;
use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use grange_protocol::limit::MAX_MESSAGE_BYTES;
use grange_protocol::name::{MAX_NAME_BYTES, PluginName};
use grange_protocol::subject::{JOBS, JobKey};
use serde_json::{Value, json};

/// Who could not be run.
#[derive(Clone, Copy, Debug)]
pub enum Dead<'a> {
    /// A job.
    Job(&'a JobKey),
    /// A message whose subject names no job.
    Subject(&'a str),
}

/// Stores what could not be run at `grange.dead.<reason>.<job>`, and answers its sequence there. `reason` is one
/// word of letters, digits, `-` and `_`. Burying the same thing twice within two minutes is done once.
pub async fn bury(broker: &Broker, reason: &str, dead: Dead<'_>, evidence: &Value) -> Result<u64, Error> {
    PluginName::new(reason)
        .map_err(|e| Error::invalid(format!("`{reason}` cannot be a reason")).because(e))?;
    let mut body = json!({ "v": 1, "reason": reason, "at_ms": api::now_ms(), "evidence": evidence });
    // Reason and whole name: what differs in either is another piece of evidence.
    let id = match dead {
        Dead::Job(key) => format!("{reason}/{key}"),
        Dead::Subject(text) => format!("{reason}/{text}"),
    };
    let subject = match dead {
        Dead::Job(key) => {
            body["owner"] = key.owner.as_str().into();
            body["job"] = key.job.as_str().into();
            key.dead(reason)
        }
        Dead::Subject(text) => {
            body["subject"] = text.into();
            format!("grange.dead.{reason}.{}", as_token(text))
        }
    };
    let mut headers = HeaderMap::new();
    headers.insert(headers::MESSAGE_ID, HeaderValue::from(id));
    let body = serde_json::to_vec(&body).expect("a JSON tree is always written");
    let stored = publish::send(broker, subject, headers, body.into()).await?.stored().await?;
    Ok(stored.sequence)
}

/// Stores the letter of a job that is given up: what `evidence` says, and its ticket as it lies in the stream, so that it
/// can be run again. A ticket that makes the letter too large is left out, and said to be.
pub async fn bury_job(broker: &Broker, reason: &str, key: &JobKey, evidence: &Value) -> Result<u64, Error> {
    let mut evidence = evidence.clone();
    match api::leader_last(broker, JOBS, &key.any_ticket()).await {
        Ok(Some(ticket)) => {
            let room = MAX_MESSAGE_BYTES.saturating_sub(evidence.to_string().len() + ENVELOPE_BYTES);
            evidence["ticket"] = ticket_of(&ticket, room);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(job = %key, %error, "ticket not read; its letter goes without it"),
    }
    bury(broker, reason, Dead::Job(key), &evidence).await
}

/// Room for what a letter says beside its evidence, bytes.
const ENVELOPE_BYTES: usize = 4096;

fn ticket_of(ticket: &StoredMessage, room: usize) -> Value {
    let mut kept = json!({ "subject": ticket.subject, "sequence": ticket.sequence });
    let headers = ticket
        .headers
        .iter()
        .filter_map(|(name, values)| Some((name.to_string(), Value::from(values.first()?.as_str()))));
    kept["headers"] = Value::Object(headers.collect());
    match serde_json::from_slice::<Value>(&ticket.payload) {
        Ok(body) if ticket.payload.len() <= room => kept["body"] = body,
        Ok(_) => kept["left_out_bytes"] = ticket.payload.len().into(),
        Err(_) if ticket.payload.is_empty() => kept["body"] = json!({}),
        Err(_) => {}
    }
    kept
}

/// The last token of a subject, as far as it can stand in one.
fn as_token(subject: &str) -> String {
    let last = subject.rsplit('.').next().unwrap_or_default();
    let token: String = last
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(MAX_NAME_BYTES)
        .collect();
    if token.is_empty() { "unnamed".to_owned() } else { token }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_subject_gives_a_token() {
        assert_eq!(as_token("grange.jobs.a.b.c.d.j-1"), "j-1");
        assert_eq!(as_token("grange.jobs.é"), "unnamed");
        assert_eq!(as_token(""), "unnamed");
    }
}
