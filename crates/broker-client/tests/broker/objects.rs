//! Objects in a folder: verified both ways, stored once.

use grange_broker_client::ErrorKind;
use grange_broker_client::objects::{Objects, sha256_file};
use grange_protocol::object::ObjectRef;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

async fn store(folder: &Path) -> Objects {
    Objects::open(folder.join("store").to_str().unwrap(), &BTreeMap::new()).await.unwrap()
}

fn leftovers(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some()).count()
}

#[tokio::test]
async fn a_file_comes_back_and_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    for size in [0, 1, 1 << 20, 5_000_001] {
        let bytes: Vec<u8> = (0..size).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let source = folder.path().join("in.bin");
        fs::write(&source, &bytes).unwrap();
        let object = store.put_file(&source, "x/in.bin").await.unwrap();
        assert_eq!((object.size, object.name.as_str()), (u64::from(size), "in.bin"));
        assert_eq!(sha256_file(&source).unwrap(), (object.sha256.clone(), object.size));
        assert!(store.exists(&object).await.unwrap());
        let path = store.local_path(&object).unwrap();
        assert!(path.ends_with(format!("{}/{}", &object.sha256[..2], object.sha256)));
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(store.put_file(&source, "in.bin").await.unwrap(), object);
        assert_eq!(store.put_bytes(bytes.clone().into(), "in.bin").await.unwrap(), object);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "stored once");
        let target = folder.path().join("new/out.bin");
        store.get_to_file(&object, &target).await.unwrap();
        assert_eq!(fs::read(&target).unwrap(), bytes);
    }
    assert_eq!(leftovers(&folder.path().join("store")), 0);
}

#[tokio::test]
async fn damaged_bytes_are_never_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let object = store.put_bytes("hello".into(), "a").await.unwrap();
    fs::write(store.local_path(&object).unwrap(), "hellO").unwrap();
    let target = folder.path().join("out/a");
    let error = store.get_to_file(&object, &target).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    assert!(error.to_string().contains(&object.sha256), "{error}");
    assert!(!target.exists());
    assert_eq!(leftovers(target.parent().unwrap()), 0);
}

#[tokio::test]
async fn what_is_not_there_or_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let object = ObjectRef::new("ab".repeat(32), 3, "a");
    assert!(!store.exists(&object).await.unwrap());
    let error = store.get_to_file(&object, &folder.path().join("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let evil = ObjectRef::new("../../../etc/passwd", 3, "a");
    assert_eq!(store.exists(&evil).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(store.local_path(&evil).is_none());
    let error = store.put_file(&folder.path().join("missing"), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing"), "{error}");
    let nothing = BTreeMap::new();
    for url in ["", "ftp://x/y", "s3:///prefix", "file://host-x/a"] {
        let error = Objects::open(url, &nothing).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}: {error}");
    }
    fs::write(folder.path().join("file"), "").unwrap();
    let blocked = folder.path().join("file/store");
    let error = Objects::open(blocked.to_str().unwrap(), &nothing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable, "{error}");
    let url = format!("file://{}", folder.path().join("store").display());
    Objects::open(&url, &nothing).await.unwrap();
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let environment = BTreeMap::from(
        [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_REGION", "x"),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    let store = Objects::open("s3://bucket/prefix", &environment).await.unwrap();
    let error = store.put_bytes("hello".into(), "a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreUnavailable, "{error}");
    assert!(error.to_string().contains("s3://bucket/prefix"), "{error}");
}
