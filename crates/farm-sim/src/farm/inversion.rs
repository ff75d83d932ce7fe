//! Priority inversions: a job was claimed while one of a higher priority that fits this host had waited. Aging is no
//! inversion. Who waited is noted when the claim is sent, and whether it fits instead is judged when the claim is there
//! and the job has its worker: until then nobody but the dispatcher knows which part of the host is booked for it.

use super::Farm;
use super::agent::Process;
use crate::machine::{Ask, Machine, Share};
use crate::mix::Micros;
use grange_dispatch::{DeviceView, Input, WorkerId};
use std::collections::BTreeSet;

/// A wait shorter than this is what messages take.
const WAITED: Micros = 5_000;

impl Farm<'_> {
    /// A claim is sent: which shapes of a higher priority waited.
    pub(super) fn note_who_waits(&mut self, job: usize) {
        // Agents know ages from the overview: what that named as old rose, also for the ticket behind it.
        let told = self.ages.get(&self.mix.jobs[job].queue).copied();
        let since = told.map_or(self.mix.jobs[job].at, |at| at.min(self.mix.jobs[job].at));
        let rises = (self.now - since) / (self.set.config.age_after_ms * 1_000).max(1);
        let level = u64::from(self.mix.level_of(job)).saturating_sub(rises);
        let waits = |queue: &usize| {
            let oldest = self.broker.heads(*queue).map(|head| self.mix.jobs[head].at).min();
            u64::from(self.mix.queues[*queue].level) < level
                && oldest.is_some_and(|at| self.now - at > WAITED)
        };
        let waiting = (0..self.mix.queues.len()).filter(waits);
        let shapes: BTreeSet<usize> = waiting.map(|queue| self.mix.queues[queue].shape).collect();
        if !shapes.is_empty() {
            self.suspects.insert(job, shapes);
        }
    }

    /// The claim is there.
    pub(super) fn claimed(&mut self, agent: usize, job: usize) {
        let input = Input::Claimed { job: self.keys[job].clone() };
        let Some(shapes) = self.suspects.remove(&job) else { return self.tell(agent, input) };
        let workers = |farm: &Self| -> BTreeSet<WorkerId> {
            farm.agents[agent].core.workers().iter().map(|worker| worker.worker).collect()
        };
        let before = workers(self);
        self.tell(agent, input);
        let new = workers(self).difference(&before).next().copied();
        let held = self.held_by(agent, job, new);
        if shapes.iter().any(|shape| self.would_fit(agent, *shape, held.as_ref())) {
            self.outcome.counts.inversions += 1;
        }
    }

    /// What the host would have had more without this job: its worker, unless that has others to run.
    fn held_by(&self, agent: usize, job: usize, new: Option<WorkerId>) -> Option<Share> {
        let entry = &self.agents[agent];
        let own = |process: &&Process| process.given == [job];
        if let Some(process) = entry.processes.values().find(own) {
            return Some(process.share.clone());
        }
        let view = entry.core.workers().into_iter().find(|view| Some(view.worker) == new)?;
        entry.share(&view.grant)
    }

    /// Whether a job of a shape could start here, with `held` free and idle workers gone.
    fn would_fit(&self, agent: usize, shape: usize, held: Option<&Share>) -> bool {
        let shape = &self.mix.shapes[shape];
        let whole = Machine::new(&self.mix.hosts[agent]);
        if whole.find(&shape.ask).is_none() {
            return false;
        }
        if self.has_seat(agent, shape.plugin, &shape.ask) {
            return true;
        }
        let entry = &self.agents[agent];
        let view = entry.core.host();
        // Less than nothing where what leaves and what comes for it are both booked.
        let signed = |mb: u64| i64::try_from(mb).unwrap_or(i64::MAX);
        let free = |d: &DeviceView| signed(d.usable_mb) - signed(d.foreign_mb) - signed(d.granted_mb);
        let mut devices: Vec<(i64, u32, bool)> =
            view.devices.iter().map(|device| (free(device), device.shares, device.exclusive)).collect();
        let (mut ram, mut cpus) = (view.ram_grantable_mb, u64::from(view.cpus_grantable));
        let idle = |process: &&Process| {
            process.takes_runs() && process.given.is_empty() && entry.unplaced[process.plugin] == 0
        };
        let idle = entry.processes.values().filter(idle).map(|process| &process.share);
        for share in idle.chain(held) {
            for place in &share.gpus {
                let (free, shares, exclusive) = &mut devices[*place];
                *free += signed(share.vram_mb);
                *shares = shares.saturating_sub(1);
                *exclusive &= !share.exclusive;
            }
            (ram, cpus) = (ram + share.ram_mb, cpus + u64::from(share.cpus));
        }
        let fits = |(place, (free, shares, exclusive)): (usize, &(i64, u32, bool))| {
            *free >= signed(shape.ask.vram_mb)
                && !exclusive
                && (!shape.ask.exclusive || *shares == 0)
                && shape.ask.model.as_ref().is_none_or(|word| word == whole.word(place))
        };
        ram >= shape.ask.ram_mb
            && cpus >= u64::from(shape.ask.cpus)
            && devices.iter().enumerate().filter(|device| fits(*device)).count() >= shape.ask.gpus
    }

    /// Whether a loaded worker has a free place that no job in hand needs.
    fn has_seat(&self, agent: usize, plugin: usize, ask: &Ask) -> bool {
        let entry = &self.agents[agent];
        let most = self.mix.plugins[plugin].spec.concurrency as usize;
        let serving = entry.processes.values().filter(|process| {
            let share = &process.share;
            process.plugin == plugin
                && process.takes_runs()
                && share.gpus.len() == ask.gpus
                && share.vram_mb >= ask.vram_mb
                && share.exclusive >= ask.exclusive
        });
        let free: usize = serving.map(|process| most.saturating_sub(process.given.len())).sum();
        free > entry.unplaced[plugin] as usize
    }
}
