//! Waiting for a worker's end: by itself, by order, at the deadline, or because it used more than it may.
//!
//! Owns the deadline and the looks at what no control group bounds. Never reaps.

use super::orders::Orders;
use super::{Excess, Order, Program, Tree};
use crate::cage::Bounds;
use crate::clock::boot_ns;
use crate::planted::{self, Bug};
use crate::tree;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::path::PathBuf;

/// Between two looks at memory and processes, nanoseconds.
const LOOK_NS: u64 = 250_000_000;
/// Between two looks at the scratch folder, nanoseconds: one may have to read many folders.
const SCRATCH_NS: u64 = 1_000_000_000;
/// How long a worker that was asked to end may take, nanoseconds.
const TERMINATE_NS: u64 = 300_000_000;

/// What is waited for.
pub(super) struct Watch<'a> {
    tree: &'a Tree,
    bounds: Bounds,
    scratch: Option<PathBuf>,
    /// When the lease ends.
    deadline: Option<u64>,
    /// When it was asked to end, its patience ends.
    patience: Option<u64>,
    /// When the next look is due, and the next at the scratch folder.
    looks: (Option<u64>, Option<u64>),
    excess: Option<Excess>,
    peak_bytes: u64,
}

impl<'a> Watch<'a> {
    pub(super) fn new(tree: &'a Tree, program: &Program) -> Self {
        let (cage, bounds) = (&tree.cage, program.bounds);
        let by_look = (bounds.memory_mb.is_some() && !cage.ends_as_a_whole())
            || (bounds.processes.is_some() && cage.pids.is_none());
        let scratch = program.scratch.clone().filter(|_| bounds.scratch_mb.is_some());
        let looks = (by_look.then_some(0), scratch.is_some().then_some(0));
        Self { tree, bounds, scratch, deadline: None, patience: None, looks, excess: None, peak_bytes: 0 }
    }

    /// Of what it used too much.
    pub(super) fn excess(&self) -> Option<Excess> {
        self.excess
    }

    /// The most memory that was seen, MiB.
    pub(super) fn peak_mb(&self) -> Option<u64> {
        (self.peak_bytes > 0).then(|| self.peak_bytes.div_ceil(1 << 20))
    }

    /// Waits for the worker's end. True: it was ended from here.
    pub(super) fn until_end(&mut self, orders: &mut Orders) -> std::io::Result<bool> {
        let exit = pidfd_open(self.tree.child, PidfdFlags::empty())?;
        loop {
            let now = boot_ns();
            let over = [self.deadline, self.patience].into_iter().flatten().any(|at| at <= now);
            self.excess = self.look(now);
            if over || self.excess.is_some() {
                self.tree.kill();
                return Ok(true);
            }
            let timeout = self.timeout(now);
            let control = orders.socket();
            let mut fds = [PollFd::new(&control, PollFlags::IN), PollFd::new(&exit, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let (spoken, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if ended {
                return Ok(self.patience.is_some());
            }
            if spoken && !self.obey(orders)? {
                self.tree.kill();
                return Ok(true);
            }
        }
    }

    /// How long nothing is due.
    fn timeout(&self, now: u64) -> Option<Timespec> {
        let due = [self.deadline, self.patience, self.looks.0, self.looks.1];
        let left = due.into_iter().flatten().min()?.saturating_sub(now);
        Some(Timespec {
            tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(left % 1_000_000_000).unwrap_or(0),
        })
    }

    /// Takes orders. False: the tree is to be killed now.
    fn obey(&mut self, orders: &mut Orders) -> std::io::Result<bool> {
        if !orders.receive()? {
            return Ok(false);
        }
        while let Some(order) = orders.take()? {
            match order {
                Order::Deadline(at) => self.deadline = at.filter(|_| !planted::is(Bug::NoDeadline)),
                Order::Terminate if self.patience.is_none() => {
                    self.patience = Some(boot_ns() + TERMINATE_NS);
                    let _ = kill_process_group(self.tree.child, Signal::TERM);
                }
                Order::Kill => return Ok(false),
                Order::Terminate | Order::Start(_) => {}
            }
        }
        Ok(true)
    }

    /// Looks at what no group bounds, when it is due.
    fn look(&mut self, now: u64) -> Option<Excess> {
        if let (Some(folder), Some(most)) = (&self.scratch, self.bounds.scratch_mb)
            && self.looks.1.is_some_and(|due| due <= now)
        {
            self.looks.1 = Some(now + SCRATCH_NS);
            if tree::folder_bytes(folder) > most << 20 {
                return Some(Excess::Scratch);
            }
        }
        if self.looks.0.is_none_or(|due| due > now) {
            return None;
        }
        self.looks.0 = Some(now + LOOK_NS);
        let cage = &self.tree.cage;
        if cage.is_out_of_memory() {
            return Some(Excess::Memory);
        }
        if cage.memory.is_some() && cage.pids.is_some() {
            return None;
        }
        let below = tree::descendants();
        self.peak_bytes = self.peak_bytes.max(tree::own_bytes(&below));
        let over = |most: Option<u64>, used: u64| most.is_some_and(|most| used > most);
        let memory = self.bounds.memory_mb.map(|mb| mb << 20).filter(|_| cage.memory.is_none());
        let processes = self.bounds.processes.filter(|_| cage.pids.is_none());
        if over(memory, self.peak_bytes) {
            return Some(Excess::Memory);
        }
        over(processes, below.len() as u64).then_some(Excess::Processes)
    }
}
