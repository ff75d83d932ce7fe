//! A farm: one private server with the streams made, and a folder for everything.

use crate::agent::{Agent, AgentPlan};
use crate::client::Client;
use grange_broker_client::connect::{Broker, Options};
use grange_broker_client::topology::{TopologyOptions, ensure};
use grange_local_farm::nats::NatsServer;
use grange_local_farm::options::{NatsOptions, SyncInterval};
use grange_local_farm::tools;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The top of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// A program of this build, beside the test that runs.
pub fn binary(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("a test has an executable");
    let folder = me.ancestors().find(|folder| folder.join(name).is_file());
    let folder = folder.unwrap_or_else(|| panic!("`{name}` is not built; run `cargo build --workspace`"));
    folder.join(name)
}

/// A plugin of the tests.
pub fn plugin(name: &str) -> PathBuf {
    repository().join("tests/plugins").join(name)
}

/// util-linux's, put before a program, so that a test run that is killed leaves nothing behind.
pub(crate) fn death_shim() -> Vec<OsString> {
    ["setpriv", "--pdeathsig", "KILL", "--"].map(Into::into).to_vec()
}

/// How a farm is to be.
#[derive(Clone, Copy, Debug)]
pub struct FarmOptions {
    /// When the server forces what it wrote to the disk.
    pub sync: SyncInterval,
}

impl Default for FarmOptions {
    fn default() -> Self {
        Self { sync: SyncInterval::Default }
    }
}

/// A server and a folder. Dropping it ends the server and removes the folder.
pub struct Farm {
    /// The server.
    pub nats: NatsServer,
    /// The folder.
    pub folder: TempDir,
}

impl Farm {
    /// A server with the streams made.
    pub async fn start() -> Self {
        Self::with(FarmOptions::default()).await
    }

    /// The same, with options.
    pub async fn with(options: FarmOptions) -> Self {
        Self::serve(options, "").await
    }

    /// The same, on an address that other hosts of the test's own network reach: never on one of the machine's.
    pub async fn at(address: Ipv4Addr) -> Self {
        // Where a key stands twice, nats-server takes the later one.
        Self::serve(FarmOptions::default(), &format!("host: \"{address}\"\n")).await
    }

    async fn serve(options: FarmOptions, more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("grange-farm-").tempdir().expect("a folder");
        let server = tools::nats_server(&repository().join(".tools"), &|_| {}).expect("nats-server");
        let mut nats = NatsOptions::new(server, folder.path().join("nats"));
        nats.sync = options.sync;
        more.clone_into(&mut nats.extra_config);
        nats.death_shim = Some(death_shim());
        let nats = NatsServer::start(&nats).await.expect("the server comes up");
        let farm = Self { nats, folder };
        let broker = farm.broker().await;
        ensure(&broker, &TopologyOptions::default()).await.expect("the streams are made");
        farm
    }

    /// A path in the farm's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A connection of its own.
    pub async fn broker(&self) -> Broker {
        // A test is patient: the machine may be busy with others.
        let patience = Duration::from_secs(20);
        let options = Options {
            url: self.nats.url(),
            name: "test".into(),
            connect_timeout: patience,
            request_timeout: patience,
            ..Options::default()
        };
        Broker::connect(&options).await.expect("the broker answers")
    }

    /// A client that submits as `owner`.
    pub async fn client(&self, owner: &str) -> Client {
        Client::new(self.broker().await, owner)
    }

    /// Where this farm's objects lie.
    pub fn objects_url(&self) -> String {
        format!("file://{}", self.folder.path().join("objects").display())
    }

    /// An agent with these plugin folders, named `name`.
    pub fn plan(&self, name: &str, plugins: &[PathBuf]) -> AgentPlan {
        AgentPlan {
            name: name.to_owned(),
            broker: self.nats.url(),
            objects: self.objects_url(),
            state: self.folder.path().join(format!("agent-{name}")),
            plugins: plugins.to_vec(),
            config: String::new(),
            environment: Vec::new(),
        }
    }

    /// The same, started and with all its plugins prepared.
    pub async fn agent(&self, name: &str, plugins: &[PathBuf]) -> Agent {
        let agent = self.plan(name, plugins).start();
        let client = self.client("harness").await;
        client.wait_for_plugins(name).await;
        agent
    }
}
