//! The agent's end of a worker's link: frames out, frames in.
//!
//! Chunks, progress and logs go straight to the run's event log, so streaming never delays a decision; everything else
//! becomes a `WorkerEvent`. Never decides anything.

use crate::events::EventLog;
use crate::news::{HouseEvent, WorkerEvent};
use crate::values;
use grange_broker_client::objects::Objects;
use grange_dispatch::WorkerId;
use grange_protocol::event::{LogLine, Progress};
use grange_protocol::failure::Failure;
use grange_protocol::frame::{FromWorker, HEADER_BYTES, ToWorker, split};
use grange_protocol::json::Json;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};

/// Read at one time, bytes.
const READ_BYTES: usize = 64 * 1024;

/// One run's way to its events.
#[derive(Clone)]
pub struct RunSink {
    /// Its events.
    pub events: EventLog,
    /// Its own folder, for files inside chunks.
    pub scratch: PathBuf,
}

/// The runs that are going on, by their number.
#[derive(Default)]
pub struct Sinks(Mutex<HashMap<u64, RunSink>>);

impl Sinks {
    /// Takes a run in, before its frame is sent.
    pub fn insert(&self, run: u64, sink: RunSink) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(run, sink);
    }

    /// Forgets a run.
    pub fn remove(&self, run: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
    }

    fn get(&self, run: u64) -> Option<RunSink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&run).cloned()
    }

    /// The only run that is going on.
    pub fn only(&self) -> Option<RunSink> {
        let sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sinks.len() == 1 { sinks.values().next().cloned() } else { None }
    }
}

/// Puts frames into the worker's link. Cheap to clone, never waits: what is put in between two writes goes out in one.
#[derive(Clone, Default)]
pub struct FrameWriter(Arc<Outgoing>);

#[derive(Default)]
struct Outgoing {
    bytes: Mutex<Vec<u8>>,
    wake: Notify,
}

impl FrameWriter {
    /// Puts a frame in. False: it is larger than `limit`, and was not.
    pub fn put(&self, frame: &ToWorker, limit: usize) -> bool {
        let mut bytes = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let put = frame.write(&mut bytes, limit).is_ok();
        self.0.wake.notify_one();
        put
    }
}

/// Writes what is put in, until the worker is gone.
pub async fn write(mut half: OwnedWriteHalf, frames: FrameWriter) {
    let mut out = Vec::new();
    loop {
        {
            let mut bytes = frames.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *bytes, &mut out);
        }
        if out.is_empty() {
            frames.0.wake.notified().await;
            continue;
        }
        if half.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

/// Reads a worker's frames to the end.
pub struct Reader {
    /// Which worker.
    pub worker: WorkerId,
    /// Its runs.
    pub sinks: Arc<Sinks>,
    /// Where events for the house go.
    pub house: mpsc::Sender<HouseEvent>,
    /// Largest frame, bytes.
    pub frame_bytes: usize,
    /// Larger chunks are exchanged for a reference, bytes.
    pub inline_bytes: usize,
    /// Largest file, bytes.
    pub output_bytes: u64,
    /// Where files inside chunks go.
    pub objects: Objects,
    /// The way to the worker.
    pub frames: FrameWriter,
    /// Runs with a chunk that could not be stored: they are asked to stop, and what else they say is left out.
    pub spoilt: HashMap<u64, Box<Failure>>,
}

impl Reader {
    /// Reads until the link ends or the worker breaks the protocol.
    pub async fn run(mut self, mut half: OwnedReadHalf) {
        let last = match self.read(&mut half).await {
            Ok(()) => WorkerEvent::Closed,
            Err(why) => WorkerEvent::Broke(why),
        };
        let _ = self.house.send(HouseEvent::Link(self.worker, last)).await;
    }

    async fn read(&mut self, half: &mut OwnedReadHalf) -> Result<(), String> {
        let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES);
        loop {
            let mut start = 0;
            while let Some((body, end)) =
                split(&buffer[start..], self.frame_bytes).map_err(|e| e.to_string())?
            {
                let frame = FromWorker::read(&buffer[start..][body]).map_err(|e| e.to_string())?;
                self.take(frame).await?;
                start += end;
            }
            buffer.drain(..start);
            let wanted = buffer.first_chunk::<HEADER_BYTES>().map_or(0, |h| u32::from_be_bytes(*h) as usize);
            buffer.reserve(READ_BYTES.max((wanted + HEADER_BYTES).saturating_sub(buffer.len())));
            match half.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    async fn take(&mut self, frame: FromWorker<'_>) -> Result<(), String> {
        let event = match frame {
            FromWorker::Chunk { run, value, files } => return self.chunk(run, value, files).await,
            FromWorker::Progress { run, progress, message } => {
                if let Some(sink) = self.sinks.get(run) {
                    sink.events.progress(&Progress { progress, message: message.into_owned() });
                }
                return Ok(());
            }
            FromWorker::Log { run, stream, line } => {
                let sink = run.map_or_else(|| self.sinks.only(), |run| self.sinks.get(run));
                if let Some(sink) = sink {
                    sink.events.log(&LogLine { stream: stream.into_owned(), line: line.into_owned() });
                    sink.events.room().await;
                }
                return Ok(());
            }
            FromWorker::Started { .. } | FromWorker::Cancelling { .. } | FromWorker::Answer { .. } => {
                return Ok(());
            }
            FromWorker::Ready(ready) => WorkerEvent::Ready(ready),
            FromWorker::Failed { stage, raised } => WorkerEvent::LoadFailed { stage, raised },
            FromWorker::Done { run, value, files, ms } => match self.spoilt.remove(&run) {
                Some(failure) => WorkerEvent::Spoilt { run, failure, ms },
                None => WorkerEvent::Done { run, value: value.map(Json::from), files, ms },
            },
            FromWorker::Error { run, raised, kind, cancelled, ms } => match self.spoilt.remove(&run) {
                Some(failure) => WorkerEvent::Spoilt { run, failure, ms },
                None => WorkerEvent::Error { run, raised, kind, cancelled, ms },
            },
        };
        let sent = self.house.send(HouseEvent::Link(self.worker, event)).await;
        sent.map_err(|_| "the agent is going down".to_owned())
    }

    async fn chunk(&mut self, run: u64, value: &RawValue, files: bool) -> Result<(), String> {
        let Some(sink) = self.sinks.get(run) else { return Ok(()) };
        if self.spoilt.contains_key(&run) {
            self.frames.put(&ToWorker::Credit { run, chunks: 1 }, self.frame_bytes);
        } else if !files && value.get().len() <= self.inline_bytes {
            sink.events.chunk(value.get());
        } else {
            let stored = values::store_chunk(
                &self.objects,
                value,
                &sink.scratch,
                self.output_bytes,
                self.inline_bytes,
            );
            match stored.await {
                Ok(stored) => sink.events.chunk(stored.text()),
                Err(failure) => {
                    self.spoilt.insert(run, Box::new(failure));
                    self.frames.put(&ToWorker::Cancel { run }, self.frame_bytes);
                }
            }
        }
        sink.events.room().await;
        Ok(())
    }
}
