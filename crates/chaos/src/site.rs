//! The farm under test: servers, one proxy per link, agents with fake GPUs, in one folder.
//!
//! Owns every process of the run. Never decides what goes wrong.

use crate::proxy::Proxy;
use grange_broker_client::connect::{Broker, Options};
use grange_broker_client::topology::{TopologyOptions, ensure};
use grange_local_farm::cluster::{ClusterOptions, MEMBERS, NatsCluster};
use grange_local_farm::nats::NatsServer;
use grange_local_farm::options::NatsOptions;
use grange_local_farm::tools;
use grange_tests::gpus::{FakeGpus, Gpu};
use grange_tests::{Agent, AgentPlan, plugin, repository};
use serde_json::json;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The lease of every attempt, seconds: the shortest there is, so that a run of a minute sees leases end.
pub const LEASE_S: u32 = 10;
/// Marks every process of a run in its environment.
pub const MARK: &str = "CHAOS_FOLDER";
/// Nobody but the agents may ever see this.
pub const CANARY: &str = "canary-3b1f-never-to-be-seen";
/// How long servers and agents may take to come up.
const UP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// One server or three.
pub enum Servers {
    /// One.
    One(Box<NatsServer>),
    /// Three in a cluster.
    Three(Box<NatsCluster>),
}

/// An agent, its links, its GPUs.
pub struct Host {
    /// Its name.
    pub name: String,
    /// The process, while it is there.
    pub agent: Option<Agent>,
    plan: AgentPlan,
    /// Its links, one per server.
    pub links: Vec<Proxy>,
    /// Its GPUs.
    pub gpus: FakeGpus,
    /// Its GPUs' identities.
    pub uuids: Vec<String>,
}

/// All of it.
pub struct Site {
    /// The folder.
    pub folder: PathBuf,
    /// The servers.
    pub servers: Servers,
    /// The clients' links, one per server.
    pub clients: Vec<Proxy>,
    /// The agents.
    pub hosts: Vec<Host>,
}

/// util-linux's, put before a program, so that a run that is killed leaves nothing behind.
fn death_shim() -> Vec<OsString> {
    ["setpriv", "--pdeathsig", "KILL", "--"].map(Into::into).to_vec()
}

impl Servers {
    async fn start(folder: &Path, count: usize) -> anyhow::Result<Self> {
        let binary = tools::nats_server(&repository().join(".tools"), &|_| {})?;
        if count == MEMBERS {
            let mut options = ClusterOptions::new(binary, folder.join("nats"));
            options.death_shim = Some(death_shim());
            return Ok(Self::Three(Box::new(NatsCluster::start(&options).await?)));
        }
        let mut options = NatsOptions::new(binary, folder.join("nats"));
        options.death_shim = Some(death_shim());
        Ok(Self::One(Box::new(NatsServer::start(&options).await?)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Three(_) => MEMBERS,
        }
    }

    /// One of them.
    pub fn member(&self, index: usize) -> &NatsServer {
        match self {
            Self::One(server) => server,
            Self::Three(cluster) => cluster.member(index),
        }
    }

    /// `kill -9`, or a polite end.
    pub async fn end(&mut self, index: usize, politely: bool) -> anyhow::Result<()> {
        let limit = Duration::from_secs(20);
        match (self, politely) {
            (Self::One(server), false) => server.kill().await?,
            (Self::One(server), true) => drop(server.stop(limit).await?),
            (Self::Three(cluster), false) => cluster.kill(index).await?,
            (Self::Three(cluster), true) => drop(cluster.stop(index, limit).await?),
        }
        Ok(())
    }

    /// Starts one again.
    pub async fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        match self {
            Self::One(server) => server.restart().await?,
            Self::Three(cluster) => cluster.restart(index).await?,
        }
        Ok(())
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        (0..self.count()).map(|index| self.member(index).addresses().client).collect()
    }

    /// Past every proxy.
    pub fn urls(&self) -> String {
        let urls: Vec<String> = (0..self.count()).map(|index| self.member(index).url()).collect();
        urls.join(",")
    }
}

fn urls(links: &[Proxy]) -> String {
    links.iter().map(Proxy::url).collect::<Vec<_>>().join(",")
}

async fn links(to: &[SocketAddr]) -> anyhow::Result<Vec<Proxy>> {
    let mut links = Vec::new();
    for address in to {
        links.push(Proxy::start(*address).await?);
    }
    Ok(links)
}

