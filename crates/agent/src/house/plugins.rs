//! Plugins of this host on their way to the dispatcher: being prepared, waiting for the farm's streams, ready, and what
//! was learned of them since.

use super::House;
use super::rooms::WorkerEntry;
use crate::learned;
use crate::news::HouseEvent;
use crate::plugins::Prepared;
use grange_dispatch::{Input, PluginSpec};
use grange_protocol::name::PluginName;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::status::PluginState;
use std::time::Duration;

impl House {
    /// Begins to prepare every plugin, each by itself: one that fails keeps no other back.
    pub fn prepare_plugins(&mut self) {
        self.find_queues(Duration::ZERO);
        for (name, plugin) in &mut self.plugins {
            if plugin.manifest.environment.is_some() {
                "its environment is being built".clone_into(&mut plugin.reason);
            }
            let (workshop, news) = (self.workshop.clone(), self.news.clone());
            let (name, manifest, folder) = (name.clone(), plugin.manifest.clone(), plugin.folder.clone());
            self.rooms.tasks.spawn(async move {
                let prepared = workshop.prepare(&manifest, &folder).await;
                let _ = news.send(HouseEvent::Plugin(name, prepared)).await;
            });
        }
    }

    /// A plugin can run, or cannot. One that can waits for the farm's streams; where they are there, its queues are
    /// looked for.
    pub(super) fn plugin_prepared(&mut self, name: PluginName, prepared: Prepared) -> Option<Input> {
        let plugin = self.plugins.get_mut(&name)?;
        match prepared {
            Prepared::Failed(why) => {
                tracing::error!(plugin = %name, why, "plugin cannot run here");
                (plugin.state, plugin.reason) = (PluginState::Failed, why);
                None
            }
            Prepared::Ready(launch) => {
                plugin.launch = Some(launch);
                "waits for the farm's streams".clone_into(&mut plugin.reason);
                if !self.rooms.queues.streams_there {
                    return None;
                }
                self.find_queues(Duration::ZERO);
                self.begin(name)
            }
        }
    }

    /// The farm's streams are there: what waited for them is ready.
    pub(super) async fn begin_plugins(&mut self) {
        let waits = self.plugins.iter().filter(|(_, plugin)| plugin.launch.is_some());
        let waits: Vec<PluginName> = waits.map(|(name, _)| name.clone()).collect();
        for name in waits {
            if let Some(input) = self.begin(name) {
                self.decide(input).await;
            }
        }
        self.heartbeat();
    }

    fn begin(&mut self, name: PluginName) -> Option<Input> {
        let spec = self.spec(&name)?;
        let plugin = self.plugins.get_mut(&name)?;
        tracing::info!(plugin = %name, "plugin ready");
        plugin.state = PluginState::Ready;
        plugin.reason.clear();
        self.rooms.specs.insert(name.clone(), spec.clone());
        Some(Input::PluginReady { plugin: name, spec })
    }

    /// What the dispatcher has to know of a plugin, with what was learned of it.
    fn spec(&self, name: &PluginName) -> Option<PluginSpec> {
        let manifest = &self.plugins.get(name)?.manifest;
        let limits = &manifest.limits;
        let ms = |seconds: u32| u64::from(seconds) * 1000;
        let asked = manifest.resources.clone().unwrap_or_default();
        let request = learned::admitted(&asked, self.peak_vram_mb(name), self.largest_usable_mb());
        Some(PluginSpec {
            concurrency: manifest.concurrency,
            max_workers: manifest.max_workers,
            timeout_ms: limits.timeout_s.map(ms),
            cancel_grace_ms: ms(limits.cancel_grace_s),
            start_ms: self.start_ms(name, &asked),
            is_learned: asked.vram_mb == 0,
            request,
            keep_warm_ms: limits.keep_warm_s.or(self.config.limits.keep_warm_s).map(ms),
        })
    }

    /// Highest memory that a worker of the plugin was seen to use on one of this host's kinds of GPU, MiB.
    pub(super) fn peak_vram_mb(&self, name: &PluginName) -> Option<u64> {
        let configuration = &self.plugins.get(name)?.configuration;
        let devices = &self.rooms.host.look.reading.devices;
        self.learned.peak_mb(name, configuration, devices.iter().map(|device| device.name.as_str()))
    }

    /// The most that one GPU of this host can give, MiB.
    fn largest_usable_mb(&self) -> u64 {
        let devices = &self.rooms.host.look.reading.devices;
        let reserve_mb = self.config.reserve.vram_mb;
        devices.iter().map(|device| device.total_mb.saturating_sub(reserve_mb)).max().unwrap_or(0)
    }

    fn start_ms(&self, name: &PluginName, asked: &ResourceRequest) -> Option<u64> {
        let configuration = &self.plugins.get(name)?.configuration;
        let devices = &self.rooms.host.look.reading.devices;
        if asked.gpus == 0 {
            return self.learned.start_ms(name, configuration, [""]);
        }
        self.learned.start_ms(name, configuration, devices.iter().map(|device| device.name.as_str()))
    }

    /// Remembers how long a worker took until it was ready, milliseconds.
    pub(super) fn learn_start(&self, entry: &WorkerEntry, took_ms: u64) {
        let Some(plugin) = self.plugins.get(&entry.plugin) else { return };
        let gpu = entry.grant.devices.first();
        let model = gpu.map_or("", |uuid| self.model(uuid));
        self.learned.saw_start(&entry.plugin, &plugin.configuration, model, took_ms);
    }

    /// The model of one of the host's GPUs.
    pub(super) fn model(&self, uuid: &str) -> &str {
        let devices = &self.rooms.host.look.reading.devices;
        devices.iter().find(|device| device.uuid == uuid).map_or("", |device| &device.name)
    }

    /// Tells the dispatcher what was learned since.
    pub(super) async fn tell_learned(&mut self) {
        let version = self.learned.version();
        if std::mem::replace(&mut self.rooms.learned, version) == version {
            return;
        }
        let known: Vec<PluginName> = self.rooms.specs.keys().cloned().collect();
        for plugin in known {
            let Some(spec) = self.spec(&plugin) else { continue };
            if self.rooms.specs.get(&plugin) != Some(&spec) {
                self.rooms.specs.insert(plugin.clone(), spec.clone());
                self.decide(Input::PluginReady { plugin, spec }).await;
            }
        }
    }
}
