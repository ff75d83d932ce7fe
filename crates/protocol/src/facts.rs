//! What the farm knows of itself beyond heartbeats: the housekeeper's overview of queues and owners, what was learned of
//! plugins, and who may have how much running. All of it is advice or a count; records alone say whose a job is.

use crate::name::{AgentName, Incarnation, Owner, PluginName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Key of the overview in the lanes' bucket.
pub const OVERVIEW_KEY: &str = "overview";
/// Key in the lanes' bucket of the agent that has the housekeeper's duty.
pub const HOUSEKEEPER_KEY: &str = "housekeeper";
/// How often the overview is written, milliseconds.
pub const OVERVIEW_MS: u64 = 2_000;
/// An overview older than this says nothing, milliseconds.
pub const OVERVIEW_STALE_MS: u64 = 15_000;
/// How long the housekeeper's duty lasts without renewal, seconds.
pub const HOUSEKEEPER_TTL_S: u64 = 10;

/// One queue that holds tickets nobody was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueFact {
    /// The queue's consumer, `<class>:<priority>:<plugin>:<owner>`.
    pub queue: String,
    /// Tickets that wait.
    pub waiting: u64,
    /// How long the oldest of them waits, milliseconds.
    pub oldest_ms: u64,
}

/// The housekeeper's overview.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overview {
    /// Version of this shape; 1.
    pub v: u32,
    /// When it was made, Unix milliseconds of the broker's clock.
    pub at_ms: u64,
    /// Queues that are not empty.
    pub queues: Vec<QueueFact>,
    /// How many agents have a worker of a plugin that is loaded.
    pub warm: BTreeMap<PluginName, u32>,
    /// Attempts that each owner has running.
    pub running: BTreeMap<Owner, u32>,
    /// Agents that live.
    pub agents: Vec<AgentName>,
}

/// Who keeps house. Losing the duty is harmless: every act of it is a compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Housekeeper {
    /// Which agent.
    pub agent: AgentName,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// A host that keeps room free for a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Which agent.
    pub agent: AgentName,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// For which queue.
    pub queue: String,
}

/// How many attempts of one owner each agent runs; written by compare-and-set where an owner's number is limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunningByAgent(pub BTreeMap<AgentName, u32>);

impl RunningByAgent {
    /// Key of an owner's count in the lanes' bucket.
    pub fn key(owner: &Owner) -> String {
        format!("running.{owner}")
    }

    /// All of them.
    pub fn total(&self) -> u32 {
        self.0.values().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// What was learned of a plugin in one configuration on one model of GPU; kept in the plugins' bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learned {
    /// Highest memory that a worker was seen to use on one GPU, MiB.
    pub peak_vram_mb: u64,
    /// How long a worker takes until it is ready, milliseconds, smoothed.
    pub start_ms: u64,
    /// When it was written, Unix milliseconds.
    pub at_ms: u64,
}

impl Learned {
    /// Its key in the plugins' bucket. `configuration` is a digest; `model` a GPU's name, empty without one.
    pub fn key(plugin: &PluginName, configuration: &str, model: &str) -> String {
        let model: String = model
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let model = if model.is_empty() { "none".to_owned() } else { model };
        format!("learned.{plugin}.{configuration}.{model}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_only_what_a_subject_may_have() {
        let plugin = PluginName::new("ocr").unwrap();
        assert_eq!(Learned::key(&plugin, "0a1b", "NVIDIA A100 80GB"), "learned.ocr.0a1b.nvidia-a100-80gb");
        assert_eq!(Learned::key(&plugin, "0a1b", ""), "learned.ocr.0a1b.none");
    }
}
