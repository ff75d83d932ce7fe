//! The end of a job, made ready to show: a large result is fetched, and its objects too where a folder is given.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::words::{Ended, FetchedFile};
use grange_broker_client::objects::{Objects, sha256_file};
use grange_protocol::object::{ObjectError, ObjectRef, list_objects, replace_objects};
use grange_protocol::record::{Outcome, Record, State};
use grange_protocol::subject::JobKey;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest result that is read into memory.
const RESULT_BYTES: u64 = 256 << 20;
/// Most files of one name in a folder.
const SAME_NAME: u32 = 10_000;

/// Reads the outcome of a terminal record. `followed`: its chunks were shown before.
pub(crate) async fn ending(
    context: &Context,
    key: JobKey,
    record: Box<Record>,
    folder: Option<&Path>,
    followed: bool,
) -> Result<Ended, Failure> {
    let mut ended = Ended { key, record, result: None, files: Vec::new(), left: Vec::new(), followed };
    if ended.record.state != State::Succeeded {
        return Ok(ended);
    }
    let outcome = ended.record.outcome.clone().unwrap_or_default();
    let mut result = read_result(context, &outcome).await?;
    let mut objects = list_objects(&result).map_err(|e| Failure::system("the result", &e))?;
    objects.dedup();
    match folder {
        Some(folder) if !objects.is_empty() => {
            ended.files = fetch(&context.objects().await?, &objects, folder).await?;
            put_paths(&mut result, &ended.files);
        }
        _ => ended.left = objects,
    }
    ended.result = Some(result);
    Ok(ended)
}

async fn read_result(context: &Context, outcome: &Outcome) -> Result<Value, Failure> {
    let Some(object) = &outcome.result_object else {
        return Ok(outcome.result.as_ref().map_or(Value::Null, |json| json.value()));
    };
    if object.size > RESULT_BYTES {
        let text = format!("the result has {} bytes; at most {RESULT_BYTES} are read", object.size);
        return Err(
            Failure::new(Exit::Other, text).hint("it lies in the object store, as the job's record says")
        );
    }
    let objects = context.objects().await?;
    let path =
        std::env::temp_dir().join(format!("grange-{}-{}.json", std::process::id(), &object.sha256[..8]));
    objects.get_to_file(object, &path).await.map_err(|e| Failure::of_store(&e))?;
    let text = std::fs::read(&path);
    // Left behind it is only rubbish in the system's folder for that.
    let _ = std::fs::remove_file(&path);
    let text = text.map_err(|e| Failure::system(format!("`{}`", path.display()), &e))?;
    serde_json::from_slice(&text).map_err(|e| Failure::system("the result is not JSON", &e))
}

async fn fetch(objects: &Objects, wanted: &[ObjectRef], folder: &Path) -> Result<Vec<FetchedFile>, Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Failure::system(format!("folder `{}` cannot be made", folder.display()), &e))?;
    let mut files: Vec<FetchedFile> = Vec::new();
    for object in wanted {
        if files.iter().any(|file| file.object == *object) {
            continue;
        }
        let (path, is_there) = place(folder, object)?;
        if !is_there {
            objects.get_to_file(object, &path).await.map_err(|e| Failure::of_store(&e))?;
        }
        files.push(FetchedFile { object: object.clone(), path });
    }
    Ok(files)
}

/// A path in the folder that is free, or has these very bytes (true). Nothing that is there is written over: a
/// plugin chooses the names.
fn place(folder: &Path, object: &ObjectRef) -> Result<(PathBuf, bool), Failure> {
    for count in 1..SAME_NAME {
        let path = folder.join(file_name(&object.name, count));
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((path, false)),
            Err(error) => return Err(Failure::system(format!("`{}`", path.display()), &error)),
            Ok(there) if there.is_file() && there.len() == object.size => {
                let (sha256, _) = sha256_file(&path)?;
                if sha256 == object.sha256 {
                    return Ok((path, true));
                }
            }
            Ok(_) => {}
        }
    }
    let text = format!("folder `{}` has {SAME_NAME} files called `{}`", folder.display(), object.name);
    Err(Failure::new(Exit::Other, text).hint("give another `--out`"))
}

/// `page.png`, then `page-2.png`; never a hidden file.
fn file_name(name: &str, count: u32) -> String {
    let name = match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None => name.to_owned(),
    };
    match name.rsplit_once('.') {
        _ if count == 1 => name,
        Some((stem, extension)) if !stem.is_empty() => format!("{stem}-{count}.{extension}"),
        _ => format!("{name}-{count}"),
    }
}

fn put_paths(result: &mut Value, files: &[FetchedFile]) {
    let paths: BTreeMap<&str, String> =
        files.iter().map(|file| (file.object.sha256.as_str(), file.path.display().to_string())).collect();
    let replaced = replace_objects(result, &mut |object| {
        let path = paths.get(object.sha256.as_str()).cloned();
        Ok::<_, ObjectError>(path.map_or_else(|| object.to_value(), Value::String))
    });
    debug_assert!(replaced.is_ok(), "the same walk found these objects before");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_counted_and_never_hidden() {
        let names: Vec<String> = [("a.png", 1), ("a.png", 2), (".bashrc", 1), ("a", 3), (".x.y", 2)]
            .map(|(name, count)| file_name(name, count))
            .to_vec();
        assert_eq!(names, ["a.png", "a-2.png", "_bashrc", "a-3", "_x-2.y"]);
    }

    #[test]
    fn what_is_there_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "mine").unwrap();
        let (sha256, size) = sha256_file(&folder.path().join("a.txt")).unwrap();
        let same = ObjectRef::new(sha256, size, "a.txt");
        assert_eq!(place(folder.path(), &same).unwrap(), (folder.path().join("a.txt"), true));
        let other = ObjectRef::new("ab".repeat(32), size, "a.txt");
        assert_eq!(place(folder.path(), &other).unwrap(), (folder.path().join("a-2.txt"), false));
    }

    #[tokio::test]
    async fn objects_become_paths() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let objects = Objects::open(store.to_str().unwrap(), &BTreeMap::new()).await.unwrap();
        let object = objects.put_bytes("hello".into(), "a.txt").await.unwrap();
        let mut result = json!({"x": [object.to_value()], "y": object.to_value()});
        let wanted = list_objects(&result).unwrap();
        let files = fetch(&objects, &wanted, &folder.path().join("out")).await.unwrap();
        put_paths(&mut result, &files);
        let path = folder.path().join("out/a.txt");
        assert_eq!(result, json!({"x": [path], "y": path}));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "hello");
        assert_eq!(files.len(), 1);
    }
}
