//! The fakes: a broker with queues and records, and workers on a machine. They perform what the dispatcher says; each
//! outcome waits in `pending` until the life lets it happen, in any order. Owns no law.

use super::Choices;
use super::farm::{key, run_ms, start_failure};
use super::machine::{Comeback, Machine};
use grange_dispatch::{
    Action, Conclusion, Ear, Facts, Grant, HostReading, Input, JobLimits, RunEnd, Time, WorkerId,
};
use grange_protocol::class::{self, Meaning};
use grange_protocol::name::PluginName;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::{JobKey, Queue};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    InQueue,
    /// An agent has it.
    Out,
    /// Its job ended, or is another's.
    Gone,
}

#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) queue: Queue,
    pub(crate) limits: JobLimits,
    /// What it asks for exactly.
    pub(crate) resources: Option<ResourceRequest>,
    pub(crate) place: Place,
    /// Another agent has the job, or it was cancelled before anybody had.
    pub(crate) elsewhere: bool,
    submitted: Time,
    /// Its place in its queue.
    turn: usize,
    /// Its run does not stop when it is asked to.
    stubborn: bool,
}

#[derive(Debug)]
struct Worker {
    plugin: PluginName,
    grant: Grant,
    up: bool,
    dying: bool,
    concurrency: usize,
    given: Vec<JobKey>,
    asked_to_stop: BTreeSet<JobKey>,
    /// Those that waited behind others then: nobody waits for them to stop once they have begun.
    asked_behind: BTreeSet<JobKey>,
}

impl Worker {
    /// Whether a job waits behind others.
    fn is_behind(&self, job: &JobKey) -> bool {
        self.given.iter().take(self.concurrency).all(|running| running != job)
    }
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Pending {
    Bell(Queue, JobKey, u32),
    Pull(Queue, u32),
    Peek(Queue),
    Claim(JobKey),
    Start(WorkerId),
    Run(WorkerId, JobKey),
    /// A worker is gone, not before this time.
    Exit(WorkerId, Time),
    Settle(JobKey, bool),
    /// A ticket comes back to its queue, not before this time.
    Back(JobKey, Time),
    Open(Queue),
    Save(Queue),
    Reading(Box<HostReading>),
    /// Memory of a worker that ended comes back to its GPU.
    Memory(usize, u64),
}

/// Everything around the agent.
pub(crate) struct World {
    pub(crate) tickets: BTreeMap<JobKey, Ticket>,
    workers: BTreeMap<WorkerId, Worker>,
    pub(crate) machine: Machine,
    pub(crate) pending: Vec<Pending>,
    /// One start in so many fails.
    starts_fail: usize,
    pub(crate) now: Time,
}

impl World {
    pub(crate) fn new(choices: &mut Choices) -> Self {
        Self {
            starts_fail: choices.of(&[6, 6, 2]),
            machine: Machine::new(choices),
            tickets: BTreeMap::new(),
            workers: BTreeMap::new(),
            pending: Vec::new(),
            now: 0,
        }
    }

    pub(crate) fn submit(&mut self, queue: Queue, choices: &mut Choices) {
        let turn = self.tickets.len();
        let job = key(&queue.owner, turn);
        let resources = match class::read(&queue.lane.class) {
            Ok(Meaning::Asks(asks)) if choices.one_in(2) => {
                let between =
                    |over: u64, upto: u64| if upto == 0 { 0 } else { over + (upto - over) * 9 / 10 };
                Some(ResourceRequest {
                    vram_mb: between(asks.over.vram_mb, asks.upto.vram_mb),
                    ram_mb: between(asks.over.ram_mb, asks.upto.ram_mb),
                    ..asks.upto
                })
            }
            _ => None,
        };
        let ticket = Ticket {
            limits: JobLimits {
                timeout_ms: choices.of(&[None, None, Some(50), Some(3_000)]),
                cancel_grace_ms: choices.of(&[None, Some(0), Some(500)]),
            },
            resources,
            place: Place::InQueue,
            elsewhere: false,
            submitted: self.now,
            turn,
            stubborn: choices.one_in(3),
            queue: queue.clone(),
        };
        self.pending.push(Pending::Bell(queue, job.clone(), 0));
        self.tickets.insert(job, ticket);
    }

    /// What the housekeeper would say: some ages are exaggerated, so that lives are long enough for it to matter.
    pub(crate) fn facts(&self, names: &[&str], choices: &mut Choices) -> Facts {
        let mut facts = Facts::default();
        for ticket in self.tickets.values().filter(|ticket| ticket.place == Place::InQueue) {
            let age = self.now - ticket.submitted + choices.of(&[0, 0, 5_000, 70_000, 150_000]);
            let oldest = facts.waiting.entry(ticket.queue.clone()).or_default();
            *oldest = age.max(*oldest);
        }
        let warm = names.iter().filter(|_| choices.one_in(3));
        facts.warm_elsewhere = warm.map(|name| super::farm::plugin(name)).collect();
        facts.running_elsewhere = [(super::farm::owner("bob"), choices.of(&[0, 0, 2, 5]))].into();
        facts
    }

