//! What an onlooker knows of the host: the newest reading, what is out of service, and sums of his own.

use super::farm::VRAM_MB;
use grange_dispatch::{Config, DeviceReading, Grant, HostReading, Time, WorkerUse};
use grange_protocol::fit::{Device, Need, Room};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub(crate) struct Gpu {
    pub(crate) reading: DeviceReading,
    pub(crate) quarantined: bool,
    /// An operator wants another try, and nothing was read since.
    retried: bool,
    /// It was missing at that try.
    pub(crate) forgotten: bool,
    /// The least that nobody seemed to use: what the driver keeps.
    pub(crate) baseline_mb: u64,
    /// What others use, the driver included.
    pub(crate) others_mb: u64,
}

/// What somebody holds of the host, and what he is seen to use.
pub(crate) type Held<'a> = (&'a Grant, &'a WorkerUse);

#[derive(Clone, Debug)]
pub(crate) struct Estate {
    config: Config,
    pub(crate) gpus: BTreeMap<String, Gpu>,
    pub(crate) taken_at: Time,
    cpus: u32,
    ram_mb: u64,
    ram_other_mb: u64,
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap()
}

/// The larger of what was given of a GPU and what is used of it.
fn taken_mb((grant, used): Held<'_>, uuid: &str) -> u64 {
    let granted = if grant.devices.iter().any(|device| device == uuid) { grant.vram_mb } else { 0 };
    granted.max(used.vram_mb.get(uuid).copied().unwrap_or(0))
}

