//! Carries what this agent saw of plugins to the plugins' bucket, and what others saw into its table.

use super::Table;
use crate::causes::chain;
use crate::clock::{about, unix_ms};
use grange_broker_client::bucket::{Bucket, Entry};
use grange_broker_client::connect::Broker;
use grange_broker_client::error::{Error, ErrorKind};
use grange_protocol::facts::Learned;
use grange_protocol::subject::PLUGINS_BUCKET;
use std::collections::BTreeMap;

/// How often, milliseconds. A key is written at most once in this time.
const EVERY_MS: u64 = 10_000;
/// Everything that was learned.
const ALL: &str = "learned.>";

/// Exchanges with the farm for as long as the agent lives.
pub async fn exchange(broker: Broker, table: Table) {
    let bucket = Bucket::new(&broker, PLUGINS_BUCKET);
    let mut troubled = false;
    loop {
        match once(&bucket, &table).await {
            Ok(()) => troubled = false,
            Err(error) if !troubled => {
                troubled = true;
                tracing::warn!(why = chain(&error), "what plugins need is neither told nor heard");
            }
            Err(error) => tracing::debug!(%error, "what plugins need is neither told nor heard"),
        }
        tokio::time::sleep(about(EVERY_MS)).await;
    }
}

async fn once(bucket: &Bucket, table: &Table) -> Result<(), Error> {
    let stored: BTreeMap<String, Entry<Learned>> = bucket.list(ALL).await?;
    for (key, entry) in &stored {
        table.take(key, entry.value.clone());
    }
    for (key, known) in table.news() {
        let known = Learned { at_ms: unix_ms(), ..known };
        let written = match stored.get(&key) {
            Some(entry) => bucket.update(&key, entry.revision, &known, None).await,
            None => bucket.create(&key, &known, None).await,
        };
        match written {
            Ok(_) => table.written(&key, known),
            // Another agent was first: the next exchange brings what it wrote.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
