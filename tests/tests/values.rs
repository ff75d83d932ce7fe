//! Values both ways: what plugins return, and files that jobs bring.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::objects::Objects;
use grange_protocol::failure::FailureKind;
use grange_protocol::object::ObjectRef;
use grange_protocol::record::State;
use grange_tests::{Client, Farm, Returned, eventually, lines, plugin};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

async fn store(farm: &Farm) -> Objects {
    Objects::open(&farm.objects_url(), &BTreeMap::new()).await.unwrap()
}

fn reference(value: &Value) -> ObjectRef {
    assert_eq!(value.as_object().map(serde_json::Map::len), Some(1), "{value}");
    serde_json::from_value(value["$object"].clone()).unwrap()
}

async fn content(farm: &Farm, object: &ObjectRef) -> Vec<u8> {
    let path = farm.path(&format!("got-{}", object.sha256));
    store(farm).await.get_to_file(object, &path).await.unwrap();
    std::fs::read(path).unwrap()
}

async fn put(farm: &Farm, name: &str, bytes: &[u8]) -> ObjectRef {
    let path = farm.path(name);
    std::fs::write(&path, bytes).unwrap();
    store(farm).await.put_file(&path, name).await.unwrap()
}

async fn at_work(farm: &Farm) -> (grange_tests::Agent, Client) {
    let agent = farm.agent("h1", &[plugin("values")]).await;
    (agent, farm.client("alice").await)
}

/// The record comes first, then the folder goes.
async fn no_scratch_is_left(agent: &grange_tests::Agent) {
    let folder = agent.plan().state.join("scratch");
    eventually("no scratch folder is left", Duration::from_secs(10), async || {
        // A worker that is there keeps its folder, with an empty one for temporary files in it.
        let inside = |folder: &Path| -> Vec<PathBuf> {
            let found = std::fs::read_dir(folder).into_iter().flatten();
            found.map(|entry| entry.unwrap().path()).collect()
        };
        let found = inside(&folder).into_iter().flat_map(|worker| inside(&worker));
        let left = found.filter(|path| !path.ends_with("tmp") || !inside(path).is_empty());
        match left.collect::<Vec<_>>() {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn file_backed_values_become_objects_wherever_they_stand() {
    let farm = Farm::start().await;
    let temporary = farm.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut plan = farm.plan("h1", &[plugin("values")]);
    plan.environment.push(("TMPDIR".to_owned(), temporary.to_string_lossy().into_owned()));
    let agent = plan.start();
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    let value = client.run("values", &json!({"kind": "pictures"})).await.value();
    let (first, second) = (reference(&value["pages"][0]["image"]), reference(&value["pages"][1]["image"]));
    assert_eq!(content(&farm, &first).await, b"first picture");
    assert_eq!(content(&farm, &second).await, b"second picture");
    assert_eq!(reference(&value["first"]).sha256, first.sha256);
    assert!(first.name.ends_with(".png") && value["pages"][1]["n"] == 2, "{value}");
    let left: Vec<_> = std::fs::read_dir(&temporary).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "temporary files are left: {left:?}");
    drop(agent);
}

#[tokio::test]
async fn a_path_in_the_scratch_folder_becomes_an_object_and_no_other_does() {
    let farm = Farm::start().await;
    let (agent, client) = at_work(&farm).await;
    let record = client.run("values", &json!({"kind": "files"})).await;
    let value = record.value();
    let file = reference(&value["file"]);
    assert_eq!((file.name.as_str(), content(&farm, &file).await), ("report.txt", b"a report".to_vec()));
    assert_eq!(value["outside"], "/etc/hostname");
    let text = value["text"].as_str().unwrap();
    assert!(text.ends_with("deep/report.txt") && !Path::new(text).exists(), "{text}");
    client.run("values", &json!({"kind": "nothing"})).await;
    no_scratch_is_left(&agent).await;
}

#[tokio::test]
async fn bytes_travel_inline_when_small_and_as_objects_when_large() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let value = client.run("values", &json!({"kind": "bytes"})).await.value();
    assert_eq!(value["small"], json!({"$bytes": "AP9hYg=="}));
    assert_eq!(content(&farm, &reference(&value["large"][0])).await, vec![0; 200_000]);
}

#[tokio::test]
async fn what_python_has_becomes_json() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let value = client.run("values", &json!({"kind": "dataclass"})).await.value();
    assert_eq!(value, json!([{"text": "hello", "box": [1, 2]}, {"nested": {"text": "x", "box": []}}]));
    let value = client.run("values", &json!({"kind": "others"})).await.value();
    let expected = json!({"enum": "red", "day": "2024-02-29", "sum": "1.50", "set": [1, 2, 3], "inf": null});
    assert_eq!(value, expected);
    let record = client.run("values", &json!({"kind": "nothing"})).await;
    assert_eq!(record.value(), Value::Null);
    let record = client.run("values", &json!({"kind": "lock"})).await;
    assert_eq!(record.failure().kind, FailureKind::Unserialisable);
    assert!(record.failure().message.contains("result.pages[1].image"), "{}", record.failure());
}

/// The interpreter that has the packages of the tests: told by `make`, else the one that `make` made.
fn test_python() -> Option<PathBuf> {
    let told = std::env::var_os("GRANGE_TEST_PYTHON").map(PathBuf::from);
    told.or_else(|| Some(grange_tests::repository().join(".tools/venv/bin/python"))).filter(|p| p.is_file())
}

#[tokio::test]
async fn numpy_values_become_json() {
    let Some(python) = test_python() else {
        println!("skipped: no interpreter with numpy; `make test` has one");
        return;
    };
    let farm = Farm::start().await;
    let folder = farm.path("numpy");
    std::fs::create_dir(&folder).unwrap();
    let manifest = json!({
        "name": "numpy-values", "module": "values_plugin", "class": "Values",
        "python_path": python, "paths": [plugin("values")],
    });
    std::fs::write(folder.join("plugin.json"), manifest.to_string()).unwrap();
    let _agent = farm.agent("h1", &[folder]).await;
    let client = farm.client("alice").await;
    let value = client.run("numpy-values", &json!({"kind": "numbers"})).await.value();
    let expected =
        json!({"f": 0.5, "i": 7, "b": true, "a": [[0, 1, 2], [3, 4, 5]], "nan": null, "deep": [{"x": 255}]});
    assert_eq!(value, expected);
}

#[tokio::test]
async fn a_big_result_travels_by_reference() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let record = client.run("values", &json!({"kind": "big"})).await;
    let outcome = record.outcome.as_ref().unwrap();
    assert_eq!((record.state, outcome.result.as_ref()), (State::Succeeded, None));
    let object = outcome.result_object.as_ref().unwrap();
    let value: Value = serde_json::from_slice(&content(&farm, object).await).unwrap();
    assert_eq!((object.name.as_str(), value), ("result.json", json!({"text": "ü".repeat(500_000)})));
}

