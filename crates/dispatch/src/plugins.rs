//! What is known of each plugin: its shape, how long its runs take, and whether its workers come up.

use crate::vocabulary::{Config, PluginSpec, Time};
use grange_protocol::name::PluginName;
use grange_protocol::subject::JobKey;
use std::collections::{BTreeMap, VecDeque};

/// One plugin.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) spec: PluginSpec,
    /// Jobs that are ours and wait for a worker, oldest first.
    pub(crate) waiting: VecDeque<JobKey>,
    /// Jobs in hand that are not being settled.
    pub(crate) held: u32,
    /// Smoothed time of a run, milliseconds.
    run_ms: Option<f64>,
    /// No worker is started before this time.
    pub(crate) rest_until: Time,
    failures: u32,
    /// It can no longer run here.
    pub(crate) gone: bool,
}

/// Weight of the newest run in the smoothed time.
const NEWEST: f64 = 0.2;

impl Plugin {
    pub(crate) fn new(spec: PluginSpec) -> Self {
        Self {
            spec,
            waiting: VecDeque::new(),
            held: 0,
            run_ms: None,
            rest_until: 0,
            failures: 0,
            gone: false,
        }
    }

    /// Learns how long a run took.
    pub(crate) fn ran(&mut self, ms: f64) {
        if ms.is_finite() && ms >= 0.0 {
            self.run_ms = Some(self.run_ms.map_or(ms, |old| old + (ms - old) * NEWEST));
        }
    }

    /// How many runs may be held ahead of each slot: those that start within `pull_ahead_ms`.
    pub(crate) fn ahead(&self, config: &Config) -> u32 {
        let Some(run_ms) = self.run_ms else { return 0 };
        let fit = f64::from(config.pull_ahead_ms) / run_ms.max(0.01);
        // `as` saturates: a huge ratio becomes the largest number and is then cut to the limit.
        (fit as u32).min(config.pull_ahead_max)
    }

    /// Runs that one worker may have in hand.
    pub(crate) fn slots(&self, config: &Config) -> u32 {
        self.spec.concurrency.saturating_mul(1 + self.ahead(config))
    }

    /// A worker came up.
    pub(crate) fn started(&mut self) {
        self.failures = 0;
        self.rest_until = 0;
    }

    /// A worker did not come up: rest, longer each time.
    pub(crate) fn start_failed(&mut self, now: Time, config: &Config) {
        let doubled = config.start_backoff_ms.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.rest_until = now + doubled.min(config.start_backoff_max_ms);
    }
}

/// All plugins.
pub(crate) type Plugins = BTreeMap<PluginName, Plugin>;
