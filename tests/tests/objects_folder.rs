//! Objects in a local folder: put once, fetched once per host, linked into the runs, bounded on the host.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_broker_client::objects::Objects;
use grange_protocol::failure::FailureKind;
use grange_protocol::object::ObjectRef;
use grange_protocol::record::State;
use grange_tests::{Agent, Client, Farm, Returned, eventually, plugin, repository};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn echo() -> PathBuf {
    repository().join("examples/plugins/echo")
}

async fn store(farm: &Farm) -> Objects {
    Objects::open(&farm.objects_url(), &BTreeMap::new()).await.unwrap()
}

async fn put(farm: &Farm, name: &str, bytes: Vec<u8>) -> ObjectRef {
    store(farm).await.put_bytes(bytes.into(), name).await.unwrap()
}

async fn read(client: &Client, object: &ObjectRef) -> Value {
    client.run("echo", &json!({"read": object.to_value()})).await.value()
}

/// Takes an object out of the store.
async fn take_away(farm: &Farm, object: &ObjectRef) {
    std::fs::remove_file(store(farm).await.local_path(object).unwrap()).unwrap();
}

fn cached(agent: &Agent, object: &ObjectRef) -> PathBuf {
    agent.plan().state.join("cache").join(&object.sha256)
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn an_input_is_fetched_once_and_survives_a_restart() {
    let farm = Farm::start().await;
    let mut agent = farm.agent("h1", &[echo()]).await;
    let client = farm.client("alice").await;
    let page = put(&farm, "page.png", vec![7; 200_000]).await;
    assert_eq!(read(&client, &page).await, json!({"size": 200_000, "name": "page.png"}));
    take_away(&farm, &page).await;
    let renamed = ObjectRef { name: "other.png".to_owned(), ..page.clone() };
    assert_eq!(read(&client, &renamed).await, json!({"size": 200_000, "name": "other.png"}));
    agent.signal(Signal::TERM);
    assert!(agent.wait(SOON).await.success());
    let _again = agent.plan().start();
    assert_eq!(read(&client, &page).await["size"], 200_000);
}

#[tokio::test]
async fn a_result_is_the_input_of_the_next_job() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let client = farm.client("alice").await;
    let written = client.run("echo", &json!({"write_bytes": 70_000})).await.value();
    for _ in 0..2 {
        let value = client.run("echo", &json!({"read": written})).await.value();
        assert_eq!(value, json!({"size": 70_000, "name": "echo-70000.bin"}));
    }
}

#[tokio::test]
async fn a_damaged_copy_in_the_cache_is_fetched_again() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("values")]).await;
    let client = farm.client("alice").await;
    let page = put(&farm, "page.png", b"a page of ours".to_vec()).await;
    let told = async || client.run("values", &json!({"file": page.to_value()})).await.value();
    assert_eq!(told().await["sha256"], page.sha256);
    let copy = cached(&agent, &page);
    std::fs::remove_file(&copy).unwrap();
    std::fs::write(&copy, b"cut").unwrap();
    assert_eq!(told().await["sha256"], page.sha256);
}

#[tokio::test]
async fn a_run_gets_a_link_and_leaves_none() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[plugin("gate")]).await;
    let client = farm.client("alice").await;
    let page = put(&farm, "page.png", vec![1; 1000]).await;
    let open = farm.path("open");
    let key = client.submit("gate", &json!({"label": page.to_value(), "until": open})).await;
    let record = client.reaches(&key, State::Running).await;
    let scratch = agent.plan().state.join("scratch");
    let given = eventually("the input is there", SOON, async || {
        files_below(&scratch).into_iter().find(|path| path.ends_with("page.png")).ok_or("no file yet")
    })
    .await;
    assert_eq!(inode(&given), inode(&cached(&agent, &page)), "{}", given.display());
    assert!(given.to_string_lossy().contains(key.job.as_str()) && record.attempt.is_some());
    std::fs::write(&open, "").unwrap();
    assert_eq!(client.end(&key).await.value()["label"], json!(given));
    eventually("the scratch folder is gone", SOON, async || match files_below(&scratch) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .await;
    assert!(cached(&agent, &page).exists(), "the next run needs it");
}

