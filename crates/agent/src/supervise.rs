//! The supervisor: the small process between an agent and one worker (`grange-agent supervise`).
//!
//! Owns the worker's process tree and the lease's deadline, and kills the tree at the deadline, when the agent is gone,
//! or when it is told to, also when the agent is frozen. Never speaks to the broker and never reads the worker's link.
//!
//! fd 0 is the control socket: lines of JSON, `Order`s in, `Report`s out. The first line carries the worker's end of
//! the link as an ancillary file descriptor. stdout and stderr are the worker's log pipes.

use crate::clock::boot_ns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, getppid, kill_process, kill_process_group, pidfd_open,
    set_child_subreaper, set_parent_process_death_signal, wait,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// What to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    /// The executable and its arguments.
    pub command: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where it runs.
    pub folder: PathBuf,
}

/// What an agent tells its supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// First: what to run.
    Start(Program),
    /// Kill the tree when the boot clock reaches this, in nanoseconds; None: no attempt is held.
    Deadline(Option<u64>),
    /// Ask the worker's group to end.
    Terminate,
    /// Kill the tree now.
    Kill,
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
    },
}

/// Longest control line, bytes.
const MAX_LINE_BYTES: usize = 1024 * 1024;

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
    let mut orders = Orders { control, buffer: Vec::new(), link: None };
    let Some(Order::Start(program)) = orders.next_blocking()? else {
        return Ok(());
    };
    let Some(link) = orders.link.take() else {
        return Err(std::io::Error::other("the first order carried no link"));
    };
    let child = match start(&program, link) {
        Ok(child) => child,
        Err(error) => {
            let text = format!("`{}` could not be started: {error}", program.command.join(" "));
            return orders.report(&Report::NotStarted(text));
        }
    };
    orders.report(&Report::Started(child.as_raw_nonzero().get()))?;
    let killed = watch(&mut orders, child)?;
    let (code, signal) = reap_tree(child)?;
    orders.report(&Report::Ended { code, signal, killed })
}

/// Starts the worker through `exec-worker`, which ties its life to ours before it becomes the worker.
fn start(program: &Program, link: OwnedFd) -> std::io::Result<Pid> {
    let child = Command::new("/proc/self/exe")
        .arg("exec-worker")
        .arg(getpid().as_raw_nonzero().to_string())
        .arg("--")
        .args(&program.command)
        .env_clear()
        .envs(&program.env)
        .current_dir(&program.folder)
        .process_group(0)
        .stdin(Stdio::from(link))
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| std::io::Error::other("the worker has no process id"))
}

/// `grange-agent exec-worker PARENT -- PROGRAM …`: dies with its supervisor, then becomes the program.
pub fn exec_worker(parent: i32, command: &[String]) -> ExitCode {
    let fail = |text: String| {
        let _ = writeln!(std::io::stderr(), "{text}");
        ExitCode::from(71)
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return fail(format!("the parent-death signal could not be set: {error}"));
    }
    if getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent) {
        return fail("the supervisor ended before its worker began".to_owned());
    }
    let Some((program, arguments)) = command.split_first() else {
        return fail("no program was given".to_owned());
    };
    let error = Command::new(program).args(arguments).exec();
    fail(format!("`{program}` could not be started: {error}"))
}

/// Waits for the worker's end. True: it was ended from here.
fn watch(orders: &mut Orders, child: Pid) -> std::io::Result<bool> {
    let exit = pidfd_open(child, PidfdFlags::empty())?;
    let mut deadline: Option<u64> = None;
    loop {
        let left = deadline.map(|at| at.saturating_sub(boot_ns()));
        if left == Some(0) {
            kill_tree(child);
            return Ok(true);
        }
        let timeout = left.map(|ns| Timespec {
            tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
        });
        let control = orders.control.as_fd();
        let mut fds = [PollFd::new(&control, PollFlags::IN), PollFd::new(&exit, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let (spoken, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if ended {
            return Ok(false);
        }
        if !spoken {
            continue;
        }
        if !orders.receive()? {
            kill_tree(child);
            return Ok(true);
        }
        while let Some(order) = orders.take()? {
            match order {
                Order::Deadline(at) => deadline = at,
                Order::Terminate => drop(kill_process_group(child, Signal::TERM)),
                Order::Kill => {
                    kill_tree(child);
                    return Ok(true);
                }
                Order::Start(_) => {}
            }
        }
    }
}

/// Kills the worker's group and every other descendant.
fn kill_tree(child: Pid) {
    let _ = kill_process_group(child, Signal::KILL);
    for pid in descendants() {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Ends and reaps everything that is left; what a dead process leaves behind becomes our child. The worker's status.
fn reap_tree(child: Pid) -> std::io::Result<(Option<i32>, Option<i32>)> {
    let mut status = (None, None);
    let mut worker_reaped = false;
    loop {
        if worker_reaped {
            kill_tree(child);
        }
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, ended))) if pid == child => {
                status = (ended.exit_status(), ended.terminating_signal());
                worker_reaped = true;
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(status),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Every process below this one, by the parent that each names.
fn descendants() -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
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

/// The control socket, read as lines.
struct Orders {
    control: UnixStream,
    buffer: Vec<u8>,
    link: Option<OwnedFd>,
}

impl Orders {
    fn next_blocking(&mut self) -> std::io::Result<Option<Order>> {
        loop {
            if let Some(order) = self.take()? {
                return Ok(Some(order));
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there. False: the agent is gone.
    fn receive(&mut self) -> std::io::Result<bool> {
        let mut bytes = [0; 16 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.control, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(false),
                Err(error) => return Err(error.into()),
                Ok(got) => break got.bytes,
            }
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.link = fds.last();
            }
        }
        if self.buffer.len() + got > MAX_LINE_BYTES {
            return Err(std::io::Error::other("an order exceeds the limit of 1 MiB"));
        }
        self.buffer.extend_from_slice(&bytes[..got]);
        Ok(got > 0)
    }

    fn take(&mut self) -> std::io::Result<Option<Order>> {
        let Some(end) = self.buffer.iter().position(|b| *b == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Tells the agent. An agent that is gone needs to know nothing.
    fn report(&self, report: &Report) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        let _ = (&self.control).write_all(&line);
        Ok(())
    }
}
