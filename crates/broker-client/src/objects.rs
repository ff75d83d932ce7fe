//! The object store: bytes named by their digest, in a folder of this machine or a bucket of an S3 service.
//!
//! Owns putting and getting whole objects, verified both ways. Never caches, never collects, never knows a job.
//! An object of digest `ab12…` lies at `ab/ab12…` under the store's folder or prefix.

mod bucket;
mod digest;
mod direct;
mod folder;

pub use digest::sha256_file;

use crate::error::{Error, ErrorKind};
use bucket::Bucket;
use bytes::Bytes;
use folder::Folder;
use grange_protocol::object::{ObjectRef, is_digest};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

/// The object store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Objects {
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(Arc<Folder>),
    Bucket(Arc<Bucket>),
}

impl Objects {
    /// Opens `file:///folder`, a plain path, or `s3://bucket/prefix`. Of `environment` the `AWS_*` values count
    /// (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ALLOW_HTTP`, …). A folder
    /// is made where it is missing; a bucket is not asked until it is used.
    pub async fn open(url: &str, environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        let folder = match Url::parse(url) {
            Ok(parsed) if parsed.scheme() == "s3" => {
                let bucket = Bucket::open(&parsed, environment)?;
                return Ok(Self { place: Place::Bucket(Arc::new(bucket)) });
            }
            Ok(parsed) if parsed.scheme() == "file" => parsed.to_file_path().map_err(|()| unusable(url))?,
            _ if url.is_empty() || url.contains("://") => return Err(unusable(url)),
            _ => PathBuf::from(url),
        };
        let folder = blocking(move || Folder::open(folder)).await?;
        Ok(Self { place: Place::Folder(Arc::new(folder)) })
    }

    /// Stores a file under its digest, to be called `name`; the same bytes are stored once.
    pub async fn put_file(&self, path: &Path, name: &str) -> Result<ObjectRef, Error> {
        let path = path.to_owned();
        let (sha256, size) = match &self.place {
            Place::Folder(folder) => {
                let folder = Arc::clone(folder);
                blocking(move || folder.put_file(&path)).await?
            }
            Place::Bucket(bucket) => bucket.put_file(path).await?,
        };
        Ok(ObjectRef::new(sha256, size, name))
    }

    /// The same for a file that nobody needs afterwards: where the store is a folder of the same file system it is
    /// moved there instead of copied. The file may be gone when this returns.
    pub async fn adopt_file(&self, path: &Path, name: &str) -> Result<ObjectRef, Error> {
        let Place::Folder(folder) = &self.place else {
            return self.put_file(path, name).await;
        };
        let (folder, path) = (Arc::clone(folder), path.to_owned());
        let (sha256, size) = blocking(move || folder.adopt_file(&path)).await?;
        Ok(ObjectRef::new(sha256, size, name))
    }

    /// Stores bytes under their digest, to be called `name`; the same bytes are stored once.
    pub async fn put_bytes(&self, bytes: Bytes, name: &str) -> Result<ObjectRef, Error> {
        let (sha256, size) = match &self.place {
            Place::Folder(folder) => {
                let folder = Arc::clone(folder);
                blocking(move || folder.put_bytes(&bytes)).await?
            }
            Place::Bucket(bucket) => bucket.put_bytes(bytes).await?,
        };
        Ok(ObjectRef::new(sha256, size, name))
    }

    /// Writes an object to a file: whole and verified, or not at all. `NotFound`: the store does not have it.
    /// `DigestMismatch`: what the store has are not these bytes.
    pub async fn get_to_file(&self, object: &ObjectRef, path: &Path) -> Result<(), Error> {
        check_reference(object)?;
        let (object, path) = (object.clone(), path.to_owned());
        match &self.place {
            Place::Folder(folder) => {
                let folder = Arc::clone(folder);
                blocking(move || folder.get_to_file(&object, &path)).await
            }
            Place::Bucket(bucket) => bucket.get_to_file(object, path).await,
        }
    }

    /// Where the object lies, if the store is a folder of this machine. It is not verified, and is never written to.
    pub fn local_path(&self, object: &ObjectRef) -> Option<PathBuf> {
        match &self.place {
            Place::Folder(folder) if is_digest(&object.sha256) => Some(folder.path(&object.sha256)),
            Place::Folder(_) | Place::Bucket(_) => None,
        }
    }

    /// Whether the store has the object, in its full length.
    pub async fn exists(&self, object: &ObjectRef) -> Result<bool, Error> {
        check_reference(object)?;
        match &self.place {
            Place::Folder(folder) => {
                let (folder, object) = (Arc::clone(folder), object.clone());
                blocking(move || Ok(folder.has(&object.sha256, object.size))).await
            }
            Place::Bucket(bucket) => bucket.has(&object.sha256, object.size).await,
        }
    }
}

fn unusable(url: &str) -> Error {
    Error::invalid(format!(
        "`{url}` is not an object store; use a folder, `file:///folder` or `s3://bucket/prefix`"
    ))
}

/// Only a digest may become part of a path.
fn check_reference(object: &ObjectRef) -> Result<(), Error> {
    if is_digest(&object.sha256) {
        return Ok(());
    }
    Err(Error::invalid(format!("`{}` is not a SHA-256 in hex", object.sha256)))
}

/// Runs file work where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::new(ErrorKind::Other, "file work was broken off").because(error)),
    }
}

fn missing(sha256: &str, place: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("object `{sha256}` is not in the store at `{place}`; put it again"),
    )
}

/// Compares what came with the reference.
fn check_bytes(object: &ObjectRef, sha256: &str, size: u64) -> Result<(), Error> {
    if object.sha256 == sha256 && object.size == size {
        return Ok(());
    }
    let text = format!(
        "object `{}` (`{}`, {} bytes) arrived as {size} bytes of `{sha256}`; remove it from the store and put it again",
        object.sha256, object.name, object.size
    );
    Err(Error::new(ErrorKind::DigestMismatch, text))
}
