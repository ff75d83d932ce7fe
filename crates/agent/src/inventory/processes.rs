//! The host's processes, as `/proc` shows them.

use std::collections::BTreeMap;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// The process that it belongs to now.
    pub(super) parent: u32,
    /// When it began, clock ticks since the host booted: with the id, its identity.
    pub(super) began: u64,
    /// Memory that it has in place, bytes.
    pub(super) rss_bytes: u64,
}

/// Every process that lives. Those that come or go meanwhile may be in it or not.
pub(super) fn walk() -> BTreeMap<u32, Process> {
    let entries = match std::fs::read_dir("/proc") {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!(%error, "`/proc` cannot be read: nobody knows which processes are whose");
            return BTreeMap::new();
        }
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, look_up(pid)?))).collect()
}

/// One process, if it lives.
pub(super) fn look_up(pid: u32) -> Option<Process> {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, page)
}

/// Reads a line of `/proc/<pid>/stat`. A zombie lives no more: it holds nothing.
fn parse(stat: &str, page_bytes: u64) -> Option<Process> {
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    if matches!(fields.first().copied()?, "Z" | "X") {
        return None;
    }
    Some(Process {
        parent: u32::try_from(number(4)?).ok()?,
        began: number(22)?,
        rss_bytes: number(24)?.saturating_mul(page_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str =
        "42 (a ) b) S 7 42 42 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 98765 1000 3 18446744073709551615";

    #[test]
    fn a_stat_line_is_read_whatever_the_name_is() {
        assert_eq!(parse(LINE, 4096), Some(Process { parent: 7, began: 98_765, rss_bytes: 3 * 4096 }));
        assert_eq!(parse(&LINE.replace(" S ", " Z "), 4096), None);
    }

    #[test]
    fn this_process_is_found_and_uses_memory() {
        let me = std::process::id();
        let found = walk();
        assert_eq!(found.get(&me).map(|p| p.began), look_up(me).map(|p| p.began));
        assert!(found[&me].rss_bytes > 1 << 20 && found[&me].parent > 0);
        assert_eq!(look_up(u32::MAX), None);
    }

    proptest! {
        #[test]
        fn no_line_breaks_the_reader(line in ".{0,200}", cut in 0..LINE.len()) {
            let _ = parse(&line, 4096);
            let _ = parse(&LINE[..cut], 4096);
        }
    }
}
