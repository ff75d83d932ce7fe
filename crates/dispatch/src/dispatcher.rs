//! The dispatcher: takes one input, changes the tables, says what to do. Owns the order of things; the tables own what
//! they hold.

mod ends;
mod placing;

use crate::jobs::{Job, Phase, StopCause};
use crate::lanes::Lanes;
use crate::plugins::{Plugin, Plugins};
use crate::vocabulary::{
    Action, Conclusion, Config, Input, JobLimits, PluginSpec, PluginView, Time, WorkerId,
};
use crate::workers::{Stage, Workers};
use grange_protocol::failure::Failure;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::PluginName;
use grange_protocol::subject::{JobKey, Lane};
use std::collections::BTreeMap;

/// Most ends that may be under way at one time; while there are more, nothing new is pulled.
const SETTLING_MAX: u32 = 1024;

/// Whether the agent takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Working,
    Draining,
    Exited,
}

/// All that one agent decides by.
#[derive(Debug)]
pub struct Dispatcher {
    config: Config,
    mode: Mode,
    plugins: Plugins,
    lanes: Lanes,
    workers: Workers,
    jobs: BTreeMap<JobKey, Job>,
    settling: u32,
}

/// Whose pulls and placements have to be looked at after an input.
enum Touched {
    Nobody,
    /// Something came to this plugin.
    One(PluginName),
    /// A slot of this plugin became free.
    Freed(PluginName),
    Everybody,
}

