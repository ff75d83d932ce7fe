//! What a host has, what of it is taken, and what may still be given: the part of a heartbeat that admission reads.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One GPU, or one MIG slice of one, as NVML or the configuration describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// Stable identity; what `CUDA_VISIBLE_DEVICES` gets.
    pub uuid: String,
    /// The model, e.g. `NVIDIA H200`.
    pub name: String,
    /// Memory, MiB.
    pub vram_mb: u64,
    /// Memory free at this moment, MiB.
    pub vram_free_mb: u64,
    /// Busy share of the last second, per cent.
    pub utilisation: u32,
    /// Degrees Celsius; 0: not known.
    pub temperature_c: u32,
    /// Compute capability, e.g. `8.0`; empty: not known.
    pub compute: String,
    /// It is a MIG slice.
    pub mig: bool,
    /// GPUs that an NVLink joins it to.
    pub links: Vec<String>,
    /// Memory that processes other than this agent's workers use, MiB.
    pub foreign_mb: u64,
    /// Memory given to workers, MiB.
    pub granted_mb: u64,
    /// Memory that a new worker could be given now, MiB.
    pub grantable_mb: u64,
    /// Memory without the reserve, MiB: what a worker could be given if nobody else used any.
    pub usable_mb: u64,
    /// Workers that have a part of it.
    pub shares: u32,
    /// One worker has it for itself.
    pub exclusive: bool,
    /// Why nothing new is started on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
}

/// What a host has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Cores.
    pub cpus: u32,
    /// Cores that a new worker could be given now.
    pub cpus_grantable: u32,
    /// Cores without the reserve.
    pub cpus_usable: u32,
    /// Memory, MiB.
    pub ram_mb: u64,
    /// Memory available at this moment, MiB.
    pub ram_free_mb: u64,
    /// Memory that a new worker could be given now, MiB.
    pub ram_grantable_mb: u64,
    /// Memory without the reserve, MiB.
    pub ram_usable_mb: u64,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
    /// Version of the GPUs' driver; empty: none.
    pub driver: String,
    /// What an operator says of the host, e.g. `zone=lab`.
    pub labels: BTreeMap<String, String>,
}
