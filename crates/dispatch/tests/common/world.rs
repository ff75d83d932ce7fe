//! The fakes: a broker with lanes and records, and workers. They perform what the dispatcher says; each outcome waits
//! in `pending` until the life lets it happen, in any order. Owns no law.

use super::{Choices, key};
use grange_dispatch::{Action, Conclusion, Input, JobLimits, PluginSpec, RunEnd, WorkerId};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::name::PluginName;
use grange_protocol::subject::{JobKey, Lane};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    InLane,
    /// An agent has it.
    Out,
    /// Its job ended, or is another's.
    Gone,
}

#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) lane: Lane,
    limits: JobLimits,
    pub(crate) place: Place,
    /// Another agent has the job, or it was cancelled before anybody had.
    pub(crate) elsewhere: bool,
    /// Its run does not stop when it is asked to.
    stubborn: bool,
}

#[derive(Debug)]
struct Worker {
    plugin: PluginName,
    up: bool,
    dying: bool,
    concurrency: usize,
    queue: Vec<JobKey>,
    asked_to_stop: BTreeSet<JobKey>,
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Pending {
    Bell(Lane),
    Pull(Lane, u32),
    Claim(JobKey),
    Start(WorkerId),
    Run(WorkerId, JobKey),
    Exit(WorkerId),
    Settle(JobKey, bool),
    /// A ticket comes back to its lane.
    Back(JobKey),
}

/// Everything around the agent.
pub(crate) struct World {
    pub(crate) tickets: BTreeMap<JobKey, Ticket>,
    workers: BTreeMap<WorkerId, Worker>,
    pub(crate) pending: Vec<Pending>,
    specs: BTreeMap<PluginName, PluginSpec>,
    /// One start in so many fails.
    starts_fail: usize,
}

impl World {
    pub(crate) fn new(choices: &mut Choices) -> Self {
        Self {
            starts_fail: [4, 4, 2][choices.pick(3)],
            tickets: BTreeMap::new(),
            workers: BTreeMap::new(),
            pending: Vec::new(),
            specs: BTreeMap::new(),
        }
    }

    pub(crate) fn set_spec(&mut self, plugin: &PluginName, spec: &PluginSpec) {
        self.specs.insert(plugin.clone(), spec.clone());
    }

    pub(crate) fn submit(&mut self, lane: Lane, choices: &mut Choices) {
        let limits = JobLimits {
            timeout_ms: [None, None, Some(50), Some(3_000)][choices.pick(4)],
            cancel_grace_ms: [None, Some(0), Some(500)][choices.pick(3)],
        };
        self.pending.push(Pending::Bell(lane.clone()));
        let stubborn = choices.one_in(3);
        let ticket = Ticket { lane, limits, place: Place::InLane, elsewhere: false, stubborn };
        self.tickets.insert(key(self.tickets.len()), ticket);
    }

    pub(crate) fn all_gone(&self) -> bool {
        self.tickets.values().all(|ticket| ticket.place == Place::Gone)
    }

    /// A worker dies by itself; it is heard of later.
    pub(crate) fn crash(&mut self, choices: &mut Choices) {
        if let Some(id) = self.workers.keys().nth(choices.pick(self.workers.len())).copied() {
            self.die(id);
        }
    }

    /// The connection is gone, and with it the pulls and the bells.
    pub(crate) fn disconnect(&mut self) {
        self.pending.retain(|pending| !matches!(pending, Pending::Pull(..) | Pending::Bell(_)));
    }

    /// Begins what an action asks for.
    pub(crate) fn perform(&mut self, action: &Action, choices: &mut Choices) {
        match action {
            Action::Listen(_) | Action::Exit => {}
            Action::Pull { lane, batch, .. } => self.pending.push(Pending::Pull(lane.clone(), *batch)),
            Action::Return { job } => self.pending.push(Pending::Back(job.clone())),
            Action::Claim { job, .. } => self.pending.push(Pending::Claim(job.clone())),
            Action::Spawn { worker, plugin } => {
                let fake = Worker {
                    plugin: plugin.clone(),
                    up: false,
                    dying: false,
                    concurrency: self.specs[plugin].concurrency as usize,
                    queue: Vec::new(),
                    asked_to_stop: BTreeSet::new(),
                };
                self.workers.insert(*worker, fake);
                self.pending.push(Pending::Start(*worker));
            }
            Action::Run { worker, job } => {
                if let Some(fake) = self.workers.get_mut(worker) {
                    fake.queue.push(job.clone());
                }
                self.pending.push(Pending::Run(*worker, job.clone()));
            }
            Action::CancelRun { worker, job } => {
                if let Some(fake) = self.workers.get_mut(worker) {
                    fake.asked_to_stop.insert(job.clone());
                }
            }
            Action::StopWorker { worker } | Action::KillWorker { worker } => self.die(*worker),
            Action::Conclude { job, how } => {
                let again = matches!(how, Conclusion::Retry(_));
                // The ticket may be handed out again before the agent hears that it was handed back.
                let early = again && choices.one_in(2);
                self.pending.push(Pending::Settle(job.clone(), again));
                if early {
                    self.pending.push(Pending::Back(job.clone()));
                }
            }
            Action::Forget { job } => self.leave(job),
        }
    }

