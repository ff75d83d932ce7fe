//! Everything that a follower of one job was told, to the end.

use crate::client::Client;
use grange_broker_client::follow::{Follow, Since, Update};
use grange_protocol::event::{Dropped, LogLine, Progress};
use grange_protocol::record::{Record, State};
use grange_protocol::subject::JobKey;
use serde_json::Value;
use std::time::Duration;

/// How long a job that is followed may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What a follower heard.
#[derive(Debug, Default)]
pub struct Story {
    /// Chunks of the attempt that counts: index, the event's sequence, value.
    pub chunks: Vec<(u64, u64, Value)>,
    /// Lines that were printed.
    pub logs: Vec<LogLine>,
    /// Progress.
    pub progress: Vec<Progress>,
    /// What was left out.
    pub dropped: Vec<Dropped>,
    /// States before the end.
    pub states: Vec<State>,
    /// How many attempts it heard of.
    pub attempts: usize,
    /// The end.
    pub end: Option<Box<Record>>,
}

impl Story {
    /// The chunks' values.
    pub fn values(&self) -> Vec<Value> {
        self.chunks.iter().map(|(_, _, value)| value.clone()).collect()
    }

    /// The lines of one stream.
    pub fn lines(&self, stream: &str) -> Vec<&str> {
        self.logs.iter().filter(|log| log.stream == stream).map(|log| log.line.as_str()).collect()
    }

    /// The record that ended it.
    pub fn record(&self) -> &Record {
        self.end.as_ref().expect("a followed job has ended")
    }

    /// Takes one update in.
    pub fn take(&mut self, update: Update) {
        match update {
            Update::State { record, .. } => self.states.extend(record.map(|record| record.state)),
            Update::Attempt { .. } => {
                self.attempts += 1;
                self.chunks.clear();
            }
            Update::Chunk { index, sequence, value, .. } => {
                self.chunks.push((index, sequence, value.value()));
            }
            Update::Progress { progress, .. } => self.progress.push(progress),
            Update::Log { line, .. } => self.logs.push(line),
            Update::Dropped { dropped, .. } => self.dropped.push(dropped),
            Update::End(record) => self.end = Some(record),
            other => panic!("an update of an unknown kind: {other:?}"),
        }
    }
}

impl Client {
    /// Begins to follow a job.
    pub async fn follow(&self, key: &JobKey, since: Since) -> Follow {
        Follow::start(&self.broker, key, since).await.expect("a job can be followed")
    }

    /// Follows a job to its end.
    pub async fn story(&self, key: &JobKey, since: Since) -> Story {
        let follow = self.follow(key, since).await;
        self.rest(follow).await
    }

    /// Hears the rest of what a follower is told.
    pub async fn rest(&self, mut follow: Follow) -> Story {
        let mut story = Story::default();
        let heard = tokio::time::timeout(LIMIT, async {
            while let Some(update) = follow.next().await.expect("following goes on") {
                story.take(update);
            }
        });
        let in_time = heard.await;
        assert!(in_time.is_ok(), "the job did not end within {LIMIT:?}: {story:?}");
        story
    }
}
