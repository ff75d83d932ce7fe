//! Permits: how many attempts of one owner the farm runs at a time, where that is limited. Strict: an attempt is claimed
//! only after this agent's count, and with it the sum over all agents, was raised by compare-and-set.
//!
//! A count is lowered a moment after its attempts have ended, many at a time; until then the next attempt of the owner
//! takes the place without asking. What an agent counted that is gone is dropped by whoever writes next, when every
//! overview for a lease has been without it: not before then is it sure that it runs nothing any more. For that no attempt
//! has a longer lease than its agent where a limit is configured (`claims`). Never used where none is.

use crate::overview::Latest;
use grange_broker_client::bucket::{Bucket, Entry};
use grange_broker_client::connect::Broker;
use grange_broker_client::error::{Error, ErrorKind};
use grange_protocol::facts::RunningByAgent;
use grange_protocol::name::{AgentName, Owner};
use grange_protocol::subject::LANES_BUCKET;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How the keys of counts begin.
const PREFIX: &str = "running.";
/// A place that was given back is kept for so long, for an attempt that follows.
const LINGER: Duration = Duration::from_millis(100);
/// Pause after the broker did not take a lower count.
const PAUSE: Duration = Duration::from_secs(1);
/// Most rounds against others that write the same count.
const ROUNDS: u32 = 16;

/// What became of asking for a place.
#[derive(Debug)]
pub enum Grant {
    /// An attempt may begin; its place is given back when this is dropped.
    Granted(Permit),
    /// The owner has as many running as it may.
    Full,
    /// The broker did not say.
    Unknown,
}

/// A place for one attempt.
#[derive(Debug)]
pub struct Permit {
    office: Arc<Office>,
    account: Arc<Account>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        *lock(&self.account.used) -= 1;
        self.office.is_high(&self.account.owner);
    }
}

/// Gives places to this agent's attempts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Permits(Arc<Office>);

#[derive(Debug)]
struct Office {
    bucket: Bucket,
    me: AgentName,
    most: u32,
    lease_ms: u64,
    latest: Latest,
    accounts: Mutex<HashMap<Owner, Arc<Account>>>,
    /// Owners that may have more counted than running.
    returned: Mutex<BTreeSet<Owner>>,
    wake: Notify,
}

/// What this agent has of one owner.
#[derive(Debug)]
struct Account {
    owner: Owner,
    /// Places in use.
    used: Mutex<u32>,
    /// The count as this agent last wrote or read it; None: nobody knows. Held while it is written.
    counted: tokio::sync::Mutex<Option<Entry<RunningByAgent>>>,
}

