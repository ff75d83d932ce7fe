//! Priority inversions: a job was claimed while one of a higher priority that fits this host had waited. Aging is no
//! inversion. Where it cannot be told what is booked where, it counts as one.

use super::Farm;
use crate::machine::{Ask, Machine, Share};
use crate::mix::Micros;
use grange_dispatch::DeviceView;

/// A wait shorter than this is what messages take.
const WAITED: Micros = 5_000;

impl Farm<'_> {
    /// A job is claimed.
    pub(super) fn notice_inversion(&mut self, agent: usize, job: usize) {
        let rises = (self.now - self.mix.jobs[job].at) / (self.set.config.age_after_ms * 1_000).max(1);
        let level = u64::from(self.mix.level_of(job)).saturating_sub(rises);
        let higher =
            (0..self.mix.queues.len()).filter(|queue| u64::from(self.mix.queues[*queue].level) < level);
        let waits = |queue: &usize| {
            let oldest = self.broker.heads(*queue).map(|head| self.mix.jobs[head].at).min();
            oldest.is_some_and(|at| self.now - at > WAITED)
        };
        let shapes: Vec<usize> = higher.filter(waits).map(|queue| self.mix.queues[queue].shape).collect();
        if shapes.iter().any(|shape| self.could_run_instead(agent, *shape, job)) {
            self.outcome.counts.inversions += 1;
        }
    }

    /// Whether a job of a shape could have started here if `job` had not come.
    fn could_run_instead(&self, agent: usize, shape: usize, job: usize) -> bool {
        let shape = &self.mix.shapes[shape];
        let whole = Machine::new(&self.mix.hosts[agent]);
        if whole.find(&shape.ask).is_none() {
            return false;
        }
        if self.seats(agent, shape.plugin, &shape.ask, job) > 0 {
            return true;
        }
        let view = self.agents[agent].core.host();
        let mut devices = view.devices;
        let (mut ram, mut cpus) = (view.ram_grantable_mb, u64::from(view.cpus_grantable));
        let mut add = |share: &Share| {
            for place in &share.gpus {
                let device: &mut DeviceView = &mut devices[*place];
                device.grantable_mb += share.vram_mb;
                device.shares = device.shares.saturating_sub(1);
                device.exclusive = false;
            }
            (ram, cpus) = (ram + share.ram_mb, cpus + u64::from(share.cpus));
        };
        for process in self.agents[agent].processes.values() {
            let idle = process.takes_runs() && process.given.is_empty();
            if idle && self.expected(agent, process.plugin, job) == 0 {
                add(&process.share);
            }
        }
        let own = self.mix.shape_of(job);
        if self.seats(agent, own.plugin, &own.ask, job) <= 0 {
            let Ask { vram_mb, exclusive, ram_mb, cpus, .. } = own.ask;
            add(&Share { gpus: (0..whole.gpus()).collect(), vram_mb, exclusive, ram_mb, cpus });
        }
        let fits = |(place, device): (usize, &DeviceView)| {
            device.grantable_mb >= shape.ask.vram_mb
                && !device.exclusive
                && (!shape.ask.exclusive || device.shares == 0)
                && shape.ask.model.as_ref().is_none_or(|word| word == whole.word(place))
        };
        ram >= shape.ask.ram_mb
            && cpus >= u64::from(shape.ask.cpus)
            && devices.iter().enumerate().filter(|device| fits(*device)).count() >= shape.ask.gpus
    }

    /// Jobs of a plugin that have come and have no worker yet, besides `job`.
    fn expected(&self, agent: usize, plugin: usize, job: usize) -> u32 {
        let own = u32::from(self.mix.shape_of(job).plugin == plugin);
        self.agents[agent].unplaced[plugin].saturating_sub(own)
    }

    /// Free places in loaded workers, less those that are expected to be taken.
    fn seats(&self, agent: usize, plugin: usize, ask: &Ask, job: usize) -> i64 {
        let most = self.mix.plugins[plugin].spec.concurrency as usize;
        let serving = self.agents[agent].processes.values().filter(|process| {
            let share = &process.share;
            process.plugin == plugin
                && process.takes_runs()
                && share.gpus.len() == ask.gpus
                && share.vram_mb >= ask.vram_mb
                && share.exclusive >= ask.exclusive
        });
        let free: usize = serving.map(|process| most.saturating_sub(process.given.len())).sum();
        i64::try_from(free).unwrap_or(i64::MAX) - i64::from(self.expected(agent, plugin, job))
    }
}