impl Estate {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, gpus: BTreeMap::new(), taken_at: 0, cpus: 0, ram_mb: 0, ram_other_mb: 0 }
    }

    /// Takes a reading in. Returns the GPUs that fell ill with it.
    pub(crate) fn read(&mut self, reading: &HostReading, held: &[Held<'_>]) -> Vec<String> {
        self.taken_at = reading.taken_at;
        (self.cpus, self.ram_mb, self.ram_other_mb) = (reading.cpus, reading.ram_mb, reading.ram_other_mb);
        for device in &reading.devices {
            let known = self.gpus.entry(device.uuid.clone()).or_insert_with(|| Gpu {
                reading: device.clone(),
                quarantined: device.fault.is_some(),
                retried: false,
                forgotten: false,
                baseline_mb: u64::MAX,
                others_mb: device.used_mb,
            });
            known.reading = device.clone();
            if std::mem::take(&mut known.forgotten) {
                known.quarantined = false;
            }
            let unused_mb = if device.attributed { device.leftover_mb } else { device.used_mb };
            known.baseline_mb = known.baseline_mb.min(unused_mb);
            known.others_mb = if device.attributed {
                device.foreign_mb + device.leftover_mb
            } else {
                // Nobody tells: what was others' still is, unless less is used; what exceeds all grants is too.
                let taken: u64 = held.iter().map(|held| taken_mb(*held, &device.uuid)).sum();
                device.used_mb.saturating_sub(taken).max(known.others_mb.min(device.used_mb))
            };
        }
        let well =
            |uuid: &str| reading.devices.iter().any(|device| device.uuid == uuid && device.fault.is_none());
        for (uuid, gpu) in &mut self.gpus {
            if gpu.retried && !reading.devices.iter().any(|device| device.uuid == *uuid) {
                gpu.forgotten = true;
                gpu.reading = DeviceReading { uuid: uuid.clone(), ..DeviceReading::default() };
            }
            gpu.retried = false;
        }
        let mut ill = Vec::new();
        for (uuid, gpu) in self.gpus.iter_mut().filter(|(uuid, _)| !well(uuid)) {
            if !std::mem::replace(&mut gpu.quarantined, true) {
                ill.push(uuid.clone());
            }
        }
        ill
    }

    pub(crate) fn unquarantine(&mut self, uuid: Option<&String>) {
        let meant = |known: &String, gpu: &Gpu| uuid.is_none_or(|uuid| uuid == known) && !gpu.forgotten;
        for (_, gpu) in self.gpus.iter_mut().filter(|(known, gpu)| meant(known, gpu)) {
            (gpu.quarantined, gpu.retried) = (false, true);
            gpu.baseline_mb = gpu.baseline_mb.max(gpu.reading.leftover_mb);
        }
    }

    /// GPUs of a grant on which memory is missing still.
    pub(crate) fn missing(&self, grant: &Grant) -> Vec<String> {
        let missing = |uuid: &&String| {
            self.gpus.get(*uuid).is_some_and(|gpu| {
                let kept = gpu.reading.leftover_mb.saturating_sub(gpu.baseline_mb);
                gpu.reading.attributed && kept > self.config.vram_slack_mb && !gpu.quarantined
            })
        };
        grant.devices.iter().filter(missing).cloned().collect()
    }

    /// What nobody uses any more on these GPUs counts as free.
    pub(crate) fn bring_back(&self, uuids: &BTreeSet<&String>, room: &mut Room) {
        for device in room.devices.iter_mut().filter(|device| uuids.contains(&device.uuid)) {
            let gpu = &self.gpus[&device.uuid];
            device.free_mb += signed(gpu.reading.leftover_mb.saturating_sub(gpu.baseline_mb));
        }
    }

    pub(crate) fn usable_mb(&self, uuid: &str) -> u64 {
        let usable =
            |gpu: &Gpu| gpu.reading.total_mb.checked_sub(self.config.reserve.vram_mb + gpu.baseline_mb);
        self.gpus.get(uuid).and_then(usable).unwrap_or(0)
    }

    /// What may be given beside all these.
    pub(crate) fn room(&self, held: &[Held<'_>]) -> Room {
        let device = |(uuid, gpu): (&String, &Gpu)| {
            let here: Vec<&Grant> =
                held.iter().map(|(grant, _)| *grant).filter(|grant| grant.devices.contains(uuid)).collect();
            let taken: u64 = held.iter().map(|held| taken_mb(*held, uuid)).sum();
            Device {
                uuid: uuid.clone(),
                name: gpu.reading.name.clone(),
                compute: gpu.reading.compute.clone(),
                free_mb: signed(self.usable_mb(uuid))
                    - signed(gpu.others_mb - gpu.baseline_mb)
                    - signed(taken),
                usable_mb: self.usable_mb(uuid),
                shares: u32::try_from(here.len()).unwrap(),
                exclusive: here.iter().any(|grant| grant.exclusive),
                quarantine: gpu.quarantined.then(String::new),
                links: Vec::new(),
            }
        };
        let ram_usable_mb = self.ram_mb.saturating_sub(self.config.reserve.ram_mb);
        let cpus_usable = self.cpus.saturating_sub(self.config.reserve.cpus);
        let ram: u64 = held.iter().map(|(grant, used)| grant.ram_mb.max(used.ram_mb)).sum();
        let cpus: i64 = held.iter().map(|(grant, _)| i64::from(grant.cpus)).sum();
        Room {
            devices: self.gpus.iter().map(device).collect(),
            ram_mb: signed(ram_usable_mb) - signed(self.ram_other_mb) - signed(ram),
            ram_usable_mb,
            cpus: i64::from(cpus_usable) - cpus,
            cpus_usable,
            ..Room::default()
        }
    }
}

/// Whether all of its GPUs is given with this: no plugin and no class here asks for just so much.
pub(crate) fn is_whole(grant: &Grant) -> bool {
    grant.vram_mb > 0 && !VRAM_MB.contains(&grant.vram_mb)
}

/// Whether a worker with this grant can run what needs this; None: what needs nothing certain.
pub(crate) fn covers(grant: &Grant, need: Option<&Need>) -> bool {
    let Some(Need { request, over }) = need else { return true };
    let whole = is_whole(grant);
    let vram = match request.vram_mb {
        0 => request.gpus == 0 || (grant.exclusive && whole),
        upto => upto <= grant.vram_mb || (whole && grant.vram_mb > over.vram_mb),
    };
    let alone = grant.exclusive || !request.exclusive;
    // A worker that nothing was checked for has GPUs, and no memory of them.
    let checked = grant.devices.is_empty() || grant.vram_mb > 0;
    let gpus = grant.devices.len() == request.gpus as usize;
    checked && gpus && vram && alone && request.ram_mb <= grant.ram_mb && request.cpus <= grant.cpus
}
