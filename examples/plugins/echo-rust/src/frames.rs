//! Frames on the link: a big-endian `u32` length, then one JSON object.
//!
//! Owns: framing, the size limit, the shape of what the agent sends. Never: what a frame leads to.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::{BufReader, Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

const DEFAULT_FRAME_BYTES: usize = 8 * 1024 * 1024;
const DEFAULT_WINDOW: u64 = 64;

/// What the agent sends.
#[derive(Debug, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(crate) enum FromAgent {
    Load(Load),
    Run(Run),
    Cancel {
        run: u64,
    },
    Credit {
        run: u64,
        chunks: u64,
    },
    Configure {
        id: Value,
    },
    Ask {
        id: Value,
        what: String,
    },
    Release {
        id: Value,
    },
    Exit,
    /// Of a later version of the link: not for us.
    #[serde(other)]
    Unknown,
}

/// The first frame.
#[derive(Debug, Deserialize)]
pub(crate) struct Load {
    pub(crate) protocol: u32,
    #[serde(default = "default_frame_bytes")]
    pub(crate) frame_bytes: usize,
    #[serde(default = "default_window")]
    pub(crate) window: u64,
}

/// One run.
#[derive(Debug, Deserialize)]
pub(crate) struct Run {
    #[serde(rename = "run")]
    pub(crate) number: u64,
    #[serde(default)]
    pub(crate) args: Vec<Value>,
    #[serde(default)]
    pub(crate) kwargs: Map<String, Value>,
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    #[serde(default)]
    pub(crate) scratch: PathBuf,
}

fn default_frame_bytes() -> usize {
    DEFAULT_FRAME_BYTES
}

fn default_window() -> u64 {
    DEFAULT_WINDOW
}

/// The reading end.
pub(crate) struct Receiver {
    stream: BufReader<UnixStream>,
    limit: usize,
}

impl Receiver {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream), limit: DEFAULT_FRAME_BYTES }
    }

    pub(crate) fn limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Reads one frame; None when the agent is gone.
    pub(crate) fn next(&mut self) -> Result<Option<FromAgent>> {
        let mut header = [0; 4];
        if !fill(&mut self.stream, &mut header)? {
            return Ok(None);
        }
        let size = u32::from_be_bytes(header) as usize;
        if size > self.limit {
            return Err(broken(&too_large(size, self.limit)));
        }
        let mut body = vec![0; size];
        if !fill(&mut self.stream, &mut body)? {
            return Ok(None);
        }
        serde_json::from_slice(&body).map(Some).map_err(|error| broken(&error.to_string()))
    }
}

/// Fills a buffer; false when the stream ended first.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> Result<bool> {
    match stream.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn broken(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("broken frame from the agent: {why}"))
}

fn too_large(size: usize, limit: usize) -> String {
    format!("frame of {size} bytes exceeds the limit of {limit} bytes")
}

/// The writing end, for both threads.
pub(crate) struct Sender {
    stream: Mutex<UnixStream>,
    limit: usize,
}

impl Sender {
    pub(crate) fn new(stream: UnixStream, limit: usize) -> Self {
        Self { stream: Mutex::new(stream), limit }
    }

    /// Sends a frame in one piece; `InvalidInput` when it is over the limit, and then nothing is sent.
    pub(crate) fn send(&self, frame: &impl Serialize) -> Result<()> {
        let mut data = vec![0; 4];
        serde_json::to_writer(&mut data, frame)?;
        let size = data.len() - 4;
        let header = u32::try_from(size).ok().filter(|_| size <= self.limit);
        let header =
            header.ok_or_else(|| Error::new(ErrorKind::InvalidInput, too_large(size, self.limit)))?;
        data[..4].copy_from_slice(&header.to_be_bytes());
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).write_all(&data)
    }
}
