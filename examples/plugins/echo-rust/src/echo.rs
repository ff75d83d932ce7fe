//! What a run does: give back what it is given. The same arguments and answers as `examples/plugins/echo`.
//!
//! Owns: the arguments, the chunks and the result of a run. Never: reading from the link.

use crate::desk::{Cancelled, Desk};
use crate::frames::{Run, Sender};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK_BYTES: usize = 1 << 20;

/// Every argument is optional; the text may also be given by position.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Request {
    /// What is given back.
    text: String,
    /// Above 0: so many letters instead of the text.
    bytes: usize,
    /// How long the run takes; in a stream, how long before each chunk.
    delay_s: f64,
    /// A file to read to its end; its size and name are given back.
    read: Option<String>,
    /// Above 0: a file of so many bytes, made in scratch, is given back.
    write_bytes: usize,
    /// The run fails with this message, after everything else.
    fail: Option<String>,
    /// How many chunks a stream has.
    repeat: u64,
}

impl Default for Request {
    fn default() -> Self {
        let (bytes, write_bytes, repeat) = (0, 0, 1);
        Self { text: "hello".into(), bytes, delay_s: 0.0, read: None, write_bytes, fail: None, repeat }
    }
}

/// Why a run ends badly.
enum Failure {
    Cancelled,
    Asked(String),
    BadArguments(String),
    Io(String, std::io::Error),
    /// The link: a frame over the limit, or no link any more.
    Link(std::io::Error),
}

impl From<Cancelled> for Failure {
    fn from(Cancelled: Cancelled) -> Self {
        Self::Cancelled
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    t: &'static str,
    run: u64,
    value: &'a Value,
    files: bool,
}

/// A value, and whether a `$file` is in it.
type Answer = (Value, bool);

/// Executes runs until the agent says `exit`.
pub(crate) fn execute_all(desk: &Desk, sender: &Sender) {
    while let Some((run, waited)) = desk.next() {
        if waited && sender.send(&json!({"t": "started", "run": run.number})).is_err() {
            return;
        }
        let begun = Instant::now();
        let mut blocked = Duration::ZERO;
        let ended = execute(&run, desk, sender, &mut blocked);
        let ms = (begun.elapsed().saturating_sub(blocked)).as_secs_f64() * 1000.0;
        let cancelled = desk.end();
        if conclude(&run, ended, cancelled, ms, sender).is_err() {
            return; // the reader sees the end of the link, too, and ends the process
        }
    }
    std::process::exit(0);
}

fn conclude(
    run: &Run,
    ended: Result<Answer, Failure>,
    cancelled: bool,
    ms: f64,
    sender: &Sender,
) -> std::io::Result<()> {
    let failure = match ended {
        Ok((value, files)) => {
            let done = json!({"t": "done", "run": run.number, "value": value, "files": files, "ms": ms});
            match sender.send(&done) {
                Err(error) if error.kind() == ErrorKind::InvalidInput => Failure::Link(error),
                sent => return sent,
            }
        }
        Err(failure) => failure,
    };
    let (class, kind, message) = match failure {
        Failure::Cancelled => ("Cancelled", "raised", "cancelled".into()),
        Failure::Asked(message) => ("EchoError", "raised", message),
        Failure::BadArguments(message) => ("BadArguments", "bad_arguments", message),
        Failure::Io(what, error) => ("Io", "raised", format!("{what}: {error}")),
        Failure::Link(error) => ("TooLarge", "too_large", error.to_string()),
    };
    sender.send(&json!({
        "t": "error", "run": run.number, "type": class, "message": message, "traceback": "",
        "cancelled": cancelled, "kind": kind, "ms": ms,
    }))
}

fn execute(run: &Run, desk: &Desk, sender: &Sender, blocked: &mut Duration) -> Result<Answer, Failure> {
    let request = read_request(run)?;
    let delay = Duration::try_from_secs_f64(request.delay_s)
        .map_err(|error| Failure::BadArguments(format!("`delay_s`: {error}")))?;
    if run.stream == Some(false) {
        desk.pause(delay)?;
        return answer(&request, &run.scratch);
    }
    let filling = (request.bytes > 0).then(|| Value::String("x".repeat(request.bytes)));
    for n in 0..request.repeat {
        desk.pause(delay)?;
        let value = filling.clone().unwrap_or_else(|| json!({"n": n, "text": request.text}));
        *blocked += desk.room(n)?;
        let chunk = Chunk { t: "chunk", run: run.number, value: &value, files: false };
        sender.send(&chunk).map_err(Failure::Link)?;
    }
    answer(&request, &run.scratch)
}

fn read_request(run: &Run) -> Result<Request, Failure> {
    let mut named = run.kwargs.clone();
    match run.args.as_slice() {
        [] => {}
        [text] if !named.contains_key("text") => {
            named.insert("text".into(), text.clone());
        }
        _ => return Err(Failure::BadArguments("only `text` may be given by position, and once".into())),
    }
    Request::deserialize(Value::Object(named)).map_err(|error| Failure::BadArguments(error.to_string()))
}

fn answer(request: &Request, scratch: &Path) -> Result<Answer, Failure> {
    if let Some(message) = &request.fail {
        return Err(Failure::Asked(message.clone()));
    }
    if let Some(path) = &request.read {
        let size = size_of(Path::new(path)).map_err(|error| Failure::Io(format!("`{path}`"), error))?;
        return Ok((
            json!({"size": size, "name": Path::new(path).file_name().map(|n| n.to_string_lossy())}),
            false,
        ));
    }
    if request.write_bytes > 0 {
        let name = format!("echo-{}.bin", request.write_bytes);
        let path = scratch.join(&name);
        // The folder is made by whoever first needs it.
        std::fs::create_dir_all(scratch)
            .and_then(|()| write(&path, request.write_bytes))
            .map_err(|error| Failure::Io(format!("`{}`", path.display()), error))?;
        return Ok((json!({"$file": {"path": path, "name": name, "temp": false}}), true));
    }
    let text = if request.bytes > 0 { "x".repeat(request.bytes) } else { request.text.clone() };
    Ok((Value::String(text), false))
}

fn size_of(path: &Path) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut size = 0;
    loop {
        match file.read(&mut block)? {
            0 => return Ok(size),
            count => size += count as u64,
        }
    }
}

fn write(path: &Path, size: usize) -> std::io::Result<()> {
    let block: Vec<u8> = (0..=u8::MAX).cycle().take(BLOCK_BYTES).collect();
    let mut file = File::create(path)?;
    let mut left = size;
    while left > 0 {
        let count = left.min(BLOCK_BYTES);
        file.write_all(&block[..count])?;
        left -= count;
    }
    Ok(())
}
