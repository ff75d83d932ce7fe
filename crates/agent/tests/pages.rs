//! What the pages say of the agent's configuration and of manifests, compared with the code.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use grange_agent::config::{Config, Flags};
use grange_protocol::manifest::{EnvironmentSpec, Manifest, PluginLimits};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::retry::{self, RetryPolicy};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tables' keys with their defaults as they are written; empty: none.
fn rows(page: &str) -> BTreeMap<String, String> {
    let read = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split('|').collect();
        let key = cells[0].trim_end().strip_suffix('`')?;
        let plain = key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.');
        plain.then(|| (key.to_owned(), cells[1].trim().trim_matches('`').to_owned()))
    };
    page.lines().filter_map(read).collect()
}

/// The words in backticks that an error expects instead of `nothing_of_this_name`.
fn expected(error: &str) -> Vec<String> {
    let (_, list) = error.split_once("unknown field `nothing_of_this_name`, expected ").expect(error);
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn resolve(text: &str) -> Result<Config, String> {
    Config::resolve(text, &BTreeMap::new(), &Flags::default(), "box").map_err(|error| error.to_string())
}

/// Every key of the configuration, as serde knows them.
fn configuration_keys() -> BTreeSet<String> {
    let keys = |before: &str| expected(&resolve(&format!("{before}nothing_of_this_name = 1")).unwrap_err());
    let mut all = BTreeSet::new();
    for key in keys("") {
        match resolve(&format!("{key} = {{}}")).map(|_| keys(&format!("[{key}]\n"))) {
            Ok(inner) => all.extend(inner.iter().map(|inner| format!("{key}.{inner}"))),
            Err(_) => drop(all.insert(key)),
        }
    }
    all.extend(keys("[[inventory.gpu]]\n").iter().map(|key| format!("inventory.gpu.{key}")));
    all
}

#[test]
fn the_page_of_the_agent_has_every_key_and_its_default() {
    let rows = rows(&page("docs/agent.md"));
    let written: BTreeSet<String> = rows.keys().cloned().collect();
    assert_eq!(written, configuration_keys());
    let given = rows.iter().filter(|(_, default)| !default.is_empty());
    let text: String = given.map(|(key, default)| format!("{key} = {default}\n")).collect();
    let defaults = Config { name: "box".to_owned(), ..Config::default() };
    assert_eq!(resolve(&text), Ok(defaults), "{text}");
}

#[test]
fn the_example_is_a_configuration_as_it_is_and_with_every_line_in_use() {
    let example = page("deploy/agent.toml.example");
    assert_eq!(resolve(&example).unwrap().limits.lease_s, 30);
    let is_key = |line: &str| {
        let word = line.split([' ', ']']).next().unwrap_or_default();
        line.starts_with("[[") || (!word.is_empty() && line[word.len()..].starts_with(" = "))
    };
    let used = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if is_key(rest) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let whole = resolve(&example.lines().map(used).collect::<String>()).unwrap();
    assert_eq!((whole.inventory.gpu.len(), whole.inventory.labels["zone"].as_str()), (1, "lab"));
    assert_eq!((whole.limits.keep_warm_s, whole.limits.owner_running_max), (Some(600), Some(100)));
    assert_eq!((whole.reserve.cpus, whole.gpu.per_process), (1, false));
}

fn keys(value: &Value) -> Vec<String> {
    value.as_object().expect("it is an object").keys().cloned().collect()
}

#[test]
fn the_page_of_plugins_has_every_key_of_a_manifest_and_its_default() {
    let whole = json!({"name": "a", "module": "m", "class": "C", "python_path": "p", "config": {},
        "config_schema": {}, "resources": {}});
    let whole = Manifest::read(whole.to_string().as_bytes()).unwrap();
    let mut all: BTreeSet<String> = keys(&serde_json::to_value(&whole).unwrap()).into_iter().collect();
    assert!(all.remove("limits") && all.remove("retry"));
    all.insert("environment".to_owned());
    let sections = [
        ("environment", keys(&serde_json::to_value(EnvironmentSpec::default()).unwrap())),
        ("limits", keys(&serde_json::to_value(PluginLimits::default()).unwrap())),
        ("retry", keys(&serde_json::to_value(whole_policy()).unwrap())),
        ("resources", expected(&resources(r#"{"nothing_of_this_name":1}"#).unwrap_err())),
    ];
    for (section, inner) in sections {
        all.extend(inner.iter().map(|key| format!("{section}.{key}")));
    }
    let rows = rows(&page("docs/plugins.md"));
    assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), all);
    let mut least = json!({"name": "a", "module": "m", "class": "C"});
    let implicit = Manifest::read(least.to_string().as_bytes()).unwrap();
    for (key, default) in rows.iter().filter(|(key, _)| !key.starts_with("resources.")) {
        let (Ok(default), false) = (serde_json::from_str(default), least.get(key).is_some()) else {
            continue;
        };
        match key.split_once('.') {
            None => least[key] = default,
            Some((section @ ("limits" | "retry"), inner)) => least[section][inner] = default,
            Some(_) => {}
        }
    }
    let mut explicit = Manifest::read(least.to_string().as_bytes()).unwrap();
    let said = std::mem::take(&mut explicit.retry);
    assert_eq!(explicit, implicit, "{least}");
    assert_eq!(said, whole_policy(), "{least}");
    assert!(
        least["limits"]["cancel_grace_s"] == 5 && least["max_workers"] == 1,
        "defaults were read: {least}"
    );
}

/// A policy that says what holds where nothing is said.
fn whole_policy() -> RetryPolicy {
    RetryPolicy {
        max_attempts: Some(retry::MAX_ATTEMPTS),
        worker_crashes: Some(retry::WORKER_CRASHES),
        host_losses: Some(retry::HOST_LOSSES),
        backoff_ms: Some(retry::BACKOFF_MS),
        backoff_max_ms: Some(retry::BACKOFF_MAX_MS),
        kinds: Some(retry::KINDS.to_vec()),
    }
}

fn resources(text: &str) -> Result<ResourceRequest, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}
