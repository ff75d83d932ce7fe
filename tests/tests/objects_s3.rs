//! Objects in a bucket of a real S3 server, Garage: both ways, once, verified, and what happens when it says no.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "objects_s3/garage.rs"]
mod garage;
#[path = "objects_s3/relay.rs"]
mod relay;

use garage::{BUCKET, Garage, KEY, SECRET};
use grange_broker_client::ErrorKind;
use grange_broker_client::objects::{Objects, sha256_file};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::object::ObjectRef;
use grange_protocol::record::{Record, State};
use grange_tests::{Agent, Client, Farm, Returned, repository};
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStoreExt, path::Path as Key};
use relay::Relay;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const MIB: usize = 1024 * 1024;
/// What an answer without the object's bytes stays below.
const SMALL: u64 = 100_000;

/// A farm whose objects lie in a bucket, seen through a relay.
struct Shop {
    farm: Farm,
    garage: Garage,
    relay: Relay,
}

impl Shop {
    async fn open() -> Self {
        let farm = Farm::start().await;
        let garage = Garage::start(farm.path("garage")).await;
        let relay = Relay::to(garage.port()).await;
        Self { farm, garage, relay }
    }

    fn url() -> String {
        format!("s3://{BUCKET}/farm-1/objects")
    }

    fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{}", self.relay.port());
        [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", "garage"),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// The store as a client opens it, with some settings of its own.
    async fn store_with(&self, more: &[(&str, &str)]) -> Objects {
        let mut environment: BTreeMap<String, String> = self.environment().into_iter().collect();
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Objects::open(&Self::url(), &environment).await.unwrap()
    }

    async fn store(&self) -> Objects {
        self.store_with(&[]).await
    }

    async fn agent_with(&self, more: &[(&str, &str)]) -> (Agent, Client) {
        let mut plan = self.farm.plan("h1", &[repository().join("examples/plugins/echo")]);
        plan.objects = Self::url();
        plan.environment = self.environment();
        plan.environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let agent = plan.start();
        let client = self.farm.client("alice").await;
        client.wait_for_plugins("h1").await;
        (agent, client)
    }

    async fn agent(&self) -> (Agent, Client) {
        self.agent_with(&[]).await
    }

    /// Writes a file that is not like any other.
    async fn put(&self, name: &str, size: usize) -> ObjectRef {
        let path = self.farm.path(name);
        std::fs::write(&path, bytes(name, size)).unwrap();
        self.store().await.put_file(&path, name).await.unwrap()
    }

    /// Overwrites an object with other bytes, as somebody else with a key of the bucket could.
    async fn tamper(&self, object: &ObjectRef, with: Vec<u8>) {
        let mut builder = AmazonS3Builder::new().with_bucket_name(BUCKET);
        for (name, value) in self.environment() {
            builder = builder.with_config(name.to_ascii_lowercase().parse().unwrap(), value);
        }
        let key = format!("farm-1/objects/{}/{}", &object.sha256[..2], object.sha256);
        builder.build().unwrap().put(&Key::from(key), with.into()).await.unwrap();
    }

    async fn fetch(&self, object: &ObjectRef) -> Vec<u8> {
        let path = self.farm.path(&format!("got-{}", object.sha256));
        self.store().await.get_to_file(object, &path).await.unwrap();
        std::fs::read(path).unwrap()
    }
}

fn bytes(seed: &str, size: usize) -> Vec<u8> {
    seed.bytes()
        .cycle()
        .zip(0u32..)
        .map(|(b, n)| b ^ n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .take(size)
        .collect()
}

fn echoed(size: usize) -> Vec<u8> {
    (0..=255).cycle().take(size).collect()
}

fn reference(value: &Value) -> ObjectRef {
    serde_json::from_value(value["$object"].clone()).unwrap()
}

fn failure(record: &Record) -> &Failure {
    assert_eq!(record.state, State::Failed, "{:?}", record.outcome);
    record.outcome.as_ref().and_then(|outcome| outcome.failure.as_ref()).unwrap()
}

async fn read(client: &Client, object: &ObjectRef) -> Box<Record> {
    client.run("echo", &json!({"read": object.to_value()})).await
}

#[tokio::test]
async fn files_and_large_values_travel_both_ways() {
    let shop = Shop::open().await;
    let (agent, client) = shop.agent().await;
    // One request, and one in parts.
    for (name, size) in [("empty.bin", 0), ("page.png", 300_000), ("film.mp4", 20 * MIB + 77)] {
        let object = shop.put(name, size).await;
        assert_eq!(read(&client, &object).await.value(), json!({"size": size, "name": name}));
        assert_eq!(shop.fetch(&object).await, bytes(name, size), "{name}");
    }
    for size in [70_000, 20 * MIB + 77] {
        let value = client.run("echo", &json!({"write_bytes": size})).await.value();
        let object = reference(&value);
        assert_eq!((object.size, object.name.clone()), (size as u64, format!("echo-{size}.bin")));
        assert_eq!(shop.fetch(&object).await, echoed(size));
    }
    let record = client.run("echo", &json!({"bytes": 200_000, "repeat": 2})).await;
    let outcome = record.outcome.as_ref().unwrap();
    assert_eq!((record.state, outcome.chunks, outcome.result.is_none()), (State::Succeeded, 2, true));
    let text = shop.fetch(outcome.result_object.as_ref().unwrap()).await;
    assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), json!("x".repeat(200_000)));
    assert!(!agent.log().contains(SECRET), "the secret is in the log");
}

