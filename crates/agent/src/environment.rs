//! Python environments, built with `uv`: named by the hash of what goes in, built aside, renamed into place, kept.
//!
//! Plugins with equal needs share one. A build that was cut off leaves a folder that the next one sweeps.

use crate::logs::{Tail, drain};
use crate::process::{Started, next_report, start};
use crate::supervise::{Program, Report};
use grange_protocol::manifest::EnvironmentSpec;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the layout; another one makes another key.
const LAYOUT: &str = "1";
/// Bytes of a tool's output that an error shows.
const OUTPUT_BYTES: usize = 2 * 1024;

/// Why an environment cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// `uv` is not there.
    #[error("`uv` is not on this host; install it, or give its path as `uv` in the agent's configuration")]
    NoUv,
    /// A tool said no.
    #[error("`{command}` failed: {output}")]
    Tool {
        /// What was run.
        command: String,
        /// The end of what it said.
        output: String,
    },
    /// It took too long.
    #[error(
        "`{command}` did not end within {seconds} s; raise `limits.environment_build_s` if it needs more"
    )]
    TimedOut {
        /// What was run.
        command: String,
        /// The limit.
        seconds: u64,
    },
    /// The disk said no.
    #[error("environment folder `{path}` cannot be used")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

/// Builds environments.
#[derive(Clone, Debug)]
pub struct Environments {
    /// Where they lie.
    pub folder: PathBuf,
    /// The tool.
    pub uv: Option<PathBuf>,
    /// Longest build.
    pub limit: Duration,
    /// The tool's environment: the agent's own, with its indexes and proxies.
    pub environment: BTreeMap<String, String>,
}

