//! What each host says to a job, by its heartbeat: it could start now, and how; or why not. One function for whoever asks
//! why a job waits, and for the submitter who wants to be told at once that nobody can start it.
//!
//! A heartbeat is a second or two old and shows no plans, so this is a forecast: agents alone decide.

mod hosts;

use crate::class::{self, Meaning};
use crate::fit::{Lack, Need, place, place_when_empty};
use crate::name::{AgentName, PluginName};
use crate::resource::ResourceRequest;
use crate::status::{AgentState, AgentStatus, PluginState, PluginStatus};
use crate::subject::{Lane, Queue};
use hosts::Places;
use std::fmt;

/// How a job would start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// In a worker that is loaded.
    Warm,
    /// In a new worker.
    Cold,
    /// In a new worker, when idle ones of these plugins have left.
    Evicting(Vec<PluginName>),
}

/// An idle worker that holds some of what is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Its plugin.
    pub plugin: PluginName,
    /// GPU memory on each of its GPUs, host memory or cores: whatever is short.
    pub amount: u64,
}

/// Why a job could start here later, but not now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Something is short.
    Lack {
        /// What.
        lack: Lack,
        /// Who holds some of it and has nothing to do.
        idle: Vec<Idle>,
    },
    /// Every run that may go on at one time goes on.
    Full {
        /// How many.
        slots: u32,
    },
    /// A worker for it is on its way.
    Starting,
    /// The host keeps room for a queue that has waited longer.
    Saved {
        /// Which.
        queue: String,
        /// For how long still, milliseconds.
        left_ms: u64,
    },
}

/// What one host says to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It could start.
    Now(Start),
    /// It could start as far as is known: the host does not say what it has of this.
    Perhaps {
        /// Of what.
        unknown: &'static str,
    },
    /// Not now.
    Busy(Wait),
    /// The host is not what is asked for, and will not be.
    Never(Lack),
    /// The host has no such plugin.
    NotInstalled,
    /// The plugin cannot run there.
    NotReady {
        /// Whether it is prepared, or failed.
        state: PluginState,
        /// Why.
        reason: String,
    },
    /// The host finishes what it has, or has finished, and takes nothing more.
    Draining {
        /// Why, where it stays up; empty: it leaves.
        reason: String,
    },
}

impl Answer {
    /// The word for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Now(_) => "now",
            Self::Perhaps { .. } => "perhaps",
            Self::Busy(_) => "busy",
            Self::Never(_) => "never",
            Self::NotInstalled => "not_installed",
            Self::NotReady { .. } => "not_ready",
            Self::Draining { .. } => "draining",
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(Start::Warm) => f.write_str("can start it now in a loaded worker"),
            Self::Now(Start::Cold) => f.write_str("can start it now in a new worker"),
            Self::Now(Start::Evicting(plugins)) => {
                let names: Vec<String> = plugins.iter().map(|name| format!("`{name}`")).collect();
                write!(f, "can start it when idle {} has left", names.join(" and "))
            }
            Self::Perhaps { unknown } => {
                write!(f, "may be able to start it; does not say what {unknown} it has")
            }
            Self::Busy(wait) => wait.fmt(f),
            Self::Never(lack) => lack.fmt(f),
            Self::NotInstalled => f.write_str("does not have the plugin"),
            Self::NotReady { state, reason } => {
                let state = match state {
                    PluginState::Preparing => "is being prepared",
                    PluginState::Ready => "is ready",
                    PluginState::Failed => "cannot be prepared",
                };
                let colon = if reason.is_empty() { "" } else { ": " };
                write!(f, "the plugin {state}{colon}{reason}")
            }
            Self::Draining { reason } if reason.is_empty() => f.write_str("is draining"),
            Self::Draining { reason } => write!(f, "is drained: {reason}"),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lack { lack, idle } => {
                lack.fmt(f)?;
                let unit = if matches!(lack, Lack::Cpus { .. }) { "cores" } else { "MiB" };
                idle.iter().try_for_each(|Idle { plugin, amount }| {
                    write!(f, ", {amount} {unit} held by idle `{plugin}`")
                })
            }
            Self::Full { slots } => write!(f, "all its {slots} places are taken"),
            Self::Starting => f.write_str("a worker for it is starting"),
            Self::Saved { queue, left_ms } => {
                write!(f, "keeps room for `{queue}` for {} s", left_ms.div_ceil(1000))
            }
        }
    }
}

/// What a job of this lane needs on a host whose plugin asks for `plugin`. None: anything will do.
pub fn need(lane: &Lane, plugin: &ResourceRequest) -> Option<Need> {
    match class::read(&lane.class) {
        Ok(Meaning::Any) => None,
        Ok(Meaning::Asks(asks)) => {
            Some(Need { request: plugin.raised(&asks.upto), over: plugin.raised(&asks.over) })
        }
        // What cannot be read is told to the job; until then it counts as the plugin's own.
        Ok(Meaning::Default) | Err(_) => Some(Need::from(plugin.clone())),
    }
}