#[tokio::test]
async fn the_same_bytes_are_sent_once_and_fetched_once() {
    let shop = Shop::open().await;
    let (_agent, client) = shop.agent().await;
    // Both ways of putting: in one request, and in parts.
    for (name, size) in [("page.png", 5 * MIB), ("film.mp4", 12 * MIB)] {
        let size64 = size as u64;
        let path = shop.farm.path(name);
        std::fs::write(&path, bytes(name, size)).unwrap();
        let store = shop.store().await;
        let put = async || store.put_file(&path, name).await.unwrap();
        let before = shop.relay.passed();
        let object = put().await;
        let sent = shop.relay.passed();
        assert!((size64..size64 + SMALL).contains(&(sent - before)), "{} bytes for {size}", sent - before);
        assert_eq!(put().await, object);
        let again = shop.relay.passed();
        assert!(again - sent < SMALL, "{} bytes for the same", again - sent);
        read(&client, &object).await.value();
        let fetched = shop.relay.passed();
        assert!((size64..size64 + SMALL).contains(&(fetched - again)), "{} bytes", fetched - again);
        read(&client, &object).await.value();
        assert!(shop.relay.passed() - fetched < SMALL, "the host has it already");
    }
}

#[tokio::test]
async fn an_object_that_somebody_changed_is_refused_on_both_sides() {
    let shop = Shop::open().await;
    let (_agent, client) = shop.agent().await;
    let object = shop.put("page.png", 50_000).await;
    let target = shop.farm.path("got.png");
    for other in [vec![0; 50_000], vec![0; 10], vec![0; 9 * MIB]] {
        shop.tamper(&object, other).await;
        let record = read(&client, &object).await;
        let failure = failure(&record);
        assert_eq!(failure.kind, FailureKind::InputUnavailable, "{failure}");
        assert!(
            failure.message.contains("page.png") && failure.message.contains(&object.sha256),
            "{failure}"
        );
        assert_eq!(record.attempt.as_ref().map(|a| a.number), Some(1));
        let error = shop.store().await.get_to_file(&object, &target).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
        assert!(!target.exists(), "other bytes were kept");
    }
    // Another length shows without reading: whoever puts it again makes it whole.
    assert_eq!(shop.put("page.png", 50_000).await, object);
    assert_eq!(read(&client, &object).await.value()["size"], 50_000);
    assert_eq!(shop.fetch(&object).await, bytes("page.png", 50_000));
}

