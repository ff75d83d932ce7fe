//! What the host has, read by a thread of its own: NVML can hang, and the agent must outlive that.
//!
//! A host without NVML is normal and said once.

use crate::config::InventoryConfig;
use grange_protocol::resource::{Capacity, Gpu};
use nvml_wrapper::Nvml;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use sysinfo::System;
use tokio::sync::watch;

/// How often the host is looked at.
const EVERY: Duration = Duration::from_secs(2);
const MIB: u64 = 1024 * 1024;

/// The reading thread; it ends when this is dropped.
pub struct Inventory {
    /// The newest reading.
    pub capacity: watch::Receiver<Capacity>,
    _stop: Sender<()>,
}

/// Starts reading. The first reading of memory and cores is there at once; GPUs follow when NVML has answered.
pub fn start(config: &InventoryConfig) -> Inventory {
    let (stop, stopped) = channel::<()>();
    let mut host = Host { system: System::new().ok(), config: config.clone(), nvml: None };
    let (sender, capacity) = watch::channel(host.read());
    let spawned = std::thread::Builder::new().name("inventory".to_owned()).spawn(move || {
        host.nvml = open_nvml(&host.config);
        loop {
            if sender.send(host.read()).is_err() {
                return;
            }
            match stopped.recv_timeout(EVERY) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "the host's inventory is not refreshed");
    }
    Inventory { capacity, _stop: stop }
}

struct Host {
    system: Option<System>,
    config: InventoryConfig,
    nvml: Option<Nvml>,
}

impl Host {
    fn read(&mut self) -> Capacity {
        let (total, available) = match &mut self.system {
            None => (0, 0),
            Some(system) => {
                system.refresh_memory();
                (system.total_memory(), system.available_memory())
            }
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Capacity {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            ram_mb: total / MIB,
            ram_free_mb: available / MIB,
            gpus: self.nvml.as_ref().map(gpus).unwrap_or_default(),
            labels: self.config.labels.clone(),
        }
    }
}

fn open_nvml(config: &InventoryConfig) -> Option<Nvml> {
    let mut builder = Nvml::builder();
    if let Some(path) = &config.nvml_library {
        builder.lib_path(path.as_os_str());
    }
    match builder.init() {
        Ok(nvml) => Some(nvml),
        Err(error) => {
            tracing::info!(%error, "no NVML on this host: it is advertised without GPUs");
            None
        }
    }
}

/// Every GPU that answers; one that does not is left out and said.
fn gpus(nvml: &Nvml) -> Vec<Gpu> {
    let count = nvml.device_count().unwrap_or(0);
    (0..count)
        .filter_map(|index| match gpu(nvml, index) {
            Ok(gpu) => Some(gpu),
            Err(error) => {
                tracing::warn!(index, %error, "GPU does not answer");
                None
            }
        })
        .collect()
}

fn gpu(nvml: &Nvml, index: u32) -> Result<Gpu, nvml_wrapper::error::NvmlError> {
    let device = nvml.device_by_index(index)?;
    let memory = device.memory_info()?;
    Ok(Gpu {
        uuid: device.uuid()?,
        name: device.name()?,
        vram_mb: memory.total / MIB,
        vram_free_mb: memory.free.min(memory.total) / MIB,
        utilisation: device.utilization_rates().map_or(0, |rates| rates.gpu),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_nvml_is_normal() {
        let config = InventoryConfig {
            nvml_library: Some("/nonexistent/libnvidia-ml.so.1".into()),
            ..Default::default()
        };
        let inventory = start(&config);
        let capacity = inventory.capacity.borrow().clone();
        assert!(capacity.cpus >= 1 && capacity.ram_mb > 0 && capacity.gpus.is_empty());
    }
}
