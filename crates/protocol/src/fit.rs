//! Whether a request fits a host, on which of its GPUs, and if not, why: one function for the agent that places a
//! worker, for the submitter that asks whether anybody could, and for whoever asks why a job waits.
//!
//! Best fit by free memory; for several GPUs those that NVLinks join; a GPU that is shared already before an idle one.

use crate::resource::{ON_COMPUTE, ON_DRIVER, ON_GPU, ResourceRequest, numbers};
use std::collections::BTreeMap;
use std::fmt;

/// A GPU with what may be given of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// What `CUDA_VISIBLE_DEVICES` gets.
    pub uuid: String,
    /// The model.
    pub name: String,
    /// Compute capability; empty: not known.
    pub compute: String,
    /// Memory that may be given now, MiB; negative: more is promised than is there.
    pub free_mb: i64,
    /// Memory without the reserve, MiB: what could be given if nobody else used any.
    pub usable_mb: u64,
    /// Workers that have a part of it.
    pub shares: u32,
    /// One worker has it for itself.
    pub exclusive: bool,
    /// Nothing new is started on it, for this reason.
    pub quarantine: Option<String>,
    /// Devices that an NVLink joins it to.
    pub links: Vec<String>,
}

/// A host with what may be given of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// GPUs.
    pub devices: Vec<Device>,
    /// Host memory that may be given now, MiB.
    pub ram_mb: i64,
    /// Host memory that could be given if nobody else had any, MiB.
    pub ram_usable_mb: u64,
    /// Cores that may be given now.
    pub cpus: i64,
    /// Cores that could be given if nobody else had any.
    pub cpus_usable: u32,
    /// Version of the driver; empty: none.
    pub driver: String,
    /// What the host is: its labels, and `host`.
    pub labels: BTreeMap<String, String>,
}

/// What is needed, with the least that it may turn out to be: a lane's class says a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// What is asked for at most.
    pub request: ResourceRequest,
    /// It is more than this, where the amount is a class's step; a host whose whole lies between serves it with all.
    pub over: ResourceRequest,
}

impl From<ResourceRequest> for Need {
    fn from(request: ResourceRequest) -> Self {
        Self { over: request.clone(), request }
    }
}

/// What a worker gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Which devices, by their place in the room.
    pub devices: Vec<usize>,
    /// Memory on each, MiB.
    pub vram_mb: u64,
    /// Host memory, MiB.
    pub ram_mb: u64,
    /// Cores.
    pub cpus: u32,
}

/// Why a request does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The host is not what the constraint asks for.
    Constraint {
        /// Its key.
        key: String,
        /// What is asked for.
        wanted: String,
        /// What the host is.
        found: String,
    },
    /// Too few GPUs that could ever do.
    Gpus {
        /// How many are asked for.
        needed: u32,
        /// How many there are that could do.
        suitable: u32,
        /// How many there are.
        there: u32,
    },
    /// GPU memory.
    Vram {
        /// On each of so many GPUs.
        gpus: u32,
        /// What is asked for, MiB.
        needed_mb: u64,
        /// The most that may be given now on that many, MiB.
        free_mb: u64,
        /// The most that could be given on that many if nobody else had any, MiB.
        usable_mb: u64,
    },
    /// Enough memory, but others are on the GPUs that it wants for itself, or one has them for itself.
    Shared,
    /// GPUs are out of service.
    Quarantined {
        /// Which.
        uuid: String,
        /// Why.
        why: String,
    },
    /// Host memory.
    Ram {
        /// What is asked for, MiB.
        needed_mb: u64,
        /// What may be given now, MiB.
        free_mb: u64,
        /// What could be given if nobody else had any, MiB.
        usable_mb: u64,
    },
    /// Cores.
    Cpus {
        /// What is asked for.
        needed: u32,
        /// What may be given now.
        free: u32,
        /// What could be given if nobody else had any.
        usable: u32,
    },
}

