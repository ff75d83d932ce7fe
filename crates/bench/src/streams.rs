//! Chunks: how many a second reach a client that checks them all, and how soon the first one comes.

use crate::figures::{Samples, per_second};
use crate::site::{PLUGINS, Site};
use anyhow::{Result, bail};
use grange_broker_client::follow::{Follow, Update};
use grange_broker_client::submit::{Submission, submit_later};
use grange_protocol::record::State;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

const CHUNK_BYTES: usize = 64;

/// What following one job showed.
struct Followed {
    first: Option<Duration>,
    chunks: usize,
    elapsed: Duration,
}

/// Measures both plugins.
pub(crate) async fn measure(site: &Site, chunks: usize, firsts: usize) -> Result<Value> {
    let mut report = Map::new();
    for (name, plugin) in PLUGINS {
        let many = json!({"repeat": chunks, "bytes": CHUNK_BYTES});
        follow(site, site.submission(plugin, &json!({"repeat": 10, "bytes": CHUNK_BYTES}), true)).await?;
        let all = follow(site, site.submission(plugin, &many, true)).await?;
        anyhow::ensure!(all.chunks == chunks, "{} of {chunks} chunks came", all.chunks);
        let mut samples = Samples::default();
        for _ in 0..firsts {
            let one = site.submission(plugin, &json!({"repeat": 1, "bytes": CHUNK_BYTES}), true);
            if let Some(first) = follow(site, one).await?.first {
                samples.push(first);
            }
        }
        report.insert(
            name.to_owned(),
            json!({
                "chunks_per_s": per_second(all.chunks, all.elapsed),
                "chunk_bytes": CHUNK_BYTES,
                "chunks": all.chunks,
                "first_chunk": samples.summary(),
            }),
        );
    }
    Ok(Value::Object(report))
}

async fn follow(site: &Site, submission: Submission) -> Result<Followed> {
    let key = site.key(&submission);
    let begun = Instant::now();
    let mut following = Follow::before_submit(&site.client.broker, &key).await?;
    let (_, accepted) = submit_later(&site.client.broker, &site.client.ledger, submission).await?;
    tokio::spawn(accepted);
    let mut seen = Followed { first: None, chunks: 0, elapsed: Duration::ZERO };
    while let Some(update) = following.next().await? {
        match update {
            Update::Chunk { .. } => {
                seen.first.get_or_insert_with(|| begun.elapsed());
                seen.chunks += 1;
            }
            Update::End(record) if record.state != State::Succeeded => {
                bail!("a job ended {}: {:?}", record.state, record.outcome);
            }
            _ => {}
        }
    }
    seen.elapsed = begun.elapsed();
    Ok(seen)
}
