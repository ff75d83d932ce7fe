//! What the server does not let this user do: it says so on the connection, never in answer to the message.
//!
//! Owns joining the two, so that a missing permission is an error at once and not a time-out. Never decides what to
//! do without the permission.

use crate::error::{Error, ErrorKind};
use async_nats::{ServerError, Subject};
use std::collections::VecDeque;
use tokio::sync::watch;

/// Refusals that are remembered; whoever waits for one hears of it at once.
const KEPT: usize = 64;

/// The newest refusals of a connection.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Refusals so far: the number of the newest.
    count: u64,
    newest_last: VecDeque<String>,
}

impl Recent {
    fn has(&self, subject: &str, since: u64) -> bool {
        let new = usize::try_from(self.count - since).unwrap_or(usize::MAX);
        self.newest_last.iter().rev().take(new).any(|refused| refused == subject)
    }
}

/// Notes it, if it is a refusal.
pub(crate) fn take(recent: &watch::Sender<Recent>, error: &ServerError) {
    let ServerError::Other(text) = error else { return };
    let Some(subject) = refused_subject(text) else { return };
    recent.send_modify(|recent| {
        recent.count += 1;
        recent.newest_last.push_back(subject.to_owned());
        if recent.newest_last.len() > KEPT {
            recent.newest_last.pop_front();
        }
    });
}

/// The subject of `Permissions Violation for Publish to "x"`, and of the same for a subscription.
fn refused_subject(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches('\'').strip_prefix("Permissions Violation for ")?;
    let rest = rest.strip_prefix("Publish to \"").or_else(|| rest.strip_prefix("Subscription to \""))?;
    rest.split('"').next()
}

/// Hears of the refusal of one subject. Make it before the subject is used.
#[derive(Debug)]
pub(crate) struct Refusal {
    subject: Subject,
    since: u64,
    recent: watch::Receiver<Recent>,
}

impl Refusal {
    pub(crate) fn of(subject: Subject, recent: &watch::Receiver<Recent>) -> Self {
        let recent = recent.clone();
        let since = recent.borrow().count;
        Self { subject, since, recent }
    }

    /// Waits for the refusal; for ever, if there is none.
    pub(crate) async fn refused(&mut self) -> Error {
        let (subject, since) = (self.subject.as_str(), self.since);
        if self.recent.wait_for(|recent| recent.has(subject, since)).await.is_err() {
            std::future::pending::<()>().await;
        }
        let text = format!("this user has no permission for `{subject}` on the broker");
        Error::new(ErrorKind::Unauthorised, text)
    }

    /// The answer, or `Unauthorised` when the server refuses.
    pub(crate) async fn or<T>(mut self, answer: impl Future<Output = T>) -> Result<T, Error> {
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            error = self.refused() => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_subject() {
        let publish = "Permissions Violation for Publish to \"grange.state.bob.1\"";
        assert_eq!(refused_subject(publish), Some("grange.state.bob.1"));
        let queue = "Permissions Violation for Subscription to \"a.>\" using queue \"q\"";
        assert_eq!(refused_subject(queue), Some("a.>"));
        assert_eq!(refused_subject("Stale Connection"), None);
    }

    #[test]
    fn an_older_refusal_is_not_taken_for_a_new_one() {
        let (sender, receiver) = watch::channel(Recent::default());
        let refuse = |subject: &str| {
            let text = format!("Permissions Violation for Publish to \"{subject}\"");
            take(&sender, &ServerError::Other(text));
        };
        refuse("a");
        let since = Refusal::of("a".into(), &receiver).since;
        assert!(!receiver.borrow().has("a", since));
        for _ in 0..100 {
            refuse("b");
        }
        refuse("a");
        assert!(receiver.borrow().has("a", since) && receiver.borrow().has("a", since + 100));
        assert_eq!(receiver.borrow().newest_last.len(), KEPT);
    }
}