impl Account {
    /// Takes a place that is counted already.
    fn take_below(&self, counted: u32) -> bool {
        let mut used = lock(&self.used);
        let free = *used < counted;
        *used += u32::from(free);
        free
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many of a count are `agent`'s.
fn of(counts: &RunningByAgent, agent: &AgentName) -> u32 {
    counts.0.get(agent).copied().unwrap_or(0)
}

impl Permits {
    /// At most `most` attempts of each owner. `lease_s`: after so long an agent that is gone runs nothing any more.
    pub fn new(broker: &Broker, me: AgentName, most: u32, lease_s: u32, latest: Latest) -> Self {
        Self(Arc::new(Office {
            bucket: Bucket::new(broker, LANES_BUCKET),
            me,
            most,
            lease_ms: u64::from(lease_s) * 1000,
            latest,
            accounts: Mutex::default(),
            returned: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    /// Asks for a place for one attempt.
    pub async fn acquire(&self, owner: &Owner) -> Grant {
        let office = &self.0;
        let account = office.account(owner);
        let mut counted = account.counted.lock().await;
        match office.raise(&account, &mut counted).await {
            Ok(true) => Grant::Granted(Permit { office: office.clone(), account: account.clone() }),
            Ok(false) => Grant::Full,
            Err(error) => {
                tracing::debug!(%owner, %error, "nobody knows whether there is a place");
                *counted = None;
                // The count may have been raised.
                office.is_high(owner);
                Grant::Unknown
            }
        }
    }

    /// Lowers counts for as long as the agent lives. What its last life counted comes first.
    pub async fn keep(self) {
        while let Err(error) = self.0.inherit().await {
            tracing::debug!(%error, "counts of running attempts not read");
            tokio::time::sleep(PAUSE).await;
        }
        loop {
            self.0.wake.notified().await;
            tokio::time::sleep(LINGER).await;
            if let Err(error) = self.0.lower_all().await {
                tracing::debug!(%error, "count of running attempts not lowered yet");
                tokio::time::sleep(PAUSE).await;
                self.0.wake.notify_one();
            }
        }
    }

    /// Lowers what is to be lowered, now: the agent leaves.
    pub async fn settle(&self) -> Result<(), Error> {
        self.0.lower_all().await
    }
}

impl Office {
    fn account(&self, owner: &Owner) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        let account = accounts.entry(owner.clone()).or_insert_with(|| {
            let (used, counted) = (Mutex::default(), tokio::sync::Mutex::default());
            Arc::new(Account { owner: owner.clone(), used, counted })
        });
        account.clone()
    }

    /// Takes a place, and raises the count where that is needed. False: there is none.
    async fn raise(
        &self,
        account: &Account,
        counted: &mut Option<Entry<RunningByAgent>>,
    ) -> Result<bool, Error> {
        let key = RunningByAgent::key(&account.owner);
        for _ in 0..ROUNDS {
            let is_copy = counted.is_some();
            let entry = match counted.take() {
                Some(entry) => entry,
                None => self.read(&key).await?,
            };
            if account.take_below(of(&entry.value, &self.me)) {
                *counted = Some(entry);
                return Ok(true);
            }
            let mut counts = self.without_the_gone(&entry.value);
            if counts.total() >= self.most {
                // Another agent may have lowered its count since.
                if is_copy {
                    continue;
                }
                return Ok(false);
            }
            *counts.0.entry(self.me.clone()).or_default() += 1;
            match self.write(&key, entry.revision, counts).await {
                Ok(entry) => {
                    *lock(&account.used) += 1;
                    *counted = Some(entry);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("key `{key}` changed {ROUNDS} times")))
    }

    async fn lower_all(&self) -> Result<(), Error> {
        let returned = std::mem::take(&mut *lock(&self.returned));
        let mut failed = Ok(());
        for owner in returned {
            if let Err(error) = self.lower(&self.account(&owner)).await {
                lock(&self.returned).insert(owner);
                failed = Err(error);
            }
        }
        // What nobody asks for any more is read again when somebody does.
        lock(&self.accounts).retain(|_, account| Arc::strong_count(account) > 1);
        failed
    }

    /// Writes as many as are in use.
    async fn lower(&self, account: &Account) -> Result<(), Error> {
        let key = RunningByAgent::key(&account.owner);
        let mut counted = account.counted.lock().await;
        for _ in 0..ROUNDS {
            let entry = match counted.take() {
                Some(entry) => entry,
                None => self.read(&key).await?,
            };
            let used = *lock(&account.used);
            if used >= of(&entry.value, &self.me) {
                *counted = Some(entry);
                return Ok(());
            }
            let mut counts = self.without_the_gone(&entry.value);
            if used == 0 {
                counts.0.remove(&self.me);
            } else {
                counts.0.insert(self.me.clone(), used);
            }
            let written = if counts.0.is_empty() {
                self.bucket.delete(&key, entry.revision).await
            } else {
                self.write(&key, entry.revision, counts).await.map(|entry| *counted = Some(entry))
            };
            match written {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("key `{key}` changed {ROUNDS} times")))
    }

    /// What this agent's last life counted is this life's, and not in use.
    async fn inherit(&self) -> Result<(), Error> {
        let all = self.bucket.list::<RunningByAgent>(&format!("{}*", PREFIX)).await?;
        for (key, entry) in all {
            let owner = key.strip_prefix(PREFIX).and_then(|owner| Owner::new(owner).ok());
            if let Some(owner) = owner.filter(|_| of(&entry.value, &self.me) > 0) {
                self.is_high(&owner);
            }
        }
        Ok(())
    }

    /// The count of an owner may be higher than what is in use.
    fn is_high(&self, owner: &Owner) {
        lock(&self.returned).insert(owner.clone());
        self.wake.notify_one();
    }

    /// The counts of agents that may still run something.
    fn without_the_gone(&self, counts: &RunningByAgent) -> RunningByAgent {
        let latest = self.latest.borrow();
        let reading = latest.as_ref().filter(|reading| reading.is_fresh());
        let is_gone = |agent: &AgentName| {
            let gone_ms = reading.and_then(|reading| reading.gone_ms(agent));
            *agent != self.me && gone_ms.is_some_and(|gone_ms| gone_ms >= self.lease_ms)
        };
        let left = counts.0.iter().filter(|(agent, _)| !is_gone(agent));
        RunningByAgent(left.map(|(agent, count)| (agent.clone(), *count)).collect())
    }

    async fn read(&self, key: &str) -> Result<Entry<RunningByAgent>, Error> {
        let nothing = || Entry { value: RunningByAgent::default(), revision: 0, stored_ms: 0 };
        Ok(self.bucket.get(key).await?.unwrap_or_else(nothing))
    }

    async fn write(
        &self,
        key: &str,
        revision: u64,
        value: RunningByAgent,
    ) -> Result<Entry<RunningByAgent>, Error> {
        let revision = match revision {
            0 => self.bucket.create(key, &value, None).await?,
            revision => self.bucket.update(key, revision, &value, None).await?,
        };
        Ok(Entry { value, revision, stored_ms: 0 })
    }
}
