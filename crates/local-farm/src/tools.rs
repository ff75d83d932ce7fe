//! Owns: the programs that a farm needs and a machine may lack, nats-server and uv: finds a good one, else
//! installs the pinned one, once. Never uses one that is too old, and never installs outside the state folder.
//!
//! A tool is looked for in this order: the path in its variable (`GRANGE_NATS_SERVER`, `GRANGE_UV`), then
//! `<state>/tools/<name>-<version>/bin/<name>`, then `PATH`. These calls block; an async caller puts them on a
//! blocking thread.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::child::run_within;
use crate::install::{Order, install};
use crate::version::Version;

const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// Why there is no such tool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// The variable names something that will not do.
    #[error("`{variable}` is set to `{path}`, which {reason}; set it to another one or unset it")]
    Chosen {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
        /// What is wrong with the program.
        reason: String,
    },
    /// No installer of this machine could bring it.
    #[error(
        "cannot install `{tool}` {version}: install Python's pip (`apt install python3-pip`) and see that it \
         reaches its package index, or set `{variable}` to a `{tool}` of version {minimum} or newer; tried {attempts}"
    )]
    Install {
        /// The program.
        tool: &'static str,
        /// The version that was to be installed.
        version: String,
        /// The variable that may name another one.
        variable: &'static str,
        /// The oldest version that will do.
        minimum: String,
        /// What each installer said.
        attempts: String,
    },
    /// It was installed, and does not run.
    #[error("`{path}` was just installed but {reason}; remove its folder and try again")]
    Broken {
        /// The installed program.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder of the tools cannot be used.
    #[error("cannot use `{path}`: {source}")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A nats-server of version 2.15.1 or newer, found or installed into `state`. `report` is told, in words for
/// people, what takes time.
///
/// # Errors
/// [`ToolError`] when the chosen one will not do, or none is there and none can be installed.
pub fn nats_server(state: &Path, report: &dyn Fn(&str)) -> Result<PathBuf, ToolError> {
    let places = Places::of_this_process(state)?;
    find_or_install(&NATS_SERVER, &places, report)
}

/// A uv of version 0.8.0 or newer, found or installed into `state`. `report` is told, in words for people, what
/// takes time.
///
/// # Errors
/// [`ToolError`] when the chosen one will not do, or none is there and none can be installed.
pub fn uv(state: &Path, report: &dyn Fn(&str)) -> Result<PathBuf, ToolError> {
    let places = Places::of_this_process(state)?;
    find_or_install(&UV, &places, report)
}

struct Tool {
    name: &'static str,
    variable: &'static str,
    /// What is installed; its requirements say the same.
    pinned: Version,
    /// The oldest that is taken from elsewhere.
    minimum: Version,
    requirements: &'static str,
}

const NATS_SERVER: Tool = Tool {
    name: "nats-server",
    variable: "GRANGE_NATS_SERVER",
    pinned: Version(2, 15, 1),
    minimum: Version(2, 15, 1),
    requirements: include_str!("../requirements/nats-server.txt"),
};

/// 0.8.0 has all the options that Grange gives to uv.
const UV: Tool = Tool {
    name: "uv",
    variable: "GRANGE_UV",
    pinned: Version(0, 13, 9),
    minimum: Version(0, 8, 0),
    requirements: include_str!("../requirements/uv.txt"),
};

/// Where to look and install: read from the environment in one place, so that tests can say it otherwise.
struct Places {
    tools: PathBuf,
    /// The values of the tools' variables, where they are set.
    chosen: BTreeMap<&'static str, PathBuf>,
    search: Option<OsString>,
}

impl Places {
    fn of_this_process(state: &Path) -> Result<Self, ToolError> {
        let set =
            |variable| Some((variable, env::var_os(variable).filter(|value| !value.is_empty())?.into()));
        let chosen = [NATS_SERVER.variable, UV.variable].into_iter().filter_map(set).collect();
        Self::new(state, chosen, env::var_os("PATH"))
    }

    fn new(
        state: &Path,
        chosen: BTreeMap<&'static str, PathBuf>,
        search: Option<OsString>,
    ) -> Result<Self, ToolError> {
        let state = std::path::absolute(state).map_err(|source| folder_error(state, source))?;
        Ok(Self { tools: state.join("tools"), chosen, search })
    }

    fn installed(&self, tool: &Tool) -> PathBuf {
        self.tools.join(format!("{}-{}", tool.name, tool.pinned))
    }
}

fn find_or_install(tool: &Tool, places: &Places, report: &dyn Fn(&str)) -> Result<PathBuf, ToolError> {
    if let Some(found) = find(tool, places, report)? {
        return Ok(found);
    }
    fs::create_dir_all(&places.tools).map_err(|source| folder_error(&places.tools, source))?;
    let _only_one_installs = lock(&places.tools.join(format!("{}.lock", tool.name)), tool, report)?;
    let program = program_in(&places.installed(tool), tool);
    if check(&program, tool.pinned).is_ok() {
        return Ok(program);
    }
    install_pinned(tool, places, report)
}

fn find(tool: &Tool, places: &Places, report: &dyn Fn(&str)) -> Result<Option<PathBuf>, ToolError> {
    if let Some(path) = places.chosen.get(tool.variable) {
        return match check(path, tool.minimum) {
            Ok(()) => Ok(Some(path.clone())),
            Err(reason) => Err(ToolError::Chosen { variable: tool.variable, path: path.clone(), reason }),
        };
    }
    let installed = program_in(&places.installed(tool), tool);
    if installed.is_file() && check(&installed, tool.pinned).is_ok() {
        return Ok(Some(installed));
    }
    for folder in places.search.iter().flat_map(env::split_paths).filter(|folder| folder.is_absolute()) {
        let candidate = folder.join(tool.name);
        if !candidate.is_file() {
            continue;
        }
        match check(&candidate, tool.minimum) {
            Ok(()) => return Ok(Some(candidate)),
            Err(reason) => report(&format!("not using `{}`, which {reason}", candidate.display())),
        }
    }
    Ok(None)
}

/// Says what keeps the program from being used.
fn check(program: &Path, minimum: Version) -> Result<(), String> {
    let ended = run_within(Command::new(program).arg("--version"), VERSION_LIMIT)
        .map_err(|error| error.to_string())?;
    if !ended.status.success() {
        return Err(format!("fails when asked for its version ({}): {}", ended.status, ended.output));
    }
    match Version::find_in(&ended.output) {
        Some(version) if version >= minimum => Ok(()),
        Some(version) => Err(format!("is version {version}, older than {minimum}")),
        None => Err("does not tell its version".to_owned()),
    }
}

/// Built aside and renamed into place, so that a folder with the final name is always whole. Needs the lock.
fn install_pinned(tool: &Tool, places: &Places, report: &dyn Fn(&str)) -> Result<PathBuf, ToolError> {
    report(&format!("installing {} {} into {}", tool.name, tool.pinned, places.tools.display()));
    let staging = places.tools.join(format!(".staging-{}", tool.name));
    remove(&staging)?;
    fs::create_dir(&staging).map_err(|source| folder_error(&staging, source))?;
    // Only a faster installer here, so a bad one is no error.
    let uv = find(&UV, places, &|_| {}).ok().flatten();
    let order = Order { requirements: tool.requirements, staging: &staging, uv: uv.as_deref() };
    let package = match install(&order, report) {
        Ok(package) => package,
        Err(refusals) => {
            remove(&staging)?;
            return Err(install_error(tool, &refusals));
        }
    };
    let program = program_in(&package, tool);
    check(&program, tool.pinned).map_err(|reason| ToolError::Broken { path: program.clone(), reason })?;
    let place = places.installed(tool);
    remove(&place)?;
    fs::rename(&package, &place).map_err(|source| folder_error(&place, source))?;
    remove(&staging)?;
    Ok(program_in(&place, tool))
}

fn lock(path: &Path, tool: &Tool, report: &dyn Fn(&str)) -> Result<File, ToolError> {
    let file = File::create(path).map_err(|source| folder_error(path, source))?;
    if file.try_lock().is_err() {
        report(&format!("waiting for another process that installs {}", tool.name));
        file.lock().map_err(|source| folder_error(path, source))?;
    }
    Ok(file)
}

fn program_in(package: &Path, tool: &Tool) -> PathBuf {
    package.join("bin").join(tool.name)
}

fn remove(folder: &Path) -> Result<(), ToolError> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(folder_error(folder, source)),
    }
}

fn folder_error(path: &Path, source: io::Error) -> ToolError {
    ToolError::Folder { path: path.to_owned(), source }
}

fn install_error(tool: &Tool, refusals: &[String]) -> ToolError {
    ToolError::Install {
        tool: tool.name,
        version: tool.pinned.to_string(),
        variable: tool.variable,
        minimum: tool.minimum.to_string(),
        attempts: refusals.join("; "),
    }
}

#[cfg(test)]
mod tests;
