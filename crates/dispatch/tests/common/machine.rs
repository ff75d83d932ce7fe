//! The fake host: GPUs whose memory is used by workers, by strangers and by nobody, and what a look at it shows.

use super::Choices;
use grange_dispatch::{DeviceReading, Grant, HostReading, Time, WorkerId, WorkerUse};
use std::collections::BTreeMap;

/// What a driver keeps of each GPU, MiB.
const DRIVER_MB: u64 = 300;

#[derive(Clone, Debug)]
struct Gpu {
    uuid: String,
    total_mb: u64,
    /// Whether the driver tells which process uses what.
    attributed: bool,
    foreign_mb: u64,
    /// Used by processes that are gone.
    kept_mb: u64,
    fault: Option<String>,
    there: bool,
    links: Vec<String>,
}

/// How the memory of a worker comes back after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comeback {
    AtOnce,
    Later,
    Never,
}

#[derive(Clone, Debug)]
pub(crate) struct Machine {
    gpus: Vec<Gpu>,
    cpus: u32,
    ram_mb: u64,
    ram_other_mb: u64,
    used: BTreeMap<WorkerId, WorkerUse>,
}

impl Machine {
    pub(crate) fn new(choices: &mut Choices) -> Self {
        let count = choices.of(&[2, 1, 2, 3, 4, 0, 1]);
        let attributed = !choices.one_in(5);
        let uuid = |place: usize| format!("gpu{place}");
        let gpu = |place: usize, choices: &mut Choices| Gpu {
            uuid: uuid(place),
            total_mb: choices.of(&[16_000, 24_564, 12_288]),
            attributed,
            foreign_mb: 0,
            kept_mb: 0,
            fault: None,
            there: true,
            // Pairs are joined.
            links: if (place ^ 1) < count { vec![uuid(place ^ 1)] } else { Vec::new() },
        };
        Self {
            gpus: (0..count).map(|place| gpu(place, choices)).collect(),
            cpus: choices.of(&[8, 16]),
            ram_mb: choices.of(&[32_000, 20_000]),
            ram_other_mb: 0,
            used: BTreeMap::new(),
        }
    }

    fn used_mb(&self, gpu: &Gpu) -> u64 {
        let ours: u64 =
            self.used.values().map(|used| used.vram_mb.get(&gpu.uuid).copied().unwrap_or(0)).sum();
        DRIVER_MB + gpu.foreign_mb + gpu.kept_mb + ours
    }

    /// What nobody uses of a GPU.
    fn free_mb(&self, gpu: &Gpu) -> u64 {
        gpu.total_mb.saturating_sub(self.used_mb(gpu))
    }

    /// A worker loads: most use what they were given or less, some more.
    pub(crate) fn load(&mut self, worker: WorkerId, grant: &Grant, choices: &mut Choices) {
        let share = choices.of(&[100, 60, 10, 150]);
        let mut used = WorkerUse { ram_mb: grant.ram_mb * share.min(110) / 100, ..WorkerUse::default() };
        for uuid in &grant.devices {
            let Some(gpu) = self.gpus.iter().find(|gpu| gpu.uuid == *uuid) else { continue };
            let wanted = if grant.vram_mb == 0 { 2_500 } else { grant.vram_mb } * share / 100;
            used.vram_mb.insert(uuid.clone(), wanted.min(self.free_mb(gpu)));
        }
        self.used.insert(worker, used);
    }

    /// A worker's processes are gone. Returns what has to come back still, by GPU.
    pub(crate) fn unload(&mut self, worker: WorkerId, comeback: Comeback) -> Vec<(usize, u64)> {
        let Some(used) = self.used.remove(&worker) else { return Vec::new() };
        if comeback == Comeback::AtOnce {
            return Vec::new();
        }
        let mut late = Vec::new();
        for (place, gpu) in self.gpus.iter_mut().enumerate() {
            let kept = used.vram_mb.get(&gpu.uuid).copied().unwrap_or(0);
            gpu.kept_mb += kept;
            if comeback == Comeback::Later && kept > 0 {
                late.push((place, kept));
            }
        }
        late
    }

    pub(crate) fn comes_back(&mut self, place: usize, mb: u64) {
        self.gpus[place].kept_mb = self.gpus[place].kept_mb.saturating_sub(mb);
    }

    /// Strangers come and go, GPUs fall ill, vanish and recover.
    pub(crate) fn change(&mut self, choices: &mut Choices) {
        self.ram_other_mb = choices.of(&[0, 2_000, 12_000, 40_000]);
        if self.gpus.is_empty() {
            return;
        }
        let place = choices.pick(self.gpus.len());
        let share = choices.of(&[0, 20, 50, 100]);
        let room = self.free_mb(&self.gpus[place]) + self.gpus[place].foreign_mb;
        let what = choices.pick(10);
        let gpu = &mut self.gpus[place];
        match what {
            8 => gpu.fault = choices.of(&[None, Some("XID 79".to_owned())]),
            9 => gpu.there = choices.one_in(2),
            _ => gpu.foreign_mb = room * share / 100,
        }
    }

    /// Everything is well again.
    pub(crate) fn heal(&mut self) {
        self.ram_other_mb = 0;
        for gpu in &mut self.gpus {
            (gpu.foreign_mb, gpu.kept_mb, gpu.fault, gpu.there) = (0, 0, None, true);
        }
    }

    pub(crate) fn uuids(&self) -> Vec<String> {
        self.gpus.iter().map(|gpu| gpu.uuid.clone()).collect()
    }

    /// What a look shows.
    pub(crate) fn reading(&self, taken_at: Time) -> HostReading {
        let device = |gpu: &Gpu| {
            let told = |mb: u64| if gpu.attributed { mb } else { 0 };
            DeviceReading {
                uuid: gpu.uuid.clone(),
                name: "NVIDIA A100".to_owned(),
                compute: "8.0".to_owned(),
                links: gpu.links.clone(),
                total_mb: gpu.total_mb,
                used_mb: self.used_mb(gpu),
                foreign_mb: told(gpu.foreign_mb),
                leftover_mb: told(gpu.kept_mb + DRIVER_MB),
                attributed: gpu.attributed,
                fault: gpu.fault.clone(),
            }
        };
        let told = |used: &WorkerUse| {
            let shown = |uuid: &String| self.gpus.iter().any(|gpu| gpu.uuid == *uuid && gpu.attributed);
            let vram_mb = used.vram_mb.iter().filter(|(uuid, _)| shown(uuid));
            WorkerUse {
                ram_mb: used.ram_mb,
                vram_mb: vram_mb.map(|(uuid, mb)| (uuid.clone(), *mb)).collect(),
            }
        };
        HostReading {
            taken_at,
            cpus: self.cpus,
            ram_mb: self.ram_mb,
            ram_other_mb: self.ram_other_mb,
            driver: "550.54".to_owned(),
            labels: BTreeMap::new(),
            devices: self.gpus.iter().filter(|gpu| gpu.there).map(device).collect(),
            workers: self.used.iter().map(|(worker, used)| (*worker, told(used))).collect(),
        }
    }
}
