//! The private broker of a farm of one.

use crate::context::{Context, Session};
use crate::failure::{Exit, Failure, chain};
use crate::output::Output;
use crate::output::words::Level;
use grange_broker_client::connect::{Broker, Options};
use grange_broker_client::ledger::Ledger;
use grange_broker_client::topology::{TopologyOptions, ensure};
use grange_broker_client::{Error, ErrorKind};
use grange_local_farm::nats::{NatsError, NatsServer};
use grange_local_farm::options::{NatsOptions, SyncInterval};
use grange_local_farm::tools::{self, ToolError};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Smaller disks get a farm with less room: all of it, a quarter, a sixteenth.
const SHARES: [i64; 3] = [1, 4, 16];

/// One of `grange_local_farm::tools`.
type GetTool = fn(&Path, &dyn Fn(&str)) -> Result<PathBuf, ToolError>;

/// A tool's path, found or installed; what takes time is told.
pub(super) async fn tool(
    get: GetTool,
    context: &Context,
    output: &mut dyn Output,
) -> Result<PathBuf, Failure> {
    let state = context.state.path().to_owned();
    let (said, mut heard) = mpsc::channel::<String>(16);
    let found = tokio::task::spawn_blocking(move || {
        get(&state, &|line| {
            // Nobody listens any more when the command was interrupted.
            let _ = said.blocking_send(line.to_owned());
        })
    });
    while let Some(line) = heard.recv().await {
        output.say(Level::Note, &line)?;
    }
    let found = found.await.map_err(|e| Failure::system("a tool was not found", &e))?;
    found.map_err(|e| Failure::new(Exit::Other, chain(&e)))
}

pub(super) async fn binary(context: &Context, output: &mut dyn Output) -> Result<PathBuf, Failure> {
    tool(tools::nats_server, context, output).await
}

pub(super) async fn start(
    binary: PathBuf,
    context: &Context,
    port: Option<u16>,
    sync: SyncInterval,
    shim: Vec<OsString>,
) -> Result<NatsServer, Failure> {
    let mut options = NatsOptions::new(binary, context.state.join("nats"));
    options.port = port;
    options.sync = sync;
    options.monitor = true;
    options.death_shim = Some(shim);
    NatsServer::start(&options).await.map_err(|error| failure(&error))
}

/// Of what a server said that did not come up, its last complaint.
fn failure(error: &NatsError) -> Failure {
    match error {
        NatsError::Exited { folder, said } | NatsError::NotReady { folder, said, .. } => {
            let text =
                format!("the nats-server of `{}` did not come up: {}", folder.display(), complaint(said));
            let failure = Failure::new(Exit::Broker, text);
            if said.contains("address already in use") {
                failure.hint("give another --port, or none: then any free one is taken")
            } else {
                failure.hint(format!("its log: {}", folder.join("nats-server.log").display()))
            }
        }
        error => Failure::new(Exit::Broker, chain(error)),
    }
}

fn complaint(said: &str) -> &str {
    let last = said.lines().rev().find_map(|line| {
        let at = ["[FTL]", "[ERR]"].iter().find_map(|mark| Some(line.find(mark)? + mark.len()))?;
        Some(line[at..].trim())
    });
    last.or_else(|| said.lines().next_back()).unwrap_or("it said nothing")
}

pub(super) async fn connect(server: &NatsServer) -> Result<Session, Failure> {
    let options = Options { url: server.url(), name: "grange up".to_owned(), ..Options::default() };
    let broker = Broker::connect(&options).await?;
    let ledger = Ledger::new(&broker);
    Ok(Session { broker, ledger })
}

/// Makes the streams, with less room where the disk is small.
pub(super) async fn topology(session: &Session, output: &mut dyn Output) -> Result<(), Failure> {
    let mut full: Option<Error> = None;
    for share in SHARES {
        let all = TopologyOptions::default();
        let options = TopologyOptions {
            jobs_max_bytes: all.jobs_max_bytes / share,
            state_max_bytes: all.state_max_bytes / share,
            events_max_bytes: all.events_max_bytes / share,
            dead_max_bytes: all.dead_max_bytes / share,
            ..all
        };
        match ensure(&session.broker, &options).await {
            Ok(_) if share > 1 => {
                let text = format!("the disk has little room: the farm takes one {share}th of the usual");
                return Ok(output.say(Level::Warning, &text)?);
            }
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::StorageFull => full = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    let failure = full.map_or_else(|| Failure::new(Exit::Other, "no room for the farm"), Failure::from);
    Err(failure.hint("make room on the disk, or give another --state"))
}

/// What is lost when, in plain words.
pub(super) fn durability(sync: SyncInterval) -> &'static str {
    match sync {
        SyncInterval::Default => {
            "a killed process loses no job; a power cut may lose what was accepted in the last two minutes (--sync always)"
        }
        SyncInterval::Always => {
            "no job that was accepted is lost, not by a killed process and not by a power cut"
        }
    }
}

/// Starts the broker again if it has ended. True: it had.
pub(super) async fn revive(server: &mut NatsServer) -> Result<bool, Failure> {
    if server.greeting().await.is_ok() {
        return Ok(false);
    }
    match server.restart().await {
        Ok(()) => Ok(true),
        // It runs and is only slow.
        Err(NatsError::AlreadyRunning { .. }) => Ok(false),
        Err(error) => Err(failure(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_is_shown() {
        let said =
            "[1] 2026 [INF] fine\n[1] 2026 [FTL] Error listening: address already in use\n[1] 2026 [INF] bye";
        assert_eq!(complaint(said), "Error listening: address already in use");
        assert_eq!(complaint("only this"), "only this");
        let error = NatsError::Exited { folder: "/f".into(), said: said.to_owned() };
        assert!(failure(&error).hint.unwrap().contains("--port"));
    }
}
