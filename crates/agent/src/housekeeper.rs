//! The housekeeper: a duty that one agent at a time has. It looks at the farm and says what it saw (`survey`), and goes
//! round after round through what lies about (`rounds`).
//!
//! Losing the duty is harmless, and so is having it twice: every act is a compare-and-set, or can be done again. It is no
//! scheduler: no job waits for it that an agent could find by itself.
//!
//! ```text
//!   no fresh overview ─► try to take the key ─► a thread and a connection of its own ─┬─ renew the key
//!          ▲                   (house's thread)                                       ├─ survey ─► overview
//!          └──────────────── lost, or the agent leaves ◄──────────────────────────────┴─ rounds
//! ```
//! The thread is its own because a page of thousands of tickets is read in one go, and the house has jobs to start.

mod empty;
mod records;
mod rounds;
mod summary;
mod survey;
mod unheld;
mod verdict;

use crate::causes::chain;
use crate::clock::{about, boot_ms};
use crate::overview::Latest;
use empty::{Empty, is_empty};
use grange_broker_client::bucket::Bucket;
use grange_broker_client::connect::{Broker, Options};
use grange_broker_client::error::{Error, ErrorKind};
use grange_broker_client::topology::{queue_state, remove_queue};
use grange_protocol::facts::{HOUSEKEEPER_KEY, HOUSEKEEPER_TTL_S, Housekeeper, OVERVIEW_MS};
use grange_protocol::record::Holder;
use grange_protocol::subject::{LANES_BUCKET, Queue};
use records::Records;
use rounds::Rounds;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use summary::Waiting;
use survey::{Standing, Survey};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How often a round through the tickets begins.
pub const ROUND: Duration = Duration::from_secs(4);
/// An overview older than this makes others look whether the duty is free, milliseconds.
const MISSED_MS: u64 = 3 * OVERVIEW_MS;
/// How long the duty lasts without renewal.
const TTL: Duration = Duration::from_secs(HOUSEKEEPER_TTL_S);
/// How long giving the duty up may take; then it runs out by itself.
const FAREWELL: Duration = Duration::from_secs(1);

/// What an agent needs to keep house.
pub struct Duty {
    /// The house's connection: for the key, until the duty is had.
    pub broker: Broker,
    /// How to connect once more, for the work.
    pub options: Options,
    /// Who.
    pub me: Holder,
    /// The newest overview: while there is one, somebody keeps house.
    pub latest: Latest,
    /// How long the record of a job that ended is kept.
    pub keep_records: Duration,
    /// The agent takes no more work, or leaves.
    pub leave: CancellationToken,
}

impl Duty {
    /// Keeps house whenever nobody else does, until the agent leaves.
    pub async fn run(self) {
        loop {
            let pause = if self.somebody_does() { about(MISSED_MS / 2) } else { about(MISSED_MS / 6) };
            tokio::select! {
                () = self.leave.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if self.somebody_does() {
                continue;
            }
            let sent = Instant::now();
            match self.take().await {
                Ok(Some(revision)) => self.keep(Tenure { revision, sent }).await,
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "housekeeper's duty not asked for"),
            }
        }
    }

    fn somebody_does(&self) -> bool {
        self.latest.borrow().as_ref().is_some_and(|reading| reading.age_ms() < MISSED_MS)
    }

    fn mine(&self) -> Housekeeper {
        Housekeeper { agent: self.me.agent.clone(), incarnation: self.me.incarnation.clone() }
    }

    /// Takes the duty, if it is free. What this agent's last life had is free.
    async fn take(&self) -> Result<Option<u64>, Error> {
        let bucket = Bucket::new(&self.broker, LANES_BUCKET);
        let taken = match bucket.get::<Housekeeper>(HOUSEKEEPER_KEY).await? {
            None => bucket.create(HOUSEKEEPER_KEY, &self.mine(), Some(TTL)).await,
            Some(entry) if entry.value.agent == self.me.agent => {
                bucket.update(HOUSEKEEPER_KEY, entry.revision, &self.mine(), Some(TTL)).await
            }
            Some(_) => return Ok(None),
        };
        match taken {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the duty until it is lost or the agent leaves.
    async fn keep(&self, tenure: Tenure) {
        tracing::info!("this agent keeps house");
        let (options, me, mine, leave) =
            (self.options.clone(), self.me.clone(), self.mine(), self.leave.clone());
        let keep = self.keep_records;
        let working = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work(&options, (me, mine), tenure, keep, leave));
            Ok::<(), std::io::Error>(())
        });
        match working.await {
            Ok(Ok(())) => tracing::info!("this agent keeps house no longer"),
            Ok(Err(error)) => tracing::warn!(%error, "no thread to keep house in"),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
}

/// The duty, as it is had.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    revision: u64,
    /// When the renewal was sent that this is.
    sent: Instant,
}

