//! Objects in a bucket of an S3 service.
//!
//! Owns the talk with the service, with its bounded retries. Bytes pass in parts: memory stays bounded whatever the
//! size. Never makes a bucket, never removes an object.

use super::digest::{self, Aside};
use crate::error::{Error, ErrorKind};
use crate::tls;
use bytes::Bytes;
use futures_util::StreamExt;
use grange_protocol::object::ObjectRef;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ObjectStoreExt, RetryConfig, WriteMultipart};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use url::Url;

/// Smallest part of a large object, bytes; smaller objects go in one request.
const PART: u64 = 8 * 1024 * 1024;
/// Most parts that the service takes, with some room.
const MAX_PARTS: u64 = 9_000;
/// Parts that are on their way at a time.
const PARTS_IN_FLIGHT: usize = 4;
/// Parts between the disk and the network.
const QUEUE: usize = 2;
const RETRIES: usize = 5;
const RETRY_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Bucket {
    store: AmazonS3,
    prefix: Key,
    url: String,
}

impl Bucket {
    pub(super) fn open(url: &Url, environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        tls::use_ring();
        let bad = |e: object_store::Error| {
            Error::invalid(format!(
                "the object store `{url}` is not set up right; check the `AWS_*` settings"
            ))
            .because(e)
        };
        let name = url
            .host_str()
            .filter(|n| !n.is_empty())
            .ok_or_else(|| Error::invalid(format!("`{url}` names no bucket; use `s3://bucket/prefix`")))?;
        let mut builder = AmazonS3Builder::new().with_bucket_name(name).with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: RETRY_LIMIT,
        });
        for (variable, value) in environment {
            if let Ok(key) = variable.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()
                && variable.starts_with("AWS_")
            {
                builder = builder.with_config(key, value);
            }
        }
        let endpoint = environment.get("AWS_ENDPOINT_URL").or_else(|| environment.get("AWS_ENDPOINT"));
        if endpoint.is_some_and(|e| e.starts_with("http://")) && !environment.contains_key("AWS_ALLOW_HTTP") {
            builder = builder.with_allow_http(true);
        }
        let prefix = Key::parse(url.path().trim_matches('/'))
            .map_err(|e| Error::invalid(format!("`{url}` has a prefix that cannot be used")).because(e))?;
        Ok(Self { store: builder.build().map_err(bad)?, prefix, url: url.to_string() })
    }

    fn key(&self, sha256: &str) -> Key {
        self.prefix.clone().join(&sha256[..2]).join(sha256)
    }

    pub(super) async fn has(&self, sha256: &str, size: u64) -> Result<bool, Error> {
        match self.store.head(&self.key(sha256)).await {
            Ok(found) => Ok(found.size == size),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }

    pub(super) async fn put_bytes(&self, bytes: Bytes) -> Result<(String, u64), Error> {
        let (sha256, size) = (digest::sha256(&bytes), bytes.len() as u64);
        if !self.has(&sha256, size).await? {
            self.store.put(&self.key(&sha256), bytes.into()).await.map_err(|e| self.failed(e))?;
        }
        Ok((sha256, size))
    }

    pub(super) async fn put_file(&self, path: PathBuf) -> Result<(String, u64), Error> {
        let from = path.clone();
        let (sha256, size) = super::blocking(move || digest::sha256_file(&from)).await?;
        if self.has(&sha256, size).await? {
            return Ok((sha256, size));
        }
        let changed = || {
            let text = format!("`{}` changed while it was stored; try again", path.display());
            Error::new(ErrorKind::Conflict, text)
        };
        if size <= PART {
            let from = path.clone();
            let read = move || std::fs::read(&from).map_err(|e| Error::file("read", &from, e));
            let bytes = Bytes::from(super::blocking(read).await?);
            return if digest::sha256(&bytes) == sha256 {
                self.put_bytes(bytes).await
            } else {
                Err(changed())
            };
        }
        let upload = self.store.put_multipart(&self.key(&sha256)).await.map_err(|e| self.failed(e))?;
        let part = usize::try_from(PART.max(size / MAX_PARTS)).unwrap_or(usize::MAX);
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part);
        let (parts, mut to_send) = mpsc::channel(QUEUE);
        let from = path.clone();
        let reading = tokio::task::spawn_blocking(move || read_parts(&from, part, &parts));
        while let Some(bytes) = to_send.recv().await {
            if let Err(error) = upload.wait_for_capacity(PARTS_IN_FLIGHT).await {
                upload.abort().await.ok();
                return Err(self.failed(error));
            }
            upload.put(bytes);
        }
        let sent = reading.await.unwrap_or_else(|_| Err(changed()));
        match sent {
            Ok(sent) if sent == sha256 => {
                upload.finish().await.map_err(|e| self.failed(e))?;
                Ok((sha256, size))
            }
            other => {
                // Parts that stay behind cost room, not truth.
                upload.abort().await.ok();
                Err(other.err().unwrap_or_else(changed))
            }
        }
    }

    pub(super) async fn get_to_file(&self, object: ObjectRef, target: PathBuf) -> Result<(), Error> {
        let got = self.store.get(&self.key(&object.sha256)).await.map_err(|e| match e {
            object_store::Error::NotFound { .. } => super::missing(&object.sha256, &self.url).because(e),
            other => self.failed(other),
        })?;
        let mut body = got.into_stream();
        let (parts, to_write) = mpsc::channel::<Bytes>(QUEUE * 16);
        let writing = tokio::task::spawn_blocking(move || write_parts(&object, &target, to_write));
        let mut broken = None;
        while let Some(bytes) = body.next().await {
            match bytes {
                Ok(bytes) => {
                    if parts.send(bytes).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    broken = Some(self.failed(error));
                    break;
                }
            }
        }
        drop(parts);
        let written = writing
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::Other, "file work was broken off").because(e)));
        // A body that broke off was not kept either: its digest does not fit.
        broken.map_or(written, Err)
    }

    fn failed(&self, error: object_store::Error) -> Error {
        let (kind, text) = match &error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => (
                ErrorKind::Unauthorised,
                format!("the object store `{}` refuses these keys; check the `AWS_*` settings", self.url),
            ),
            _ => (
                ErrorKind::StoreUnavailable,
                format!(
                    "the object store `{}` does not answer as it should; check endpoint and bucket",
                    self.url
                ),
            ),
        };
        Error::new(kind, text).because(error)
    }
}

