//! A mix: unlike hosts, plugins, and jobs with their owners, priorities, classes, run times and times of arrival, all from
//! one seed. Data only; nothing here knows who will run it.

pub mod catalog;
mod hosts;
mod maker;

pub use maker::{Maker, Runs, Strand};

use crate::machine::{Ask, HostSpec, Machine};
use grange_dispatch::PluginSpec;
use grange_protocol::name::PluginName;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::Queue;

/// Simulated time, microseconds from the start.
pub type Micros = u64;

/// What a job is in its mix, for the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One of many.
    Usual,
    /// It wants several GPUs at once.
    Big,
    /// One of thousands by one owner.
    Bulk,
    /// A single job of another owner beside those.
    Single,
    /// No host will ever have room for it.
    Hopeless,
}

/// A plugin, on every host.
#[derive(Clone, Debug)]
pub struct PluginMix {
    /// Its name.
    pub name: PluginName,
    /// As agents know it.
    pub spec: PluginSpec,
    /// How long a worker takes until it is ready, on average.
    pub start: Micros,
}

/// What jobs of one class of one plugin need.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Which plugin, by its place in the mix.
    pub plugin: usize,
    /// The whole need.
    pub ask: Ask,
    /// What the ticket asks for beyond the plugin's request.
    pub beyond: Option<ResourceRequest>,
}

/// A queue.
#[derive(Clone, Debug)]
pub struct QueueMix {
    /// Its name.
    pub queue: Queue,
    /// What its jobs need, by its place in the mix.
    pub shape: usize,
    /// 0: urgent.
    pub level: u8,
}

/// One job; its place in the mix is its name and, in its queue, its turn.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// When its ticket is stored.
    pub at: Micros,
    /// Which queue.
    pub queue: usize,
    /// How long it runs.
    pub run: Micros,
    /// What it is.
    pub kind: Kind,
}

/// Everything that a simulation and the oracle are given.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Its name in tables.
    pub name: String,
    /// The seed it came from.
    pub seed: u64,
    /// Hosts.
    pub hosts: Vec<HostSpec>,
    /// Plugins.
    pub plugins: Vec<PluginMix>,
    /// Classes of plugins.
    pub shapes: Vec<Shape>,
    /// Queues.
    pub queues: Vec<QueueMix>,
    /// Jobs, in the order of their arrival.
    pub jobs: Vec<Job>,
    /// When the hosts come up. What came before lies there, in queues that have consumers.
    pub begin: Micros,
}

impl Mix {
    /// What a job needs.
    pub fn shape_of(&self, job: usize) -> &Shape {
        &self.shapes[self.queues[self.jobs[job].queue].shape]
    }

    /// Its priority; 0: urgent.
    pub fn level_of(&self, job: usize) -> u8 {
        self.queues[self.jobs[job].queue].level
    }

    /// GPUs on all hosts.
    pub fn gpus(&self) -> usize {
        self.hosts.iter().map(|host| host.gpus.len()).sum()
    }

    /// Memory of all GPUs, MiB.
    pub fn gpu_memory_mb(&self) -> f64 {
        self.hosts.iter().flat_map(|host| &host.gpus).map(|gpu| gpu.total_mb as f64).sum()
    }

    /// By shape: whether some host would have room for it if it were empty.
    pub fn placeable(&self) -> Vec<bool> {
        let empty: Vec<Machine> = self.hosts.iter().map(Machine::new).collect();
        let fits = |shape: &Shape| empty.iter().any(|machine| machine.find(&shape.ask).is_some());
        self.shapes.iter().map(fits).collect()
    }
}
