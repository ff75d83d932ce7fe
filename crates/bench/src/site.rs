//! The farm that is measured: real processes, the same as a user's.

use anyhow::Result;
use grange_broker_client::outcomes::Outcomes;
use grange_broker_client::submit::{Submission, new_job_id, submit_later};
use grange_local_farm::options::SyncInterval;
use grange_protocol::json::Json;
use grange_protocol::record::{Record, State};
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Ticket;
use grange_tests::{Agent, Client, Farm, FarmOptions, repository};
use serde_json::Value;
use std::path::PathBuf;

/// A farm with one agent that has both echo plugins.
pub(crate) struct Site {
    /// The farm.
    pub(crate) farm: Farm,
    /// Its agent.
    pub(crate) agent: Agent,
    /// Who submits.
    pub(crate) client: Client,
}

/// The plugins that are measured.
pub(crate) const PLUGINS: [(&str, &str); 2] = [("python", "echo"), ("rust", "echo-rust")];

impl Site {
    /// Starts a farm.
    pub(crate) async fn open(sync: SyncInterval) -> Result<Self> {
        let farm = Farm::with(FarmOptions { sync }).await;
        let agent = farm.agent("bench", &plugin_folders()).await;
        let client = farm.client("bench").await;
        Ok(Self { farm, agent, client })
    }

    /// A job for a plugin.
    pub(crate) fn submission(&self, plugin: &str, kwargs: &Value, stream: bool) -> Submission {
        let ticket = Ticket { kwargs: Some(Json::from(kwargs)), stream: Some(stream), ..Ticket::default() };
        Submission {
            owner: self.client.owner.clone(),
            job: Some(new_job_id()),
            lane: Client::lane(plugin),
            ticket,
            max_wait: None,
        }
    }

    /// The name of a submission's job.
    pub(crate) fn key(&self, submission: &Submission) -> JobKey {
        let job = submission.job.clone().unwrap_or_else(new_job_id);
        JobKey { owner: submission.owner.clone(), job }
    }

    /// Submits, and waits for the outcome.
    pub(crate) async fn run(&self, outcomes: &Outcomes, submission: Submission) -> Result<Box<Record>> {
        let ended = outcomes.wait(&self.key(&submission));
        let (_, accepted) = submit_later(&self.client.broker, &self.client.ledger, submission).await?;
        tokio::spawn(accepted);
        let record = ended.await?;
        anyhow::ensure!(
            record.state == State::Succeeded,
            "a job ended {}: {:?}",
            record.state,
            record.outcome
        );
        Ok(record)
    }

    /// Waits for outcomes.
    pub(crate) async fn outcomes(&self) -> Result<Outcomes> {
        Ok(Outcomes::open(&self.client.broker, &self.client.owner).await?)
    }
}

/// Both echo plugins, each in a folder of its own.
pub(crate) fn plugin_folders() -> Vec<PathBuf> {
    PLUGINS.map(|(_, name)| repository().join("examples/plugins").join(name)).to_vec()
}
