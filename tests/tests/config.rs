//! What an agent does with a configuration that cannot be used.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use grange_local_farm::nats::NatsServer;
use grange_local_farm::options::{Login, NatsOptions};
use grange_local_farm::tools;
use grange_tests::{AgentPlan, Farm, plugin, repository};
use std::time::Duration;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(10);
const BAD_CONFIGURATION: i32 = 64;

/// An agent that finds nobody at its broker's address: it must not get that far.
fn lonely(folder: &TempDir) -> AgentPlan {
    AgentPlan {
        name: "h1".to_owned(),
        broker: "nats://127.0.0.1:9".to_owned(),
        objects: format!("file://{}", folder.path().join("objects").display()),
        state: folder.path().join("state"),
        plugins: Vec::new(),
        config: String::new(),
        environment: Vec::new(),
    }
}

async fn ends_with(plan: &AgentPlan, status: i32) -> String {
    let mut agent = plan.start();
    let ended = agent.wait(SOON).await;
    assert_eq!(ended.code(), Some(status), "{}", agent.log());
    agent.log()
}

async fn is_refused(config: &str, said: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let plan = AgentPlan { config: config.to_owned(), ..lonely(&folder) };
    let log = ends_with(&plan, BAD_CONFIGURATION).await;
    for text in said {
        assert!(log.contains(text), "{config:?}: no {text:?} in {log}");
    }
}

#[tokio::test]
async fn unknown_keys_are_refused_by_name() {
    is_refused("nmae = \"x\"\n", &["nmae"]).await;
    is_refused("[limits]\nleas_s = 30\n", &["leas_s", "lease_s"]).await;
    is_refused("[brokers]\nurl = \"x\"\n", &["brokers"]).await;
    is_refused("[broker]\nurl = \"nats://a\"\nusr = \"x\"\n", &["usr"]).await;
    is_refused("[inventory]\ngpu = 1\n", &["gpu"]).await;
    is_refused("[objects]\ncache = 1\n", &["cache"]).await;
}

#[tokio::test]
async fn wrong_values_are_refused_with_what_is_right() {
    is_refused("[limits]\nlease_s = 9\n", &["limits.lease_s", "is 9", "10 to 86400"]).await;
    is_refused("[limits]\ninline_bytes = 0\n", &["limits.inline_bytes", "is 0"]).await;
    is_refused("[limits]\nframe_bytes = 5000000000\n", &["limits.frame_bytes", "is 5000000000"]).await;
    is_refused("[limits]\nchunk_window = 0\n", &["limits.chunk_window"]).await;
    is_refused("[limits]\nlog_max_bytes = -1\n", &["log_max_bytes"]).await;
    is_refused("plugin_folders = \"one\"\n", &["plugin_folders"]).await;
    is_refused("init_broker = \"yes\"\n", &["init_broker"]).await;
    is_refused("this is no TOML\n", &["configuration is not valid"]).await;
}

#[tokio::test]
async fn a_reserve_that_the_host_does_not_have_is_said_before_a_broker_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[inventory]\ncpus = 2\n[reserve]\ncpus = 3\n".to_owned();
    let log = ends_with(&AgentPlan { config, ..lonely(&folder) }, 1).await;
    assert!(log.contains("`reserve.cpus` is 3, but this host has 2; keep less back"), "{log}");
    assert!(!log.contains("broker is not reachable"), "{log}");
}

#[tokio::test]
async fn wrong_flags_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = AgentPlan { name: "my.host".to_owned(), ..lonely(&folder) };
    assert!(ends_with(&plan, BAD_CONFIGURATION).await.contains("agent name `my.host`"));
    let plan = AgentPlan { broker: " ".to_owned(), ..lonely(&folder) };
    assert!(ends_with(&plan, BAD_CONFIGURATION).await.contains("broker.url"));
}

#[tokio::test]
async fn an_address_that_is_none_is_said_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let plan = AgentPlan { broker: "http://localhost:1".to_owned(), ..lonely(&folder) };
    let log = ends_with(&plan, 1).await;
    assert!(log.contains("http://localhost:1") && log.contains("nats://"), "{log}");
    let farm = Farm::start().await;
    let mut plan = farm.plan("h1", &[plugin("gate")]);
    plan.objects = "ftp://elsewhere/x".to_owned();
    let log = ends_with(&plan, 1).await;
    assert!(log.contains("ftp://elsewhere/x") && log.contains("s3://"), "{log}");
}

#[tokio::test]
async fn a_login_that_is_refused_is_said_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let server = tools::nats_server(&repository().join(".tools"), &|_| {}).unwrap();
    let mut options = NatsOptions::new(server, folder.path().join("nats"));
    options.login = Some(Login::User { user: "grange".to_owned(), password: "right".to_owned() });
    options.death_shim = Some(["setpriv", "--pdeathsig", "KILL", "--"].map(Into::into).to_vec());
    let nats = NatsServer::start(&options).await.unwrap();
    let config = "[broker]\nuser = \"grange\"\npassword = \"hunter2\"\n".to_owned();
    let plan = AgentPlan { broker: nats.url(), config, ..lonely(&folder) };
    let log = ends_with(&plan, 1).await;
    assert!(log.contains("refuses these credentials") && !log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn a_plugin_folder_that_is_not_there_is_a_notice() {
    let farm = Farm::start().await;
    let _agent = farm.agent("h1", &[farm.path("nowhere"), plugin("gate")]).await;
    let client = farm.client("alice").await;
    let status = client.wait_for_plugins("h1").await;
    assert_eq!(status.plugins.len(), 2);
    assert!(status.notices.len() == 1 && status.notices[0].contains("nowhere"), "{:?}", status.notices);
}
