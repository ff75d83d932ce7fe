//! Are the farm's streams there, as they should be, and with room?

use super::broker::ask;
use super::{fail, ok, warn};
use crate::context::Session;
use crate::output::words::Check;
use crate::units;
use grange_broker_client::topology;
use serde_json::{Map, Value};

/// Use of a stream above which submits may soon be refused, per cent.
const FULL_PER_CENT: u64 = 80;

/// What no update changes: the stream has to be made anew.
const FIXED: [&str; 4] = ["retention", "storage", "max_consumers", "deny_delete"];

pub(super) async fn checks(session: &Session, clustered: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut right = 0;
    let (mut replicas, mut absent) = (Vec::new(), Vec::new());
    for (name, wanted) in topology::wanted() {
        let told = ask(session, &format!("STREAM.INFO.{name}")).await.unwrap_or_default();
        let Some(config) = told.get("config").and_then(Value::as_object) else {
            absent.push(format!("`{name}`"));
            continue;
        };
        replicas.push(config.get("num_replicas").and_then(Value::as_u64).unwrap_or(1));
        match topology::differences(config, &wanted) {
            differing if differing.is_empty() => right += 1,
            differing => checks.push(differs(&name, config, &wanted, &differing)),
        }
        checks.extend(room(&name, config, &told["state"]));
    }
    if !absent.is_empty() {
        let text = format!("{} not there", absent.join(", "));
        checks.push(fail("streams", text, "`grange init` makes the farm's streams and buckets"));
    }
    if right > 0 {
        checks.insert(0, ok("streams", format!("{right} streams and buckets are as they should be")));
        checks.push(copies(&replicas, clustered));
    }
    checks
}

/// What is wrong, as it is and as it should be, and what mends it.
fn differs(name: &str, config: &Map<String, Value>, wanted: &Value, fields: &[String]) -> Check {
    let shown = |field: &String| {
        let found = config.get(field).map_or_else(|| "nothing".to_owned(), Value::to_string);
        format!("`{field}` is {found}, not {}", wanted[field])
    };
    let shown: Vec<String> = fields.iter().map(shown).collect();
    let fixed = fields.iter().any(|field| FIXED.contains(&field.as_str()));
    let advice = if fixed {
        "it was not made by `grange init`: let the farm run empty, delete the stream, and make it with `grange init`"
    } else {
        "`grange init` changes it to what is needed"
    };
    fail("streams", format!("`{name}`: {}; jobs may be lost or run twice", shown.join("; ")), advice)
}

fn room(name: &str, config: &Map<String, Value>, state: &Value) -> Option<Check> {
    let used = state["bytes"].as_u64()?;
    let limit =
        config.get("max_bytes")?.as_i64().and_then(|bytes| u64::try_from(bytes).ok()).filter(|b| *b > 0)?;
    if config.get("discard")? != "new" || used * 100 < limit * FULL_PER_CENT {
        return None;
    }
    let text = format!("`{name}` uses {} of {}", units::size(used), units::size(limit));
    Some(warn("room", text, "when it is full, submits are refused: `grange init --resize` with more room"))
}

fn copies(replicas: &[u64], clustered: bool) -> Check {
    let least = replicas.iter().copied().min().unwrap_or(1);
    let text = format!("{least} cop{} of everything", if least == 1 { "y" } else { "ies" });
    match (least, clustered) {
        (1, true) => warn(
            "replicas",
            format!("{text}, though the broker is a cluster"),
            "`grange init --replicas 3 --resize` lets jobs survive the loss of a machine",
        ),
        (1, false) => ok("replicas", format!("{text}: right for a single broker")),
        _ => ok("replicas", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn differences_are_named_with_what_mends_them() {
        let wanted = json!({"discard": "new", "retention": "workqueue"});
        let config = object(json!({"discard": "old"}));
        let check = differs("X", &config, &wanted, &["discard".to_owned()]);
        assert!(check.text.contains("`discard` is \"old\", not \"new\""), "{}", check.text);
        assert!(check.advice.unwrap().contains("`grange init` changes it"));
        let check = differs("X", &config, &wanted, &["retention".to_owned()]);
        assert!(check.text.contains("is nothing") && check.advice.unwrap().contains("delete the stream"));
    }

    #[test]
    fn a_full_queue_is_told_before_it_refuses() {
        let config = object(json!({"discard": "new", "max_bytes": 100}));
        assert_eq!(room("X", &config, &json!({"bytes": 79})), None);
        assert!(room("X", &config, &json!({"bytes": 80})).unwrap().text.contains("80 B of 100 B"));
        let old = object(json!({"discard": "old", "max_bytes": 100}));
        assert_eq!(room("X", &old, &json!({"bytes": 99})), None);
    }

    #[test]
    fn one_copy_is_right_for_one_server_only() {
        use crate::output::words::Verdict;
        assert_eq!(copies(&[1, 1], false).verdict, Verdict::Ok);
        assert_eq!(copies(&[3, 1], true).verdict, Verdict::Warn);
        assert_eq!(copies(&[3, 3], true).verdict, Verdict::Ok);
    }
}
