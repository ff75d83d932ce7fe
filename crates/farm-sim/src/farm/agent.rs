//! One host: its dispatcher, its processes, and what the world around a dispatcher remembers for it. Never decides.

use crate::lives::Sample;
use crate::machine::{HostSpec, Machine, Share};
use crate::mix::Micros;
use grange_dispatch::{Config, DeviceReading, Dispatcher, Grant, HostReading, WorkerId, WorkerUse};
use std::collections::BTreeMap;

/// A worker process, from its start until its memory is back.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) plugin: usize,
    pub(super) share: Share,
    /// Since when it has been loaded.
    pub(super) ready: Option<Micros>,
    /// It was told to end.
    pub(super) leaving: bool,
    /// Its processes are gone.
    pub(super) gone: bool,
    /// What it was given and has not ended, oldest first.
    pub(super) given: Vec<usize>,
}

impl Process {
    /// It is loaded, and takes runs.
    pub(super) fn takes_runs(&self) -> bool {
        self.ready.is_some() && !self.leaving && !self.gone
    }
}

/// A pull that is out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    pub(super) number: u64,
    pub(super) left: u32,
}

/// One agent.
pub(super) struct Agent {
    pub(super) core: Dispatcher,
    pub(super) machine: Machine,
    spec: HostSpec,
    name: String,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    /// Pulls that are out, by queue.
    pub(super) out: BTreeMap<usize, Out>,
    pub(super) pulls: u64,
    /// Jobs in hand that no worker was given, by plugin.
    pub(super) unplaced: Vec<u32>,
    /// The tick that is ordered, by the dispatcher's clock.
    pub(super) wake: Option<u64>,
    /// Messages of one connection do not overtake each other.
    pub(super) said_until: Micros,
    pub(super) heard_until: Micros,
    pub(super) looking: bool,
    pub(super) look_again: bool,
}

impl Agent {
    pub(super) fn new(place: usize, spec: &HostSpec, plugins: usize, config: Config) -> Self {
        Self {
            core: Dispatcher::new(config),
            machine: Machine::new(spec),
            spec: spec.clone(),
            name: format!("host{place}"),
            processes: BTreeMap::new(),
            out: BTreeMap::new(),
            pulls: 0,
            unplaced: vec![0; plugins],
            wake: None,
            said_until: 0,
            heard_until: 0,
            looking: false,
            look_again: false,
        }
    }

    fn uuid(&self, place: usize) -> String {
        format!("GPU-{}-{place}", self.name)
    }

    /// What a grant is of this host. None: it names a GPU that is not there.
    pub(super) fn share(&self, grant: &Grant) -> Option<Share> {
        let place =
            |uuid: &String| uuid.rsplit('-').next()?.parse().ok().filter(|n| *n < self.spec.gpus.len());
        let gpus: Option<Vec<usize>> = grant.devices.iter().map(place).collect();
        let Grant { vram_mb, exclusive, ram_mb, cpus, .. } = *grant;
        Some(Share { gpus: gpus?, vram_mb, exclusive, ram_mb, cpus })
    }

    /// Whether a loaded worker of a plugin is here.
    pub(super) fn is_loaded(&self, plugin: usize) -> bool {
        self.processes.values().any(|process| process.plugin == plugin && process.takes_runs())
    }

    /// Adds what this host's GPUs are held for.
    pub(super) fn sample(&self, sum: &mut Sample) {
        for process in self.processes.values() {
            let place = if process.leaving || process.gone {
                &mut sum.leaving
            } else if process.ready.is_none() {
                &mut sum.starting
            } else if process.given.is_empty() {
                &mut sum.idle
            } else {
                &mut sum.running
            };
            *place += self.machine.weight(&process.share).0;
        }
    }

    /// What a look that begins now sees.
    pub(super) fn reading(&self, now_ms: u64) -> HostReading {
        let mut workers = BTreeMap::new();
        let mut used: Vec<u64> = vec![0; self.spec.gpus.len()];
        let mut leftover = used.clone();
        for (id, process) in &self.processes {
            if process.ready.is_none() && !process.gone {
                continue;
            }
            // A loaded model fills most of what it asked for.
            let vram_mb = process.share.vram_mb * 9 / 10;
            for place in &process.share.gpus {
                used[*place] += vram_mb;
                leftover[*place] += if process.gone { vram_mb } else { 0 };
            }
            if !process.gone {
                let vram_mb = process.share.gpus.iter().map(|place| (self.uuid(*place), vram_mb)).collect();
                workers.insert(*id, WorkerUse { ram_mb: process.share.ram_mb * 9 / 10, vram_mb });
            }
        }
        let device = |(place, gpu): (usize, &crate::machine::GpuSpec)| DeviceReading {
            uuid: self.uuid(place),
            name: gpu.name.to_owned(),
            compute: gpu.compute.to_owned(),
            links: gpu.link.map(|partner| self.uuid(partner)).into_iter().collect(),
            total_mb: gpu.total_mb,
            used_mb: used[place] + gpu.foreign_mb,
            foreign_mb: gpu.foreign_mb,
            leftover_mb: leftover[place],
            attributed: true,
            fault: None,
        };
        HostReading {
            taken_at: now_ms,
            cpus: self.spec.cpus,
            ram_mb: self.spec.ram_mb,
            ram_other_mb: 0,
            driver: "550.54".to_owned(),
            labels: [("host".to_owned(), self.name.clone())].into(),
            devices: self.spec.gpus.iter().enumerate().map(device).collect(),
            workers,
        }
    }
}
