//! Owns: three nats-servers in one cluster on the loopback address, for tests of what survives the loss of one.
//! Never for use: three servers on one disk protect nothing.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::nats::{NatsError, NatsServer, Stopped};
use crate::options::{ClusterSeat, NatsOptions, SyncInterval};
use crate::probe::page;

/// How many servers a cluster has.
pub const MEMBERS: usize = 3;

/// Between choosing free ports and listening on them somebody else may take one.
const START_ATTEMPTS: usize = 3;
const FORMED_LIMIT: Duration = Duration::from_secs(60);
const FORMED_POLL: Duration = Duration::from_millis(50);

/// How a cluster is to run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterOptions {
    /// The program, as [`crate::tools::nats_server`] finds it.
    pub binary: PathBuf,
    /// The cluster's folder; each member has one in it.
    pub folder: PathBuf,
    /// When what was written is forced to the disk.
    pub sync: SyncInterval,
    /// As in [`NatsOptions::death_shim`].
    pub death_shim: Option<Vec<OsString>>,
}

impl ClusterOptions {
    /// A cluster in `folder` with the server's default sync.
    pub fn new(binary: PathBuf, folder: PathBuf) -> Self {
        Self { binary, folder, sync: SyncInterval::Default, death_shim: None }
    }
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// A member did not come up.
    #[error("member {index} of the cluster: {source}")]
    Member {
        /// The member, from 0.
        index: usize,
        /// Why.
        source: NatsError,
    },
    /// No free port could be had.
    #[error("cannot find free ports for the cluster: {0}")]
    Ports(std::io::Error),
    /// The members did not agree on a leader in time.
    #[error("the cluster in `{folder}` has no leader that all running members know after {} s", limit.as_secs())]
    NotFormed {
        /// The cluster's folder.
        folder: PathBuf,
        /// How long it had.
        limit: Duration,
    },
}

/// A running cluster. Its members are killed when it is dropped.
#[derive(Debug)]
pub struct NatsCluster {
    folder: PathBuf,
    members: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts the members and waits until JetStream has a leader that all of them know.
    ///
    /// # Errors
    /// [`ClusterError`] when a member does not come up or they do not agree within a minute.
    pub async fn start(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let mut attempt = 1;
        let members = loop {
            match start_members(options, free_ports()?).await {
                Ok(members) => break members,
                Err(ClusterError::Member { source: NatsError::Exited { .. }, .. })
                    if attempt < START_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        };
        let cluster = Self { folder: options.folder.clone(), members };
        cluster.formed(&[0, 1, 2], FORMED_LIMIT).await?;
        Ok(cluster)
    }

    /// The URLs of all members, for clients.
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(NatsServer::url).collect()
    }

    /// A member, from 0.
    ///
    /// # Panics
    /// When `index` is not below [`MEMBERS`].
    pub fn member(&self, index: usize) -> &NatsServer {
        &self.members[index]
    }

    /// Asks a member to end and waits for that; at `limit` it is killed.
    ///
    /// # Errors
    /// As [`NatsServer::stop`].
    pub async fn stop(&mut self, index: usize, limit: Duration) -> Result<Stopped, NatsError> {
        self.members[index].stop(limit).await
    }

    /// Kills a member (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// As [`NatsServer::kill`].
    pub async fn kill(&mut self, index: usize) -> Result<(), NatsError> {
        self.members[index].kill().await
    }

    /// Starts a member that ended again, on its port and store, and waits until it answers; see [`Self::formed`].
    ///
    /// # Errors
    /// As [`NatsServer::restart`].
    pub async fn restart(&mut self, index: usize) -> Result<(), NatsError> {
        self.members[index].restart().await
    }

    /// Freezes a member (SIGSTOP) and waits until it has stopped: its sockets stay open and nothing answers.
    ///
    /// # Errors
    /// As [`NatsServer::freeze`].
    pub async fn freeze(&self, index: usize) -> Result<(), NatsError> {
        self.members[index].freeze().await
    }

    /// Lets a frozen member go on (SIGCONT).
    ///
    /// # Errors
    /// As [`NatsServer::thaw`].
    pub fn thaw(&self, index: usize) -> Result<(), NatsError> {
        self.members[index].thaw()
    }

    /// Waits until the members named by `indices` all know one and the same of them as JetStream's leader, and
    /// returns it.
    ///
    /// # Errors
    /// [`ClusterError::NotFormed`] at `limit`.
    pub async fn formed(&self, indices: &[usize], limit: Duration) -> Result<usize, ClusterError> {
        timeout(limit, self.agreement(indices))
            .await
            .map_err(|_| ClusterError::NotFormed { folder: self.folder.clone(), limit })
    }

    async fn agreement(&self, indices: &[usize]) -> usize {
        let mut poll = interval(FORMED_POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            poll.tick().await;
            let mut leaders = Vec::new();
            for &index in indices {
                leaders.push(self.leader_known_to(index).await);
            }
            if let [Some(first), rest @ ..] = leaders.as_slice()
                && indices.contains(first)
                && rest.iter().all(|leader| *leader == Some(*first))
            {
                return *first;
            }
        }
    }

    async fn leader_known_to(&self, index: usize) -> Option<usize> {
        let monitor = self.members[index].addresses().monitor?;
        let page = page(monitor, "/jsz").await.ok()?;
        let group = page.get("meta_cluster")?;
        if group.get("cluster_size")?.as_u64()? != u64::try_from(MEMBERS).ok()? {
            return None;
        }
        let leader = group.get("leader")?.as_str()?;
        (0..MEMBERS).find(|&other| member_name(other) == leader)
    }
}

/// All at once: none of them is ready before it has met another.
async fn start_members(
    options: &ClusterOptions,
    ports: [u16; MEMBERS],
) -> Result<Vec<NatsServer>, ClusterError> {
    let asked = [0, 1, 2].map(|index| member_options(options, index, ports));
    let (first, second, third) = tokio::join!(
        NatsServer::start(&asked[0]),
        NatsServer::start(&asked[1]),
        NatsServer::start(&asked[2])
    );
    [first, second, third]
        .into_iter()
        .enumerate()
        .map(|(index, member)| member.map_err(|source| ClusterError::Member { index, source }))
        .collect()
}

fn member_options(options: &ClusterOptions, index: usize, ports: [u16; MEMBERS]) -> NatsOptions {
    let name = member_name(index);
    let mut member = NatsOptions::new(options.binary.clone(), options.folder.join(&name));
    member.name = name;
    member.sync = options.sync;
    member.monitor = true;
    member.death_shim.clone_from(&options.death_shim);
    let routes = ports.iter().copied().filter(|&port| port != ports[index]).collect();
    member.cluster = Some(ClusterSeat { name: "grange".to_owned(), port: ports[index], routes });
    member
}

fn member_name(index: usize) -> String {
    format!("nats-{index}")
}

/// Held together while they are chosen, so that they differ.
fn free_ports() -> Result<[u16; MEMBERS], ClusterError> {
    let mut ports = [0; MEMBERS];
    let mut listeners = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(ClusterError::Ports)?;
        *port = listener.local_addr().map_err(ClusterError::Ports)?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
