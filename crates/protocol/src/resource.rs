//! What a run needs of a host, and what a host has. Amounts are integers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one worker of a plugin takes from a host. A job may ask for more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceRequest {
    /// Number of GPUs.
    pub gpus: u32,
    /// Memory on each of those GPUs, MiB.
    pub vram_mb: u64,
    /// Nobody else on those GPUs.
    pub exclusive: bool,
    /// Host memory, MiB.
    pub ram_mb: u64,
    /// Cores.
    pub cpus: u32,
}

/// One GPU as NVML, or the configuration, describes it.
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
}

/// What a host has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Cores.
    pub cpus: u32,
    /// Memory, MiB.
    pub ram_mb: u64,
    /// Memory available at this moment, MiB.
    pub ram_free_mb: u64,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
    /// What an operator says of the host, e.g. `zone=lab`.
    pub labels: BTreeMap<String, String>,
}
