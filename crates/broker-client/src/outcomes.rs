//! Waiting for many jobs of one owner: one subscription, one small entry per job.
//!
//! Owns the table of who waits, and reads again what was not heard. Never reads events: who wants chunks follows.

use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::expiry;
use crate::headers;
use crate::history;
use crate::ledger::Ledger;
use crate::refusals::Refusal;
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
        self.table.close(Over::Closed);
    }
}

impl Outcomes {
    /// Subscribes to the records of everything that an owner has.
    pub async fn open(broker: &Broker, owner: &Owner) -> Result<Self, Error> {
        let disturbances = broker.disturbances();
        let refusal = broker.refusal(on_states(owner).into());
        let records = broker.client().subscribe(on_states(owner)).await.map_err(|_| Error::closed())?;
        let table = Arc::new(Table { broker: broker.clone(), waiting: Mutex::default() });
        let mut tasks = JoinSet::new();
        let prefix = format!("grange.on.state.{owner}.");
        tasks.spawn(listen(records, refusal, Arc::clone(&table), prefix));
        let check = Check { broker: broker.clone(), owner: owner.clone(), table: Arc::clone(&table) };
        tasks.spawn(check.run(disturbances));
        Ok(Self { owner: owner.clone(), table, _tasks: tasks })
    }

    /// Registers at once, so call it before the job is submitted; the future ends with the job's terminal record. When the
    /// job's waiting time runs out it ends with a record `expired`, before anybody has written that. Dropping the future
    /// ends the wait. `Conflict`: somebody waits for it already. `TooLarge`: 262,144 jobs are waited for. `Invalid`: the
    /// job is another owner's. `Unauthorised`: this user may not hear of this owner's jobs.
    pub fn wait(&self, key: &JobKey) -> impl Future<Output = Result<Box<Record>, Error>> + Send + use<> {
        let (entered, key) = (self.enter(key), key.clone());
        async move {
            let (place, answer) = entered?;
            match answer.await {
                Ok(Heard::End(body)) => {
                    Record::read(&body).map(Box::new).map_err(|e| Error::malformed("a record", e))
                }
                Ok(Heard::RanOut) => {
                    let broker = &place.table.broker;
                    expiry::record(broker, &Ledger::new(broker), &key).await
                }
                Err(_) => Err(place.table.over(&key.owner)),
            }
        }
    }

    fn enter(&self, key: &JobKey) -> Result<(Place, oneshot::Receiver<Heard>), Error> {
        if key.owner != self.owner {
            let text = format!("job `{key}` is not of owner `{}`; open its own outcomes", self.owner);
            return Err(Error::invalid(text));
        }
        let mut waiting = self.table.lock();
        if let Some(over) = waiting.over {
            return Err(over.error(&self.owner));
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

/// What was heard of a job's end.
#[derive(Debug)]
enum Heard {
    /// A terminal record.
    End(Bytes),
    /// Its waiting time ran out.
    RanOut,
}

/// Why nobody gets an answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Closed,
    Refused,
}

#[derive(Debug)]
struct Table {
    broker: Broker,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: HashMap<JobId, Waiter>,
    next_ticket: u64,
    /// Records that came, of whatever job.
    heard: u64,
    over: Option<Over>,
}

#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<Heard>,
    /// Tells this wait from a later one for the same job.
    ticket: u64,
    checked: Instant,
}

impl Over {
    fn error(self, owner: &Owner) -> Error {
        match self {
            Self::Closed => Error::closed(),
            Self::Refused => {
                let text = format!("this user may not hear of the jobs of owner `{owner}` on the broker");
                Error::new(ErrorKind::Unauthorised, text)
            }
        }
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The table is whole whenever the lock is free, even if its holder panicked.
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn close(&self, why: Over) {
        let mut waiting = self.lock();
        waiting.over.get_or_insert(why);
        waiting.jobs.clear();
    }

    /// Why a wait ended without an answer.
    fn over(&self, owner: &Owner) -> Error {
        self.lock().over.unwrap_or(Over::Closed).error(owner)
    }

    /// Takes what came for `job`, if it is an end.
    fn take(&self, job: &str, ran_out: bool, body: Bytes) {
        let mut waiting = self.lock();
        waiting.heard += 1;
        if !ran_out && !is_terminal(&body) {
            return;
        }
        if let Some(waiter) = waiting.jobs.remove(job) {
            let heard = if ran_out { Heard::RanOut } else { Heard::End(body) };
            // Whoever waited may be gone.
            waiter.sender.send(heard).ok();
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

async fn listen(mut records: Subscriber, mut refusal: Refusal, table: Arc<Table>, prefix: String) {
    loop {
        let message = tokio::select! {
            message = records.next() => message,
            error = refusal.refused() => {
                tracing::debug!(%error, "records cannot be heard");
                return table.close(Over::Refused);
            }
        };
        let Some(message) = message else { return table.close(Over::Closed) };
        let ran_out = message.headers.as_ref().is_some_and(|headers| headers.get(headers::MARKER).is_some());
        if let Some(job) = message.subject.strip_prefix(prefix.as_str()) {
            table.take(job, ran_out, message.payload);
        }
    }
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
                            let ran_out = message.headers.get(headers::MARKER).is_some();
                            self.table.take(job, ran_out, message.payload);
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
