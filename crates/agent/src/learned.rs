//! What is learned of plugins: how much GPU memory a worker was seen to use, how long it takes to load. One table for the
//! whole agent, of what it saw itself and of what others wrote down.
//!
//! Never waits: `exchange` carries what was seen to the plugins' bucket, and what others saw back. Advice only: admission
//! decides by readings.

mod exchange;

pub use exchange::exchange;

use grange_protocol::facts::Learned;
use grange_protocol::name::PluginName;
use grange_protocol::resource::ResourceRequest;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one start counts against all those before, in a hundred.
const START_WEIGHT: u64 = 25;
/// A peak is worth writing down when it is higher by so much, in a hundred.
const PEAK_RISE: u64 = 2;
/// A start time is worth writing down when it is longer or shorter by so much, in a hundred.
const START_MOVE: u64 = 20;
/// What is granted beyond the highest peak, in a hundred.
const PEAK_MARGIN: u64 = 5;
/// Learned requests are rounded up to this, MiB.
const REQUEST_STEP_MB: u64 = 64;
/// Most things that are remembered; beyond them nothing new is.
const MOST: usize = 10_000;

/// One thing that something was learned of.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// The best that is known: what was stored, and what was seen here since.
    known: Learned,
    /// What the bucket holds, as far as was read.
    stored: Learned,
    /// A start was seen here since it was written down.
    started: bool,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Entry>,
    version: u64,
}

/// What is known. Cheap to clone; every clone is the same table.
#[derive(Clone, Debug, Default)]
pub struct Table(Arc<Mutex<Inner>>);

