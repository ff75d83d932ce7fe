//! What the host has and how it is watched: `[inventory]`, `[reserve]` and `[gpu]`.

use super::ConfigError;
use grange_protocol::resource::{ON_COMPUTE, ON_DRIVER, ON_GPU, ON_HOST, check_constraint};
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
        for (key, value) in &self.labels {
            let wrong = |why| Err(ConfigError::Invalid { key: "inventory.labels", why });
            if [ON_GPU, ON_COMPUTE, ON_DRIVER, ON_HOST].contains(&key.as_str()) {
                return wrong(format!("`{key}` is known without a label; choose another word"));
            }
            if let Err(error) = check_constraint(key, value) {
                return wrong(format!("nobody could ask for it: {error}"));
            }
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

#[cfg(test)]
mod tests {
    use crate::config::{Config, Flags, Overrun};
    use std::collections::BTreeMap;

    fn resolve(text: &str) -> Result<Config, String> {
        Config::resolve(text, &BTreeMap::new(), &Flags::default(), "box").map_err(|error| error.to_string())
    }

    #[test]
    fn the_host_is_described_or_measured() {
        let text = "[inventory]\ncpus = 2\n[[inventory.gpu]]\nuuid = \"a\"\nvram_mb = 8000\nlinks = [\"b\"]\n\
            [[inventory.gpu]]\nuuid = \"b\"\nvram_mb = 9000\n[gpu]\noverrun = \"kill\"\n[reserve]\nvram_mb = 5";
        let config = resolve(text).unwrap();
        assert_eq!((config.inventory.cpus, config.inventory.ram_mb), (Some(2), None));
        assert_eq!(
            (config.inventory.gpu[0].links[0].as_str(), config.inventory.gpu[1].vram_mb),
            ("b", 9_000)
        );
        assert_eq!(
            (config.gpu.overrun, config.gpu.vram_return_s, config.reserve.vram_mb),
            (Overrun::Kill, 10, 5)
        );
        assert_eq!(resolve("").unwrap().gpu.overrun, Overrun::Warn);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let gpu = |text: &str| format!("[[inventory.gpu]]\n{text}");
        for (text, said) in [
            (
                "[gpu]\nnvml_timeout_ms = 99".to_owned(),
                "`gpu.nvml_timeout_ms` is 99; it must be 100 to 600000",
            ),
            ("[gpu]\nvram_return_s = 0".to_owned(), "`gpu.vram_return_s` is 0"),
            ("[gpu]\noverrun_slack_mb = 2000000".to_owned(), "`gpu.overrun_slack_mb` is 2000000"),
            ("[gpu]\noverrun = \"shout\"".to_owned(), "unknown variant `shout`"),
            ("[gpu]\nnvml_timeout = 9".to_owned(), "nvml_timeout_ms"),
            ("[reserve]\nvram = 9".to_owned(), "vram_mb"),
            ("[reserve]\nram_mb = -1".to_owned(), "-1"),
            ("[inventory]\ncpus = 0".to_owned(), "`inventory.cpus`: it is 0"),
            ("[inventory]\nram_mb = 0".to_owned(), "`inventory.ram_mb`: it is 0"),
            ("[inventory]\nlabels = { host = \"a\" }".to_owned(), "`host` is known without a label"),
            ("[inventory]\nlabels = { zone = \"a b\" }".to_owned(), "constraint `zone=a b`: letters"),
            (gpu("vram_mb = 9"), "uuid"),
            (gpu("uuid = \"a\""), "vram_mb"),
            (gpu("uuid = \"a,b\"\nvram_mb = 9"), "`a,b` is no uuid"),
            (gpu("uuid = \"\"\nvram_mb = 9"), "`` is no uuid"),
            (gpu("uuid = \"a\"\nvram_mb = 0"), "`a` has a vram_mb of 0"),
            (gpu("uuid = \"a\"\nvram_mb = 9\nlinks = [\"c\"]"), "links name `c`, which is none of the GPUs"),
            (format!("{0}\n{0}", gpu("uuid = \"a\"\nvram_mb = 9")), "`a` stands there twice"),
        ] {
            let error = resolve(&text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
