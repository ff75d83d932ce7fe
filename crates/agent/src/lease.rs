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

    /// When an attempt with a lease of `lease_s` must end, in nanoseconds of the boot clock: a little before others may
    /// take it over, so that its processes are gone by then.
    pub fn deadline_ns(&self, lease_s: u32) -> u64 {
        self.renewed_ns.load(Ordering::Relaxed) + kept_ms(lease_s) * 1_000_000
    }
}

/// How much of a lease an attempt runs on without a renewal, milliseconds.
fn kept_ms(lease_s: u32) -> u64 {
    let lease_ms = u64::from(lease_s) * 1000;
    lease_ms - (lease_ms / 10).min(STOPPING_MS)
}

/// Most time of a lease that is left for killing what runs, milliseconds.
const STOPPING_MS: u64 = 3_000;

/// What has to be told to the supervisor of a worker: when it kills its tree unless it hears from the agent again. `runs`:
/// of each of its runs the end of its lease, where the run is to stop then; None: it goes on without a lease. `idle_ns`:
/// where there is no run.
pub fn worker_deadline(runs: impl IntoIterator<Item = Option<u64>>, idle_ns: u64) -> Option<u64> {
    let (mut earliest, mut any) = (None::<u64>, false);
    for deadline in runs {
        any = true;
        earliest = match (earliest, deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    if any { earliest } else { Some(idle_ns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_gone_before_others_may_take_it() {
        assert_eq!([10, 30, 600].map(kept_ms), [9_000, 27_000, 597_000]);
    }

    #[test]
    fn a_worker_ends_with_the_first_of_its_leases() {
        assert_eq!(worker_deadline([], 7), Some(7));
        assert_eq!(worker_deadline([Some(20), Some(10)], 7), Some(10));
        assert_eq!(worker_deadline([Some(20), None], 7), Some(20), "one that may go on shares its worker");
        assert_eq!(worker_deadline([None, None], 7), None);
    }
}