    /// Lets one pending thing happen. What cannot happen yet goes to the end.
    pub(crate) fn happen(&mut self, index: usize, choices: &mut Choices) -> Option<Input> {
        match self.pending.remove(index) {
            Pending::Bell(lane) => (!choices.one_in(16)).then_some(Input::Bell { lane }),
            Pending::Pull(lane, left) => Some(self.pull(lane, left, choices)),
            Pending::Claim(job) => Some(self.claim(job, choices)),
            Pending::Start(id) => self.start(id, choices),
            Pending::Run(id, job) => self.run(id, job, choices),
            Pending::Exit(worker) => {
                let up = self.workers.remove(&worker)?.up;
                let called_exit = if up { !choices.one_in(8) } else { choices.one_in(2) };
                Some(if called_exit {
                    Input::WorkerExited { worker }
                } else {
                    Input::WorkerFailed { worker, failure: start_failure() }
                })
            }
            Pending::Settle(job, again) => {
                match self.tickets.get(&job) {
                    Some(ticket) if again && !ticket.elsewhere => self.put_back(&job),
                    _ => self.leave(&job),
                }
                Some(Input::Settled { job })
            }
            Pending::Back(job) => {
                self.put_back(&job);
                None
            }
        }
    }

    /// The broker's patience with a delivery ends: it lies in its lane again.
    pub(crate) fn put_back(&mut self, job: &JobKey) {
        if let Some(ticket) = self.tickets.get_mut(job).filter(|ticket| ticket.place == Place::Out) {
            ticket.place = Place::InLane;
            self.pending.push(Pending::Bell(ticket.lane.clone()));
        }
    }

    fn leave(&mut self, job: &JobKey) {
        if let Some(ticket) = self.tickets.get_mut(job) {
            ticket.place = Place::Gone;
        }
    }

    fn die(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.dying) else { return };
        worker.dying = true;
        self.pending.push(Pending::Exit(id));
    }

    fn pull(&mut self, lane: Lane, left: u32, choices: &mut Choices) -> Input {
        let here = |ticket: &Ticket| ticket.place == Place::InLane && ticket.lane == lane;
        let (ends, rubbish) = (choices.one_in(12), choices.one_in(16));
        let found = self.tickets.iter_mut().find(|(_, ticket)| here(ticket) && !ends);
        let came = match found {
            _ if rubbish => Input::Unusable { lane: lane.clone() },
            Some((job, ticket)) => {
                ticket.place = Place::Out;
                Input::Delivered { lane: lane.clone(), job: job.clone(), limits: ticket.limits }
            }
            None => return Input::PullEnded { lane },
        };
        if left > 1 {
            self.pending.push(Pending::Pull(lane, left - 1));
        }
        came
    }

    fn claim(&mut self, job: JobKey, choices: &mut Choices) -> Input {
        let chance = choices.pick(10);
        match self.tickets.get(&job) {
            Some(ticket) if !ticket.elsewhere && ticket.place != Place::Gone && chance < 8 => {
                Input::Claimed { job }
            }
            Some(ticket) if !ticket.elsewhere && chance == 8 => {
                self.put_back(&job);
                Input::NotClaimed { job }
            }
            _ => {
                self.leave(&job);
                Input::NotClaimed { job }
            }
        }
    }

    fn start(&mut self, worker: WorkerId, choices: &mut Choices) -> Option<Input> {
        let fake = self.workers.get_mut(&worker)?;
        if fake.dying {
            // It may have said that it is up before it was killed.
            return choices.one_in(2).then_some(Input::WorkerReady { worker });
        }
        if choices.one_in(self.starts_fail) {
            self.workers.remove(&worker);
            return Some(Input::WorkerFailed { worker, failure: start_failure() });
        }
        fake.up = true;
        Some(Input::WorkerReady { worker })
    }

    fn run(&mut self, id: WorkerId, job: JobKey, choices: &mut Choices) -> Option<Input> {
        let worker = self.workers.get_mut(&id).filter(|worker| !worker.dying)?;
        let behind = worker.queue.iter().take(worker.concurrency).all(|running| *running != job);
        let asked = worker.asked_to_stop.contains(&job);
        let stubborn = self.tickets.get(&job).is_some_and(|ticket| ticket.stubborn);
        let hangs = if asked { stubborn } else { choices.one_in(2) };
        if hangs || (behind && !asked) {
            self.pending.push(Pending::Run(id, job));
            return None;
        }
        worker.queue.retain(|queued| *queued != job);
        let cancelled = asked && (behind || !choices.one_in(3));
        let short = cancelled || worker.plugin.as_str() == super::life::SHORT;
        Some(Input::RunEnded { job, end: RunEnd { run_ms: if short { 1.0 } else { 20.0 }, cancelled } })
    }
}

pub(crate) fn start_failure() -> Box<Failure> {
    Box::new(Failure::new(FailureKind::StartFailed, "no module named `ocr`"))
}
