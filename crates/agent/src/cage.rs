//! The control groups of one worker: made, limited, entered, emptied and removed.
//!
//! Owns the files of the kernel's groups (version 2, version 1, or both at once). Never decides when a worker ends, and
//! never touches a group that this agent did not make.

mod host;
mod mounts;

pub use host::{Isolation, IsolationError, MARK, Wanted};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Between two looks at a group that is to become empty, when the kernel does not say that it is, nanoseconds.
const LOOK_NS: i64 = 10_000_000;
/// How often a group that is empty is tried to be removed: the kernel may still be tidying it up.
const REMOVE_TRIES: u32 = 50;

/// The groups of one worker. Without any it has its process tree only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cage {
    /// Of version 2: killed and seen to be empty as a whole.
    pub unified: Option<PathBuf>,
    /// Where memory is limited.
    pub memory: Option<PathBuf>,
    /// Where the number of processes is limited.
    pub pids: Option<PathBuf>,
}

/// What a worker may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    /// Host memory of all its processes, MiB.
    pub memory_mb: Option<u64>,
    /// Its processes and threads at one time.
    pub processes: Option<u64>,
    /// Open files of one process.
    pub open_files: Option<u64>,
    /// What its scratch folder may hold, MiB.
    pub scratch_mb: Option<u64>,
}

impl Cage {
    /// Every folder, each once.
    pub fn folders(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = Vec::new();
        for folder in [&self.unified, &self.memory, &self.pids].into_iter().flatten() {
            if !all.contains(&folder.as_path()) {
                all.push(folder);
            }
        }
        all
    }

    /// Makes the groups and sets their limits. What was made is removed again when something goes wrong.
    pub fn make(&self, bounds: &Bounds) -> std::io::Result<()> {
        let made = self.try_make(bounds);
        if made.is_err() {
            self.remove();
        }
        made
    }

    fn try_make(&self, bounds: &Bounds) -> std::io::Result<()> {
        for folder in self.folders() {
            match std::fs::create_dir(folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(named(folder, &error)),
                _ => {}
            }
        }
        if let (Some(folder), Some(most)) = (&self.pids, bounds.processes) {
            write(&folder.join("pids.max"), &most.to_string())?;
        }
        let (Some(folder), Some(mb)) = (&self.memory, bounds.memory_mb) else { return Ok(()) };
        let bytes = mb.saturating_mul(1 << 20).to_string();
        if self.memory_is_unified() {
            write(&folder.join("memory.max"), &bytes)?;
            write(&folder.join("memory.oom.group"), "1")?;
            // Where there is no swap these two do not exist, and are not needed.
            let _ = std::fs::write(folder.join("memory.swap.max"), "0");
        } else {
            write(&folder.join("memory.limit_in_bytes"), &bytes)?;
            let _ = std::fs::write(folder.join("memory.memsw.limit_in_bytes"), &bytes);
        }
        Ok(())
    }

    /// Puts the calling process into every group.
    pub fn enter(folders: &[PathBuf]) -> std::io::Result<()> {
        folders.iter().try_for_each(|folder| write(&folder.join("cgroup.procs"), "0"))
    }

    fn memory_is_unified(&self) -> bool {
        self.memory.is_some() && self.memory == self.unified
    }

    /// Whether the kernel ends the whole group, and not one of its processes, when its memory is used up.
    pub fn ends_as_a_whole(&self) -> bool {
        self.memory_is_unified()
    }

    /// Sends SIGKILL to everything inside, at once where the kernel can.
    pub fn kill(&self) {
        if let Some(folder) = &self.unified
            && std::fs::write(folder.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.inside() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Everything inside; without the processes of groups below, which a worker may have made itself.
    pub fn inside(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for folder in self.folders() {
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
        }
        found
    }

    /// Whether nothing is inside any more. Groups that are not there are empty.
    pub fn is_empty(&self) -> bool {
        let populated = self.unified.as_ref().is_some_and(|folder| {
            let events = std::fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
            counter(&events, "populated") == Some(1)
        });
        !populated && self.inside().is_empty()
    }

    /// Kills until nothing is inside, then removes the groups.
    pub fn clear(&self) {
        while !self.is_empty() {
            self.kill();
            self.wait();
        }
        self.remove();
    }

    /// Waits until the kernel says that something changed, or for a moment.
    fn wait(&self) {
        let events = self.unified.as_ref().map(|folder| std::fs::File::open(folder.join("cgroup.events")));
        match events {
            Some(Ok(file)) => moment(&mut [PollFd::new(&file, PollFlags::PRI)]),
            _ => moment(&mut []),
        }
    }

    /// Removes the groups, and those that a worker made below.
    pub fn remove(&self) {
        for folder in self.folders() {
            if let Err(error) = remove(folder) {
                tracing::warn!(folder = %folder.display(), %error, "control group could not be removed");
            }
        }
    }

    /// Whether memory was used up: the kernel ended something inside.
    pub fn is_out_of_memory(&self) -> bool {
        let Some(folder) = &self.memory else { return false };
        let file = if self.memory_is_unified() { "memory.events" } else { "memory.oom_control" };
        let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        counter(&text, "oom_kill").is_some_and(|count| count > 0)
    }

    /// The most memory that was in use, MiB, rounded up.
    pub fn peak_mb(&self) -> Option<u64> {
        let file = if self.memory_is_unified() { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let text = std::fs::read_to_string(self.memory.as_ref()?.join(file)).ok()?;
        Some(text.trim().parse::<u64>().ok()?.div_ceil(1 << 20))
    }
}

fn moment(fds: &mut [PollFd<'_>]) {
    // Whether it is an event or the time that ended it, somebody looks again.
    let _ = poll(fds, Some(&Timespec { tv_sec: 0, tv_nsec: LOOK_NS }));
}

/// A figure of a file of `name figure` lines.
fn counter(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    std::fs::write(path, text).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("control group `{}`: {error}", path.display()))
}

fn remove(folder: &Path) -> std::io::Result<()> {
    for try_number in 0.. {
        let inner = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for below in inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            remove(&below.path())?;
        }
        match std::fs::remove_dir(folder) {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) if try_number == REMOVE_TRIES => return Err(error),
            Err(_) => moment(&mut []),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "oom 4\noom_kill 2\noom_group_kill 1\n";
        assert_eq!((counter(text, "oom_kill"), counter(text, "oom")), (Some(2), Some(4)));
        assert_eq!(counter("populated 0\n", "populated"), Some(0));
        assert_eq!(counter("", "oom_kill"), None);
    }

    #[test]
    fn one_folder_for_everything_is_one_folder() {
        let folder = || Some(PathBuf::from("/g/w"));
        let cage = Cage { unified: folder(), memory: folder(), pids: folder() };
        assert_eq!(cage.folders(), [Path::new("/g/w")]);
        let hybrid = Cage { memory: Some("/m/w".into()), ..cage };
        assert_eq!(hybrid.folders(), [Path::new("/g/w"), Path::new("/m/w")]);
    }

    #[test]
    fn without_groups_there_is_nothing_to_do() {
        let cage = Cage::default();
        cage.make(&Bounds { memory_mb: Some(1), processes: Some(1), ..Bounds::default() }).unwrap();
        cage.clear();
        assert!(cage.is_empty() && !cage.is_out_of_memory() && cage.peak_mb().is_none());
    }
}
