//! The lease of this agent: until when what it holds is surely its own. Counts from the *sending* of the last renewal
//! that was answered, on the boot-time clock.

use crate::clock::boot_ns;
use std::sync::atomic::{AtomicU64, Ordering};

/// When the last answered renewal was sent.
#[derive(Debug)]
pub struct Lease {
    renewed_ns: AtomicU64,
}

impl Lease {
    /// A lease that begins now: the broker was just spoken to.
    pub fn begin() -> Self {
        Self { renewed_ns: AtomicU64::new(boot_ns()) }
    }

    /// A renewal that was sent at `sent_ns` was answered.
    pub fn renewed(&self, sent_ns: u64) {
        self.renewed_ns.fetch_max(sent_ns, Ordering::Relaxed);
    }

    /// When an attempt with a lease of `lease_s` must end, in nanoseconds of the boot clock.
    pub fn deadline_ns(&self, lease_s: u32) -> u64 {
        self.renewed_ns.load(Ordering::Relaxed) + u64::from(lease_s) * 1_000_000_000
    }
}
