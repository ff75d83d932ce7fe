//! What a heartbeat says of a host's workers: who has a place, who could leave, and what would be free then.

use super::Idle;
use crate::fit::{Device, Lack, Need, Room, place};
use crate::resource::ResourceRequest;
use crate::status::{AgentStatus, PluginStatus, WorkerState, WorkerStatus};

/// The places that a plugin's workers have for a need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// A loaded worker can take a run.
    pub(super) free_now: bool,
    /// One that loads will be able to.
    pub(super) starting: bool,
    /// There are as many workers as there may be, and none could make way for another.
    pub(super) all_there: bool,
}

impl Places {
    pub(super) fn of(plugin: &PluginStatus, need: Option<&Need>, host: &AgentStatus) -> Self {
        let own = || host.workers.iter().filter(|worker| worker.plugin == plugin.name);
        let serves = |worker: &&WorkerStatus| need.is_none_or(|need| serves(worker, need, host));
        let has_place = |worker: &&WorkerStatus| match worker.state {
            WorkerState::Idle => true,
            WorkerState::Busy => worker.running < worker.slots,
            WorkerState::Waiting | WorkerState::Starting | WorkerState::Ending | WorkerState::Returning => {
                false
            }
        };
        let loading = |worker: &&WorkerStatus| match worker.state {
            WorkerState::Waiting | WorkerState::Starting => {
                worker.slots == 0 || worker.running < worker.slots
            }
            WorkerState::Idle | WorkerState::Busy | WorkerState::Ending | WorkerState::Returning => false,
        };
        let each = own().map(|worker| worker.slots).max().unwrap_or(0);
        let most = if each == 0 { u32::MAX } else { plugin.slots.div_ceil(each) };
        let stays = |worker: &&WorkerStatus| match worker.state {
            WorkerState::Idle => serves(worker),
            WorkerState::Waiting | WorkerState::Starting | WorkerState::Busy | WorkerState::Ending => true,
            WorkerState::Returning => false,
        };
        let staying = u32::try_from(own().filter(stays).count()).unwrap_or(u32::MAX);
        Self {
            free_now: own().filter(serves).any(|worker| has_place(&worker)),
            starting: own().filter(serves).any(|worker| loading(&worker)),
            all_there: plugin.slots > 0 && staying >= most,
        }
    }
}

/// Whether what a worker was given covers a need.
fn serves(worker: &WorkerStatus, need: &Need, host: &AgentStatus) -> bool {
    if need.request.is_empty() {
        return true;
    }
    let room = host.room();
    let devices = room.devices.into_iter().filter(|device| worker.gpus.contains(&device.uuid));
    let devices = devices.map(|device| Device {
        free_mb: signed(worker.vram_mb),
        usable_mb: worker.vram_mb,
        shares: u32::from(!worker.exclusive),
        exclusive: false,
        quarantine: None,
        ..device
    });
    let held = Room {
        devices: devices.collect(),
        ram_mb: signed(worker.ram_mb),
        ram_usable_mb: worker.ram_mb,
        cpus: worker.cpus.into(),
        cpus_usable: worker.cpus,
        ..room
    };
    held.devices.len() == need.request.gpus as usize && place(need, &held).is_ok()
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// Idle workers that could leave for a new one, the longest idle first.
pub(super) fn evictable<'a>(
    plugin: &PluginStatus,
    need: &Need,
    host: &'a AgentStatus,
) -> Vec<&'a WorkerStatus> {
    let idle = host.workers.iter().filter(|worker| worker.state == WorkerState::Idle);
    let mut idle: Vec<&WorkerStatus> =
        idle.filter(|worker| worker.plugin != plugin.name || !serves(worker, need, host)).collect();
    idle.sort_by_key(|worker| std::cmp::Reverse(worker.idle_ms));
    idle
}

