//! Which faults a seed stands for: a pure list, made before anything runs, that ends with everything healed.
//!
//! Owns the words for faults and how often each comes. Never performs one.

mod chance;

pub use chance::Chance;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Something that goes wrong. `target` of [`Planned`] says with whom: the agent, the server, the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// `kill -9` of an agent; it is started again at the end.
    KillAgent,
    /// An agent is asked to end (SIGTERM), and started again at the end.
    StopAgent,
    /// SIGSTOP of an agent, SIGCONT at the end.
    FreezeAgent,
    /// SIGKILL of a worker process of an agent.
    KillWorker,
    /// SIGSTOP of a worker process, SIGCONT at the end.
    FreezeWorker,
    /// Nothing passes between an agent and the broker.
    CutAgent,
    /// Nothing passes from an agent to the broker.
    MuteAgent,
    /// Nothing passes from the broker to an agent.
    DeafenAgent,
    /// The agent's connections are reset, and new ones refused until the end.
    RefuseAgent,
    /// What an agent and the broker say to each other is late.
    SlowAgent,
    /// What the broker answers the clients is lost: their writes are stored, and they do not learn it.
    DeafenClients,
    /// The clients' connections are reset, and new ones refused until the end.
    RefuseClients,
    /// `kill -9` of a server; started again at the end.
    KillBroker,
    /// A server is asked to end, and started again at the end.
    StopBroker,
    /// SIGSTOP of a server, SIGCONT at the end.
    FreezeBroker,
    /// The tickets of some living jobs are deleted.
    DeleteTickets,
    /// What a zombie would write: records and events of attempts that are over, acknowledgements of old deliveries.
    WriteStale,
    /// A GPU reports an XID error.
    Xid,
    /// A GPU falls off the bus; it is back at the end.
    LoseGpu,
    /// NVML does not return, until the end.
    HangNvml,
}

/// One fault of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// When it begins, after the start.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
    /// Which agent or server, counted round.
    pub target: usize,
    /// How long.
    pub for_ms: u64,
}

/// Everything that repeats a run: the seed makes the work, the list the faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The seed.
    pub seed: u64,
    /// How long jobs are submitted and things go wrong, seconds.
    pub secs: u64,
    /// How many agents.
    pub agents: usize,
    /// How many servers: 1 or 3.
    pub brokers: usize,
    /// Jobs submitted a second, in hundredths.
    pub rate_centi: u64,
    /// The faults.
    pub faults: Vec<Planned>,
}

/// Which kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// None: what must hold when nothing goes wrong.
    Calm,
    /// Connections.
    Net,
    /// Agents and workers.
    Proc,
    /// Servers.
    Broker,
    /// Messages that should not be there.
    Wire,
    /// Tickets that are gone. Not part of `all`: see `docs/faults.md`.
    Tickets,
    /// GPUs and their driver.
    Gpu,
    /// Everything.
    All,
}

