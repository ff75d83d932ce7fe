//! Owns: one private nats-server with JetStream on the loopback address: its folder, its process, its end.
//! Never uses a server that somebody else configured, and never speaks NATS to it beyond the greeting.
//!
//! The server is this process's child and is killed when [`NatsServer`] is dropped. So that it also dies with a
//! parent that is killed, give a [`NatsOptions::death_shim`], and start it from a thread that lives as long as the
//! process (the kernel's parent-death signal is sent when the starting *thread* ends).

mod launch;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{interval, timeout};

use crate::options::NatsOptions;
use crate::probe::{Addresses, Greeting, greeting};
use crate::process::ServerProcess;
use launch::{attach, folder_lock, launch, running};

const KILLED_LIMIT: Duration = Duration::from_secs(10);
const FROZEN_LIMIT: Duration = Duration::from_secs(10);
const FROZEN_POLL: Duration = Duration::from_millis(1);

/// Why there is no server, or why it did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// The server's folder or one of its files cannot be used.
    #[error("cannot use `{path}`: {source}")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An option cannot be written into the configuration.
    #[error("cannot configure the nats-server of `{folder}`: {reason}")]
    Options {
        /// The server's folder.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another server works in the folder; two on one store would destroy it.
    #[error("a nats-server (process {pid}) already serves `{folder}`; use it, or stop that process first")]
    AlreadyRunning {
        /// The server's folder.
        folder: PathBuf,
        /// Its process.
        pid: u32,
    },
    /// The server of the folder runs but does not answer.
    #[error(
        "the nats-server of `{folder}` (process {pid}) runs but does not answer; end that process and try again: {source}"
    )]
    NotAnswering {
        /// The server's folder.
        folder: PathBuf,
        /// Its process.
        pid: u32,
        /// What the attempt to reach it said.
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start `{program}`: {source}")]
    Spawn {
        /// The program, or the shim before it.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("the nats-server of `{folder}` ended before it was ready; it said: {said}")]
    Exited {
        /// The server's folder.
        folder: PathBuf,
        /// The end of its log and of its stderr.
        said: String,
    },
    /// It was not ready in time, and was killed.
    #[error("the nats-server of `{folder}` was not ready within {} s; it said: {said}", limit.as_secs())]
    NotReady {
        /// The server's folder.
        folder: PathBuf,
        /// How long it had.
        limit: Duration,
        /// The end of its log and of its stderr.
        said: String,
    },
    /// It runs without JetStream.
    #[error("the nats-server of `{folder}` has no JetStream; see its log there")]
    NoJetStream {
        /// The server's folder.
        folder: PathBuf,
    },
    /// Its process cannot be signalled, watched or read.
    #[error("cannot control the nats-server with process number {pid}: {source}")]
    Process {
        /// Its process.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It ended by itself when asked to.
    Gracefully,
    /// It did not in time, and was killed.
    Killed,
    /// It had ended before.
    WasGone,
}

/// A private nats-server that answers. Killed when dropped, unless it was found running.
#[derive(Debug)]
pub struct NatsServer {
    options: NatsOptions,
    addresses: Addresses,
    process: ServerProcess,
}

impl NatsServer {
    /// Starts a server and waits until it answers with JetStream.
    ///
    /// # Errors
    /// [`NatsError::AlreadyRunning`] when a server works in that folder; otherwise why it did not come up.
    pub async fn start(options: &NatsOptions) -> Result<Self, NatsError> {
        let _starting = folder_lock(&options.folder).await?;
        match running(&options.folder) {
            Some(record) => {
                Err(NatsError::AlreadyRunning { folder: options.folder.clone(), pid: record.pid })
            }
            None => launch(options, options.port).await,
        }
    }

    /// Takes the server that an earlier process left running in that folder (it keeps the options that it was
    /// started with), else starts one.
    ///
    /// # Errors
    /// [`NatsError::NotAnswering`] when the one that runs does not answer; otherwise as [`Self::start`].
    pub async fn attach_or_start(options: &NatsOptions) -> Result<Self, NatsError> {
        let _starting = folder_lock(&options.folder).await?;
        match running(&options.folder) {
            Some(record) => attach(options, &record).await,
            None => launch(options, options.port).await,
        }
    }

    /// The URL for clients, without the login.
    pub fn url(&self) -> String {
        format!("nats://{}", self.addresses.client)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.options.folder
    }

    /// Whether it was found running rather than started: such a one outlives this value.
    pub fn was_found(&self) -> bool {
        !self.process.is_child()
    }

    /// What it says of itself now.
    ///
    /// # Errors
    /// When it does not answer within two seconds.
    pub async fn greeting(&self) -> io::Result<Greeting> {
        greeting(self.addresses.client).await
    }

    /// Its resident memory, in bytes.
    ///
    /// # Errors
    /// [`NatsError::Process`] when it has ended.
    pub fn rss_bytes(&self) -> Result<u64, NatsError> {
        let read = || {
            let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid()))?;
            let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
            pages.ok_or_else(|| io::Error::other("its memory is not told"))
        };
        let pages = read().map_err(|source| self.process_error(source))?;
        Ok(pages * u64::try_from(rustix::param::page_size()).unwrap_or(4096))
    }

    /// Asks it to end and waits for that; at `limit` it is killed.
    ///
    /// # Errors
    /// [`NatsError::Process`] when it can be neither signalled nor killed.
    pub async fn stop(&mut self, limit: Duration) -> Result<Stopped, NatsError> {
        if !self.signal(Signal::TERM)? {
            return Ok(Stopped::WasGone);
        }
        self.signal(Signal::CONT)?;
        if self.ended_within(limit).await? {
            return Ok(Stopped::Gracefully);
        }
        self.kill().await.map(|()| Stopped::Killed)
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// [`NatsError::Process`] when it cannot be signalled or is not gone within ten seconds.
    pub async fn kill(&mut self) -> Result<(), NatsError> {
        self.signal(Signal::KILL)?;
        if self.ended_within(KILLED_LIMIT).await? {
            return Ok(());
        }
        Err(self.process_error(io::Error::new(io::ErrorKind::TimedOut, "it was killed and is not gone")))
    }

    /// Starts it again, after it ended or was killed, on the same port and store, and waits until it answers.
    ///
    /// # Errors
    /// [`NatsError::AlreadyRunning`] when it still runs; otherwise as [`Self::start`].
    pub async fn restart(&mut self) -> Result<(), NatsError> {
        let _starting = folder_lock(&self.options.folder).await?;
        if let Some(record) = running(&self.options.folder) {
            return Err(NatsError::AlreadyRunning { folder: self.options.folder.clone(), pid: record.pid });
        }
        *self = launch(&self.options, Some(self.addresses.client.port())).await?;
        Ok(())
    }

    /// Freezes it (SIGSTOP) and waits until no thread of it runs: its sockets stay open and nothing answers.
    ///
    /// # Errors
    /// [`NatsError::Process`] when it cannot be signalled or does not stop within ten seconds.
    pub async fn freeze(&self) -> Result<(), NatsError> {
        self.signal(Signal::STOP)?;
        let stopped = timeout(FROZEN_LIMIT, async {
            let mut poll = interval(FROZEN_POLL);
            while !self.process.is_stopped()? {
                poll.tick().await;
            }
            Ok(())
        });
        stopped.await.unwrap_or_else(|late| Err(late.into())).map_err(|source| self.process_error(source))
    }

    /// Lets a frozen one go on (SIGCONT).
    ///
    /// # Errors
    /// [`NatsError::Process`] when it cannot be signalled.
    pub fn thaw(&self) -> Result<(), NatsError> {
        self.signal(Signal::CONT).map(drop)
    }

    async fn ended_within(&mut self, limit: Duration) -> Result<bool, NatsError> {
        let pid = self.pid();
        self.process.ended_within(limit).await.map_err(|source| NatsError::Process { pid, source })
    }

    fn signal(&self, signal: Signal) -> Result<bool, NatsError> {
        self.process.signal(signal).map_err(|source| self.process_error(source))
    }

    fn process_error(&self, source: io::Error) -> NatsError {
        NatsError::Process { pid: self.pid(), source }
    }
}
