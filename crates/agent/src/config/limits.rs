//! Limits on everything that comes from outside: `[limits]`.

use super::ConfigError;
use grange_protocol::limit::{INLINE_BYTES, LEASE_RANGE_S, LEASE_S, MAX_FRAME_BYTES};
use serde::Deserialize;
use std::time::Duration;

/// Limits on everything that comes from outside.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest result or chunk that travels inside a message, bytes; what is above goes to the store.
    pub inline_bytes: usize,
    /// Largest frame of a worker, bytes; above, the worker is ended.
    pub frame_bytes: usize,
    /// Chunks of one run that may be on their way; then the plugin waits.
    pub chunk_window: u32,
    /// Bytes of one run that may be on their way to the broker; then the worker is not read.
    pub event_buffer_bytes: usize,
    /// Most log bytes kept of one attempt; more is counted, not kept.
    pub log_max_bytes: u64,
    /// Longest log line, bytes; more is cut.
    pub log_line_max_bytes: usize,
    /// Largest file of a result, bytes; above, the job fails.
    pub output_max_bytes: u64,
    /// How long a drain may take before running jobs are handed back, seconds.
    pub drain_grace_s: u64,
    /// The host drains itself after so many workers that did not come up; 0: never.
    pub drain_after_start_failures: u32,
    /// Within so long, seconds.
    pub start_failures_window_s: u32,
    /// The lease of a job that asks for none, seconds.
    pub lease_s: u32,
    /// Longest time that building an environment may take, seconds.
    pub environment_build_s: u64,
    /// How long an idle worker stays whose plugin does not say, seconds; None: until somebody needs its room.
    pub keep_warm_s: Option<u32>,
    /// Most attempts of one owner that run on the whole farm at one time; None: no limit.
    pub owner_running_max: Option<u32>,
    /// How long the record of a job that ended is kept, seconds; then it is forgotten, with its result.
    pub record_keep_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inline_bytes: INLINE_BYTES,
            frame_bytes: MAX_FRAME_BYTES,
            chunk_window: 1024,
            event_buffer_bytes: 8 << 20,
            log_max_bytes: 16 << 20,
            log_line_max_bytes: 16 << 10,
            output_max_bytes: 1 << 40,
            drain_grace_s: 60,
            drain_after_start_failures: 3,
            start_failures_window_s: 300,
            lease_s: LEASE_S,
            environment_build_s: 1500,
            keep_warm_s: None,
            owner_running_max: None,
            record_keep_s: 7 * 86_400,
        }
    }
}

impl Limits {
    /// How long the record of a job that ended is kept.
    pub fn keep_records(&self) -> Duration {
        Duration::from_secs(self.record_keep_s)
    }

    pub(super) fn check(
        &self,
        range: &impl Fn(&'static str, u64, u64, u64) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        range("limits.inline_bytes", self.inline_bytes as u64, 1, 900_000)?;
        range("limits.frame_bytes", self.frame_bytes as u64, 64 << 10, 1 << 30)?;
        range("limits.chunk_window", self.chunk_window.into(), 1, 1 << 20)?;
        range("limits.event_buffer_bytes", self.event_buffer_bytes as u64, 64 << 10, 1 << 30)?;
        range("limits.log_line_max_bytes", self.log_line_max_bytes as u64, 80, 512 << 10)?;
        range("limits.keep_warm_s", self.keep_warm_s.unwrap_or(0).into(), 0, 30 * 86_400)?;
        range("limits.owner_running_max", self.owner_running_max.unwrap_or(1).into(), 1, 1_000_000)?;
        range("limits.drain_after_start_failures", self.drain_after_start_failures.into(), 0, 1000)?;
        range("limits.start_failures_window_s", self.start_failures_window_s.into(), 1, 86_400)?;
        range("limits.record_keep_s", self.record_keep_s, 1, 3_650 * 86_400)?;
        let lease = LEASE_RANGE_S;
        range("limits.lease_s", self.lease_s.into(), (*lease.start()).into(), (*lease.end()).into())
    }
}
