//! Owns: running a short-lived program to its end, within a limit, and waiting for a process. Never leaves a
//! program that it started running.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How much of a program's output is kept: its end.
const KEPT_OUTPUT_BYTES: u64 = 4096;

/// How a program ended, and the end of what it wrote on stdout and stderr.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
}

/// Why a program could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    #[error("cannot be started: {0}")]
    Spawn(io::Error),
    #[error("did not end within {} s and was killed; its output ends: {output}", limit.as_secs())]
    TimedOut { limit: Duration, output: String },
    #[error("cannot be watched: {0}")]
    Watch(io::Error),
}

/// Runs `command` with no stdin; at `limit` it is killed.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<Ended, ChildError> {
    let mut sink = output_sink().map_err(ChildError::Watch)?;
    let stdout = sink.try_clone().map_err(ChildError::Watch)?;
    let stderr = sink.try_clone().map_err(ChildError::Watch)?;
    let mut child =
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().map_err(ChildError::Spawn)?;
    let in_time = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(io::Error::from)
        .and_then(|handle| ends_within(&handle, limit));
    if !matches!(in_time, Ok(true)) {
        child.kill().map_err(ChildError::Watch)?;
    }
    let status = child.wait().map_err(ChildError::Watch)?;
    let output = end_of(&mut sink).map_err(ChildError::Watch)?;
    match in_time {
        Ok(true) => Ok(Ended { status, output }),
        Ok(false) => Err(ChildError::TimedOut { limit, output }),
        Err(source) => Err(ChildError::Watch(source)),
    }
}

/// Memory to write to: a pipe would fill up while nobody reads it, a file would have to be removed.
fn output_sink() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("grange-child-output", MemfdFlags::CLOEXEC)?))
}

/// Blocks until the process of a pidfd has ended; false when it still runs at `limit`.
pub(crate) fn ends_within(handle: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(source) => return Err(source.into()),
        }
    }
}

fn end_of(sink: &mut File) -> io::Result<String> {
    let length = sink.metadata()?.len();
    sink.seek(SeekFrom::Start(length.saturating_sub(KEPT_OUTPUT_BYTES)))?;
    let mut bytes = Vec::new();
    sink.take(KEPT_OUTPUT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{ChildError, run_within};
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn output_and_status_are_told() {
        let ended = run_within(
            Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]),
            Duration::from_secs(10),
        )
        .unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!(ended.output, "one\ntwo");
    }

    #[test]
    fn only_the_end_of_much_output_is_kept() {
        let ended =
            run_within(Command::new("sh").args(["-c", "seq 1 100000; echo last"]), Duration::from_secs(10))
                .unwrap();
        assert!(ended.output.ends_with("last"));
        assert!(ended.output.len() <= 4096);
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_at_the_limit() {
        let started = Instant::now();
        let error = run_within(
            Command::new("sh").args(["-c", "echo waiting; exec sleep 60"]),
            Duration::from_millis(300),
        )
        .unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(20));
        let ChildError::TimedOut { output, .. } = error else { panic!("{error}") };
        assert_eq!(output, "waiting");
    }

    #[test]
    fn a_missing_program_is_named_as_such() {
        let error =
            run_within(&mut Command::new("/nonexistent/program"), Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, ChildError::Spawn(_)), "{error}");
    }
}