impl Profile {
    /// What belongs to it, with its weight.
    fn faults(self) -> Vec<(Fault, u64)> {
        use Fault::{
            CutAgent, DeafenAgent, DeafenClients, DeleteTickets, FreezeAgent, FreezeBroker, FreezeWorker,
            HangNvml, KillAgent, KillBroker, KillWorker, LoseGpu, MuteAgent, RefuseAgent, RefuseClients,
            SlowAgent, StopAgent, StopBroker, WriteStale, Xid,
        };
        match self {
            Self::Calm => Vec::new(),
            Self::Net => vec![
                (CutAgent, 5),
                (MuteAgent, 3),
                (DeafenAgent, 3),
                (RefuseAgent, 3),
                (SlowAgent, 2),
                (DeafenClients, 3),
                (RefuseClients, 2),
            ],
            Self::Proc => {
                vec![(KillAgent, 6), (StopAgent, 2), (FreezeAgent, 4), (KillWorker, 4), (FreezeWorker, 2)]
            }
            Self::Broker => vec![(KillBroker, 3), (StopBroker, 1), (FreezeBroker, 2)],
            Self::Wire => vec![(WriteStale, 4)],
            Self::Tickets => vec![(DeleteTickets, 1)],
            Self::Gpu => vec![(Xid, 1), (LoseGpu, 1), (HangNvml, 1)],
            Self::All => [Self::Net, Self::Proc, Self::Broker, Self::Wire, Self::Gpu]
                .into_iter()
                .flat_map(Self::faults)
                .collect(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = serde_json::to_value(self).expect("a fault is a word");
        f.write_str(word.as_str().expect("a fault is a word"))
    }
}

impl FromStr for Profile {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        serde_json::from_value(text.into()).map_err(|_| {
            format!("`{text}` is not a profile; use calm, net, proc, broker, wire, tickets, gpu or all")
        })
    }
}

/// Between two faults, on average, milliseconds.
const EVERY_MS: f64 = 3_000.0;
/// The first comes when the first jobs run.
const FIRST_MS: u64 = 1_500;
/// Every fault is over so long before the end of the run.
const LAST_MS: u64 = 1_000;
/// Short ones stay below the shortest lease (10 s), long ones go beyond it.
const SHORT_MS: (u64, u64) = (100, 4_000);
const LONG_MS: (u64, u64) = (11_000, 18_000);
/// One in so many is long.
const LONG_ONE_IN: u64 = 4;
/// A server is never away for longer.
const BROKER_AWAY_MAX_MS: u64 = 6_000;

/// The faults of a seed.
pub fn faults(seed: u64, profile: Profile, secs: u64, agents: usize, brokers: usize) -> Vec<Planned> {
    let mut chance = Chance::new(seed, 1);
    let kinds = profile.faults();
    let end_ms = (secs * 1_000).saturating_sub(LAST_MS);
    let mut list = Vec::new();
    let mut at_ms = FIRST_MS;
    while !kinds.is_empty() && at_ms < end_ms {
        let fault = *chance.weighted(&kinds);
        let (low, high) = if chance.between(1, LONG_ONE_IN) == 1 { LONG_MS } else { SHORT_MS };
        let mut for_ms = chance.between(low, high).min(end_ms - at_ms);
        let server = matches!(fault, Fault::KillBroker | Fault::StopBroker | Fault::FreezeBroker);
        if server {
            for_ms = for_ms.min(BROKER_AWAY_MAX_MS);
        }
        let target = chance.below(if server { brokers } else { agents });
        list.push(Planned { at_ms, fault, target, for_ms });
        at_ms += 200 + chance.around(EVERY_MS) as u64;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_list_and_every_list_ends_healed() {
        for seed in 0..500 {
            let list = faults(seed, Profile::All, 60, 4, 3);
            assert_eq!(list, faults(seed, Profile::All, 60, 4, 3));
            assert!(list.len() > 3, "{seed}: {list:?}");
            for fault in &list {
                assert!(fault.at_ms + fault.for_ms <= 60_000 - LAST_MS, "{seed}: {fault:?}");
                assert!(fault.target < 4);
            }
        }
        assert_ne!(faults(1, Profile::All, 60, 4, 1), faults(2, Profile::All, 60, 4, 1));
        assert!(faults(1, Profile::Calm, 60, 4, 1).is_empty());
    }

    #[test]
    fn every_fault_comes() {
        let seen: std::collections::BTreeSet<Fault> = (0..200)
            .flat_map(|seed| faults(seed, Profile::All, 60, 4, 3))
            .map(|planned| planned.fault)
            .collect();
        assert_eq!(seen.len(), 19, "{seen:?}");
        assert!(!seen.contains(&Fault::DeleteTickets));
    }

    #[test]
    fn a_schedule_is_read_back() {
        let faults = faults(7, Profile::Proc, 30, 3, 1);
        let schedule = Schedule { seed: 7, secs: 30, agents: 3, brokers: 1, rate_centi: 400, faults };
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule);
        assert_eq!("net".parse(), Ok(Profile::Net));
        assert!("nett".parse::<Profile>().is_err());
    }
}
