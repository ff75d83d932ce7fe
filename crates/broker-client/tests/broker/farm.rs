//! A server with Grange's streams, and a stand-in for an agent that writes records and events as one would.

use bytes::Bytes;
use grange_broker_client::ledger::Ledger;
use grange_broker_client::publish;
use grange_broker_client::topology::{TopologyOptions, ensure};
use grange_broker_client::{Broker, Options};
use grange_local_farm::nats::NatsServer;
use grange_local_farm::options::NatsOptions;
use grange_local_farm::tools;
use grange_protocol::event::ChunkTally;
use grange_protocol::lifecycle::{Claim, claim, conclude};
use grange_protocol::name::{AgentName, Class, Incarnation, Owner, PluginName};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Fence, Holder, Outcome, Record, State};
use grange_protocol::subject::{COUNT_HEADER, FIRST_HEADER, JobKey, KIND_HEADER, Lane};
use grange_protocol::ticket::Priority;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{interval, timeout};

/// Longest time that anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Farm {
    pub(crate) server: NatsServer,
    pub(crate) broker: Broker,
    pub(crate) ledger: Ledger,
    _folder: TempDir,
}

pub(crate) async fn server(extra_config: &str) -> (NatsServer, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let find = || tools::nats_server(Path::new(env!("CARGO_TARGET_TMPDIR")), &|_| ());
    let binary = tokio::task::spawn_blocking(find).await.unwrap().unwrap();
    let mut options = NatsOptions::new(binary, folder.path().join("nats"));
    options.extra_config = extra_config.to_owned();
    (NatsServer::start(&options).await.unwrap(), folder)
}

pub(crate) fn options(url: &str) -> Options {
    Options { url: url.to_owned(), name: "test".to_owned(), ..Options::default() }
}

impl Farm {
    pub(crate) async fn start() -> Self {
        let (server, folder) = server("").await;
        let broker = Broker::connect(&options(&server.url())).await.unwrap();
        ensure(&broker, &TopologyOptions::default()).await.unwrap();
        Self { ledger: Ledger::new(&broker), server, broker, _folder: folder }
    }

    /// Claims a job as attempt after what is stored.
    pub(crate) async fn claim(&self, key: &JobKey, agent: &str) -> (Record, u64, Fence) {
        let (before, expect) = match self.ledger.read(key).await.unwrap() {
            Stored::Nothing => (None, 0),
            Stored::Marker { sequence } => (None, sequence),
            Stored::Record { sequence, record, .. } => (Some(record), sequence),
        };
        let wish = Claim { holder: holder(agent), lease_s: 30, ahead: false, at_ms: 5 };
        let record = claim(before.as_deref(), &lane("echo"), 1, &wish).unwrap();
        let sequence = self.ledger.write(key, expect, &record, None).await.unwrap();
        let fence = record.fence(sequence).unwrap();
        (record, sequence, fence)
    }

    pub(crate) async fn chunk(&self, key: &JobKey, fence: &Fence, first: u64, values: &[u64]) -> u64 {
        let body: String = values.iter().map(|v| format!("{v}\n")).collect();
        let count = values.len() as u64;
        self.event(key, fence, "chunk", body, Some((first, count))).await
    }

    pub(crate) async fn event(
        &self,
        key: &JobKey,
        fence: &Fence,
        kind: &str,
        body: String,
        chunks: Option<(u64, u64)>,
    ) -> u64 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(KIND_HEADER, kind);
        if let Some((first, count)) = chunks {
            headers.insert(FIRST_HEADER, async_nats::HeaderValue::from(first));
            headers.insert(COUNT_HEADER, async_nats::HeaderValue::from(count));
        }
        let subject = key.events(&fence.token());
        let sent = publish::send(&self.broker, subject, headers, Bytes::from(body)).await.unwrap();
        sent.stored().await.unwrap().sequence
    }

    /// Concludes with an outcome of these chunks.
    pub(crate) async fn succeed(&self, key: &JobKey, fence: &Fence, tally: &ChunkTally) -> u64 {
        let Stored::Record { sequence, record, .. } = self.ledger.read(key).await.unwrap() else {
            panic!("no record of {key}");
        };
        let outcome = Outcome {
            chunks: tally.count(),
            chunks_sha256: (tally.count() > 0).then(|| tally.sha256()),
            ..Outcome::default()
        };
        let done = conclude(&record, sequence, fence, State::Succeeded, outcome, 9).unwrap();
        self.ledger.write(key, sequence, &done, None).await.unwrap()
    }
}

/// The tally of chunks with these values.
pub(crate) fn tally(values: impl IntoIterator<Item = u64>) -> ChunkTally {
    let mut tally = ChunkTally::default();
    for value in values {
        tally.add(format!("{value}\n").as_bytes(), 1);
    }
    tally
}

pub(crate) fn holder(agent: &str) -> Holder {
    Holder { agent: AgentName::new(agent).unwrap(), incarnation: Incarnation::new("i1").unwrap() }
}

pub(crate) fn owner() -> Owner {
    Owner::new("alice").unwrap()
}

pub(crate) fn lane(plugin: &str) -> Lane {
    Lane {
        priority: Priority::Normal,
        plugin: PluginName::new(plugin).unwrap(),
        class: Class::plugin_default(),
    }
}

pub(crate) fn new_key() -> JobKey {
    JobKey { owner: owner(), job: grange_broker_client::submit::new_job_id() }
}

/// Polls until `check` says something, and names `what` when it does not in time.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let found = timeout(LIMIT, async {
        let mut poll = interval(Duration::from_millis(20));
        loop {
            if let Some(found) = check().await {
                return found;
            }
            poll.tick().await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}