/// The room when these have left.
pub(super) fn without(leaving: &[&WorkerStatus], host: &AgentStatus) -> Room {
    let mut room = host.room();
    for (device, gpu) in room.devices.iter_mut().zip(&host.capacity.gpus) {
        let on_it = leaving.iter().filter(|worker| worker.gpus.contains(&device.uuid));
        let (mut count, mut freed) = (0, 0);
        for worker in on_it {
            // A worker that uses more than it was given takes that; which of several GPUs it is on is not said.
            let used = if worker.gpus.len() == 1 { worker.vram_used_mb } else { 0 };
            (count, freed) = (count + 1, freed + worker.vram_mb.max(used));
            device.exclusive &= !worker.exclusive;
        }
        device.shares = device.shares.saturating_sub(count);
        // What may be given of a GPU that one has for itself is not said.
        device.free_mb = match (device.shares, count) {
            (_, 0) => device.free_mb,
            (0, _) => signed(gpu.usable_mb.saturating_sub(gpu.foreign_mb)),
            _ => device.free_mb.saturating_add(signed(freed)).min(signed(gpu.usable_mb)),
        };
    }
    let ram: u64 = leaving.iter().map(|worker| worker.ram_mb).sum();
    room.ram_mb = room.ram_mb.saturating_add(signed(ram)).min(signed(room.ram_usable_mb));
    let cpus: u64 = leaving.iter().map(|worker| u64::from(worker.cpus)).sum();
    room.cpus = room.cpus.saturating_add(signed(cpus)).min(room.cpus_usable.into());
    room
}

/// Who of the idle holds some of what is short.
pub(super) fn holders(lack: &Lack, idle: &[&WorkerStatus]) -> Vec<Idle> {
    let amount = |worker: &WorkerStatus| match lack {
        Lack::Vram { .. } | Lack::Shared if !worker.gpus.is_empty() => {
            worker.vram_mb.max(worker.vram_used_mb)
        }
        Lack::Ram { .. } => worker.ram_mb,
        Lack::Cpus { .. } => worker.cpus.into(),
        Lack::Vram { .. }
        | Lack::Shared
        | Lack::Constraint { .. }
        | Lack::Gpus { .. }
        | Lack::Quarantined { .. } => 0,
    };
    let held = idle.iter().map(|worker| Idle { plugin: worker.plugin.clone(), amount: amount(worker) });
    held.filter(|idle| idle.amount > 0).collect()
}

/// The need without what a host does not say of itself, and what that is.
pub(super) fn only_known(need: &Need, host: &AgentStatus) -> (Need, Option<&'static str>) {
    let (capacity, mut need) = (&host.capacity, need.clone());
    let mut unknown = None;
    if capacity.ram_mb == 0 && need.request.ram_mb > 0 {
        (need.request.ram_mb, need.over.ram_mb) = (0, 0);
        unknown = Some("memory");
    }
    if capacity.cpus == 0 && need.request.cpus > 0 {
        (need.request.cpus, need.over.cpus) = (0, 0);
        unknown = Some("cores");
    }
    // A GPU without any figure: nobody could look at it.
    let is_blank = |gpu: &crate::capacity::Gpu| gpu.vram_mb == 0 && gpu.usable_mb == 0;
    if need.request.gpus > 0 && !capacity.gpus.is_empty() && capacity.gpus.iter().all(is_blank) {
        (need.request, need.over) = (without_gpus(need.request), without_gpus(need.over));
        unknown = Some("GPU memory");
    }
    (need, unknown)
}

fn without_gpus(request: ResourceRequest) -> ResourceRequest {
    let mut on = request.on;
    on.retain(|key, _| key != crate::resource::ON_GPU && key != crate::resource::ON_COMPUTE);
    ResourceRequest { gpus: 0, vram_mb: 0, exclusive: false, on, ..request }
}

/// A request in words.
pub(super) fn words(request: &ResourceRequest) -> String {
    let mut parts = Vec::new();
    if request.gpus > 0 {
        let alone = if request.exclusive { " for itself" } else { "" };
        let many = if request.gpus == 1 { "1 GPU".to_owned() } else { format!("{} GPUs", request.gpus) };
        let memory = match (request.vram_mb, request.gpus) {
            (0, _) => String::new(),
            (mb, 1) => format!(" with {mb} MiB of VRAM"),
            (mb, _) => format!(" with {mb} MiB of VRAM each"),
        };
        parts.push(format!("{many}{alone}{memory}"));
    }
    if request.ram_mb > 0 {
        parts.push(format!("{} MiB of memory", request.ram_mb));
    }
    if request.cpus > 0 {
        parts.push(format!("{} cores", request.cpus));
    }
    parts.extend(request.on.iter().map(|(key, value)| format!("{key}={value}")));
    parts.join(", ")
}
