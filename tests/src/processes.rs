//! Looking at processes from outside: who is there, who belongs to whom, how much memory they hold.

use crate::eventually::eventually;
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

/// Sends a signal. False: there is no such process.
pub fn signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(_, state)| state != 'Z')
}

/// Every living process below `pid`, itself left out.
pub fn descendants(pid: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| stat(pid).filter(|(_, state)| *state != 'Z').map(|(parent, _)| (pid, parent)))
        .collect();
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for (child, of) in &all {
            if *of == parent {
                found.push(*child);
                open.push(*child);
            }
        }
    }
    found
}

/// Those of `pids` whose program has this name.
pub fn named(pids: &[u32], name: &str) -> Vec<u32> {
    let comm = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids.iter().copied().filter(|pid| comm(*pid).trim_end() == name).collect()
}

/// Those of `pids` that are still there.
pub fn left(pids: &[u32]) -> Vec<u32> {
    pids.iter().copied().filter(|pid| is_alive(*pid)).collect()
}

/// Every living process whose environment has this mark of a worker.
pub fn marked(mark: &str) -> Vec<u32> {
    let wanted = format!("GRANGE_WORKER={mark}");
    let carries = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|entry| entry == wanted.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(carries).filter(|pid| is_alive(*pid)).collect()
}

/// Waits until all of `pids` are gone.
pub async fn all_gone(pids: &[u32], limit: Duration) {
    eventually("the processes are gone", limit, async || match left(pids) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?} of {pids:?} are left")),
    })
    .await;
}

/// Resident memory, bytes.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Parent and state.
fn stat(pid: u32) -> Option<(u32, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}
