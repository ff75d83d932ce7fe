//! One look after the other: who belongs to whom, what NVML and the kernel say, put together.

use super::Look;
use super::asker::Asker;
use super::belonging::{Forest, Ours, Split, owner, split};
use super::devices::{Devices, Known, peers};
use super::kernel::{Figures, Kernel};
use super::notices::Notices;
use super::processes::{look_up, walk};
use super::told::{Device, Library};
use crate::config::{Config, FixedGpu};
use grange_dispatch::{DeviceReading, HostReading, Time, WorkerId, WorkerUse};
use grange_protocol::capacity::{Capacity, Gpu};
use grange_protocol::resource::ON_HOST;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Everything that looks need of each other.
pub(super) struct Looker {
    kernel: Kernel,
    asker: Option<Asker>,
    devices: Devices,
    ours: Ours,
    notices: Notices,
    labels: BTreeMap<String, String>,
    host: String,
    fixed: Vec<FixedGpu>,
    driver: String,
    is_absence_said: bool,
    hang: String,
    per_process: bool,
    reserve_mb: u64,
    /// Processes that NVML listed last time and `/proc` did not.
    invisible: BTreeSet<u32>,
}

/// One device with who uses it.
struct Used<'d> {
    device: &'d Device,
    fault: Option<String>,
    used_mb: u64,
    split: Option<Split>,
}

impl Looker {
    /// Nothing is looked at yet.
    pub(super) fn new(config: &Config, host: &str) -> Self {
        let patience = Duration::from_millis(config.gpu.nvml_timeout_ms);
        let asker = config.inventory.gpu.is_empty();
        Self {
            kernel: Kernel::new(&config.inventory),
            asker: asker.then(|| Asker::new(config.inventory.nvml_library.clone(), patience)),
            devices: Devices::default(),
            ours: Ours::default(),
            notices: Notices::default(),
            labels: config.inventory.labels.clone(),
            host: host.to_owned(),
            fixed: config.inventory.gpu.clone(),
            driver: String::new(),
            is_absence_said: false,
            hang: format!(
                "NVML does not answer within {} ms when it is asked about it",
                config.gpu.nvml_timeout_ms
            ),
            per_process: config.gpu.per_process,
            reserve_mb: config.reserve.vram_mb,
            invisible: BTreeSet::new(),
        }
    }

    /// What the kernel says now.
    pub(super) fn figures(&mut self) -> Figures {
        self.kernel.figures()
    }

    /// Gives a GPU another try; None: every one.
    pub(super) fn retry(&mut self, uuid: Option<&str>) {
        self.devices.retry(uuid);
    }

    /// Lets the next look open NVML anew.
    pub(super) fn reopen(&mut self) {
        if let Some(asker) = &mut self.asker {
            asker.reopen();
        }
    }

    /// Looks at the host without its GPUs: that cannot hang.
    pub(super) fn first(&mut self, taken_at: Time) -> Look {
        let figures = self.figures();
        self.compose(taken_at, figures, &Forest::default(), &BTreeMap::new())
    }

    /// Looks at everything. A call that hangs costs as long as it is waited for.
    pub(super) fn look(&mut self, taken_at: Time, supervisors: &BTreeMap<WorkerId, u32>) -> Look {
        let figures = self.figures();
        let forest =
            if supervisors.is_empty() { Forest::default() } else { Forest::grow(&walk(), supervisors) };
        self.ours.note(&forest, taken_at);
        if let Some(asker) = &mut self.asker {
            let round = asker.ask(self.devices.hung());
            self.devices.take(&round, &self.hang, &mut self.notices);
            self.driver.clone_from(&round.driver);
            self.say_library(&round.library);
        }
        self.compose(taken_at, figures, &forest, supervisors)
    }

    fn say_library(&mut self, library: &Library) {
        match library {
            Library::Asked => self.notices.take_back("nvml"),
            Library::Absent(why) => {
                if !self.is_absence_said {
                    tracing::info!(why, "no NVML on this host: it is advertised without GPUs");
                }
                self.is_absence_said = true;
            }
            Library::Failing(why) => self.notices.say("nvml", format!("NVML failed: {why}")),
            Library::Off(why) => self.notices.say("nvml", why.clone()),
        }
    }

