//! Objects in a folder of this machine, or one that every host mounts.
//!
//! Owns the layout and that an object appears whole. Everything blocks. Never removes an object.

use super::digest::{self, Aside};
use crate::error::{Error, ErrorKind};
use grange_protocol::object::ObjectRef;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn open(root: PathBuf) -> Result<Self, Error> {
        let root = std::path::absolute(&root).unwrap_or(root);
        std::fs::create_dir_all(&root).map_err(|e| {
            let text = format!("the object store at `{}` cannot be used; check the folder", root.display());
            Error::new(ErrorKind::StoreUnavailable, text).because(e)
        })?;
        Ok(Self { root })
    }

    /// Where an object lies. `sha256` has been checked to be a digest.
    pub(super) fn path(&self, sha256: &str) -> PathBuf {
        self.root.join(&sha256[..2]).join(sha256)
    }

    pub(super) fn has(&self, sha256: &str, size: u64) -> bool {
        std::fs::metadata(self.path(sha256)).is_ok_and(|found| found.len() == size)
    }

    pub(super) fn put_file(&self, path: &Path) -> Result<(String, u64), Error> {
        let file = File::open(path).map_err(|e| Error::file("read", path, e))?;
        let mut aside = self.aside()?;
        let (sha256, size) = digest::copy(file, path, &mut aside)?;
        if !self.has(&sha256, size) {
            self.keep(aside, &sha256)?;
        }
        Ok((sha256, size))
    }

    /// Moves a file into the store. One that has other names, lies elsewhere, or changed meanwhile is copied.
    pub(super) fn adopt_file(&self, path: &Path) -> Result<(String, u64), Error> {
        let look = || std::fs::symlink_metadata(path).map_err(|e| Error::file("read", path, e));
        let before = look()?;
        if !before.is_file() || before.nlink() != 1 {
            return self.put_file(path);
        }
        let (sha256, size) = digest::sha256_file(path)?;
        let after = look()?;
        let same = (before.ino(), before.len(), before.mtime(), before.mtime_nsec())
            == (after.ino(), after.len(), after.mtime(), after.mtime_nsec());
        if self.has(&sha256, size) {
            return Ok((sha256, size));
        }
        let target = self.path(&sha256);
        let folder_made = target.parent().is_none_or(|folder| std::fs::create_dir_all(folder).is_ok());
        if same && folder_made && std::fs::rename(path, &target).is_ok() {
            let _ = std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o444));
            return Ok((sha256, size));
        }
        self.put_file(path)
    }

    pub(super) fn put_bytes(&self, bytes: &[u8]) -> Result<(String, u64), Error> {
        let (sha256, size) = (digest::sha256(bytes), bytes.len() as u64);
        if !self.has(&sha256, size) {
            let mut aside = self.aside()?;
            let mut file = aside.take_file()?;
            file.write_all(bytes).map_err(|e| Error::file("write", aside.path(), e))?;
            drop(file);
            self.keep(aside, &sha256)?;
        }
        Ok((sha256, size))
    }

    pub(super) fn get_to_file(&self, object: &ObjectRef, target: &Path) -> Result<(), Error> {
        let source = self.path(&object.sha256);
        let file = File::open(&source).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => super::missing(&object.sha256, &self.root.display()).because(e),
            _ => Error::file("read", &source, e),
        })?;
        let mut aside = Aside::beside(target)?;
        let found = digest::copy(file, &source, &mut aside)?;
        super::check_bytes(object, &found.0, found.1)?;
        aside.keep(target)
    }

    /// In the store's own folder, so that the rename stays inside one file system.
    fn aside(&self) -> Result<Aside, Error> {
        Aside::beside(&self.root.join("part"))
    }

    fn keep(&self, aside: Aside, sha256: &str) -> Result<(), Error> {
        let target = self.path(sha256);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::file("make the folder", folder, e))?;
        }
        aside.keep(&target)
    }
}
