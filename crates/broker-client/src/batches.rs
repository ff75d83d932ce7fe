//! Batches: many jobs of one owner under one name, `<batch>-<n>`, and how far each is submitted.
//!
//! Owns the small record of a batch, which is how readers find its jobs without a list of them, and reading many jobs'
//! states. Never submits: what a job is, the caller knows.

use crate::bucket::Bucket;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::history;
use crate::ledger::read_stored;
use grange_protocol::name::{JobId, NameError, Owner};
use grange_protocol::ownership::Stored;
use grange_protocol::record::State;
use grange_protocol::subject::{JobKey, RUNS_BUCKET, STATE};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::Duration;

/// Most jobs of one batch.
pub const MAX_BATCH_JOBS: u64 = 100_000;
/// Most lines of one file that may be no job.
pub const MAX_SKIPPED: usize = 1_000;
/// Longest name of a batch, bytes: a number has to find room behind it.
pub const MAX_BATCH_NAME_BYTES: usize = 57;
/// How long a batch's record is kept after it was last written.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// How far a batch is submitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Version of this shape; 1.
    pub v: u32,
    /// The number of its first job.
    pub first: u64,
    /// The number after the last one that the farm accepted.
    pub next: u64,
    /// Numbers in between that are no job, in order.
    #[serde(default)]
    pub skipped: Vec<u64>,
    /// All of it is submitted.
    pub complete: bool,
    /// SHA-256 of what the jobs up to `next` were made of, so that only the same goes on under this name.
    pub sha256: String,
}

impl Batch {
    /// The numbers of its jobs.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        (self.first..self.next).filter(|number| self.skipped.binary_search(number).is_err())
    }

    /// How many jobs it has by now.
    pub fn jobs(&self) -> u64 {
        (self.next - self.first).saturating_sub(self.skipped.len() as u64)
    }
}

/// The id of a batch's job.
pub fn job_of(batch: &JobId, number: u64) -> Result<JobId, NameError> {
    JobId::new(format!("{batch}-{number}"))
}

/// The digest of all that a batch was made of up to this text, from that of what came before it.
pub fn digest_after(before: &str, text: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(before);
    hasher.update(text);
    hex::encode(hasher.finalize())
}

/// Checks the name of a batch.
pub fn check_name(batch: &JobId) -> Result<(), Error> {
    let bytes = batch.as_str().len();
    if bytes <= MAX_BATCH_NAME_BYTES {
        return Ok(());
    }
    let text = format!("`{batch}` of {bytes} bytes cannot name a batch; use at most {MAX_BATCH_NAME_BYTES}");
    Err(Error::invalid(text))
}

fn key(owner: &Owner, batch: &JobId) -> String {
    format!("batch.{owner}.{batch}")
}

/// What is known of a batch. None: there is none of that name, or it is long forgotten.
pub async fn read(broker: &Broker, owner: &Owner, batch: &JobId) -> Result<Option<Batch>, Error> {
    let found = Bucket::new(broker, RUNS_BUCKET).get::<Batch>(&key(owner, batch)).await?;
    Ok(found.map(|entry| entry.value))
}

/// Writes down how far it is.
pub async fn write(broker: &Broker, owner: &Owner, batch: &JobId, facts: &Batch) -> Result<(), Error> {
    Bucket::new(broker, RUNS_BUCKET).put(&key(owner, batch), facts, Some(KEPT)).await.map(|_| ())
}

/// The jobs of a batch. `NotFound`: there is none of that name.
pub async fn jobs(broker: &Broker, owner: &Owner, batch: &JobId) -> Result<(Batch, Vec<JobKey>), Error> {
    let found = read(broker, owner, batch).await?;
    let facts =
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("`{owner}` has no batch `{batch}`")))?;
    let named: Result<Vec<JobKey>, NameError> = facts
        .numbers()
        .map(|number| Ok(JobKey { owner: owner.clone(), job: job_of(batch, number)? }))
        .collect();
    let named = named.map_err(|e| Error::malformed(&format!("the record of batch `{batch}`"), e))?;
    Ok((facts, named))
}

/// The states of jobs that have a record, as any replica has them. One that waits without a record is left out.
pub async fn states(broker: &Broker, keys: &[JobKey]) -> Result<HashMap<JobKey, State>, Error> {
    let by_subject: HashMap<String, &JobKey> = keys.iter().map(|key| (key.state(), key)).collect();
    let subjects: Vec<String> = by_subject.keys().cloned().collect();
    let mut found = HashMap::with_capacity(subjects.len());
    for message in history::last_of_each(broker, STATE, &subjects).await? {
        let Some(key) = by_subject.get(&message.subject) else { continue };
        let state = match read_stored(Some(message))? {
            Stored::Nothing => continue,
            Stored::Marker { .. } => State::Expired,
            Stored::Record { record, .. } => record.state,
        };
        found.insert((*key).clone(), state);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_names_its_jobs() {
        let batch = Batch { v: 1, first: 1, next: 6, skipped: vec![2, 4], ..Batch::default() };
        assert_eq!((batch.numbers().collect::<Vec<_>>(), batch.jobs()), (vec![1, 3, 5], 3));
        let name = JobId::new("b".repeat(MAX_BATCH_NAME_BYTES)).unwrap();
        assert!(check_name(&name).is_ok() && job_of(&name, MAX_BATCH_JOBS).is_ok());
        assert!(check_name(&JobId::new("b".repeat(MAX_BATCH_NAME_BYTES + 1)).unwrap()).is_err());
    }
}
