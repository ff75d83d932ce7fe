//! A ticket on its way into the stream, which may have to be sent more than once.
//!
//! Owns its headers and the retry of a publish whose answer was lost. Never writes a record.

use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::publish::{self, Pending};
use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use bytes::Bytes;

/// How often a publish without an answer is sent; its message id makes a repeat harmless.
pub(crate) const TRIES: u32 = 3;

/// A ticket to publish.
#[derive(Debug)]
pub(crate) struct Post {
    pub broker: Broker,
    /// Where: lane and job.
    pub subject: String,
    /// By which repeats are told. With the owner in it: ids are compared over the whole stream.
    pub message_id: String,
    /// The revision of the record that it builds on; 0: none.
    pub revision: u64,
    pub body: Bytes,
}

impl Post {
    /// Hands it to the connection; tickets of one caller are sent in the order of its calls.
    pub(crate) async fn send(&self) -> Result<Pending, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(headers::MESSAGE_ID, self.message_id.as_str());
        headers.insert(headers::STATE, HeaderValue::from(self.revision));
        publish::send(&self.broker, self.subject.clone(), headers, self.body.clone()).await
    }

    /// Waits for the acceptance of what was sent first, and sends it again where nobody answers.
    pub(crate) async fn settle(&self, first: Pending) -> Result<publish::Stored, Error> {
        let mut answer = first.stored().await;
        for _ in 1..TRIES {
            match answer {
                Err(e) if e.kind() == ErrorKind::Timeout => answer = self.send().await?.stored().await,
                settled => return settled,
            }
        }
        answer
    }
}
