//! Waiting for many jobs of one owner: one subscription, one small entry per job.
//!
//! Owns the table of who waits, and reads again what was not heard. Never reads events: who wants chunks follows.

use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::history;
use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use grange_protocol::name::{JobId, Owner};
use grange_protocol::record::{Record, State};
use grange_protocol::subject::{JobKey, STATE, on_states};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Most jobs that are waited for at one time.
pub const MAX_WAITING: usize = 262_144;

/// After so long without any record, every job that is waited for is read.
const SILENCE: Duration = Duration::from_secs(5);
/// Jobs that are read at a time.
const PAGE: usize = 1024;

/// Waits for jobs of one owner. Dropping it ends every wait with an error.
#[derive(Debug)]
pub struct Outcomes {
    owner: Owner,
    table: Arc<Table>,
    _tasks: JoinSet<()>,
}

impl Drop for Outcomes {
    fn drop(&mut self) {
        self.table.close();
    }
}

impl Outcomes {
    /// Subscribes to the records of everything that an owner has.
    pub async fn open(broker: &Broker, owner: &Owner) -> Result<Self, Error> {
        let disturbances = broker.disturbances();
        let records = broker.client().subscribe(on_states(owner)).await.map_err(|_| Error::closed())?;
        let table = Arc::new(Table::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(records, Arc::clone(&table), format!("grange.on.state.{owner}.")));
        let check = Check { broker: broker.clone(), owner: owner.clone(), table: Arc::clone(&table) };
        tasks.spawn(check.run(disturbances));
        Ok(Self { owner: owner.clone(), table, _tasks: tasks })
    }

    /// Registers at once, so call it before the job is submitted; the future ends with the job's terminal record.
    /// Dropping the future ends the wait. `Conflict`: somebody waits for it already. `TooLarge`: 262,144 jobs are
    /// waited for. `Invalid`: the job is another owner's.
    pub fn wait(&self, key: &JobKey) -> impl Future<Output = Result<Box<Record>, Error>> + Send + use<> {
        let entered = self.enter(key);
        async move {
            let (_place, answer) = entered?;
            let body = answer.await.map_err(|_| Error::closed())?;
            Record::read(&body).map(Box::new).map_err(|e| Error::malformed("a record", e))
        }
    }

    fn enter(&self, key: &JobKey) -> Result<(Place, oneshot::Receiver<Bytes>), Error> {
        if key.owner != self.owner {
            let text = format!("job `{key}` is not of owner `{}`; open its own outcomes", self.owner);
            return Err(Error::invalid(text));
        }
        let mut waiting = self.table.lock();
        if waiting.closed {
            return Err(Error::closed());
        }
        if waiting.jobs.len() >= MAX_WAITING {
            let text = format!("{MAX_WAITING} jobs are waited for; let some end before `{key}`");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        if waiting.jobs.contains_key(&key.job) {
            let text = format!("job `{key}` is waited for already; share the first answer");
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        let (sender, answer) = oneshot::channel();
        let ticket = waiting.next_ticket;
        waiting.next_ticket += 1;
        waiting.jobs.insert(key.job.clone(), Waiter { sender, ticket, checked: Instant::now() });
        Ok((Place { table: Arc::clone(&self.table), job: key.job.clone(), ticket }, answer))
    }
}

#[derive(Debug, Default)]
struct Table {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: HashMap<JobId, Waiter>,
    next_ticket: u64,
    /// Records that came, of whatever job.
    heard: u64,
    /// Nobody gets an answer any more.
    closed: bool,
}

#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<Bytes>,
    /// Tells this wait from a later one for the same job.
    ticket: u64,
    checked: Instant,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The table is whole whenever the lock is free, even if its holder panicked.
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.jobs.clear();
    }

    /// Takes a record that came for `job`, if it is an end.
    fn take(&self, job: &str, body: Bytes) {
        let mut waiting = self.lock();
        waiting.heard += 1;
        if !is_terminal(&body) {
            return;
        }
        if let Some(waiter) = waiting.jobs.remove(job) {
            // Whoever waited may be gone.
            waiter.sender.send(body).ok();
        }
    }
}

