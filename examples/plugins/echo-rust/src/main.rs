//! A plugin for Grange that is no Python class but an executable: the echo plugin in Rust.
//!
//! It speaks the worker link (`docs/worker-link.md`) on file descriptor 0. The main thread reads, and answers
//! questions while a run executes; one other thread executes.
//!
//! Owns: start-up and the meaning of every frame from the agent. Never: what a run does (`echo`).

mod desk;
mod echo;
mod frames;
mod stats;

use desk::Desk;
use frames::{FromAgent, Load, Receiver, Sender};
use serde_json::{Value, json};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

const NAME: &str = "echo-rust";
const EXIT_BROKEN_FRAME: u8 = 4;
const EXIT_ORPHANED: u8 = 5;

fn main() -> ExitCode {
    match serve() {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be done where even stderr is gone.
            let _ = writeln!(std::io::stderr(), "{NAME}: {error}");
            ExitCode::from(EXIT_BROKEN_FRAME)
        }
    }
}

fn serve() -> std::io::Result<ExitCode> {
    let link = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut receiver = Receiver::new(link.try_clone()?);
    let load = match receiver.next()? {
        Some(FromAgent::Load(load)) => load,
        Some(_) => return Err(std::io::Error::other("the first frame is not `load`")),
        None => return Ok(ExitCode::SUCCESS),
    };
    receiver.limit(load.frame_bytes);
    let sender = Arc::new(Sender::new(link, load.frame_bytes));
    let desk = Arc::new(Desk::new(load.window));
    sender.send(&ready(&load))?;
    let executor = (Arc::clone(&desk), Arc::clone(&sender));
    thread::Builder::new()
        .name("executor".into())
        .spawn(move || echo::execute_all(&executor.0, &executor.1))?;
    listen(&mut receiver, &desk, &sender)
}

fn ready(load: &Load) -> Value {
    json!({
        "t": "ready", "protocol": load.protocol, "pid": std::process::id(), "name": NAME,
        "version": env!("CARGO_PKG_VERSION"), "config": null, "schema": null,
        "streams": true, "cancels": true, "releases": false,
    })
}

/// Handles frames until the link ends; the process ends with it, whatever the executor does.
fn listen(receiver: &mut Receiver, desk: &Desk, sender: &Sender) -> std::io::Result<ExitCode> {
    let mut meter = stats::Meter::new();
    while let Some(frame) = receiver.next()? {
        match frame {
            FromAgent::Run(run) => desk.submit(run),
            FromAgent::Credit { run, chunks } => desk.credit(run, chunks),
            FromAgent::Cancel { run } => cancel(run, desk, sender)?,
            FromAgent::Ask { id, what } => {
                let answer = match what.as_str() {
                    "health" => Ok(health(desk)),
                    "stats" => Ok(meter.read(&desk.counts())),
                    "config" | "schema" => Ok(Value::Null),
                    other => Err(format!("unknown question `{other}`")),
                };
                sender.send(&answered(&id, answer))?;
            }
            FromAgent::Configure { id } => {
                sender.send(&answered(&id, Err("the plugin has no configuration".into())))?;
            }
            FromAgent::Release { id } => sender.send(&answered(&id, Ok(Value::Bool(false))))?,
            FromAgent::Exit => desk.close(),
            FromAgent::Load(_) | FromAgent::Unknown => {}
        }
    }
    let idle = desk.counts().unfinished == 0;
    Ok(if idle { ExitCode::SUCCESS } else { ExitCode::from(EXIT_ORPHANED) })
}

fn cancel(run: u64, desk: &Desk, sender: &Sender) -> std::io::Result<()> {
    let (answer, dropped) = match desk.cancel(run) {
        desk::Cancel::Asked => ("cancelled", false),
        desk::Cancel::Dropped => ("cancelled", true),
        desk::Cancel::Unknown => ("unknown", false),
    };
    sender.send(&json!({"t": "cancelling", "run": run, "answer": answer, "message": ""}))?;
    if dropped {
        sender.send(&json!({
            "t": "error", "run": run, "type": "Cancelled", "message": "cancelled before it began",
            "traceback": "", "cancelled": true, "kind": "raised", "ms": 0,
        }))?;
    }
    Ok(())
}

fn health(desk: &Desk) -> Value {
    let counts = desk.counts();
    json!({
        "status": if counts.active > 0 { "running" } else { "idle" }, "pid": std::process::id(), "name": NAME,
        "version": env!("CARGO_PKG_VERSION"), "active": counts.active,
        "waiting": counts.unfinished - counts.active,
    })
}

fn answered(id: &Value, answer: Result<Value, String>) -> Value {
    match answer {
        Ok(value) => json!({"t": "answer", "id": id, "ok": true, "value": value}),
        Err(message) => json!({
            "t": "answer", "id": id, "ok": false,
            "error": {"type": "Refused", "message": message, "traceback": ""},
        }),
    }
}
