//! The clients: they submit jobs whose behaviour the seed decided, submit some twice, cancel some, follow some, and read
//! some records again and again.
//!
//! Owns what clients do and what they note. Every word of theirs goes through the clients' proxies.

mod plan;

pub use plan::{Planned, plan};

use crate::history::{Cancelling, Fact, History, Sight};
use grange_broker_client::cancel::{Cancelled, cancel};
use grange_broker_client::connect::Broker;
use grange_broker_client::error::ErrorKind;
use grange_broker_client::follow::{Follow, Since, Update};
use grange_broker_client::ledger::Ledger;
use grange_broker_client::query;
use grange_broker_client::submit::{Submission, submit};
use grange_protocol::name::{JobId, Owner};
use grange_protocol::ownership::Stored;
use grange_protocol::record::State;
use grange_protocol::subject::JobKey;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// A submit without an answer is tried again so often: the same id is the same job.
const SUBMIT_TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(300);
/// After the end a follower has so long.
const FOLLOW_LIMIT: Duration = Duration::from_secs(150);
/// A cancel is tried so often.
const CANCEL_TRIES: u32 = 4;

/// Which jobs are accepted, and what was last seen of them.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    states: Arc<Mutex<BTreeMap<JobKey, Option<State>>>>,
    submitting: Arc<AtomicUsize>,
}

impl Jobs {
    fn accepted(&self, key: &JobKey) {
        self.states.lock().expect("no holder panics").entry(key.clone()).or_default();
    }

    /// Whether somebody still tries to submit one.
    pub fn are_submitted(&self) -> bool {
        self.submitting.load(Ordering::Relaxed) == 0
    }

    /// A record was seen.
    pub fn seen(&self, key: &JobKey, state: State) {
        self.states.lock().expect("no holder panics").insert(key.clone(), Some(state));
    }

    /// Some that an agent holds, as far as anybody was told.
    pub fn held(&self, most: usize) -> Vec<JobKey> {
        self.some(most, |state| state.is_some_and(State::is_held))
    }

    /// Some that have not ended.
    pub fn open(&self, most: usize) -> Vec<JobKey> {
        self.some(most, |state| state.is_none_or(|state| !state.is_terminal()))
    }

    /// Every job that was accepted or seen.
    pub fn all(&self) -> Vec<JobKey> {
        self.some(usize::MAX, |_| true)
    }

    fn some(&self, most: usize, fits: impl Fn(Option<State>) -> bool) -> Vec<JobKey> {
        let jobs = self.states.lock().expect("no holder panics");
        jobs.iter().filter(|(_, state)| fits(**state)).map(|(key, _)| key.clone()).take(most).collect()
    }
}

/// One client.
#[derive(Clone)]
pub struct Clients {
    /// Through the proxies.
    pub broker: Broker,
    /// What is noted.
    pub history: History,
    /// The jobs.
    pub jobs: Jobs,
}

