//! A farm of fakes around one dispatcher, and a ledger that checks every step of its life against the laws.
//!
//! ```text
//!  choices ─► life ─► world (broker, records, workers) ─► Input ─► Dispatcher ─► Action ─► world
//!                                                           └───────► ledger ◄──────┘
//! ```

mod checks;
mod ledger;
pub(crate) mod life;
mod world;

use grange_protocol::name::{Class, JobId, Owner, PluginName};
use grange_protocol::subject::{JobKey, Lane};
use grange_protocol::ticket::Priority;
use std::fmt;

/// What always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    /// A worker has no more in hand than its slots; a job is with one worker; the oldest goes first; no slot idles.
    Placement,
    /// Every delivery is settled once and as it ended, and nothing about the job follows.
    SettledOnce,
    /// One claim, then its outcome, then one run.
    InOrder,
    /// Only workers that are there are named, only ready ones are given runs.
    KnownWorkers,
    /// What is asked for and what is held can all start; workers never outnumber the limit.
    Capacity,
    /// One pull per plugin beside standing ones, from the highest lane that may hold something.
    PullOrder,
    /// A bell is answered by a pull of its lane as soon as there is room.
    Bells,
    /// Asked once, and the worker is killed once, at the end of the grace.
    Stops,
    /// A worker that does not come up makes the next one wait, longer each time.
    Rests,
    /// Draining starts nothing, and ends in one exit.
    Drains,
    /// Late and unknown inputs do nothing.
    LateInputs,
    /// In a healthy farm every ticket comes to its end.
    Liveness,
    /// Equal inputs give equal actions.
    Equality,
}

/// A law that was broken, and how.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) law: Law,
    pub(crate) said: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.said)
    }
}

pub(crate) type Checked = Result<(), Broken>;

/// Holds, or is broken in these words.
pub(crate) fn law(law: Law, holds: bool, said: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Broken { law, said: said() }) }
}

/// Takes one decision after another from a list of numbers. Used up: always the first, mildest one.
#[derive(Clone)]
pub(crate) struct Choices {
    numbers: Vec<u16>,
    used: usize,
}

impl fmt::Debug for Choices {
    /// On one line, however it is asked for: a life is made of hundreds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.numbers)
    }
}

impl Choices {
    pub(crate) fn new(numbers: Vec<u16>) -> Self {
        Self { numbers, used: 0 }
    }

    /// One of `0..n`.
    pub(crate) fn pick(&mut self, n: usize) -> usize {
        let number = self.numbers.get(self.used).copied().unwrap_or_default();
        self.used += 1;
        usize::from(number) % n.max(1)
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.pick(n) == n - 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used >= self.numbers.len()
    }
}

pub(crate) fn plugin(name: &str) -> PluginName {
    PluginName::new(name).unwrap()
}

pub(crate) fn lanes(plugin: &PluginName) -> Vec<Lane> {
    let classes = || [Class::plugin_default(), Class::any()];
    let lane = |priority, class| Lane { priority, class, plugin: plugin.clone() };
    Priority::ALL.into_iter().flat_map(|p| classes().map(|c| lane(p, c))).collect()
}

pub(crate) fn key(n: usize) -> JobKey {
    JobKey { owner: Owner::new("alice").unwrap(), job: JobId::new(format!("j{n}")).unwrap() }
}
