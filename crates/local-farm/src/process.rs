//! Owns: one running server process, ours or found running, held by a pidfd so that no signal can reach a
//! stranger who got its number. Never starts one.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Child;
use tokio::time::timeout;

use crate::child::ends_within;
use crate::record::stat_fields;

/// A running process. Dropping it kills a child that was spawned with `kill_on_drop`, and leaves a found one alone.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    pid: u32,
    handle: OwnedFd,
    child: Option<Child>,
}

impl ServerProcess {
    /// Holds a child of this process.
    pub(crate) fn of_child(child: Child) -> io::Result<Self> {
        let pid = child.id().ok_or_else(|| io::Error::other("the process has been reaped"))?;
        Ok(Self { pid, handle: open(pid)?, child: Some(child) })
    }

    /// Holds a process that somebody else started. The caller makes sure, afterwards, that it is the right one.
    pub(crate) fn of_stranger(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, handle: open(pid)?, child: None })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn is_child(&self) -> bool {
        self.child.is_some()
    }

    /// Whether the signal reached a process that had not ended.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(source) => Err(source.into()),
        }
    }

    /// Whether all of its threads are stopped: the signal that stops them is not obeyed at once.
    pub(crate) fn is_stopped(&self) -> io::Result<bool> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            if stat_fields(&stat).and_then(|mut fields| fields.next()) != Some("T") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until it has ended, and reaps it if it is ours. False when it still runs at `limit`.
    pub(crate) async fn ended_within(&mut self, limit: Duration) -> io::Result<bool> {
        if let Some(child) = &mut self.child {
            return match timeout(limit, child.wait()).await {
                Ok(ended) => ended.map(|_| true),
                Err(_) => Ok(false),
            };
        }
        let handle = self.handle.try_clone()?;
        tokio::task::spawn_blocking(move || ends_within(&handle, limit)).await?
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| io::Error::other(format!("{pid} is no process number")))?;
    Ok(pidfd_open(number, PidfdFlags::empty())?)
}
