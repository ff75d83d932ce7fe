//! Reading many stored messages at once, by batched direct gets.
//!
//! Owns the batch protocol: messages, then a status 204. Never keeps a consumer, and reads replicas that may be
//! behind.

use crate::api::{self, StoredMessage};
use crate::connect::Broker;
use crate::error::{self, Error, ErrorKind};
use crate::headers;
use async_nats::{Subject, Subscriber};
use futures_util::StreamExt;
use serde_json::{Value, json};

/// Most subjects that one `multi_last` may answer.
const MULTI_LAST: usize = 1024;
/// Most bytes of one page.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;

/// A page of messages, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub messages: Vec<StoredMessage>,
    /// How many more there are behind the last one.
    pub remaining: u64,
}

/// Messages of a subject (wildcards allowed) from sequence `from` on, at most `batch` of them and 4 MiB.
pub(crate) async fn page(
    broker: &Broker,
    stream: &str,
    subject: &str,
    from: u64,
    batch: usize,
) -> Result<Page, Error> {
    // Of a literal subject the first block is found by the subject index when the read starts at 1.
    let body =
        json!({ "batch": batch, "max_bytes": PAGE_BYTES, "next_by_subj": subject, "seq": from.max(1) });
    ask(broker, stream, subject, &body).await
}

/// The newest message of each subject; at most 1024 literal subjects at a time are asked for in one request.
pub(crate) async fn last_of_each(
    broker: &Broker,
    stream: &str,
    subjects: &[String],
) -> Result<Vec<StoredMessage>, Error> {
    let mut found = Vec::with_capacity(subjects.len());
    for some in subjects.chunks(MULTI_LAST) {
        let body = json!({ "multi_last": some, "batch": MULTI_LAST });
        let what = some.first().map_or("", String::as_str);
        found.append(&mut ask(broker, stream, what, &body).await?.messages);
    }
    Ok(found)
}

async fn ask(broker: &Broker, stream: &str, what: &str, body: &Value) -> Result<Page, Error> {
    let client = broker.client();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|_| Error::closed())?;
    let subject = Subject::from(format!("$JS.API.DIRECT.GET.{stream}"));
    let refusal = broker.refusal(subject.clone());
    let asked = client.publish_with_reply(subject, inbox, body.to_string().into()).await;
    asked.map_err(|_| Error::closed())?;
    refusal.or(collect(broker, what, &mut answers)).await?
}

async fn collect(broker: &Broker, what: &str, answers: &mut Subscriber) -> Result<Page, Error> {
    let mut page = Page::default();
    loop {
        let answer = tokio::time::timeout(broker.request_timeout(), answers.next()).await.map_err(|e| {
            Error::new(ErrorKind::Timeout, format!("no answer in time to a read of `{what}`")).because(e)
        })?;
        let message = answer.ok_or_else(Error::closed)?;
        let Some(status) = message.status else {
            let pending = remaining(&message);
            page.messages.push(api::direct(message)?);
            page.remaining = pending.unwrap_or(0);
            continue;
        };
        match status.as_u16() {
            // 204 ends a batch, 404 says that there is nothing.
            204 => {
                page.remaining = remaining(&message).unwrap_or(page.remaining);
                return Ok(page);
            }
            404 => return Ok(page),
            503 => return Err(error::no_topology(what)),
            code => {
                let told = message.description.as_deref().unwrap_or_default();
                let text = format!("the broker refuses to read `{what}` with status {code} {told}");
                return Err(Error::new(ErrorKind::Other, text));
            }
        }
    }
}

fn remaining(message: &async_nats::Message) -> Option<u64> {
    headers::number(message.headers.as_ref()?, headers::REMAINING)
}
