//! What the broker alone can do with a job's path: publish, pull, publish the outcome, acknowledge, receive the
//! republished copy. Nothing of a job runner is in it; it is the base of every ratio.

use crate::figures::{Samples, per_second};
use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, consumer, stream};
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const JOBS: &str = "BENCH_RAW_JOBS";
const EVENTS: &str = "BENCH_RAW_EVENTS";
const LANE: &str = "lane";
const PAYLOAD_BYTES: usize = 128;
const PULL_BATCH: usize = 512;
/// Jobs under way in the pipelined run.
pub(crate) const WINDOW: usize = 512;

/// Measures on the server at `url`.
pub(crate) async fn measure(url: &str, one_by_one: usize, pipelined: usize) -> Result<Value> {
    let (submitter, agent) = (async_nats::connect(url).await?, async_nats::connect(url).await?);
    let js = jetstream::new(submitter.clone());
    make(&js).await?;
    let (mut alone, _) = chain(&submitter, &agent, one_by_one, 1).await?;
    let (_, elapsed) = chain(&submitter, &agent, pipelined, WINDOW).await?;
    js.delete_stream(JOBS).await?;
    js.delete_stream(EVENTS).await?;
    Ok(json!({"one_by_one": alone.summary(), "jobs_per_s": per_second(pipelined, elapsed), "window": WINDOW}))
}

async fn make(js: &jetstream::Context) -> Result<()> {
    let jobs = js
        .create_stream(stream::Config {
            name: JOBS.into(),
            subjects: vec!["benchraw.job.>".into()],
            retention: stream::RetentionPolicy::WorkQueue,
            ..Default::default()
        })
        .await?;
    js.create_stream(stream::Config {
        name: EVENTS.into(),
        subjects: vec!["benchraw.ev.*".into()],
        republish: Some(stream::Republish {
            source: "benchraw.ev.*".into(),
            destination: "benchraw.tail.{{wildcard(1)}}".into(),
            headers_only: false,
        }),
        ..Default::default()
    })
    .await?;
    jobs.create_consumer(consumer::pull::Config {
        durable_name: Some(LANE.into()),
        filter_subject: "benchraw.job.lane.*".into(),
        ack_policy: consumer::AckPolicy::Explicit,
        max_ack_pending: -1,
        ..Default::default()
    })
    .await?;
    Ok(())
}

/// The whole path with `window` jobs under way.
async fn chain(
    submitter: &Client,
    agent: &Client,
    jobs: usize,
    window: usize,
) -> Result<(Samples, Duration)> {
    let worker = tokio::spawn(work(agent.clone(), Lane::open(agent).await?, window));
    let mut tail = submitter.subscribe("benchraw.tail.*").await?;
    submitter.request("$JS.API.INFO", Bytes::new()).await?;
    let js = jetstream::new(submitter.clone());
    let begun = Instant::now();
    let mut sent_at = Vec::with_capacity(jobs);
    let mut samples = Samples::default();
    let mut done = 0;
    while done < jobs {
        while sent_at.len() < jobs && sent_at.len() - done < window {
            let n = sent_at.len();
            sent_at.push(Instant::now());
            let ack = js.publish(format!("benchraw.job.lane.{n}"), vec![0; PAYLOAD_BYTES].into()).await?;
            tokio::spawn(ack.into_future());
        }
        let event = tokio::time::timeout(Duration::from_secs(30), tail.next())
            .await
            .context("no event for 30 s")?
            .context("the subscription ended")?;
        let n: usize = event.subject.rsplit('.').next().unwrap_or_default().parse()?;
        samples.push(sent_at[n].elapsed());
        done += 1;
    }
    let elapsed = begun.elapsed();
    worker.abort();
    Ok((samples, elapsed))
}

/// The agent's side: store the outcome, and only then acknowledge the job.
async fn work(client: Client, mut lane: Lane, window: usize) -> Result<()> {
    let js = jetstream::new(client.clone());
    let slots = Arc::new(Semaphore::new(window));
    loop {
        let job = lane.next().await?;
        let id = job.subject.rsplit('.').next().unwrap_or_default();
        let stored = js.publish(format!("benchraw.ev.{id}"), job.payload.clone()).await?;
        let slot = slots.clone().acquire_owned().await?;
        let client = client.clone();
        tokio::spawn(async move {
            if let (Ok(_), Some(ack)) = (stored.await, job.reply) {
                let _ = client.publish(ack, Bytes::from_static(b"+ACK")).await;
            }
            drop(slot);
        });
    }
}

/// One consumer over one inbox, kept topped up.
struct Lane {
    client: Client,
    inbox: String,
    messages: Subscriber,
    outstanding: usize,
}

impl Lane {
    async fn open(client: &Client) -> Result<Self> {
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await?;
        Ok(Self { client: client.clone(), inbox, messages, outstanding: 0 })
    }

    async fn next(&mut self) -> Result<Message> {
        loop {
            if self.outstanding <= PULL_BATCH / 2 {
                let body = format!("{{\"batch\":{PULL_BATCH},\"expires\":300000000000}}");
                let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{JOBS}.{LANE}");
                self.client.publish_with_reply(subject, self.inbox.clone(), body.into()).await?;
                self.outstanding += PULL_BATCH;
            }
            let message = self.messages.next().await.context("the lane closed")?;
            if message.status.is_none() {
                self.outstanding -= 1;
                return Ok(message);
            }
            self.outstanding = 0;
        }
    }
}
