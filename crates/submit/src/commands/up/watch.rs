//! What the farm's agents say of themselves, told when it changes.

use crate::context::Session;
use crate::failure::Failure;
use crate::output::Output;
use crate::output::words::FarmNews;
use grange_broker_client::query;
use grange_protocol::name::{AgentName, Incarnation, PluginName};
use grange_protocol::status::{AgentStatus, PluginState};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// Longest time for one reading of the heartbeats.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was told already.
pub(super) struct Watch {
    log: PathBuf,
    /// Heartbeats of agents that came up before this are of a farm that ended.
    since_ms: u64,
    agents: BTreeMap<AgentName, Incarnation>,
    notices: BTreeSet<String>,
    plugins: BTreeMap<(AgentName, PluginName), (PluginState, String)>,
    is_ready: bool,
}

impl Watch {
    pub(super) fn new(log: PathBuf, since_ms: u64) -> Self {
        Self {
            log,
            since_ms,
            agents: BTreeMap::new(),
            notices: BTreeSet::new(),
            plugins: BTreeMap::new(),
            is_ready: false,
        }
    }

    /// Whether an agent was ever heard of.
    pub(super) fn has_seen_agent(&self) -> bool {
        !self.agents.is_empty()
    }

    /// Reads the heartbeats, and tells what is new. A broker that does not answer now will later.
    pub(super) async fn look(&mut self, session: &Session, output: &mut dyn Output) -> Result<(), Failure> {
        // A broker that has ended must not keep anybody from seeing that.
        match timeout(PATIENCE, query::agents(&session.broker)).await {
            Ok(Ok(agents)) => {
                let since_ms = self.since_ms;
                for (status, _) in agents.iter().filter(|(status, _)| status.started_ms >= since_ms) {
                    for news in self.news(status) {
                        output.farm(&news)?;
                    }
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "heartbeats were not read"),
            Err(error) => tracing::debug!(%error, "heartbeats were not read"),
        }
        Ok(())
    }

    fn news(&mut self, status: &AgentStatus) -> Vec<FarmNews> {
        let mut news = Vec::new();
        let before = self.agents.insert(status.agent.clone(), status.incarnation.clone());
        if before.as_ref() != Some(&status.incarnation) {
            news.push(FarmNews::Agent { status: Box::new(status.clone()), log: self.log.clone() });
            self.is_ready = false;
        }
        for notice in &status.notices {
            if self.notices.insert(notice.clone()) {
                news.push(FarmNews::Notice { text: notice.clone() });
            }
        }
        for plugin in &status.plugins {
            let now = (plugin.state, plugin.reason.clone());
            let key = (status.agent.clone(), plugin.name.clone());
            if self.plugins.insert(key, now.clone()) != Some(now) {
                news.push(FarmNews::Plugin {
                    name: plugin.name.clone(),
                    version: plugin.version.clone(),
                    state: plugin.state,
                    reason: plugin.reason.clone(),
                });
            }
        }
        let count = |state| status.plugins.iter().filter(|plugin| plugin.state == state).count();
        if !self.is_ready && count(PluginState::Preparing) == 0 {
            self.is_ready = true;
            news.push(FarmNews::Ready { plugins: status.plugins.len(), failed: count(PluginState::Failed) });
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::status::PluginStatus;

    fn words(news: &[FarmNews]) -> Vec<String> {
        let word = |news: &FarmNews| match news {
            FarmNews::Agent { .. } => "agent".to_owned(),
            FarmNews::Plugin { name, state, .. } => format!("{name} {}", state.as_str()),
            FarmNews::Ready { plugins, failed } => format!("ready {plugins} {failed}"),
            FarmNews::Notice { text } => text.clone(),
            other => format!("{other:?}"),
        };
        news.iter().map(word).collect()
    }

    #[test]
    fn only_what_is_new_is_told() {
        let mut watch = Watch::new("log".into(), 0);
        let mut status = AgentStatus::silent("a".parse().unwrap());
        status.notices.push("bad manifest".into());
        status.plugins.push(PluginStatus {
            name: "ocr".parse().unwrap(),
            version: "1".into(),
            description: String::new(),
            category: String::new(),
            state: PluginState::Preparing,
            reason: "building".into(),
            workers: 0,
            running: 0,
            slots: 0,
            resources: Default::default(),
            peak_vram_mb: None,
            start_ms: None,
        });
        assert_eq!(words(&watch.news(&status)), ["agent", "bad manifest", "ocr preparing"]);
        assert!(watch.news(&status).is_empty());
        status.plugins[0].state = PluginState::Ready;
        assert_eq!(words(&watch.news(&status)), ["ocr ready", "ready 1 0"]);
        assert!(watch.news(&status).is_empty());
        status.incarnation = "second".parse().unwrap();
        assert_eq!(words(&watch.news(&status)), ["agent", "ready 1 0"]);
    }
}
