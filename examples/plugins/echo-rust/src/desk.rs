//! What waits, what executes, and how much of it may be sent: shared by the reader and the executor.
//!
//! Owns: the queue of runs, the cancel mark and the window of the one that executes. Never: IO.

use crate::frames::Run;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The meeting point of both threads.
pub(crate) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
    window: u64,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    current: Option<Current>,
    received: u64,
    closed: bool,
}

struct Waiting {
    run: Run,
    /// It could not begin at once, so its beginning is told.
    waited: bool,
}

struct Current {
    number: u64,
    cancelled: bool,
    /// Chunks that may be sent in all.
    allowed: u64,
}

/// What became of a cancel.
pub(crate) enum Cancel {
    Asked,
    Dropped,
    Unknown,
}

/// How many runs there are.
pub(crate) struct Counts {
    pub(crate) received: u64,
    pub(crate) active: usize,
    pub(crate) unfinished: usize,
}

/// The run was asked to stop.
pub(crate) struct Cancelled;

impl Desk {
    pub(crate) fn new(window: u64) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), window }
    }

    // === the reader ===

    pub(crate) fn submit(&self, run: Run) {
        let mut state = self.lock();
        let waited = state.current.is_some() || !state.waiting.is_empty();
        state.received += 1;
        state.waiting.push_back(Waiting { run, waited });
        self.changed.notify_all();
    }

    pub(crate) fn credit(&self, number: u64, chunks: u64) {
        let mut state = self.lock();
        if let Some(current) = state.current.as_mut().filter(|current| current.number == number) {
            current.allowed = current.allowed.saturating_add(chunks);
            self.changed.notify_all();
        }
    }

    pub(crate) fn cancel(&self, number: u64) -> Cancel {
        let mut state = self.lock();
        if let Some(current) = state.current.as_mut().filter(|current| current.number == number) {
            current.cancelled = true;
            self.changed.notify_all();
            return Cancel::Asked;
        }
        let before = state.waiting.len();
        state.waiting.retain(|waiting| waiting.run.number != number);
        if state.waiting.len() < before { Cancel::Dropped } else { Cancel::Unknown }
    }

    /// Lets the executor end after what is here.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.lock();
        let active = usize::from(state.current.is_some());
        Counts { received: state.received, active, unfinished: active + state.waiting.len() }
    }

    // === the executor ===

    /// Waits for the next run and whether it had to wait; None when the desk is closed and empty.
    pub(crate) fn next(&self) -> Option<(Run, bool)> {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| state.waiting.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        let Waiting { run, waited } = state.waiting.pop_front()?;
        state.current = Some(Current { number: run.number, cancelled: false, allowed: self.window });
        Some((run, waited))
    }

    /// Takes the executing run away, before its end is sent; says whether it was asked to stop.
    pub(crate) fn end(&self) -> bool {
        self.lock().current.take().is_some_and(|current| current.cancelled)
    }

    /// Waits until one more chunk than `sent` may be sent; says how long that took.
    pub(crate) fn room(&self, sent: u64) -> Result<Duration, Cancelled> {
        let begun = Instant::now();
        let state = self
            .changed
            .wait_while(self.lock(), |state| {
                state.current.as_ref().is_some_and(|current| !current.cancelled && current.allowed <= sent)
            })
            .unwrap_or_else(PoisonError::into_inner);
        stopped(&state).map_or_else(|| Ok(begun.elapsed()), Err)
    }

    /// Waits for a time, or until the run is asked to stop.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), Cancelled> {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), time, |state| stopped(state).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        stopped(&state).map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped(state: &State) -> Option<Cancelled> {
    state.current.as_ref().is_some_and(|current| current.cancelled).then_some(Cancelled)
}
