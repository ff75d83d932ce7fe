//! The agent's configuration: one TOML file, then the environment, then flags. Resolved once, checked whole.
//!
//! Resolution is a function of (arguments, environment, file text): tests never touch the process's environment.

mod host;
mod isolation;
mod limits;
mod scheduling;

pub use host::{FixedGpu, GpuConfig, InventoryConfig, Overrun, ReserveConfig};
pub use isolation::IsolationConfig;
pub use limits::Limits;
pub use scheduling::SchedulingConfig;

use grange_protocol::name::AgentName;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// How to reach the broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// One or more URLs, separated by commas.
    pub url: String,
    /// User, with `password`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<Secret>,
    /// Token, instead of a user.
    pub token: Option<Secret>,
    /// Credentials file, instead of a user.
    pub creds_file: Option<PathBuf>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        let url = "nats://127.0.0.1:4222".to_owned();
        Self { url, user: None, password: None, token: None, creds_file: None }
    }
}

/// Where objects lie.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectsConfig {
    /// `file:///folder` or `s3://bucket/prefix`. Empty: the folder `objects` beside the state.
    pub url: String,
    /// Most bytes of the host's cache of inputs; the least recently used go first.
    pub cache_max_bytes: u64,
}

impl Default for ObjectsConfig {
    fn default() -> Self {
        Self { url: String::new(), cache_max_bytes: 20 << 30 }
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The agent's name; one per host. Empty: the host's name.
    pub name: String,
    /// Where the agent keeps what has to outlive it.
    pub state_dir: PathBuf,
    /// Folders with manifests (`*.json`, `*/plugin.json`); the first that has a name wins.
    pub plugin_folders: Vec<PathBuf>,
    /// The interpreter of plugins that bring none.
    pub python: String,
    /// `uv`, for environments. Empty: found on the path or in the state folder.
    pub uv: Option<PathBuf>,
    /// Make the streams and buckets at start, as `grange init` does.
    pub init_broker: bool,
    /// The broker.
    pub broker: BrokerConfig,
    /// Objects.
    pub objects: ObjectsConfig,
    /// The host.
    pub inventory: InventoryConfig,
    /// What of it workers never get.
    pub reserve: ReserveConfig,
    /// How GPUs are watched.
    pub gpu: GpuConfig,
    /// How workers are kept apart.
    pub isolation: IsolationConfig,
    /// Limits.
    pub limits: Limits,
    /// What goes first.
    pub scheduling: SchedulingConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            state_dir: PathBuf::from("/var/lib/grange"),
            plugin_folders: Vec::new(),
            python: "python3".to_owned(),
            uv: None,
            init_broker: false,
            broker: BrokerConfig::default(),
            objects: ObjectsConfig::default(),
            inventory: InventoryConfig::default(),
            reserve: ReserveConfig::default(),
            gpu: GpuConfig::default(),
            isolation: IsolationConfig::default(),
            limits: Limits::default(),
            scheduling: SchedulingConfig::default(),
        }
    }
}

