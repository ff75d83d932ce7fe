//! The agent of a farm of one: found, started, started again, ended.

use super::server::tool;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::words::Level;
use grange_local_farm::tools;
use grange_protocol::manifest::{Manifest, Runtime};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const NAME: &str = "grange-agent";
/// A log larger than this is put aside at the next start.
const LOG_BYTES: u64 = 32 << 20;
/// The end of the log that an error shows.
const SHOWN_BYTES: u64 = 600;
/// An agent that ends so often in so long will not get better.
const ENDS: usize = 5;
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Settings of the environment that are meant for another farm.
const FOREIGN: [&str; 7] = [
    "GRANGE_BROKER",
    "GRANGE_BROKER_USER",
    "GRANGE_BROKER_PASSWORD",
    "GRANGE_BROKER_TOKEN",
    "GRANGE_BROKER_CREDS",
    "GRANGE_OBJECTS",
    "GRANGE_STATE",
];

/// How the agent is started.
pub(super) struct Plan {
    pub(super) program: PathBuf,
    pub(super) shim: Vec<OsString>,
    pub(super) broker: String,
    pub(super) state: PathBuf,
    pub(super) objects: String,
    pub(super) plugins: Vec<PathBuf>,
    pub(super) uv: Option<PathBuf>,
    pub(super) log: PathBuf,
}

/// The running agent. Killed when dropped; its workers end with it.
pub(super) struct Agent {
    plan: Plan,
    child: Child,
    /// How long the log was when the child was started.
    log_start: u64,
    ends: Vec<Instant>,
}

/// Absolute paths of folders that are there.
pub(super) fn plugin_folders(given: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let absolute = |path: &PathBuf| match path.canonicalize() {
        Ok(folder) if folder.is_dir() => Ok(folder),
        Ok(_) => Err(Failure::usage(format!("`--plugins {}` is not a folder", path.display()))),
        Err(error) => Err(Failure::usage(format!("`--plugins {}` cannot be used: {error}", path.display()))),
    };
    given.iter().map(absolute).collect()
}

/// The program: as given, else beside this one, else on the path.
pub(super) fn find(flag: Option<&Path>, context: &Context) -> Result<PathBuf, Failure> {
    let given =
        flag.map(Path::to_owned).or_else(|| context.environment.get("GRANGE_AGENT").map(PathBuf::from));
    if let Some(path) = given.filter(|path| !path.as_os_str().is_empty()) {
        return path
            .canonicalize()
            .map_err(|e| Failure::usage(format!("agent `{}` cannot be used: {e}", path.display())));
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(NAME));
    let path = context.environment.get("PATH").map(String::as_str).unwrap_or_default();
    let on_path = std::env::split_paths(path).map(|folder| folder.join(NAME));
    beside.into_iter().chain(on_path).find(|path| path.is_file()).ok_or_else(|| {
        Failure::new(Exit::Other, format!("`{NAME}` is neither beside `grange` nor on the PATH"))
            .hint("build it (`cargo build --bins`), or give its path with --agent or GRANGE_AGENT")
    })
}

/// `uv`, where a plugin has an environment that must be built.
pub(super) async fn uv(
    folders: &[PathBuf],
    context: &Context,
    output: &mut dyn Output,
) -> Result<Option<PathBuf>, Failure> {
    let from_environment = context.environment.get("GRANGE_PLUGINS").filter(|_| folders.is_empty());
    let more: Vec<PathBuf> = from_environment.iter().flat_map(|paths| std::env::split_paths(paths)).collect();
    if !folders.iter().chain(&more).any(|folder| needs_environment(folder)) {
        return Ok(None);
    }
    match tool(tools::uv, context, output).await {
        Ok(path) => Ok(Some(path)),
        Err(failure) => {
            let text = format!("plugins with environments cannot be prepared: {}", failure.text);
            output.say(Level::Warning, &text)?;
            Ok(None)
        }
    }
}

