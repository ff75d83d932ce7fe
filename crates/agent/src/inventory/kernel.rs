//! What the kernel says of the host: cores and memory.

use crate::config::InventoryConfig;
use sysinfo::System;

const MIB: u64 = 1 << 20;

/// Cores and memory at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    /// Cores.
    pub(super) cpus: u32,
    /// Memory, MiB.
    pub(super) ram_mb: u64,
    /// Memory available, MiB.
    pub(super) available_mb: u64,
}

/// Reads them.
pub(super) struct Kernel {
    system: Option<System>,
    cpus: Option<u32>,
    ram_mb: Option<u64>,
}

impl Kernel {
    pub(super) fn new(config: &InventoryConfig) -> Self {
        Self { system: System::new().ok(), cpus: config.cpus, ram_mb: config.ram_mb }
    }

    /// What is there now; what the configuration says instead counts as free.
    pub(super) fn figures(&mut self) -> Figures {
        let cpus = self.cpus.unwrap_or_else(|| {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            u32::try_from(cpus).unwrap_or(u32::MAX)
        });
        if let Some(ram_mb) = self.ram_mb {
            return Figures { cpus, ram_mb, available_mb: ram_mb };
        }
        let Some(system) = &mut self.system else { return Figures { cpus, ram_mb: 0, available_mb: 0 } };
        system.refresh_memory();
        let (mut total, mut available) = (system.total_memory(), system.available_memory());
        // In a container with a limit, the limit is what the host has.
        if let Some(limits) = system.cgroup_limits() {
            total = total.min(limits.total_memory);
            available = available.min(total.saturating_sub(limits.rss));
        }
        Figures { cpus, ram_mb: total / MIB, available_mb: available.min(total) / MIB }
    }
}
