//! A farm of fakes around one dispatcher, and an onlooker who checks every step of its life against the laws.
//!
//! ```text
//!  choices ─► life ─► world (broker, records, workers) ─► Input ─► Dispatcher ─► Action ─► world
//!                       └─ machine (GPUs, memory)            └───────► ledger ◄──────┘
//!                                                                  (checks, seats)
//! ```

mod after;
mod checks;
mod estate;
mod farm;
mod ledger;
pub(crate) mod life;
mod looks;
mod machine;
mod notes;
mod pulls;
mod rooms;
mod seats;
mod shelf;
mod watch;
mod world;

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
    /// One pull per plugin beside standing ones; no lower queue before a higher one that may hold something and fits.
    PullOrder,
    /// A bell is answered by a pull of its queue as soon as there is room.
    Bells,
    /// Bells are heard as befits the room that there is, and passed on where there is none.
    Hearing,
    /// Asked once, and the worker is killed once, at the end of the grace.
    Stops,
    /// A worker that does not come up makes the next one wait, longer each time.
    Rests,
    /// Draining starts nothing, and ends in one exit.
    Drains,
    /// Late and unknown inputs do nothing.
    LateInputs,
    /// In a healthy farm every ticket that fits comes to its end.
    Liveness,
    /// Equal inputs give equal actions.
    Equality,
    /// What is given away, and what others use, is never more than there is.
    Booking,
    /// What the dispatcher shows is what it gave: granted and free are the whole.
    Accounts,
    /// A grant comes back when the memory is seen to be back; else the GPU is quarantined.
    Returning,
    /// Only idle workers leave, the least recently used first, no more than needed, and for a reason.
    Eviction,
    /// No owner has more than the cap.
    OwnerCap,
    /// One queue at a time is saved up for, and what is kept is kept.
    Saving,
    /// What can never be placed here is never pulled, or goes back.
    Unplaceable,
    /// Without a loaded worker, others that have one go first.
    Cold,
    /// A GPU that fails loses its workers, and their jobs are tried elsewhere.
    Faults,
    /// A worker that uses more than it was given is said once, or killed.
    Overruns,
    /// A tick is asked for when something is due, and never for the past.
    Wakes,
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
    if holds { Ok(()) } else { broken(law, said()) }
}

pub(crate) fn broken(law: Law, said: String) -> Checked {
    Err(Broken { law, said })
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

    /// One of these.
    pub(crate) fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.pick(choices.len())].clone()
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.pick(n) == n - 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used >= self.numbers.len()
    }
}