/// What a host says to a job of this lane. `exact`: what the job asks for beyond its plugin's request, where that is known;
/// a lane's class only says it in steps.
pub fn explain(lane: &Lane, exact: Option<&ResourceRequest>, host: &AgentStatus) -> Answer {
    let Some(plugin) = host.plugins.iter().find(|plugin| plugin.name == lane.plugin) else {
        return Answer::NotInstalled;
    };
    if host.state == AgentState::Draining {
        return Answer::Draining {
            reason: host.drain.as_ref().map(|d| d.reason.clone()).unwrap_or_default(),
        };
    }
    if plugin.state != PluginState::Ready {
        return Answer::NotReady { state: plugin.state, reason: plugin.reason.clone() };
    }
    let need = need(lane, &plugin.resources);
    let known = need.as_ref().map(|need| hosts::only_known(need, host));
    let exact = exact.filter(|_| need.is_some()).map(|exact| Need::from(plugin.resources.raised(exact)));
    let exact = exact.map(|exact| hosts::only_known(&exact, host));
    for (need, _) in exact.iter().chain(&known) {
        if let Err(lack) = place_when_empty(need, &host.room()) {
            return Answer::Never(lack);
        }
    }
    let answer = start(lane, plugin, known.as_ref().map(|(need, _)| need), host);
    match (answer, known.and_then(|(_, unknown)| unknown)) {
        (Answer::Now(Start::Cold | Start::Evicting(_)), Some(unknown)) => Answer::Perhaps { unknown },
        (answer, _) => answer,
    }
}

fn start(lane: &Lane, plugin: &PluginStatus, need: Option<&Need>, host: &AgentStatus) -> Answer {
    let places = Places::of(plugin, need, host);
    if places.free_now {
        return Answer::Now(Start::Warm);
    }
    if plugin.slots > 0 && plugin.running >= plugin.slots {
        return Answer::Busy(Wait::Full { slots: plugin.slots });
    }
    if places.starting {
        return Answer::Busy(Wait::Starting);
    }
    if places.all_there {
        return Answer::Busy(Wait::Full { slots: plugin.slots });
    }
    let Some(need) = need else { return Answer::Now(Start::Cold) };
    let now = host.room();
    let Err(lack) = place(need, &now) else {
        return saved(lane, need, &now, host).unwrap_or(Answer::Now(Start::Cold));
    };
    let idle = hosts::evictable(plugin, need, host);
    for count in 1..=idle.len() {
        let room = hosts::without(&idle[..count], host);
        if place(need, &room).is_ok() {
            let mut left: Vec<PluginName> = idle[..count].iter().map(|idle| idle.plugin.clone()).collect();
            left.sort();
            left.dedup();
            return saved(lane, need, &room, host).unwrap_or(Answer::Now(Start::Evicting(left)));
        }
    }
    let idle = hosts::holders(&lack, &idle);
    Answer::Busy(Wait::Lack { lack, idle })
}

/// Whether the only place is one that the host keeps for another queue.
fn saved(lane: &Lane, need: &Need, room: &crate::fit::Room, host: &AgentStatus) -> Option<Answer> {
    let saving = host.saving.as_ref()?;
    let queue = Queue::parse(&saving.queue.replace('/', ":"));
    let own = queue.as_ref().is_some_and(|queue| queue.lane == *lane);
    // A more urgent job does not wait for it.
    let above = queue.is_some_and(|queue| lane.priority < queue.lane.priority);
    if own || above || need.request.gpus == 0 {
        return None;
    }
    let mut rest = room.clone();
    for device in rest.devices.iter_mut().filter(|device| saving.gpus.contains(&device.uuid)) {
        (device.free_mb, device.exclusive) = (0, true);
    }
    place(need, &rest).err()?;
    Some(Answer::Busy(Wait::Saved { queue: saving.queue.clone(), left_ms: saving.left_ms }))
}

/// Why no host can start a job now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Which plugin.
    pub plugin: PluginName,
    /// What the job needs, in words; empty: nothing but the plugin.
    pub needed: String,
    /// What each host says, by name.
    pub hosts: Vec<(AgentName, Answer)>,
}

/// Hosts that a refusal names at most.
const NAMED: usize = 16;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no host can start `{}` now", self.plugin)?;
        if !self.needed.is_empty() {
            write!(f, "; it needs {}", self.needed)?;
        }
        if self.hosts.is_empty() {
            return f.write_str("; no agent is there");
        }
        self.hosts.iter().take(NAMED).try_for_each(|(agent, answer)| write!(f, "; `{agent}`: {answer}"))?;
        match self.hosts.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, "; {more} more hosts"),
        }
    }
}

/// Whether some host could start a job of this lane now; `exact` as for `explain`. What is not known of a host counts for it; the answer then has
/// what is to be said about that.
pub fn look(
    lane: &Lane,
    exact: Option<&ResourceRequest>,
    hosts: &[AgentStatus],
) -> Result<Vec<String>, Refusal> {
    let said: Vec<(AgentName, Answer)> =
        hosts.iter().map(|host| (host.agent.clone(), explain(lane, exact, host))).collect();
    if said.iter().any(|(_, answer)| matches!(answer, Answer::Now(_))) {
        return Ok(Vec::new());
    }
    let perhaps = said.iter().filter(|(_, answer)| matches!(answer, Answer::Perhaps { .. }));
    let warnings: Vec<String> = perhaps.map(|(agent, answer)| format!("`{agent}` {answer}")).collect();
    if !warnings.is_empty() {
        return Ok(warnings);
    }
    let plugins = hosts.iter().flat_map(|host| &host.plugins).filter(|plugin| plugin.name == lane.plugin);
    let request = plugins.map(|plugin| &plugin.resources).next().cloned().unwrap_or_default();
    let needed = need(lane, &request).map(|need| match exact {
        Some(exact) => hosts::words(&request.raised(exact)),
        None => hosts::words(&need.request),
    });
    let needed = needed.unwrap_or_default();
    Err(Refusal { plugin: lane.plugin.clone(), needed, hosts: said })
}

#[cfg(test)]
mod tests;
