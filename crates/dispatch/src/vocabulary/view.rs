//! What the dispatcher shows of itself, for heartbeats.

use super::{Grant, Time, WorkerId};
use grange_protocol::name::PluginName;
use grange_protocol::status::WorkerState;
use grange_protocol::subject::Queue;

/// A plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginView {
    /// Workers that are up or starting.
    pub workers: u32,
    /// Jobs given to workers.
    pub running: u32,
    /// Runs that fit at one time.
    pub slots: u32,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Which.
    pub worker: WorkerId,
    /// Its plugin.
    pub plugin: PluginName,
    /// What it is doing.
    pub state: WorkerState,
    /// What was given to it.
    pub grant: Grant,
    /// Runs going on.
    pub running: u32,
    /// Since when it has had nothing to do.
    pub idle_since: Option<Time>,
}

/// A GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceView {
    /// Its identity.
    pub uuid: String,
    /// Memory that others use, beside what the driver keeps, MiB.
    pub foreign_mb: u64,
    /// Memory given to workers, MiB.
    pub granted_mb: u64,
    /// Memory that a new worker could be given now, MiB.
    pub grantable_mb: u64,
    /// Memory without the reserve and without what the driver keeps, MiB.
    pub usable_mb: u64,
    /// Workers that have a part of it.
    pub shares: u32,
    /// One worker has it for itself.
    pub exclusive: bool,
    /// Why nothing new is started on it.
    pub quarantine: Option<String>,
}

/// The host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// Its GPUs, in the order of the readings.
    pub devices: Vec<DeviceView>,
    /// Host memory that a new worker could be given now, MiB.
    pub ram_grantable_mb: u64,
    /// Host memory without the reserve, MiB.
    pub ram_usable_mb: u64,
    /// Cores that a new worker could be given now.
    pub cpus_grantable: u32,
    /// Cores without the reserve.
    pub cpus_usable: u32,
}

/// What room is saved up for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavingView {
    /// For which queue.
    pub queue: Queue,
    /// Which GPUs.
    pub gpus: Vec<String>,
    /// Until when.
    pub until: Time,
}