/// What may stand on the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--broker`.
    pub broker: Option<String>,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// `--name`.
    pub name: Option<String>,
    /// `--plugins`, repeated.
    pub plugins: Vec<PathBuf>,
    /// `--objects`.
    pub objects: Option<String>,
    /// `--init`.
    pub init: bool,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("configuration `{path}` cannot be read")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML of the shape, or a key that is not known.
    #[error("configuration is not valid: {0}")]
    Malformed(String),
    /// A value that makes no sense.
    #[error("`{key}` is {given}; it must be {range}")]
    OutOfRange {
        /// Which key.
        key: &'static str,
        /// What was given.
        given: String,
        /// What is allowed.
        range: String,
    },
    /// A value that is not a name, folder or number.
    #[error("`{key}`: {why}")]
    Invalid {
        /// Which key.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Config {
    /// Reads the file, if there is one, and resolves everything. `host` is the host's own name.
    pub fn load(
        path: Option<&Path>,
        env: &BTreeMap<String, String>,
        flags: &Flags,
        host: &str,
    ) -> Result<Self, ConfigError> {
        let text = match path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?,
        };
        Self::resolve(&text, env, flags, host)
    }

    /// Resolves: defaults, file, environment, flags.
    pub fn resolve(
        text: &str,
        env: &BTreeMap<String, String>,
        flags: &Flags,
        host: &str,
    ) -> Result<Self, ConfigError> {
        let mut config: Self =
            toml::from_str(text).map_err(|e| ConfigError::Malformed(e.to_string().trim_end().to_owned()))?;
        config.take_environment(env);
        config.take_flags(flags);
        if config.name.is_empty() {
            config.name = tidy_host(host);
        }
        config.check()?;
        Ok(config)
    }

    fn take_environment(&mut self, env: &BTreeMap<String, String>) {
        let get = |key: &str| env.get(key).filter(|value| !value.is_empty()).cloned();
        if let Some(url) = get("GRANGE_BROKER") {
            self.broker.url = url;
        }
        self.broker.user = get("GRANGE_BROKER_USER").or(self.broker.user.take());
        self.broker.password = get("GRANGE_BROKER_PASSWORD").map(Secret).or(self.broker.password.take());
        self.broker.token = get("GRANGE_BROKER_TOKEN").map(Secret).or(self.broker.token.take());
        self.broker.creds_file = get("GRANGE_BROKER_CREDS").map(Into::into).or(self.broker.creds_file.take());
        self.uv = get("GRANGE_UV").map(Into::into).or(self.uv.take());
        if let Some(state) = get("GRANGE_STATE") {
            self.state_dir = state.into();
        }
        if let Some(name) = get("GRANGE_AGENT_NAME") {
            self.name = name;
        }
        if let Some(url) = get("GRANGE_OBJECTS") {
            self.objects.url = url;
        }
        if let Some(folders) = get("GRANGE_PLUGINS") {
            self.plugin_folders = std::env::split_paths(&folders).collect();
        }
    }

    fn take_flags(&mut self, flags: &Flags) {
        if let Some(url) = &flags.broker {
            self.broker.url.clone_from(url);
        }
        if let Some(state) = &flags.state {
            self.state_dir.clone_from(state);
        }
        if let Some(name) = &flags.name {
            self.name.clone_from(name);
        }
        if !flags.plugins.is_empty() {
            self.plugin_folders.clone_from(&flags.plugins);
        }
        if let Some(url) = &flags.objects {
            self.objects.url.clone_from(url);
        }
        self.init_broker |= flags.init;
    }

    fn check(&self) -> Result<(), ConfigError> {
        let range = |key, given: u64, low: u64, high: u64| {
            if (low..=high).contains(&given) {
                return Ok(());
            }
            Err(ConfigError::OutOfRange { key, given: given.to_string(), range: format!("{low} to {high}") })
        };
        AgentName::new(&self.name).map_err(|e| ConfigError::Invalid { key: "name", why: e.to_string() })?;
        if self.broker.url.trim().is_empty() {
            return Err(ConfigError::Invalid { key: "broker.url", why: "it is empty".to_owned() });
        }
        self.gpu.check(&range)?;
        self.inventory.check()?;
        self.isolation.check(&range)?;
        self.limits.check(&range)?;
        self.scheduling.check(&range)
    }

    /// The checked name.
    pub fn agent(&self) -> AgentName {
        AgentName::new(&self.name).expect("the name was checked when the configuration was resolved")
    }

    /// Where objects lie, with the default filled in.
    pub fn objects_url(&self) -> String {
        match self.objects.url.as_str() {
            "" => format!("file://{}", self.state_dir.join("objects").display()),
            url => url.to_owned(),
        }
    }
}

/// A host's name as an agent's name: what is not a letter, digit, `-` or `_` becomes `-`.
fn tidy_host(host: &str) -> String {
    let short = host.split('.').next().unwrap_or_default();
    let tidy: String = short
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
        .take(64)
        .collect();
    if tidy.is_empty() { "agent".to_owned() } else { tidy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, env: &[(&str, &str)], flags: &Flags) -> Result<Config, ConfigError> {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::resolve(text, &env, flags, "gpu 1.lab")
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let file = "name = \"f\"\n[broker]\nurl = \"nats://f:1\"";
        let flags = Flags { broker: Some("nats://flag:1".into()), ..Flags::default() };
        let config =
            resolve(file, &[("GRANGE_BROKER", "nats://env:1"), ("GRANGE_AGENT_NAME", "e")], &flags).unwrap();
        assert_eq!((config.broker.url.as_str(), config.name.as_str()), ("nats://flag:1", "e"));
        assert_eq!(resolve("", &[], &Flags::default()).unwrap().name, "gpu-1");
    }

    #[test]
    fn unknown_keys_and_absurd_values_are_refused() {
        let said = |text: &str| resolve(text, &[], &Flags::default()).unwrap_err().to_string();
        assert!(said("nmae = \"x\"").contains("nmae"));
        assert!(said("[limits]\nlease_s = 1").contains("`limits.lease_s` is 1; it must be 10 to 86400"));
        assert!(said("name = \"a.b\"").contains("agent name `a.b`"));
        assert!(said("[broker]\nurl = \"\"").contains("broker.url"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = resolve("[broker]\npassword = \"hunter2\"", &[], &Flags::default()).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
