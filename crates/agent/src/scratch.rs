//! The private folder of one worker: its `TMPDIR`, and the scratch folders of its runs.
//!
//! Owns that the folder is there when the worker starts and gone when nobody needs it: neither the worker nor a result
//! that is still being stored.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder for temporary files, inside the worker's.
const TEMPORARY: &str = "tmp";

/// A worker's folder; it is removed with the last who holds it.
#[derive(Debug)]
pub struct WorkerFolder(PathBuf);

impl WorkerFolder {
    /// Makes the folder, for this user only.
    pub fn make(scratch: &Path, worker: &str) -> std::io::Result<Self> {
        let path = scratch.join(worker);
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path.join(TEMPORARY))?;
        Ok(Self(path))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where temporary files go.
    pub fn temporary(&self) -> PathBuf {
        self.0.join(TEMPORARY)
    }
}

impl Drop for WorkerFolder {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = std::fs::remove_dir_all(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(folder = %path.display(), %error, "a worker's folder could not be removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            // It may hold very many files.
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Removes what dead lives left. Blocks.
pub fn sweep(scratch: &Path) {
    if let Err(error) = std::fs::remove_dir_all(scratch)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %scratch.display(), %error, "the scratch folder of the last life could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_is_private_and_goes_with_its_last_holder() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = std::sync::Arc::new(WorkerFolder::make(scratch.path(), "w1").unwrap());
        let mode = std::fs::metadata(folder.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::write(folder.temporary().join("x"), "x").unwrap();
        let (second, path) = (folder.clone(), folder.path().to_owned());
        drop(folder);
        assert!(path.is_dir());
        drop(second);
        assert!(!path.exists());
    }
}
