//! One worker process from its start to the end of its last descendant.
//!
//! Owns the supervisor's handle, the link's two tasks and the log pipes. Never decides when to start or to stop.

use crate::cage::MARK;
use crate::events::EventLog;
use crate::gone::Gone;
use crate::link::{FrameWriter, Reader, Sinks, write};
use crate::logs::{Tail, drain};
use crate::news::HouseEvent;
use crate::process::{self, Started, next_report};
use crate::scratch::WorkerFolder;
use crate::supervise::{Order, Program, Report};
use crate::tree;
use grange_broker_client::objects::Objects;
use grange_dispatch::WorkerId;
use grange_protocol::event::LogLine;
use grange_protocol::frame::{Load, ToWorker};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Most orders that wait for a supervisor.
const ORDERS_CAPACITY: usize = 64;
/// Most bytes of one pipe, written outside of runs, that the agent's own log takes.
const OUTSIDE_BYTES: usize = 1 << 20;
/// How long the pipes of a worker that is gone are still read.
const PIPES_GRACE: Duration = Duration::from_secs(2);

/// What a worker is started with.
pub struct WorkerPlan {
    /// Its name inside this agent.
    pub worker: WorkerId,
    /// The plugin's name.
    pub plugin: String,
    /// What to run.
    pub program: Program,
    /// Its folder.
    pub folder: Arc<WorkerFolder>,
    /// What it is told first.
    pub load: Load,
    /// Longest line of its logs, bytes.
    pub log_line_bytes: usize,
    /// Larger chunks are exchanged for a reference, bytes.
    pub inline_bytes: usize,
    /// Largest file of a chunk, bytes.
    pub output_bytes: u64,
    /// Where files go.
    pub objects: Objects,
}

/// The house's handle to a worker.
pub struct WorkerHandle {
    /// Frames to it.
    pub frames: FrameWriter,
    /// Its runs' events.
    pub sinks: Arc<Sinks>,
    /// The supervisor's process id.
    pub supervisor: u32,
    /// When that process began.
    pub supervisor_began: u64,
    orders: mpsc::Sender<Order>,
}

impl WorkerHandle {
    /// Gives its supervisor an order. A supervisor that does not take orders is stuck in the kernel: dropping the
    /// handle closes the pipe, which is its order to kill.
    pub fn order(&self, order: Order) {
        if let Err(error) = self.orders.try_send(order) {
            tracing::warn!(supervisor = self.supervisor, %error, "order not taken");
        }
    }
}

/// Starts a worker. Its end arrives as `HouseEvent::Gone`.
pub fn start(
    plan: WorkerPlan,
    news: &mpsc::Sender<HouseEvent>,
) -> Result<(WorkerHandle, JoinHandle<()>), process::SpawnError> {
    let started = process::start(&plan.plugin, plan.program.clone())?;
    let (orders, taken) = mpsc::channel(ORDERS_CAPACITY);
    let handle = WorkerHandle {
        frames: FrameWriter::default(),
        sinks: Arc::default(),
        supervisor: started.supervisor_pid,
        supervisor_began: process::start_ticks(started.supervisor_pid).unwrap_or(0),
        orders,
    };
    let frame_bytes = plan.load.frame_bytes;
    handle.frames.put(&ToWorker::Load(Box::new(plan.load.clone())), frame_bytes);
    let task =
        tokio::spawn(live(plan, started, handle.frames.clone(), handle.sinks.clone(), taken, news.clone()));
    Ok((handle, task))
}

async fn live(
    plan: WorkerPlan,
    started: Started,
    frames: FrameWriter,
    sinks: Arc<Sinks>,
    mut taken: mpsc::Receiver<Order>,
    news: mpsc::Sender<HouseEvent>,
) {
    let Started { mut supervisor, mut orders, mut reports, link, stdout, stderr, .. } = started;
    let tail = Arc::<Tail>::default();
    let (from_worker, to_worker) = link.into_split();
    let writing = tokio::spawn(write(to_worker, frames.clone()));
    let reader = Reader {
        worker: plan.worker,
        sinks: sinks.clone(),
        house: news.clone(),
        frame_bytes: plan.load.frame_bytes,
        inline_bytes: plan.inline_bytes,
        output_bytes: plan.output_bytes,
        objects: plan.objects.clone(),
        frames,
        spoilt: HashMap::new(),
    };
    let reading = tokio::spawn(reader.run(from_worker));
    let out =
        tokio::spawn(drain(stdout, plan.log_line_bytes, line_taker("stdout", &plan.plugin, &sinks, None)));
    let kept = Some(tail.clone());
    let err =
        tokio::spawn(drain(stderr, plan.log_line_bytes, line_taker("stderr", &plan.plugin, &sinks, kept)));
    let mut last = None;
    loop {
        tokio::select! {
            report = next_report(&mut reports) => match report {
                Some(report) => {
                    tracing::debug!(worker = plan.worker.0, plugin = plan.plugin, report = crate::journal::describe(&report), "worker");
                    last = Some(report);
                }
                None => break,
            },
            order = taken.recv() => match order {
                Some(order) => orders.send(&order).await,
                None => break,
            },
        }
    }
    drop(orders);
    let _ = supervisor.wait().await;
    if !matches!(last, Some(Report::Ended { .. } | Report::NotStarted(_))) {
        end_unsupervised(&plan.program).await;
    }
    // Everything is dead: what is left in the pipes and the link is all there will be.
    for pipe in [reading, out, err] {
        let abort = pipe.abort_handle();
        if tokio::time::timeout(PIPES_GRACE, pipe).await.is_err() {
            abort.abort();
        }
    }
    writing.abort();
    let gone = Gone { report: last, stderr: tail.text(), bounds: plan.program.bounds };
    drop(plan.folder);
    let _ = news.send(HouseEvent::Gone(plan.worker, gone)).await;
}

/// A supervisor that was killed could not end what it held. The worker itself goes with it; what that started may not.
async fn end_unsupervised(program: &Program) {
    let (cage, mark) = (program.cage.clone(), program.env.get(MARK).cloned());
    let ending = tokio::task::spawn_blocking(move || {
        cage.clear();
        mark.map_or(0, |mark| tree::kill_marked(MARK, &mark))
    });
    match ending.await {
        Ok(left) => tracing::warn!(left, "a supervisor ended without a word; what it held was killed"),
        Err(error) => tracing::error!(%error, "what a dead supervisor held could not be killed"),
    }
}

/// Takes the lines of a pipe: to the only run that goes on, and to the agent's own log.
fn line_taker(
    stream: &'static str,
    plugin: &str,
    sinks: &Arc<Sinks>,
    tail: Option<Arc<Tail>>,
) -> impl FnMut(&str) + Send + use<> {
    let (plugin, sinks) = (plugin.to_owned(), sinks.clone());
    let mut outside_bytes = 0;
    move |line: &str| {
        if let Some(tail) = &tail {
            tail.push(line);
        }
        match sinks.only() {
            Some(sink) => log_line(&sink.events, stream, line),
            None if outside_bytes > OUTSIDE_BYTES => {}
            None => {
                outside_bytes += line.len();
                tracing::info!(plugin, stream, line, "worker output outside a run");
                if outside_bytes > OUTSIDE_BYTES {
                    tracing::warn!(plugin, stream, limit = OUTSIDE_BYTES, "more of it is left out");
                }
            }
        }
    }
}

fn log_line(events: &EventLog, stream: &str, line: &str) {
    events.log(&LogLine { stream: stream.to_owned(), line: line.to_owned() });
}
