//! Why a job failed: a closed list of kinds, each with what happened, and whether another try may help.

use crate::limit::{MAX_FAILURE_TEXT_BYTES, keep_end};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The ticket or its arguments cannot be used.
    InvalidInput,
    /// An input object is missing or damaged.
    InputUnavailable,
    /// The farm has no such plugin, or it cannot be prepared.
    PluginUnavailable,
    /// The worker did not come up: import, construction or `initialize` failed.
    StartFailed,
    /// The plugin raised.
    PluginFailed,
    /// What the plugin returned cannot be sent.
    Unserialisable,
    /// What the plugin returned exceeds a limit.
    OutputTooLarge,
    /// A result could not be stored.
    StoreFailed,
    /// The worker process ended in the middle of a run.
    WorkerCrashed,
    /// The run took longer than its `timeout`.
    TimedOut,
    /// The worker's processes used more host memory than they were given.
    OutOfMemory,
    /// The worker filled its scratch folder or the disk.
    OutOfDisk,
    /// The host was lost more often than the budget allows.
    HostLost,
    /// A GPU failed under the run more often than the budget of lost hosts allows.
    GpuFailed,
    /// The run used more of the host than it was given.
    OverLimit,
    /// A fault of Grange's own.
    Internal,
    /// A kind that this build does not know.
    #[serde(other)]
    Unknown,
}

impl FailureKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::InputUnavailable => "input_unavailable",
            Self::PluginUnavailable => "plugin_unavailable",
            Self::StartFailed => "start_failed",
            Self::PluginFailed => "plugin_failed",
            Self::Unserialisable => "unserialisable",
            Self::OutputTooLarge => "output_too_large",
            Self::StoreFailed => "store_failed",
            Self::WorkerCrashed => "worker_crashed",
            Self::TimedOut => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::OutOfDisk => "out_of_disk",
            Self::HostLost => "host_lost",
            Self::GpuFailed => "gpu_failed",
            Self::OverLimit => "over_limit",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: what happened, to what, and what to do.
    pub message: String,
    /// The exception's class, when the plugin raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<String>,
    /// The traceback, its end when it is long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// The exit status of a process that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Highest host memory of the worker's processes, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_ram_mb: Option<u64>,
    /// The last lines that the process wrote to its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
}

impl Failure {
    /// A failure with its message.
    pub fn new(kind: FailureKind, message: impl AsRef<str>) -> Self {
        Self {
            kind,
            message: keep_end(message.as_ref(), MAX_FAILURE_TEXT_BYTES),
            exception: None,
            traceback: None,
            exit_code: None,
            signal: None,
            peak_ram_mb: None,
            stderr: None,
        }
    }

    /// Adds what the plugin raised.
    #[must_use]
    pub fn raised(mut self, exception: impl Into<String>, traceback: Option<&str>) -> Self {
        self.exception = Some(exception.into());
        self.traceback = traceback.map(|t| keep_end(t, MAX_FAILURE_TEXT_BYTES));
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kind_is_kept_apart() {
        let failure: Failure = serde_json::from_str(r#"{"kind":"gremlins","message":"m"}"#).unwrap();
        assert_eq!(failure.kind, FailureKind::Unknown);
    }

    #[test]
    fn words_match_the_wire() {
        for kind in [FailureKind::InvalidInput, FailureKind::WorkerCrashed, FailureKind::OutputTooLarge] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
