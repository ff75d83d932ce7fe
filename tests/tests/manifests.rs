//! Plugin folders: which manifests count, and what is said of the others.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_tests::{Farm, Returned, plugin};
use serde_json::{Value, json};
use std::path::Path;

fn gate(changes: &Value) -> Value {
    let mut manifest =
        json!({"name": "good", "module": "gate", "class": "Gate", "paths": [plugin("gate")], "version": "1"});
    for (key, value) in changes.as_object().unwrap() {
        manifest[key] = value.clone();
    }
    manifest
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn manifests_that_cannot_be_used_are_told_and_keep_no_other_back() {
    let farm = Farm::start().await;
    let folder = farm.path("plugins");
    let bad = [
        ("a-not-json.json", "{\"name\": ".to_owned(), "not valid"),
        ("b-list.json", "[]".to_owned(), "not valid"),
        ("c-name.json", gate(&json!({"name": "my.plugin"})).to_string(), "my.plugin"),
        ("d-no-class.json", json!({"name": "x", "module": "m"}).to_string(), "has no `class`"),
        (
            "e-both.json",
            gate(&json!({"name": "y", "command": ["x"]}))
                .to_string()
                .replace("1\"", "1\", \"python_path\": \"p\""),
            "keep one",
        ),
        ("f-many.json", gate(&json!({"name": "z", "concurrency": 0})).to_string(), "1 to 1024"),
        ("g-large.json", format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20)), "exceed"),
        ("h-utf.json", "\u{feff}{}".to_owned(), "not valid"),
    ];
    for (name, text, _) in &bad {
        write(&folder, name, text);
    }
    std::os::unix::fs::symlink("/nonexistent", folder.join("i-broken-link.json")).unwrap();
    write(&folder, "readme.txt", "no manifest");
    write(&folder, "empty/readme.txt", "no plugin");
    write(&folder, "zz-good.json", &gate(&json!({})).to_string());
    let _agent = farm.agent("h1", &[folder]).await;
    let client = farm.client("alice").await;
    let status = client.wait_for_plugins("h1").await;
    let names: Vec<&str> = status.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    assert_eq!((names, status.notices.len()), (vec!["good"], bad.len()), "{:?}", status.notices);
    for ((name, _, text), notice) in bad.iter().zip(&status.notices) {
        assert!(notice.contains(name) && notice.contains(text), "{notice}");
        assert!(notice.len() < 2_000, "a notice is short");
    }
    client.run("good", &json!({})).await.value();
}

#[tokio::test]
async fn the_first_folder_that_has_a_name_wins() {
    let farm = Farm::start().await;
    let (first, second) = (farm.path("first"), farm.path("second"));
    write(&first, "deep/plugin.json", &gate(&json!({"version": "1.0"})).to_string());
    write(&second, "good.json", &gate(&json!({"version": "2.0", "module": "nowhere"})).to_string());
    write(&second, "other.json", &gate(&json!({"name": "other"})).to_string());
    let _agent = farm.agent("h1", &[first, second]).await;
    let client = farm.client("alice").await;
    let status = client.wait_for_plugins("h1").await;
    let found: Vec<(&str, &str)> =
        status.plugins.iter().map(|plugin| (plugin.name.as_str(), plugin.version.as_str())).collect();
    assert_eq!(found, [("good", "1.0"), ("other", "1")]);
    assert!(
        status.notices.len() == 1 && status.notices[0].contains("second/good.json"),
        "{:?}",
        status.notices
    );
    for name in ["good", "other"] {
        client.run(name, &json!({})).await.value();
    }
}
