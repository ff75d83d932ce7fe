//! Watches the life of every job from outside: one connection that hears each ticket and each record in the order in
//! which the broker stored them. All times are of one clock, this machine's, so that they can be compared.

use anyhow::{Result, bail};
use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use grange_broker_client::connect::Broker;
use grange_protocol::name::JobId;
use grange_protocol::record::{Record, State};
use grange_protocol::subject::{HOPS_HEADER, JobKey, Lane, parse_state, parse_ticket};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinSet;

/// All tickets' bells. Not all of `grange.bell`: agents ask there whether their own ears have been closed.
const BELLS: &str = "grange.bell.*.*.*.*.*";
/// All pulls of tickets.
const PULLS: &str = "$JS.API.CONSUMER.MSG.NEXT.GRANGE_JOBS.";
/// How often the table is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// What was seen of one job. Times are Unix microseconds; 0: not seen.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Which.
    job: JobId,
    /// Where it waited.
    pub(crate) lane: Lane,
    /// Before its ticket was published.
    pub(crate) sent_us: u64,
    /// Its ticket was stored: its bell rang.
    pub(crate) stored_us: u64,
    /// The last pull of its queue before it was taken, by whomever: its agent decided for this queue no later than then.
    pub(crate) asked_us: u64,
    /// The agent that was handed its ticket first began to claim it, by its record: in whole milliseconds.
    pub(crate) taken_us: u64,
    /// That claim was stored.
    pub(crate) claimed_us: u64,
    /// By whom.
    pub(crate) agent: String,
    /// Its terminal record was stored.
    pub(crate) ended_us: u64,
    /// It was given back after a claim so often.
    pub(crate) given_back: u32,
    /// Its run began in the plugin.
    pub(crate) began_us: u64,
    /// Its run ended in the plugin.
    pub(crate) done_us: u64,
}

impl Life {
    /// From the publish of its ticket to the claim.
    pub(crate) fn to_claim(&self) -> Duration {
        Duration::from_micros(self.claimed_us.saturating_sub(self.sent_us))
    }

    /// From the publish of its ticket to the beginning of its run.
    pub(crate) fn to_begin(&self) -> Duration {
        Duration::from_micros(self.began_us.saturating_sub(self.sent_us))
    }
}

