//! What is there besides records: processes of this run, locks, folders, how much the agents hold.
//!
//! Owns looking from outside, at the end and on the way. Never ends anything.

use crate::history::{Fact, History};
use crate::site::{CANARY, Site};
use grange_tests::processes::rss_bytes;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What an agent may hold: memory, descriptors, threads.
const RSS_MAX_MB: u64 = 256;
const FDS_MAX: u64 = 400;
const THREADS_MAX: u64 = 64;

/// Notes what the agents hold.
pub fn gauge(site: &Site, history: &History) {
    for host in &site.hosts {
        let Some(pid) = host.agent.as_ref().map(grange_tests::Agent::pid) else { continue };
        let count = |what: &str| {
            std::fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, |entries| entries.count() as u64)
        };
        let note = |what: &str, value, limit| {
            history.note(Fact::Gauge { name: format!("{what} of {}", host.name), value, limit });
        };
        note("memory in MiB", rss_bytes(pid).unwrap_or(0) >> 20, RSS_MAX_MB);
        note("open files", count("fd"), FDS_MAX);
        note("threads", count("task"), THREADS_MAX);
    }
}

/// Locks of jobs that somebody still holds.
pub fn locks(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("locks")).into_iter().flatten().flatten();
    let taken = entries.filter(|entry| {
        let file = File::open(entry.path());
        file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
    });
    taken.map(|entry| format!("lock {}", entry.file_name().to_string_lossy())).collect()
}

/// Processes with the run's mark in their environment.
pub fn processes(folder: &Path) -> Vec<String> {
    let mark = folder.as_os_str().as_encoded_bytes().to_vec();
    let me = std::process::id();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found = Vec::new();
    for pid in pids.filter(|pid| *pid != me) {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let environment = read("environ");
        if environment.windows(mark.len()).any(|part| part == mark) {
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            found.push(format!("process {pid}: {}", line.trim_end()));
        }
    }
    found
}

/// Runs' scratch folders that are still there.
pub fn scratch(site: &Site) -> Vec<String> {
    let mut found = Vec::new();
    for host in &site.hosts {
        let runs = std::fs::read_dir(host.state().join("scratch")).into_iter().flatten().flatten();
        found.extend(runs.map(|entry| format!("folder {}", entry.path().display())));
    }
    found
}

/// Files of the agents in which the secret stands.
pub fn secrets(site: &Site) -> Vec<String> {
    let mut open: Vec<PathBuf> = site.hosts.iter().map(|host| host.state().to_owned()).collect();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| entry.path()).filter(|path| !path.is_symlink()));
        } else {
            let text = std::fs::read(&path).unwrap_or_default();
            if text.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}
