//! Which process is whose, and so who uses a GPU. Pure.

use super::processes::Process;
use grange_dispatch::{Time, WorkerId};
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;
/// A process that ended is remembered for so long, milliseconds: NVML may list it a while.
const REMEMBERED_MS: Time = 600_000;
/// Most processes that are remembered; the oldest go first.
const REMEMBERED: usize = 16_384;
/// Longest line of ancestors that is followed.
const GENERATIONS: usize = 64;

/// The processes of the workers that live.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Forest {
    trees: BTreeMap<u32, (WorkerId, u64)>,
    rss: BTreeMap<WorkerId, u64>,
}

impl Forest {
    /// The descendants of every supervisor.
    pub(super) fn grow(processes: &BTreeMap<u32, Process>, supervisors: &BTreeMap<WorkerId, u32>) -> Self {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (pid, process) in processes {
            children.entry(process.parent).or_default().push(*pid);
        }
        let mut forest = Self::default();
        for (worker, supervisor) in supervisors {
            let rss = forest.rss.entry(*worker).or_default();
            let mut open = vec![*supervisor];
            while let Some(pid) = open.pop() {
                let Some(process) = processes.get(&pid) else { continue };
                if forest.trees.insert(pid, (*worker, process.began)).is_some() {
                    continue;
                }
                if pid != *supervisor {
                    *rss = rss.saturating_add(process.rss_bytes);
                }
                open.extend(children.get(&pid).into_iter().flatten());
            }
        }
        forest
    }

    /// Whose a process is. One that came after the forest was grown is found by its ancestors.
    pub(super) fn worker(&self, pid: u32, look_up: &impl Fn(u32) -> Option<Process>) -> Option<WorkerId> {
        let mut at = pid;
        for _ in 0..GENERATIONS {
            if let Some((worker, _)) = self.trees.get(&at) {
                return Some(*worker);
            }
            at = look_up(at)?.parent;
        }
        None
    }

    /// Host memory of a worker's processes, the supervisor left out, MiB.
    pub(super) fn ram_mb(&self, worker: WorkerId) -> u64 {
        self.rss.get(&worker).copied().unwrap_or(0).div_ceil(MIB)
    }
}

/// Processes that were in a worker's tree once.
#[derive(Debug, Default)]
pub(super) struct Ours {
    seen: BTreeMap<(u32, u64), Time>,
}

impl Ours {
    /// Remembers the processes of a forest, and forgets what was long ago.
    pub(super) fn note(&mut self, forest: &Forest, now: Time) {
        for (pid, (_, began)) in &forest.trees {
            self.seen.insert((*pid, *began), now);
        }
        self.seen.retain(|_, seen| now.saturating_sub(*seen) <= REMEMBERED_MS);
        while self.seen.len() > REMEMBERED {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| **seen).map(|(process, _)| *process);
            let Some(oldest) = oldest else { return };
            self.seen.remove(&oldest);
        }
    }

    /// Whether a process was ours. `now` is the process that has this id now, if there is one.
    fn knows(&self, pid: u32, now: Option<Process>) -> bool {
        match now {
            Some(process) => self.seen.contains_key(&(pid, process.began)),
            None => self.seen.range((pid, 0)..=(pid, u64::MAX)).next().is_some(),
        }
    }
}

/// Whose a process on a GPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A worker's.
    Worker(WorkerId),
    /// It was a worker's.
    Leftover,
    /// Somebody else's.
    Foreign,
}

/// Finds out.
pub(super) fn owner(
    pid: u32,
    forest: &Forest,
    ours: &Ours,
    look_up: &impl Fn(u32) -> Option<Process>,
) -> Owner {
    match forest.worker(pid, look_up) {
        Some(worker) => Owner::Worker(worker),
        None if ours.knows(pid, look_up(pid)) => Owner::Leftover,
        None => Owner::Foreign,
    }
}

/// Who uses the memory of one GPU, MiB.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// Others.
    pub(super) foreign_mb: u64,
    /// Nobody who lives.
    pub(super) leftover_mb: u64,
    /// Workers.
    pub(super) workers: BTreeMap<WorkerId, u64>,
}

