//! The supervisor: the small process between an agent and one worker (`grange-agent supervise`).
//!
//! Owns the worker's process tree and control groups, the lease's deadline and the worker's bounds, and kills the tree
//! at the deadline, over a bound, when the agent is gone, or when it is told to, also when the agent is frozen. Never
//! speaks to the broker and never reads the worker's link.
//!
//! fd 0 is the control socket: lines of JSON, `Order`s in, `Report`s out. The first line carries the worker's end of
//! the link as an ancillary file descriptor. stdout and stderr are the worker's log pipes.

mod begin;
mod orders;
mod watch;

pub use begin::{Entrance, exec_worker};

use crate::cage::{Bounds, Cage};
use crate::planted::{self, Bug};
use crate::tree;
use orders::Orders;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, wait,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Program {
    /// The executable and its arguments.
    pub command: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// Its control groups.
    #[serde(default)]
    pub cage: Cage,
    /// What it may use.
    #[serde(default)]
    pub bounds: Bounds,
    /// The folder that `bounds.scratch_mb` is about.
    #[serde(default)]
    pub scratch: Option<PathBuf>,
}

/// What an agent tells its supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// First: what to run.
    Start(Box<Program>),
    /// Kill the tree when the boot clock reaches this, in nanoseconds; None: no attempt is held.
    Deadline(Option<u64>),
    /// Ask the worker's group to end, and kill the tree when it has not within 0.3 s.
    Terminate,
    /// Kill the tree now.
    Kill,
}

/// Of what a worker used more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Excess {
    /// Host memory.
    Memory,
    /// Processes.
    Processes,
    /// Its scratch folder.
    Scratch,
}

/// What a supervisor tells its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The worker's process.
    Started(i32),
    /// It could not be started.
    NotStarted(String),
    /// It ended, and so has everything that it started.
    Ended {
        /// Its exit status.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// The supervisor ended it: deadline, order, or a lost agent.
        killed: bool,
        /// It was ended because it used more than it may, by the supervisor or by the kernel.
        #[serde(default)]
        excess: Option<Excess>,
        /// The most host memory that was seen in use, MiB.
        #[serde(default)]
        peak_ram_mb: Option<u64>,
    },
}

/// Runs one supervisor to its end.
pub fn run() -> ExitCode {
    match supervise() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "grange supervisor: {error}");
            ExitCode::from(70)
        }
    }
}

fn supervise() -> std::io::Result<()> {
    let control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    set_child_subreaper(Some(getpid()))?;
    // A worker's group may be signalled from a terminal; its supervisor is in a group of its own.
    let _ = rustix::process::setpgid(None, None);
    let mut orders = Orders::new(control);
    let Some(Order::Start(program)) = orders.next_blocking()? else {
        return Ok(());
    };
    let Some(link) = orders.link.take() else {
        return Err(std::io::Error::other("the first order carried no link"));
    };
    let started = program.cage.make(&program.bounds).and_then(|()| begin::start(&program, link));
    let child = match started {
        Ok(child) => child,
        Err(error) => {
            program.cage.clear();
            let text = format!("`{}` could not be started: {error}", program.command.join(" "));
            return orders.report(&Report::NotStarted(text));
        }
    };
    orders.report(&Report::Started(child.as_raw_nonzero().get()))?;
    let tree = Tree { child, cage: program.cage.clone() };
    let mut watch = watch::Watch::new(&tree, &program);
    let watched = watch.until_end(&mut orders);
    if watched.is_err() {
        tree.kill();
    }
    let (code, signal) = tree.reap()?;
    let killed = watched?;
    let excess = watch.excess().or_else(|| tree.cage.is_out_of_memory().then_some(Excess::Memory));
    let peak_ram_mb = tree.cage.peak_mb().or(watch.peak_mb());
    tree.cage.clear();
    orders.report(&Report::Ended { code, signal, killed, excess, peak_ram_mb })
}

/// A worker with everything that it started.
struct Tree {
    child: Pid,
    cage: Cage,
}

impl Tree {
    /// Kills the control group, the worker's process group and every other descendant.
    fn kill(&self) {
        if planted::is(Bug::KillOnlyWorker) {
            let _ = kill_process(self.child, Signal::KILL);
            return;
        }
        self.cage.kill();
        let _ = kill_process_group(self.child, Signal::KILL);
        for pid in tree::descendants() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Ends and reaps everything that is left; what a dead process leaves behind becomes our child. The worker's status.
    fn reap(&self) -> std::io::Result<(Option<i32>, Option<i32>)> {
        let mut status = (None, None);
        let mut worker_reaped = false;
        loop {
            if worker_reaped {
                if planted::is(Bug::KillOnlyWorker) {
                    return Ok(status);
                }
                self.kill();
            }
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, ended))) if pid == self.child => {
                    status = (ended.exit_status(), ended.terminating_signal());
                    worker_reaped = true;
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(status),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