#[tokio::test]
async fn the_cache_is_bounded() {
    const LIMIT: u64 = 100_000;
    let farm = Farm::start().await;
    let mut plan = farm.plan("h1", &[echo()]);
    plan.config = format!("[objects]\ncache_max_bytes = {LIMIT}\n");
    let agent = plan.start();
    let client = farm.client("alice").await;
    client.wait_for_plugins("h1").await;
    let mut newest = None;
    for fill in 1..=4 {
        let page = put(&farm, "page.png", vec![fill; 45_000]).await;
        assert_eq!(read(&client, &page).await["size"], 45_000);
        newest = Some(page);
    }
    let cache = plan.state.join("cache");
    eventually("the cache is within its bound", SOON, async || {
        let bytes: u64 =
            files_below(&cache).iter().map(|f| std::fs::metadata(f).map_or(0, |m| m.len())).sum();
        if bytes <= LIMIT { Ok(()) } else { Err(format!("{bytes} bytes")) }
    })
    .await;
    assert_eq!(files_below(&cache).len(), 2, "no more went than had to");
    assert!(cached(&agent, &newest.unwrap()).exists(), "the newest went");
    // One that is larger than the whole cache is used and not kept.
    let large = put(&farm, "large.png", vec![9; 150_000]).await;
    assert_eq!(read(&client, &large).await["size"], 150_000);
}

#[tokio::test]
async fn the_same_bytes_are_stored_once() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let client = farm.client("alice").await;
    let first = client.run("echo", &json!({"write_bytes": 300_000})).await.value();
    let object: ObjectRef = serde_json::from_value(first["$object"].clone()).unwrap();
    let path = store(&farm).await.local_path(&object).unwrap();
    let (place, changed) = (inode(&path), std::fs::metadata(&path).unwrap().modified().unwrap());
    assert_eq!(client.run("echo", &json!({"write_bytes": 300_000})).await.value(), first);
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 256) as u8).collect();
    let mine = farm.path("mine.bin");
    std::fs::write(&mine, &bytes).unwrap();
    let again = store(&farm).await.put_file(&mine, "mine.bin").await.unwrap();
    assert_eq!((&again.sha256, again.size), (&object.sha256, 300_000));
    assert_eq!((inode(&path), std::fs::metadata(&path).unwrap().modified().unwrap()), (place, changed));
    assert_eq!(
        files_below(&farm.path("objects")),
        std::slice::from_ref(&path),
        "nothing else is in the store"
    );
    assert_eq!(std::fs::read(path).unwrap(), bytes);
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_fails_its_job_alone() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[echo()]).await;
    let client = farm.client("alice").await;
    // A file stands where the store would make a folder.
    let object = put(&farm, "probe", Vec::new()).await;
    let at = |sha256: &str| farm.path("objects").join(&sha256[..2]);
    assert!(at(&object.sha256).is_dir());
    let wanted: Vec<u8> = (0..70_000u32).map(|n| (n % 256) as u8).collect();
    let probe = farm.path("probe.bin");
    std::fs::write(&probe, wanted).unwrap();
    let (sha256, _) = grange_broker_client::objects::sha256_file(&probe).unwrap();
    std::fs::write(at(&sha256), "in the way").unwrap();
    let record = client.run("echo", &json!({"write_bytes": 70_000})).await;
    let failure = record.outcome.as_ref().and_then(|o| o.failure.as_ref()).unwrap();
    assert_eq!(failure.kind, FailureKind::StoreFailed, "{failure}");
    assert!(failure.message.contains("echo-70000.bin"), "{failure}");
    assert_eq!(record.attempt.as_ref().map(|a| a.number), Some(1));
    assert_eq!(client.run("echo", &json!({"text": "next"})).await.value(), "next");
}

#[tokio::test]
async fn a_client_that_gets_other_bytes_keeps_none_of_them() {
    use grange_broker_client::ErrorKind;
    let farm = Farm::start().await;
    let objects = store(&farm).await;
    let page = put(&farm, "page.png", b"a page".to_vec()).await;
    let target = farm.path("got").join("page.png");
    std::fs::write(objects.local_path(&page).unwrap(), b"A PAGE").unwrap();
    let error = objects.get_to_file(&page, &target).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
    assert!(error.to_string().contains(&page.sha256) && error.to_string().contains("page.png"), "{error}");
    std::fs::remove_file(objects.local_path(&page).unwrap()).unwrap();
    let error = objects.get_to_file(&page, &target).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(files_below(&farm.path("got")), Vec::<PathBuf>::new(), "nothing half is left");
    assert_eq!(put(&farm, "page.png", b"a page".to_vec()).await, page);
    objects.get_to_file(&page, &target).await.unwrap();
    assert_eq!(std::fs::read(target).unwrap(), b"a page");
}
