//! Starting a worker under its supervisor, and the handle to both.
//!
//! Owns the two socket pairs (control and link) and the log pipes. Never decides when a worker ends.

use crate::supervise::{Order, Program, Report};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The operating system said no.
    #[error("supervisor of `{plugin}` could not be started")]
    Io {
        /// Which plugin.
        plugin: String,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

/// A worker that was started, with its supervisor.
#[derive(Debug)]
pub struct Started {
    /// The supervisor.
    pub supervisor: Child,
    /// Its process id.
    pub supervisor_pid: u32,
    /// Orders go in here.
    pub orders: OrderWriter,
    /// Reports come from here.
    pub reports: Lines<BufReader<OwnedReadHalf>>,
    /// The worker's link.
    pub link: UnixStream,
    /// What it prints.
    pub stdout: ChildStdout,
    /// What it complains.
    pub stderr: ChildStderr,
}

/// Sends orders to a supervisor.
#[derive(Debug)]
pub struct OrderWriter(OwnedWriteHalf);

impl OrderWriter {
    /// Sends one order. A supervisor that is gone is seen by its end, not here.
    pub async fn send(&mut self, order: &Order) {
        let mut line = serde_json::to_vec(order).expect("an order is always JSON");
        line.push(b'\n');
        let _ = self.0.write_all(&line).await;
    }
}

/// Starts `program` under a supervisor.
pub fn start(plugin: &str, program: Program) -> Result<Started, SpawnError> {
    try_start(program).map_err(|source| SpawnError::Io { plugin: plugin.to_owned(), source })
}

fn try_start(program: Program) -> std::io::Result<Started> {
    let (control, control_far) = std::os::unix::net::UnixStream::pair()?;
    let (link, link_far) = std::os::unix::net::UnixStream::pair()?;
    let mut supervisor = Command::new("/proc/self/exe")
        .arg("supervise")
        .stdin(Stdio::from(OwnedFd::from(control_far)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    first_order(&control, &program, link_far.as_fd())?;
    drop(link_far);
    let missing = || std::io::Error::other("the supervisor has no pipes");
    let (stdout, stderr) = (supervisor.stdout.take(), supervisor.stderr.take());
    let supervisor_pid = supervisor.id().ok_or_else(missing)?;
    let (reports, orders) = to_tokio(control)?.into_split();
    Ok(Started {
        supervisor_pid,
        supervisor,
        orders: OrderWriter(orders),
        reports: BufReader::new(reports).lines(),
        link: to_tokio(link)?,
        stdout: stdout.ok_or_else(missing)?,
        stderr: stderr.ok_or_else(missing)?,
    })
}

fn to_tokio(stream: std::os::unix::net::UnixStream) -> std::io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// The first order, with the worker's end of the link beside it.
fn first_order(
    control: &std::os::unix::net::UnixStream,
    program: &Program,
    link: std::os::fd::BorrowedFd<'_>,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(&Order::Start(Box::new(program.clone())))?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [link];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(control, &[IoSlice::new(&line)], &mut ancillary, SendFlags::empty())?;
    std::io::Write::write_all(&mut &*control, &line[sent..])
}

/// Reads the next report. None: the supervisor is gone.
pub async fn next_report(reports: &mut Lines<BufReader<OwnedReadHalf>>) -> Option<Report> {
    let line = reports.next_line().await.ok()??;
    serde_json::from_str(&line).ok()
}

/// When a process began, in the kernel's ticks; tells a process from a later one with the same id.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}
