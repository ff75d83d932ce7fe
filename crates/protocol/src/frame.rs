//! Frames of the worker link (`docs/worker-link.md`): a length, then one JSON object.

use crate::json::Json;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;

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
            other => serde_json::to_writer(&mut *out, other),
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

/// Every field that a worker's frame can have. One flat shape: the value inside is not taken apart.
#[derive(Debug, Deserialize)]
struct Flat<'a> {
    #[serde(borrow)]
    t: Cow<'a, str>,
    #[serde(default)]
    run: Option<u64>,
    #[serde(default)]
    id: Option<u64>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    files: bool,
    #[serde(default)]
    ms: Option<f64>,
    #[serde(default)]
    progress: Option<f64>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    stream: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    line: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    traceback: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    class: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    stage: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    answer: Option<Cow<'a, str>>,
    #[serde(default)]
    cancelled: bool,
    #[serde(default)]
    ok: bool,
    #[serde(default)]
    protocol: u32,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    schema: Option<&'a RawValue>,
    #[serde(borrow, default)]
    config: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Raised>,
}

/// What was raised, inside an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Raised {
    /// The exception's class.
    #[serde(rename = "type")]
    pub class: String,
    /// Its text.
    pub message: String,
    /// Where.
    pub traceback: String,
}

/// What a worker says of itself when it is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Version of the link.
    pub protocol: u32,
    /// What the plugin calls itself.
    pub name: Option<String>,
    /// Its version, by itself.
    pub version: Option<String>,
    /// Its schema.
    pub schema: Option<Json>,
    /// Its configuration.
    pub config: Option<Json>,
}

/// A frame from a worker.
#[derive(Debug)]
pub enum FromWorker<'a> {
    /// Loaded and initialised.
    Ready(Box<Ready>),
    /// It could not start.
    Failed {
        /// `import`, `construct` or `initialize`.
        stage: String,
        /// What was raised.
        raised: Raised,
    },
    /// A waiting run begins.
    Started {
        /// Which run.
        run: u64,
    },
    /// One value of a stream.
    Chunk {
        /// Which run.
        run: u64,
        /// The value's text.
        value: &'a RawValue,
        /// There are `$file` marks inside.
        files: bool,
    },
    /// How far a run is.
    Progress {
        /// Which run.
        run: u64,
        /// 0 to 1, or -1.
        progress: f64,
        /// What it is doing.
        message: Cow<'a, str>,
    },
    /// A printed line.
    Log {
        /// Which run printed it, if it is known.
        run: Option<u64>,
        /// `stdout` or `stderr`.
        stream: Cow<'a, str>,
        /// The line.
        line: Cow<'a, str>,
    },
    /// Ended well.
    Done {
        /// Which run.
        run: u64,
        /// What the plugin returned.
        value: Option<&'a RawValue>,
        /// There are `$file` marks inside.
        files: bool,
        /// Time inside the plugin, milliseconds.
        ms: f64,
    },
    /// Ended badly.
    Error {
        /// Which run.
        run: u64,
        /// What was raised.
        raised: Raised,
        /// `raised`, `unserialisable`, `bad_arguments` or `too_large`.
        kind: String,
        /// After a cancel.
        cancelled: bool,
        /// Time inside the plugin, milliseconds.
        ms: f64,
    },
    /// What the plugin's `cancel()` said.
    Cancelling {
        /// Which run.
        run: u64,
        /// `cancelled`, `not_supported`, `error` or `unknown`.
        answer: String,
    },
    /// Reply to a question.
    Answer {
        /// The question's id.
        id: u64,
        /// The value, or what was raised.
        value: Result<Option<Json>, Raised>,
    },
}

impl<'a> FromWorker<'a> {
    /// Reads one frame's body.
    pub fn read(body: &'a [u8]) -> Result<Self, FrameError> {
        let flat: Flat<'a> =
            serde_json::from_slice(body).map_err(|e| FrameError::Malformed(e.to_string()))?;
        flat.into_frame()
    }
}

impl<'a> Flat<'a> {
    fn into_frame(self) -> Result<FromWorker<'a>, FrameError> {
        Ok(match self.t.as_ref() {
            "chunk" => FromWorker::Chunk {
                run: self.need_run()?,
                value: self.value.ok_or_else(|| self.missing("value"))?,
                files: self.files,
            },
            "done" => FromWorker::Done {
                run: self.need_run()?,
                value: self.value,
                files: self.files,
                ms: self.ms.unwrap_or(0.0),
            },
            "error" => FromWorker::Error {
                run: self.need_run()?,
                kind: self.kind.clone().unwrap_or("raised".into()).into_owned(),
                cancelled: self.cancelled,
                ms: self.ms.unwrap_or(0.0),
                raised: self.raised(),
            },
            "progress" => FromWorker::Progress {
                run: self.need_run()?,
                progress: self.progress.ok_or_else(|| self.missing("progress"))?,
                message: self.message.unwrap_or_default(),
            },
            "log" => FromWorker::Log {
                run: self.run,
                stream: self.stream.unwrap_or("stdout".into()),
                line: self.line.unwrap_or_default(),
            },
            "started" => FromWorker::Started { run: self.need_run()? },
            "ready" => FromWorker::Ready(Box::new(self.ready())),
            "failed" => FromWorker::Failed {
                stage: self.stage.clone().unwrap_or("load".into()).into_owned(),
                raised: self.raised(),
            },
            "cancelling" => FromWorker::Cancelling {
                run: self.need_run()?,
                answer: self.answer.unwrap_or_default().into_owned(),
            },
            "answer" => self.answered()?,
            other => return Err(FrameError::Malformed(format!("`{other}` is not a kind of frame"))),
        })
    }

    fn missing(&self, field: &str) -> FrameError {
        FrameError::Malformed(format!("`{}` has no `{field}`", self.t))
    }

    fn need_run(&self) -> Result<u64, FrameError> {
        self.run.ok_or_else(|| self.missing("run"))
    }

    fn raised(self) -> Raised {
        Raised {
            class: self.class.unwrap_or_default().into_owned(),
            message: self.message.unwrap_or_default().into_owned(),
            traceback: self.traceback.unwrap_or_default().into_owned(),
        }
    }

    fn ready(self) -> Ready {
        Ready {
            protocol: self.protocol,
            name: self.name.map(Cow::into_owned),
            version: self.version.map(Cow::into_owned),
            schema: self.schema.map(Json::from),
            config: self.config.map(Json::from),
        }
    }

    fn answered(self) -> Result<FromWorker<'a>, FrameError> {
        let id = self.id.ok_or_else(|| self.missing("id"))?;
        let value =
            if self.ok { Ok(self.value.map(Json::from)) } else { Err(self.error.unwrap_or_default()) };
        Ok(FromWorker::Answer { id, value })
    }
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
        match FromWorker::read(frame).unwrap() {
            FromWorker::Chunk { run: 3, value, files: false } => {
                assert_eq!(value.get(), r#"{"b": 1.10, "a":[ ]}"#);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bad_frames_say_what_is_wrong() {
        let said = |t: &str| FromWorker::read(t.as_bytes()).unwrap_err().to_string();
        assert!(said("[]").contains("not valid"));
        assert!(said(r#"{"t":"dance"}"#).contains("`dance` is not a kind"));
        assert!(said(r#"{"t":"chunk","run":1}"#).contains("`chunk` has no `value`"));
        assert!(said(r#"{"t":"done"}"#).contains("`done` has no `run`"));
    }
}
