//! What this host can isolate, found out by trying once, and what dead lives of this agent left behind.
//!
//! Owns the groups' common parents and the mark by which processes are known as this agent's. A parent's name holds a
//! word that only this state folder has, so that nothing of others is ever touched.

use super::mounts::{Own, own};
use super::{Bounds, Cage};
use crate::tree;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The environment variable that marks a worker and what it starts.
pub const MARK: &str = "GRANGE_WORKER";
/// The file of the word that only this state folder has.
const HOME_FILE: &str = "isolation-home";
/// The file that lists the parents of the groups of this life.
const PARENTS_FILE: &str = "isolation-groups";

/// How workers are to be kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// By control groups where they can be had.
    #[default]
    Auto,
    /// By control groups, or not at all.
    Cgroup,
    /// By their process trees, also where there are control groups.
    Process,
}

/// Why workers cannot be kept apart as it is wanted.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// No control groups.
    #[error(
        "`isolation.level` is \"cgroup\", but control groups cannot be used: {0}; give the agent a group of its own \
         (systemd: Delegate=yes), or say \"auto\""
    )]
    NoGroups(String),
    /// The state folder.
    #[error("`{path}` cannot be used")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// How this agent's workers are kept apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// The parents of the workers' groups.
    parents: Cage,
    /// What marks its processes.
    home: String,
    /// What its operator should know.
    pub notices: Vec<String>,
}

impl Isolation {
    /// Ends what dead lives left behind, then finds out what the host can do. Blocks.
    pub fn open(state: &Path, wanted: Wanted) -> Result<Self, IsolationError> {
        let home = home(state)?;
        let parents_file = state.join(PARENTS_FILE);
        sweep(&parents_file, &home);
        let (parents, trouble) = match wanted {
            Wanted::Process => (Cage::default(), None),
            Wanted::Auto | Wanted::Cgroup => match find(&home) {
                Ok(parents) => (parents, None),
                Err(why) if wanted == Wanted::Cgroup => return Err(IsolationError::NoGroups(why)),
                Err(why) => (Cage::default(), Some(why)),
            },
        };
        let list: Vec<String> = parents.folders().iter().map(|path| path.display().to_string()).collect();
        std::fs::write(&parents_file, list.join("\n"))
            .map_err(|source| IsolationError::Io { path: parents_file, source })?;
        let mut isolation = Self { parents, home, notices: Vec::new() };
        isolation.notices = isolation.missing(wanted, trouble);
        Ok(isolation)
    }

    /// The level's word: `cgroup-v2`, `cgroup-hybrid`, `cgroup-v1` or `process`.
    pub fn level(&self) -> &'static str {
        let Cage { unified, memory, pids } = &self.parents;
        let old = |place: &Option<PathBuf>| place.is_some() && place != unified;
        match (unified.is_some(), old(memory) || old(pids)) {
            (true, false) => "cgroup-v2",
            (true, true) => "cgroup-hybrid",
            (false, true) => "cgroup-v1",
            (false, false) => "process",
        }
    }

    fn missing(&self, wanted: Wanted, trouble: Option<String>) -> Vec<String> {
        if wanted == Wanted::Process {
            return Vec::new();
        }
        if let Some(why) = trouble {
            return vec![format!(
                "workers are kept apart by their process trees only, and their memory is looked at but not bounded: \
                 no control groups: {why}"
            )];
        }
        let lacks = [("memory", &self.parents.memory), ("number of processes", &self.parents.pids)];
        let lacks = lacks.into_iter().filter(|(_, place)| place.is_none());
        lacks
            .map(|(what, _)| {
                format!("the {what} of workers is looked at, but not bounded by a control group")
            })
            .collect()
    }

    /// The groups of one worker of this life.
    pub fn cage(&self, worker: &str) -> Cage {
        let inside = |parent: &Option<PathBuf>| parent.as_ref().map(|parent| parent.join(worker));
        let Cage { unified, memory, pids } = &self.parents;
        Cage { unified: inside(unified), memory: inside(memory), pids: inside(pids) }
    }

    /// What marks one worker and what it starts, as `GRANGE_WORKER`.
    pub fn mark(&self, worker: &str) -> String {
        format!("{}/{worker}", self.home)
    }

    /// Removes the parents: this life ends, and its workers are gone.
    pub fn close(&self) {
        for parent in self.parents.folders() {
            // One that is not empty is swept by the next life.
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// The word that only this state folder has.
fn home(state: &Path) -> Result<String, IsolationError> {
    let path = state.join(HOME_FILE);
    if let Ok(word) = std::fs::read_to_string(&path)
        && word.len() == 16
        && word.bytes().all(|b| b.is_ascii_hexdigit())
    {
        return Ok(word);
    }
    let word = uuid::Uuid::now_v7().simple().to_string()[16..].to_owned();
    match std::fs::write(&path, &word) {
        Ok(()) => Ok(word),
        Err(source) => Err(IsolationError::Io { path, source }),
    }
}

/// Ends and removes what is left of dead lives: their groups, and processes outside of them by their mark.
fn sweep(parents_file: &Path, home: &str) {
    let list = std::fs::read_to_string(parents_file).unwrap_or_default();
    let ours = |parent: &&Path| parent.file_name().is_some_and(|name| name == parent_name(home).as_str());
    for parent in list.lines().map(Path::new).filter(ours) {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            tracing::warn!(group = %entry.path().display(), "a group of the last life is emptied and removed");
            let place = Some(entry.path());
            let is_unified = entry.path().join("cgroup.kill").exists();
            let cage = Cage {
                unified: place.clone().filter(|_| is_unified),
                pids: place.filter(|_| !is_unified),
                memory: None,
            };
            cage.clear();
        }
    }
    let left = tree::kill_marked(MARK, &format!("{home}/"));
    if left > 0 {
        tracing::warn!(left, "processes of the last life were killed");
    }
}

fn parent_name(home: &str) -> String {
    format!("grange-{home}")
}

/// Makes the parents of the groups and tries one group out. What does not work is left out; nothing at all: why.
fn find(home: &str) -> Result<Cage, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("`{path}`: {error}"));
    let Own { unified, memory, pids } = own(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
    let mut why = "this host has none".to_owned();
    let mut parent = |own: Option<PathBuf>| {
        let place = own?.join(parent_name(home));
        match std::fs::create_dir(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                why = format!("`{}`: {error}", place.display());
                None
            }
            _ => Some(place),
        }
    };
    let mut parents = Cage { unified: parent(unified), memory: parent(memory), pids: parent(pids) };
    if let Some(place) = parents.unified.clone() {
        let has = enable(&place);
        let or_unified = |old: Option<PathBuf>, name: &str| match old {
            None if has.contains(&name) => Some(place.clone()),
            old => old,
        };
        parents.memory = or_unified(parents.memory.take(), "memory");
        parents.pids = or_unified(parents.pids.take(), "pids");
    }
    if parents.folders().is_empty() {
        return Err(why);
    }
    let inside = |parent: &Option<PathBuf>| parent.as_ref().map(|parent| parent.join("trial"));
    let trial = Cage {
        unified: inside(&parents.unified),
        memory: inside(&parents.memory),
        pids: inside(&parents.pids),
    };
    let tried = try_out(&trial);
    trial.clear();
    if let Err(error) = tried {
        parents.remove();
        return Err(error.to_string());
    }
    Ok(parents)
}