/// What was seen of these jobs, one a line, for who looks into a figure.
pub(crate) fn lines(lives: &[Life]) -> String {
    let mut text = String::new();
    for life in lives {
        let line = json!({
            "lane": life.lane.to_string(), "sent_us": life.sent_us, "stored_us": life.stored_us,
            "asked_us": life.asked_us, "taken_us": life.taken_us, "claimed_us": life.claimed_us, "agent": life.agent, "began_us": life.began_us, "done_us": life.done_us,
            "ended_us": life.ended_us, "given_back": life.given_back, "job": life.job.to_string(),
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text
}

/// This machine's clock, Unix microseconds.
pub(crate) fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

type Lives = Arc<Mutex<BTreeMap<JobKey, Life>>>;

/// The watcher.
pub(crate) struct Watch {
    lives: Lives,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Begins to listen, on a connection of its own.
    pub(crate) async fn open(broker: Broker) -> Result<Self> {
        let bells = broker.client().subscribe(BELLS).await?;
        let records = broker.client().subscribe("grange.on.state.>").await?;
        let pulls = broker.client().subscribe(format!("{PULLS}*")).await?;
        // The answer comes after all subscriptions were taken.
        broker.request("$JS.API.INFO".to_owned(), Bytes::new()).await?;
        let lives = Lives::default();
        let mut tasks = JoinSet::new();
        let heard = lives.clone();
        tasks.spawn(async move {
            // The connection ends with the watcher.
            let _connection = broker;
            let mut all = futures_util::stream::select_all([bells, records, pulls]);
            let mut asked = BTreeMap::new();
            while let Some(message) = all.next().await {
                take(&heard, &mut asked, &message, unix_us());
            }
        });
        Ok(Self { lives, _tasks: tasks })
    }

    /// A job is about to be published.
    pub(crate) fn expect(&self, key: JobKey, lane: Lane) {
        let life = Life {
            job: key.job.clone(),
            lane,
            sent_us: unix_us(),
            stored_us: 0,
            asked_us: 0,
            taken_us: 0,
            claimed_us: 0,
            agent: String::new(),
            ended_us: 0,
            given_back: 0,
            began_us: 0,
            done_us: 0,
        };
        lock(&self.lives).insert(key, life);
    }

    /// How many of the expected jobs have been claimed.
    pub(crate) fn claimed(&self) -> usize {
        lock(&self.lives).values().filter(|life| life.claimed_us > 0).count()
    }

    /// Waits until every expected job has ended, at most so long, and gives what was seen of all; it starts anew then.
    pub(crate) async fn all_ended(&self, limit: Duration) -> Vec<Life> {
        let begun = Instant::now();
        while begun.elapsed() < limit && lock(&self.lives).values().any(|life| life.ended_us == 0) {
            tokio::time::sleep(EVERY).await;
        }
        let mut lives: Vec<Life> = std::mem::take(&mut *lock(&self.lives)).into_values().collect();
        lives.sort_by_key(|life| life.sent_us);
        lives
    }

    /// The same, where all must end.
    pub(crate) async fn all_ended_well(&self, limit: Duration) -> Result<Vec<Life>> {
        let lives = self.all_ended(limit).await;
        let left = lives.iter().filter(|life| life.done_us == 0).count();
        if left > 0 {
            bail!("{left} of {} jobs did not succeed within {} s", lives.len(), limit.as_secs());
        }
        Ok(lives)
    }
}

fn lock(lives: &Lives) -> MutexGuard<'_, BTreeMap<JobKey, Life>> {
    lives.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When each queue was pulled, by its consumer.
type Asked = BTreeMap<String, Vec<u64>>;

fn take(lives: &Lives, asked: &mut Asked, message: &Message, at_us: u64) {
    if let Some(consumer) = message.subject.strip_prefix(PULLS) {
        // A look takes nothing.
        if !message.payload.windows(9).any(|part| part == b"max_bytes") {
            asked.entry(consumer.to_owned()).or_default().push(at_us);
        }
        return;
    }
    if let Ok((_, key)) = parse_ticket(&message.subject) {
        let passed_on = message.headers.as_ref().is_some_and(|headers| headers.get(HOPS_HEADER).is_some());
        if let Some(life) = lock(lives).get_mut(&key).filter(|life| life.stored_us == 0 && !passed_on) {
            life.stored_us = at_us;
        }
        return;
    }
    let (Some(key), Ok(record)) = (parse_state(&message.subject), Record::read(&message.payload)) else {
        return;
    };
    if let Some(life) = lock(lives).get_mut(&key) {
        heard(life, &record, at_us);
        let times = asked.get(&key.queue(&life.lane).consumer()).filter(|_| life.asked_us == 0);
        let before = |times: &Vec<u64>| times.iter().rev().find(|at| **at <= life.taken_us).copied();
        life.asked_us = times.and_then(before).unwrap_or(life.asked_us);
    }
}

fn heard(life: &mut Life, record: &Record, at_us: u64) {
    if record.state.is_held() && life.claimed_us == 0 {
        life.claimed_us = at_us;
        if let Some(attempt) = &record.attempt {
            (life.agent, life.taken_us) = (attempt.agent.to_string(), attempt.claimed_ms * 1000);
        }
    }
    if matches!(record.state, State::Queued | State::Retrying) && life.claimed_us > 0 {
        life.given_back += 1;
    }
    if record.state.is_terminal() && life.ended_us == 0 {
        life.ended_us = at_us;
        let result = record.outcome.as_ref().and_then(|outcome| outcome.result.as_ref());
        let value = result.map(grange_protocol::json::Json::value).unwrap_or_default();
        life.began_us = value["began_us"].as_u64().unwrap_or(0);
        life.done_us = value["ended_us"].as_u64().unwrap_or(0);
    }
}
