//! Values between a worker and the farm: files become objects on the way out, objects become paths on the way in.
//!
//! Owns the scratch folder of a run. Never runs anything.

use crate::cache::Cache;
use crate::planted::{self, Bug};
use grange_broker_client::error::ErrorKind;
use grange_broker_client::objects::Objects;
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::json::Json;
use grange_protocol::object::{
    LocalFile, ObjectError, ObjectRef, list_objects, plain_name, replace_files, replace_objects,
};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What becomes of a file once it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The run goes on and may need it.
    Kept,
    /// The run has ended: it is moved where that is cheaper.
    Given,
}

/// Exchanges a chunk that holds files, or is too large for a message, for one that holds references.
pub async fn store_chunk(
    objects: &Objects,
    value: &RawValue,
    scratch: &Path,
    output_bytes: u64,
    inline_bytes: usize,
) -> Result<Json, Failure> {
    let stored = store_files(objects, &Json::from(value), scratch, output_bytes, Left::Kept).await?;
    if stored.text().len() <= inline_bytes {
        return Ok(stored);
    }
    let object = store_text(objects, &stored, "chunk.json").await?;
    Ok(Json::from(&object.to_value()))
}

/// Stores a value's JSON as an object.
pub async fn store_text(objects: &Objects, value: &Json, name: &str) -> Result<ObjectRef, Failure> {
    let stored = objects.put_bytes(value.text().as_bytes().to_vec().into(), name).await;
    stored.map_err(|e| Failure::new(FailureKind::StoreFailed, format!("`{name}` could not be stored: {e}")))
}

/// Stores every `$file` of a value and puts references in their places.
pub async fn store_files(
    objects: &Objects,
    value: &Json,
    scratch: &Path,
    output_bytes: u64,
    left: Left,
) -> Result<Json, Failure> {
    let mut tree = read_tree(value, FailureKind::Unserialisable).map_err(|failure| *failure)?;
    let mut files: Vec<LocalFile> = Vec::new();
    let malformed = |e: ObjectError| Failure::new(FailureKind::Unserialisable, e.to_string());
    replace_files(&mut tree, &mut |file| {
        files.push(file);
        Ok::<_, ObjectError>(Value::Null)
    })
    .map_err(malformed)?;
    let mut stored: HashMap<&str, ObjectRef> = HashMap::new();
    for file in &files {
        if !stored.contains_key(file.path.as_str()) {
            stored.insert(&file.path, store_file(objects, file, scratch, output_bytes, left).await?);
        }
    }
    tree = value.value();
    replace_files(&mut tree, &mut |file| {
        Ok::<_, ObjectError>(stored.get(file.path.as_str()).map_or(Value::Null, ObjectRef::to_value))
    })
    .map_err(malformed)?;
    Ok(Json::from(&tree))
}

/// Reads a value as a tree. What is nested deeper than the reader goes is no tree, and must not pass for nothing.
fn read_tree(value: &Json, kind: FailureKind) -> Result<Value, Box<Failure>> {
    let said = |e| Box::new(Failure::new(kind, format!("a value with files cannot be read: {e}")));
    value.read().map_err(said)
}

async fn store_file(
    objects: &Objects,
    file: &LocalFile,
    scratch: &Path,
    output_bytes: u64,
    left: Left,
) -> Result<ObjectRef, Failure> {
    let path = PathBuf::from(&file.path);
    let refuse = |kind, why: String| Failure::new(kind, format!("result file `{}` {why}", file.path));
    let found = tokio::fs::symlink_metadata(&path).await;
    let found = found.map_err(|e| refuse(FailureKind::PluginFailed, format!("cannot be read: {e}")))?;
    if !found.is_file() {
        return Err(refuse(FailureKind::PluginFailed, "is not a regular file".to_owned()));
    }
    if !file.temp && !path.starts_with(scratch) {
        return Err(refuse(FailureKind::PluginFailed, "is outside the job's scratch folder".to_owned()));
    }
    if found.len() > output_bytes {
        let why = format!("has {} bytes; the limit is {output_bytes}", found.len());
        return Err(refuse(FailureKind::OutputTooLarge, why));
    }
    let name = if file.name.is_empty() { plain_name(&file.path) } else { plain_name(&file.name) };
    // A temporary file was made for nothing else than to be sent.
    let left = if file.temp { Left::Given } else { left };
    let stored = match left {
        Left::Kept => objects.put_file(&path, &name).await,
        Left::Given => objects.adopt_file(&path, &name).await,
    };
    stored.map_err(|e| refuse(FailureKind::StoreFailed, format!("could not be stored: {e}")))
}

/// Whether a ticket's arguments may hold references; plain text search, so that most jobs cost nothing.
pub fn has_objects(value: &Json) -> bool {
    value.text().contains("\"$object\"")
}

/// Fetches every object of the arguments into the run's scratch folder and puts paths in their places.
pub async fn fetch_inputs(cache: &Cache, value: &Json, scratch: &Path) -> Result<Json, Failure> {
    let invalid = |e: ObjectError| Failure::new(FailureKind::InvalidInput, e.to_string());
    let mut tree = read_tree(value, FailureKind::InvalidInput).map_err(|failure| *failure)?;
    let wanted = list_objects(&tree).map_err(invalid)?;
    let mut paths = Vec::with_capacity(wanted.len());
    for (place, object) in wanted.iter().enumerate() {
        let folder = scratch.join("in").join(place.to_string());
        let path = folder.join(&object.name);
        let fetched = cache.place(object, &path).await;
        fetched.map_err(|e| {
            let hint = match e.kind() {
                ErrorKind::DigestMismatch => "submit it again",
                ErrorKind::NotFound => "submit it again: it was never stored, or is gone",
                _ => "look at the object store",
            };
            let text = format!("input `{}` ({}) cannot be had: {e}; {hint}", object.name, object.url);
            Failure::new(FailureKind::InputUnavailable, text)
        })?;
        paths.push(path);
    }
    let mut next = paths.iter();
    replace_objects(&mut tree, &mut |_| {
        let path = next.next().map(|path| path.to_string_lossy().into_owned());
        Ok::<_, ObjectError>(path.map_or(Value::Null, Value::String))
    })
    .map_err(invalid)?;
    Ok(Json::from(&tree))
}

/// Removes a run's scratch folder, if it was ever made. Most never were, or are empty: that costs one system call.
pub async fn clear_scratch(scratch: PathBuf) {
    if scratch.as_os_str().is_empty() || planted::is(Bug::KeepScratch) {
        return;
    }
    match std::fs::remove_dir(&scratch) {
        Ok(()) => return,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(_) => {}
    }
    match tokio::fs::remove_dir_all(&scratch).await {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(folder = %scratch.display(), %error, "scratch folder could not be removed")
        }
    }
}
