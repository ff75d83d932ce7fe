//! When a job is tried again that an attempt did not end well. Errors of the plugin, crashes of its worker and lost hosts have budgets of their own.

use crate::failure::FailureKind;
use serde::{Deserialize, Serialize};

/// Crashes of its worker that a job gets before it is given up.
pub const WORKER_CRASHES: u32 = 3;
/// Lost hosts that a job gets before it is given up.
pub const HOST_LOSSES: u32 = 10;
/// Most tries that a policy may give, of each kind.
pub const TRIES_MAX: u32 = 1_000;
/// First wait before another try, milliseconds.
pub const BACKOFF_MS: u64 = 1_000;
/// Longest wait before another try, milliseconds.
pub const BACKOFF_MAX_MS: u64 = 60_000;

/// When a job is tried again. What is left out is as the plugin says, then as the defaults are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Attempts that may end with an error of `kinds`; the last of them fails the job. Default 1: no other try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Attempts that may end by a crash of the worker; default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_crashes: Option<u32>,
    /// Attempts that may end by the loss of their host; default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_losses: Option<u32>,
    /// First wait before another try, milliseconds; each further one is twice as long. Default 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// Longest wait, milliseconds; default 60000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_max_ms: Option<u64>,
    /// Errors that are worth another try; default `plugin_failed`, `timed_out`, `stalled`, `start_failed`,
    /// `start_timed_out`, `input_unavailable` and `store_failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<FailureKind>>,
}
