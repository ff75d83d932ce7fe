//! What the script says now, and what the processes of the folder `use` hold.

use crate::script::{Gpu, SCRIPT_VARIABLE, Script, USE_FOLDER, Use};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Which version of a file was read: a rename gives another inode, a rewrite another time.
type Version = (u64, i64, i64, u64);

#[derive(Default)]
struct Kept {
    read: Option<(Version, Arc<Script>)>,
    /// When it was noticed that a process had ended.
    ended: HashMap<(u32, u64), Instant>,
}

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

fn with_kept<T>(act: impl FnOnce(&mut Kept) -> T) -> T {
    let mut kept: MutexGuard<'_, Option<Kept>> = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    act(kept.get_or_insert_default())
}

/// The script's path: from the environment, else `script.json` beside the library, so that one process can load copies
/// with a script each.
fn script_path() -> Option<PathBuf> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    let named = || std::env::var_os(SCRIPT_VARIABLE).map(PathBuf::from);
    PATH.get_or_init(|| named().or_else(|| Some(library_path()?.with_file_name("script.json")))).clone()
}

/// Where this library was loaded from: the file whose mapping holds this function.
fn library_path() -> Option<PathBuf> {
    let here = library_path as *const () as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| {
        let bounds = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bound = |text: &str| usize::from_str_radix(text, 16).ok();
        bounds.is_some_and(|(low, high)| {
            bound(low).zip(bound(high)).is_some_and(|(low, high)| (low..high).contains(&here))
        })
    })?;
    Some(PathBuf::from(&line[line.find('/')?..]))
}

/// The script. None: there is none, or it cannot be read, which is a host whose driver is not loaded.
pub(crate) fn script() -> Option<Arc<Script>> {
    let path = script_path()?;
    let facts = std::fs::metadata(&path).ok()?;
    let version = (facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.size());
    let known =
        with_kept(|kept| kept.read.clone().filter(|(of, _)| *of == version).map(|(_, script)| script));
    known.or_else(|| {
        let script: Arc<Script> = Arc::new(serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?);
        with_kept(|kept| kept.read = Some((version, script.clone())));
        Some(script)
    })
}

/// What is in use of a GPU through the folder `use`.
#[derive(Default)]
pub(crate) struct InUse {
    /// By processes that live, MiB.
    pub(crate) living: BTreeMap<u32, u64>,
    /// By processes that ended, and not given back yet, MiB.
    pub(crate) ended_mb: u64,
}

/// Counts what is in use of a GPU.
pub(crate) fn in_use(gpu: &Gpu) -> InUse {
    let mut sum = InUse::default();
    for (pid, usage) in uses() {
        let Some(mb) = usage.gpus.get(&gpu.uuid).copied() else { continue };
        if began(pid) == Some(usage.began) {
            sum.living.insert(pid, mb);
        } else if is_still_held(gpu, pid, usage.began) {
            sum.ended_mb += mb;
        }
    }
    sum
}

fn is_still_held(gpu: &Gpu, pid: u32, began: u64) -> bool {
    gpu.keeps || since_end(pid, began) < Duration::from_millis(gpu.return_ms)
}

fn since_end(pid: u32, began: u64) -> Duration {
    with_kept(|kept| kept.ended.entry((pid, began)).or_insert_with(Instant::now).elapsed())
}

/// What every process of the folder says. What no GPU can hold any more is removed, so that the folder stays small.
fn uses() -> Vec<(u32, Use)> {
    let folder = script_path().and_then(|path| path.parent().map(|folder| folder.join(USE_FOLDER)));
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    paths
        .filter_map(|path| read_use(&path))
        .filter(|(path, pid, usage)| {
            let is_gone = began(*pid) != Some(usage.began) && !could_be_held(*pid, usage.began);
            if is_gone {
                let _ = std::fs::remove_file(path);
            }
            !is_gone
        })
        .map(|(_, pid, usage)| (pid, usage))
        .collect()
}

fn could_be_held(pid: u32, began: u64) -> bool {
    let script = script().unwrap_or_default();
    script
        .gpus
        .iter()
        .flat_map(|gpu| gpu.mig.iter().flatten().chain([gpu]))
        .any(|gpu| is_still_held(gpu, pid, began))
}

fn read_use(path: &Path) -> Option<(PathBuf, u32, Use)> {
    let pid = path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()?;
    Some((path.to_owned(), pid, serde_json::from_slice(&std::fs::read(path).ok()?).ok()?))
}

/// When a process began, in clock ticks since the host booted. None: it is not there, or a zombie, which holds nothing.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