impl Table {
    /// Highest memory that a worker of this plugin, configured so, was seen to use on one GPU of any of these models, MiB.
    pub fn peak_mb<'a>(
        &self,
        plugin: &PluginName,
        configuration: &str,
        models: impl IntoIterator<Item = &'a str>,
    ) -> Option<u64> {
        self.highest(plugin, configuration, models, |learned| learned.peak_vram_mb)
    }

    /// How long a worker takes until it is ready, milliseconds: the longest among these models, or, where none was seen,
    /// among those of other hosts. A host without a GPU has the one model ``.
    pub fn start_ms<'a>(
        &self,
        plugin: &PluginName,
        configuration: &str,
        models: impl IntoIterator<Item = &'a str>,
    ) -> Option<u64> {
        let here = self.highest(plugin, configuration, models, |learned| learned.start_ms);
        here.or_else(|| {
            let any = Learned::key(plugin, configuration, "");
            let any = any.strip_suffix("none").unwrap_or(&any);
            let inner = self.inner();
            let elsewhere = inner.entries.iter().filter(|(key, _)| key.starts_with(any));
            elsewhere.map(|(_, entry)| entry.known.start_ms).max().filter(|ms| *ms > 0)
        })
    }

    /// Grows when an answer of this table may have changed.
    pub fn version(&self) -> u64 {
        self.inner().version
    }

    /// A worker was seen to use so much on one GPU of this model, MiB.
    pub fn saw_peak(&self, plugin: &PluginName, configuration: &str, model: &str, peak_mb: u64) {
        self.saw(plugin, configuration, model, false, |known| Learned {
            peak_vram_mb: known.peak_vram_mb.max(peak_mb),
            ..known.clone()
        });
    }

    /// A worker took so long until it was ready, milliseconds. `model` is that of its GPUs, empty without one.
    pub fn saw_start(&self, plugin: &PluginName, configuration: &str, model: &str, start_ms: u64) {
        self.saw(plugin, configuration, model, true, |known| Learned {
            start_ms: smooth(known.start_ms, start_ms.max(1)),
            ..known.clone()
        });
    }

    fn saw(
        &self,
        plugin: &PluginName,
        configuration: &str,
        model: &str,
        is_start: bool,
        fold: impl FnOnce(&Learned) -> Learned,
    ) {
        let mut inner = self.inner();
        let key = Learned::key(plugin, configuration, model);
        if inner.entries.len() >= MOST && !inner.entries.contains_key(&key) {
            return;
        }
        let entry = inner.entries.entry(key).or_default();
        let known = fold(&entry.known);
        entry.started |= is_start;
        if known != entry.known {
            entry.known = known;
            inner.version += 1;
        }
    }

    /// Takes what the bucket holds.
    fn take(&self, key: &str, stored: Learned) {
        let mut inner = self.inner();
        if inner.entries.len() >= MOST && !inner.entries.contains_key(key) {
            return;
        }
        let entry = inner.entries.entry(key.to_owned()).or_default();
        let start_ms = if entry.started { entry.known.start_ms } else { stored.start_ms };
        let known = Learned {
            peak_vram_mb: entry.known.peak_vram_mb.max(stored.peak_vram_mb),
            start_ms,
            at_ms: stored.at_ms,
        };
        entry.stored = stored;
        let changed =
            (known.peak_vram_mb, known.start_ms) != (entry.known.peak_vram_mb, entry.known.start_ms);
        entry.known = known;
        if changed {
            inner.version += 1;
        }
    }

    /// What was seen here and is worth writing down.
    fn news(&self) -> Vec<(String, Learned)> {
        let inner = self.inner();
        let news = inner.entries.iter().filter(|(_, entry)| is_news(&entry.stored, &entry.known));
        news.map(|(key, entry)| (key.clone(), entry.known.clone())).collect()
    }

    /// This is written down now.
    fn written(&self, key: &str, stored: Learned) {
        if let Some(entry) = self.inner().entries.get_mut(key) {
            // What was seen while it was written is for the next time.
            entry.started = entry.known.start_ms != stored.start_ms;
            entry.stored = stored;
        }
    }

    fn highest<'a>(
        &self,
        plugin: &PluginName,
        configuration: &str,
        models: impl IntoIterator<Item = &'a str>,
        what: impl Fn(&Learned) -> u64,
    ) -> Option<u64> {
        let inner = self.inner();
        let entries = models.into_iter().filter_map(|model| {
            let entry = inner.entries.get(&Learned::key(plugin, configuration, model))?;
            Some(what(&entry.known))
        });
        entries.max().filter(|amount| *amount > 0)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a configuration in what is learned; no configuration is an empty one.
pub fn digest(configuration: Option<&Map<String, Value>>) -> String {
    let text = configuration.filter(|c| !c.is_empty()).map_or_else(
        || b"{}".to_vec(),
        |configuration| serde_json::to_vec(configuration).expect("a JSON tree is always written"),
    );
    hex::encode(&Sha256::digest(text)[..8])
}

/// What a worker is admitted with: what its manifest asks for, and where that is GPUs without an amount, what was seen.
/// Where no GPU of this host gives that much (`largest_usable_mb`), it stays without an amount: a whole GPU, where it was
/// seen to run.
pub fn admitted(asked: &ResourceRequest, peak_mb: Option<u64>, largest_usable_mb: u64) -> ResourceRequest {
    let mut request = asked.clone();
    if let Some(peak_mb) = peak_mb
        && asked.gpus > 0
        && asked.vram_mb == 0
    {
        let wanted = peak_mb.saturating_add(peak_mb.saturating_mul(PEAK_MARGIN).div_ceil(100));
        let rounded = wanted.div_ceil(REQUEST_STEP_MB).saturating_mul(REQUEST_STEP_MB);
        if rounded <= largest_usable_mb {
            request.vram_mb = rounded;
        }
    }
    request
}

/// The start time with one more start in it.
fn smooth(known_ms: u64, seen_ms: u64) -> u64 {
    if known_ms == 0 {
        return seen_ms;
    }
    (known_ms.saturating_mul(100 - START_WEIGHT) + seen_ms.saturating_mul(START_WEIGHT) + 50) / 100
}

/// Whether what is known is worth writing over what is stored.
fn is_news(stored: &Learned, known: &Learned) -> bool {
    let beyond = |before: u64, now: u64, percent: u64| {
        before.abs_diff(now).saturating_mul(100) > before.saturating_mul(percent)
    };
    let higher = known.peak_vram_mb > stored.peak_vram_mb
        && beyond(stored.peak_vram_mb, known.peak_vram_mb, PEAK_RISE);
    higher || (known.start_ms > 0 && beyond(stored.start_ms, known.start_ms, START_MOVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin() -> PluginName {
        PluginName::new("ocr").unwrap()
    }

    fn learned(peak_vram_mb: u64, start_ms: u64) -> Learned {
        Learned { peak_vram_mb, start_ms, at_ms: 0 }
    }

    #[test]
    fn what_was_seen_is_known_at_once() {
        let table = Table::default();
        assert_eq!(table.peak_mb(&plugin(), "c", ["A100", "L4"]), None);
        table.saw_peak(&plugin(), "c", "A100", 5_000);
        table.saw_peak(&plugin(), "c", "A100", 4_000);
        table.saw_peak(&plugin(), "c", "L4", 4_500);
        assert_eq!(table.peak_mb(&plugin(), "c", ["L4"]), Some(4_500));
        assert_eq!(table.peak_mb(&plugin(), "c", ["A100", "L4"]), Some(5_000));
        assert_eq!(table.peak_mb(&plugin(), "d", ["A100"]), None, "another configuration");
        assert_eq!(table.start_ms(&plugin(), "c", ["A100"]), None, "no start was seen");
        table.saw_start(&plugin(), "c", "", 1_000);
        assert_eq!(table.start_ms(&plugin(), "c", [""]), Some(1_000));
    }

    #[test]
    fn only_what_changes_an_answer_is_a_new_version() {
        let table = Table::default();
        let before = table.version();
        table.saw_peak(&plugin(), "c", "A100", 5_000);
        let after = table.version();
        assert!(after > before);
        table.saw_peak(&plugin(), "c", "A100", 4_000);
        assert_eq!(table.version(), after);
    }

    #[test]
    fn start_times_are_smoothed() {
        assert_eq!(smooth(0, 800), 800, "the first counts alone");
        assert_eq!(smooth(1_000, 2_000), 1_250);
        let many = (0..40).fold(10_000, |known, _| smooth(known, 100));
        assert!((98..=102).contains(&many), "{many}");
    }

    #[test]
    fn small_differences_are_not_written_down() {
        let stored = learned(1_000, 1_000);
        assert!(!is_news(&stored, &learned(1_020, 1_200)));
        assert!(is_news(&stored, &learned(1_021, 1_000)));
        assert!(is_news(&stored, &learned(1_000, 1_201)));
        assert!(is_news(&stored, &learned(1_000, 799)));
        assert!(!is_news(&stored, &learned(10, 0)), "a lower peak, and no start seen");
        assert!(is_news(&learned(0, 0), &learned(1, 0)));
    }

    #[test]
    fn a_learned_peak_stands_in_only_for_an_amount_that_is_missing() {
        let asks = |gpus, vram_mb| ResourceRequest { gpus, vram_mb, ..ResourceRequest::default() };
        let largest_mb = 24_564;
        assert_eq!(admitted(&asks(1, 0), Some(4_000), largest_mb).vram_mb, 4_224, "4200, rounded up to 64");
        assert_eq!(admitted(&asks(1, 0), None, largest_mb).vram_mb, 0);
        assert_eq!(admitted(&asks(1, 9_000), Some(4_000), largest_mb).vram_mb, 9_000);
        assert_eq!(admitted(&asks(0, 0), Some(4_000), largest_mb).vram_mb, 0);
    }

    #[test]
    fn a_learned_peak_never_asks_for_more_than_the_largest_gpu_gives() {
        let whole = ResourceRequest { gpus: 1, ..ResourceRequest::default() };
        let of = |peak_mb, largest_mb| admitted(&whole, Some(peak_mb), largest_mb).vram_mb;
        assert_eq!(of(23_827, 24_564), 0, "97 % of it, and 5 % more are not there: a whole GPU, as before");
        assert_eq!(of(23_600, 24_564), 0);
        assert_eq!((of(4_000, 4_224), of(4_000, 4_223)), (4_224, 0), "what just fits is asked for");
        assert_eq!(of(4_000, 0), 0, "no GPU was seen");
        assert_eq!(of(u64::MAX, 24_564), 0);
    }

    #[test]
    fn what_others_saw_is_taken_over_unless_more_was_seen_here() {
        let (table, key) = (Table::default(), Learned::key(&plugin(), "c", "A100"));
        table.take(&key, learned(5_000, 2_000));
        assert_eq!(table.peak_mb(&plugin(), "c", ["A100"]), Some(5_000));
        assert_eq!(table.start_ms(&plugin(), "c", ["A100"]), Some(2_000));
        assert!(table.news().is_empty(), "it is known already");
        let version = table.version();
        table.take(&key, learned(5_000, 2_000));
        assert_eq!(table.version(), version);
        table.saw_peak(&plugin(), "c", "A100", 6_000);
        table.take(&key, learned(5_500, 2_500));
        assert_eq!(table.peak_mb(&plugin(), "c", ["A100"]), Some(6_000), "the highest peak wins");
        assert_eq!(table.news(), [(key.clone(), learned(6_000, 2_500))]);
        table.written(&key, learned(6_000, 2_500));
        assert!(table.news().is_empty());
        table.saw_start(&plugin(), "c", "A100", 4_500);
        table.take(&key, learned(6_000, 9_000));
        assert_eq!(table.start_ms(&plugin(), "c", ["A100"]), Some(3_000), "a start was seen here since");
        table.written(&key, learned(6_000, 3_000));
        table.take(&key, learned(6_000, 9_000));
        assert_eq!(
            table.start_ms(&plugin(), "c", ["A100"]),
            Some(9_000),
            "and written down; others saw more"
        );
    }

    #[test]
    fn one_configuration_has_one_name() {
        let map = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        assert_eq!(digest(None), digest(Some(&map("{}"))));
        assert_eq!(digest(Some(&map(r#"{"a":1,"b":2}"#))), digest(Some(&map(r#"{"b":2, "a":1}"#))));
        assert_ne!(digest(None), digest(Some(&map(r#"{"a":1}"#))));
        assert_eq!(digest(None).len(), 16);
    }
}
