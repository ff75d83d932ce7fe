//! The plugins of this host: manifests in ordered folders, how each is started, and whether it can be.
//!
//! The first folder that has a name wins; a file that is no manifest is skipped and reported, never fatal.

use crate::causes;
use crate::config::Limits;
use crate::environment::Environments;
use crate::learned;
use crate::planted::{self, Bug};
use crate::supervise::Program;
use grange_protocol::frame::{LINK_PROTOCOL, Load};
use grange_protocol::limit::MAX_MANIFEST_BYTES;
use grange_protocol::manifest::{Manifest, Runtime};
use grange_protocol::name::PluginName;
use grange_protocol::status::PluginState;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What CUDA reads: the GPUs that a process sees.
const VISIBLE_GPUS: &str = "CUDA_VISIBLE_DEVICES";
/// Longest time that asking an interpreter for its place may take.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// How a worker of a plugin is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The executable and its arguments.
    pub command: Vec<String>,
    /// Folders for the module path.
    pub paths: Vec<String>,
}

/// What preparing a plugin came to.
#[derive(Clone, Debug)]
pub enum Prepared {
    /// It can run.
    Ready(Launch),
    /// It cannot, for this reason.
    Failed(String),
}

/// One plugin of this host.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// What its manifest says.
    pub manifest: Manifest,
    /// Where the manifest lies.
    pub folder: PathBuf,
    /// Whether it can run.
    pub state: PluginState,
    /// Why not, or what is being done.
    pub reason: String,
    /// How it is started, once it can.
    pub launch: Option<Launch>,
    /// The name of its configuration in what is learned of it.
    pub configuration: String,
}

/// What the folders hold.
#[derive(Debug, Default)]
pub struct Discovered {
    /// By name.
    pub plugins: BTreeMap<PluginName, Plugin>,
    /// What was skipped, and why.
    pub notices: Vec<String>,
}

/// Reads every folder, in order.
pub fn discover(folders: &[PathBuf]) -> Discovered {
    let mut found = Discovered::default();
    for folder in folders {
        match manifests_in(folder) {
            Ok(paths) => paths.iter().for_each(|path| found.take(path)),
            Err(error) => {
                found.notices.push(format!("plugin folder `{}` skipped: {error}", folder.display()))
            }
        }
    }
    for notice in &found.notices {
        tracing::warn!(notice, "plugins");
    }
    found
}