impl Lack {
    /// Whether waiting cannot help: the host will never be what is asked for.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Constraint { .. } => true,
            Self::Gpus { .. } => true,
            Self::Vram { needed_mb, usable_mb, .. } => needed_mb > usable_mb,
            Self::Ram { needed_mb, usable_mb, .. } => needed_mb > usable_mb,
            Self::Cpus { needed, usable, .. } => needed > usable,
            Self::Shared | Self::Quarantined { .. } => false,
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constraint { key, wanted, found } if found.is_empty() => {
                write!(f, "needs {key}={wanted}, has no `{key}`")
            }
            Self::Constraint { key, wanted, found } => write!(f, "needs {key}={wanted}, has {key}={found}"),
            Self::Gpus { needed, there: 0, .. } => write!(f, "needs {needed} GPU(s), has none"),
            Self::Gpus { needed, suitable, there } => {
                write!(f, "needs {needed} GPU(s), {suitable} of its {there} could do")
            }
            Self::Vram { gpus, needed_mb, free_mb, usable_mb } => {
                let each = if *gpus > 1 { format!(" on each of {gpus} GPUs") } else { String::new() };
                if needed_mb > usable_mb {
                    write!(f, "needs {needed_mb} MiB of VRAM{each}, has {usable_mb} MiB at most")
                } else {
                    write!(f, "needs {needed_mb} MiB of VRAM{each}, {free_mb} MiB free")
                }
            }
            Self::Shared => f.write_str("needs a GPU for itself; others are on it"),
            Self::Quarantined { uuid, why } => write!(f, "GPU `{uuid}` is quarantined: {why}"),
            Self::Ram { needed_mb, free_mb, usable_mb } if needed_mb > usable_mb => {
                write!(f, "needs {needed_mb} MiB of memory, has {usable_mb} MiB at most ({free_mb} MiB free)")
            }
            Self::Ram { needed_mb, free_mb, .. } => {
                write!(f, "needs {needed_mb} MiB of memory, {free_mb} MiB free")
            }
            Self::Cpus { needed, usable, .. } if needed > usable => {
                write!(f, "needs {needed} cores, has {usable} at most")
            }
            Self::Cpus { needed, free, .. } => write!(f, "needs {needed} cores, {free} free"),
        }
    }
}

/// Where the request fits now.
pub fn place(need: &Need, room: &Room) -> Result<Placement, Lack> {
    find(need, room, Measure::Now)
}

/// Where the request would fit if no worker were there; quarantined GPUs count as whole ones.
pub fn place_when_empty(need: &Need, room: &Room) -> Result<Placement, Lack> {
    find(need, room, Measure::Empty)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Measure {
    Now,
    Empty,
}

fn find(need: &Need, room: &Room, measure: Measure) -> Result<Placement, Lack> {
    let request = &need.request;
    host_constraints(request, room)?;
    let now = measure == Measure::Now;
    let (ram_now, cpus_now) = (room.ram_mb, room.cpus);
    let ram_mb = fitting(request.ram_mb, need.over.ram_mb, room.ram_usable_mb);
    if ram_mb > room.ram_usable_mb || (now && as_signed(ram_mb) > ram_now && ram_mb > 0) {
        let free_mb = as_amount(ram_now);
        return Err(Lack::Ram { needed_mb: ram_mb, free_mb, usable_mb: room.ram_usable_mb });
    }
    let cpus_usable = u64::from(room.cpus_usable);
    let cpus = fitting(request.cpus.into(), need.over.cpus.into(), cpus_usable);
    if cpus > cpus_usable || (now && as_signed(cpus) > cpus_now && cpus > 0) {
        let free = u32::try_from(as_amount(cpus_now)).unwrap_or(u32::MAX);
        return Err(Lack::Cpus { needed: request.cpus, free, usable: room.cpus_usable });
    }
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    if request.gpus == 0 {
        return Ok(Placement { devices: Vec::new(), vram_mb: 0, ram_mb, cpus });
    }
    let (devices, vram_mb) = find_devices(need, room, measure)?;
    Ok(Placement { devices, vram_mb, ram_mb, cpus })
}

/// The amount that is needed of something that has `usable` in all.
fn fitting(upto: u64, over: u64, usable: u64) -> u64 {
    if upto > usable && usable > over { usable } else { upto }
}

fn as_signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn as_amount(signed: i64) -> u64 {
    u64::try_from(signed).unwrap_or(0)
}

fn host_constraints(request: &ResourceRequest, room: &Room) -> Result<(), Lack> {
    for (key, wanted) in &request.on {
        let found = match key.as_str() {
            ON_GPU | ON_COMPUTE => continue,
            ON_DRIVER => &room.driver,
            label => room.labels.get(label).map_or("", String::as_str),
        };
        let fits = if key == ON_DRIVER { at_least(found, wanted) } else { found == wanted };
        if !fits {
            let (key, wanted, found) = (key.clone(), wanted.clone(), found.to_owned());
            return Err(Lack::Constraint { key, wanted, found });
        }
    }
    Ok(())
}

/// A version that is `wanted` or higher. One that is not known is not.
fn at_least(found: &str, wanted: &str) -> bool {
    matches!((numbers(found), numbers(wanted)), (Some(found), Some(wanted)) if found >= wanted)
}

/// A model's name without what people leave out: `NVIDIA A100-SXM4-80GB` has `a100` and `a100-80gb`.
fn is_model(name: &str, wanted: &str) -> bool {
    let tidy = |text: &str| text.to_ascii_lowercase();
    let name = tidy(name);
    tidy(wanted)
        .split(['-', '_'])
        .all(|part| name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == part))
}

