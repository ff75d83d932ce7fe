//! A conversation with a dispatcher, in words. About one plugin, `ocr`, and one owner, `alice`, unless it says otherwise.

use super::words::{key, of_action, plugin, queue};
use grange_dispatch::{
    Action, Config, Dispatcher, Ear, HostReading, Input, JobLimits, PluginSpec, PluginView, RunEnd, Time,
    WorkerId,
};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::name::PluginName;
use std::collections::BTreeMap;

/// So many runs in each of so many workers, no timeout, a grace of one second, nothing of the host.
pub(crate) fn spec(concurrency: u32, max_workers: u32) -> PluginSpec {
    PluginSpec { concurrency, max_workers, cancel_grace_ms: 1_000, ..PluginSpec::default() }
}

/// The queues of `ocr` and `alice`.
const QUEUES: [&str; 8] = [
    "any/urgent",
    "default/urgent",
    "any/high",
    "default/high",
    "any/normal",
    "default/normal",
    "any/low",
    "default/low",
];

/// A sweep asks each queue once, and once more where a bell rang.
const MOST_PULLS: usize = 16;

pub(crate) struct Talk {
    pub(crate) dispatcher: Dispatcher,
    pub(crate) now: Time,
    /// Whether the answers say how bells are heard.
    pub(crate) says_ears: bool,
    /// Whether the answers say which queues are looked into without a pull.
    pub(crate) says_peeks: bool,
    ears: BTreeMap<PluginName, Option<Ear>>,
}