/// `*.json` in the folder and `*/plugin.json` below it, sorted by name.
fn manifests_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let inner = path.join("plugin.json");
        if path.is_dir() && inner.is_file() {
            paths.push(inner);
        } else if path.is_file() && path.extension().is_some_and(|e| e == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

impl Discovered {
    fn take(&mut self, path: &Path) {
        let skip = |why: String| format!("manifest `{}` skipped: {why}", path.display());
        match read_manifest(path) {
            Err(why) => self.notices.push(skip(why)),
            Ok(manifest) if self.plugins.contains_key(&manifest.name) => {
                self.notices.push(skip(format!("`{}` was found in an earlier folder", manifest.name)));
            }
            Ok(manifest) => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
                let name = manifest.name.clone();
                let reason = "waits to be prepared".to_owned();
                let configuration = learned::digest(manifest.config.as_ref());
                let state = PluginState::Preparing;
                let plugin = Plugin { manifest, folder, state, reason, launch: None, configuration };
                self.plugins.insert(name, plugin);
            }
        }
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, String> {
    let bytes = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if bytes > MAX_MANIFEST_BYTES {
        return Err(format!("{bytes} bytes exceed the limit of {MAX_MANIFEST_BYTES}"));
    }
    let text = std::fs::read(path).map_err(|e| e.to_string())?;
    Manifest::read(&text).map_err(|e| e.to_string())
}

/// What preparing needs of the host.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// Builds environments.
    pub environments: Environments,
    /// The interpreter of plugins that bring none.
    pub python: String,
    /// The universal worker.
    pub universal: PathBuf,
}

impl Workshop {
    /// Makes a plugin ready to start.
    pub async fn prepare(&self, manifest: &Manifest, folder: &Path) -> Prepared {
        match self.command(manifest, folder).await {
            Ok(command) => Prepared::Ready(Launch { command, paths: absolute(folder, &manifest.paths) }),
            Err(why) => Prepared::Failed(why),
        }
    }

    async fn command(&self, manifest: &Manifest, folder: &Path) -> Result<Vec<String>, String> {
        let worker = |python: &Path| {
            vec![python.to_string_lossy().into_owned(), self.universal.to_string_lossy().into_owned()]
        };
        match manifest.runtime() {
            Runtime::Command(command) => {
                let mut command = command.to_vec();
                if command[0].contains('/') {
                    let program = folder.join(&command[0]);
                    if !program.is_file() {
                        return Err(format!(
                            "executable `{}` is not there; build it first",
                            program.display()
                        ));
                    }
                    command[0] = program.to_string_lossy().into_owned();
                }
                Ok(command)
            }
            Runtime::Python(python) => {
                let python = folder.join(python);
                if !python.is_file() {
                    return Err(format!(
                        "interpreter `{}` is not there; build its environment",
                        python.display()
                    ));
                }
                Ok(worker(&python))
            }
            Runtime::HostPython => Ok(worker(&real_interpreter(&self.python).await?)),
            Runtime::Environment(spec) => {
                let python = self.environments.prepare(spec).await.map_err(|e| causes::chain(&e))?;
                Ok(worker(&python))
            }
        }
    }
}

fn absolute(folder: &Path, paths: &[String]) -> Vec<String> {
    paths.iter().map(|path| folder.join(path).to_string_lossy().into_owned()).collect()
}

/// The interpreter itself: what is on the path may be a slow shell script in front of it.
async fn real_interpreter(python: &str) -> Result<PathBuf, String> {
    let mut probe = tokio::process::Command::new(python);
    probe.args(["-c", "import sys; print(sys.executable)"]).kill_on_drop(true);
    let missing = |why: String| format!("interpreter `{python}` cannot be used: {why}");
    let output = tokio::time::timeout(PROBE_LIMIT, probe.output())
        .await
        .map_err(|_| missing("it did not answer".to_owned()))?
        .map_err(|e| missing(e.to_string()))?;
    let place = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if place.is_empty() { Err(missing("it did not say where it is".to_owned())) } else { Ok(place.into()) }
}

impl Plugin {
    /// What its worker process is started with. `env` is what workers get of the agent's environment; `gpus` are those
    /// that it was given. Only a plugin whose manifest says nothing of resources, and whose jobs do not either, sees what
    /// the host or its manifest shows it.
    pub fn program(&self, launch: &Launch, mut env: BTreeMap<String, String>, gpus: &[String]) -> Program {
        if planted::is(Bug::LeakEnvironment) {
            env.extend(std::env::vars());
        }
        env.insert("GRANGE_PLUGIN".to_owned(), self.manifest.name.to_string());
        env.extend(self.manifest.env_vars.clone());
        if self.manifest.resources.is_some() || !gpus.is_empty() {
            env.insert(VISIBLE_GPUS.to_owned(), gpus.join(","));
        }
        Program { command: launch.command.clone(), env, folder: self.folder.clone(), ..Program::default() }
    }

    /// What its worker is told first.
    pub fn load(&self, launch: &Launch, limits: &Limits) -> Load {
        Load {
            protocol: LINK_PROTOCOL,
            plugin: self.manifest.name.to_string(),
            module: self.manifest.module.clone(),
            class: self.manifest.class.clone(),
            paths: launch.paths.clone(),
            config: self.manifest.config.clone(),
            concurrency: self.manifest.concurrency,
            frame_bytes: limits.frame_bytes,
            window: limits.chunk_window,
            inline_bytes: limits.inline_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
    }

    #[test]
    fn first_name_wins_and_bad_files_are_reported() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let manifest =
            |version: &str| format!(r#"{{"name":"echo","version":"{version}","module":"m","class":"C"}}"#);
        write(a.path(), "echo/plugin.json", &manifest("1.0.0"));
        write(a.path(), "broken.json", "{");
        write(a.path(), "notes.txt", "not a manifest");
        write(b.path(), "echo.json", &manifest("2.0.0"));
        let found = discover(&[a.path().into(), b.path().into(), "/nonexistent".into()]);
        assert_eq!(found.plugins.len(), 1);
        assert_eq!(found.plugins.values().next().unwrap().manifest.version, "1.0.0");
        assert_eq!(found.notices.len(), 3, "{:?}", found.notices);
        assert!(found.notices[0].contains("broken.json") && found.notices[1].contains("earlier folder"));
    }

    #[test]
    fn a_worker_sees_the_gpus_that_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = |name: &str, resources: &str| {
            format!(
                r#"{{"name":"{name}","module":"m","class":"C","env_vars":{{"CUDA_VISIBLE_DEVICES":"7"}}{resources}}}"#
            )
        };
        write(folder.path(), "asks.json", &manifest("asks", r#","resources":{"ram_mb":1}"#));
        write(folder.path(), "silent.json", &manifest("silent", ""));
        let found = discover(&[folder.path().into()]).plugins;
        let launch = Launch { command: vec!["x".into()], paths: vec![] };
        let seen = |name: &str, gpus: &[&str]| {
            let gpus: Vec<String> = gpus.iter().map(|gpu| (*gpu).to_owned()).collect();
            found[name].program(&launch, BTreeMap::new(), &gpus).env[VISIBLE_GPUS].clone()
        };
        assert_eq!(seen("asks", &["GPU-a", "GPU-b"]), "GPU-a,GPU-b");
        assert_eq!(seen("asks", &[]), "");
        assert_eq!(seen("silent", &["GPU-a"]), "GPU-a");
        assert_eq!(seen("silent", &[]), "7");
    }
}
