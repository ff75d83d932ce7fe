//! A job's arguments from the command line: `key=value`, `--file name=path`, `--args-json`.
//!
//! Owns reading and joining them. Never touches the object store: files are named here and sent by `submit`.

use crate::failure::Failure;
use grange_protocol::json::Json;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What a job is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) args: Vec<Value>,
    pub(crate) kwargs: Map<String, Value>,
    /// Files that are to be sent, and the argument that each becomes.
    pub(crate) files: Vec<(String, PathBuf)>,
}

impl Arguments {
    /// Reads all three; a name may be given once.
    pub(crate) fn read(pairs: &[String], files: &[String], json: &[String]) -> Result<Self, Failure> {
        let mut arguments = Self::default();
        for text in json {
            arguments.take_json(text)?;
        }
        for pair in pairs {
            let (key, value) = split_pair(pair, "key=value")?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            arguments.check_new(key)?;
            arguments.kwargs.insert(key.to_owned(), value);
        }
        for pair in files {
            let (name, path) = split_pair(pair, "--file name=path")?;
            arguments.check_new(name)?;
            arguments.files.push((name.to_owned(), readable_file(Path::new(path))?));
        }
        Ok(arguments)
    }

    fn take_json(&mut self, text: &str) -> Result<(), Failure> {
        let from_file = match text.strip_prefix('@') {
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|e| Failure::usage(format!("`--args-json`: `{path}` cannot be read: {e}")))?,
            ),
            None => None,
        };
        let value = serde_json::from_str(from_file.as_deref().unwrap_or(text)).map_err(|e| {
            Failure::usage(format!("`--args-json` is not JSON: {e}"))
                .hint("quote it for the shell, e.g. --args-json '{\"text\": \"hello\"}', or give a file: @args.json")
        })?;
        match value {
            Value::Array(items) => self.args.extend(items),
            Value::Object(fields) => {
                for (key, value) in fields {
                    self.check_new(&key)?;
                    self.kwargs.insert(key, value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Err(Failure::usage(
                    "`--args-json` takes an object (named arguments) or an array (positional ones)",
                ));
            }
        }
        Ok(())
    }

    fn check_new(&self, key: &str) -> Result<(), Failure> {
        if self.kwargs.contains_key(key) || self.files.iter().any(|(name, _)| name == key) {
            return Err(Failure::usage(format!("argument `{key}` is given twice")));
        }
        Ok(())
    }

    /// As the ticket carries them; None where there are none.
    pub(crate) fn into_json(self) -> (Option<Json>, Option<Json>) {
        let args = (!self.args.is_empty()).then(|| Json::from(&Value::Array(self.args)));
        let kwargs = (!self.kwargs.is_empty()).then(|| Json::from(&Value::Object(self.kwargs)));
        (args, kwargs)
    }
}

fn split_pair<'a>(pair: &'a str, form: &str) -> Result<(&'a str, &'a str), Failure> {
    match pair.split_once('=') {
        Some((key, _)) if key.trim().is_empty() => {
            Err(Failure::usage(format!("`{pair}` has nothing before the `=`; use `{form}`")))
        }
        Some((key, value)) => Ok((key.trim(), value)),
        None => {
            let failure = Failure::usage(format!("`{pair}` is not `{form}`"));
            Err(if Path::new(pair).is_file() {
                failure.hint(format!("to send a file, say for which argument: --file NAME={pair}"))
            } else {
                failure.hint("a value with spaces needs quotes: text='hello world'")
            })
        }
    }
}

fn readable_file(path: &Path) -> Result<PathBuf, Failure> {
    let shown = path.display();
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(file) if file.is_file() => Ok(path.to_owned()),
        Ok(file) if file.is_dir() => {
            Err(Failure::usage(format!("`{shown}` is a folder; `--file` sends one file"))
                .hint("pack it first, e.g. with tar"))
        }
        Ok(_) => Err(Failure::usage(format!("`{shown}` is not a plain file"))),
        Err(error) => Err(Failure::usage(format!("file `{shown}` cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(pairs: &[&str], json: &[&str]) -> Result<Arguments, Failure> {
        let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Arguments::read(&own(pairs), &[], &own(json))
    }

    #[test]
    fn a_value_is_json_or_a_text() {
        let arguments =
            read(&["n=3", "on=true", "text=hello world", "list=[1,2]", "s=\"3\"", "e=", "eq=a=b"], &[])
                .unwrap();
        let wanted = json!({"n": 3, "on": true, "text": "hello world", "list": [1, 2], "s": "3", "e": "", "eq": "a=b"});
        assert_eq!(Value::Object(arguments.kwargs), wanted);
    }

    #[test]
    fn json_gives_positional_and_named_arguments() {
        let arguments = read(&["c=1"], &["[1, \"x\"]", "{\"a\": null}"]).unwrap();
        assert_eq!(arguments.args, [json!(1), json!("x")]);
        assert_eq!(Value::Object(arguments.kwargs), json!({"a": null, "c": 1}));
        assert_eq!(read(&[], &[]).unwrap().into_json(), (None, None));
    }

    #[test]
    fn bad_ones_are_named() {
        let said = |pairs: &[&str], json: &[&str]| {
            let failure = read(pairs, json).unwrap_err();
            assert_eq!(failure.exit, crate::failure::Exit::Usage);
            failure.text
        };
        assert_eq!(said(&["hello"], &[]), "`hello` is not `key=value`");
        assert_eq!(said(&["=x"], &[]), "`=x` has nothing before the `=`; use `key=value`");
        assert_eq!(said(&["a=1", "a=2"], &[]), "argument `a` is given twice");
        assert!(said(&[], &["{"]).contains("is not JSON"));
        assert!(said(&[], &["3"]).contains("an object (named arguments) or an array"));
        assert!(said(&[], &["@/nonexistent"]).contains("`/nonexistent` cannot be read"));
    }

    #[test]
    fn files_are_looked_at_before_anything_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.png");
        let pair = |path: &Path| vec![format!("page={}", path.display())];
        let said = |path: &Path| Arguments::read(&[], &pair(path), &[]).unwrap_err().text;
        assert!(said(&path).contains("cannot be read: No such file"), "{}", said(&path));
        assert!(said(folder.path()).contains("is a folder"));
        std::fs::write(&path, "x").unwrap();
        let arguments = Arguments::read(&[], &pair(&path), &[]).unwrap();
        assert_eq!(arguments.files, [("page".to_owned(), path.clone())]);
        let twice = Arguments::read(&["page=1".to_owned()], &pair(&path), &[]).unwrap_err();
        assert_eq!(twice.text, "argument `page` is given twice");
    }
}