/// All of the work, on a connection of its own.
async fn work(
    options: &Options,
    (me, mine): (Holder, Housekeeper),
    mut tenure: Tenure,
    keep: Duration,
    leave: CancellationToken,
) {
    let connecting = Broker::connect(options);
    let broker = tokio::select! {
        () = leave.cancelled() => return,
        broker = connecting => broker,
    };
    let broker = match broker {
        Ok(broker) => broker,
        Err(error) => return tracing::warn!(why = chain(&error), "no connection to keep house with"),
    };
    let bucket = Bucket::new(&broker, LANES_BUCKET);
    let (standings, standing) = watch::channel(Arc::new(Standing::default()));
    let (orphans, lying) = watch::channel(BTreeMap::new());
    let lost = tokio::select! {
        () = renew(&bucket, &mine, &mut tenure) => true,
        () = survey(&broker, &standings, &lying) => false,
        () = rounds(Rounds::new(&broker, me), Records::new(&broker, keep), standing, &orphans) => false,
        () = leave.cancelled() => false,
    };
    if !lost {
        // Whoever comes next need not wait until it runs out.
        let _ = timeout(FAREWELL, bucket.delete(HOUSEKEEPER_KEY, tenure.revision)).await;
    }
}

/// Renews the duty until it is lost: another has it, or nobody answered for as long as it lasts.
async fn renew(bucket: &Bucket, mine: &Housekeeper, tenure: &mut Tenure) {
    loop {
        tokio::time::sleep(TTL / 3).await;
        let sent = Instant::now();
        let left = TTL.saturating_sub(tenure.sent.elapsed());
        match timeout(left, bucket.update(HOUSEKEEPER_KEY, tenure.revision, mine, Some(TTL))).await {
            Ok(Ok(revision)) => *tenure = Tenure { revision, sent },
            Ok(Err(error)) if error.kind() == ErrorKind::Conflict => return,
            Ok(Err(error)) => {
                tracing::debug!(%error, "housekeeper's duty not renewed");
                // A renewal without an answer may have come through.
                if let Ok(Some(entry)) = bucket.get::<Housekeeper>(HOUSEKEEPER_KEY).await
                    && entry.value == *mine
                    && entry.revision > tenure.revision
                {
                    *tenure = Tenure { revision: entry.revision, sent };
                }
            }
            Err(_) => return,
        }
        if tenure.sent.elapsed() >= TTL {
            return;
        }
    }
}

/// Looks at the farm every two seconds.
async fn survey(
    broker: &Broker,
    standings: &watch::Sender<Arc<Standing>>,
    orphans: &watch::Receiver<BTreeMap<Queue, Waiting>>,
) {
    let (mut survey, mut empty) = (Survey::new(broker), Empty::default());
    let mut every = interval(Duration::from_millis(OVERVIEW_MS));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = Trouble::default();
    loop {
        every.tick().await;
        let (orphans, began) = (orphans.borrow().clone(), Instant::now());
        match survey.look(&orphans).await {
            Ok(standing) => {
                trouble.over();
                let (queues, agents) = (standing.queues.len(), standing.agents.len());
                tracing::debug!(queues, agents, took = ?began.elapsed(), "farm looked at");
                if standing.is_whole {
                    close(broker, &empty.look(&standing.queues, boot_ms())).await;
                }
                standings.send_replace(Arc::new(standing));
            }
            Err(error) => trouble.tell("farm not looked at; agents look for themselves meanwhile", &error),
        }
    }
}

/// Removes the consumers of queues that have had their time, unless something came since.
async fn close(broker: &Broker, queues: &[Queue]) {
    for queue in queues {
        let closed = async {
            if queue_state(broker, queue).await?.is_some_and(|state| is_empty(&state)) {
                remove_queue(broker, queue).await?;
                tracing::info!(%queue, "queue was empty for an hour; its consumer is removed");
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = closed.await {
            tracing::debug!(%queue, %error, "empty queue not removed");
        }
    }
}

/// Goes its rounds once there was a look at the farm.
async fn rounds(
    mut rounds: Rounds,
    mut records: Records,
    mut standing: watch::Receiver<Arc<Standing>>,
    orphans: &watch::Sender<BTreeMap<Queue, Waiting>>,
) {
    let mut every = interval(ROUND);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = Trouble::default();
    while standing.changed().await.is_ok() {
        every.tick().await;
        let (newest, began) = (standing.borrow_and_update().clone(), Instant::now());
        match rounds.go(&newest).await {
            Ok(tickets) => {
                trouble.over();
                tracing::debug!(tickets, took = ?began.elapsed(), "round through the tickets");
            }
            Err(error) => trouble.tell("round through the tickets not finished", &error),
        }
        orphans.send_replace(rounds.orphans());
        if let Err(error) = records.go(&newest).await {
            trouble.tell("round through the records not finished", &error);
        }
    }
}

/// Says a trouble once, however long it lasts.
#[derive(Debug, Default)]
struct Trouble(bool);

impl Trouble {
    fn tell(&mut self, what: &str, error: &Error) {
        if std::mem::replace(&mut self.0, true) {
            tracing::debug!(why = chain(error), "{what}");
        } else {
            tracing::warn!(why = chain(error), "{what}");
        }
    }

    fn over(&mut self) {
        self.0 = false;
    }
}
