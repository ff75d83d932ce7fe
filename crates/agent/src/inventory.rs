//! What the host has and who uses it, read by threads of its own: NVML can hang, and the agent must outlive that.
//!
//! Owns the looks at NVML, `/proc` and the kernel's memory figures, and which process belongs to which worker. Never
//! decides what becomes of what it saw. A host without NVML is normal and said once.

mod asker;
mod belonging;
mod devices;
mod kernel;
mod looker;
mod notices;
mod processes;
mod reader;
#[cfg(test)]
mod tests;
mod told;
mod wishes;
mod xid;

use crate::clock::boot_ms;
use crate::config::{Config, ReserveConfig};
use grange_dispatch::{HostReading, WorkerId};
use grange_protocol::capacity::Capacity;
use kernel::Figures;
use looker::Looker;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use wishes::{Wish, Wishes};

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
    /// How many calls of [`Inventory::retry`] came before it began.
    pub retries: u64,
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
    /// The looking thread cannot be started.
    #[error("the thread that looks at the host cannot be started: {0}")]
    NoThread(String),
}

/// The handle to the looking threads; they end when this is dropped.
pub struct Inventory {
    /// The newest look. Older ones are overwritten: faults stand until `retry`, so none is lost by that.
    pub looks: watch::Receiver<Arc<Look>>,
    wishes: Arc<Wishes>,
}

impl Inventory {
    /// Whose processes are whose: the supervisor's process id of every worker whose processes may still be there, and
    /// whether to look closely (every 250 ms instead of every 2 s), which is wanted while a worker with GPUs runs
    /// something or memory is expected back. Never blocks.
    pub fn watch(&self, supervisors: BTreeMap<WorkerId, u32>, closely: bool) {
        self.wishes.watch(supervisors, closely);
    }

    /// Wants a look that begins after this call. Several calls before it begins make one. Never blocks.
    pub fn look(&self) {
        self.wishes.look();
    }

    /// Gives a GPU that has a fault another try; None: every one. A look at once shows what came of it: give the
    /// dispatcher `Unquarantined` after this call, and looks with fewer `retries` than it answers no more. Never blocks.
    pub fn retry(&self, device: Option<&str>) -> u64 {
        self.wishes.retry(device)
    }
}

impl Drop for Inventory {
    fn drop(&mut self) {
        self.wishes.leave();
    }
}

/// Starts looking, and returns with the first look in which NVML has answered, at the latest after
/// `gpu.nvml_timeout_ms`. `began` is the boot time in milliseconds (`clock::boot_ms`) from which the dispatcher counts;
/// `host` is the host's own name.
pub async fn start(config: &Config, host: &str, began: u64) -> Result<Inventory, HostError> {
    let mut looker = Looker::new(config, host);
    check_reserve(config.reserve, looker.figures())?;
    let first = looker.first(boot_ms().saturating_sub(began));
    let (sender, mut looks) = watch::channel(Arc::new(first));
    let wishes = Arc::new(Wishes::new());
    let heard = wishes.clone();
    std::thread::Builder::new()
        .name("inventory".to_owned())
        .spawn(move || look_on(looker, &heard, &sender, began))
        .map_err(|error| HostError::NoThread(error.to_string()))?;
    // Without an answer the agent comes up all the same, and its GPUs follow.
    let patience = Duration::from_millis(config.gpu.nvml_timeout_ms);
    let _ = tokio::time::timeout(patience, looks.changed()).await;
    Ok(Inventory { looks, wishes })
}

fn look_on(mut looker: Looker, wishes: &Wishes, sender: &watch::Sender<Arc<Look>>, began: u64) {
    while let Some(Wish { supervisors, retry, retries }) = wishes.next() {
        if let Some(retry) = retry {
            for device in &retry {
                looker.retry(device.as_deref());
            }
            looker.reopen();
        }
        let mut look = looker.look(boot_ms().saturating_sub(began), &supervisors);
        look.retries = retries;
        if sender.send(Arc::new(look)).is_err() {
            return;
        }
    }
}

fn check_reserve(reserve: ReserveConfig, host: Figures) -> Result<(), HostError> {
    let fits = |key, reserved: u64, there: u64| {
        if reserved > there { Err(HostError::ReserveTooLarge { key, reserved, there }) } else { Ok(()) }
    };
    fits("ram_mb", reserve.ram_mb, host.ram_mb)?;
    fits("cpus", reserve.cpus.into(), host.cpus.into())
}