/// Sends a file in parts and answers the digest of what was sent. Blocks.
fn read_parts(path: &std::path::Path, part: usize, parts: &mpsc::Sender<Bytes>) -> Result<String, Error> {
    let mut file = File::open(path).map_err(|e| Error::file("read", path, e))?;
    let mut hash = Sha256::new();
    loop {
        let mut buffer = vec![0; part];
        let count = digest::read_some(&mut file, &mut buffer).map_err(|e| Error::file("read", path, e))?;
        buffer.truncate(count);
        if buffer.is_empty() {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer);
        if parts.blocking_send(buffer.into()).is_err() {
            return Err(Error::new(ErrorKind::StoreUnavailable, "sending was broken off"));
        }
    }
}

/// Writes what comes aside, and keeps it if it is the object. Blocks.
fn write_parts(
    object: &ObjectRef,
    target: &std::path::Path,
    mut parts: mpsc::Receiver<Bytes>,
) -> Result<(), Error> {
    let mut aside = Aside::beside(target)?;
    let mut file = aside.take_file()?;
    let mut hash = Sha256::new();
    let mut size = 0;
    while let Some(bytes) = parts.blocking_recv() {
        hash.update(&bytes);
        size += bytes.len() as u64;
        file.write_all(&bytes).map_err(|e| Error::file("write", aside.path(), e))?;
    }
    drop(file);
    super::check_bytes(object, &hex::encode(hash.finalize()), size)?;
    aside.keep(target)
}
