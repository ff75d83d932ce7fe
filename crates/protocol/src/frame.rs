//! Frames of the worker link (`docs/worker-link.md`): a length, then one JSON object.

mod from_worker;

pub use from_worker::{FromWorker, Raised, Ready};

use crate::json::Json;
use serde::Serialize;
use serde_json::{Map, Value};

/// Version of the link.
pub const LINK_PROTOCOL: u32 = 1;
/// Bytes of the length in front of a frame.
pub const HEADER_BYTES: usize = 4;

/// What a worker is told first.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// Version of the link.
    pub protocol: u32,
    /// The plugin's name.
    pub plugin: String,
    /// Python module of the class; empty for an executable.
    pub module: String,
    /// The class; empty for an executable.
    pub class: String,
    /// Folders put first on the module path.
    pub paths: Vec<String>,
    /// The first configuration.
    pub config: Option<Map<String, Value>>,
    /// Runs at a time.
    pub concurrency: u32,
    /// Largest frame, bytes.
    pub frame_bytes: usize,
    /// Chunks in flight of one run.
    pub window: u32,
    /// Largest bytes value that stays in a frame.
    pub inline_bytes: usize,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Never used twice on one worker.
    pub run: u64,
    /// Positional arguments: a JSON array.
    pub args: Json,
    /// Named arguments: a JSON object.
    pub kwargs: Json,
    /// Whether chunks are wanted; None: as the plugin does best.
    pub stream: Option<bool>,
    /// A folder of this run's own.
    pub scratch: String,
    /// The job, for the plugin to see.
    pub job: String,
    /// The attempt, for the plugin to see.
    pub attempt: u32,
}

/// What an agent asks of a worker besides running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Is it there?
    Health,
    /// What does it use?
    Stats,
    /// Its configuration.
    Config,
    /// The schema of its configuration.
    Schema,
}

/// A frame from the agent.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ToWorker {
    /// Sent once, first.
    Load(Box<Load>),
    /// Run something. Boxed JSON inside, so it is written by `write`, not by serde's tagging.
    #[serde(skip)]
    Run(Box<Run>),
    /// Ask the plugin to stop.
    Cancel {
        /// Which run.
        run: u64,
    },
    /// More chunks may come.
    Credit {
        /// Which run.
        run: u64,
        /// How many.
        chunks: u32,
    },
    /// Ask something.
    Ask {
        /// Comes back with the answer.
        id: u64,
        /// What.
        what: Question,
    },
    /// `release()`, once nothing runs any more.
    Release {
        /// Comes back with the answer.
        id: u64,
    },
    /// `cleanup()`, then exit.
    Exit,
}

#[derive(Serialize)]
struct TaggedRun<'a> {
    t: &'static str,
    run: u64,
    args: &'a Json,
    kwargs: &'a Json,
    stream: Option<bool>,
    scratch: &'a str,
    job: &'a str,
    attempt: u32,
}

/// Why a frame is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Over the limit.
    #[error("frame of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not JSON of the shape.
    #[error("frame is not valid: {0}")]
    Malformed(String),
}

impl ToWorker {
    /// Appends the frame to `out`.
    pub fn write(&self, out: &mut Vec<u8>, limit: usize) -> Result<(), FrameError> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let written = match self {
            Self::Run(run) => serde_json::to_writer(&mut *out, &TaggedRun::of(run)),
            Self::Load(_)
            | Self::Cancel { .. }
            | Self::Credit { .. }
            | Self::Ask { .. }
            | Self::Release { .. }
            | Self::Exit => serde_json::to_writer(&mut *out, self),
        };
        let bytes = out.len() - start - HEADER_BYTES;
        let fault = match written {
            Err(error) => Some(FrameError::Malformed(error.to_string())),
            Ok(()) if bytes > limit => Some(FrameError::TooLarge { bytes, limit }),
            Ok(()) => None,
        };
        if let Some(fault) = fault {
            out.truncate(start);
            return Err(fault);
        }
        let length = u32::try_from(bytes).expect("a limit fits into a frame's length");
        out[start..start + HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

impl<'a> TaggedRun<'a> {
    fn of(run: &'a Run) -> Self {
        Self {
            t: "run",
            run: run.run,
            args: &run.args,
            kwargs: &run.kwargs,
            stream: run.stream,
            scratch: &run.scratch,
            job: &run.job,
            attempt: run.attempt,
        }
    }
}

/// Finds the first whole frame in `buffer`: its body's range and where the next begins. None: more has to come.
pub fn split(buffer: &[u8], limit: usize) -> Result<Option<(std::ops::Range<usize>, usize)>, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let bytes = u32::from_be_bytes(*header) as usize;
    if bytes > limit {
        return Err(FrameError::TooLarge { bytes, limit });
    }
    let end = HEADER_BYTES + bytes;
    Ok((buffer.len() >= end).then_some((HEADER_BYTES..end, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_written_with_its_length() {
        let run = Run {
            run: 7,
            args: Json::parse("[1]").unwrap(),
            kwargs: Json::parse("{\"a\": 1}").unwrap(),
            stream: None,
            scratch: "/s".into(),
            job: "j".into(),
            attempt: 1,
        };
        let mut out = vec![9];
        ToWorker::Run(Box::new(run)).write(&mut out, 1000).unwrap();
        let (body, end) = split(&out[1..], 1000).unwrap().unwrap();
        assert_eq!(end, out.len() - 1);
        let value: Value = serde_json::from_slice(&out[1..][body]).unwrap();
        assert_eq!(
            (&value["t"], &value["run"], &value["kwargs"]["a"]),
            (&"run".into(), &7.into(), &1.into())
        );
    }

    #[test]
    fn too_large_leaves_nothing_behind() {
        let mut out = Vec::new();
        let error = ToWorker::Cancel { run: 1 }.write(&mut out, 3).unwrap_err();
        assert!(error.to_string().contains("exceeds the limit of 3"));
        assert!(out.is_empty());
        assert!(matches!(split(&[0xff; 8], 1000), Err(FrameError::TooLarge { .. })));
        assert_eq!(split(&[0, 0, 0, 9, 1], 1000), Ok(None));
    }

    #[test]
    fn values_are_not_taken_apart() {
        let frame = br#"{"t":"chunk","run":3,"value":{"b": 1.10, "a":[ ]}}"#;
        let FromWorker::Chunk { run: 3, value, files: false } = FromWorker::read(frame).unwrap() else {
            panic!("not a chunk");
        };
        assert_eq!(value.get(), r#"{"b": 1.10, "a":[ ]}"#);
    }

    #[test]
    fn a_chunk_may_be_null() {
        let frame = FromWorker::read(br#"{"t":"chunk","run":3,"value":null}"#).unwrap();
        assert!(matches!(frame, FromWorker::Chunk { value, .. } if value.get() == "null"));
    }

    #[test]
    fn bad_frames_say_what_is_wrong() {
        let said = |t: &str| FromWorker::read(t.as_bytes()).unwrap_err().to_string();
        assert!(said("[]").contains("not valid"));
        assert!(said(r#"{"t":"dance"}"#).contains("`dance` is not a kind"));
        assert!(said(r#"{"t":"progress","run":1}"#).contains("`progress` has no `progress`"));
        assert!(said(r#"{"t":"done"}"#).contains("`done` has no `run`"));
    }
}
