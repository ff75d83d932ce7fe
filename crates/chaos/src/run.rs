//! One run of one schedule: start, work under faults, heal, settle, count what is left, judge.
//!
//! Owns the order of these. Never decides what is a fault or a violation.

use crate::census;
use crate::checker::{Evidence, SETTLE_LIMIT_MS, Verdict, check};
use crate::history::{Fact, Finale, History, Sight, now_ns};
use crate::nemesis::Nemesis;
use crate::report::report;
use crate::schedule::Schedule;
use crate::site::{Site, connect};
use crate::witness::Witness;
use crate::workload::{Clients, Jobs, plan};
use async_nats::HeaderMap;
use futures_util::StreamExt;
use grange_broker_client::connect::Broker;
use grange_broker_client::ledger::Ledger;
use grange_protocol::name::{JobId, Owner};
use grange_protocol::ownership::Stored;
use grange_protocol::record::Record;
use grange_protocol::subject::{JobKey, SEQUENCE_HEADER, parse_state};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How often the witness is read.
const WITNESS_EVERY: Duration = Duration::from_millis(25);
/// Beyond the limit it is still waited for, to say how long it took.
const SETTLE_MORE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// What ended has to be gone within this.
const GONE_LIMIT: Duration = Duration::from_secs(20);
/// Followers have so long after everything ended.
const FOLLOWERS_LIMIT: Duration = Duration::from_secs(40);
/// Past every proxy, so patience is for a server that is away.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a run came to.
pub struct Ran {
    /// The line.
    pub report: Value,
    /// The judgement.
    pub verdict: Verdict,
}

/// Runs a schedule in a folder, which has to be empty.
pub async fn run(schedule: &Schedule, profile: &str, folder: &Path) -> anyhow::Result<Ran> {
    std::fs::write(folder.join("schedule.json"), serde_json::to_vec_pretty(schedule)?)?;
    let history = History::new(&folder.join("history.jsonl"))?;
    let mut site = Site::start(folder, schedule.agents, schedule.brokers).await?;
    let witness = Arc::new(Mutex::new(Witness::new(folder)));
    let watching = tokio::spawn(watch(Arc::clone(&witness)));
    let direct = connect(&site.servers.urls(), "chaos-observer", PATIENCE).await?;
    let jobs = Jobs::default();
    let observing = tokio::spawn(observe(direct.clone(), jobs.clone(), history.clone()));
    let broker = connect(&site.client_url(), "chaos-client", PATIENCE).await?;
    let clients = Clients { broker, history: history.clone(), jobs: jobs.clone() };

    let begun = Instant::now();
    let planned = plan(schedule);
    let keys: Vec<JobKey> = planned.iter().map(|planned| key(&planned.owner, &planned.job)).collect();
    let working = tokio::spawn({
        let clients = clients.clone();
        async move { clients.run(begun, planned).await }
    });
    let reading = tokio::spawn(async move { clients.read_again_and_again().await });
    let mut nemesis = Nemesis::new(&mut site, history.clone(), jobs.clone(), direct.clone());
    nemesis.run(begun, Duration::from_secs(schedule.secs), &schedule.faults).await?;
    census::gauge(&site, &history);

    let mut finale = settle(&direct, &keys, &jobs, &history).await;
    let _ = timeout(FOLLOWERS_LIMIT, working).await;
    reading.abort();
    observing.abort();
    census::gauge(&site, &history);
    finale.left = gone(GONE_LIMIT, || [census::locks(folder), census::scratch(&site)].concat()).await;
    finale.secrets = census::secrets(&site);
    for host in &mut site.hosts {
        host.kill();
    }
    finale.left.extend(gone(GONE_LIMIT, || census::processes(folder)).await);
    watching.abort();
    let mut witness = witness.lock().expect("no holder panics");
    witness.look();
    std::fs::write(folder.join("finale.json"), serde_json::to_vec_pretty(&finale)?)?;
    let (events, lines) = (history.events(), witness.lines());
    let calm = schedule.faults.is_empty();
    let verdict = check(&Evidence { events: &events, lines, finale: &finale, calm });
    let report = report(schedule, profile, &verdict, (&events, lines, &finale));
    Ok(Ran { report, verdict })
}

fn key(owner: &str, job: &str) -> JobKey {
    JobKey { owner: Owner::new(owner).expect("a name"), job: JobId::new(job).expect("a name") }
}

async fn watch(witness: Arc<Mutex<Witness>>) {
    loop {
        witness.lock().expect("no holder panics").look();
        sleep(WITNESS_EVERY).await;
    }
}

/// Notes every record that the broker tells of.
async fn observe(broker: Broker, jobs: Jobs, history: History) {
    let Ok(mut states) = broker.client().subscribe("grange.on.state.>").await else { return };
    while let Some(message) = states.next().await {
        let revision = revision(message.headers.as_ref());
        let (Some(key), Ok(record)) = (parse_state(&message.subject), Record::read(&message.payload)) else {
            continue;
        };
        jobs.seen(&key, record.state);
        let sight = Sight::of(&record, revision);
        history.note(Fact::Seen { job: key.job.to_string(), reader: "observer".to_owned(), sight });
    }
}

fn revision(headers: Option<&HeaderMap>) -> u64 {
    let value = headers.and_then(|headers| headers.get(SEQUENCE_HEADER));
    value.and_then(|value| value.as_str().parse().ok()).unwrap_or(0)
}

/// Waits until every job that was accepted has ended, and every other that has a record.
async fn settle(broker: &Broker, keys: &[JobKey], jobs: &Jobs, history: &History) -> Finale {
    let (healed, healed_ns) = (Instant::now(), now_ns());
    let ledger = Ledger::new(broker);
    let mut finale = Finale::default();
    let mut open: BTreeSet<&JobKey> = keys.iter().collect();
    let limit = Duration::from_millis(SETTLE_LIMIT_MS) + SETTLE_MORE;
    loop {
        let submitted = jobs.are_submitted();
        let accepted = accepted(history);
        let looked: Vec<&JobKey> = open.iter().copied().collect();
        for key in looked {
            let job = key.job.to_string();
            match ledger.read(key).await {
                Ok(Stored::Record { sequence, record, .. }) => {
                    if record.state.is_terminal() {
                        open.remove(key);
                    }
                    finale.records.insert(job, Sight::of(&record, sequence));
                }
                // Whoever finds the ticket of one that ran out writes its end.
                Ok(Stored::Nothing | Stored::Marker { .. }) if submitted && !accepted.contains(&job) => {
                    open.remove(key);
                    finale.records.remove(&job);
                }
                Ok(Stored::Nothing | Stored::Marker { .. }) | Err(_) => {}
            }
        }
        if open.is_empty() {
            finale.settled_ms = Some((now_ns() - healed_ns) / 1_000_000);
            return finale;
        }
        if healed.elapsed() > limit {
            return finale;
        }
        sleep(POLL).await;
    }
}

fn accepted(history: &History) -> BTreeSet<String> {
    let submitted = history.events().into_iter().filter_map(|event| match event.fact {
        Fact::Submitted { job } => Some(job),
        _ => None,
    });
    submitted.collect()
}

/// Waits until nothing is found any more, and says what is found at the limit.
async fn gone(limit: Duration, find: impl Fn() -> Vec<String>) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let found = find();
        if found.is_empty() || begun.elapsed() > limit {
            return found;
        }
        sleep(POLL).await;
    }
}
