//! A conversation with a dispatcher about one plugin, `ocr`, in words.

use grange_dispatch::{
    Action, Conclusion, Config, Dispatcher, Input, JobLimits, PluginSpec, PluginView, RunEnd, Time, WorkerId,
};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::name::{Class, JobId, Owner, PluginName};
use grange_protocol::subject::{JobKey, Lane};

/// So many runs in each of so many workers, no timeout, a grace of one second.
pub(crate) fn spec(concurrency: u32, max_workers: u32) -> PluginSpec {
    PluginSpec { concurrency, max_workers, timeout_ms: None, cancel_grace_ms: 1_000 }
}

/// A sweep asks each of the eight lanes once, and once more where a bell rang.
const MOST_PULLS: usize = 16;

pub(crate) struct Talk {
    dispatcher: Dispatcher,
    pub(crate) now: Time,
}

impl Talk {
    pub(crate) fn new() -> Self {
        Self { dispatcher: Dispatcher::new(Config::default()), now: 0 }
    }

    /// The plugin can run here, and all its lanes were found empty.
    pub(crate) fn swept(spec: PluginSpec) -> Self {
        let mut talk = Self::new();
        let said = talk.hears(Self::plugin_ready(spec));
        talk.sweep(said);
        talk
    }

    /// Finds the lane that it said it pulls empty, and each one that is pulled then.
    #[track_caller]
    pub(crate) fn sweep(&mut self, mut said: Vec<String>) {
        for _ in 0..MOST_PULLS {
            let lane = said.iter().find_map(|s| s.strip_prefix("pull ")?.split(' ').next());
            let Some(lane) = lane else { return };
            said = self.hears(Self::pull_ended(lane));
        }
        panic!("pulls of empty lanes do not end");
    }

    /// Tells it something.
    pub(crate) fn hears(&mut self, input: Input) -> Vec<String> {
        self.dispatcher.handle(self.now, input).iter().map(words).collect()
    }

    /// Tells it something, and expects this answer.
    #[track_caller]
    pub(crate) fn says(&mut self, input: Input, expected: &[&str]) {
        let told = format!("at {}: {input:?}", self.now);
        assert_eq!(self.hears(input), expected, "{told}");
    }

    pub(crate) fn view(&self) -> PluginView {
        self.dispatcher.view(&ocr())
    }

    /// A job that came by a bell and runs, on a new worker if there is none with room. Its lane holds no more, as far
    /// as there is room to ask.
    #[track_caller]
    pub(crate) fn running(&mut self, job: &str) {
        self.says(Self::bell("normal"), &["pull default/normal 1 wait"]);
        let said = self.hears(Self::delivered(job));
        assert_eq!(said[0], format!("claim {job}"));
        self.sweep(said);
        let mut said = self.hears(Self::claimed(job));
        if let Some(worker) = said.first().and_then(|s| s.strip_prefix("spawn w")) {
            said = self.hears(Self::ready(worker.parse().unwrap()));
        }
        assert!(said.iter().any(|s| s.starts_with(&format!("run {job} "))), "{said:?}");
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
        Input::PluginReady { plugin: ocr(), spec }
    }

    pub(crate) fn plugin_gone() -> Input {
        Input::PluginGone { plugin: ocr() }
    }

    pub(crate) fn bell(priority: &str) -> Input {
        Input::Bell { lane: lane(&format!("default/{priority}")) }
    }

    pub(crate) fn delivered(job: &str) -> Input {
        Self::delivered_from("default/normal", job)
    }

    pub(crate) fn delivered_from(from: &str, job: &str) -> Input {
        Self::delivered_with(from, job, JobLimits::default())
    }

    pub(crate) fn delivered_with(from: &str, job: &str, limits: JobLimits) -> Input {
        Input::Delivered { lane: lane(from), job: key(job), limits }
    }

    pub(crate) fn unusable(from: &str) -> Input {
        Input::Unusable { lane: lane(from) }
    }

    pub(crate) fn pull_ended(from: &str) -> Input {
        Input::PullEnded { lane: lane(from) }
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
}

fn ocr() -> PluginName {
    PluginName::new("ocr").unwrap()
}

/// `class/priority`, of the plugin.
fn lane(text: &str) -> Lane {
    let (class, priority) = text.split_once('/').unwrap();
    Lane { class: Class::new(class).unwrap(), priority: priority.parse().unwrap(), plugin: ocr() }
}

fn key(job: &str) -> JobKey {
    JobKey { owner: Owner::new("alice").unwrap(), job: JobId::new(job).unwrap() }
}

fn words(action: &Action) -> String {
    let worker = |id: &WorkerId| format!("w{}", id.0);
    match action {
        Action::Listen(pairs) => {
            let pairs = pairs.iter().map(|(class, plugin)| format!(" {class}/{plugin}"));
            format!("listen{}", pairs.collect::<String>())
        }
        Action::Pull { lane, batch, wait } => {
            let wait = if *wait { " wait" } else { "" };
            format!("pull {}/{} {batch}{wait}", lane.class, lane.priority)
        }
        Action::Return { job } => format!("return {}", job.job),
        Action::Claim { job, ahead } => format!("claim {}{}", job.job, if *ahead { " ahead" } else { "" }),
        Action::Spawn { worker: id, .. } => format!("spawn {}", worker(id)),
        Action::Run { worker: id, job } => format!("run {} on {}", job.job, worker(id)),
        Action::CancelRun { worker: id, job } => format!("cancel {} on {}", job.job, worker(id)),
        Action::StopWorker { worker: id } => format!("stop {}", worker(id)),
        Action::KillWorker { worker: id } => format!("kill {}", worker(id)),
        Action::Conclude { job, how } => {
            let how = match how {
                Conclusion::Reported => "reported".to_owned(),
                Conclusion::Cancelled => "cancelled".to_owned(),
                Conclusion::Failed(failure) => format!("failed, {}", failure.message),
                Conclusion::Retry(cause) => format!("retry, {cause:?}"),
            };
            format!("conclude {}: {how}", job.job)
        }
        Action::Forget { job } => format!("forget {}", job.job),
        Action::Exit => "exit".to_owned(),
    }
}
