//! The control socket, read and written as lines of JSON.
//!
//! Owns the socket and the one descriptor that comes through it. Never acts on an order.

use super::{Order, Report};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Longest control line, bytes.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// The control socket.
pub(super) struct Orders {
    control: UnixStream,
    buffer: Vec<u8>,
    pub(super) link: Option<OwnedFd>,
}

impl Orders {
    pub(super) fn new(control: UnixStream) -> Self {
        Self { control, buffer: Vec::new(), link: None }
    }

    /// To wait for.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    pub(super) fn next_blocking(&mut self) -> std::io::Result<Option<Order>> {
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
    pub(super) fn receive(&mut self) -> std::io::Result<bool> {
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

    pub(super) fn take(&mut self) -> std::io::Result<Option<Order>> {
        let Some(end) = self.buffer.iter().position(|b| *b == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Tells the agent. An agent that is gone needs to know nothing.
    pub(super) fn report(&self, report: &Report) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        let _ = (&self.control).write_all(&line);
        Ok(())
    }
}