    fn compose(
        &mut self,
        taken_at: Time,
        figures: Figures,
        forest: &Forest,
        supervisors: &BTreeMap<WorkerId, u32>,
    ) -> Look {
        let fixed: Vec<Device> = self.fixed.iter().map(fixed_device).collect();
        let mut used: Vec<Used<'_>> =
            self.devices.all().iter().map(|known| self.used(known, forest)).collect();
        used.extend(fixed.iter().map(|device| Used { device, fault: None, used_mb: 0, split: None }));
        let mut links = peers(&used.iter().map(|used| used.device).collect::<Vec<_>>());
        for (links, fixed) in links.iter_mut().zip(&self.fixed) {
            links.clone_from(&fixed.links);
        }
        let workers: BTreeMap<WorkerId, WorkerUse> =
            supervisors.keys().map(|worker| (*worker, worker_use(*worker, forest, &used))).collect();
        let ram_ours = workers.values().fold(0_u64, |sum, worker| sum.saturating_add(worker.ram_mb));
        let (devices, gpus): (Vec<_>, Vec<_>) =
            used.into_iter().zip(links).map(|(used, links)| advertise(&used, links)).unzip();
        self.say_reserve(&devices);
        self.say_invisible();
        let mut labels = self.labels.clone();
        labels.insert(ON_HOST.to_owned(), self.host.clone());
        let in_use = figures.ram_mb - figures.available_mb;
        Look {
            reading: HostReading {
                taken_at,
                cpus: figures.cpus,
                ram_mb: figures.ram_mb,
                ram_other_mb: in_use.saturating_sub(ram_ours),
                driver: self.driver.clone(),
                labels,
                devices,
                workers,
            },
            capacity: Capacity {
                cpus: figures.cpus,
                ram_mb: figures.ram_mb,
                ram_free_mb: figures.available_mb,
                gpus,
                driver: self.driver.clone(),
                labels: self.labels.clone(),
                ..Capacity::default()
            },
            notices: self.notices.texts(),
            ..Look::default()
        }
    }

    fn used<'d>(&self, known: &'d Known, forest: &Forest) -> Used<'d> {
        let device = &known.device;
        let used_mb = device.used.div_ceil(MIB).min(device.total / MIB);
        let whose = |pid: u32| owner(pid, forest, &self.ours, &look_up);
        let listed = device.listed.as_ref().filter(|_| self.per_process);
        let split = listed.map(|listed| split(used_mb, listed, whose));
        Used { device, fault: known.fault.clone(), used_mb, split }
    }

    fn say_reserve(&mut self, devices: &[DeviceReading]) {
        for device in devices.iter().filter(|device| device.total_mb <= self.reserve_mb) {
            let text = format!(
                "nothing of GPU `{}` can be given: `reserve.vram_mb` is {} and it has {} MiB",
                device.uuid, self.reserve_mb, device.total_mb,
            );
            self.notices.say(&format!("reserve {}", device.uuid), text);
        }
    }

    /// Processes that are listed twice in a row and cannot be seen mean that the agent has a pid namespace of its own.
    fn say_invisible(&mut self) {
        if !self.per_process {
            return;
        }
        let listed = self.devices.all().iter().flat_map(|known| known.device.listed.iter().flatten());
        let invisible: BTreeSet<u32> =
            listed.map(|(pid, _)| *pid).filter(|pid| look_up(*pid).is_none()).collect();
        if let Some(pid) = invisible.intersection(&self.invisible).next() {
            let text = format!(
                "NVML lists processes that cannot be seen from here, such as {pid}; they count as others'. In a \
                 container, share the host's process ids, or say `gpu.per_process = false`",
            );
            if !self.notices.is_said("invisible") {
                self.notices.say("invisible", text);
            }
        }
        self.invisible = invisible;
    }
}

fn fixed_device(fixed: &FixedGpu) -> Device {
    Device {
        uuid: fixed.uuid.clone(),
        name: fixed.name.clone(),
        compute: fixed.compute.clone(),
        total: fixed.vram_mb.saturating_mul(MIB),
        free: fixed.vram_mb.saturating_mul(MIB),
        ..Device::default()
    }
}

fn worker_use(worker: WorkerId, forest: &Forest, used: &[Used<'_>]) -> WorkerUse {
    let on = |used: &Used<'_>| {
        let mb = used.split.as_ref()?.workers.get(&worker)?;
        Some((used.device.uuid.clone(), *mb))
    };
    WorkerUse { ram_mb: forest.ram_mb(worker), vram_mb: used.iter().filter_map(on).collect() }
}

/// A device for the dispatcher, and for the heartbeat.
fn advertise(used: &Used<'_>, links: Vec<String>) -> (DeviceReading, Gpu) {
    let Used { device, fault, used_mb, split } = used;
    let total_mb = device.total / MIB;
    let (foreign_mb, leftover_mb) =
        split.as_ref().map_or((0, 0), |split| (split.foreign_mb, split.leftover_mb));
    let reading = DeviceReading {
        uuid: device.uuid.clone(),
        name: device.name.clone(),
        compute: device.compute.clone(),
        links: links.clone(),
        total_mb,
        used_mb: *used_mb,
        foreign_mb,
        leftover_mb,
        attributed: split.is_some(),
        fault: fault.clone(),
    };
    let gpu = Gpu {
        uuid: device.uuid.clone(),
        name: device.name.clone(),
        vram_mb: total_mb,
        vram_free_mb: total_mb - used_mb,
        utilisation: device.utilisation,
        temperature_c: device.temperature_c,
        compute: device.compute.clone(),
        mig: device.mig,
        links,
        foreign_mb,
        quarantine: fault.clone(),
        ..Gpu::default()
    };
    (reading, gpu)
}
