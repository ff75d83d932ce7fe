//! References to bytes in the object store, named by digest, and finding them inside JSON values.

use crate::limit::MAX_DEPTH;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The key that marks an object reference inside a value.
pub const OBJECT_MARK: &str = "$object";
/// The key that marks a local file inside a worker's value.
pub const FILE_MARK: &str = "$file";

/// Bytes in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// SHA-256 of the bytes, 64 lower-case hex digits.
    pub sha256: String,
    /// Length in bytes.
    pub size: u64,
    /// The name that the file should have where it is written out; a plain file name.
    pub name: String,
    /// Where it lies: `object:<sha256>` in the farm's store.
    pub url: String,
}

/// Why a reference cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The mark is there, the content is not a reference.
    #[error("`$object` at `{at}` is not a reference: {why}")]
    Malformed {
        /// The path to the value.
        at: String,
        /// What is wrong.
        why: String,
    },
    /// Nested deeper than the limit.
    #[error("value at `{at}` is nested deeper than the limit of {MAX_DEPTH}")]
    TooDeep {
        /// The path to the value.
        at: String,
    },
}

impl ObjectRef {
    /// A reference into the farm's store. The name is reduced to a plain file name.
    pub fn new(sha256: impl Into<String>, size: u64, name: &str) -> Self {
        let sha256 = sha256.into();
        let url = format!("object:{sha256}");
        Self { sha256, size, name: plain_name(name), url }
    }

    /// The value that stands for the object in arguments and results.
    pub fn to_value(&self) -> Value {
        let inner = serde_json::to_value(self).expect("a reference is always JSON");
        Value::Object(Map::from_iter([(OBJECT_MARK.to_owned(), inner)]))
    }

    fn from_value(inner: &Value, at: &str) -> Result<Self, ObjectError> {
        let malformed = |why: String| ObjectError::Malformed { at: at.to_owned(), why };
        let mut object: Self = serde_json::from_value(inner.clone()).map_err(|e| malformed(e.to_string()))?;
        if !is_digest(&object.sha256) {
            return Err(malformed(format!("`{}` is not a SHA-256 in hex", object.sha256)));
        }
        object.name = plain_name(&object.name);
        Ok(object)
    }
}

/// Whether a text is a SHA-256 in lower-case hex. Only such a text may become part of a path.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The last part of a path, without anything that could lead elsewhere; `file` when nothing is left.
pub fn plain_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().filter(|c| !c.is_control()).take(200).collect();
    match clean.as_str() {
        "" | "." | ".." => "file".to_owned(),
        _ => clean,
    }
}

/// Replaces every object reference in a value, at any depth, by what `exchange` makes of it.
pub fn replace_objects<E: From<ObjectError>>(
    value: &mut Value,
    exchange: &mut dyn FnMut(ObjectRef) -> Result<Value, E>,
) -> Result<(), E> {
    walk(value, "value", 0, &mut |mark, inner, at| match mark {
        OBJECT_MARK => exchange(ObjectRef::from_value(inner, at)?).map(Some),
        _ => Ok(None),
    })
}

/// Every object reference in a value.
pub fn list_objects(value: &Value) -> Result<Vec<ObjectRef>, ObjectError> {
    let mut found = Vec::new();
    let mut copy = value.clone();
    replace_objects(&mut copy, &mut |object| {
        found.push(object);
        Ok::<_, ObjectError>(Value::Null)
    })?;
    Ok(found)
}

/// A file that a worker wants stored (`docs/worker-link.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalFile {
    /// Absolute path.
    pub path: String,
    /// What to call it.
    #[serde(default)]
    pub name: String,
    /// Remove it once stored.
    #[serde(default)]
    pub temp: bool,
}

/// Replaces every `$file` mark in a worker's value.
pub fn replace_files<E: From<ObjectError>>(
    value: &mut Value,
    exchange: &mut dyn FnMut(LocalFile) -> Result<Value, E>,
) -> Result<(), E> {
    walk(value, "value", 0, &mut |mark, inner, at| match mark {
        FILE_MARK => {
            let file = serde_json::from_value(inner.clone())
                .map_err(|e| ObjectError::Malformed { at: at.to_owned(), why: e.to_string() })?;
            exchange(file).map(Some)
        }
        _ => Ok(None),
    })
}

type Visit<'a, E> = dyn FnMut(&str, &Value, &str) -> Result<Option<Value>, E> + 'a;

fn walk<E: From<ObjectError>>(
    value: &mut Value,
    at: &str,
    depth: usize,
    visit: &mut Visit<'_, E>,
) -> Result<(), E> {
    if depth > MAX_DEPTH {
        return Err(ObjectError::TooDeep { at: at.to_owned() }.into());
    }
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                walk(item, &format!("{at}[{i}]"), depth + 1, visit)?;
            }
        }
        Value::Object(fields) => {
            let marked = match fields.iter().next() {
                Some((mark, inner)) if fields.len() == 1 && mark.starts_with('$') => visit(mark, inner, at)?,
                _ => None,
            };
            match marked {
                Some(new) => *value = new,
                None => {
                    for (key, item) in fields.iter_mut() {
                        walk(item, &format!("{at}.{key}"), depth + 1, visit)?;
                    }
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_at_any_depth() {
        let object = ObjectRef::new("ab".repeat(32), 3, "/etc/../x.png");
        assert_eq!(object.name, "x.png");
        let value = json!({"a": [1, {"b": object.to_value()}], "c": "$object"});
        assert_eq!(list_objects(&value).unwrap(), vec![object]);
    }

    #[test]
    fn a_bad_reference_names_its_place() {
        let value = json!({"a": [{"$object": {"sha256": "../x", "size": 1, "name": "n", "url": ""}}]});
        let error = list_objects(&value).unwrap_err().to_string();
        assert!(error.contains("value.a[0]") && error.contains("not a SHA-256"), "{error}");
    }

    #[test]
    fn depth_is_limited() {
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        assert!(matches!(list_objects(&deep), Err(ObjectError::TooDeep { .. })));
    }

    #[test]
    fn names_never_lead_elsewhere() {
        for (given, kept) in [("../..", "file"), ("a/b", "b"), ("a\\c", "c"), ("", "file"), ("x\n", "x")] {
            assert_eq!(plain_name(given), kept);
        }
    }
}
