//! What the host has and how it is watched: `[inventory]`, `[reserve]` and `[gpu]`.

use super::ConfigError;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What the host has, where NVML and the kernel are not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InventoryConfig {
    /// Path of `libnvidia-ml.so.1`. Empty: the loader's search path.
    pub nvml_library: Option<PathBuf>,
    /// What an operator says of the host.
    pub labels: BTreeMap<String, String>,
    /// Cores. None: what the kernel says.
    pub cpus: Option<u32>,
    /// Memory, MiB. None: what the kernel says.
    pub ram_mb: Option<u64>,
    /// GPUs. With any, NVML is not asked: nobody knows then what others use on them.
    pub gpu: Vec<FixedGpu>,
}

/// One GPU as the configuration describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedGpu {
    /// Stable identity; what `CUDA_VISIBLE_DEVICES` gets.
    pub uuid: String,
    /// The model.
    #[serde(default)]
    pub name: String,
    /// Memory, MiB.
    pub vram_mb: u64,
    /// Compute capability, e.g. `8.0`; empty: not known.
    #[serde(default)]
    pub compute: String,
    /// GPUs that an NVLink joins it to.
    #[serde(default)]
    pub links: Vec<String>,
}

/// What is never given to workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReserveConfig {
    /// Memory of each GPU, MiB.
    pub vram_mb: u64,
    /// Host memory, MiB.
    pub ram_mb: u64,
    /// Cores.
    pub cpus: u32,
}

/// What becomes of a worker that uses more GPU memory than it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overrun {
    /// It is said.
    #[default]
    Warn,
    /// The worker is ended.
    Kill,
}

/// How GPUs are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuConfig {
    /// What becomes of a worker that uses more than it was given.
    pub overrun: Overrun,
    /// What it may use beyond that before it counts, MiB.
    pub overrun_slack_mb: u64,
    /// Memory must be back so soon after its worker's processes are gone, seconds; else the GPU is quarantined.
    pub vram_return_s: u64,
    /// A GPU that does not answer NVML within so long is out of service, milliseconds. Four times that where it, or NVML,
    /// is asked for the first time: a GPU without persistence mode wakes up slowly.
    pub nvml_timeout_ms: u64,
    /// What NVML says of single processes is believed. It cannot be where the agent has a pid namespace of its own.
    pub per_process: bool,
}

impl Default for GpuConfig {
    fn default() -> Self {
        Self {
            overrun: Overrun::Warn,
            overrun_slack_mb: 256,
            vram_return_s: 10,
            nvml_timeout_ms: 5_000,
            per_process: true,
        }
    }
}

impl GpuConfig {
    pub(super) fn check(
        &self,
        range: &impl Fn(&'static str, u64, u64, u64) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        range("gpu.overrun_slack_mb", self.overrun_slack_mb, 0, 1 << 20)?;
        range("gpu.vram_return_s", self.vram_return_s, 1, 3_600)?;
        range("gpu.nvml_timeout_ms", self.nvml_timeout_ms, 100, 600_000)
    }
}

impl InventoryConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let zero =
            |key| ConfigError::Invalid { key, why: "it is 0; leave it out to have it measured".to_owned() };
        if self.cpus == Some(0) {
            return Err(zero("inventory.cpus"));
        }
        if self.ram_mb == Some(0) {
            return Err(zero("inventory.ram_mb"));
        }
        let mut seen = BTreeSet::new();
        for gpu in &self.gpu {
            let wrong = |why| Err(ConfigError::Invalid { key: "inventory.gpu", why });
            if gpu.uuid.is_empty()
                || gpu.uuid.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control())
            {
                return wrong(format!("`{}` is no uuid; it is a word without commas", gpu.uuid));
            }
            if !seen.insert(&gpu.uuid) {
                return wrong(format!("`{}` stands there twice", gpu.uuid));
            }
            if gpu.vram_mb == 0 {
                return wrong(format!("`{}` has a vram_mb of 0", gpu.uuid));
            }
        }
        let unknown = self.gpu.iter().flat_map(|gpu| &gpu.links).find(|link| !seen.contains(link));
        unknown.map_or(Ok(()), |link| {
            let why = format!("links name `{link}`, which is none of the GPUs");
            Err(ConfigError::Invalid { key: "inventory.gpu", why })
        })
    }
}
