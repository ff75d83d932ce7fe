//! The housekeeper's overview as this agent reads it: what of it the dispatcher is told, and who lives.
//!
//! Never writes it, and never believes an old one: its age is told by the broker's clock. Reading it is `reader`'s.

pub mod reader;

use crate::clock::boot_ms;
use grange_dispatch::Facts;
use grange_protocol::facts::{OVERVIEW_STALE_MS, Overview};
use grange_protocol::name::{AgentName, Owner, PluginName};
use grange_protocol::status::{AgentState, AgentStatus, WorkerState};
use grange_protocol::subject::Queue;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// So many heartbeats of one's own are remembered: more than an overview that is believed can be old.
const BEATS_KEPT: usize = 128;
/// Agents that are remembered as gone, at most.
const GONE_KEPT: usize = 10_000;

/// Plugins of which an agent has a worker that is loaded and takes jobs. A busy one counts: it may be free again long before
/// the next overview, and what others wait for its sake is a small part of a start.
pub fn loaded(status: &AgentStatus) -> BTreeSet<PluginName> {
    if status.state == AgentState::Draining {
        return BTreeSet::new();
    }
    let up = status.workers.iter().filter(|w| matches!(w.state, WorkerState::Idle | WorkerState::Busy));
    up.map(|worker| worker.plugin.clone()).collect()
}

/// Attempts that an agent holds, by owner.
pub fn running(status: &AgentStatus) -> BTreeMap<Owner, u32> {
    let mut running = BTreeMap::new();
    for held in &status.attempts {
        *running.entry(held.owner.clone()).or_default() += 1;
    }
    running
}

/// What one heartbeat added to an overview.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    loaded: BTreeSet<PluginName>,
    running: BTreeMap<Owner, u32>,
}

impl Share {
    /// Of this heartbeat.
    pub fn of(status: &AgentStatus) -> Self {
        Self { loaded: loaded(status), running: running(status) }
    }
}

/// What this agent said of itself lately: it is in the overview too, and has to be taken out of it again.
#[derive(Clone, Debug, Default)]
pub struct Own(Arc<Mutex<VecDeque<(u64, Share)>>>);

impl Own {
    /// A heartbeat is sent.
    pub fn says(&self, status: &AgentStatus) {
        self.says_at(boot_ms(), Share::of(status));
    }

    fn says_at(&self, at_ms: u64, share: Share) {
        let mut beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beats.push_back((at_ms, share));
        if beats.len() > BEATS_KEPT {
            beats.pop_front();
        }
    }

    /// What had been said by then.
    fn at(&self, at_ms: u64) -> Share {
        let beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = beats.iter().rev().find(|(sent_ms, _)| *sent_ms <= at_ms);
        said.map(|(_, share)| share.clone()).unwrap_or_default()
    }
}

/// An overview that may be believed.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// What it says.
    pub overview: Overview,
    /// When it was made, milliseconds since this host booted.
    pub made_ms: u64,
    /// Since when this agent has read overviews, milliseconds since this host booted.
    since_ms: u64,
    /// Agents that lived once, and the first overview that does not list them any more.
    gone: BTreeMap<AgentName, u64>,
}

impl Reading {
    /// How old it is, milliseconds.
    pub fn age_ms(&self) -> u64 {
        boot_ms().saturating_sub(self.made_ms)
    }

    /// Whether it still says something.
    pub fn is_fresh(&self) -> bool {
        self.age_ms() <= OVERVIEW_STALE_MS
    }

    /// For how long an agent is known not to live, milliseconds: by every overview that was read. None: it lives.
    pub fn gone_ms(&self, agent: &AgentName) -> Option<u64> {
        if self.overview.agents.contains(agent) {
            return None;
        }
        let since = self.gone.get(agent).copied().unwrap_or(self.since_ms);
        Some(self.made_ms.saturating_sub(since))
    }

    /// The reading after this one.
    #[must_use]
    pub fn followed_by(&self, overview: Overview, made_ms: u64) -> Self {
        let mut gone = self.gone.clone();
        gone.retain(|agent, _| !overview.agents.contains(agent));
        let left = self.overview.agents.iter().filter(|agent| !overview.agents.contains(agent));
        for agent in left.take(GONE_KEPT.saturating_sub(gone.len())) {
            gone.entry(agent.clone()).or_insert(made_ms);
        }
        let since_ms = if self.since_ms == 0 { made_ms } else { self.since_ms };
        Self { overview, made_ms, since_ms, gone }
    }
}

/// The newest overview that was read; None: none yet.
pub type Latest = watch::Receiver<Option<Arc<Reading>>>;

