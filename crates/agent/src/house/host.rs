//! The host as the house sees it: looks at it, what workers use of it, GPUs that are out of service, warnings.

use super::House;
use crate::quarantine::QuarantineFile;
use grange_dispatch::{DeviceView, HostReading, HostView, Input, WorkerId, WorkerUse};
use grange_protocol::event::LogLine;
use grange_protocol::status::{ControlAnswer, WorkerState};
use tokio::sync::oneshot;

/// Whose words the agent's own lines in a run's log are.
const AGENT_STREAM: &str = "agent";

impl House {
    /// Takes the newest look at the host.
    pub async fn looked(&mut self) {
        let look = self.inventory.looks.borrow().clone();
        if look.retries < self.rooms.host.retries {
            return;
        }
        self.rooms.host.look = look.clone();
        for (worker, uses) in &look.reading.workers {
            self.worker_uses(*worker, uses);
        }
        let mut reading = look.reading.clone();
        self.remember_quarantine(&mut reading);
        self.decide(Input::Host(Box::new(reading))).await;
    }

    /// What the last life took out of service is ill in the first look that shows it.
    fn remember_quarantine(&mut self, reading: &mut HostReading) {
        let state_dir = &self.config.state_dir;
        let file = self.rooms.host.quarantine.get_or_insert_with(|| QuarantineFile::open(state_dir));
        for device in &mut reading.devices {
            if let Some(why) = file.left.remove(&device.uuid) {
                device.fault.get_or_insert(why);
            }
        }
    }

    /// Notices what of the host is given otherwise than before, or is out of service.
    pub(super) fn compare_host(&mut self) {
        let host = self.rooms.core.host();
        for device in &host.devices {
            let before = self.rooms.host.seen.devices.iter().find(|before| before.uuid == device.uuid);
            let was = before.and_then(|before| before.quarantine.as_ref());
            match &device.quarantine {
                Some(why) if was != Some(why) => {
                    tracing::warn!(gpu = device.uuid, why, "GPU is quarantined");
                }
                None if was.is_some() => tracing::info!(gpu = device.uuid, "GPU may be used again"),
                Some(_) | None => {}
            }
        }
        if let Some(file) = &mut self.rooms.host.quarantine {
            let ill = host
                .devices
                .iter()
                .filter_map(|device| Some((device.uuid.clone(), device.quarantine.clone()?)));
            file.keep(ill.collect());
        }
        self.rooms.to_tell |= is_news(&self.rooms.host.seen, &host);
        self.rooms.host.seen = host;
    }

    /// Remembers what a worker uses, for its runs and for what is learned of its plugin.
    fn worker_uses(&mut self, worker: WorkerId, uses: &WorkerUse) {
        let Some(entry) = self.rooms.workers.get_mut(&worker) else { return };
        entry.vram_mb = uses.vram_mb.values().copied().max().unwrap_or(0);
        for job in entry.runs.values() {
            if let Some(held) = self.rooms.jobs.get_mut(job) {
                held.usage.peak_vram_mb = held.usage.peak_vram_mb.max(entry.vram_mb);
            }
        }
        let Some(entry) = self.rooms.workers.get(&worker) else { return };
        let Some(plugin) = self.plugins.get(&entry.plugin) else { return };
        for (uuid, used_mb) in uses.vram_mb.iter().filter(|(_, used_mb)| **used_mb > 0) {
            self.learned.saw_peak(&entry.plugin, &plugin.configuration, self.model(uuid), *used_mb);
        }
    }

    /// Tells the inventory whose processes are whose, and whether something is expected to change on the GPUs.
    pub(super) fn watch_workers(&mut self) {
        let supervisors = self.rooms.workers.iter().map(|(id, entry)| (*id, entry.handle.supervisor));
        let moving = |state| {
            matches!(
                state,
                WorkerState::Busy | WorkerState::Starting | WorkerState::Ending | WorkerState::Returning
            )
        };
        let closely = self
            .rooms
            .core
            .workers()
            .iter()
            .any(|worker| !worker.grant.devices.is_empty() && moving(worker.state));
        let watched = (supervisors.collect(), closely);
        if watched != self.rooms.host.watched {
            self.inventory.watch(watched.0.clone(), watched.1);
            self.rooms.host.watched = watched;
        }
    }

    /// Tells whoever follows a worker's runs, and the operator.
    pub(super) fn warn(&mut self, worker: WorkerId, text: String) {
        let Some(entry) = self.rooms.workers.get(&worker) else { return };
        tracing::warn!(plugin = %entry.plugin, worker = worker.0, text, "worker");
        for job in entry.runs.values() {
            let events = self.rooms.jobs.get(job).and_then(|held| held.events.as_ref());
            if let Some(events) = events {
                events.log(&LogLine { stream: AGENT_STREAM.to_owned(), line: text.clone() });
            }
        }
        self.rooms.host.warnings.insert(worker, text);
    }

    /// An operator says that a GPU may be used again.
    pub(super) fn unquarantine(
        &mut self,
        gpu: Option<String>,
        reply: oneshot::Sender<ControlAnswer>,
    ) -> Option<Input> {
        let ill = self.rooms.core.host().devices.into_iter().filter(|device| device.quarantine.is_some());
        let mut quarantined: Vec<String> = ill.map(|device| device.uuid).collect();
        let left = self.rooms.host.quarantine.as_mut().map(|file| &mut file.left);
        quarantined.extend(left.iter().flat_map(|left| left.keys().cloned()));
        let list = if quarantined.is_empty() { "none".to_owned() } else { quarantined.join(", ") };
        if let Some(uuid) = gpu.as_ref().filter(|uuid| !quarantined.contains(uuid)) {
            let message = format!("GPU `{uuid}` is not quarantined here; quarantined: {list}");
            let _ = reply.send(ControlAnswer { ok: false, message });
            return None;
        }
        if let Some(left) = left {
            left.retain(|uuid, _| gpu.as_ref().is_some_and(|gpu| gpu != uuid));
        }
        self.rooms.host.retries = self.inventory.retry(gpu.as_deref());
        let message = match &gpu {
            Some(uuid) => format!("GPU `{uuid}` may be used again"),
            None => format!("GPUs that may be used again: {list}"),
        };
        tracing::info!(message, "quarantine");
        let _ = reply.send(ControlAnswer { ok: true, message });
        Some(Input::Unquarantined { device: gpu })
    }
}

/// Whether others should hear of it before the next heartbeat. What strangers use moves all the time.
fn is_news(before: &HostView, now: &HostView) -> bool {
    let given = |device: &DeviceView| {
        (device.uuid.clone(), device.granted_mb, device.shares, device.exclusive, device.quarantine.clone())
    };
    !before.devices.iter().map(given).eq(now.devices.iter().map(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(device: DeviceView) -> HostView {
        HostView { devices: vec![device], ..HostView::default() }
    }

    #[test]
    fn grants_and_quarantines_are_news_and_strangers_are_not() {
        let idle = DeviceView { uuid: "GPU-a".to_owned(), ..DeviceView::default() };
        let with = |change: fn(&mut DeviceView)| {
            let mut device = idle.clone();
            change(&mut device);
            is_news(&host(idle.clone()), &host(device))
        };
        assert!(!with(|device| (device.foreign_mb, device.grantable_mb) = (5_000, 1)));
        assert!(with(|device| device.granted_mb = 1));
        assert!(with(|device| device.exclusive = true));
        assert!(with(|device| device.quarantine = Some("XID 79".to_owned())));
        assert!(is_news(&HostView::default(), &host(idle.clone())));
    }
}
