//! How workers are kept apart: `[isolation]`.

use super::ConfigError;
use crate::cage::{Bounds, Wanted};
use serde::Deserialize;
use std::collections::BTreeMap;

/// How workers are kept apart.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IsolationConfig {
    /// By control groups where they can be had (`auto`), by these or not at all (`cgroup`), or by process trees.
    pub level: Wanted,
    /// A worker that was given host memory may use no more than that.
    pub enforce_ram: bool,
    /// What it may use beyond, MiB.
    pub ram_slack_mb: u64,
    /// Most memory of a worker that asked for none, MiB; None: no limit.
    pub memory_mb: Option<u64>,
    /// Most processes and threads of a worker; then it cannot start more.
    pub processes_max: u64,
    /// Most open files of one process of a worker.
    pub open_files_max: u64,
    /// Most that the scratch folder of a worker may hold, MiB; above, its runs fail. None: what the disk has.
    pub scratch_max_mb: Option<u64>,
    /// What workers get of the agent's environment, by name; a `*` at the end stands for any rest.
    pub environment: Vec<String>,
}

/// What workers get when nothing else is said.
const ENVIRONMENT: [&str; 32] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TERM",
    "XDG_*",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HF_HOME",
    "HF_HUB_*",
    "TORCH_HOME",
    "CUDA_*",
    "NVIDIA_*",
    "OMP_*",
    "MKL_*",
    "OPENBLAS_*",
    "PYTHONHASHSEED",
];
/// What no list lets through: the agent's own credentials.
const NEVER: [&str; 3] = ["GRANGE_*", "AWS_*", "NATS_*"];

impl Default for IsolationConfig {
    fn default() -> Self {
        Self {
            level: Wanted::Auto,
            enforce_ram: true,
            ram_slack_mb: 256,
            memory_mb: None,
            processes_max: 4096,
            open_files_max: 65_536,
            scratch_max_mb: None,
            environment: ENVIRONMENT.map(str::to_owned).to_vec(),
        }
    }
}

impl IsolationConfig {
    pub(super) fn check(
        &self,
        range: &impl Fn(&'static str, u64, u64, u64) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        const TIB: u64 = 1 << 20;
        range("isolation.ram_slack_mb", self.ram_slack_mb, 0, TIB)?;
        range("isolation.memory_mb", self.memory_mb.unwrap_or(16), 16, 64 * TIB)?;
        range("isolation.processes_max", self.processes_max, 16, 4 << 20)?;
        range("isolation.open_files_max", self.open_files_max, 64, 1 << 30)?;
        range("isolation.scratch_max_mb", self.scratch_max_mb.unwrap_or(1), 1, 1024 * TIB)
    }

    /// What a worker may use: its plugin's own limit, else what it was given, else what holds for all.
    pub fn bounds(&self, plugin_memory_mb: Option<u64>, granted_ram_mb: u64) -> Bounds {
        let granted = (granted_ram_mb > 0 && self.enforce_ram).then(|| granted_ram_mb + self.ram_slack_mb);
        Bounds {
            memory_mb: plugin_memory_mb.or(granted).or(self.memory_mb),
            processes: Some(self.processes_max),
            open_files: Some(self.open_files_max),
            scratch_mb: self.scratch_max_mb,
        }
    }

    /// The part of the agent's environment that workers get.
    pub fn passed(&self, environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let passes = |name: &String| {
            self.environment.iter().any(|pattern| matches(pattern, name))
                && !NEVER.iter().any(|pattern| matches(pattern, name))
        };
        environment.iter().filter(|(name, _)| passes(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_lets_the_agents_secrets_through() {
        let host = ["PATH", "LC_ALL", "GRANGE_BROKER_TOKEN", "AWS_SECRET_ACCESS_KEY", "NATS_CREDS", "OTHER"];
        let host: BTreeMap<String, String> =
            host.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        let names = |config: &IsolationConfig| config.passed(&host).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&IsolationConfig::default()), ["LC_ALL", "PATH"]);
        let all = IsolationConfig { environment: vec!["*".to_owned()], ..IsolationConfig::default() };
        assert_eq!(names(&all), ["LC_ALL", "OTHER", "PATH"]);
    }

    #[test]
    fn the_plugins_own_limit_goes_first() {
        let config = IsolationConfig { memory_mb: Some(900), ..IsolationConfig::default() };
        assert_eq!(config.bounds(Some(70), 100).memory_mb, Some(70));
        assert_eq!(config.bounds(None, 100).memory_mb, Some(356));
        assert_eq!(config.bounds(None, 0).memory_mb, Some(900));
        let lax = IsolationConfig { enforce_ram: false, ..IsolationConfig::default() };
        assert_eq!(lax.bounds(None, 100).memory_mb, None);
    }
}
