//! What this process uses, from /proc; it starts no children.
//!
//! Owns: reading processor time and memory. Never: anything about runs but their number.

use crate::desk::Counts;
use serde_json::{Value, json};
use std::time::Instant;

const MIB: f64 = 1024.0 * 1024.0;

/// Measures from one question to the next.
pub(crate) struct Meter {
    cpu_s: Option<f64>,
    at: Instant,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { cpu_s: cpu_s(), at: Instant::now() }
    }

    pub(crate) fn read(&mut self, counts: &Counts) -> Value {
        let (cpu_s, at) = (cpu_s(), Instant::now());
        let wall_s = (at - self.at).as_secs_f64().max(1e-6);
        let percent = cpu_s.zip(self.cpu_s).map(|(now, before)| 100.0 * (now - before) / wall_s);
        (self.cpu_s, self.at) = (cpu_s, at);
        json!({
            "pid": std::process::id(), "cpu_percent": percent, "rss_mb": rss_mb(),
            "runs": counts.received, "active": counts.active,
        })
    }
}

fn cpu_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything: count the fields after it (state is the first).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / rustix::param::clock_ticks_per_second() as f64)
}

fn rss_mb() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages = statm.split_whitespace().nth(1)?.parse::<f64>().ok()?;
    Some(pages * rustix::param::page_size() as f64 / MIB)
}
