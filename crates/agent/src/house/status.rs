//! What goes on without news: plugins being prepared, deadlines, heartbeats, words to the broker that work goes on.

use super::House;
use crate::clock::{boot_ms, boot_ns};
use crate::heartbeat::beat;
use crate::news::HouseEvent;
use crate::plugins::Prepared;
use crate::supervise::Order;
use bytes::Bytes;
use grange_broker_client::connect::Broker;
use grange_broker_client::topology::ensure_lane;
use grange_dispatch::{Input, PluginSpec};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::name::{Class, PluginName};
use grange_protocol::ownership::Stored;
use grange_protocol::status::{AgentState, AgentStatus, HeldAttempt, PluginState, PluginStatus};
use grange_protocol::subject::Lane;
use grange_protocol::ticket::Priority;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pause before a lane that could not be made is tried again.
const LANE_PAUSE: Duration = Duration::from_secs(2);

impl House {
    /// Begins to prepare every plugin, each by itself: one that fails keeps no other back.
    pub fn prepare_plugins(&mut self) {
        for (name, plugin) in &mut self.plugins {
            if plugin.manifest.environment.is_some() {
                "its environment is being built".clone_into(&mut plugin.reason);
            }
            let (workshop, broker, news) =
                (self.workshop.clone(), self.claims.broker.clone(), self.news.clone());
            let (name, manifest, folder) = (name.clone(), plugin.manifest.clone(), plugin.folder.clone());
            self.rooms.tasks.spawn(async move {
                let prepared = workshop.prepare(&manifest, &folder).await;
                for lane in lanes_of(&name) {
                    make_lane(&broker, &lane, &name, &news).await;
                }
                let _ = news.send(HouseEvent::Plugin(name, prepared)).await;
            });
        }
    }

    /// A plugin can run, or cannot.
    pub(super) fn plugin_prepared(&mut self, name: PluginName, prepared: Prepared) -> Option<Input> {
        let plugin = self.plugins.get_mut(&name)?;
        let launch = match prepared {
            Prepared::Waits(why) => {
                plugin.reason = why;
                return None;
            }
            Prepared::Failed(why) => {
                tracing::error!(plugin = %name, why, "plugin cannot run here");
                (plugin.state, plugin.reason) = (PluginState::Failed, why);
                return None;
            }
            Prepared::Ready(launch) => launch,
        };
        tracing::info!(plugin = %name, "plugin ready");
        (plugin.state, plugin.launch) = (PluginState::Ready, Some(launch));
        plugin.reason.clear();
        let limits = &plugin.manifest.limits;
        let spec = PluginSpec {
            concurrency: plugin.manifest.concurrency,
            max_workers: plugin.manifest.max_workers,
            timeout_ms: limits.timeout_s.map(|s| u64::from(s) * 1000),
            cancel_grace_ms: u64::from(limits.cancel_grace_s) * 1000,
        };
        Some(Input::PluginReady { plugin: name, spec })
    }

    /// When an idle worker's supervisor may kill it, unless it hears from this agent again.
    pub(super) fn idle_deadline_ns(&self) -> u64 {
        boot_ns() + u64::from(self.config.limits.lease_s) * 1_000_000_000
    }

    /// The lease was renewed: every supervisor learns its new deadline.
    pub(super) fn extend_deadlines(&mut self) {
        let idle = self.idle_deadline_ns();
        for entry in self.rooms.workers.values() {
            let held = entry.runs.values().filter_map(|job| self.rooms.jobs.get(job)?.claim.as_ref());
            let deadline = held.map(|claim| self.lease.deadline_ns(claim.record.lease_s())).min();
            entry.handle.order(Order::Deadline(Some(deadline.unwrap_or(idle))));
        }
    }

    /// Time passed.
    pub async fn tick(&mut self) {
        for lane in self.pulls.overdue() {
            self.decide(Input::PullEnded { lane }).await;
        }
        let now = boot_ms();
        for (id, entry) in &mut self.rooms.workers {
            if entry.patience_until.is_some_and(|at| at <= now) {
                entry.patience_until = None;
                if !entry.ready {
                    let text = format!("the worker of `{}` was not ready in time", entry.plugin);
                    entry.failure.get_or_insert_with(|| Failure::new(FailureKind::TimedOut, text));
                }
                tracing::warn!(worker = id.0, plugin = %entry.plugin, "patience with the worker is over");
                entry.kill();
            }
        }
        self.decide(Input::Tick).await;
    }

