//! JSON values for people: a chunk is one line, a result is a small table.

use super::screen::{Look, Style, clean, clean_lines, cut};
use super::table::{Cell, Table};
use crate::units;
use grange_protocol::object::{ObjectError, replace_objects};
use serde_json::{Map, Value};

/// Names of a chunk's own number, of how many there are, and of how sure the plugin is.
const NUMBERS: [&str; 6] = ["line", "segment", "page", "index", "number", "n"];
const TOTALS: [&str; 2] = ["of", "total"];
const CONFIDENCES: [&str; 3] = ["confidence", "score", "probability"];
/// Longest JSON text that a terminal shows of one chunk.
const CHUNK_CHARACTERS: usize = 500;
const INDENT: &str = "  ";

/// One chunk, as one line.
pub(super) fn chunk_line(value: &Value, look: Look) -> String {
    match value {
        Value::Object(fields) if fields.get("text").is_some_and(Value::is_string) => text_chunk(fields, look),
        Value::String(text) => format!("{INDENT}{}", one_line(text)),
        other => {
            let text = compact(other);
            let text = if look.terminal { cut(&text, CHUNK_CHARACTERS) } else { text };
            format!("{INDENT}{text}")
        }
    }
}

/// `12/25  0.98  Dear reader,`
fn text_chunk(fields: &Map<String, Value>, look: Look) -> String {
    let first = |names: &[&str]| names.iter().find_map(|name| fields.get(*name)).filter(|v| v.is_number());
    let mut parts = Vec::new();
    match (first(&NUMBERS), first(&TOTALS)) {
        (Some(number), Some(of)) => {
            let of = of.to_string();
            parts.push(
                look.paint(Style::Dim, &format!("{:>width$}/{of}", number.to_string(), width = of.len())),
            );
        }
        (Some(number), None) => parts.push(look.paint(Style::Dim, &format!("{:>3}", number.to_string()))),
        (None, _) => {}
    }
    if let (Some(start), Some(end)) = (first(&["start"]), first(&["end"])) {
        let seconds = |v: &Value| format!("{:.1}", v.as_f64().unwrap_or_default());
        parts.push(look.paint(Style::Dim, &format!("{:>6}–{} s", seconds(start), seconds(end))));
    }
    if let Some(confidence) = first(&CONFIDENCES).and_then(Value::as_f64) {
        let style = if confidence < 0.8 { Style::Yellow } else { Style::Green };
        parts.push(look.paint(style, &format!("{confidence:.2}")));
    }
    parts.push(one_line(fields["text"].as_str().unwrap_or_default()));
    format!("{INDENT}{}", parts.join("  "))
}

fn one_line(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join(" ⏎ ")
}

/// A result, as lines. `brief`: a text of several lines was streamed already and is only hinted at.
pub(super) fn result_lines(value: &Value, brief: bool, look: Look) -> Vec<String> {
    match value {
        Value::Object(fields) if !fields.is_empty() && !fields.contains_key("$object") => {
            object_lines(fields, brief, look)
        }
        Value::String(text) => clean_lines(text).lines().map(str::to_owned).collect(),
        Value::Array(items) if items.iter().any(|v| v.is_object() || v.is_array()) => {
            items.iter().map(compact).collect()
        }
        other => vec![compact(other)],
    }
}

fn object_lines(fields: &Map<String, Value>, brief: bool, look: Look) -> Vec<String> {
    let is_long = |value: &Value| value.as_str().is_some_and(|text| text.trim_end().contains('\n'));
    let mut table = Table::new(["", ""]);
    for (name, value) in fields.iter().filter(|(_, value)| brief || !is_long(value)) {
        let shown = match value.as_str() {
            Some(text) if is_long(value) => {
                let mut lines = text.trim_end().lines();
                let first = cut(lines.next().unwrap_or_default(), 50);
                format!("{first} … ({} lines)", lines.count() + 1)
            }
            Some(text) => text.trim_end().to_owned(),
            None => compact(value),
        };
        table.row([Cell::styled(format!("{INDENT}{name}"), Style::Dim), shown.into()]);
    }
    let mut lines = table.lines(look);
    for (name, value) in fields.iter().filter(|(_, value)| !brief && is_long(value)) {
        lines.push(look.paint(Style::Dim, &format!("{INDENT}{}", clean(name))));
        let text = value.as_str().unwrap_or_default();
        lines.extend(text.lines().map(|line| format!("{INDENT}{INDENT}{}", clean(line))));
    }
    lines
}

/// JSON in one line, with objects by name and size.
pub(super) fn compact(value: &Value) -> String {
    let mut shown = value.clone();
    let named = replace_objects(&mut shown, &mut |object| {
        let text = format!("object `{}` ({})", object.name, units::size(object.size));
        Ok::<_, ObjectError>(Value::String(text))
    });
    // What is not quite a reference is shown as it is.
    let shown = if named.is_ok() { &shown } else { value };
    match shown {
        Value::String(text) if value.is_object() => clean(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::object::ObjectRef;
    use serde_json::json;

    #[test]
    fn a_chunk_is_one_line() {
        let line = |value: Value| chunk_line(&value, Look::PIPE);
        let read =
            json!({"line": 3, "of": 25, "text": "Dear reader,", "confidence": 0.9812, "box": [[0, 1]]});
        assert_eq!(line(read), "   3/25  0.98  Dear reader,");
        let heard = json!({"segment": 1, "start": 0.0, "end": 2.5, "text": "hello", "confidence": 0.5});
        assert_eq!(line(heard), "    1     0.0–2.5 s  0.50  hello");
        assert_eq!(line(json!({"n": 0, "text": "a\nb\u{1b}"})), "    0  a ⏎ b");
        assert_eq!(line(json!("plain")), "  plain");
        assert_eq!(line(json!({"x": [1, 2]})), "  {\"x\":[1,2]}");
    }

    #[test]
    fn a_result_is_a_small_table() {
        let picture = ObjectRef::new("ab".repeat(32), 2048, "page.png");
        let value = json!({"lines": 2, "text": "one\ntwo", "picture": picture.to_value()});
        let brief = result_lines(&value, true, Look::PIPE);
        assert_eq!(brief[0], "  lines    2");
        assert_eq!(brief[1], "  picture  object `page.png` (2.0 KiB)");
        assert_eq!(brief[2], "  text     one … (2 lines)");
        let full = result_lines(&value, false, Look::PIPE);
        assert_eq!(full[2..], ["  text", "    one", "    two"]);
        assert_eq!(result_lines(&json!("a\nb"), true, Look::PIPE), ["a", "b"]);
        assert_eq!(result_lines(&json!([1, 2]), true, Look::PIPE), ["[1,2]"]);
        assert_eq!(result_lines(&json!(null), true, Look::PIPE), ["null"]);
    }
}