    /// A worker dies by itself; it is heard of later.
    pub(crate) fn crash(&mut self, choices: &mut Choices) {
        if let Some(id) = self.workers.keys().nth(choices.pick(self.workers.len())).copied() {
            self.die(id, 0);
        }
    }

    /// The connection is gone, and with it the pulls and the bells.
    pub(crate) fn disconnect(&mut self) {
        self.pending
            .retain(|pending| !matches!(pending, Pending::Pull(..) | Pending::Peek(..) | Pending::Bell(..)));
    }

    pub(crate) fn look(&mut self) {
        self.pending.push(Pending::Reading(Box::new(self.machine.reading(self.now))));
    }

    /// Begins what an action asks for.
    pub(crate) fn perform(&mut self, action: &Action, concurrency: usize, choices: &mut Choices) {
        match action {
            Action::Hear { .. } | Action::Warn { .. } | Action::EndSave { .. } | Action::Exit => {}
            Action::Open { queue } => self.pending.push(Pending::Open(queue.clone())),
            Action::Pull { queue, batch, .. } => self.pending.push(Pending::Pull(queue.clone(), *batch)),
            Action::Peek { queues } => self.pending.extend(queues.iter().cloned().map(Pending::Peek)),
            // Somebody else hears it.
            Action::PassOn { .. } => {}
            Action::Return { job, delay_ms } => {
                self.pending.push(Pending::Back(job.clone(), self.now + delay_ms))
            }
            Action::Claim { job, .. } => self.pending.push(Pending::Claim(job.clone())),
            Action::Spawn { worker, plugin, grant } => {
                let fake = Worker {
                    plugin: plugin.clone(),
                    grant: grant.clone(),
                    up: false,
                    dying: false,
                    concurrency,
                    given: Vec::new(),
                    asked_to_stop: BTreeSet::new(),
                    asked_behind: BTreeSet::new(),
                };
                self.workers.insert(*worker, fake);
                self.pending.push(Pending::Start(*worker));
            }
            Action::Run { worker, job } => {
                if let Some(fake) = self.workers.get_mut(worker) {
                    fake.given.push(job.clone());
                }
                self.pending.push(Pending::Run(*worker, job.clone()));
            }
            Action::CancelRun { worker, job } => {
                if let Some(fake) = self.workers.get_mut(worker) {
                    fake.asked_to_stop.insert(job.clone());
                    if fake.is_behind(job) {
                        fake.asked_behind.insert(job.clone());
                    }
                }
            }
            // Some hang in the kernel.
            Action::StopWorker { worker } => self.die(*worker, choices.of(&[0, 0, 0, 0, 0, 0, 0, 25_000])),
            Action::KillWorker { worker } => self.die(*worker, choices.of(&[0, 0, 9_000, 14_000])),
            Action::Look => self.look(),
            Action::Save { queue } => self.pending.push(Pending::Save(queue.clone())),
            Action::Conclude { job, how } => {
                let again = matches!(how, Conclusion::Retry(_));
                // The ticket may be handed out again before the agent hears that it was handed back.
                let early = again && choices.one_in(2);
                self.pending.push(Pending::Settle(job.clone(), again));
                if early {
                    self.pending.push(Pending::Back(job.clone(), 0));
                }
            }
            Action::Forget { job } => self.leave(job),
        }
    }

    /// Lets one pending thing happen. What cannot happen yet goes to the end.
    pub(crate) fn happen(&mut self, index: usize, choices: &mut Choices) -> Option<Input> {
        match self.pending.remove(index) {
            // With which ear it is heard is not the broker's matter.
            Pending::Bell(queue, key, hops) => {
                (!choices.one_in(16)).then_some(Input::Bell { queue, job: key.job, ear: Ear::All, hops })
            }
            Pending::Pull(queue, left) => Some(self.pull(queue, left, choices)),
            Pending::Peek(queue) => {
                let here = |ticket: &Ticket| ticket.place == Place::InQueue && ticket.queue == queue;
                let empty = !self.tickets.values().any(here) && !choices.one_in(8);
                empty.then_some(Input::FoundEmpty { queue })
            }
            Pending::Claim(job) => Some(self.claim(job, choices)),
            Pending::Start(id) => self.start(id, choices),
            Pending::Run(id, job) => self.run(id, job, choices),
            Pending::Exit(worker, at) if at > self.now => {
                self.pending.push(Pending::Exit(worker, at));
                None
            }
            Pending::Exit(worker, _) => self.exit(worker, choices),
            Pending::Settle(job, again) => {
                match self.tickets.get(&job) {
                    Some(ticket) if again && !ticket.elsewhere => self.put_back(&job),
                    _ => self.leave(&job),
                }
                Some(Input::Settled { job })
            }
            Pending::Back(job, at) if at > self.now => {
                self.pending.push(Pending::Back(job, at));
                None
            }
            Pending::Back(job, _) => {
                self.put_back(&job);
                None
            }
            Pending::Open(queue) => {
                let opens = !choices.one_in(6);
                Some(if opens { Input::QueueOpen { queue } } else { Input::QueueClosed { queue } })
            }
            Pending::Save(queue) => {
                let granted = !choices.one_in(3);
                Some(if granted { Input::SaveGranted { queue } } else { Input::SaveRefused { queue } })
            }
            Pending::Reading(reading) => Some(Input::Host(reading)),
            Pending::Memory(place, mb) => {
                self.machine.comes_back(place, mb);
                None
            }
        }
    }

