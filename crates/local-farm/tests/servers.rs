//! A private server and a cluster, with the real nats-server.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends at the first surprise"
)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grange_local_farm::cluster::{ClusterOptions, NatsCluster};
use grange_local_farm::nats::{NatsError, NatsServer, Stopped};
use grange_local_farm::options::{Login, NatsOptions, SyncInterval};
use grange_local_farm::probe;
use grange_local_farm::tools;
use tokio::time::{interval, timeout};

const LIMIT: Duration = Duration::from_secs(30);

async fn binary() -> PathBuf {
    let find = || tools::nats_server(Path::new(env!("CARGO_TARGET_TMPDIR")), &|line| eprintln!("{line}"));
    tokio::task::spawn_blocking(find).await.unwrap().unwrap()
}

async fn options(folder: &Path) -> NatsOptions {
    let mut options = NatsOptions::new(binary().await, folder.to_owned());
    options.death_shim = Some(death_shim());
    options
}

/// util-linux's, so that a killed test run leaves no server behind.
fn death_shim() -> Vec<OsString> {
    ["setpriv", "--pdeathsig", "KILL", "--"].map(Into::into).to_vec()
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether it is there and has not ended: nobody may have reaped it.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

/// Polls until `condition` holds, and names `what` when it does not in time.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let held = timeout(LIMIT, async {
        let mut poll = interval(Duration::from_millis(10));
        while !condition() {
            poll.tick().await;
        }
    });
    held.await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

#[tokio::test]
async fn it_starts_with_jetstream_and_stops_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = NatsServer::start(&options(folder.path()).await).await.unwrap();
    let greeting = server.greeting().await.unwrap();
    assert!(greeting.jetstream);
    assert_eq!(greeting.max_payload, 8 << 20);
    assert!(!greeting.auth_required);
    assert!(server.rss_bytes().unwrap() > 1 << 20);
    assert!(!server.was_found());
    assert_eq!(server.stop(LIMIT).await.unwrap(), Stopped::Gracefully);
    assert_eq!(server.stop(LIMIT).await.unwrap(), Stopped::WasGone);
    assert!(server.greeting().await.is_err());
    assert!(server.rss_bytes().is_err());
}

#[tokio::test]
async fn every_option_is_taken_by_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&folder.path().join("a \"quoted\" folder")).await;
    options.sync = SyncInterval::Always;
    options.max_file_store_bytes = Some(64 << 20);
    options.monitor = true;
    options.login = Some(Login::User { user: "farm".to_owned(), password: "s\\e\"cret".to_owned() });
    let server = NatsServer::start(&options).await.unwrap();
    assert!(server.greeting().await.unwrap().auth_required);
    let page = probe::page(server.addresses().monitor.unwrap(), "/varz").await.unwrap();
    let config = &page["jetstream"]["config"];
    assert_eq!(config["max_storage"], 64 << 20, "{page}");
    assert_eq!(config["sync_always"], true, "{page}");
    assert_eq!(page["ping_max"], 2, "{page}");
}

#[tokio::test]
async fn a_restart_keeps_the_port_and_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = NatsServer::start(&options(folder.path()).await).await.unwrap();
    let (url, first) = (server.url(), server.pid());
    server.kill().await.unwrap();
    assert!(!exists(first));
    server.restart().await.unwrap();
    assert_eq!(server.url(), url);
    assert_ne!(server.pid(), first);
    assert!(server.greeting().await.unwrap().jetstream);
    assert!(matches!(server.restart().await, Err(NatsError::AlreadyRunning { .. })));
}

#[tokio::test]
async fn it_is_killed_when_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(&options(folder.path()).await).await.unwrap();
    let pid = server.pid();
    assert!(exists(pid));
    drop(server);
    eventually("the dropped server is gone", || !exists(pid)).await;
}

#[tokio::test]
async fn a_frozen_one_is_silent_and_can_still_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = NatsServer::start(&options(folder.path()).await).await.unwrap();
    server.freeze().await.unwrap();
    assert_eq!(server.greeting().await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    server.thaw().unwrap();
    assert!(server.greeting().await.is_ok());
    server.freeze().await.unwrap();
    assert_eq!(server.stop(LIMIT).await.unwrap(), Stopped::Gracefully);
}