impl Clients {
    /// Does all of the plan, and returns when the last follower has come to its end.
    pub async fn run(&self, begun: Instant, plan: Vec<Planned>) {
        let mut tasks = JoinSet::new();
        for planned in plan {
            let clients = self.clone();
            tasks.spawn(async move {
                sleep_until(begun + Duration::from_millis(planned.at_ms)).await;
                clients.live(begun, planned).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn live(&self, begun: Instant, planned: Planned) {
        let key = JobKey {
            owner: Owner::new(&planned.owner).expect("a name"),
            job: JobId::new(&planned.job).expect("a name"),
        };
        let follower = planned.follow_early.then(|| tokio::spawn(self.clone().follow(key.clone())));
        let twice = planned.twice.then(|| {
            let (clients, key, planned) = (self.clone(), key.clone(), planned.clone());
            tokio::spawn(async move { clients.submit(&key, &planned).await })
        });
        let accepted = self.submit(&key, &planned).await;
        if let Some(twice) = twice {
            let _ = twice.await;
        }
        if let Some(at_ms) = planned.cancel_at_ms {
            sleep_until(begun + Duration::from_millis(at_ms)).await;
            self.cancel(&key).await;
        }
        if planned.follow_late && accepted {
            self.clone().follow(key).await;
        }
        match follower {
            Some(follower) if accepted => drop(follower.await),
            Some(follower) => follower.abort(),
            None => {}
        }
    }

    async fn submit(&self, key: &JobKey, planned: &Planned) -> bool {
        self.jobs.submitting.fetch_add(1, Ordering::Relaxed);
        let accepted = self.try_to_submit(key, planned).await;
        self.jobs.submitting.fetch_sub(1, Ordering::Relaxed);
        accepted
    }

    async fn try_to_submit(&self, key: &JobKey, planned: &Planned) -> bool {
        let job = key.job.to_string();
        self.history.note(Fact::Submitting { job: job.clone(), wanted: planned.wanted.clone() });
        let ledger = Ledger::new(&self.broker);
        for _ in 0..SUBMIT_TRIES {
            let submission = Submission {
                owner: key.owner.clone(),
                job: Some(key.job.clone()),
                lane: planned.lane.clone(),
                ticket: planned.ticket.clone(),
                max_wait: planned.max_wait,
            };
            let job = job.clone();
            match submit(&self.broker, &ledger, submission).await {
                Ok(_) => {
                    self.jobs.accepted(key);
                    self.history.note(Fact::Submitted { job });
                    return true;
                }
                Err(e) if is_refusal(e.kind()) => {
                    self.history.note(Fact::NotSubmitted { job, why: e.to_string() });
                    return false;
                }
                Err(e) => self.history.note(Fact::SubmitUnknown { job, why: e.to_string() }),
            }
            sleep(PAUSE).await;
        }
        false
    }

    async fn cancel(&self, key: &JobKey) {
        let job = key.job.to_string();
        self.history.note(Fact::Cancelling { job: job.clone() });
        let ledger = Ledger::new(&self.broker);
        for _ in 0..CANCEL_TRIES {
            let how = match cancel(&self.broker, &ledger, key, "chaos").await {
                Ok(Cancelled::AtOnce) => Cancelling::AtOnce,
                Ok(Cancelled::Requested) => Cancelling::Requested,
                Ok(Cancelled::AlreadyEnded(_)) => Cancelling::AlreadyEnded,
                Err(_) => Cancelling::Unknown,
            };
            self.history.note(Fact::Cancelled { job: job.clone(), how });
            if how != Cancelling::Unknown {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn follow(self, key: JobKey) {
        let heard = tokio::time::timeout(FOLLOW_LIMIT, self.hear(&key)).await;
        if let Ok(fact) = heard {
            self.history.note(fact);
        }
    }

    async fn hear(&self, key: &JobKey) -> Fact {
        let job = key.job.to_string();
        let mut chunks = Vec::new();
        let gone = |chunks, error: String| Fact::Followed {
            job: job.clone(),
            chunks,
            state: None,
            told: 0,
            error: Some(error),
        };
        let mut follow = loop {
            match Follow::start(&self.broker, key, Since::Start).await {
                Ok(follow) => break follow,
                Err(_) => sleep(PAUSE).await,
            }
        };
        loop {
            match follow.next().await {
                Ok(Some(Update::Attempt { .. })) => chunks.clear(),
                Ok(Some(Update::Chunk { token, index, value, .. })) => {
                    let value = value.value().as_str().unwrap_or_default().to_owned();
                    chunks.push((token.number, index, value));
                }
                Ok(Some(Update::State { sequence, record: Some(record), .. })) => {
                    let sight = Sight::of(&record, sequence);
                    self.history.note(Fact::Seen { job: job.clone(), reader: "follower".to_owned(), sight });
                }
                Ok(Some(Update::End(record))) => {
                    let told = record.outcome.as_ref().map_or(0, |outcome| outcome.chunks);
                    return Fact::Followed { job, chunks, state: Some(record.state), told, error: None };
                }
                Ok(Some(_)) => {}
                Ok(None) => return gone(chunks, "it ended without an end".to_owned()),
                Err(error) => return gone(chunks, error.to_string()),
            }
        }
    }

    /// Reads jobs that are open, from the leader, until it is dropped: an accepted job is never nowhere.
    pub async fn read_again_and_again(&self) {
        let ledger = Ledger::new(&self.broker);
        loop {
            sleep(PAUSE).await;
            for key in self.jobs.open(8) {
                self.read(&ledger, &key).await;
            }
        }
    }

    async fn read(&self, ledger: &Ledger, key: &JobKey) {
        let job = key.job.to_string();
        match ledger.read(key).await {
            Ok(Stored::Record { sequence, record, .. }) => {
                self.jobs.seen(key, record.state);
                let sight = Sight::of(&record, sequence);
                self.history.note(Fact::Seen { job, reader: "reader".to_owned(), sight });
            }
            Ok(Stored::Nothing) => {
                // Between two looks a job may go from one place to the other; never back.
                let mut missing = 0;
                while missing < 3 && is_missing(query::job_status(&self.broker, ledger, key).await) {
                    missing += 1;
                }
                if missing == 3 {
                    self.history.note(Fact::NotFound { job });
                }
            }
            Ok(Stored::Marker { .. }) | Err(_) => {}
        }
    }
}

fn is_missing(view: Result<query::JobView, grange_broker_client::Error>) -> bool {
    view.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Kinds that say that nothing was stored.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Invalid | ErrorKind::TooLarge | ErrorKind::StorageFull | ErrorKind::Unauthorised
    )
}
