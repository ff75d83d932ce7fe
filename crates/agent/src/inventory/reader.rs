//! Asks NVML about one GPU after the other. Every call may hang: this runs on a thread that can be abandoned.

use super::told::{Answer, Device, Trouble};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device as Handle, EventSet};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// NVLinks that a GPU may have.
const LINKS: u32 = 18;
/// How often it is asked where NVLinks end: they come up some time after the host.
const LINKS_EVERY: Duration = Duration::from_secs(60);
/// Most XID errors of one GPU that one round takes.
const XIDS: usize = 64;

/// What is kept of a GPU between rounds.
struct Kept<'n> {
    events: Option<EventSet<'n>>,
    bus: String,
    ends: Vec<String>,
    ends_read: Instant,
}

/// Asks, and keeps what need not be asked again.
pub(super) struct Reader<'n> {
    nvml: &'n Nvml,
    kept: BTreeMap<u32, Kept<'n>>,
}

impl<'n> Reader<'n> {
    pub(super) fn new(nvml: &'n Nvml) -> Self {
        Self { nvml, kept: BTreeMap::new() }
    }

    /// Everything about one GPU.
    pub(super) fn read(&mut self, index: u32) -> Answer {
        let devices = self.devices(index).map_err(|error| trouble(&error));
        // A GPU that is lost may say why here, and nowhere else.
        let xids = self.xids(index);
        Answer { index, devices, xids }
    }

    fn xids(&self, index: u32) -> Vec<Option<u64>> {
        let Some(events) = self.kept.get(&index).and_then(|kept| kept.events.as_ref()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        while found.len() < XIDS {
            match events.wait(0).map(|event| event.event_data) {
                Ok(Some(XidError::Value(code))) => found.push(Some(code)),
                Ok(Some(XidError::Unknown)) => found.push(None),
                Ok(None) => {}
                // A time-out is the usual end; what else is wrong shows when the GPU itself is asked.
                Err(_) => break,
            }
        }
        found
    }

    fn devices(&mut self, index: u32) -> Result<Vec<Device>, NvmlError> {
        let gpu = self.nvml.device_by_index(index)?;
        self.keep(index, &gpu);
        if gpu.mig_mode().is_ok_and(|mode| mode.current == 1) {
            return slices(&gpu);
        }
        let mut device = device(&gpu)?;
        if let Some(kept) = self.kept.get(&index) {
            device.bus.clone_from(&kept.bus);
            device.ends.clone_from(&kept.ends);
        }
        Ok(vec![device])
    }

    fn keep(&mut self, index: u32, gpu: &Handle<'n>) {
        if let Some(kept) = self.kept.get_mut(&index) {
            if kept.ends_read.elapsed() >= LINKS_EVERY {
                (kept.ends, kept.ends_read) = (ends(gpu), Instant::now());
            }
            return;
        }
        let events = listen(self.nvml, gpu);
        if let Err(error) = &events {
            tracing::warn!(index, %error, "the GPU's XID errors are not told");
        }
        let bus = gpu.pci_info().map(|pci| pci.bus_id.to_uppercase()).unwrap_or_default();
        let kept = Kept { events: events.ok(), bus, ends: ends(gpu), ends_read: Instant::now() };
        self.kept.insert(index, kept);
    }
}

fn trouble(error: &NvmlError) -> Trouble {
    match error {
        NvmlError::GpuLost | NvmlError::ResetRequired => Trouble::Lost(error.to_string()),
        other => Trouble::Failing(other.to_string()),
    }
}

/// Whether an error says that a driver, a model or the caller's rights do not allow a question.
fn is_not_told(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::NoPermission
    )
}

fn listen<'n>(nvml: &'n Nvml, gpu: &Handle<'n>) -> Result<EventSet<'n>, NvmlError> {
    if !gpu.supported_event_types()?.contains(EventTypes::CRITICAL_XID_ERROR) {
        return Err(NvmlError::NotSupported);
    }
    let set = nvml.create_event_set()?;
    gpu.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|error| error.error)
}

/// Where the GPU's NVLinks end.
fn ends(gpu: &Handle<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for link in 0..LINKS {
        let link = gpu.link_wrapper_for(link);
        match link.is_active() {
            Ok(true) => found.extend(link.remote_pci_info().map(|pci| pci.bus_id.to_uppercase())),
            Ok(false) => {}
            // A model without NVLinks, or with fewer.
            Err(_) => break,
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn slices(gpu: &Handle<'_>) -> Result<Vec<Device>, NvmlError> {
    let temperature_c = gpu.temperature(TemperatureSensor::Gpu).unwrap_or(0);
    let mut found = Vec::new();
    for slot in 0..gpu.mig_device_count()? {
        match gpu.mig_device_by_index(slot) {
            Ok(slice) => found.push(Device { mig: true, temperature_c, ..device(&slice)? }),
            // An empty slot.
            Err(NvmlError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn device(handle: &Handle<'_>) -> Result<Device, NvmlError> {
    // Memory and processes are not read at one moment. What is taken in between would be listed and not in use, and seem
    // to be the driver's own: so the larger figure of before and after counts.
    let before = handle.memory_info()?;
    let listed = listed(handle)?;
    let after = handle.memory_info()?;
    let memory = if after.used > before.used { after } else { before };
    let compute = handle.cuda_compute_capability();
    Ok(Device {
        uuid: handle.uuid()?,
        name: handle.name()?,
        compute: compute.map(|is| format!("{}.{}", is.major, is.minor)).unwrap_or_default(),
        mig: false,
        total: memory.total,
        free: memory.free,
        used: memory.used.saturating_add(memory.reserved),
        listed,
        utilisation: handle.utilization_rates().map_or(0, |rates| rates.gpu),
        temperature_c: handle.temperature(TemperatureSensor::Gpu).unwrap_or(0),
        bus: String::new(),
        ends: Vec::new(),
    })
}

/// What each process uses. One that computes and draws stands in two lists with one figure.
fn listed(handle: &Handle<'_>) -> Result<Option<Vec<(u32, u64)>>, NvmlError> {
    let Some(mut processes) = told(|| handle.running_compute_processes())? else { return Ok(None) };
    processes.extend(told(|| handle.running_graphics_processes())?.unwrap_or_default());
    processes.extend(told(|| handle.mps_running_compute_processes())?.unwrap_or_default());
    let mut sums = BTreeMap::new();
    for process in processes {
        let UsedGpuMemory::Used(bytes) = process.used_gpu_memory else { return Ok(None) };
        let sum = sums.entry(process.pid).or_insert(0);
        *sum = bytes.max(*sum);
    }
    Ok(Some(sums.into_iter().collect()))
}

fn told(
    ask: impl Fn() -> Result<Vec<ProcessInfo>, NvmlError>,
) -> Result<Option<Vec<ProcessInfo>>, NvmlError> {
    let mut answer = ask();
    for _ in 0..2 {
        // More processes came between the question how many there are and the question which.
        if matches!(answer, Err(NvmlError::InsufficientSize(_))) {
            answer = ask();
        }
    }
    match answer {
        Ok(processes) => Ok(Some(processes)),
        Err(error) if is_not_told(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