#[tokio::test]
async fn one_that_runs_is_found_and_no_second_one_starts() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path()).await;
    let mut server = NatsServer::start(&options).await.unwrap();
    let mut found = NatsServer::attach_or_start(&options).await.unwrap();
    assert!(found.was_found());
    assert_eq!((found.url(), found.pid()), (server.url(), server.pid()));
    let refused = NatsServer::start(&options).await.unwrap_err();
    assert!(matches!(refused, NatsError::AlreadyRunning { pid, .. } if pid == server.pid()), "{refused}");

    drop(found);
    assert!(server.greeting().await.is_ok(), "a found one outlives the value");
    found = NatsServer::attach_or_start(&options).await.unwrap();
    // The found one is reaped by its parent, so both wait for its end.
    let (stopped, ended) = tokio::join!(found.stop(LIMIT), server.kill());
    ended.unwrap();
    assert_ne!(stopped.unwrap(), Stopped::Killed);

    let fresh = NatsServer::attach_or_start(&options).await.unwrap();
    assert!(!fresh.was_found());
}

#[tokio::test]
async fn two_at_once_share_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path()).await;
    let (one, other) =
        tokio::join!(NatsServer::attach_or_start(&options), NatsServer::attach_or_start(&options));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.pid(), other.pid());
    assert_ne!(one.was_found(), other.was_found());
}

#[tokio::test]
async fn the_shim_stands_before_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path()).await;
    let witness = folder.path().join("shim");
    let script = format!("touch '{}'; exec \"$@\"", witness.display());
    options.death_shim = Some(["sh", "-c", script.as_str(), "shim"].map(Into::into).to_vec());
    let mut server = NatsServer::start(&options).await.unwrap();
    assert!(witness.exists());
    assert_eq!(server.stop(LIMIT).await.unwrap(), Stopped::Gracefully);
}

/// The kernel takes the starting thread for the parent, so a thread stands here for a killed process.
#[tokio::test]
async fn with_a_death_shim_it_ends_with_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path()).await;
    let parent = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = runtime.block_on(NatsServer::start(&options)).unwrap();
        let pid = server.pid();
        std::mem::forget(server);
        pid
    });
    let pid = parent.join().unwrap();
    eventually("the server of the ended parent is gone", || !runs(pid)).await;
}

#[tokio::test]
async fn one_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path()).await;
    options.extra_config = "nonsense_option: 1\n".to_owned();
    let error = NatsServer::start(&options).await.unwrap_err();
    assert!(matches!(error, NatsError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("nonsense_option"), "{error}");

    options.death_shim = None;
    options.binary = "/nonexistent/nats-server".into();
    let error = NatsServer::start(&options).await.unwrap_err();
    assert!(error.to_string().contains("cannot start `/nonexistent/nats-server`"), "{error}");

    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    options = self::options(folder.path()).await;
    options.port = Some(taken.local_addr().unwrap().port());
    let error = NatsServer::start(&options).await.unwrap_err();
    assert!(error.to_string().contains("address already in use"), "{error}");
}

#[tokio::test]
async fn a_cluster_forms_and_chooses_another_leader() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = ClusterOptions::new(binary().await, folder.path().to_owned());
    options.death_shim = Some(death_shim());
    let mut cluster = NatsCluster::start(&options).await.unwrap();
    let all = [0, 1, 2];
    let first = cluster.formed(&all, LIMIT).await.unwrap();
    let others: Vec<usize> = all.into_iter().filter(|&index| index != first).collect();
    let urls = cluster.urls();

    cluster.kill(first).await.unwrap();
    let second = cluster.formed(&others, LIMIT).await.unwrap();
    assert_ne!(second, first);
    cluster.restart(first).await.unwrap();
    cluster.formed(&all, LIMIT).await.unwrap();
    assert_eq!(cluster.urls(), urls);

    cluster.freeze(first).await.unwrap();
    assert!(cluster.member(first).greeting().await.is_err());
    cluster.thaw(first).unwrap();
    cluster.formed(&all, LIMIT).await.unwrap();
    assert_eq!(cluster.stop(first, LIMIT).await.unwrap(), Stopped::Gracefully);
}
