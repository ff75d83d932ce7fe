//! Builds a mix: names plugins, shapes and queues once, and strings jobs together.

use super::hosts::hosts;
use super::{Job, Kind, Micros, Mix, PluginMix, QueueMix, Shape};
use crate::chance::Chance;
use crate::machine::Ask;
use grange_dispatch::PluginSpec;
use grange_protocol::class::class_of;
use grange_protocol::name::{Class, Owner, PluginName};
use grange_protocol::resource::{ON_GPU, ResourceRequest};
use grange_protocol::subject::{Lane, Queue};
use grange_protocol::ticket::Priority;
use std::collections::BTreeMap;

/// How long jobs run, milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Runs {
    /// Exponentially distributed, with this mean.
    Around(f64),
    /// Evenly between these.
    Between(u64, u64),
}

/// Jobs of one kind.
#[derive(Clone, Debug)]
pub struct Strand {
    /// Which plugin, by its place in the mix.
    pub plugin: usize,
    /// What they ask for beyond the plugin's request.
    pub beyond: Option<ResourceRequest>,
    /// They have one of these priorities.
    pub priorities: Vec<Priority>,
    /// And one of these owners.
    pub owners: Vec<String>,
    /// How long they run.
    pub runs: Runs,
    /// What they are.
    pub kind: Kind,
}

/// The way to a mix.
#[derive(Debug)]
pub struct Maker {
    mix: Mix,
    chance: Chance,
    queues: BTreeMap<Queue, usize>,
}

impl Maker {
    /// Hosts, and nothing to do.
    pub fn new(name: &str, host_count: usize, seed: u64) -> Self {
        let mix = Mix {
            name: name.to_owned(),
            seed,
            hosts: hosts(host_count, seed),
            plugins: Vec::new(),
            shapes: Vec::new(),
            queues: Vec::new(),
            jobs: Vec::new(),
            begin: 0,
        };
        Self { mix, chance: Chance::new(seed, 2), queues: BTreeMap::new() }
    }

    /// Chance, for what is not here.
    pub fn chance(&mut self) -> &mut Chance {
        &mut self.chance
    }

    /// Adds a plugin whose workers need this and take so long to start, milliseconds. Returns its place.
    pub fn plugin(&mut self, name: &str, request: ResourceRequest, start_ms: u64) -> usize {
        let spec = PluginSpec {
            concurrency: 1,
            max_workers: 64,
            cancel_grace_ms: 5_000,
            request,
            start_ms: Some(start_ms),
            ..PluginSpec::default()
        };
        let name = PluginName::new(name).expect("a mix names its plugins well");
        self.mix.plugins.push(PluginMix { name, spec, start: start_ms * 1_000 });
        self.mix.plugins.len() - 1
    }

    /// The hosts come up then.
    pub fn begin(&mut self, at: Micros) {
        self.mix.begin = at;
    }

    /// Lets workers of a plugin have so many runs at a time.
    pub fn concurrency(&mut self, plugin: usize, runs: u32) {
        self.mix.plugins[plugin].spec.concurrency = runs;
    }

    /// Adds a job of this strand.
    pub fn add(&mut self, at: Micros, strand: &Strand) {
        let priority = strand.priorities[self.chance.below(strand.priorities.len())];
        let owner = &strand.owners[self.chance.below(strand.owners.len())];
        let queue = self.queue(strand, priority, owner);
        let run_ms = match strand.runs {
            Runs::Around(mean) => self.chance.around(mean).max(1.0),
            Runs::Between(low, high) => self.chance.between(low, high) as f64,
        };
        self.mix.jobs.push(Job { at, queue, run: (run_ms * 1_000.0) as Micros, kind: strand.kind });
    }

    fn queue(&mut self, strand: &Strand, priority: Priority, owner: &str) -> usize {
        let class = strand.beyond.as_ref().map_or_else(Class::plugin_default, |beyond| {
            class_of(beyond).expect("a mix asks for what has a class")
        });
        let plugin = &self.mix.plugins[strand.plugin];
        let lane = Lane { priority, plugin: plugin.name.clone(), class };
        let queue = Queue { lane, owner: Owner::new(owner).expect("a mix names its owners well") };
        if let Some(place) = self.queues.get(&queue) {
            return *place;
        }
        let request = match &strand.beyond {
            Some(beyond) => plugin.spec.request.raised(beyond),
            None => plugin.spec.request.clone(),
        };
        let ask = ask_of(&request);
        let same = |shape: &Shape| shape.plugin == strand.plugin && shape.ask == ask;
        let shape = self.mix.shapes.iter().position(same).unwrap_or_else(|| {
            self.mix.shapes.push(Shape { plugin: strand.plugin, ask, beyond: strand.beyond.clone() });
            self.mix.shapes.len() - 1
        });
        self.mix.queues.push(QueueMix { queue: queue.clone(), shape, level: priority as u8 });
        let place = self.mix.queues.len() - 1;
        self.queues.insert(queue, place);
        place
    }

    /// The mix, its jobs in the order of their arrival.
    pub fn made(mut self) -> Mix {
        self.mix.jobs.sort_by_key(|job| job.at);
        self.mix
    }
}

fn ask_of(request: &ResourceRequest) -> Ask {
    Ask {
        gpus: request.gpus as usize,
        vram_mb: request.vram_mb,
        exclusive: request.exclusive,
        ram_mb: request.ram_mb,
        cpus: request.cpus,
        model: request.on.get(ON_GPU).cloned(),
    }
}
