//! Performs a schedule on the real processes, and undoes all of it at the end.
//!
//! Owns when each fault begins and ends. Agents are started from the caller's thread only: the kernel's parent-death signal
//! is sent when the starting thread ends.

mod zombie;

use crate::history::{Fact, History};
use crate::proxy::Proxy;
use crate::schedule::{Fault, Planned};
use crate::site::{Host, Servers, Site};
use crate::workload::Jobs;
use grange_broker_client::connect::Broker;
use grange_tests::processes::{is_alive, signal};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// XID 79: the GPU has fallen off the bus.
const XID: u64 = 79;
/// Stale writes of one fault.
const STALE_JOBS: usize = 8;
/// Tickets that one fault deletes.
const TICKETS: usize = 3;

/// What is to be done at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    End(usize),
    Begin(usize),
}

/// The one who does it.
pub struct Nemesis<'a> {
    site: &'a mut Site,
    history: History,
    jobs: Jobs,
    broker: Broker,
    /// Processes that were stopped (SIGSTOP), by fault.
    stopped: BTreeMap<usize, u32>,
    /// Servers that are away.
    away: BTreeSet<usize>,
}

impl<'a> Nemesis<'a> {
    /// `broker` is a connection past every proxy.
    pub fn new(site: &'a mut Site, history: History, jobs: Jobs, broker: Broker) -> Self {
        Self { site, history, jobs, broker, stopped: BTreeMap::new(), away: BTreeSet::new() }
    }

    /// Performs the list from `begun` on, and returns after `lasts` with everything healed.
    pub async fn run(&mut self, begun: Instant, lasts: Duration, list: &[Planned]) -> anyhow::Result<()> {
        let mut steps = Vec::new();
        for (index, planned) in list.iter().enumerate() {
            steps.push((planned.at_ms, Step::Begin(index)));
            steps.push((planned.at_ms + planned.for_ms, Step::End(index)));
        }
        steps.sort_unstable();
        for (at_ms, step) in steps {
            sleep_until(begun + Duration::from_millis(at_ms)).await;
            let (index, begins) = match step {
                Step::Begin(index) => (index, true),
                Step::End(index) => (index, false),
            };
            let planned = list[index];
            self.note(&planned, begins);
            if begins {
                self.begin(index, &planned).await?;
            } else {
                self.end(index, &planned).await?;
            }
        }
        sleep_until(begun + lasts).await;
        self.heal().await
    }

    fn note(&self, planned: &Planned, begins: bool) {
        let (fault, target) = (planned.fault.to_string(), planned.target.to_string());
        self.history.note(Fact::Fault { fault, target, begins });
    }

    fn host(&mut self, planned: &Planned) -> &mut Host {
        let count = self.site.hosts.len();
        &mut self.site.hosts[planned.target % count]
    }

    fn server(&self, planned: &Planned) -> usize {
        planned.target % self.site.servers.count()
    }

    async fn begin(&mut self, index: usize, planned: &Planned) -> anyhow::Result<()> {
        match planned.fault {
            Fault::KillAgent => self.host(planned).kill(),
            Fault::StopAgent => self.signal_agent(planned, Signal::TERM),
            Fault::FreezeAgent => {
                if let Some(pid) = self.host(planned).agent.as_ref().map(grange_tests::Agent::pid) {
                    self.stop(index, pid);
                }
            }
            Fault::KillWorker => {
                if let Some(pid) = a_worker(self.host(planned), planned) {
                    signal(pid, Signal::KILL);
                }
            }
            Fault::FreezeWorker => {
                if let Some(pid) = a_worker(self.host(planned), planned) {
                    self.stop(index, pid);
                }
            }
            Fault::CutAgent
            | Fault::MuteAgent
            | Fault::DeafenAgent
            | Fault::RefuseAgent
            | Fault::SlowAgent => {
                weather(&self.host(planned).links, planned);
            }
            Fault::DeafenClients | Fault::RefuseClients => weather(&self.site.clients, planned),
            Fault::KillBroker | Fault::StopBroker | Fault::FreezeBroker => {
                self.harm_server(index, planned).await?;
            }
            Fault::DeleteTickets => zombie::delete_tickets(&self.broker, &self.jobs.held(TICKETS)).await,
            Fault::WriteStale => zombie::write_stale(&self.broker, &self.jobs.held(STALE_JOBS)).await,
            Fault::Xid | Fault::LoseGpu | Fault::HangNvml => gpu(self.host(planned), planned, true),
        }
        Ok(())
    }

