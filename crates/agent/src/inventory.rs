//! What the host has and who uses it, read by threads of its own: NVML can hang, and the agent must outlive that.
//!
//! Owns the looks at NVML, `/proc` and the kernel's memory figures, and which process belongs to which worker. Never
//! decides what becomes of what it saw. A host without NVML is normal and said once.

use crate::config::Config;
use grange_dispatch::{HostReading, WorkerId};
use grange_protocol::capacity::Capacity;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// One look at the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What the dispatcher decides by.
    pub reading: HostReading,
    /// What a heartbeat says. What was granted and what may be granted is not known here: the house fills that in.
    /// `gpus` stand in the order of `reading.devices`.
    pub capacity: Capacity,
    /// What an operator has to know, oldest first; each is said once in the log.
    pub notices: Vec<String>,
}

/// Why this host cannot be used with this configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostError {
    /// More is kept back than is there.
    #[error("`reserve.{key}` is {reserved}, but this host has {there}; keep less back")]
    ReserveTooLarge {
        /// `ram_mb` or `cpus`.
        key: &'static str,
        /// What is kept back.
        reserved: u64,
        /// What is there.
        there: u64,
    },
}

/// The handle to the looking threads; they end when this is dropped.
pub struct Inventory {
    /// The newest look. Older ones are overwritten: faults stand until `retry`, so none is lost by that.
    pub looks: watch::Receiver<Arc<Look>>,
}

impl Inventory {
    /// Whose processes are whose: the supervisor's process id of every worker whose processes may still be there, and
    /// whether to look closely (every 250 ms instead of every 2 s), which is wanted while a worker with GPUs runs
    /// something or memory is expected back. Never blocks.
    pub fn watch(&self, _supervisors: BTreeMap<WorkerId, u32>, _closely: bool) {}

    /// Wants a look that begins after this call. Several calls before it begins make one. Never blocks.
    pub fn look(&self) {}

    /// Gives a GPU that has a fault another try; None: every one. The next look shows what came of it: give the
    /// dispatcher `Unquarantined` after this call, and looks whose `taken_at` is earlier no more. Never blocks.
    pub fn retry(&self, _device: Option<&str>) {}
}

/// Starts looking, and returns with the first look in which NVML has answered, at the latest after
/// `gpu.nvml_timeout_ms`. `began` is the boot time in milliseconds (`clock::boot_ms`) from which the dispatcher counts;
/// `host` is the host's own name.
pub async fn start(_config: &Config, _host: &str, _began: u64) -> Result<Inventory, HostError> {
    let (_, looks) = watch::channel(Arc::default());
    tokio::task::yield_now().await;
    Ok(Inventory { looks })
}
