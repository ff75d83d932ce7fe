//! The one error of this library: what happened, as a kind for programs and a sentence for people.
//!
//! Owns the translation of what NATS, JetStream and the object store answer. Never prints or logs.

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::{ConnectErrorKind, RequestErrorKind, jetstream};
use std::error::Error as StdError;

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nobody answers at the broker's address, or the connection was lost.
    Unreachable,
    /// The broker does not let this user do this.
    Unauthorised,
    /// The server is older than what Grange needs.
    OldServer,
    /// The server, or this account, has no JetStream.
    NoJetStream,
    /// No such job, object or file.
    NotFound,
    /// No answer in time. What was asked may have happened.
    Timeout,
    /// A message is over a limit.
    TooLarge,
    /// Somebody else was first, or what is there differs.
    Conflict,
    /// The object store does not answer, or refuses.
    StoreUnavailable,
    /// Bytes are not what their digest says.
    DigestMismatch,
    /// What was given cannot be used.
    Invalid,
    /// The streams and buckets are not there.
    NoTopology,
    /// The broker has no room left.
    StorageFull,
    /// Anything else.
    Other,
}

/// An error of this library. Its text names the thing and never repeats its source.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    kind: ErrorKind,
    text: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind with this text.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error with what caused it.
    #[must_use]
    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, text)
    }

    /// A file or folder that could not be used.
    pub(crate) fn file(doing: &str, path: &std::path::Path, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::StorageFull => ErrorKind::StorageFull,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Unauthorised,
            _ => ErrorKind::Other,
        };
        Self::new(kind, format!("cannot {doing} `{}`", path.display())).because(error)
    }

    /// A message that is not what the wire says it is.
    pub(crate) fn malformed(what: &str, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(ErrorKind::Other, format!("{what} is not what `docs/wire.md` describes")).because(error)
    }

    /// The connection of this process is gone.
    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Unreachable, "the connection to the broker was closed")
    }
}

/// A refused or failed connection to `url`.
pub(crate) fn from_connect(url: &str, error: async_nats::ConnectError) -> Error {
    let (kind, text) = match error.kind() {
        ConnectErrorKind::ServerParse => (
            ErrorKind::Invalid,
            format!("`{url}` is not a broker address; use a form like `nats://host:4222`"),
        ),
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => (
            ErrorKind::Unauthorised,
            format!("the broker at `{url}` refuses these credentials; check user, token or credentials file"),
        ),
        ConnectErrorKind::Tls => (
            ErrorKind::Unreachable,
            format!("no TLS connection to the broker at `{url}`; check its certificate and `tls://`"),
        ),
        ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => (
            ErrorKind::Unreachable,
            format!("no broker answers at `{url}`; start one with `grange up` or give another address"),
        ),
    };
    Error::new(kind, text).because(error)
}

/// A failed request on `subject`.
pub(crate) fn from_request(subject: &str, error: async_nats::RequestError) -> Error {
    let (kind, text) = match error.kind() {
        RequestErrorKind::TimedOut => (ErrorKind::Timeout, format!("no answer in time on `{subject}`")),
        RequestErrorKind::NoResponders => (ErrorKind::NotFound, format!("nobody answers on `{subject}`")),
        RequestErrorKind::InvalidSubject => {
            (ErrorKind::Invalid, format!("`{subject}` cannot be a subject; it is empty or has spaces"))
        }
        RequestErrorKind::MaxPayloadExceeded => (
            ErrorKind::TooLarge,
            format!(
                "request on `{subject}` exceeds the server's `max_payload`; send large values as objects"
            ),
        ),
        RequestErrorKind::Other => (ErrorKind::Unreachable, format!("request on `{subject}` was not sent")),
    };
    Error::new(kind, text).because(error)
}

/// A publish on `subject` that was not acknowledged.
pub(crate) fn from_publish(subject: &str, error: PublishError) -> Error {
    let (kind, text) = match error.kind() {
        PublishErrorKind::StreamNotFound => return no_topology(subject),
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence => {
            (ErrorKind::Conflict, format!("`{subject}` was changed by somebody else"))
        }
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => (
            ErrorKind::Timeout,
            format!("no acknowledgement in time of a write to `{subject}`; it may have happened"),
        ),
        PublishErrorKind::MaxAckPending => {
            (ErrorKind::Timeout, format!("too many writes wait for an answer; `{subject}` was not sent"))
        }
        PublishErrorKind::MaxPayloadExceeded => (
            ErrorKind::TooLarge,
            format!(
                "message to `{subject}` exceeds the server's `max_payload`; send large values as objects"
            ),
        ),
        PublishErrorKind::Other => {
            let told = error.source().and_then(|s| s.downcast_ref::<jetstream::Error>()).cloned();
            return match told {
                Some(told) => from_jetstream(subject, told),
                None => {
                    Error::new(ErrorKind::Unreachable, format!("`{subject}` was not sent")).because(error)
                }
            };
        }
    };
    Error::new(kind, text).because(error)
}

/// Nothing captures `subject`.
pub(crate) fn no_topology(subject: &str) -> Error {
    Error::new(
        ErrorKind::NoTopology,
        format!("no stream takes `{subject}`; create the farm's streams with `grange init`"),
    )
}

/// JetStream refused something on `subject`.
pub(crate) fn from_jetstream(subject: &str, error: jetstream::Error) -> Error {
    let (kind, text) = match error.error_code().0 {
        10039 | 10076 => (
            ErrorKind::NoJetStream,
            "the broker has no JetStream for this account; start nats-server with `-js`".to_owned(),
        ),
        10059 => return no_topology(subject),
        10014 | 10037 | 10043 => (ErrorKind::NotFound, format!("nothing is stored for `{subject}`")),
        10058 | 10065 | 10071 | 10164 => {
            (ErrorKind::Conflict, format!("`{subject}` was changed by somebody else"))
        }
        10002 | 10023 | 10028 | 10047 | 10077 | 10122 => (
            ErrorKind::StorageFull,
            format!("the broker has no room for `{subject}`; wait, or raise its `max_file_store` or limits"),
        ),
        10054 => (
            ErrorKind::TooLarge,
            format!("message to `{subject}` is too large; send large values as objects"),
        ),
        10008 | 10009 => {
            (ErrorKind::Timeout, format!("the broker's cluster has no leader for `{subject}` now; try again"))
        }
        _ => (ErrorKind::Other, format!("the broker refuses `{subject}`")),
    };
    Error::new(kind, text).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_never_repeats_the_source() {
        let error = Error::file("read", std::path::Path::new("/x"), std::io::Error::other("deep cause"));
        assert_eq!(error.to_string(), "cannot read `/x`");
        assert!(error.source().unwrap().to_string().contains("deep cause"));
    }
}
