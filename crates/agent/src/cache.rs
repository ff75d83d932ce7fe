//! The host's cache of inputs: each object once, checked when it came, hard-linked into the scratch folders.

use grange_broker_client::error::{Error, ErrorKind};
use grange_broker_client::objects::Objects;
use grange_protocol::object::ObjectRef;
use std::collections::HashMap;
use std::fs::FileTimes;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The cache. Cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    objects: Objects,
    folder: PathBuf,
    max_bytes: u64,
    /// One fetch of an object at a time.
    fetching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Cache {
    /// A cache in `folder`, of at most `max_bytes`.
    pub fn open(objects: Objects, folder: PathBuf, max_bytes: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self(Arc::new(Shared { objects, folder, max_bytes, fetching: Mutex::default() })))
    }

    /// Puts an object's bytes at `path`, whose folder is made. The bytes are those of the digest, or it fails.
    pub async fn place(&self, object: &ObjectRef, path: &Path) -> Result<(), Error> {
        let cached = self.0.folder.join(&object.sha256);
        let turn = self.turn(&object.sha256);
        let _one_at_a_time = turn.lock().await;
        if !holds(&cached, object.size) {
            // A copy: a plugin that writes into its input must not reach the store's own file.
            self.0.objects.get_to_file(object, &cached).await?;
        }
        let (cached, path) = (cached.clone(), path.to_owned());
        let linked = tokio::task::spawn_blocking(move || link(&cached, &path)).await;
        match linked {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(unlinked(object, &error)),
            Err(error) => return Err(unlinked(object, &error)),
        }
        self.done(&object.sha256);
        Ok(())
    }

    fn turn(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.0.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.entry(digest.to_owned()).or_default().clone()
    }

    fn done(&self, digest: &str) {
        self.0.fetching.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
        let shared = self.0.clone();
        tokio::task::spawn_blocking(move || evict(&shared.folder, shared.max_bytes));
    }
}

fn unlinked(object: &ObjectRef, error: &dyn std::error::Error) -> Error {
    let text = format!("`{}` cannot be put into the scratch folder: {error}", object.name);
    Error::new(ErrorKind::Other, text)
}

fn holds(path: &Path, size: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|found| {
        found.is_file() && found.len() == size && found.modified().is_ok_and(|at| at == untouched())
    })
}

/// When every cached file says that it was changed: a plugin that writes into its input, which is a link to it, undoes
/// that. When it was last used is its time of access.
fn untouched() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800)
}

/// Hard-links where it can, copies where it cannot (another file system).
fn link(cached: &Path, path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let times = FileTimes::new().set_accessed(SystemTime::now()).set_modified(untouched());
    // Opened for reading: a file that was moved into the store may not be written to, and its owner may date it all the same.
    std::fs::File::open(cached)?.set_times(times)?;
    match std::fs::hard_link(cached, path) {
        Ok(()) => Ok(()),
        Err(_) => std::fs::copy(cached, path).map(drop),
    }
}

/// Removes the least recently used objects until the rest fits.
fn evict(folder: &Path, max_bytes: u64) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut found: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let data = entry.metadata().ok()?;
            Some((data.accessed().ok()?, data.len(), entry.path()))
        })
        .collect();
    let mut bytes: u64 = found.iter().map(|(_, size, _)| size).sum();
    found.sort();
    for (_, size, path) in found {
        if bytes <= max_bytes {
            return;
        }
        if std::fs::remove_file(&path).is_ok() {
            bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_first() {
        let folder = tempfile::tempdir().unwrap();
        for (n, name) in ["old", "newer", "newest"].iter().enumerate() {
            let path = folder.path().join(name);
            std::fs::write(&path, [0; 10]).unwrap();
            let when = SystemTime::UNIX_EPOCH + Duration::from_secs(n as u64 + 1);
            let times = FileTimes::new().set_accessed(when);
            std::fs::File::options().append(true).open(&path).unwrap().set_times(times).unwrap();
        }
        evict(folder.path(), 20);
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["newer", "newest"]);
    }
}
