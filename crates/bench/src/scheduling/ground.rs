//! The farms that scheduling is measured on: one server or three, agents as real processes, each with an inventory,
//! plugins and a state folder of its own.

use super::watch::{Life, lines};
use anyhow::{Context as _, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use grange_broker_client::connect::{Broker, Options};
use grange_broker_client::ledger::Ledger;
use grange_broker_client::topology::{TopologyOptions, ensure, ensure_queue};
use grange_local_farm::cluster::{ClusterOptions, MEMBERS, NatsCluster};
use grange_local_farm::nats::NatsServer;
use grange_local_farm::options::NatsOptions;
use grange_local_farm::tools;
use grange_protocol::subject::Queue;
use grange_tests::{Agent, AgentPlan, Client, binary, repository};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// A benchmark is patient: many processes come up at once on few cores.
const PATIENCE: Duration = Duration::from_secs(30);
/// Consumers that are made at one time.
const AT_ONCE: usize = 4;
const PLUGIN: &str = "grange-bench-plugin";
/// Names a folder that what is behind the figures is kept in.
const LOGS: &str = "GRANGE_BENCH_LOGS";

/// How many servers a farm has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// One, with one copy of everything.
    One,
    /// A cluster of three, with three copies of everything.
    Three,
}

impl Servers {
    /// Both, with the field of the report.
    pub(crate) const BOTH: [(Self, &'static str); 2] =
        [(Self::One, "one_server"), (Self::Three, "three_servers")];
}

/// Held until it is dropped: the servers end with it.
enum Running {
    One(Box<NatsServer>),
    Three(NatsCluster),
}

/// A farm. Dropping it ends the agents, then the servers, and removes the folder.
pub(crate) struct Ground {
    agents: Vec<Agent>,
    running: Running,
    url: String,
    folder: TempDir,
    /// Who submits.
    pub(crate) client: Client,
}

/// A plugin that takes as long as it is told.
pub(crate) struct BenchPlugin {
    /// Its name.
    pub(crate) name: String,
    /// How long a worker takes to start, milliseconds.
    pub(crate) start_ms: u64,
    /// What a worker takes of its host, as in a manifest; null: nothing.
    pub(crate) resources: Value,
    /// An idle worker leaves at once.
    pub(crate) leaves: bool,
    /// Workers at a time on one host.
    pub(crate) max_workers: u32,
}

impl BenchPlugin {
    /// One that starts at once, needs nothing, stays, and has one worker on a host.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), start_ms: 0, resources: Value::Null, leaves: false, max_workers: 1 }
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let mut manifest = json!({
            "name": self.name, "version": env!("CARGO_PKG_VERSION"),
            "command": [binary(PLUGIN), self.start_ms.to_string()], "max_workers": self.max_workers,
        });
        if !self.resources.is_null() {
            manifest["resources"] = self.resources.clone();
        }
        if self.leaves {
            manifest["limits"] = json!({"keep_warm_s": 0});
        }
        let path = folder.join(format!("{}.json", self.name));
        std::fs::write(&path, manifest.to_string())
            .with_context(|| format!("cannot write `{}`", path.display()))
    }
}

impl Ground {
    /// Servers with the streams made, and no agents.
    pub(crate) async fn open(servers: Servers) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("grange-bench-").tempdir()?;
        let program = tools::nats_server(&repository().join(".tools"), &|_| {})?;
        let shim: Vec<OsString> = ["setpriv", "--pdeathsig", "KILL", "--"].map(Into::into).to_vec();
        let (running, url, replicas) = match servers {
            Servers::One => {
                let mut options = NatsOptions::new(program, folder.path().join("nats"));
                options.death_shim = Some(shim);
                let server = NatsServer::start(&options).await?;
                let url = server.url();
                (Running::One(Box::new(server)), url, 1)
            }
            Servers::Three => {
                let mut options = ClusterOptions::new(program, folder.path().join("nats"));
                options.death_shim = Some(shim);
                let cluster = NatsCluster::start(&options).await?;
                let url = cluster.urls().join(",");
                (Running::Three(cluster), url, MEMBERS)
            }
        };
        let broker = connect(&url).await?;
        ensure(&broker, &TopologyOptions { replicas, ..TopologyOptions::default() }).await?;
        Ok(Self { agents: Vec::new(), running, url, folder, client: Client::new(broker, "bench") })
    }

    /// The broker.
    pub(crate) fn broker(&self) -> &Broker {
        &self.client.broker
    }

    /// The records.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.client.ledger
    }

    /// Another connection.
    pub(crate) async fn connection(&self) -> Result<Broker> {
        connect(&self.url).await
    }

    /// Makes these queues' consumers. An agent finds those that are there when it comes up.
    pub(crate) async fn make_queues(&self, queues: &[Queue]) -> Result<()> {
        let broker = self.broker();
        let made = stream::iter(queues).map(|queue| ensure_queue(broker, queue)).buffer_unordered(AT_ONCE);
        made.try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Starts an agent; `config` is more of its configuration, TOML. See [`Self::ready`].
    pub(crate) fn start_agent(&mut self, name: &str, plugins: &[BenchPlugin], config: &str) -> Result<()> {
        let home = self.folder.path().join(name);
        let manifests = home.join("plugins");
        std::fs::create_dir_all(&manifests)?;
        plugins.iter().try_for_each(|plugin| plugin.write(&manifests))?;
        let plan = AgentPlan {
            name: name.to_owned(),
            broker: self.url.clone(),
            objects: format!("file://{}", self.folder.path().join("objects").display()),
            state: home.join("state"),
            plugins: vec![manifests],
            config: config.to_owned(),
            environment: Vec::new(),
        };
        self.agents.push(plan.start());
        Ok(())
    }

    /// Waits until every agent's plugins can run.
    pub(crate) async fn ready(&self) {
        for agent in &self.agents {
            self.client.wait_for_plugins(&agent.plan().name).await;
        }
    }

    /// Ends all agents.
    pub(crate) fn end_agents(&mut self) {
        self.agents.clear();
    }

    /// Resident memory of the server, or of the largest of three, bytes.
    pub(crate) fn server_rss_bytes(&self) -> Result<u64> {
        match &self.running {
            Running::One(server) => Ok(server.rss_bytes()?),
            Running::Three(cluster) => {
                let mut most = 0;
                for index in 0..MEMBERS {
                    most = most.max(cluster.member(index).rss_bytes()?);
                }
                Ok(most)
            }
        }
    }

    /// Where `GRANGE_BENCH_LOGS` names a folder, keeps there, under `name`, what was seen of each job and the agents'
    /// logs: for who looks into a figure.
    pub(crate) fn keep(&self, name: &str, lives: &[Life]) -> Result<()> {
        let Some(folder) = std::env::var_os(LOGS) else { return Ok(()) };
        let folder = Path::new(&folder).join(name);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("jobs.jsonl"), lines(lives))?;
        for agent in &self.agents {
            let plan = agent.plan();
            std::fs::copy(plan.state.join("agent.log"), folder.join(format!("{}.log", plan.name)))?;
        }
        Ok(())
    }
}

async fn connect(url: &str) -> Result<Broker> {
    let options = Options {
        url: url.to_owned(),
        name: "bench".into(),
        connect_timeout: PATIENCE,
        request_timeout: PATIENCE,
        ..Options::default()
    };
    Ok(Broker::connect(&options).await?)
}
