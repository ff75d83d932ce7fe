//! Processes as the kernel lists them: who descends from whom, and who carries a mark in its environment.
//!
//! Owns reading `/proc`. Never decides who ends.

use rustix::event::{Timespec, poll};
use rustix::process::{Pid, Signal, getpid, kill_process};
use std::collections::BTreeMap;

/// Between two rounds.
const ROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// How often marked processes are looked for again: one may have started another while it was killed.
const ROUNDS: u32 = 100;

/// Every process id.
fn all() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Every process below this one, by the parent that each names.
pub fn descendants() -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all() {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![getpid().as_raw_nonzero().get()];
    while let Some(pid) = open.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            open.push(child);
            found.extend(Pid::from_raw(child));
        }
    }
    found
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields after it are plain.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Memory that these processes share with nobody, bytes.
pub fn own_bytes(pids: &[Pid]) -> u64 {
    let pages = |pid: &Pid| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", pid.as_raw_nonzero())).ok()?;
        let mut fields = text.split(' ').skip(1).map(str::parse::<u64>);
        let (resident, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
        Some(resident.saturating_sub(shared))
    };
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pids.iter().filter_map(pages).sum::<u64>() * page
}

/// Kills every process whose environment has a `name` that begins with `value`, until none is left. How many there were.
pub fn kill_marked(name: &str, value: &str) -> usize {
    let mut count = 0;
    for _ in 0..ROUNDS {
        let found = marked(name, value);
        if found.is_empty() {
            break;
        }
        count += found.len();
        for pid in found {
            let _ = kill_process(pid, Signal::KILL);
        }
        // No event says that somebody else's child is gone.
        let _ = poll(&mut [], Some(&ROUND));
    }
    count
}

/// Living processes whose environment, as they were started, has a `name` that begins with `value`.
pub fn marked(name: &str, value: &str) -> Vec<Pid> {
    let wanted = format!("{name}={value}");
    let has = |pid: &i32| {
        // A process that is gone, or only waits to be reaped, has no environment.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|entry| entry.starts_with(wanted.as_bytes()))
    };
    all().into_iter().filter(has).filter_map(Pid::from_raw).collect()
}

/// What a folder holds, bytes: of files that have no other name, what they take from the disk.
pub fn folder_bytes(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                open.push(entry.path());
            } else if found.nlink() == 1 {
                bytes += found.blocks() * 512;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn marked_processes_are_found_and_ended() {
        let value = uuid::Uuid::now_v7().to_string();
        let mut command = Command::new("setsid");
        command.args(["sleep", "600"]).env("GRANGE_TREE_TEST", format!("{value}/1"));
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let begun = std::time::Instant::now();
        while marked("GRANGE_TREE_TEST", &value).is_empty() {
            assert!(begun.elapsed().as_secs() < 60, "the process is never seen");
            std::thread::yield_now();
        }
        assert!(marked("GRANGE_TREE_TEST", "another").is_empty());
        assert!(kill_marked("GRANGE_TREE_TEST", &value) > 0);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn own_memory_is_some() {
        assert!(own_bytes(&[getpid()]) > 100_000);
    }

    #[test]
    fn a_folder_is_measured_with_what_is_below() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        std::fs::write(folder.path().join("in/a"), vec![1; 1 << 20]).unwrap();
        std::fs::write(folder.path().join("b"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(folder.path().join("b"), folder.path().join("c")).unwrap();
        let bytes = folder_bytes(folder.path());
        assert!((1 << 20..(1 << 20) + 65_536).contains(&bytes), "{bytes}");
    }
}