    /// The broker's patience with a delivery ends: it lies in its queue again.
    pub(crate) fn put_back(&mut self, job: &JobKey) {
        if let Some(ticket) = self.tickets.get_mut(job).filter(|ticket| ticket.place == Place::Out) {
            ticket.place = Place::InQueue;
            self.pending.push(Pending::Bell(ticket.queue.clone(), job.clone(), 0));
        }
    }

    fn leave(&mut self, job: &JobKey) {
        if let Some(ticket) = self.tickets.get_mut(job) {
            ticket.place = Place::Gone;
        }
    }

    fn die(&mut self, id: WorkerId, hangs_ms: Time) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.dying) else { return };
        worker.dying = true;
        self.pending.push(Pending::Exit(id, self.now + hangs_ms));
    }

    fn exit(&mut self, worker: WorkerId, choices: &mut Choices) -> Option<Input> {
        let up = self.workers.remove(&worker)?.up;
        self.unload(worker, choices);
        let called_exit = if up { !choices.one_in(8) } else { choices.one_in(2) };
        Some(if called_exit {
            Input::WorkerExited { worker }
        } else {
            Input::WorkerFailed { worker, failure: start_failure() }
        })
    }

    fn unload(&mut self, worker: WorkerId, choices: &mut Choices) {
        let ways = [Comeback::AtOnce, Comeback::AtOnce, Comeback::Later, Comeback::Later, Comeback::Never];
        let way = choices.of(&ways);
        for (place, mb) in self.machine.unload(worker, way) {
            self.pending.push(Pending::Memory(place, mb));
        }
    }

    fn pull(&mut self, queue: Queue, left: u32, choices: &mut Choices) -> Input {
        let (ends, rubbish) = (choices.one_in(12), choices.one_in(16));
        let here = |ticket: &&mut Ticket| ticket.place == Place::InQueue && ticket.queue == queue && !ends;
        let first = self.tickets.values_mut().filter(here).min_by_key(|ticket| ticket.turn);
        let came = match first {
            _ if rubbish => Input::Unusable { queue: queue.clone() },
            Some(ticket) => {
                ticket.place = Place::Out;
                let (job, limits) = (key(&queue.owner, ticket.turn), ticket.limits);
                let resources = ticket.resources.clone().map(Box::new);
                Input::Delivered { queue: queue.clone(), job, limits, resources }
            }
            None => return Input::PullEnded { queue },
        };
        if left > 1 {
            self.pending.push(Pending::Pull(queue, left - 1));
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
        let grant = fake.grant.clone();
        self.machine.load(worker, &grant, choices);
        if choices.one_in(self.starts_fail) {
            self.workers.remove(&worker);
            self.unload(worker, choices);
            return Some(Input::WorkerFailed { worker, failure: start_failure() });
        }
        fake.up = true;
        Some(Input::WorkerReady { worker })
    }

    fn run(&mut self, id: WorkerId, job: JobKey, choices: &mut Choices) -> Option<Input> {
        let worker = self.workers.get_mut(&id).filter(|worker| !worker.dying)?;
        let (behind, asked) = (worker.is_behind(&job), worker.asked_to_stop.contains(&job));
        let stubborn = self.tickets.get(&job).is_some_and(|ticket| ticket.stubborn);
        let stubborn = stubborn && !worker.asked_behind.contains(&job);
        let hangs = if asked { stubborn } else { choices.one_in(2) };
        if hangs || (behind && !asked) {
            self.pending.push(Pending::Run(id, job));
            return None;
        }
        worker.given.retain(|given| *given != job);
        let cancelled = asked && (behind || !choices.one_in(3));
        let run_ms = if cancelled { 1.0 } else { run_ms(&worker.plugin) };
        Some(Input::RunEnded { job, end: RunEnd { run_ms, cancelled } })
    }
}