/// What an overview says to an agent that said `own` of itself when it was made, `age_ms` ago.
pub fn facts(overview: &Overview, own: &Share, age_ms: u64) -> Facts {
    let waiting = overview.queues.iter().filter_map(|fact| {
        let queue = Queue::parse(&fact.queue)?;
        Some((queue, fact.oldest_ms.saturating_add(age_ms)))
    });
    let warm = overview
        .warm
        .iter()
        .filter(|(plugin, agents)| **agents > u32::from(own.loaded.contains(plugin.as_str())));
    let running = overview.running.iter().filter_map(|(owner, all)| {
        let others = all.saturating_sub(own.running.get(owner).copied().unwrap_or(0));
        (others > 0).then(|| (owner.clone(), others))
    });
    Facts {
        waiting: waiting.collect(),
        warm_elsewhere: warm.map(|(plugin, _)| plugin.clone()).collect(),
        running_elsewhere: running.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::facts::QueueFact;
    use grange_protocol::status::{HeldAttempt, WorkerStatus};

    fn name(text: &str) -> AgentName {
        text.parse().unwrap()
    }

    fn worker(plugin: &str, state: WorkerState) -> WorkerStatus {
        let text = format!(r#"{{"plugin":"{plugin}","state":"{}"}}"#, state.as_str());
        serde_json::from_str(&text).unwrap()
    }

    fn attempt(owner: &str, claim: u64) -> HeldAttempt {
        let job = format!("j{claim}").parse().unwrap();
        HeldAttempt { owner: owner.parse().unwrap(), job, number: 1, claim, plugin: None }
    }

    fn status() -> AgentStatus {
        AgentStatus {
            workers: vec![
                worker("ocr", WorkerState::Busy),
                worker("ocr", WorkerState::Idle),
                worker("asr", WorkerState::Starting),
                worker("tts", WorkerState::Ending),
            ],
            attempts: vec![attempt("alice", 1), attempt("alice", 2), attempt("bob", 3)],
            ..AgentStatus::silent(name("h1"))
        }
    }

    fn overview(agents: &[&str]) -> Overview {
        Overview {
            v: 1,
            at_ms: 0,
            queues: vec![
                QueueFact { queue: "default:high:ocr:alice".to_owned(), waiting: 3, oldest_ms: 70 },
                QueueFact { queue: "of a newer shape".to_owned(), waiting: 1, oldest_ms: 1 },
            ],
            warm: [("ocr", 1), ("asr", 2)].map(|(p, n)| (p.parse().unwrap(), n)).into(),
            running: [("alice", 5), ("bob", 1)].map(|(o, n)| (o.parse().unwrap(), n)).into(),
            agents: agents.iter().map(|agent| name(agent)).collect(),
        }
    }

    #[test]
    fn only_loaded_workers_of_agents_that_stay_are_warm() {
        assert_eq!(loaded(&status()), [PluginName::new("ocr").unwrap()].into());
        let leaves = AgentStatus { state: AgentState::Draining, ..status() };
        assert_eq!(loaded(&leaves), BTreeSet::new());
    }

    #[test]
    fn this_agent_is_taken_out_of_what_the_farm_has() {
        let told = facts(&overview(&["h1"]), &Share::of(&status()), 30);
        let queue = Queue::parse("default:high:ocr:alice").unwrap();
        assert_eq!(told.waiting, [(queue, 100)].into());
        assert_eq!(told.warm_elsewhere, [PluginName::new("asr").unwrap()].into());
        assert_eq!(told.running_elsewhere, [(Owner::new("alice").unwrap(), 3)].into());
        let stranger = facts(&overview(&["h1"]), &Share::default(), 30);
        assert_eq!(stranger.warm_elsewhere.len(), 2);
    }

    #[test]
    fn what_was_said_when_the_overview_was_made_counts() {
        let own = Own::default();
        own.says_at(100, Share::of(&status()));
        own.says_at(200, Share::default());
        assert_eq!(own.at(99), Share::default());
        assert_eq!(own.at(199), Share::of(&status()));
        assert_eq!(own.at(200), Share::default());
    }

    #[test]
    fn an_agent_is_gone_since_the_first_overview_without_it() {
        let first = Reading::default().followed_by(overview(&["h1", "h2"]), 1_000);
        let second = first.followed_by(overview(&["h1"]), 3_000);
        let third = second.followed_by(overview(&["h1"]), 50_000);
        assert_eq!(third.gone_ms(&name("h1")), None);
        assert_eq!(second.gone_ms(&name("h2")), Some(0));
        assert_eq!(third.gone_ms(&name("h2")), Some(47_000));
        assert_eq!(third.gone_ms(&name("never-seen")), Some(49_000));
        let back = third.followed_by(overview(&["h1", "h2"]), 52_000);
        let gone_again = back.followed_by(overview(&["h1"]), 54_000);
        assert_eq!((back.gone_ms(&name("h2")), gone_again.gone_ms(&name("h2"))), (None, Some(0)));
    }
}
