//! How a worker's process tree ended, and what that says of a worker that never was ready.

use crate::supervise::Report;
use grange_protocol::failure::{Failure, FailureKind};

/// A worker's process tree is gone.
#[derive(Debug)]
pub struct Gone {
    /// What the supervisor said last.
    pub report: Option<Report>,
    /// The end of its standard error.
    pub stderr: String,
}

impl Gone {
    /// Exit status and signal.
    pub fn status(&self) -> (Option<i32>, Option<i32>) {
        match &self.report {
            Some(Report::Ended { code, signal, .. }) => (*code, *signal),
            Some(Report::Started(_) | Report::NotStarted(_)) | None => (None, None),
        }
    }

    /// Whether its supervisor ended it: told to, or because the deadline passed.
    pub fn was_killed(&self) -> bool {
        matches!(self.report, Some(Report::Ended { killed: true, .. }))
    }

    /// Why a worker that never was ready did not come up.
    pub fn start_failure(&self, plugin: &str) -> Failure {
        let how = match &self.report {
            Some(Report::NotStarted(why)) => why.clone(),
            Some(report) => format!("its process {}", crate::journal::describe(report)),
            None => "its supervisor ended without a word".to_owned(),
        };
        let mut failure = Failure::new(
            FailureKind::StartFailed,
            format!("the worker of `{plugin}` did not come up: {how}"),
        );
        (failure.exit_code, failure.signal) = self.status();
        failure.stderr = (!self.stderr.is_empty()).then(|| self.stderr.clone());
        failure
    }
}
