//! The heartbeat: what this agent says of itself, stored with a time to live. Its answer renews the lease.

use crate::clock::boot_ns;
use crate::lease::Lease;
use crate::news::HouseEvent;
use async_nats::HeaderMap;
use grange_broker_client::connect::Broker;
use grange_broker_client::publish;
use grange_protocol::status::{AgentStatus, HEARTBEAT_TTL_S};
use grange_protocol::subject::{JobKey, TTL_HEADER, heartbeat};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Puts one heartbeat; when the broker has it, the lease counts from now, the moment of sending.
pub async fn beat(broker: Broker, status: AgentStatus, lease: Arc<Lease>, news: mpsc::Sender<HouseEvent>) {
    let sent_ns = boot_ns();
    let mut headers = HeaderMap::new();
    headers.insert(TTL_HEADER, format!("{HEARTBEAT_TTL_S}s"));
    let body = serde_json::to_vec(&status).unwrap_or_default();
    let sent = publish::send(&broker, heartbeat(&status.agent), headers, body.into()).await;
    let stored = match sent {
        Ok(pending) => pending.stored().await,
        Err(error) => Err(error),
    };
    match stored {
        Ok(_) => {
            lease.renewed(sent_ns);
            let _ = news.send(HouseEvent::Renewed).await;
        }
        Err(error) => tracing::warn!(%error, "heartbeat not stored"),
    }
}

/// Takes the heartbeat away: the agent leaves. A farewell that is lost is made good by the time to live.
pub async fn farewell(broker: &Broker, status: &AgentStatus) {
    let mut headers = HeaderMap::new();
    headers.insert("KV-Operation", "PURGE");
    headers.insert("Nats-Rollup", "sub");
    headers.insert(TTL_HEADER, "60s");
    let sent = publish::send(broker, heartbeat(&status.agent), headers, bytes::Bytes::new()).await;
    let answer = match sent {
        Ok(pending) => pending.stored().await,
        Err(error) => Err(error),
    };
    if let Err(error) = answer {
        tracing::debug!(%error, "farewell not stored");
    }
}

/// Up to which state sequence the list of held attempts is complete.
#[derive(Debug, Default)]
pub struct Coverage {
    highest: u64,
    under_way: HashMap<JobKey, u64>,
}

impl Coverage {
    /// A claim is sent: whatever it gets is above what was seen so far.
    pub fn claiming(&mut self, key: &JobKey) {
        self.under_way.insert(key.clone(), self.highest);
    }

    /// A claim was decided; `sequence` is what it got.
    pub fn claimed(&mut self, key: &JobKey, sequence: Option<u64>) {
        self.under_way.remove(key);
        self.highest = self.highest.max(sequence.unwrap_or(0));
    }

    /// Every claim of this life up to here is listed or over.
    pub fn covers(&self) -> u64 {
        self.under_way.values().copied().min().unwrap_or(self.highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::name::{JobId, Owner};

    #[test]
    fn a_claim_under_way_holds_the_cover_down() {
        let key = |id: &str| JobKey { owner: Owner::new("o").unwrap(), job: JobId::new(id).unwrap() };
        let mut coverage = Coverage::default();
        coverage.claiming(&key("a"));
        coverage.claimed(&key("a"), Some(7));
        assert_eq!(coverage.covers(), 7);
        coverage.claiming(&key("b"));
        coverage.claiming(&key("c"));
        coverage.claimed(&key("c"), Some(9));
        assert_eq!(coverage.covers(), 7, "`b` may have got 8");
        coverage.claimed(&key("b"), None);
        assert_eq!(coverage.covers(), 9);
    }
}