impl Talk {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        Self {
            dispatcher: Dispatcher::new(config),
            now: 0,
            says_ears: false,
            says_peeks: false,
            ears: BTreeMap::new(),
        }
    }

    /// The plugin can run here, and all its queues are open and were found empty.
    pub(crate) fn swept(spec: PluginSpec) -> Self {
        let mut talk = Self::new();
        talk.hears(Self::plugin_ready(spec));
        for text in QUEUES {
            let said = talk.hears(Self::open(text));
            talk.sweep(said);
        }
        talk
    }

    /// Finds the queue that it said it pulls empty, and each one that is pulled then.
    #[track_caller]
    pub(crate) fn sweep(&mut self, mut said: Vec<String>) {
        for _ in 0..MOST_PULLS {
            let queue = said.iter().find_map(|s| s.strip_prefix("pull ")?.split(' ').next());
            let Some(queue) = queue else { return };
            said = self.hears(Self::pull_ended(queue));
        }
        panic!("pulls of empty queues do not end");
    }

    /// Tells it something.
    pub(crate) fn hears(&mut self, input: Input) -> Vec<String> {
        let mut said = Vec::new();
        for action in self.dispatcher.handle(self.now, input) {
            let is_ear = if let Action::Hear { plugin, ear } = &action {
                self.ears.insert(plugin.clone(), *ear);
                true
            } else {
                false
            };
            let is_peek = matches!(action, Action::Peek { .. });
            if (self.says_ears || !is_ear) && (self.says_peeks || !is_peek) {
                said.push(of_action(&action));
            }
        }
        said
    }

    /// Tells it something, and expects this answer.
    #[track_caller]
    pub(crate) fn says(&mut self, input: Input, expected: &[&str]) {
        let told = format!("at {}: {input:?}", self.now);
        assert_eq!(self.hears(input), expected, "{told}");
    }

    /// Tells it something, whatever it says.
    pub(crate) fn tell(&mut self, input: Input) {
        self.hears(input);
    }

    pub(crate) fn view(&self) -> PluginView {
        self.dispatcher.view(&plugin("ocr"))
    }

    /// A job that came by a bell and runs, on a new worker if there is none with room. Its queue holds no more, as far
    /// as there is room to ask.
    #[track_caller]
    pub(crate) fn running(&mut self, job: &str) {
        self.says(Self::bell("normal", job), &["pull default/normal 1 wait"]);
        let said = self.hears(Self::delivered(job));
        assert_eq!(said[0], format!("claim {job}"));
        self.sweep(said);
        let mut said = self.hears(Self::claimed(job));
        if let Some(worker) = said.first().and_then(|s| s.strip_prefix("spawn w")?.split(' ').next()) {
            said = self.hears(Self::ready(worker.parse().unwrap()));
        }
        assert!(said.iter().any(|s| s.starts_with(&format!("run {job} "))), "{said:?}");
    }

    /// `a` runs on the only worker that there may be by now, and these wait: there was to be a worker for each.
    #[track_caller]
    pub(crate) fn one_runs_and_wait(jobs: &[&str]) -> Self {
        let workers = 1 + u32::try_from(jobs.len()).unwrap();
        let mut talk = Self::swept(spec(1, workers));
        talk.running("a");
        talk.says(Input::Reconnected, &[&format!("pull any/urgent {}", jobs.len())]);
        for job in jobs {
            talk.says(Self::delivered_from("any/urgent", job), &[&format!("claim {job}")]);
        }
        talk.tell(Self::plugin_ready(spec(1, 1)));
        talk
    }

    /// A run of one millisecond has been seen.
    #[track_caller]
    pub(crate) fn learn_short(&mut self) {
        self.running("first");
        let said = self.hears(Self::ended("first", 1.0));
        self.sweep(said);
        self.says(Self::settled("first"), &[]);
    }

    pub(crate) fn plugin_ready(spec: PluginSpec) -> Input {
        Self::named_ready("ocr", spec)
    }

    pub(crate) fn named_ready(name: &str, spec: PluginSpec) -> Input {
        Input::PluginReady { plugin: plugin(name), spec }
    }

    pub(crate) fn plugin_gone() -> Input {
        Input::PluginGone { plugin: plugin("ocr") }
    }

    pub(crate) fn open(text: &str) -> Input {
        Input::QueueOpen { queue: queue(text) }
    }

    /// Heard in turn, and passed on before, so that nobody passes it on. A word alone is a priority.
    pub(crate) fn bell(text: &str, job: &str) -> Input {
        let text = if text.contains('/') { text.to_owned() } else { format!("default/{text}") };
        Self::bell_heard(&text, job, Ear::Warm, 1)
    }

    pub(crate) fn bell_heard(text: &str, job: &str, ear: Ear, hops: u32) -> Input {
        Input::Bell { queue: queue(text), job: key(job).job, ear, hops }
    }

    pub(crate) fn delivered(job: &str) -> Input {
        Self::delivered_from("default/normal", job)
    }

    pub(crate) fn delivered_from(from: &str, job: &str) -> Input {
        Self::delivered_with(from, job, JobLimits::default())
    }

    pub(crate) fn delivered_with(from: &str, job: &str, limits: JobLimits) -> Input {
        let queue = queue(from);
        let job = grange_protocol::subject::JobKey { owner: queue.owner.clone(), job: key(job).job };
        Input::Delivered { queue, job, limits, resources: None }
    }

    pub(crate) fn unusable(from: &str) -> Input {
        Input::Unusable { queue: queue(from) }
    }

    pub(crate) fn pull_ended(from: &str) -> Input {
        Input::PullEnded { queue: queue(from) }
    }

    pub(crate) fn found_empty(text: &str) -> Input {
        Input::FoundEmpty { queue: queue(text) }
    }

    pub(crate) fn claimed(job: &str) -> Input {
        Input::Claimed { job: key(job) }
    }

    pub(crate) fn not_claimed(job: &str) -> Input {
        Input::NotClaimed { job: key(job) }
    }

    pub(crate) fn ready(worker: u64) -> Input {
        Input::WorkerReady { worker: WorkerId(worker) }
    }

    pub(crate) fn failed(worker: u64) -> Input {
        let failure = Failure::new(FailureKind::StartFailed, "no module named `ocr`");
        Input::WorkerFailed { worker: WorkerId(worker), failure: Box::new(failure) }
    }

    pub(crate) fn exited(worker: u64) -> Input {
        Input::WorkerExited { worker: WorkerId(worker) }
    }

    pub(crate) fn ended(job: &str, run_ms: f64) -> Input {
        Input::RunEnded { job: key(job), end: RunEnd { run_ms, cancelled: false } }
    }

    pub(crate) fn obeyed(job: &str) -> Input {
        Input::RunEnded { job: key(job), end: RunEnd { run_ms: 1.0, cancelled: true } }
    }

    pub(crate) fn settled(job: &str) -> Input {
        Input::Settled { job: key(job) }
    }

    pub(crate) fn cancel(job: &str) -> Input {
        Input::CancelRequested { job: key(job) }
    }

    pub(crate) fn lost(job: &str) -> Input {
        Input::Lost { job: key(job) }
    }

    pub(crate) fn host(reading: &HostReading) -> Input {
        Input::Host(Box::new(reading.clone()))
    }
}