/// A connection.
pub async fn connect(url: &str, name: &str, patience: Duration) -> anyhow::Result<Broker> {
    let options = Options {
        url: url.to_owned(),
        name: name.to_owned(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: patience,
        wait_for_broker: true,
        ..Options::default()
    };
    Ok(Broker::connect(&options).await?)
}

impl Site {
    /// Starts everything and waits until every agent has its plugins.
    pub async fn start(folder: &Path, agents: usize, brokers: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder.join("locks"))?;
        let servers = Servers::start(folder, brokers).await?;
        let broker = connect(&servers.urls(), "chaos-site", UP).await?;
        let topology = TopologyOptions { replicas: brokers, ..TopologyOptions::default() };
        let begun = Instant::now();
        while let Err(error) = ensure(&broker, &topology).await {
            anyhow::ensure!(begun.elapsed() < UP, "the streams are not made: {error}");
            tokio::time::sleep(POLL).await;
        }
        let to = servers.addresses();
        let clients = links(&to).await?;
        let mut hosts = Vec::new();
        for index in 0..agents {
            hosts.push(Host::new(folder, index, links(&to).await?)?);
        }
        let mut site = Self { folder: folder.to_owned(), servers, clients, hosts };
        for host in &mut site.hosts {
            host.start();
        }
        site.ready(&broker).await?;
        Ok(site)
    }

    /// Where clients connect.
    pub fn client_url(&self) -> String {
        urls(&self.clients)
    }

    /// Waits until every agent has both plugins ready.
    async fn ready(&self, broker: &Broker) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let agents = grange_broker_client::query::agents(broker).await.unwrap_or_default();
            let ready = agents.iter().filter(|(status, _)| is_ready(status)).count();
            if ready == self.hosts.len() {
                return Ok(());
            }
            anyhow::ensure!(begun.elapsed() < UP, "{ready} of {} agents are ready", self.hosts.len());
            tokio::time::sleep(POLL).await;
        }
    }
}

fn is_ready(status: &grange_protocol::status::AgentStatus) -> bool {
    use grange_protocol::status::PluginState;
    status.capacity.gpus.len() == GPUS && {
        let ready = status.plugins.iter().filter(|plugin| plugin.state == PluginState::Ready);
        ready.count() == 2
    }
}

/// GPUs of one host.
const GPUS: usize = 2;

impl Host {
    fn new(folder: &Path, index: usize, links: Vec<Proxy>) -> anyhow::Result<Self> {
        let name = format!("host-{index}");
        let uuids: Vec<String> = (0..GPUS).map(|gpu| format!("GPU-{index}-{gpu}")).collect();
        let all = uuids.iter().map(|uuid| Gpu::new(uuid, "NVIDIA Fake", 24_576)).collect();
        let gpus = FakeGpus::with(&folder.join(format!("gpus-{name}")), all);
        let plugins = folder.join(format!("plugins-{name}"));
        manifests(folder, &name, &plugins)?;
        let plan = AgentPlan {
            name: name.clone(),
            broker: urls(&links),
            objects: format!("file://{}", folder.join("objects").display()),
            state: folder.join(format!("agent-{name}")),
            plugins: vec![plugins],
            config: format!("{}\n[limits]\nlease_s = {LEASE_S}\n", gpus.config()),
            environment: vec![
                gpus.environment(),
                (MARK.to_owned(), folder.display().to_string()),
                ("GRANGE_CHAOS_SECRET".to_owned(), CANARY.to_owned()),
            ],
        };
        Ok(Self { name, agent: None, plan, links, gpus, uuids })
    }

    /// Starts the agent, if it is not there.
    pub fn start(&mut self) {
        if self.agent.is_none() {
            self.agent = Some(self.plan.start());
        }
    }

    /// `kill -9` of the agent alone: what it started has to end by itself.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// What the agent keeps.
    pub fn state(&self) -> &Path {
        &self.plan.state
    }
}

/// One plugin for the many, one that has a GPU for itself.
fn manifests(folder: &Path, host: &str, plugins: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(plugins)?;
    let common = json!({
        "version": "1.0.0",
        "module": "chaos",
        "class": "Chaos",
        "paths": [plugin("chaos")],
        "env_vars": {MARK: folder, "CHAOS_AGENT": host},
        "limits": {"start_timeout_s": 60, "cancel_grace_s": CANCEL_GRACE_S},
    });
    let many = json!({"name": "chaos", "concurrency": 2, "max_workers": 2, "resources": {}});
    let alone = json!({"name": "chaos-gpu", "max_workers": 2, "resources": {"gpus": 1, "exclusive": true}});
    for manifest in [many, alone] {
        let mut whole = common.clone();
        let words = manifest.as_object().expect("it is an object").clone();
        let name = manifest["name"].as_str().expect("it has a name").to_owned();
        whole.as_object_mut().expect("it is an object").extend(words);
        std::fs::write(plugins.join(format!("{name}.json")), whole.to_string())?;
    }
    Ok(())
}

/// How long a cancelled run may take to stop by itself, seconds.
pub const CANCEL_GRACE_S: u32 = 2;