impl Dispatcher {
    /// An agent that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            mode: Mode::Working,
            plugins: Plugins::new(),
            lanes: Lanes::default(),
            workers: Workers::default(),
            jobs: BTreeMap::new(),
            settling: 0,
        }
    }

    /// Takes one input and says what to do, in this order.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        let touched = self.take(now, input, &mut out);
        let (names, patience): (Vec<PluginName>, Time) = match touched {
            Touched::Nobody => (Vec::new(), 0),
            Touched::One(plugin) => (vec![plugin], self.config.idle_sweep_ms),
            Touched::Freed(plugin) => (vec![plugin], self.config.empty_lane_ms),
            Touched::Everybody => (self.plugins.keys().cloned().collect(), self.config.idle_sweep_ms),
        };
        for plugin in &names {
            self.place(plugin, now, &mut out);
            self.pull(plugin, now, patience, &mut out);
        }
        self.leave(&mut out);
        out
    }

    /// What a heartbeat says of a plugin.
    pub fn view(&self, plugin: &PluginName) -> PluginView {
        let live = || self.workers.live(plugin);
        PluginView {
            workers: u32::try_from(live().count()).unwrap_or(u32::MAX),
            running: u32::try_from(live().map(|(_, w)| w.given.len()).sum::<usize>()).unwrap_or(u32::MAX),
            slots: self
                .plugins
                .get(plugin)
                .map_or(0, |p| p.spec.concurrency.saturating_mul(p.spec.max_workers)),
        }
    }

    /// Jobs in hand, settling ones included.
    pub fn jobs_in_hand(&self) -> usize {
        self.jobs.len()
    }

    fn take(&mut self, now: Time, input: Input, out: &mut Vec<Action>) -> Touched {
        match input {
            Input::PluginReady { plugin, spec } => self.plugin_ready(plugin, spec, out),
            Input::PluginGone { plugin } => self.plugin_gone(plugin, out),
            Input::Bell { lane } => {
                self.lanes.ring(&lane);
                Touched::One(lane.plugin)
            }
            Input::Delivered { lane, job, limits } => self.delivered(&lane, job, limits, out),
            Input::Unusable { lane } => {
                self.lanes.delivered(&lane);
                Touched::One(lane.plugin)
            }
            Input::PullEnded { lane } => {
                self.lanes.ended(&lane, now);
                Touched::One(lane.plugin)
            }
            Input::Reconnected => {
                self.lanes.reconnected();
                Touched::Everybody
            }
            Input::Claimed { job } => self.claimed(&job, out),
            Input::NotClaimed { job } => self.not_claimed(&job),
            Input::WorkerReady { worker } => self.worker_ready(worker),
            Input::WorkerFailed { worker, failure } => self.worker_failed(worker, &failure, now, out),
            Input::WorkerExited { worker } => self.worker_exited(worker, out),
            Input::RunEnded { job, end } => self.run_ended(&job, end, now, out),
            Input::Settled { job } => self.settled(&job),
            Input::CancelRequested { job } => self.stop(&job, StopCause::Cancelled, now, out),
            Input::Lost { job } => self.stop(&job, StopCause::Lost, now, out),
            Input::Tick => {
                self.enforce(now, out);
                Touched::Everybody
            }
            Input::DrainRequested => self.drain(out),
            Input::StopRequested => {
                let touched = self.drain(out);
                self.stop_all(now, out);
                touched
            }
        }
    }

    fn plugin_ready(&mut self, plugin: PluginName, spec: PluginSpec, out: &mut Vec<Action>) -> Touched {
        match self.plugins.get_mut(&plugin) {
            Some(known) => {
                known.spec = spec;
                known.gone = false;
            }
            None => {
                self.plugins.insert(plugin.clone(), Plugin::new(spec));
            }
        }
        if self.lanes.open(&plugin) {
            self.listen(out);
        }
        Touched::One(plugin)
    }

    fn plugin_gone(&mut self, plugin: PluginName, out: &mut Vec<Action>) -> Touched {
        if self.lanes.close(&plugin) {
            self.listen(out);
        }
        if let Some(known) = self.plugins.get_mut(&plugin) {
            known.gone = true;
            for job in std::mem::take(&mut known.waiting) {
                self.conclude(&job, Conclusion::Retry(RetryCause::NotStarted), out);
            }
        }
        Touched::One(plugin)
    }

    /// Hears the bells of the plugins that can run here, unless it drains.
    fn listen(&self, out: &mut Vec<Action>) {
        if self.mode == Mode::Working {
            out.push(Action::Listen(self.lanes.bells()));
        }
    }

    fn delivered(&mut self, lane: &Lane, job: JobKey, limits: JobLimits, out: &mut Vec<Action>) -> Touched {
        self.lanes.delivered(lane);
        if self.jobs.contains_key(&job) {
            return Touched::One(lane.plugin.clone());
        }
        let usable = self.plugins.get_mut(&lane.plugin).filter(|known| !known.gone);
        let Some(plugin) = usable.filter(|_| self.mode == Mode::Working) else {
            out.push(Action::Return { job });
            return Touched::Nobody;
        };
        let running_slots: u32 = self
            .workers
            .live(&lane.plugin)
            .filter(|(_, w)| w.stage == Stage::Ready)
            .map(|(_, w)| w.concurrency)
            .sum();
        // Without a worker there is nothing to be ahead of: the job is the one that its worker starts for.
        let ahead = running_slots > 0 && plugin.ahead(&self.config) > 0 && plugin.held >= running_slots;
        plugin.held += 1;
        let entry =
            Job { plugin: lane.plugin.clone(), phase: Phase::Claiming, limits, deadline: None, stop: None };
        self.jobs.insert(job.clone(), entry);
        out.push(Action::Claim { job, ahead });
        Touched::One(lane.plugin.clone())
    }

    fn claimed(&mut self, key: &JobKey, out: &mut Vec<Action>) -> Touched {
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.phase == Phase::Claiming) else {
            return Touched::Nobody;
        };
        job.phase = Phase::Waiting;
        let plugin = job.plugin.clone();
        let gone = self.plugins.get(&plugin).is_none_or(|p| p.gone);
        match job.stop.map(|stop| stop.cause) {
            Some(StopCause::Cancelled) => self.conclude(key, Conclusion::Cancelled, out),
            Some(StopCause::Lost) => return self.forget(key, out),
            Some(StopCause::AgentStops | StopCause::TimedOut) => {
                self.conclude(key, Conclusion::Retry(RetryCause::NotStarted), out);
            }
            None if gone || self.mode != Mode::Working => {
                self.conclude(key, Conclusion::Retry(RetryCause::NotStarted), out);
            }
            None => {
                if let Some(known) = self.plugins.get_mut(&plugin) {
                    known.waiting.push_back(key.clone());
                }
            }
        }
        Touched::One(plugin)
    }

    fn not_claimed(&mut self, key: &JobKey) -> Touched {
        if self.jobs.get(key).is_none_or(|job| job.phase != Phase::Claiming) {
            return Touched::Nobody;
        }
        self.jobs.remove(key).map_or(Touched::Nobody, |job| self.freed(&job))
    }

    fn worker_ready(&mut self, id: WorkerId) -> Touched {
        let Some(worker) = self.workers.get_mut(id).filter(|w| w.stage == Stage::Starting) else {
            return Touched::Nobody;
        };
        worker.stage = Stage::Ready;
        let plugin = worker.plugin.clone();
        if let Some(known) = self.plugins.get_mut(&plugin) {
            known.started();
        }
        Touched::One(plugin)
    }

    fn worker_failed(
        &mut self,
        id: WorkerId,
        failure: &Failure,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Touched {
        if self.workers.get_mut(id).is_some_and(|worker| worker.stage != Stage::Starting) {
            return self.worker_exited(id, out);
        }
        let Some(worker) = self.workers.remove(id) else { return Touched::Nobody };
        let alone = self.workers.live(&worker.plugin).next().is_none();
        let Some(known) = self.plugins.get_mut(&worker.plugin) else { return Touched::Nobody };
        known.start_failed(now, &self.config);
        if alone {
            for job in std::mem::take(&mut known.waiting) {
                self.conclude(&job, Conclusion::Failed(Box::new(failure.clone())), out);
            }
        }
        Touched::One(worker.plugin)
    }

    fn settled(&mut self, key: &JobKey) -> Touched {
        match self.jobs.get(key) {
            Some(job) if job.phase == Phase::Settling => {
                let plugin = job.plugin.clone();
                self.jobs.remove(key);
                self.settling -= 1;
                Touched::One(plugin)
            }
            _ => Touched::Nobody,
        }
    }

    fn conclude(&mut self, key: &JobKey, how: Conclusion, out: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.phase != Phase::Settling) else { return };
        job.phase = Phase::Settling;
        self.settling += 1;
        if let Some(plugin) = self.plugins.get_mut(&job.plugin) {
            plugin.held -= 1;
        }
        out.push(Action::Conclude { job: key.clone(), how });
    }

    fn forget(&mut self, key: &JobKey, out: &mut Vec<Action>) -> Touched {
        let Some(job) = self.jobs.remove(key) else { return Touched::Nobody };
        out.push(Action::Forget { job: key.clone() });
        self.freed(&job)
    }

    fn freed(&mut self, job: &Job) -> Touched {
        if let Some(plugin) = self.plugins.get_mut(&job.plugin) {
            plugin.held -= 1;
        }
        Touched::Freed(job.plugin.clone())
    }
}