fn find_devices(need: &Need, room: &Room, measure: Measure) -> Result<(Vec<usize>, u64), Lack> {
    let request = &need.request;
    let count = request.gpus as usize;
    let suits = |device: &&Device| {
        let model = request.on.get(ON_GPU).is_none_or(|wanted| is_model(&device.name, wanted));
        let compute = request.on.get(ON_COMPUTE).is_none_or(|wanted| at_least(&device.compute, wanted));
        model && compute
    };
    let suitable: Vec<&Device> = room.devices.iter().filter(suits).collect();
    if suitable.len() < count {
        let as_count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (suitable, there) = (as_count(suitable.len()), as_count(room.devices.len()));
        return Err(Lack::Gpus { needed: request.gpus, suitable, there });
    }
    let needed = |device: &Device| match request.vram_mb {
        0 => device.usable_mb.max(1),
        upto => fitting(upto, need.over.vram_mb, device.usable_mb),
    };
    let has = |device: &Device| match measure {
        Measure::Empty => needed(device) <= device.usable_mb,
        Measure::Now => {
            let alone = device.shares == 0 && !device.exclusive;
            let open = if wants_all(request) { alone } else { !device.exclusive };
            device.quarantine.is_none() && open && as_signed(needed(device)) <= device.free_mb
        }
    };
    let candidates: Vec<usize> = (0..room.devices.len())
        .filter(|place| suits(&&room.devices[*place]) && has(&room.devices[*place]))
        .collect();
    if candidates.len() < count {
        return Err(lack_of_devices(request, &suitable, needed, has));
    }
    let chosen = choose(&candidates, count, room);
    let vram_mb = chosen.iter().map(|place| needed(&room.devices[*place])).min().unwrap_or(0);
    Ok((chosen, vram_mb))
}

/// A GPU whose need is not known is wanted whole.
fn wants_all(request: &ResourceRequest) -> bool {
    request.exclusive || request.vram_mb == 0
}

fn lack_of_devices(
    request: &ResourceRequest,
    suitable: &[&Device],
    needed: impl Fn(&Device) -> u64,
    has: impl Fn(&Device) -> bool,
) -> Lack {
    let count = request.gpus as usize;
    let missing = |device: &&&Device| !has(device);
    let nth = |mut amounts: Vec<u64>| {
        amounts.sort_unstable_by(|a, b| b.cmp(a));
        amounts.get(count - 1).copied().unwrap_or(0)
    };
    let free_mb = nth(suitable.iter().map(|device| as_amount(device.free_mb)).collect());
    let usable_mb = nth(suitable.iter().map(|device| device.usable_mb).collect());
    let most = suitable.iter().map(|device| needed(device)).min().unwrap_or(request.vram_mb);
    let needed_mb = request.vram_mb.min(most.max(1));
    let ill = suitable.iter().filter(missing).find_map(|device| Some((device, device.quarantine.clone()?)));
    match ill {
        Some((device, why)) if needed_mb <= usable_mb => Lack::Quarantined { uuid: device.uuid.clone(), why },
        _ if needed_mb > free_mb || needed_mb > usable_mb => {
            Lack::Vram { gpus: request.gpus, needed_mb, free_mb, usable_mb }
        }
        _ => Lack::Shared,
    }
}

/// The best of the candidates: most NVLinks among them, then the least free memory, then the first.
fn choose(candidates: &[usize], count: usize, room: &Room) -> Vec<usize> {
    let mut by_fit = candidates.to_vec();
    by_fit.sort_by_key(|place| (room.devices[*place].free_mb, *place));
    if count == 1 {
        return by_fit[..1].to_vec();
    }
    let joined = |a: usize, b: usize| room.devices[a].links.contains(&room.devices[b].uuid);
    let grow = |first: usize| {
        let mut set = vec![first];
        while set.len() < count {
            let links = |place: usize| set.iter().filter(|member| joined(place, **member)).count();
            let rest = by_fit.iter().filter(|place| !set.contains(place));
            // The first of the best: `by_fit` is in the order of preference.
            let best = rest.copied().rev().max_by_key(|place| links(*place));
            set.extend(best);
        }
        set
    };
    let links = |set: &[usize]| {
        let pairs = set.iter().enumerate().flat_map(|(i, a)| set[i + 1..].iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| joined(*a, *b)).count()
    };
    let mut best =
        by_fit.iter().map(|first| grow(*first)).rev().max_by_key(|set| links(set)).unwrap_or_default();
    best.sort_unstable();
    best
}

#[cfg(test)]
mod tests;