#[tokio::test]
async fn files_arrive_as_local_paths_with_their_content() {
    let farm = Farm::start().await;
    let (agent, client) = at_work(&farm).await;
    let (a, b) = (put(&farm, "a page.png", b"page a").await, put(&farm, "b.png", b"page b").await);
    let mut evil = a.clone();
    evil.name = "../../../evil".to_owned();
    let list = [&a, &b, &evil].map(|object| json!({"path": object.to_value()}));
    let value = client.run("values", &json!({"files": list})).await.value();
    let told = |name: &str, object: &ObjectRef| json!({"name": name, "sha256": object.sha256, "mine": true});
    assert_eq!(value, json!([told("a page.png", &a), told("b.png", &b), told("evil", &a)]));
    no_scratch_is_left(&agent).await;
    let value = client.run("values", &json!({"file": a.to_value()})).await.value();
    assert_eq!(value, told("a page.png", &a));
}

#[tokio::test]
async fn inputs_that_are_not_their_digest_fail_the_job_before_it_runs() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let log = farm.path("log");
    let run = async |object: &ObjectRef| {
        client.run("values", &json!({"log": log, "file": object.to_value()})).await
    };
    let store = store(&farm).await;
    let same_length = put(&farm, "page.png", b"page").await;
    std::fs::write(store.local_path(&same_length).unwrap(), b"evil").unwrap();
    let shorter = put(&farm, "short.png", b"a longer page").await;
    std::fs::write(store.local_path(&shorter).unwrap(), b"a").unwrap();
    let missing = put(&farm, "missing.png", b"it goes").await;
    std::fs::remove_file(store.local_path(&missing).unwrap()).unwrap();
    let mut lie = put(&farm, "lie.png", b"true length").await;
    lie.size = 3;
    for object in [&same_length, &shorter, &missing, &lie] {
        let record = run(object).await;
        let failure = record.failure();
        assert_eq!(failure.kind, FailureKind::InputUnavailable, "{failure}");
        assert!(failure.message.contains(&object.name) && failure.message.contains("submit it again"));
    }
    assert_eq!(lines(&log), [""; 0], "none of them ran");
    let good = put(&farm, "good.png", b"good").await;
    run(&good).await.value();
    assert_eq!(lines(&log), ["ran"]);
}

#[tokio::test]
async fn a_reference_that_is_none_is_refused() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let log = farm.path("log");
    let good = put(&farm, "good.png", b"good").await;
    for bad in
        [json!("x"), json!({"sha256": "../../etc/passwd", "size": 1, "name": "a", "url": ""}), json!({})]
    {
        let record = client.run("values", &json!({"log": log, "file": {"$object": bad}})).await;
        assert_eq!(record.failure().kind, FailureKind::InvalidInput);
        assert!(record.failure().message.contains("$object"), "{}", record.failure());
    }
    let mut deep = good.to_value();
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let record = client.run("values", &json!({"log": log, "file": deep})).await;
    assert_eq!(record.failure().kind, FailureKind::InvalidInput);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let record = client.run("values", &json!({"log": log, "file": deep})).await;
    assert_eq!(record.failure().kind, FailureKind::InvalidInput);
    assert_eq!(lines(&log), [""; 0], "none of them ran");
}

#[tokio::test]
async fn a_plugin_that_writes_into_its_input_harms_only_itself() {
    let farm = Farm::start().await;
    let (_agent, client) = at_work(&farm).await;
    let page = put(&farm, "page.png", b"a page of ours").await;
    // As root it does write; for others the file cannot be written to.
    client.run("values", &json!({"spoil": page.to_value()})).await;
    let value = client.run("values", &json!({"file": page.to_value()})).await.value();
    assert_eq!(value["sha256"], page.sha256);
    assert_eq!(content(&farm, &page).await, b"a page of ours");
}
