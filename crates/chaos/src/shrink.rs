//! Makes a failing list of faults smaller: halves and quarters are left out for as long as it still fails.
//!
//! Owns the search, not the runs: pure but for the question that it is given.

use crate::schedule::Planned;

/// The smallest list found that fails, with at most `runs` questions asked. `fails` runs a list.
pub async fn shrink(
    list: &[Planned],
    runs: usize,
    mut fails: impl AsyncFnMut(&[Planned]) -> bool,
) -> Vec<Planned> {
    let mut best = list.to_vec();
    let mut parts = 2;
    let mut left = runs;
    while best.len() > 1 && parts <= best.len() {
        let size = best.len().div_ceil(parts);
        let mut smaller = None;
        for at in (0..best.len()).step_by(size) {
            if left == 0 {
                return best;
            }
            left -= 1;
            let rest: Vec<Planned> = best
                .iter()
                .enumerate()
                .filter(|(i, _)| *i < at || *i >= at + size)
                .map(|(_, p)| *p)
                .collect();
            if fails(&rest).await {
                smaller = Some(rest);
                break;
            }
        }
        match smaller {
            Some(rest) => {
                best = rest;
                parts = 2;
            }
            None if parts == best.len() => break,
            None => parts = (parts * 2).min(best.len()),
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Fault, Profile, faults};

    #[tokio::test]
    async fn what_matters_is_found() {
        let list = faults(5, Profile::All, 120, 4, 1);
        assert!(list.len() > 16, "{}", list.len());
        let culprits = [list[3], list[11]];
        let found = shrink(&list, 200, async |some| culprits.iter().all(|one| some.contains(one))).await;
        assert_eq!(found, culprits);
        let mut asked = 0;
        let kept = shrink(&list, 3, async |_| {
            asked += 1;
            false
        });
        assert_eq!(kept.await, list);
        assert_eq!(asked, 3);
        assert!(list.iter().any(|planned| planned.fault != Fault::Xid));
    }
}
