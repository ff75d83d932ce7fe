//! What the dispatcher shows of itself.

use super::Dispatcher;
use crate::vocabulary::{DeviceView, HostView, PluginView, SavingView, WorkerView};
use crate::workers::Stage;
use grange_protocol::name::PluginName;
use grange_protocol::status::WorkerState;

fn amount(signed: i64) -> u64 {
    u64::try_from(signed).unwrap_or(0)
}

impl Dispatcher {
    /// What a heartbeat says of a plugin.
    pub fn view(&self, plugin: &PluginName) -> PluginView {
        let live = || self.workers.live(plugin);
        PluginView {
            workers: u32::try_from(live().count()).unwrap_or(u32::MAX),
            running: u32::try_from(live().map(|(_, w)| w.given.len()).sum::<usize>()).unwrap_or(u32::MAX),
            slots: self
                .plugins
                .get(plugin)
                .map_or(0, |p| p.spec.concurrency.saturating_mul(p.spec.max_workers)),
        }
    }

    /// Every worker, in the order of their names.
    pub fn workers(&self) -> Vec<WorkerView> {
        let view = |(worker, entry): (_, &crate::workers::Worker)| WorkerView {
            worker,
            plugin: entry.plugin.clone(),
            state: match entry.stage {
                Stage::Waiting => WorkerState::Waiting,
                Stage::Starting => WorkerState::Starting,
                Stage::Ready if entry.given.is_empty() => WorkerState::Idle,
                Stage::Ready => WorkerState::Busy,
                Stage::Ending => WorkerState::Ending,
                Stage::Returning(_) => WorkerState::Returning,
            },
            grant: self.host.grant(&entry.holding),
            running: u32::try_from(entry.given.len()).unwrap_or(u32::MAX).min(entry.concurrency),
            idle_since: entry.is_idle().then_some(entry.idle_since),
        };
        self.workers.iter().map(view).collect()
    }

    /// What of the host is given to workers, and what may still be given. What is booked for an answer that is on its
    /// way is not in it: it is given or free again within a moment.
    pub fn host(&self) -> HostView {
        let given = self.given_to(|_, _| true);
        let room = self.host.room(&given);
        let listed = |place: usize, shares: u32| shares > 0 || !self.host.is_gone(place);
        let places = room.devices.iter().enumerate().filter(|(place, device)| listed(*place, device.shares));
        let devices = places.map(|(place, device)| {
            let (foreign_mb, granted_mb) = self.host.foreign_and_granted(place, &given);
            DeviceView {
                uuid: device.uuid.clone(),
                foreign_mb,
                granted_mb,
                grantable_mb: if device.exclusive { 0 } else { amount(device.free_mb) },
                usable_mb: device.usable_mb,
                shares: device.shares,
                exclusive: device.exclusive,
                quarantine: device.quarantine.clone(),
            }
        });
        HostView {
            devices: devices.collect(),
            ram_grantable_mb: amount(room.ram_mb),
            ram_usable_mb: room.ram_usable_mb,
            cpus_grantable: u32::try_from(amount(room.cpus)).unwrap_or(u32::MAX),
            cpus_usable: room.cpus_usable,
        }
    }

    /// What room is saved up for.
    pub fn saving(&self) -> Option<SavingView> {
        let kept = self.saving.kept()?;
        let gpus = kept.holding.devices.iter().map(|place| self.host.uuid(*place).to_owned()).collect();
        Some(SavingView { queue: kept.queue.clone(), gpus, until: kept.until })
    }
}
