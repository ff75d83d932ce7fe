//! How a command ends: its exit code, and for people what went wrong and what to do.
//!
//! Owns the translation of the client library's errors into exit codes and hints. Never prints.

use grange_broker_client::{Error, ErrorKind};
use grange_protocol::record::State;
use std::error::Error as StdError;
use std::io;
use std::process::ExitCode;

/// Exit codes; part of the supported interface (`docs/cli.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Other = 1,
    Usage = 2,
    JobFailed = 3,
    JobCancelled = 4,
    JobExpired = 5,
    JobRefused = 6,
    NotFound = 7,
    Broker = 8,
    Store = 9,
    Unfinished = 10,
    LeftRunning = 130,
}

impl Exit {
    /// Where a job's end leads.
    pub(crate) fn of_state(state: State) -> Self {
        match state {
            State::Succeeded => Self::Ok,
            State::Failed => Self::JobFailed,
            State::Cancelled => Self::JobCancelled,
            State::Expired => Self::JobExpired,
            State::Refused => Self::JobRefused,
            State::Queued | State::Claimed | State::Running | State::Retrying => Self::Unfinished,
        }
    }

    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command ends without doing what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// One line, the whole chain of causes in it.
    pub(crate) text: String,
    /// More of it, a line for each, e.g. what every host lacks.
    pub(crate) details: Vec<String>,
    pub(crate) hint: Option<String>,
    /// Nobody reads the output any more: nothing is to be said.
    pub(crate) silent: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into(), details: Vec::new(), hint: None, silent: false }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// An error of the system, with what was being done.
    pub(crate) fn system(doing: impl std::fmt::Display, error: &dyn StdError) -> Self {
        Self::new(Exit::Other, format!("{doing}: {}", chain(error)))
    }

    /// The same, of one line of a file.
    #[must_use]
    pub(crate) fn at_line(mut self, number: u64) -> Self {
        self.text = format!("line {number}: {}", self.text);
        self
    }

    #[must_use]
    pub(crate) fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error of the object store: whatever it is, it is the store's.
    pub(crate) fn of_store(error: &Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::DigestMismatch => Exit::Other,
            ErrorKind::Invalid => Exit::Usage,
            _ => Exit::Store,
        };
        let hint = match error.kind() {
            ErrorKind::NotFound => {
                Some("is `--objects` the store that the farm's agents use? `grange doctor` tests it")
            }
            ErrorKind::StoreUnavailable => Some("`grange doctor` tests the object store"),
            _ => None,
        };
        let failure = Self::new(exit, chain(error));
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (exit, hint) = match error.kind() {
            ErrorKind::Unreachable
            | ErrorKind::OldServer
            | ErrorKind::NoJetStream
            | ErrorKind::NoTopology => (Exit::Broker, None),
            ErrorKind::Timeout => (Exit::Broker, Some("`grange doctor` looks at the broker")),
            ErrorKind::NotFound => (Exit::NotFound, None),
            ErrorKind::Invalid => (Exit::Usage, None),
            ErrorKind::TooLarge => (
                Exit::Usage,
                Some("write a large value to a file and give `--file name=path`: the plugin gets its path"),
            ),
            ErrorKind::StoreUnavailable => (Exit::Store, Some("`grange doctor` tests the object store")),
            ErrorKind::Unauthorised => {
                (Exit::Other, Some("credentials come from GRANGE_BROKER_USER, _PASSWORD, _TOKEN or _CREDS"))
            }
            _ => (Exit::Other, None),
        };
        let failure = Self::new(exit, chain(&error));
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// Output that cannot be written.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let gone = error.kind() == io::ErrorKind::BrokenPipe;
        let exit = if gone { Exit::Ok } else { Exit::Other };
        let text = format!("the output cannot be written: {error}");
        Self { exit, text, details: Vec::new(), hint: None, silent: gone }
    }
}

/// An error and its causes in one line. A cause that was said already is not said again.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_a_job_has_its_own_code() {
        let codes: Vec<u8> = State::ALL.into_iter().map(|s| Exit::of_state(s).code()).collect();
        assert_eq!(codes, [10, 10, 10, 10, 0, 3, 4, 5, 6]);
    }

    #[test]
    fn kinds_lead_to_codes() {
        let code = |kind| Failure::from(Error::new(kind, "x")).exit;
        assert_eq!(code(ErrorKind::Unreachable), Exit::Broker);
        assert_eq!(code(ErrorKind::NotFound), Exit::NotFound);
        assert_eq!(code(ErrorKind::TooLarge), Exit::Usage);
        assert_eq!(Failure::of_store(&Error::new(ErrorKind::NotFound, "x")).exit, Exit::Store);
    }

    #[test]
    fn a_reader_who_left_is_no_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.silent);
        assert_eq!(failure.exit, Exit::Ok);
    }

    #[test]
    fn causes_are_said_once() {
        let inner = io::Error::other("connection refused");
        let outer = io::Error::other(format!("IO error: {inner}"));
        assert_eq!(chain(&outer), "IO error: connection refused");
    }
}
