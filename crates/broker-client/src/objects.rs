//! stub
use crate::error::Error;
use bytes::Bytes;
use grange_protocol::object::ObjectRef;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The object store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Objects {}

impl Objects {
    /// Opens `file:///folder`, a plain path, or `s3://bucket/prefix` with the `AWS_*` settings of `environment`.
    pub async fn open(url: &str, environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        todo!("{url} {environment:?}")
    }
    /// Stores a file; the same bytes are sent once.
    pub async fn put_file(&self, path: &Path, name: &str) -> Result<ObjectRef, Error> {
        todo!("{path:?} {name}")
    }
    /// Stores bytes; the same bytes are sent once.
    pub async fn put_bytes(&self, bytes: Bytes, name: &str) -> Result<ObjectRef, Error> {
        todo!("{bytes:?} {name}")
    }
    /// Writes an object to a file, whole and verified, or not at all.
    pub async fn get_to_file(&self, object: &ObjectRef, path: &Path) -> Result<(), Error> {
        todo!("{object:?} {path:?}")
    }
    /// Where the object lies, if the store is a folder of this machine. Not verified.
    pub fn local_path(&self, object: &ObjectRef) -> Option<PathBuf> {
        todo!("{object:?}")
    }
    /// Whether the object is there, with its size.
    pub async fn exists(&self, object: &ObjectRef) -> Result<bool, Error> {
        todo!("{object:?}")
    }
}

/// Digest in hex and length in bytes of a file. Blocks.
pub fn sha256_file(path: &Path) -> Result<(String, u64), Error> {
    todo!("{path:?}")
}
