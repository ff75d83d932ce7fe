//! Frames that a worker sends, read without taking the values inside apart.

use super::FrameError;
use crate::json::Json;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

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
    releases: bool,
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
    /// The plugin has a `release()`.
    pub releases: bool,
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
        /// `raised`, `unserialisable`, `bad_arguments`, `too_large` or `out_of_disk`.
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
                value: self.value.unwrap_or(RawValue::NULL),
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
            releases: self.releases,
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