    async fn end(&mut self, index: usize, planned: &Planned) -> anyhow::Result<()> {
        match planned.fault {
            Fault::KillAgent => self.host(planned).start(),
            Fault::StopAgent => {
                self.host(planned).kill();
                self.host(planned).start();
            }
            Fault::FreezeAgent | Fault::FreezeWorker | Fault::FreezeBroker => self.go_on(index),
            Fault::CutAgent
            | Fault::MuteAgent
            | Fault::DeafenAgent
            | Fault::RefuseAgent
            | Fault::SlowAgent => {
                clear(&self.host(planned).links, planned);
            }
            Fault::DeafenClients | Fault::RefuseClients => clear(&self.site.clients, planned),
            Fault::KillBroker | Fault::StopBroker => {
                let server = self.server(planned);
                if self.away.remove(&server) {
                    self.site.servers.restart(server).await?;
                }
            }
            Fault::LoseGpu | Fault::HangNvml => gpu(self.host(planned), planned, false),
            Fault::KillWorker | Fault::DeleteTickets | Fault::WriteStale | Fault::Xid => {}
        }
        Ok(())
    }

    /// One server at a time is in trouble: two of three make no promise.
    async fn harm_server(&mut self, index: usize, planned: &Planned) -> anyhow::Result<()> {
        let server = self.server(planned);
        let frozen = self.stopped.values().any(|pid| is_server(&self.site.servers, *pid));
        if frozen || !self.away.is_empty() {
            return Ok(());
        }
        if planned.fault == Fault::FreezeBroker {
            let pid = self.site.servers.member(server).pid();
            self.stop(index, pid);
            return Ok(());
        }
        self.away.insert(server);
        self.site.servers.end(server, planned.fault == Fault::StopBroker).await
    }

    fn signal_agent(&mut self, planned: &Planned, kind: Signal) {
        if let Some(agent) = &self.host(planned).agent {
            agent.signal(kind);
        }
    }

    fn stop(&mut self, index: usize, pid: u32) {
        signal(pid, Signal::STOP);
        self.stopped.insert(index, pid);
    }

    fn go_on(&mut self, index: usize) {
        if let Some(pid) = self.stopped.remove(&index)
            && is_alive(pid)
            && !self.stopped.values().any(|other| *other == pid)
        {
            signal(pid, Signal::CONT);
        }
    }

    /// Undoes whatever is left.
    async fn heal(&mut self) -> anyhow::Result<()> {
        for pid in std::mem::take(&mut self.stopped).into_values() {
            signal(pid, Signal::CONT);
        }
        for server in std::mem::take(&mut self.away) {
            self.site.servers.restart(server).await?;
        }
        for link in self.site.hosts.iter().flat_map(|host| &host.links).chain(&self.site.clients) {
            link.heal();
        }
        for host in &mut self.site.hosts {
            if host.agent.as_ref().is_some_and(|agent| !is_alive(agent.pid())) {
                host.kill();
            }
            host.start();
        }
        self.history.note(Fact::Healed);
        Ok(())
    }
}

fn is_server(servers: &Servers, pid: u32) -> bool {
    (0..servers.count()).any(|index| servers.member(index).pid() == pid)
}

fn weather(links: &[Proxy], planned: &Planned) {
    for link in links {
        link.set(|weather| match planned.fault {
            Fault::CutAgent => (weather.mute, weather.deaf) = (true, true),
            Fault::MuteAgent => weather.mute = true,
            Fault::DeafenAgent | Fault::DeafenClients => weather.deaf = true,
            Fault::SlowAgent => weather.late_ms = 40 + planned.for_ms % 200,
            _ => {
                weather.refuse = true;
                weather.resets += 1;
            }
        });
    }
}

/// Half of the cuts end with what was held back, half with a reset: then it is lost.
fn clear(links: &[Proxy], planned: &Planned) {
    for link in links {
        if planned.fault == Fault::DeafenClients || planned.for_ms.is_multiple_of(2) {
            link.set(|weather| weather.resets += 1);
        }
        link.heal();
    }
}

/// One of the host's worker processes.
fn a_worker(host: &Host, planned: &Planned) -> Option<u32> {
    let below = host.agent.as_ref()?.descendants();
    let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let workers: Vec<u32> = below.into_iter().filter(|pid| name(pid).starts_with("python")).collect();
    let at = usize::try_from(planned.for_ms).ok()? % workers.len().max(1);
    workers.get(at).copied()
}

fn gpu(host: &Host, planned: &Planned, begins: bool) {
    let uuid = &host.uuids[usize::try_from(planned.for_ms).unwrap_or(0) % host.uuids.len()];
    match planned.fault {
        Fault::Xid => host.gpus.xid(uuid, XID),
        Fault::LoseGpu => host.gpus.change_gpu(uuid, |gpu| gpu.lost = begins),
        _ => host.gpus.change(|script| {
            script.hang = if begins { vec!["nvmlDeviceGetCount_v2".to_owned()] } else { Vec::new() };
        }),
    }
}