impl Environments {
    /// The interpreter of the environment that the spec asks for; built when it is not there.
    pub async fn prepare(&self, spec: &EnvironmentSpec) -> Result<PathBuf, EnvironmentError> {
        let key = key_of(spec);
        let ready = self.folder.join(&key);
        let interpreter = ready.join("bin").join("python");
        if ready.join(".ready").exists() && interpreter.exists() {
            return Ok(interpreter);
        }
        let io = |source| EnvironmentError::Io { path: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(io)?;
        let _turn = self.take_turn(&key).await?;
        if ready.join(".ready").exists() && interpreter.exists() {
            return Ok(interpreter);
        }
        let aside = self.folder.join(format!("{key}.building"));
        for stale in [&aside, &ready] {
            if stale.exists() {
                std::fs::remove_dir_all(stale).map_err(io)?;
            }
        }
        self.build(spec, &aside).await?;
        std::fs::write(aside.join("key.json"), serde_json::to_vec_pretty(spec).unwrap_or_default())
            .map_err(io)?;
        std::fs::write(aside.join(".ready"), "").map_err(io)?;
        std::fs::rename(&aside, &ready).map_err(io)?;
        Ok(interpreter)
    }

    /// One build of a key at a time on a host, also between agents that share the folder.
    async fn take_turn(&self, key: &str) -> Result<std::fs::File, EnvironmentError> {
        let path = self.folder.join(format!("{key}.lock"));
        let taken = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::create(&path)?;
            file.lock()?;
            Ok::<_, std::io::Error>(file)
        });
        let io = |source| EnvironmentError::Io { path: self.folder.clone(), source };
        tokio::time::timeout(self.limit, taken)
            .await
            .map_err(|_| EnvironmentError::TimedOut {
                command: format!("lock of {key}"),
                seconds: self.limit.as_secs(),
            })?
            .map_err(|e| io(std::io::Error::other(e)))?
            .map_err(io)
    }

    async fn build(&self, spec: &EnvironmentSpec, aside: &Path) -> Result<(), EnvironmentError> {
        let uv = self.uv.as_ref().ok_or(EnvironmentError::NoUv)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut venv = vec![text(uv), "venv".to_owned(), "--quiet".to_owned(), "--relocatable".to_owned()];
        if !spec.python.is_empty() {
            venv.extend(["--python".to_owned(), spec.python.clone()]);
        }
        venv.push(text(aside));
        self.run(venv).await?;
        if spec.requirements.is_empty() {
            return Ok(());
        }
        let io = |source| EnvironmentError::Io { path: aside.to_owned(), source };
        let requirements = aside.join("requirements.txt");
        std::fs::write(&requirements, spec.requirements.join("\n")).map_err(io)?;
        let mut install: Vec<String> =
            [&text(uv), "pip", "install", "--quiet", "--python"].map(str::to_owned).to_vec();
        install.push(text(&aside.join("bin").join("python")));
        if !spec.overrides.is_empty() {
            let overrides = aside.join("overrides.txt");
            std::fs::write(&overrides, spec.overrides.join("\n")).map_err(io)?;
            install.extend(["--override".to_owned(), text(&overrides)]);
        }
        install.extend(["--requirement".to_owned(), text(&requirements)]);
        self.run(install).await
    }

    /// Runs a tool under a supervisor, as a worker is: whatever it starts ends with this agent, or at the limit.
    async fn run(&self, command: Vec<String>) -> Result<(), EnvironmentError> {
        let shown = command.join(" ");
        let (env, folder) = (self.environment.clone(), self.folder.clone());
        let program = Program { command, env, folder, ..Program::default() };
        let failed = |output: String| EnvironmentError::Tool { command: shown.clone(), output };
        let started = start("uv", program).map_err(|e| failed(crate::causes::chain(&e)))?;
        let Started { mut supervisor, orders, mut reports, link, stdout, stderr, .. } = started;
        drop(link);
        let tail = Tail::default();
        let work = async {
            let mut last = None;
            let reading = async {
                while let Some(report) = next_report(&mut reports).await {
                    last = Some(report);
                }
            };
            let lines = drain(stderr, OUTPUT_BYTES, |line| tail.push(line));
            tokio::join!(reading, lines, drain(stdout, OUTPUT_BYTES, |_| {}));
            let _ = supervisor.wait().await;
            last
        };
        let ended = tokio::time::timeout(self.limit, work).await;
        // The supervisor kills what is left when its orders end.
        drop(orders);
        let seconds = self.limit.as_secs();
        match ended.map_err(|_| EnvironmentError::TimedOut { command: shown.clone(), seconds })? {
            Some(Report::Ended { code: Some(0), .. }) => Ok(()),
            Some(report) => {
                let said = tail.text();
                Err(failed(if said.is_empty() { crate::journal::describe(&report) } else { said }))
            }
            None => Err(failed("its supervisor ended without a word".to_owned())),
        }
    }
}

/// Names an environment by all that goes in.
fn key_of(spec: &EnvironmentSpec) -> String {
    let mut hash = Sha256::new();
    for part in [LAYOUT, std::env::consts::ARCH, std::env::consts::OS, &spec.python] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for list in [&spec.requirements, &spec.overrides] {
        for line in list {
            hash.update(line.as_bytes());
            hash.update(b"\n");
        }
        hash.update([0]);
    }
    hex::encode(hash.finalize())[..24].to_owned()
}

/// Finds `uv`: as configured, in the state folder's tools, or on the path.
pub fn find_uv(configured: Option<&Path>, state: &Path, path: Option<&str>) -> Option<PathBuf> {
    if let Some(uv) = configured {
        return Some(uv.to_owned());
    }
    let mut folders = vec![state.join("tools").join("bin")];
    folders.extend(std::env::split_paths(path.unwrap_or_default()));
    folders.into_iter().map(|folder| folder.join("uv")).find(|uv| uv.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_needs_share_a_key() {
        let spec = |requirements: &[&str]| EnvironmentSpec {
            python: "3.11".into(),
            requirements: requirements.iter().map(|r| (*r).to_owned()).collect(),
            overrides: Vec::new(),
        };
        assert_eq!(key_of(&spec(&["a", "b"])), key_of(&spec(&["a", "b"])));
        assert_ne!(key_of(&spec(&["a", "b"])), key_of(&spec(&["ab"])));
        let mut other = spec(&["a"]);
        other.overrides.push("b".into());
        assert_ne!(key_of(&other), key_of(&spec(&["a", "b"])));
    }
}
