//! The clocks: boot time for deadlines (it goes on while the host sleeps), wall time to show.

use rustix::time::{ClockId, clock_gettime};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Nanoseconds since the host booted.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Milliseconds since the host booted.
pub fn boot_ms() -> u64 {
    boot_ns() / 1_000_000
}

/// Which boot of the host this is; empty where the kernel does not say.
pub fn boot_id() -> &'static str {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    });
    &BOOT
}

/// Unix milliseconds.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// About so long: a quarter more or less, by chance, so that a farm's agents do not do the same thing in one moment.
pub fn about(ms: u64) -> Duration {
    let chance = u64::from(Uuid::now_v7().as_bytes()[15]);
    Duration::from_millis(ms - ms / 4 + ms / 2 * chance / 255)
}
