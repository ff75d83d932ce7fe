//! Owns: the words in which a private nats-server is asked for. Pure: never touches the disk or a process.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_START_LIMIT: Duration = Duration::from_secs(30);

/// How a private server is to run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NatsOptions {
    /// The program, as [`crate::tools::nats_server`] finds it.
    pub binary: PathBuf,
    /// The server's own folder: configuration, store, log. Made if it is not there.
    pub folder: PathBuf,
    /// The server's name; in a cluster each has its own.
    pub name: String,
    /// The port for clients; `None` takes any free one.
    pub port: Option<u16>,
    /// When what was written is forced to the disk.
    pub sync: SyncInterval,
    /// The most that JetStream may store, in bytes; `None` leaves the server's own limit.
    pub max_file_store_bytes: Option<u64>,
    /// What clients must present; `None` lets every process of this machine in.
    pub login: Option<Login>,
    /// Whether to serve the monitoring pages, on any free loopback port.
    pub monitor: bool,
    /// The place in a cluster.
    pub cluster: Option<ClusterSeat>,
    /// More lines for the server's configuration file.
    pub extra_config: String,
    /// A command put before the server's, which must end with its parent and `exec` the rest, keeping its process
    /// number, such as `["/usr/bin/grange-agent", "exec-with-parent"]`.
    pub death_shim: Option<Vec<OsString>>,
    /// How long the server may take until it answers.
    pub start_limit: Duration,
}

impl NatsOptions {
    /// A server for `folder` on any free port, with the server's default sync, open to this machine.
    pub fn new(binary: PathBuf, folder: PathBuf) -> Self {
        Self {
            binary,
            folder,
            name: "grange".to_owned(),
            port: None,
            sync: SyncInterval::Default,
            max_file_store_bytes: None,
            login: None,
            monitor: false,
            cluster: None,
            extra_config: String::new(),
            death_shim: None,
            start_limit: DEFAULT_START_LIMIT,
        }
    }
}

/// When JetStream forces what it wrote to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncInterval {
    /// Every two minutes: a killed server loses nothing, a power cut may lose two minutes.
    Default,
    /// Before each answer: a power cut loses nothing that was acknowledged.
    Always,
}

/// What a client must present.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A name and a password.
    User {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token alone.
    Token(String),
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User { user, .. } => {
                formatter.debug_struct("User").field("user", user).finish_non_exhaustive()
            }
            Self::Token(_) => formatter.debug_tuple("Token").finish_non_exhaustive(),
        }
    }
}

/// A server's place in a cluster on the loopback address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSeat {
    /// The cluster's name.
    pub name: String,
    /// The port this server listens on for the others.
    pub port: u16,
    /// The ports of the others.
    pub routes: Vec<u16>,
}
