//! A plugin's manifest: what a JSON file in a plugin folder says. cjm-plugin-system's manifests are read as they are.

use crate::limit::MAX_MANIFEST_BYTES;
use crate::name::PluginName;
use crate::resource::ResourceRequest;
use crate::retry::{PolicyError, RetryPolicy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// An environment that the agent builds with `uv`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// The Python version, e.g. `3.11`; empty: the agent's own `python3`.
    pub python: String,
    /// Requirements, as `uv pip install` reads them.
    pub requirements: Vec<String>,
    /// Overrides, as `uv pip install --override` reads them.
    pub overrides: Vec<String>,
}

/// Longest time a worker may take until it is ready, seconds, unless the manifest says otherwise.
pub const START_TIMEOUT_S: u32 = 120;

/// Times of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginLimits {
    /// Longest time until a worker is ready, seconds.
    pub start_timeout_s: u32,
    /// Longest run, seconds; None: no limit.
    pub timeout_s: Option<u32>,
    /// How long a cancelled run may take to stop by itself, seconds.
    pub cancel_grace_s: u32,
    /// How long an idle worker stays, seconds; None: until somebody needs its room.
    pub keep_warm_s: Option<u32>,
    /// Most host memory of a worker, MiB; None: what it was given.
    pub memory_mb: Option<u64>,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            start_timeout_s: START_TIMEOUT_S,
            timeout_s: None,
            cancel_grace_s: 5,
            keep_warm_s: None,
            memory_mb: None,
        }
    }
}

/// What the file says. Fields that are not known are kept in `other`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The plugin's name.
    pub name: PluginName,
    /// Its version.
    #[serde(default = "no_version")]
    pub version: String,
    /// One line about it.
    #[serde(default)]
    pub description: String,
    /// Who made it.
    #[serde(default)]
    pub author: String,
    /// What it is for.
    #[serde(default)]
    pub category: String,
    /// The domain's interface that it follows.
    #[serde(default)]
    pub interface: String,
    /// Python module of the class.
    #[serde(default)]
    pub module: String,
    /// The class.
    #[serde(default)]
    pub class: String,
    /// The interpreter, when the environment is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python_path: Option<String>,
    /// The environment to build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentSpec>,
    /// An executable that speaks the frames, with its arguments; a relative path is relative to the manifest.
    #[serde(default)]
    pub command: Vec<String>,
    /// Folders put on the module path, relative to the manifest.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Environment variables of the worker.
    #[serde(default)]
    pub env_vars: BTreeMap<String, String>,
    /// The first configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
    /// JSON Schema of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<Value>,
    /// Runs at a time in one worker.
    #[serde(default = "one")]
    pub concurrency: u32,
    /// Workers at a time on one host.
    #[serde(default = "one")]
    pub max_workers: u32,
    /// What one worker takes from its host. Without this it takes nothing, and sees the GPUs that the host shows it; with
    /// it, it sees only GPUs that it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequest>,
    /// Times.
    #[serde(default)]
    pub limits: PluginLimits,
    /// When a job of it is tried again after an error.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// What else stands in the file.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn no_version() -> String {
    "0.0.0".to_owned()
}

fn one() -> u32 {
    1
}

