//! What happens on a host: processes start, run, end and give their memory back; looks are taken. Checks that nothing is
//! given twice and that every run is where it can be.

use super::Farm;
use super::agent::Process;
use super::events::News;
use crate::lives::NEVER;
use grange_dispatch::{Grant, HostReading, Input, RunEnd, WorkerId};

impl Farm<'_> {
    pub(super) fn spawn(&mut self, agent: usize, worker: WorkerId, plugin: usize, grant: &Grant) {
        self.outcome.counts.spawned += 1;
        let Some(share) = self.agents[agent].share(grant) else {
            return self.broken(|| format!("agent {agent}: no such GPU: {grant:?}"));
        };
        if !self.agents[agent].machine.take(&share) {
            self.broken(|| format!("agent {agent}: given twice: {share:?} to {worker:?}"));
        }
        let process = Process { plugin, share, ready: None, leaving: false, gone: false, given: Vec::new() };
        self.agents[agent].processes.insert(worker, process);
        let start = self.mix.plugins[plugin].start as f64;
        let takes = start * (0.9 + 0.3 * self.chance.unit());
        self.after(takes as u64, agent, News::Ready(worker));
    }

    pub(super) fn worker_ready(&mut self, agent: usize, worker: WorkerId) -> Input {
        if let Some(process) = self.agents[agent].processes.get_mut(&worker) {
            process.ready = Some(self.now);
        }
        Input::WorkerReady { worker }
    }

    /// A worker is given a job; it begins when its turn comes.
    pub(super) fn give(&mut self, agent: usize, worker: WorkerId, job: usize) {
        let shape = self.mix.shape_of(job);
        let (plugin, ask) = (shape.plugin, shape.ask.clone());
        let entry = &mut self.agents[agent];
        entry.unplaced[plugin] -= 1;
        let Some(process) = entry.processes.get_mut(&worker).filter(|process| process.takes_runs()) else {
            return self.broken(|| format!("agent {agent}: {worker:?} cannot take job {job}"));
        };
        process.given.push(job);
        let (count, share, ready) = (process.given.len(), &process.share, process.ready);
        let model = |place: &usize| ask.model.as_ref().is_none_or(|word| word == entry.machine.word(*place));
        let serves = process.plugin == plugin
            && share.gpus.len() == ask.gpus
            && share.vram_mb >= ask.vram_mb
            && share.exclusive >= ask.exclusive
            && share.ram_mb >= ask.ram_mb
            && share.cpus >= ask.cpus
            && share.gpus.iter().all(model);
        self.outcome.lives[job].warm = ready.is_some_and(|at| at <= self.delivered[job]);
        if !serves {
            self.broken(|| format!("agent {agent}: {worker:?} does not serve job {job}"));
        }
        if count <= self.mix.plugins[plugin].spec.concurrency as usize {
            self.start(agent, worker, job);
        }
    }

    fn start(&mut self, agent: usize, worker: WorkerId, job: usize) {
        let begins = self.now + self.set.link;
        let entry = &self.agents[agent];
        let (weight, memory_mb) = entry.processes.get(&worker).map_or((0.0, 0.0), |process| {
            let (weight, memory_mb) = entry.machine.weight(&process.share);
            let shared = f64::from(self.mix.plugins[process.plugin].spec.concurrency);
            (weight / shared, memory_mb / shared)
        });
        let life = &mut self.outcome.lives[job];
        life.starts += 1;
        life.started = begins;
        (life.weight, life.memory_mb) = (weight, memory_mb);
        if life.starts > 1 {
            self.broken(|| format!("job {job} starts again"));
        }
        self.after(self.set.link * 2 + self.mix.jobs[job].run, agent, News::RunEnded { worker, job });
    }

    /// None: its worker was gone before.
    pub(super) fn run_ended(&mut self, agent: usize, worker: WorkerId, job: usize) -> Option<Input> {
        let process = self.agents[agent].processes.get_mut(&worker)?;
        let place = process.given.iter().position(|given| *given == job)?;
        process.given.remove(place);
        let concurrency = self.mix.plugins[process.plugin].spec.concurrency as usize;
        let next = process.given.get(concurrency - 1).copied();
        let life = &mut self.outcome.lives[job];
        life.ends += 1;
        life.ended = self.now - self.set.link;
        if life.ends == 1 {
            self.left -= 1;
            self.outcome.makespan = self.outcome.makespan.max(self.now);
        } else {
            self.broken(|| format!("job {job} ends again"));
        }
        if let Some(next) = next.filter(|next| self.outcome.lives[*next].started == NEVER) {
            self.start(agent, worker, next);
        }
        let end = RunEnd { run_ms: self.mix.jobs[job].run as f64 / 1_000.0, cancelled: false };
        Some(Input::RunEnded { job: self.keys[job].clone(), end })
    }

    pub(super) fn end_worker(&mut self, agent: usize, worker: WorkerId) {
        let takes = self.among(self.set.stop);
        let Some(process) = self.agents[agent].processes.get_mut(&worker) else {
            return self.broken(|| format!("agent {agent}: {worker:?} ends, and is not there"));
        };
        process.leaving = true;
        if !process.given.is_empty() {
            self.broken(|| format!("agent {agent}: {worker:?} ends at work"));
        }
        self.after(takes, agent, News::Exited(worker));
    }

    pub(super) fn worker_gone(&mut self, agent: usize, worker: WorkerId) -> Input {
        let takes = self.among(self.set.memory);
        let entry = &mut self.agents[agent];
        if let Some(process) = entry.processes.get_mut(&worker) {
            process.gone = true;
            entry.machine.leave(&process.share);
            self.after(takes, agent, News::MemoryBack(worker));
        }
        Input::WorkerExited { worker }
    }

    pub(super) fn memory_back(&mut self, agent: usize, worker: WorkerId) {
        let entry = &mut self.agents[agent];
        if let Some(process) = entry.processes.remove(&worker) {
            entry.machine.give_back(&process.share);
        }
    }

    /// A look that begins after now is wanted.
    pub(super) fn want_look(&mut self, agent: usize) {
        let entry = &mut self.agents[agent];
        if entry.looking {
            entry.look_again = true;
        } else {
            self.begin_look(agent);
        }
    }

    /// The regular one.
    pub(super) fn look(&mut self, agent: usize) {
        self.after(self.set.look_every, agent, News::Look);
        self.want_look(agent);
    }

    fn begin_look(&mut self, agent: usize) {
        let reading = self.agents[agent].reading(self.now / 1_000);
        self.agents[agent].looking = true;
        self.after(self.set.look, agent, News::Looked(Box::new(reading)));
    }

    pub(super) fn looked(&mut self, agent: usize, reading: Box<HostReading>) -> Input {
        self.agents[agent].looking = false;
        if std::mem::take(&mut self.agents[agent].look_again) {
            self.begin_look(agent);
        }
        Input::Host(reading)
    }
}
