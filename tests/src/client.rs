//! A client as tests use it: submit, wait, look.

use crate::eventually::eventually;
use grange_broker_client::connect::Broker;
use grange_broker_client::ledger::Ledger;
use grange_broker_client::query;
use grange_broker_client::submit::{Submission, submit};
use grange_protocol::failure::Failure;
use grange_protocol::json::Json;
use grange_protocol::name::{Class, Owner, PluginName};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Record, State};
use grange_protocol::status::{AgentStatus, PluginState};
use grange_protocol::subject::{JobKey, Lane};
use grange_protocol::ticket::{Priority, Ticket};
use serde_json::Value;
use std::time::Duration;

/// How long anything that should happen soon may take.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// One owner's connection.
#[derive(Clone)]
pub struct Client {
    /// The broker.
    pub broker: Broker,
    /// The records.
    pub ledger: Ledger,
    /// Who submits.
    pub owner: Owner,
}

impl Client {
    /// A client on a connection.
    pub fn new(broker: Broker, owner: &str) -> Self {
        Self { ledger: Ledger::new(&broker), broker, owner: Owner::new(owner).expect("a name") }
    }

    /// The normal lane of a plugin.
    pub fn lane(plugin: &str) -> Lane {
        Lane {
            priority: Priority::Normal,
            plugin: PluginName::new(plugin).expect("a name"),
            class: Class::plugin_default(),
        }
    }

    /// A submission with these named arguments.
    pub fn submission(&self, plugin: &str, kwargs: &Value) -> Submission {
        let ticket = Ticket { kwargs: Some(Json::from(kwargs)), ..Ticket::default() };
        Submission { owner: self.owner.clone(), job: None, lane: Self::lane(plugin), ticket, max_wait: None }
    }

    /// Submits with named arguments.
    pub async fn submit(&self, plugin: &str, kwargs: &Value) -> JobKey {
        self.send(self.submission(plugin, kwargs)).await
    }

    /// Submits.
    pub async fn send(&self, submission: Submission) -> JobKey {
        submit(&self.broker, &self.ledger, submission).await.expect("the job is accepted").key
    }

    /// The job's record, if there is one.
    pub async fn record(&self, key: &JobKey) -> Option<Box<Record>> {
        match self.ledger.read(key).await.expect("the leader answers") {
            Stored::Record { record, .. } => Some(record),
            Stored::Nothing | Stored::Marker { .. } => None,
        }
    }

    /// Waits until the job is in this state.
    pub async fn reaches(&self, key: &JobKey, state: State) -> Box<Record> {
        eventually(&format!("job {key} is {state}"), SOON, async || match self.record(key).await {
            Some(record) if record.state == state => Ok(record),
            Some(record) => Err(format!("it is {}: {:?}", record.state, record.outcome)),
            None => Err("it has no record".to_owned()),
        })
        .await
    }

    /// Waits for the job's end, whichever it is.
    pub async fn end(&self, key: &JobKey) -> Box<Record> {
        eventually(&format!("job {key} ends"), SOON, async || match self.record(key).await {
            Some(record) if record.state.is_terminal() => Ok(record),
            Some(record) => Err(format!("it is {}", record.state)),
            None => Err("it has no record".to_owned()),
        })
        .await
    }

    /// Submits and waits for the end.
    pub async fn run(&self, plugin: &str, kwargs: &Value) -> Box<Record> {
        let key = self.submit(plugin, kwargs).await;
        self.end(&key).await
    }

    /// An agent's heartbeat.
    pub async fn agent(&self, name: &str) -> Option<AgentStatus> {
        let agents = query::agents(&self.broker).await.expect("the agents can be listed");
        agents.into_iter().map(|(status, _)| status).find(|status| status.agent.as_str() == name)
    }

    /// Waits until no plugin of an agent is being prepared any more.
    pub async fn wait_for_plugins(&self, name: &str) -> AgentStatus {
        eventually(&format!("agent {name} is prepared"), SOON, async || match self.agent(name).await {
            None => Err("it has no heartbeat".to_owned()),
            Some(status) => match status.plugins.iter().find(|p| p.state == PluginState::Preparing) {
                Some(plugin) => Err(format!("`{}` is being prepared", plugin.name)),
                None => Ok(status),
            },
        })
        .await
    }
}

/// What a job that ended came to.
pub trait Returned {
    /// The result of a job that succeeded, inline.
    fn value(&self) -> Value;
    /// Why a job failed.
    fn failure(&self) -> &Failure;
}

impl Returned for Record {
    fn value(&self) -> Value {
        let outcome = self.outcome.as_ref().expect("an ended job has an outcome");
        assert_eq!(self.state, State::Succeeded, "{:?}", outcome.failure);
        outcome.result.as_ref().map_or(Value::Null, Json::value)
    }

    fn failure(&self) -> &Failure {
        let outcome = self.outcome.as_ref().expect("an ended job has an outcome");
        assert_eq!(self.state, State::Failed, "{outcome:?}");
        outcome.failure.as_ref().expect("a failed job has a failure")
    }
}
