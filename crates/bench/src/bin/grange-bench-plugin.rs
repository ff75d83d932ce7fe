//! A plugin for benchmarks: takes as long to start and to run as it is told, and says by the machine's clock when each
//! run began and ended. It speaks the worker link (`docs/worker-link.md`) on file descriptor 0.
//!
//! `grange-bench-plugin START_MS`; a run's named argument `ms` is how long it takes, milliseconds.
//!
//! Never uses the processor while it waits: eight agents on two cores are to show how jobs are placed, not the machine.

use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Result, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

/// Larger frames are not read.
const FRAME_BYTES: usize = 1 << 20;

fn main() -> Result<()> {
    let start_ms = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut link = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    while let Some(frame) = receive(&mut link)? {
        match frame["t"].as_str().unwrap_or_default() {
            "load" => {
                pass(start_ms);
                let ready = json!({
                    "t": "ready", "protocol": 1, "pid": std::process::id(), "name": frame["plugin"],
                    "version": env!("CARGO_PKG_VERSION"), "config": null, "schema": null,
                    "streams": false, "cancels": false, "releases": false,
                });
                send(&mut link, &ready)?;
            }
            "run" => {
                let began_us = unix_us();
                pass(frame["kwargs"]["ms"].as_u64().unwrap_or(0));
                let ended_us = unix_us();
                let done = json!({
                    "t": "done", "run": frame["run"], "files": false,
                    "value": {"began_us": began_us, "ended_us": ended_us},
                    "ms": Duration::from_micros(ended_us.saturating_sub(began_us)).as_secs_f64() * 1000.0,
                });
                send(&mut link, &done)?;
            }
            "cancel" => {
                let answer =
                    json!({"t": "cancelling", "run": frame["run"], "answer": "not_supported", "message": ""});
                send(&mut link, &answer)?;
            }
            "ask" | "configure" | "release" => {
                let refused = json!({"type": "Refused", "message": "a benchmark's plugin", "traceback": ""});
                send(&mut link, &json!({"t": "answer", "id": frame["id"], "ok": false, "error": refused}))?;
            }
            "exit" => break,
            _ => {}
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "to take time and nothing else is what this plugin is for")]
fn pass(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

/// One frame; None when the agent is gone.
fn receive(link: &mut UnixStream) -> Result<Option<Value>> {
    let mut header = [0; 4];
    match link.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let size = u32::from_be_bytes(header) as usize;
    if size > FRAME_BYTES {
        return Err(std::io::Error::other(format!(
            "frame of {size} bytes exceeds the limit of {FRAME_BYTES}"
        )));
    }
    let mut body = vec![0; size];
    link.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

fn send(link: &mut UnixStream, frame: &Value) -> Result<()> {
    let body = frame.to_string();
    let size = u32::try_from(body.len()).map_err(std::io::Error::other)?;
    let mut all = size.to_be_bytes().to_vec();
    all.extend_from_slice(body.as_bytes());
    link.write_all(&all)
}
