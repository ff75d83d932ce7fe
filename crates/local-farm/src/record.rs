//! Owns: `server.json`, which says in a server's folder which process serves it, so that a second starter
//! recognises it (nats-server itself does not lock its store). Never trusts a process number alone: it counts with
//! the boot and the start time of the process.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE: &str = "server.json";

/// The process that serves a folder, written as soon as it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerRecord {
    pub(crate) pid: u32,
    /// Clock ticks from boot to the start of the process.
    pub(crate) start_ticks: u64,
    pub(crate) boot_id: String,
}

impl ServerRecord {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let start_ticks =
            start_ticks(pid).ok_or_else(|| io::Error::other(format!("process {pid} is gone")))?;
        Ok(Self { pid, start_ticks, boot_id: boot_id()? })
    }

    /// The record of `folder`, if it has one that can be read.
    pub(crate) fn load(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }

    /// Writes it whole or not at all.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        let aside = folder.join(format!("{FILE}.new"));
        fs::write(&aside, serde_json::to_vec(self)?)?;
        fs::rename(aside, folder.join(FILE))
    }

    /// Whether that very process still runs.
    pub(crate) fn is_alive(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot_id) && start_ticks(self.pid) == Some(self.start_ticks)
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// None for a process that is gone or only waits to be reaped.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat_fields(&stat)?;
    let state = fields.next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(ticks)
}

/// The fields of a `stat` file of `/proc` from the state on: the program's name before it stands in brackets and
/// may itself contain any character.
pub(crate) fn stat_fields(stat: &str) -> Option<std::str::Split<'_, char>> {
    Some(stat.rsplit_once(") ")?.1.split(' '))
}

#[cfg(test)]
mod tests {
    use super::ServerRecord;

    fn of_this_process() -> ServerRecord {
        ServerRecord::of(std::process::id()).unwrap()
    }

    #[test]
    fn it_is_read_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ServerRecord::load(folder.path()), None);
        let record = of_this_process();
        record.save(folder.path()).unwrap();
        assert_eq!(ServerRecord::load(folder.path()), Some(record));
    }

    #[test]
    fn only_the_very_process_of_this_boot_is_alive() {
        let record = of_this_process();
        assert!(record.is_alive());
        assert!(!ServerRecord { start_ticks: record.start_ticks + 1, ..record.clone() }.is_alive());
        assert!(!ServerRecord { boot_id: "another".to_owned(), ..record.clone() }.is_alive());
        assert!(!ServerRecord { pid: u32::MAX, ..record }.is_alive());
    }

    #[test]
    fn a_process_that_waits_to_be_reaped_is_not_alive() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let record = ServerRecord::of(child.id()).unwrap();
        assert!(record.is_alive());
        child.kill().unwrap();
        // Its end of the pipe closes when it ends, and nobody has reaped it then.
        let mut stdin = child.stdin.take().unwrap();
        while std::io::Write::write_all(&mut stdin, b"x").is_ok() {}
        assert!(!record.is_alive());
        child.wait().unwrap();
    }
}
