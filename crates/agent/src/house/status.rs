//! What this agent says of itself.

use super::House;
use grange_dispatch::{HostView, WorkerView};
use grange_protocol::capacity::{Capacity, Gpu};
use grange_protocol::name::PluginName;
use grange_protocol::status::{
    AgentState, AgentStatus, HeldAttempt, PluginStatus, SavingStatus, WorkerStatus,
};

impl House {
    /// What this agent says of itself.
    pub fn status(&self) -> AgentStatus {
        let held = self.rooms.jobs.iter().filter_map(|(key, held)| {
            let fence = &held.claim.as_ref()?.fence;
            let (owner, job) = (key.owner.clone(), key.job.clone());
            let plugin = Some(held.delivery.queue.lane.plugin.clone());
            Some(HeldAttempt { owner, job, number: fence.number, claim: fence.claim, plugin })
        });
        AgentStatus {
            v: 1,
            agent: self.claims.me.agent.clone(),
            incarnation: self.claims.me.incarnation.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.clone(),
            state: if self.rooms.draining || self.is_drained() {
                AgentState::Draining
            } else {
                AgentState::Ready
            },
            isolation: self.isolation.level().to_owned(),
            started_ms: self.started_ms,
            capacity: with_grants(self.rooms.host.look.capacity.clone(), &self.rooms.core.host()),
            attempts: held.collect(),
            covers: self.rooms.coverage.covers(),
            plugins: self.plugins.keys().map(|name| self.plugin_status(name)).collect(),
            workers: self.rooms.core.workers().into_iter().map(|view| self.worker_status(view)).collect(),
            saving: self.saving_status(),
            drain: self.drain_status(),
            owner_running_max: self.config.limits.owner_running_max,
            notices: self.all_notices(),
        }
    }

    /// What its operator should know: of manifests, of the host, of queues and of workers.
    fn all_notices(&self) -> Vec<String> {
        let host = &self.rooms.host;
        let trouble = self.rooms.queues.trouble.iter();
        self.notices
            .iter()
            .chain(&self.isolation.notices)
            .chain(&host.look.notices)
            .chain(trouble)
            .chain(host.warnings.values())
            .cloned()
            .collect()
    }

    fn worker_status(&self, view: WorkerView) -> WorkerStatus {
        let WorkerView { worker, plugin, state, grant, running, idle_since } = view;
        let slots = self.plugins.get(&plugin).map_or(0, |known| known.manifest.concurrency);
        WorkerStatus {
            plugin,
            state,
            gpus: grant.devices,
            vram_mb: grant.vram_mb,
            exclusive: grant.exclusive,
            ram_mb: grant.ram_mb,
            cpus: grant.cpus,
            vram_used_mb: self.rooms.workers.get(&worker).map_or(0, |entry| entry.vram_mb),
            running,
            slots,
            idle_ms: idle_since.map_or(0, |since| self.rooms.now().saturating_sub(since)),
        }
    }

    fn saving_status(&self) -> Option<SavingStatus> {
        let saving = self.rooms.core.saving()?;
        let left_ms = saving.until.saturating_sub(self.rooms.now());
        Some(SavingStatus { queue: saving.queue.to_string(), gpus: saving.gpus, left_ms })
    }

    fn plugin_status(&self, name: &PluginName) -> PluginStatus {
        let plugin = &self.plugins[name];
        let view = self.rooms.core.view(name);
        let spec = self.rooms.specs.get(name);
        PluginStatus {
            name: name.clone(),
            version: plugin.manifest.version.clone(),
            description: plugin.manifest.description.clone(),
            category: plugin.manifest.category.clone(),
            state: plugin.state,
            reason: plugin.reason.clone(),
            workers: view.workers,
            running: view.running,
            slots: view.slots,
            resources: spec.map_or_else(
                || plugin.manifest.resources.clone().unwrap_or_default(),
                |spec| spec.request.clone(),
            ),
            peak_vram_mb: self.peak_vram_mb(name),
            start_ms: spec.and_then(|spec| spec.start_ms),
        }
    }
}

/// What was measured, with what of it is given and what may be. A GPU that is gone from the measure is still shown: it is
/// out of service, and somebody has to know.
fn with_grants(mut capacity: Capacity, host: &HostView) -> Capacity {
    capacity.ram_grantable_mb = host.ram_grantable_mb;
    capacity.ram_usable_mb = host.ram_usable_mb;
    capacity.cpus_grantable = host.cpus_grantable;
    capacity.cpus_usable = host.cpus_usable;
    for device in &host.devices {
        let gpu = match capacity.gpus.iter_mut().position(|gpu| gpu.uuid == device.uuid) {
            Some(place) => &mut capacity.gpus[place],
            None => {
                capacity.gpus.push(Gpu { uuid: device.uuid.clone(), ..Gpu::default() });
                capacity.gpus.last_mut().expect("it was just pushed")
            }
        };
        gpu.foreign_mb = device.foreign_mb;
        gpu.granted_mb = device.granted_mb;
        gpu.grantable_mb = device.grantable_mb;
        gpu.usable_mb = device.usable_mb;
        gpu.shares = device.shares;
        gpu.exclusive = device.exclusive;
        gpu.quarantine.clone_from(&device.quarantine);
    }
    capacity
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_dispatch::DeviceView;

    #[test]
    fn grants_are_put_to_the_gpus_that_they_are_of() {
        let gpu = |uuid: &str| Gpu { uuid: uuid.to_owned(), vram_mb: 1_000, ..Gpu::default() };
        let capacity = Capacity { gpus: vec![gpu("a"), gpu("b")], ..Capacity::default() };
        let view = |uuid: &str, granted_mb| DeviceView {
            uuid: uuid.to_owned(),
            granted_mb,
            quarantine: (uuid == "lost").then(|| "it is gone".to_owned()),
            ..DeviceView::default()
        };
        let host = HostView {
            devices: vec![view("b", 700), view("lost", 0), view("a", 0)],
            ram_grantable_mb: 5,
            ..HostView::default()
        };
        let merged = with_grants(capacity, &host);
        let granted: Vec<_> = merged.gpus.iter().map(|gpu| (gpu.uuid.as_str(), gpu.granted_mb)).collect();
        assert_eq!(granted, [("a", 0), ("b", 700), ("lost", 0)]);
        assert_eq!((merged.gpus[1].vram_mb, merged.ram_grantable_mb), (1_000, 5));
        assert_eq!(merged.gpus[2].quarantine.as_deref(), Some("it is gone"));
    }
}
