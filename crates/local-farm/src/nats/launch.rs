//! Owns: how a private server comes up, or is found up: its folder, its lock, its files, the wait for its answer.
//! Never decides what becomes of a server that runs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{NatsError, NatsServer};
use crate::config;
use crate::options::NatsOptions;
use crate::probe::{Addresses, Greeting, clear_ports, greeting, read_ports};
use crate::process::ServerProcess;
use crate::record::ServerRecord;

const READY_POLL: Duration = Duration::from_millis(5);
const SAID_BYTES: usize = 2048;
const ANY_PORT: i32 = -1;

const CONFIG_FILE: &str = "nats-server.conf";
/// What the server writes before its log is open.
const OUTPUT_FILE: &str = "nats-server.out";

/// Keeps others from starting a server in `folder` until dropped. Makes the folder.
pub(super) async fn folder_lock(folder: &Path) -> Result<File, NatsError> {
    let path = folder.join("start.lock");
    let error = |source| NatsError::Folder { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(error)?;
    let file = File::create(&path).map_err(error)?;
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    locked.map_err(io::Error::other).and_then(|locked| locked).map_err(error)
}

/// The server that works in `folder`.
pub(super) fn running(folder: &Path) -> Option<ServerRecord> {
    ServerRecord::load(folder).filter(ServerRecord::is_alive)
}

/// Takes the running server that `record` names. Needs the folder's lock.
pub(super) async fn attach(options: &NatsOptions, record: &ServerRecord) -> Result<NatsServer, NatsError> {
    let pid = record.pid;
    let not_answering = |source| NatsError::NotAnswering { folder: options.folder.clone(), pid, source };
    let process = ServerProcess::of_stranger(pid).map_err(not_answering)?;
    if !record.is_alive() {
        return launch(options, options.port).await;
    }
    let (addresses, greeting) = timeout(options.start_limit, answer(&options.folder))
        .await
        .map_err(|late| not_answering(late.into()))?;
    with_jetstream(NatsServer { options: options.clone(), addresses, process }, &greeting)
}

/// Starts a server and waits for its answer. Needs the folder's lock.
pub(super) async fn launch(options: &NatsOptions, port: Option<u16>) -> Result<NatsServer, NatsError> {
    let folder = &options.folder;
    write_config(options, port)?;
    clear_ports(folder).map_err(|source| NatsError::Folder { path: folder.clone(), source })?;
    let mut process = spawn(options)?;
    let limit = options.start_limit;
    let (addresses, greeting) = tokio::select! {
        answer = answer(folder) => answer,
        ended = process.ended_within(limit) => {
            let (folder, said) = (folder.clone(), said(folder));
            return Err(match ended {
                Ok(false) => NatsError::NotReady { folder, limit, said },
                Ok(true) => NatsError::Exited { folder, said },
                Err(source) => NatsError::Process { pid: process.pid(), source },
            });
        }
    };
    with_jetstream(NatsServer { options: options.clone(), addresses, process }, &greeting)
}

fn with_jetstream(server: NatsServer, greeting: &Greeting) -> Result<NatsServer, NatsError> {
    if greeting.jetstream {
        Ok(server)
    } else {
        Err(NatsError::NoJetStream { folder: server.options.folder.clone() })
    }
}

/// The file may hold a password, so nobody else may read it.
fn write_config(options: &NatsOptions, port: Option<u16>) -> Result<(), NatsError> {
    let text = config::text(options, port.map_or(ANY_PORT, i32::from))
        .map_err(|reason| NatsError::Options { folder: options.folder.clone(), reason })?;
    let path = options.folder.join(CONFIG_FILE);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| NatsError::Folder { path, source })
}

/// Its record is written at once, so that even a server whose starter is killed now will be recognised.
fn spawn(options: &NatsOptions) -> Result<ServerProcess, NatsError> {
    let folder = &options.folder;
    let output_path = folder.join(OUTPUT_FILE);
    let output = File::create(&output_path)
        .and_then(|file| Ok((file.try_clone()?, file)))
        .map_err(|source| NatsError::Folder { path: output_path, source })?;
    let mut words: Vec<_> = options.death_shim.clone().unwrap_or_default();
    words.push(options.binary.clone().into_os_string());
    let program = PathBuf::from(&words[0]);
    let child: Child = Command::new(&words[0])
        .args(&words[1..])
        .arg("-c")
        .arg(folder.join(CONFIG_FILE))
        .arg("--ports_file_dir")
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(output.0)
        .stderr(output.1)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| NatsError::Spawn { program: program.clone(), source })?;
    let process = ServerProcess::of_child(child).map_err(|source| NatsError::Spawn { program, source })?;
    ServerRecord::of(process.pid())
        .and_then(|record| record.save(folder))
        .map_err(|source| NatsError::Folder { path: folder.clone(), source })?;
    Ok(process)
}

/// Never returns before there is an answer: the caller sets the limit.
async fn answer(folder: &Path) -> (Addresses, Greeting) {
    let mut poll = interval(READY_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        if let Some(addresses) = read_ports(folder)
            && let Ok(greeting) = greeting(addresses.client).await
        {
            return (addresses, greeting);
        }
    }
}

/// The end of what the server wrote, for an error message.
fn said(folder: &Path) -> String {
    let end_of = |name: &str| {
        let text = fs::read(folder.join(name)).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(SAID_BYTES)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    };
    format!("{} {}", end_of(OUTPUT_FILE), end_of("nats-server.log")).trim().to_owned()
}
