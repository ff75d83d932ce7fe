//! The rooms that look at the whole farm, against a real nats-server; one server per test.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod cluster;
mod learned;
mod permits;

use grange_broker_client::topology::{TopologyOptions, ensure};
use grange_broker_client::{Broker, Options};
use grange_local_farm::nats::NatsServer;
use grange_local_farm::options::NatsOptions;
use grange_local_farm::tools;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server with the farm's streams.
struct Farm {
    server: NatsServer,
    _folder: TempDir,
}

impl Farm {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let find = || tools::nats_server(Path::new(env!("CARGO_TARGET_TMPDIR")), &|_| ());
        let binary = tokio::task::spawn_blocking(find).await.unwrap().unwrap();
        let server = NatsServer::start(&NatsOptions::new(binary, folder.path().join("nats"))).await.unwrap();
        let farm = Self { server, _folder: folder };
        ensure(&farm.broker().await, &TopologyOptions::default()).await.unwrap();
        farm
    }

    /// A connection of its own, that soon gives up.
    async fn broker(&self) -> Broker {
        let request_timeout = Duration::from_secs(2);
        let options = Options { url: self.server.url(), request_timeout, ..Options::default() };
        Broker::connect(&options).await.unwrap()
    }
}

/// Polls until the condition holds, and names what did not in time.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
