//! What the house wants of the looking thread. Neither ever waits for the other.

use grange_dispatch::WorkerId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the host is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// And while something runs or is expected back.
const CLOSELY: Duration = Duration::from_millis(250);
/// Shortest time between the end of one look and the start of the next, however much is wanted: looking costs the host.
const LEAST: Duration = Duration::from_millis(50);
/// Most GPUs whose other try waits; more means every one.
const RETRIES: usize = 256;

/// What the next look is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// Whose processes are whose.
    pub(super) supervisors: BTreeMap<WorkerId, u32>,
    /// GPUs that get another try; None in it: every one.
    pub(super) retry: Option<BTreeSet<Option<String>>>,
    /// How often `retry` was called so far.
    pub(super) retries: u64,
}

#[derive(Default)]
struct Wanted {
    supervisors: BTreeMap<WorkerId, u32>,
    closely: bool,
    at_once: bool,
    retry: BTreeSet<Option<String>>,
    retries: u64,
    leaving: bool,
    /// When the last look began.
    last: Option<Instant>,
}

impl Wanted {
    /// How long until the next look; zero: now.
    fn due_in(&self) -> Duration {
        let every = if self.closely { CLOSELY } else { EVERY };
        match self.last {
            Some(last) if !self.at_once => every.saturating_sub(last.elapsed()),
            _ => Duration::ZERO,
        }
    }
}

/// The board between the two.
#[derive(Default)]
pub(super) struct Wishes {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

impl Wishes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn watch(&self, supervisors: BTreeMap<WorkerId, u32>, closely: bool) {
        self.change(|wanted| (wanted.supervisors, wanted.closely) = (supervisors, closely));
    }

    pub(super) fn look(&self) {
        self.change(|wanted| wanted.at_once = true);
    }

    /// Answers how often it was called so far.
    pub(super) fn retry(&self, device: Option<&str>) -> u64 {
        self.change(|wanted| {
            let device = device.filter(|_| wanted.retry.len() < RETRIES);
            wanted.retry.insert(device.map(str::to_owned));
            wanted.retries += 1;
            wanted.at_once = true;
            wanted.retries
        })
    }

    pub(super) fn leave(&self) {
        self.change(|wanted| wanted.leaving = true);
    }

    /// Waits until a look is due. None: nobody wants any.
    pub(super) fn next(&self) -> Option<Wish> {
        let mut wanted = self.lock();
        // Who asks for the next look has ended the last one.
        let ended = wanted.last.map(|_| Instant::now());
        loop {
            if wanted.leaving {
                return None;
            }
            let pause = ended.map_or(Duration::ZERO, |ended| LEAST.saturating_sub(ended.elapsed()));
            let due_in = wanted.due_in().max(pause);
            if due_in.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(wanted, due_in);
            wanted = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        wanted.at_once = false;
        wanted.last = Some(Instant::now());
        let retry = std::mem::take(&mut wanted.retry);
        let retry = (!retry.is_empty()).then_some(retry);
        Some(Wish { supervisors: wanted.supervisors.clone(), retry, retries: wanted.retries })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Wanted) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_one();
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_wishes_before_a_look_make_one() {
        let wishes = Wishes::new();
        assert_eq!(wishes.next(), Some(Wish::default()), "the first look is due at once");
        wishes.watch(BTreeMap::from([(WorkerId(1), 10)]), true);
        wishes.look();
        wishes.look();
        assert_eq!((wishes.retry(Some("a")), wishes.retry(None)), (1, 2));
        let wish = wishes.next().unwrap();
        assert_eq!(wish.retries, 2);
        assert_eq!(wish.supervisors[&WorkerId(1)], 10);
        assert_eq!(wish.retry, Some(BTreeSet::from([None, Some("a".to_owned())])));
        let begun = Instant::now();
        let later = wishes.next().unwrap();
        assert_eq!((later.retry, later.retries), (None, 2));
        assert!(begun.elapsed() >= CLOSELY / 2, "nothing else was wanted: it waits for its turn");
    }

    #[test]
    fn looking_closely_shortens_a_wait_that_has_begun_and_leaving_ends_it() {
        let wishes = Wishes::new();
        wishes.next();
        std::thread::scope(|scope| {
            let begun = Instant::now();
            let waits = scope.spawn(|| wishes.next());
            wishes.watch(BTreeMap::new(), true);
            assert!(waits.join().unwrap().is_some());
            assert!(begun.elapsed() < EVERY);
            let waits = scope.spawn(|| wishes.next());
            wishes.leave();
            assert_eq!(waits.join().unwrap(), None);
        });
    }

    #[test]
    fn looks_that_are_wanted_at_once_leave_a_pause_after_the_last_one() {
        let wishes = Wishes::new();
        wishes.look();
        wishes.next();
        for _ in 0..3 {
            wishes.look();
            let ended = Instant::now();
            assert!(wishes.next().is_some());
            assert!((LEAST..EVERY).contains(&ended.elapsed()), "{:?}", ended.elapsed());
        }
    }

    #[test]
    fn retries_are_bounded() {
        let wishes = Wishes::new();
        for number in 0..10 * RETRIES {
            wishes.retry(Some(&number.to_string()));
        }
        let retry = wishes.next().unwrap().retry.unwrap();
        assert!(retry.len() <= RETRIES + 1 && retry.contains(&None));
    }
}
