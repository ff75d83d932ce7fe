//! Figures out of samples.

use serde_json::{Value, json};
use std::time::Duration;

/// Times of single events.
#[derive(Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The sample below which a share `q` of them lies.
    pub(crate) fn at(&mut self, q: f64) -> Duration {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1) as f64;
        self.0.get((last * q) as usize).copied().unwrap_or_default()
    }

    /// The usual percentiles, milliseconds.
    pub(crate) fn summary(&mut self) -> Value {
        let mut ms = |q| round(self.at(q).as_secs_f64() * 1000.0, 3);
        json!({"p50_ms": ms(0.5), "p90_ms": ms(0.9), "p99_ms": ms(0.99), "max_ms": ms(1.0), "n": self.0.len()})
    }
}

/// Rounds to `digits` behind the point.
pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

/// How many in how long.
pub(crate) fn per_second(count: usize, elapsed: Duration) -> f64 {
    round(count as f64 / elapsed.as_secs_f64(), 0)
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    round(bytes as f64 / (1024.0 * 1024.0), 1)
}