    /// Tells the broker that what is held is still worked on.
    pub async fn keep_alive(&mut self) {
        for held in self.rooms.jobs.values().filter(|held| held.claim.is_some()) {
            self.claims.settle(&held.delivery.ack, Bytes::from_static(b"+WPI")).await;
        }
    }

    /// Puts a heartbeat. While the broker is away, idle workers are told to wait on.
    pub fn heartbeat(&mut self) {
        let beating = beat(self.claims.broker.clone(), self.status(), self.lease.clone(), self.news.clone());
        self.rooms.tasks.spawn(beating);
        let idle = self.idle_deadline_ns();
        for entry in self.rooms.workers.values().filter(|entry| entry.runs.is_empty()) {
            entry.handle.order(Order::Deadline(Some(idle)));
        }
    }

    /// What this agent says of itself.
    pub fn status(&self) -> AgentStatus {
        let held = self.rooms.jobs.iter().filter_map(|(key, held)| {
            let fence = &held.claim.as_ref()?.fence;
            let (owner, job) = (key.owner.clone(), key.job.clone());
            Some(HeldAttempt { owner, job, number: fence.number, claim: fence.claim })
        });
        AgentStatus {
            v: 1,
            agent: self.claims.me.agent.clone(),
            incarnation: self.claims.me.incarnation.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.clone(),
            state: if self.rooms.draining { AgentState::Draining } else { AgentState::Ready },
            isolation: "process".to_owned(),
            started_ms: self.started_ms,
            capacity: self.inventory.capacity.borrow().clone(),
            attempts: held.collect(),
            covers: self.rooms.coverage.covers(),
            plugins: self.plugins.keys().map(|name| self.plugin_status(name)).collect(),
            notices: self.notices.clone(),
        }
    }

    fn plugin_status(&self, name: &PluginName) -> PluginStatus {
        let plugin = &self.plugins[name];
        let view = self.rooms.core.view(name);
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
        }
    }

    /// Does every attempt that is held for at least so long still hold its job, and did somebody ask for its end?
    pub fn check_ownership(&mut self, held_ms: u64) {
        let now = boot_ms();
        for (key, held) in &self.rooms.jobs {
            let Some(claim) = &held.claim else { continue };
            if now.saturating_sub(claim.since) < held_ms {
                continue;
            }
            let (ledger, fence, key, news) =
                (self.claims.ledger.clone(), claim.fence.clone(), key.clone(), self.news.clone());
            self.rooms.tasks.spawn(async move {
                let found = match ledger.read(&key).await {
                    Ok(Stored::Record { sequence, record, .. }) if record.held_by(&fence, sequence) => {
                        record.cancel_requested.map(|_| HouseEvent::CancelRequested(key))
                    }
                    Ok(_) => Some(HouseEvent::Lost(key, fence.claim)),
                    Err(error) => {
                        tracing::warn!(job = %key, %error, "ownership not checked");
                        None
                    }
                };
                if let Some(event) = found {
                    let _ = news.send(event).await;
                }
            });
        }
    }
}

/// Makes a lane, however long that takes: the broker may be away, or nobody has run `grange init` yet.
async fn make_lane(broker: &Broker, lane: &Lane, plugin: &PluginName, news: &mpsc::Sender<HouseEvent>) {
    while let Err(error) = ensure_lane(broker, lane).await {
        let why = format!("lane `{lane}` cannot be made yet: {}", crate::causes::chain(&error));
        tracing::warn!(plugin = %plugin, why, "plugin waits");
        if news.send(HouseEvent::Plugin(plugin.clone(), Prepared::Waits(why))).await.is_err() {
            return;
        }
        tokio::time::sleep(LANE_PAUSE).await;
    }
}

/// The lanes of one plugin.
fn lanes_of(plugin: &PluginName) -> impl Iterator<Item = Lane> {
    let plugin = plugin.clone();
    Priority::ALL.into_iter().flat_map(move |priority| {
        let plugin = plugin.clone();
        [Class::plugin_default(), Class::any()].map(move |class| Lane {
            priority,
            plugin: plugin.clone(),
            class,
        })
    })
}