#[tokio::test]
async fn a_store_out_of_reach_fails_jobs_and_nothing_else() {
    let mut shop = Shop::open().await;
    let (mut agent, client) = shop.agent().await;
    let object = shop.put("page.png", 50_000).await;
    shop.garage.stop();
    let begun = Instant::now();
    let (file, text) = (json!({"write_bytes": 70_000}), json!({"text": "no objects"}));
    let (into, out, plain) =
        tokio::join!(read(&client, &object), client.run("echo", &file), client.run("echo", &text));
    assert_eq!(plain.value(), "no objects");
    for (record, kind) in [(&into, FailureKind::InputUnavailable), (&out, FailureKind::StoreFailed)] {
        let failure = failure(record);
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(
            failure.message.contains(&Shop::url()) && failure.message.contains("does not answer"),
            "{failure}"
        );
        assert_eq!(record.attempt.as_ref().map(|a| a.number), Some(1));
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let (sha256, size) = sha256_file(&shop.farm.path("page.png")).unwrap();
    let error = shop.store().await.put_file(&shop.farm.path("page.png"), "page.png").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable, "{error}");
    shop.garage.start_again().await;
    assert_eq!((sha256, size), (object.sha256.clone(), object.size));
    assert_eq!(read(&client, &object).await.value()["size"], 50_000);
    agent.signal(rustix::process::Signal::TERM);
    assert!(agent.wait(Duration::from_secs(20)).await.success());
}

#[tokio::test]
async fn a_short_outage_is_waited_out() {
    let mut shop = Shop::open().await;
    let (_agent, client) = shop.agent().await;
    let object = shop.put("page.png", 50_000).await;
    shop.garage.stop();
    let key = client.submit("echo", &json!({"read": object.to_value()})).await;
    client.reaches(&key, State::Running).await;
    shop.garage.start_again().await;
    assert_eq!(client.end(&key).await.value()["size"], 50_000);
}

#[tokio::test]
async fn wrong_credentials_and_a_wrong_bucket_say_so() {
    let shop = Shop::open().await;
    let object = shop.put("page.png", 50_000).await;
    let wrong = "0".repeat(64);
    let secret = [("AWS_SECRET_ACCESS_KEY", wrong.as_str())];
    let key = [("AWS_ACCESS_KEY_ID", "GKffffffffffffffffffffffff")];
    let path = shop.farm.path("page.png");
    for settings in [&secret, &key] {
        let store = shop.store_with(settings).await;
        let put = store.put_file(&path, "page.png").await.unwrap_err();
        let get = store.get_to_file(&object, &shop.farm.path("got.png")).await.unwrap_err();
        for error in [put, get] {
            assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
            assert!(error.to_string().contains("AWS_"), "{error}");
        }
    }
    let (agent, client) = shop.agent_with(&secret).await;
    let into = read(&client, &object).await;
    let out = client.run("echo", &json!({"write_bytes": 70_000})).await;
    for (record, kind) in [(&into, FailureKind::InputUnavailable), (&out, FailureKind::StoreFailed)] {
        let failure = failure(record);
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains("refuses these keys"), "{failure}");
    }
    assert!(!agent.log().contains(&wrong), "the secret is in the log");

    let environment = shop.environment().into_iter().collect();
    let nowhere = Objects::open("s3://no-such-bucket/x", &environment).await.unwrap();
    let error = nowhere.put_file(&path, "page.png").await.unwrap_err();
    assert!(error.to_string().contains("s3://no-such-bucket/x"), "{error}");
    assert!(Objects::open("s3:///no-name", &environment).await.is_err());
    assert!(Objects::open("ftp://host/x", &environment).await.is_err());
}

#[tokio::test]
async fn a_chunk_that_cannot_be_stored_fails_its_job() {
    let mut shop = Shop::open().await;
    let (_agent, client) = shop.agent().await;
    shop.garage.stop();
    let record = client.run("echo", &json!({"bytes": 200_000, "repeat": 2})).await;
    let failure = failure(&record);
    assert_eq!(failure.kind, FailureKind::StoreFailed, "{failure}");
    assert_eq!(record.attempt.as_ref().map(|a| a.number), Some(1));
    assert_eq!(client.run("echo", &json!({"text": "next"})).await.value(), "next");
}