/// Whether a manifest of the folder asks for an environment. What cannot be read is the agent's to report.
fn needs_environment(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.filter_map(Result::ok).any(|entry| {
        let path = entry.path();
        let path = if path.is_dir() { path.join("plugin.json") } else { path };
        let is_manifest = path.extension().is_some_and(|extension| extension == "json");
        let text = if is_manifest { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
        Manifest::read(&text).is_ok_and(|manifest| matches!(manifest.runtime(), Runtime::Environment(_)))
    })
}

impl Agent {
    pub(super) fn start(plan: Plan) -> Result<Self, Failure> {
        let (child, log_start) = spawn(&plan)?;
        Ok(Self { plan, child, log_start, ends: Vec::new() })
    }

    pub(super) fn start_again(&mut self) -> Result<(), Failure> {
        (self.child, self.log_start) = spawn(&self.plan)?;
        Ok(())
    }

    /// Waits for its end, and says how it ended.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("it cannot be watched: {error}"),
        }
    }

    /// An error when it is no use to start it again.
    pub(super) fn check_end(&mut self, how: &str, was_up: bool) -> Result<(), Failure> {
        let now = Instant::now();
        self.ends.retain(|end| now - *end < ENDS_WITHIN);
        self.ends.push(now);
        if was_up && self.ends.len() < ENDS {
            return Ok(());
        }
        let said = end_of(&self.plan.log, self.log_start).unwrap_or_default();
        let said = if said.is_empty() { "nothing" } else { &said };
        let text = format!("the agent ended ({how}); it said: {said}");
        Err(Failure::new(Exit::Other, text).hint(format!("its log: {}", self.plan.log.display())))
    }

    pub(super) fn tell_to_end(&self) {
        self.signal(Signal::TERM);
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        // Its number cannot be another's: it is reaped only by `ended`.
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::debug!(%error, "agent was not signalled");
        }
    }
}

/// Starts it, and says how long its log was then.
fn spawn(plan: &Plan) -> Result<(Child, u64), Failure> {
    let log = open_log(&plan.log)
        .map_err(|e| Failure::system(format!("the agent's log `{}`", plan.log.display()), &e))?;
    let log_start = log.0.metadata().map_or(0, |log| log.len());
    let mut command = Command::new(&plan.shim[0]);
    command
        .args(&plan.shim[1..])
        .arg(&plan.program)
        .args(["--broker", &plan.broker, "--objects", &plan.objects])
        .arg("--state")
        .arg(&plan.state)
        .stdin(Stdio::null())
        .stdout(log.0)
        .stderr(log.1)
        .kill_on_drop(true);
    for folder in &plan.plugins {
        command.arg("--plugins").arg(folder);
    }
    for name in FOREIGN {
        command.env_remove(name);
    }
    if let Some(uv) = &plan.uv {
        command.env("GRANGE_UV", uv);
    }
    let child = command.spawn().map_err(|e| {
        Failure::system(format!("`{}` cannot be started", Path::new(&plan.shim[0]).display()), &e)
    })?;
    Ok((child, log_start))
}

fn open_log(path: &Path) -> io::Result<(File, File)> {
    if path.metadata().is_ok_and(|log| log.len() > LOG_BYTES) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    Ok((log.try_clone()?, log))
}

/// The end of what the log has after `start`, in one line.
fn end_of(path: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = start.max(length.saturating_sub(SHOWN_BYTES));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole: Vec<&str> = text.lines().skip(usize::from(from > start)).map(str::trim).collect();
    Ok(whole.join(" | "))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plugins_with_environments_need_uv() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = |name: &str, text: &str| {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("plugin.json"), text).unwrap();
        };
        plugin("plain", r#"{"name":"plain","module":"m","class":"C"}"#);
        plugin("broken", "{");
        assert!(!needs_environment(folder.path()));
        plugin("env", r#"{"name":"env","module":"m","class":"C","environment":{"requirements":["x"]}}"#);
        assert!(needs_environment(folder.path()));
        assert!(!needs_environment(Path::new("/nonexistent")));
    }

    #[test]
    fn folders_that_are_not_there_are_named() {
        let said = |path: &str| plugin_folders(&[path.into()]).unwrap_err().text;
        assert!(said("/nonexistent").contains("`--plugins /nonexistent` cannot be used: No such file"));
        assert!(said("/etc/passwd").contains("is not a folder"));
    }

    #[test]
    fn the_end_of_a_log_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "a\nb\n").unwrap();
        assert_eq!(end_of(&path, 0).unwrap(), "a | b");
        assert_eq!(end_of(&path, 2).unwrap(), "b");
        assert_eq!(end_of(&path, 4).unwrap(), "");
        std::fs::write(&path, "x".repeat(1000) + "\nlast\n").unwrap();
        assert_eq!(end_of(&path, 0).unwrap(), "last");
    }
}
