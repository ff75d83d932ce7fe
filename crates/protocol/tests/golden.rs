//! Every message that crosses a process border, pinned: what is written today is what was written before, and what was
//! written before can still be read. `UPDATE_GOLDEN=1 cargo test -p grange-protocol --test golden` writes the files
//! anew; a change in them is a change of the wire and belongs into `docs/wire.md`.

mod messages;

use messages::{Message, Unknown};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Once;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join("golden")
}

/// All messages; their files are written first, once, when that is wanted.
fn messages() -> Vec<Message> {
    static UPDATE: Once = Once::new();
    let all = messages::messages();
    UPDATE.call_once(|| {
        if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
            for Message { name, text, .. } in &all {
                let path = folder().join(format!("{name}.json"));
                std::fs::write(path, pretty(text.as_bytes())).expect("golden files can be written");
            }
        }
    });
    all
}

fn golden(name: &str) -> String {
    let path = folder().join(format!("{name}.json"));
    std::fs::read_to_string(path).expect("the file is there; UPDATE_GOLDEN=1 writes it")
}

/// JSON text with line breaks and nothing else changed: fields keep their order, numbers and strings their spelling.
fn pretty(text: &[u8]) -> String {
    let text = std::str::from_utf8(text).expect("JSON is UTF-8");
    let (mut out, mut depth, mut in_string, mut escaped) = (String::new(), 0, false, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        let line = |out: &mut String, depth: usize| {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        };
        match c {
            c if c.is_whitespace() => {}
            '{' | '[' => {
                while rest.next_if(|c| c.is_whitespace()).is_some() {}
                out.push(c);
                if let Some(end) = rest.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                in_string = c == '"';
                out.push(c);
            }
        }
    }
    out.push('\n');
    out
}

#[test]
fn what_is_written_is_what_was_written() {
    for Message { name, text, .. } in messages() {
        let kept = golden(name);
        assert_eq!(
            pretty(text.as_bytes()),
            kept,
            "`{name}` changed; if that is meant, UPDATE_GOLDEN=1 writes it"
        );
    }
}

#[test]
fn what_was_written_can_be_read() {
    for Message { name, read, .. } in messages() {
        let Some(read) = read else { continue };
        let kept = golden(name);
        let again = read(kept.as_bytes()).unwrap_or_else(|e| panic!("`{name}` cannot be read: {e}"));
        assert_eq!(pretty(again.as_bytes()), kept, "`{name}` is read as something else");
    }
}

#[test]
fn every_file_is_a_message() {
    let names: BTreeSet<String> = messages().iter().map(|m| format!("{}.json", m.name)).collect();
    assert_eq!(names.len(), messages().len(), "a name is used twice");
    let files = std::fs::read_dir(folder()).unwrap().flatten();
    let files: BTreeSet<String> = files.map(|f| f.file_name().into_string().unwrap()).collect();
    assert_eq!(files, names);
}

/// Values that belong to users, or whose keys are data: what stands in them is carried, not understood.
const CARRIED: [&str; 10] =
    ["args", "kwargs", "result", "value", "config", "config_schema", "schema", "labels", "env_vars", "warm"];
/// A request that is not understood whole must not be granted in part: its unknown fields are refused.
const STRICT: &str = "resources";

/// Puts a field that nobody knows into every object of the message's own shape.
fn add_unknown_fields(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(add_unknown_fields),
        Value::Object(fields) => {
            let carried = |key: &str| CARRIED.contains(&key) || key == STRICT;
            // Of the overview: how many each owner runs. Elsewhere it is a number.
            let known = fields.iter_mut().filter(|(key, _)| !carried(key) && *key != "running");
            known.for_each(|(_, inner)| add_unknown_fields(inner));
            fields.insert("from_the_future".to_owned(), serde_json::json!({"any": ["thing", 1]}));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn an_old_reader_reads_new_data() {
    for Message { name, read, unknown, .. } in messages() {
        let Some(read) = read.filter(|_| unknown != Unknown::Data) else { continue };
        let mut newer: Value = serde_json::from_str(&golden(name)).unwrap();
        add_unknown_fields(&mut newer);
        let read_newer = read(newer.to_string().as_bytes());
        if unknown == Unknown::Kept {
            // A manifest is a file that people write: what is misspelled in its `environment` is told to them.
            newer["environment"].as_object_mut().map(|spec| spec.remove("from_the_future"));
            let again = read(newer.to_string().as_bytes()).unwrap_or_else(|e| panic!("`{name}`: {e}"));
            assert!(again.contains("from_the_future"), "`{name}` lost a field: {again}");
            continue;
        }
        let again = read_newer.unwrap_or_else(|e| panic!("`{name}` with fields of a later version: {e}"));
        let again: Value = serde_json::from_str(&again).unwrap();
        let older: Value = serde_json::from_str(&golden(name)).unwrap();
        assert_eq!(again, older, "`{name}` with fields of a later version");
    }
}

#[test]
fn a_request_with_an_unknown_key_is_refused_wherever_it_stands() {
    let mut tried = 0;
    for Message { name, read, .. } in messages() {
        let Some(read) = read else { continue };
        let mut newer: Value = serde_json::from_str(&golden(name)).unwrap();
        let Some(request) = newer.get_mut(STRICT).and_then(Value::as_object_mut) else { continue };
        request.insert("vramm_mb".to_owned(), 1.into());
        let error = read(newer.to_string().as_bytes()).unwrap_err();
        assert!(error.contains("vramm_mb"), "`{name}`: {error}");
        tried += 1;
    }
    assert_eq!(tried, 3, "a ticket and two manifests");
}

#[test]
fn the_layout_changes_nothing_but_white_space() {
    let text = r#"{"b":[1.50,{}, [ ],"a\"{,:\\"],"a":{"x":null}}"#;
    let laid_out = pretty(text.as_bytes());
    assert_eq!(
        laid_out,
        "{\n  \"b\": [\n    1.50,\n    {},\n    [],\n    \"a\\\"{,:\\\\\"\n  ],\n  \"a\": {\n    \"x\": null\n  }\n}\n"
    );
    assert_eq!(pretty(laid_out.as_bytes()), laid_out);
}
