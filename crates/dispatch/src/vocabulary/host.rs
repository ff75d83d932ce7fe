//! What was measured of the host at one moment.

use super::{Time, WorkerId};
use std::collections::BTreeMap;

/// One look at the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostReading {
    /// When the look began; what ended before is not in it.
    pub taken_at: Time,
    /// Cores.
    pub cpus: u32,
    /// Host memory, MiB.
    pub ram_mb: u64,
    /// Host memory that others than this agent's workers use, MiB.
    pub ram_other_mb: u64,
    /// Version of the driver; empty: none.
    pub driver: String,
    /// Labels, and `host`.
    pub labels: BTreeMap<String, String>,
    /// GPUs and MIG slices. One that was there before and is missing here is lost.
    pub devices: Vec<DeviceReading>,
    /// What each live worker uses.
    pub workers: BTreeMap<WorkerId, WorkerUse>,
}

/// One GPU, or MIG slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceReading {
    /// Its stable identity.
    pub uuid: String,
    /// The model.
    pub name: String,
    /// Compute capability; empty: not known.
    pub compute: String,
    /// Devices that an NVLink joins it to.
    pub links: Vec<String>,
    /// Memory, MiB.
    pub total_mb: u64,
    /// Memory in use, MiB; never more than `total_mb`.
    pub used_mb: u64,
    /// Of that: by processes that were never this agent's, MiB.
    pub foreign_mb: u64,
    /// Of that: by nobody who lives: what the driver keeps, and what ended processes have not given back, MiB.
    pub leftover_mb: u64,
    /// Whether the driver tells which process uses what; if not, `foreign_mb` and `leftover_mb` are 0.
    pub attributed: bool,
    /// It must not be used, for this reason.
    pub fault: Option<String>,
}

/// What one worker uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerUse {
    /// Host memory of its process tree, MiB.
    pub ram_mb: u64,
    /// GPU memory by device, MiB.
    pub vram_mb: BTreeMap<String, u64>,
}
