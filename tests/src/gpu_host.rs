//! A host with fake GPUs and plugins that use them: an agent, its script, and an eye on what its processes use.

use crate::agent::Agent;
use crate::farm::Farm;
use crate::gpus::{FakeGpus, Gpu};
use grange_fake_nvml::script::{USE_FOLDER, Use};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// How a host is to be.
pub struct GpuHost {
    name: String,
    /// Its GPUs.
    pub gpus: FakeGpus,
    folder: PathBuf,
    config: String,
    plugins: PathBuf,
    within: Vec<OsString>,
}

impl GpuHost {
    /// A host with these GPUs and no plugin yet.
    pub fn new(farm: &Farm, name: &str, gpus: Vec<Gpu>) -> Self {
        let folder = farm.path(&format!("gpus-{name}"));
        let (gpus, plugins) = (FakeGpus::with(&folder, gpus), farm.path(&format!("plugins-{name}")));
        std::fs::create_dir_all(&plugins).expect("a plugin folder");
        Self { name: name.to_owned(), gpus, folder, config: String::new(), plugins, within: Vec::new() }
    }

    /// It has this plugin, which is `tests/plugins/vram` with these words in its manifest.
    #[must_use]
    pub fn with(self, name: &str, manifest: &Value) -> Self {
        self.gpus.plugin(&self.plugins, name, manifest);
        self
    }

    /// More of its configuration, TOML. Sections that are given here must not be given twice.
    #[must_use]
    pub fn configured(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self
    }

    /// Its agent is started behind this command, e.g. one that enters a network.
    #[must_use]
    pub fn within(mut self, command: Vec<OsString>) -> Self {
        self.within = command;
        self
    }

    /// Starts its agent and waits until the plugins are prepared and the GPUs seen.
    pub async fn start(&self, farm: &Farm) -> Agent {
        let mut plan = farm.plan(&self.name, std::slice::from_ref(&self.plugins));
        plan.config = format!("{}{}", self.gpus.config(), self.config);
        plan.environment.push(self.gpus.environment());
        let agent = plan.start_within(&self.within);
        let client = farm.client("harness").await;
        let wanted = self.gpus.script().gpus.len();
        crate::eventually(
            &format!("{} shows its GPUs", self.name),
            crate::client::SOON,
            async || match client.agent(&self.name).await {
                Some(status) if status.capacity.gpus.len() >= wanted => Ok(()),
                other => Err(format!("{:?}", other.map(|status| status.capacity.gpus.len()))),
            },
        )
        .await;
        client.wait_for_plugins(&self.name).await;
        agent
    }

    /// What living processes use of each GPU at this moment, MiB: what they wrote down themselves, not what an agent says.
    pub fn used(&self) -> BTreeMap<String, u64> {
        let mut used = BTreeMap::new();
        let Ok(files) = std::fs::read_dir(self.folder.join(USE_FOLDER)) else { return used };
        for file in files.flatten() {
            let path = file.path();
            let pid =
                path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u32>().ok());
            let alive = pid.is_some_and(crate::processes::is_alive);
            let Some(text) =
                std::fs::read(&path).ok().filter(|_| alive && path.extension().is_some_and(|e| e == "json"))
            else {
                continue;
            };
            let Ok(usage) = serde_json::from_slice::<Use>(&text) else { continue };
            for (uuid, mb) in usage.gpus {
                *used.entry(uuid).or_default() += mb;
            }
        }
        used
    }
}