/// Divides the memory in use among those who use it. Parts of a MiB count as whole ones, and what the processes have
/// together may be more than is in use: then less is left over, and foreign use is cut to what is in use.
pub(super) fn split(used_mb: u64, listed: &[(u32, u64)], owner: impl Fn(u32) -> Owner) -> Split {
    let (mut foreign, mut workers) = (0_u64, BTreeMap::<WorkerId, u64>::new());
    for (pid, bytes) in listed {
        match owner(*pid) {
            Owner::Worker(worker) => {
                let sum = workers.entry(worker).or_default();
                *sum = sum.saturating_add(*bytes);
            }
            Owner::Foreign => foreign = foreign.saturating_add(*bytes),
            Owner::Leftover => {}
        }
    }
    let workers: BTreeMap<_, _> =
        workers.into_iter().map(|(worker, bytes)| (worker, bytes.div_ceil(MIB))).collect();
    let foreign_mb = foreign.div_ceil(MIB).min(used_mb);
    let ours = workers.values().fold(0_u64, |sum, mb| sum.saturating_add(*mb));
    Split { foreign_mb, leftover_mb: (used_mb - foreign_mb).saturating_sub(ours), workers }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn processes(of: &[(u32, u32, u64)]) -> BTreeMap<u32, Process> {
        of.iter()
            .map(|(pid, parent, began)| (*pid, Process { parent: *parent, began: *began, rss_bytes: MIB }))
            .collect()
    }

    fn supervisors(of: &[(u64, u32)]) -> BTreeMap<WorkerId, u32> {
        of.iter().map(|(worker, pid)| (WorkerId(*worker), *pid)).collect()
    }

    #[test]
    fn descendants_are_the_workers_and_others_are_not() {
        let host = processes(&[
            (1, 0, 0),
            (10, 1, 1),
            (11, 10, 2),
            (12, 11, 3),
            (20, 1, 4),
            (21, 20, 5),
            (30, 1, 6),
        ]);
        let forest = Forest::grow(&host, &supervisors(&[(1, 10), (2, 20), (3, 99)]));
        let none = |_| None;
        let of = |pid| forest.worker(pid, &none).map(|worker| worker.0);
        assert_eq!([10, 11, 12, 21, 30, 1].map(of), [Some(1), Some(1), Some(1), Some(2), None, None]);
        assert_eq!([1, 2, 3].map(|worker| forest.ram_mb(WorkerId(worker))), [2, 1, 0]);
    }

    #[test]
    fn a_process_that_came_after_the_walk_is_found_by_its_ancestors() {
        let forest = Forest::grow(&processes(&[(10, 1, 1), (11, 10, 2)]), &supervisors(&[(1, 10)]));
        let later = processes(&[(1, 0, 0), (50, 51, 9), (51, 11, 8), (60, 1, 9), (70, 70, 9)]);
        let look_up = |pid: u32| later.get(&pid).copied();
        assert_eq!(forest.worker(50, &look_up), Some(WorkerId(1)));
        assert_eq!(forest.worker(60, &look_up), None);
        assert_eq!(forest.worker(70, &look_up), None, "a circle ends");
    }

    #[test]
    fn what_was_ours_is_left_over_until_its_id_belongs_to_another() {
        let host = processes(&[(10, 1, 1), (11, 10, 2), (12, 10, 3)]);
        let forest = Forest::grow(&host, &supervisors(&[(1, 10)]));
        let mut ours = Ours::default();
        ours.note(&forest, 1_000);
        let (bare, none) = (Forest::default(), |_| None);
        assert_eq!(owner(11, &forest, &ours, &none), Owner::Worker(WorkerId(1)));
        assert_eq!(owner(11, &bare, &ours, &none), Owner::Leftover, "it is gone");
        let now = processes(&[(11, 1, 2), (12, 1, 77)]);
        let look_up = |pid: u32| now.get(&pid).copied();
        assert_eq!(owner(11, &bare, &ours, &look_up), Owner::Leftover, "it escaped");
        assert_eq!(owner(12, &bare, &ours, &look_up), Owner::Foreign, "another process has its id");
        assert_eq!(owner(99, &bare, &ours, &look_up), Owner::Foreign, "never seen");
        ours.note(&bare, 1_000 + REMEMBERED_MS + 1);
        assert_eq!(owner(11, &bare, &ours, &none), Owner::Foreign, "long ago");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let mut ours = Ours::default();
        let tree = |pid: u32| Forest::grow(&processes(&[(pid, 1, 0)]), &supervisors(&[(1, pid)]));
        ours.note(&tree(1), 1);
        let many: Vec<_> = (2..=u32::try_from(REMEMBERED).unwrap() + 1).map(|pid| (pid, 2, 0)).collect();
        ours.note(&Forest::grow(&processes(&many), &supervisors(&[(1, 2)])), 2);
        assert_eq!(ours.seen.len(), REMEMBERED);
        assert!(!ours.knows(1, None) && ours.knows(2, None));
    }

    #[test]
    fn memory_is_divided_among_workers_others_and_nobody() {
        let of = |pid| match pid {
            1 | 2 => Owner::Worker(WorkerId(7)),
            3 => Owner::Foreign,
            _ => Owner::Leftover,
        };
        let split = split(1_000, &[(1, 100 * MIB), (2, 50 * MIB + 1), (3, 200 * MIB), (4, 300 * MIB)], of);
        let workers = BTreeMap::from([(WorkerId(7), 151)]);
        assert_eq!(split, Split { foreign_mb: 200, leftover_mb: 649, workers });
    }

    proptest! {
        #[test]
        fn no_memory_is_lost_and_none_is_made_up(
            used in 0_u64..1_000_000,
            listed in prop::collection::vec((0_u32..9, any::<u64>()), 0..20),
        ) {
            let of = |pid| match pid {
                0..3 => Owner::Worker(WorkerId(u64::from(pid))),
                3..6 => Owner::Foreign,
                _ => Owner::Leftover,
            };
            let split = split(used, &listed, of);
            let ours: u64 = split.workers.values().fold(0, |sum, mb| sum.saturating_add(*mb));
            prop_assert!(split.foreign_mb + split.leftover_mb <= used);
            prop_assert!((split.foreign_mb + split.leftover_mb).saturating_add(ours) >= used);
        }
    }
}
