//! Asks NVML through a thread of its own, and outlives it: a call that does not return costs that thread and nothing else.
//!
//! The thread says before each step what it is about to ask. When a step takes too long, the thread is left behind with
//! what it holds, and another one asks the rest. Only so many may be left behind; then NVML is asked no more.

use super::reader::Reader;
use super::told::{Answer, Library, Round};
use nvml_wrapper::Nvml;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most threads that may hang at a time.
const LEFT_BEHIND: usize = 8;
/// What is asked for the first time may take so many times longer: a GPU without persistence mode wakes up slowly.
const FIRST: u32 = 4;
/// How often a library that was not there is looked for again: the driver may be loaded after the agent.
const ABSENT_EVERY: Duration = Duration::from_secs(30);
/// Words between the threads.
const WORDS: usize = 16;

/// What the thread is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Host,
    Gpu(u32),
}

/// Where the thread shows what it is about, and since when.
struct Desk(Mutex<(Step, Instant)>);

impl Desk {
    fn show(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (step, Instant::now());
    }

    fn shown(&self) -> (Step, Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread says.
enum Word {
    Open(Result<(Arc<Nvml>, String), String>),
    Gpu(Box<Answer>),
    Done(Result<(), String>),
}

/// The thread, seen from outside. It ends when this is dropped, unless it hangs.
struct Thread {
    orders: SyncSender<BTreeSet<u32>>,
    words: Receiver<Word>,
    desk: Arc<Desk>,
    handle: JoinHandle<()>,
}

/// How one order ended.
enum End {
    Done,
    Library(Library),
    Hung(Step),
}

/// Asks.
pub(super) struct Asker {
    path: Option<PathBuf>,
    patience: Duration,
    nvml: Option<Arc<Nvml>>,
    driver: String,
    thread: Option<Thread>,
    left: Vec<JoinHandle<()>>,
    met: BTreeSet<u32>,
    absent: Option<(Instant, String)>,
    off: Option<String>,
}

impl Asker {
    /// Nothing is opened yet. `path` is NVML's; None: where the loader finds it. A step may take `patience`.
    pub(super) fn new(path: Option<PathBuf>, patience: Duration) -> Self {
        Self {
            path,
            patience,
            nvml: None,
            driver: String::new(),
            thread: None,
            left: Vec::new(),
            met: BTreeSet::new(),
            absent: None,
            off: None,
        }
    }

    /// Opens NVML anew with the next question: what was lost may be back, and NVML may have been off.
    pub(super) fn reopen(&mut self) {
        self.leave();
        self.nvml = None;
        self.absent = None;
        self.met.clear();
        if self.hanging() < LEFT_BEHIND {
            self.off = None;
        }
    }

    /// Asks every GPU but these.
    pub(super) fn ask(&mut self, skip: &BTreeSet<u32>) -> Round {
        let mut round = Round::default();
        let mut skip = skip.clone();
        round.library = loop {
            if let Some(why) = &self.off {
                break Library::Off(why.clone());
            }
            if let Some((since, why)) = &self.absent
                && since.elapsed() < ABSENT_EVERY
            {
                break Library::Absent(why.clone());
            }
            match self.order(&skip, &mut round) {
                End::Done => break Library::Asked,
                End::Library(other) => break other,
                End::Hung(step) => self.hung(step, &mut skip, &mut round),
            }
        };
        round.driver.clone_from(&self.driver);
        round
    }

    fn hung(&mut self, step: Step, skip: &mut BTreeSet<u32>, round: &mut Round) {
        self.leave();
        tracing::error!(
            ?step,
            hanging = self.hanging(),
            "NVML does not return; it is asked from another thread"
        );
        match step {
            Step::Gpu(index) => round.hung.push(index),
            Step::Host => self.off = Some("NVML does not answer".to_owned()),
        }
        skip.extend(&round.hung);
        skip.extend(round.answers.iter().map(|answer| answer.index));
        if self.hanging() >= LEFT_BEHIND {
            self.off = Some(format!(
                "NVML does not answer: {LEFT_BEHIND} threads hang in it; restart the agent when the driver works again"
            ));
        }
    }

    fn leave(&mut self) {
        self.left.retain(|handle| !handle.is_finished());
        self.left.extend(self.thread.take().map(|thread| thread.handle));
    }

    fn hanging(&self) -> usize {
        self.left.iter().filter(|handle| !handle.is_finished()).count()
    }

    fn order(&mut self, skip: &BTreeSet<u32>, round: &mut Round) -> End {
        let thread = match self.thread.take().map_or_else(|| self.spawn(), Ok) {
            Ok(thread) => thread,
            Err(error) => {
                return End::Library(Library::Failing(format!("no thread to ask it from: {error}")));
            }
        };
        thread.desk.show(Step::Host);
        // The thread takes one order at a time, and the last one was answered: there is room.
        let end = match thread.orders.try_send(skip.clone()) {
            Ok(()) => self.listen(&thread, round),
            Err(error) => End::Library(Library::Failing(format!("the asking thread ended: {error}"))),
        };
        match end {
            End::Library(_) => drop(thread),
            End::Done | End::Hung(_) => self.thread = Some(thread),
        }
        end
    }

    fn spawn(&self) -> std::io::Result<Thread> {
        let (orders, taken) = sync_channel(1);
        let (said, words) = sync_channel(WORDS);
        let desk = Arc::new(Desk(Mutex::new((Step::Host, Instant::now()))));
        let serving = Serving { path: self.path.clone(), said, desk: desk.clone() };
        let nvml = self.nvml.clone();
        let handle =
            std::thread::Builder::new().name("nvml".to_owned()).spawn(move || serving.serve(nvml, &taken))?;
        Ok(Thread { orders, words, desk, handle })
    }

    /// Takes what the thread says until the order is done or a step takes too long.
    fn listen(&mut self, thread: &Thread, round: &mut Round) -> End {
        loop {
            let (step, since) = thread.desk.shown();
            let limit = self.limit(step);
            match thread.words.recv_timeout(limit.saturating_sub(since.elapsed())) {
                Ok(Word::Open(Ok((nvml, driver)))) => {
                    (self.nvml, self.driver, self.absent) = (Some(nvml), driver, None);
                }
                Ok(Word::Open(Err(why))) => {
                    self.absent = Some((Instant::now(), why.clone()));
                    return End::Library(Library::Absent(why));
                }
                Ok(Word::Gpu(answer)) => {
                    if answer.devices.is_ok() {
                        self.met.insert(answer.index);
                    }
                    round.answers.push(*answer);
                }
                Ok(Word::Done(Ok(()))) => return End::Done,
                Ok(Word::Done(Err(why))) => return End::Library(Library::Failing(why)),
                Err(RecvTimeoutError::Disconnected) => {
                    return End::Library(Library::Failing("the asking thread ended".to_owned()));
                }
                // It may have gone on to its next step meanwhile.
                Err(RecvTimeoutError::Timeout) if thread.desk.shown() != (step, since) => {}
                Err(RecvTimeoutError::Timeout) => return End::Hung(step),
            }
        }
    }

    fn limit(&self, step: Step) -> Duration {
        let is_first = match step {
            Step::Host => self.nvml.is_none(),
            Step::Gpu(index) => !self.met.contains(&index),
        };
        if is_first { self.patience * FIRST } else { self.patience }
    }
}

/// The thread, seen from inside.
struct Serving {
    path: Option<PathBuf>,
    said: SyncSender<Word>,
    desk: Arc<Desk>,
}

impl Serving {
    /// Answers orders until nobody listens.
    fn serve(self, nvml: Option<Arc<Nvml>>, orders: &Receiver<BTreeSet<u32>>) {
        let Ok(mut skip) = orders.recv() else { return };
        let nvml = match nvml {
            Some(nvml) => nvml,
            None => {
                let opened = self.open();
                let nvml = opened.as_ref().ok().map(|(nvml, _)| nvml.clone());
                let heard = self.said.send(Word::Open(opened)).is_ok();
                let (Some(nvml), true) = (nvml, heard) else { return };
                nvml
            }
        };
        let mut reader = Reader::new(&nvml);
        loop {
            let Ok(end) = self.round(&nvml, &mut reader, &skip) else { return };
            if self.said.send(Word::Done(end)).is_err() {
                return;
            }
            match orders.recv() {
                Ok(next) => skip = next,
                Err(_) => return,
            }
        }
    }

    fn open(&self) -> Result<(Arc<Nvml>, String), String> {
        let mut builder = Nvml::builder();
        if let Some(path) = &self.path {
            builder.lib_path(path.as_os_str());
        }
        let nvml = builder.init().map_err(|error| error.to_string())?;
        let driver = nvml.sys_driver_version().unwrap_or_default();
        Ok((Arc::new(nvml), driver))
    }

    /// One round. The outer error: nobody listens any more.
    fn round(
        &self,
        nvml: &Nvml,
        reader: &mut Reader<'_>,
        skip: &BTreeSet<u32>,
    ) -> Result<Result<(), String>, ()> {
        self.desk.show(Step::Host);
        let count = match nvml.device_count() {
            Ok(count) => count,
            Err(error) => return Ok(Err(error.to_string())),
        };
        for index in (0..count).filter(|index| !skip.contains(index)) {
            self.desk.show(Step::Gpu(index));
            let answer = Box::new(reader.read(index));
            // Shown before it is said: whoever hears the answer must not find the question still open.
            self.desk.show(Step::Host);
            self.said.send(Word::Gpu(answer)).map_err(drop)?;
        }
        Ok(Ok(()))
    }
}