/// How a plugin's worker is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime<'a> {
    /// The universal worker under an interpreter that is there.
    Python(&'a str),
    /// The universal worker under an interpreter that has to be built.
    Environment(&'a EnvironmentSpec),
    /// The universal worker under the agent's own `python3`.
    HostPython,
    /// An executable of its own.
    Command(&'a [String]),
}

/// Why a manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Over the limit.
    #[error("manifest of {0} bytes exceeds the limit of {MAX_MANIFEST_BYTES}")]
    TooLarge(u64),
    /// Not JSON of the shape.
    #[error("manifest is not valid: {0}")]
    Malformed(String),
    /// Something has to be there.
    #[error("manifest of `{plugin}` has no `{field}`")]
    Missing {
        /// Which plugin.
        plugin: PluginName,
        /// Which field.
        field: &'static str,
    },
    /// Two fields exclude each other.
    #[error("manifest of `{plugin}` has both `{a}` and `{b}`; keep one")]
    Contradiction {
        /// Which plugin.
        plugin: PluginName,
        /// One field.
        a: &'static str,
        /// The other.
        b: &'static str,
    },
    /// Its retry policy cannot be used.
    #[error("manifest of `{plugin}`: {why}")]
    Retry {
        /// Which plugin.
        plugin: PluginName,
        /// What is wrong with it.
        why: PolicyError,
    },
    /// An amount that makes no sense.
    #[error("manifest of `{plugin}`: `{field}` is {given}; it must be {range}")]
    OutOfRange {
        /// Which plugin.
        plugin: PluginName,
        /// Which field.
        field: &'static str,
        /// What was given.
        given: u64,
        /// What is allowed.
        range: &'static str,
    },
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn read(text: &[u8]) -> Result<Self, ManifestError> {
        if text.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(text.len() as u64));
        }
        let manifest: Self =
            serde_json::from_slice(text).map_err(|e| ManifestError::Malformed(e.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let plugin = || self.name.clone();
        let given = [
            ("command", !self.command.is_empty()),
            ("python_path", self.python_path.is_some()),
            ("environment", self.environment.is_some()),
        ];
        let mut given = given.iter().filter(|g| g.1).map(|g| g.0);
        if let (Some(a), Some(b)) = (given.next(), given.next()) {
            return Err(ManifestError::Contradiction { plugin: plugin(), a, b });
        }
        if self.command.is_empty() {
            let needed = [("module", &self.module), ("class", &self.class)];
            if let Some((field, _)) = needed.iter().find(|(_, text)| text.is_empty()) {
                return Err(ManifestError::Missing { plugin: plugin(), field });
            }
        }
        self.retry.check().map_err(|why| ManifestError::Retry { plugin: plugin(), why })?;
        let ranges = [
            ("concurrency", self.concurrency, 1, 1024, "1 to 1024"),
            ("max_workers", self.max_workers, 1, 256, "1 to 256"),
            ("limits.start_timeout_s", self.limits.start_timeout_s, 1, 86_400, "1 to 86400"),
            ("limits.cancel_grace_s", self.limits.cancel_grace_s, 0, 3_600, "0 to 3600"),
        ];
        match ranges.into_iter().find(|(_, given, low, high, _)| given < low || given > high) {
            None => Ok(()),
            Some((field, given, _, _, range)) => {
                Err(ManifestError::OutOfRange { plugin: plugin(), field, given: given.into(), range })
            }
        }
    }

    /// How its worker is started.
    pub fn runtime(&self) -> Runtime<'_> {
        match (&self.python_path, &self.environment) {
            _ if !self.command.is_empty() => Runtime::Command(&self.command),
            (Some(python), _) => Runtime::Python(python),
            (None, Some(spec)) => Runtime::Environment(spec),
            (None, None) => Runtime::HostPython,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cjm_manifest_is_read_as_it_is() {
        let text = br#"{"name":"whisper-local","version":"1.0.0","python_path":"/envs/w/bin/python",
            "module":"cjm_transcription_plugin_whisper.plugin","class":"WhisperLocalPlugin",
            "env_vars":{"CUDA_VISIBLE_DEVICES":"0"},"db_path":"/x.db",
            "resources":{"requires_gpu":true,"min_gpu_vram_mb":4096,"min_system_ram_mb":8192}}"#;
        let manifest = Manifest::read(text).unwrap();
        assert_eq!(manifest.runtime(), Runtime::Python("/envs/w/bin/python"));
        assert_eq!(manifest.other["db_path"], "/x.db");
        assert_eq!((manifest.concurrency, manifest.max_workers), (1, 1));
        let resources = manifest.resources.unwrap();
        assert_eq!((resources.gpus, resources.vram_mb, resources.ram_mb), (1, 4096, 8192));
    }

    #[test]
    fn bad_manifests_say_what_is_wrong() {
        let said = |t: &str| Manifest::read(t.as_bytes()).unwrap_err().to_string();
        assert!(said("{").contains("not valid"));
        assert!(said(r#"{"name":"a"}"#).contains("`a` has no `module`"));
        assert!(said(r#"{"name":"a.b","module":"m","class":"C"}"#).contains("plugin name `a.b`"));
        assert!(said(r#"{"name":"a","module":"m","class":"C","concurrency":0}"#).contains("1 to 1024"));
        let retry = r#"{"name":"a","module":"m","class":"C","retry":{"max_attempts":0}}"#;
        assert!(said(retry).contains("manifest of `a`: `retry.max_attempts` is 0"));
        assert!(
            said(r#"{"name":"a","command":["x"],"python_path":"y"}"#)
                .contains("both `command` and `python_path`")
        );
        assert!(said(r#"{"name":"a","module":"m","class":"C","environment":{"pip":[]}}"#).contains("pip"));
        assert!(said(&format!("{{\"name\":\"{}\"}}", "a".repeat(2_000_000))).contains("exceeds the limit"));
    }
}
