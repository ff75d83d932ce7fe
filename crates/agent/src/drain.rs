//! A drain that outlasts the agent: what is on disk of it, and when a host drains itself. Never decides about jobs.

use grange_protocol::name::PluginName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// Why a host is drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// In words.
    pub reason: String,
    /// The agent decided it, not an operator.
    #[serde(default)]
    pub automatic: bool,
}

/// The file. It stands as long as the host is drained.
#[derive(Debug)]
pub struct DrainFile {
    path: PathBuf,
}

impl DrainFile {
    /// The one of this state folder.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("drain.json") }
    }

    /// What the last life left. A file that cannot be read still says that the host was drained.
    pub fn read(&self) -> Option<Why> {
        let unreadable = |error: String| {
            let reason = format!("`{}` cannot be read: {error}", self.path.display());
            Some(Why { reason, automatic: false })
        };
        match std::fs::read(&self.path) {
            Ok(text) => serde_json::from_slice(&text).map_or_else(|e| unreadable(e.to_string()), Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => unreadable(error.to_string()),
        }
    }

    /// Writes it down for the next life.
    pub fn write(&self, why: &Why) -> std::io::Result<()> {
        let aside = self.path.with_extension("new");
        std::fs::write(&aside, serde_json::to_vec_pretty(why)?)?;
        std::fs::rename(&aside, &self.path)
    }

    /// The next life takes work.
    pub fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// How many failures within which time make a host drain itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// So many; 0: never.
    pub failures: u32,
    /// Within so long, milliseconds.
    pub window_ms: u64,
}

/// Workers that did not come up for no reason of their plugin's code. A host that fails whatever it starts is free all
/// the time, and so would take one job after the other from those that work.
///
/// One broken plugin must not take a host from the others: failures count from two plugins on, or from the only one that
/// the host has, and a worker of any plugin that comes up proves the host right.
#[derive(Debug, Default)]
pub struct StartFailures {
    newest: VecDeque<(u64, PluginName)>,
}

impl StartFailures {
    /// A worker is loaded, or an operator says that all is well.
    pub fn clear(&mut self) {
        self.newest.clear();
    }

    /// A worker did not come up. `plugins`: how many this host could start. Some: drain, for this reason.
    pub fn failed(
        &mut self,
        now_ms: u64,
        plugin: &PluginName,
        why: &str,
        plugins: usize,
        rule: Rule,
    ) -> Option<String> {
        if rule.failures == 0 {
            return None;
        }
        self.newest.retain(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < rule.window_ms);
        self.newest.push_back((now_ms, plugin.clone()));
        // Of the same plugin nothing new is learned by more than this.
        while self.newest.len() > 4 * rule.failures as usize {
            self.newest.pop_front();
        }
        let of: BTreeSet<&PluginName> = self.newest.iter().map(|(_, plugin)| plugin).collect();
        if self.newest.len() < rule.failures as usize || of.len() < plugins.min(2) {
            return None;
        }
        let names: Vec<String> = of.iter().map(|name| format!("`{name}`")).collect();
        let (count, minutes) = (self.newest.len(), rule.window_ms.div_ceil(60_000));
        Some(format!(
            "{count} workers of {} did not come up within {minutes} min and none did; the last: {why}",
            names.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { failures: 3, window_ms: 300_000 };

    fn plugin(name: &str) -> PluginName {
        PluginName::new(name).unwrap()
    }

    fn after(fails: &[(u64, &str)], plugins: usize) -> Option<String> {
        let mut failures = StartFailures::default();
        fails
            .iter()
            .fold(None, |_, (at, name)| failures.failed(*at, &plugin(name), "no space", plugins, RULE))
    }

    #[test]
    fn a_host_that_starts_nothing_drains_itself() {
        assert_eq!(after(&[(0, "a"), (1, "b")], 2), None);
        let why = after(&[(0, "a"), (1, "b"), (299_999, "a")], 5).unwrap();
        assert!(why.contains("3 workers of `a`, `b`") && why.contains("no space"), "{why}");
        assert_eq!(after(&[(0, "a"), (1, "b"), (300_000, "a")], 2), None, "the first is too long ago");
    }

    #[test]
    fn one_broken_plugin_takes_no_host_from_the_others() {
        let many: Vec<(u64, &str)> = (0..100).map(|at| (at, "a")).collect();
        assert_eq!(after(&many, 2), None);
        assert!(after(&many[..3], 1).is_some(), "the only one that there is");
        let mut failures = StartFailures::default();
        for at in 0..100 {
            failures.failed(at, &plugin("a"), "", 2, RULE);
        }
        assert!(failures.newest.len() <= 12);
        failures.clear();
        assert_eq!(failures.failed(101, &plugin("b"), "", 2, RULE), None, "a worker came up");
        assert_eq!(
            StartFailures::default().failed(0, &plugin("a"), "", 1, Rule { failures: 0, ..RULE }),
            None
        );
    }

    #[test]
    fn the_next_life_is_drained_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = DrainFile::new(folder.path());
        assert_eq!(file.read(), None);
        file.remove().unwrap();
        let why = Why { reason: "new driver".to_owned(), automatic: false };
        file.write(&why).unwrap();
        assert_eq!(file.read(), Some(why));
        std::fs::write(folder.path().join("drain.json"), "{").unwrap();
        assert!(file.read().unwrap().reason.contains("cannot be read"));
        file.remove().unwrap();
        assert_eq!(file.read(), None);
    }
}
