//! Are the farm's streams there, as they should be, and with room?

use super::broker::ask;
use super::{fail, ok, warn};
use crate::context::Session;
use crate::output::words::Check;
use crate::units;
use grange_protocol::schedule::SCHEDULES;
use grange_protocol::subject::{
    AGENTS_BUCKET, DEAD, EVENTS, JOBS, LANES_BUCKET, PLUGINS_BUCKET, RUNS_BUCKET, SESSIONS_BUCKET, STATE,
};
use serde_json::{Value, json};

/// Use of a stream above which submits may soon be refused, per cent.
const FULL_PER_CENT: u64 = 80;

/// A stream, and the settings without which jobs would not be safe (`docs/wire.md`).
struct Wanted {
    name: String,
    settings: Vec<(&'static str, Value)>,
}

fn wanted() -> Vec<Wanted> {
    let stream =
        |name: &str, settings: Vec<(&'static str, Value)>| Wanted { name: name.to_owned(), settings };
    let to = |destination: &str| json!(destination);
    let mut all = vec![
        stream(
            JOBS,
            vec![
                ("/retention", json!("workqueue")),
                ("/discard", json!("new")),
                ("/storage", json!("file")),
                ("/republish/dest", to("grange.bell.>")),
            ],
        ),
        stream(
            STATE,
            vec![
                ("/storage", json!("file")),
                ("/discard", json!("new")),
                ("/max_msgs_per_subject", json!(1)),
                ("/allow_msg_ttl", json!(true)),
                ("/republish/dest", to("grange.on.state.>")),
            ],
        ),
        stream(EVENTS, vec![("/storage", json!("file")), ("/republish/dest", to("grange.on.events.>"))]),
        stream(DEAD, vec![("/storage", json!("file"))]),
        stream(
            SCHEDULES,
            vec![
                ("/storage", json!("file")),
                ("/retention", json!("workqueue")),
                ("/allow_msg_schedules", json!(true)),
            ],
        ),
    ];
    for bucket in [AGENTS_BUCKET, LANES_BUCKET, PLUGINS_BUCKET, SESSIONS_BUCKET, RUNS_BUCKET] {
        all.push(stream(
            &format!("KV_{bucket}"),
            vec![("/max_msgs_per_subject", json!(1)), ("/allow_msg_ttl", json!(true))],
        ));
    }
    all
}

pub(super) async fn checks(session: &Session, clustered: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut right = 0;
    let (mut replicas, mut absent) = (Vec::new(), Vec::new());
    for wanted in wanted() {
        let told = ask(session, &format!("STREAM.INFO.{}", wanted.name)).await.unwrap_or_default();
        let Some(config) = told.get("config") else {
            absent.push(format!("`{}`", wanted.name));
            continue;
        };
        replicas.push(config["num_replicas"].as_u64().unwrap_or(1));
        match differing(config, &wanted.settings) {
            differing if differing.is_empty() => right += 1,
            differing => checks.push(fail(
                "streams",
                format!("`{}` differs in {}", wanted.name, differing.join(", ")),
                "`grange init` changes it to what is needed",
            )),
        }
        checks.extend(room(&wanted.name, config, &told["state"]));
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

fn differing(config: &Value, settings: &[(&'static str, Value)]) -> Vec<String> {
    let wrong = settings.iter().filter(|(path, wanted)| config.pointer(path) != Some(wanted));
    wrong.map(|(path, _)| format!("`{}`", path.trim_start_matches('/').replace('/', "."))).collect()
}

fn room(name: &str, config: &Value, state: &Value) -> Option<Check> {
    let used = state["bytes"].as_u64()?;
    let limit =
        config["max_bytes"].as_i64().and_then(|bytes| u64::try_from(bytes).ok()).filter(|b| *b > 0)?;
    if config["discard"] != "new" || used * 100 < limit * FULL_PER_CENT {
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

    #[test]
    fn differences_are_named() {
        let config = json!({"discard": "old", "republish": {"dest": "x"}});
        let settings =
            [("/discard", json!("new")), ("/republish/dest", json!("x")), ("/storage", json!("file"))];
        assert_eq!(differing(&config, &settings), ["`discard`", "`storage`"]);
    }

    #[test]
    fn a_full_queue_is_told_before_it_refuses() {
        let config = json!({"discard": "new", "max_bytes": 100});
        assert_eq!(room("X", &config, &json!({"bytes": 79})), None);
        assert!(room("X", &config, &json!({"bytes": 80})).unwrap().text.contains("80 B of 100 B"));
        assert_eq!(room("X", &json!({"discard": "old", "max_bytes": 100}), &json!({"bytes": 99})), None);
    }

    #[test]
    fn one_copy_is_right_for_one_server_only() {
        use crate::output::words::Verdict;
        assert_eq!(copies(&[1, 1], false).verdict, Verdict::Ok);
        assert_eq!(copies(&[3, 1], true).verdict, Verdict::Warn);
        assert_eq!(copies(&[3, 3], true).verdict, Verdict::Ok);
    }
}