/// Has the controllers of version 2 reach the groups below `parent`. Those that do.
fn enable(parent: &Path) -> Vec<&'static str> {
    let Some(own) = parent.parent() else { return Vec::new() };
    let there = std::fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    let mut enabled = Vec::new();
    for name in ["memory", "pids"] {
        if !there.split_whitespace().any(|one| one == name) {
            continue;
        }
        let give = |place: &Path| std::fs::write(place.join("cgroup.subtree_control"), format!("+{name}"));
        // A group with processes gives nothing on: the agent goes one below.
        let given = give(own).is_ok() || (step_aside(parent).is_ok() && give(own).is_ok());
        if given && give(parent).is_ok() {
            enabled.push(name);
        }
    }
    enabled
}

fn step_aside(parent: &Path) -> std::io::Result<()> {
    let aside = parent.with_file_name(format!("{}-agent", parent.file_name().unwrap_or_default().display()));
    let _ = std::fs::create_dir(&aside);
    std::fs::write(aside.join("cgroup.procs"), std::process::id().to_string())
}

/// Puts a process into a group with limits, and kills it there.
fn try_out(trial: &Cage) -> std::io::Result<()> {
    trial.make(&Bounds { memory_mb: Some(256), processes: Some(16), ..Bounds::default() })?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("exec-worker").arg(std::process::id().to_string());
    for folder in trial.folders() {
        command.arg("--cgroup").arg(folder);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let tried = entered(trial, &mut child);
    trial.kill();
    drop(child.stdin.take());
    let _ = child.wait();
    tried
}

fn entered(trial: &Cage, child: &mut Child) -> std::io::Result<()> {
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let inside = trial.inside().iter().filter(|one| one.as_raw_nonzero().get() == pid).count();
    if inside == trial.folders().len() {
        return Ok(());
    }
    Err(std::io::Error::other("a process could not be put into a group of its own"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_words() {
        let level = |unified: Option<&str>, memory: Option<&str>| {
            let place = |at: Option<&str>| at.map(PathBuf::from);
            let parents = Cage { unified: place(unified), memory: place(memory), pids: None };
            Isolation { parents, ..Isolation::default() }.level()
        };
        assert_eq!(level(Some("/u"), Some("/u")), "cgroup-v2");
        assert_eq!(level(Some("/u"), Some("/m")), "cgroup-hybrid");
        assert_eq!(level(None, Some("/m")), "cgroup-v1");
        assert_eq!(level(None, None), "process");
    }

    #[test]
    fn a_state_folder_keeps_its_word() {
        let folder = tempfile::tempdir().unwrap();
        let word = home(folder.path()).unwrap();
        assert_eq!(home(folder.path()).unwrap(), word);
        std::fs::write(folder.path().join(HOME_FILE), "../../etc").unwrap();
        assert_ne!(home(folder.path()).unwrap(), "../../etc");
    }

    #[test]
    fn groups_of_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("grange-0123456789abcdef").join("w1");
        std::fs::create_dir_all(&theirs).unwrap();
        let list = folder.path().join(PARENTS_FILE);
        std::fs::write(&list, theirs.parent().unwrap().display().to_string()).unwrap();
        sweep(&list, "ffffffffffffffff");
        assert!(theirs.is_dir());
        sweep(&list, "0123456789abcdef");
        assert!(!theirs.exists());
    }
}