/// A place in the table; left when the wait is dropped.
struct Place {
    table: Arc<Table>,
    job: JobId,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.table.lock();
        if waiting.jobs.get(&self.job).is_some_and(|w| w.ticket == self.ticket) {
            waiting.jobs.remove(&self.job);
        }
    }
}

async fn listen(mut records: Subscriber, table: Arc<Table>, prefix: String) {
    while let Some(message) = records.next().await {
        if let Some(job) = message.subject.strip_prefix(prefix.as_str()) {
            table.take(job, message.payload);
        }
    }
    table.close();
}

/// Whether a record's text is of a terminal state, by its beginning: `v` and `state` come first.
fn is_terminal(body: &[u8]) -> bool {
    const FIELD: &[u8] = b"\"state\":\"";
    let head = &body[..body.len().min(64)];
    if let Some(at) = head.windows(FIELD.len()).position(|w| w == FIELD) {
        let word = head[at + FIELD.len()..].split(|b| *b == b'"').next().unwrap_or_default();
        if let Some(state) = State::ALL.iter().find(|s| s.as_str().as_bytes() == word) {
            return state.is_terminal();
        }
    }
    Record::read(body).is_ok_and(|record| record.state.is_terminal())
}

/// Reads what was not heard. A replica that is behind only answers later: a terminal record never changes.
struct Check {
    broker: Broker,
    owner: Owner,
    table: Arc<Table>,
}

impl Check {
    async fn run(self, mut disturbances: watch::Receiver<u64>) {
        let mut heard = 0;
        loop {
            let disturbed = tokio::select! {
                changed = disturbances.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = tokio::time::sleep(SILENCE) => false,
            };
            let now_heard = self.table.lock().heard;
            let silent = now_heard == heard;
            heard = now_heard;
            // One copy may be lost while others come: the jobs that wait longest are read in any case.
            let limit = if disturbed || silent { usize::MAX } else { PAGE };
            self.read(limit).await;
        }
    }

    async fn read(&self, limit: usize) {
        for page in self.longest(limit).chunks(PAGE) {
            let subjects: Vec<String> =
                page.iter().map(|job| format!("grange.state.{}.{job}", self.owner)).collect();
            match history::last_of_each(&self.broker, STATE, &subjects).await {
                Ok(found) => {
                    for message in found {
                        if let Some((_, job)) = message.subject.rsplit_once('.') {
                            self.table.take(job, message.payload);
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "records that are waited for were not read");
                    return;
                }
            }
        }
    }

    /// The jobs that were looked at longest ago, at least a silence ago when not all are wanted.
    fn longest(&self, limit: usize) -> Vec<JobId> {
        let now = Instant::now();
        let mut waiting = self.table.lock();
        let mut jobs: Vec<(Instant, JobId)> = waiting
            .jobs
            .iter()
            .filter(|(_, waiter)| limit == usize::MAX || now - waiter.checked >= SILENCE)
            .map(|(job, waiter)| (waiter.checked, job.clone()))
            .collect();
        jobs.sort_unstable();
        jobs.truncate(limit);
        for (_, job) in &jobs {
            if let Some(waiter) = waiting.jobs.get_mut(job) {
                waiter.checked = now;
            }
        }
        jobs.into_iter().map(|(_, job)| job).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::lifecycle;
    use grange_protocol::name::{Class, PluginName};
    use grange_protocol::record::Outcome;
    use grange_protocol::subject::Lane;
    use grange_protocol::ticket::Priority;

    #[test]
    fn the_end_of_a_job_is_seen_without_reading_all_of_it() {
        let plugin = PluginName::new("succeeded").unwrap();
        let lane = Lane { priority: Priority::Normal, plugin, class: Class::plugin_default() };
        let queued = lifecycle::queue(&lane, 1);
        assert!(!is_terminal(&queued.write()));
        let ended =
            lifecycle::end_unclaimed(Some(&queued), &lane, State::Expired, Outcome::default(), 2).unwrap();
        assert!(is_terminal(&ended.write()));
        assert!(is_terminal(
            br#"{"history":[], "v":1,"class":"default","priority":"low","plugin":"x","state":"failed"}"#
        ));
        assert!(!is_terminal(b""));
    }
}
