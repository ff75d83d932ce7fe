//! Streams, buckets and queues: what a farm needs on its broker, as data.
//!
//! Owns their configuration and brings a broker to it. Never deletes anything but by `remove`.

mod queues;

pub use queues::{QueueState, ensure_queue, queue_state, queues, remove_queue};

use crate::api;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use grange_protocol::limit::MAX_MESSAGE_BYTES;
use grange_protocol::schedule::SCHEDULES;
use grange_protocol::subject::{
    AGENTS_BUCKET, DEAD, EVENTS, JOBS, LANES_BUCKET, PLUGINS_BUCKET, RUNS_BUCKET, SESSIONS_BUCKET, STATE,
};
use grange_protocol::ticket::Priority;
use serde_json::{Map, Value, json};
use std::time::Duration;

const MIB: i64 = 1024 * 1024;
const GIB: i64 = 1024 * MIB;
const DAY: Duration = Duration::from_secs(86_400);
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
const MARKER_TTL: Duration = DAY;
const BUCKET_MARKER_TTL: Duration = Duration::from_secs(60);
/// What is left of a heartbeat that ran out says since when its agent is silent: it stays longer than any lease.
const AGENT_MARKER_TTL: Duration = Duration::from_secs(90_000);
/// Set, because the server's own default holds an account to less; one that is empty for an hour is removed.
const MAX_QUEUES: u32 = 5_000;
/// What an operator chooses; kept as it is on a farm that exists, unless `resize` is given.
const SIZES: [&str; 3] = ["num_replicas", "max_bytes", "max_age"];

/// What an operator chooses about the streams.
#[derive(Clone, Debug)]
pub struct TopologyOptions {
    /// Copies of everything in a cluster: 1, 3 or 5.
    pub replicas: usize,
    /// Room for waiting tickets, bytes; when it is full, submits are refused. The server reserves the room of all
    /// streams together when they are made, and refuses a stream that exceeds its `max_file_store`.
    pub jobs_max_bytes: i64,
    /// Room for records, bytes; it is their own, so that submits can never fill it.
    pub state_max_bytes: i64,
    /// How long events are kept.
    pub events_max_age: Duration,
    /// Room for events, bytes; the oldest give way.
    pub events_max_bytes: i64,
    /// Room for what could not be run, bytes; the oldest give way.
    pub dead_max_bytes: i64,
    /// Change replicas, room and ages of streams that exist to these.
    pub resize: bool,
}

impl Default for TopologyOptions {
    /// One copy; 5.1 GiB of reserved room, so that a laptop's server accepts it.
    fn default() -> Self {
        Self {
            replicas: 1,
            jobs_max_bytes: GIB,
            state_max_bytes: 2 * GIB,
            events_max_age: 7 * DAY,
            events_max_bytes: 2 * GIB,
            dead_max_bytes: 128 * MIB,
            resize: false,
        }
    }
}

/// What was done about one stream or bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// The stream's or bucket's name.
    pub name: String,
    /// What was done.
    pub change: Change,
}

/// What `ensure` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// These settings were changed.
    Updated(Vec<String>),
    /// It was right.
    Unchanged,
}

/// Brings the broker to what a farm needs. Safe to call by many at once, and again. `StorageFull`: the server has
/// less room than the options reserve. `Conflict`: something that is there cannot be changed into what is needed.
pub async fn ensure(broker: &Broker, options: &TopologyOptions) -> Result<Vec<Ensured>, Error> {
    let mut done = Vec::new();
    for (name, config) in streams(options) {
        let change = ensure_stream(broker, &config, options.resize).await?;
        done.push(Ensured { name, change });
    }
    Ok(done)
}

/// Removes every stream and bucket, with all jobs. For tests, and for giving a broker back.
pub async fn remove(broker: &Broker) -> Result<(), Error> {
    for (name, config) in streams(&TopologyOptions::default()) {
        let stream = config["name"].as_str().unwrap_or(&name);
        match api::call::<Done>(broker, &format!("STREAM.DELETE.{stream}"), stream, &Value::Null).await {
            Err(e) if e.kind() != ErrorKind::NoTopology => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// An answer that must have a configuration, so that a refusal is not taken for one.
#[derive(serde::Deserialize)]
struct Created {
    config: Map<String, Value>,
}

#[derive(serde::Deserialize)]
struct Done {
    #[expect(dead_code, reason = "its presence tells an answer from a refusal")]
    success: bool,
}

async fn ensure_stream(broker: &Broker, wanted: &Value, resize: bool) -> Result<Change, Error> {
    let name = wanted["name"].as_str().unwrap_or_default();
    let found = match info(broker, name).await {
        Ok(found) => found,
        Err(e) if e.kind() == ErrorKind::NoTopology => {
            match api::call::<Created>(broker, &format!("STREAM.CREATE.{name}"), name, wanted).await {
                Ok(_) => return Ok(Change::Created),
                // Somebody else was first, with other options.
                Err(e) if e.kind() == ErrorKind::Conflict => info(broker, name).await?,
                Err(e) => return Err(e),
            }
        }
        Err(e) => return Err(e),
    };
    let differing: Vec<String> = differing(&found, wanted, resize);
    if differing.is_empty() {
        return Ok(Change::Unchanged);
    }
    let mut merged = found;
    for field in &differing {
        merged.insert(field.clone(), wanted[field].clone());
    }
    let body = Value::Object(merged);
    match api::call::<Created>(broker, &format!("STREAM.UPDATE.{name}"), name, &body).await {
        Ok(_) => Ok(Change::Updated(differing)),
        Err(e) if e.kind() == ErrorKind::StorageFull => Err(e),
        Err(e) => {
            let text =
                format!("stream `{name}` differs in `{}` and cannot be changed", differing.join("`, `"));
            Err(Error::new(ErrorKind::Conflict, text).because(e))
        }
    }
}

async fn info(broker: &Broker, name: &str) -> Result<Map<String, Value>, Error> {
    let answer: Created = api::call(broker, &format!("STREAM.INFO.{name}"), name, &Value::Null).await?;
    Ok(answer.config)
}

/// The settings that are not as wanted. What the server leaves out stands for its nothing.
fn differing(found: &Map<String, Value>, wanted: &Value, resize: bool) -> Vec<String> {
    let is_nothing = |v: &Value| v.is_null() || v == &json!(false) || v == &json!(0) || v == &json!("");
    let same = |field: &str, wanted: &Value| match found.get(field) {
        None => is_nothing(wanted),
        Some(found) => found == wanted,
    };
    let fields = wanted.as_object().into_iter().flatten();
    fields
        .filter(|(field, value)| !same(field, value) && (resize || !SIZES.contains(&field.as_str())))
        .map(|(field, _)| field.clone())
        .collect()
}

/// Every stream of a farm by its name on the broker, as this build makes it.
pub fn wanted() -> Vec<(String, Value)> {
    let all = streams(&TopologyOptions::default()).into_iter().map(|(_, config)| config);
    all.map(|config| (config["name"].as_str().unwrap_or_default().to_owned(), config)).collect()
}

/// The settings of a stream that are not as this build makes them; what an operator chooses is left out.
pub fn differences(found: &Map<String, Value>, wanted: &Value) -> Vec<String> {
    differing(found, wanted, false)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Name and configuration of everything, in the order in which it is made.
fn streams(options: &TopologyOptions) -> Vec<(String, Value)> {
    let mut all = vec![jobs(options), state(options), events(options), dead(options), schedules(options)];
    for bucket_name in [AGENTS_BUCKET, LANES_BUCKET, PLUGINS_BUCKET, SESSIONS_BUCKET, RUNS_BUCKET] {
        all.push((bucket_name.to_owned(), bucket(bucket_name, options)));
    }
    all
}

fn republish(source: &str, destination: &str, headers_only: bool) -> Value {
    let mut republish = json!({ "src": source, "dest": destination });
    if headers_only {
        republish["headers_only"] = true.into();
    }
    republish
}

/// A full queue refuses new tickets and never drops one that it accepted. The server (seen: 2.15.1, error 10052) lets
/// no stream do that and keep message schedules too, whatever its retention: those have a stream of their own.
fn jobs(options: &TopologyOptions) -> (String, Value) {
    let config = json!({
        "name": JOBS,
        // One subject a priority: a ticket with another word is refused when it is published, not left lying.
        "subjects": Priority::ALL.map(|priority| format!("grange.jobs.*.{priority}.*.*.*")),
        "retention": "workqueue",
        "storage": "file",
        "discard": "new",
        "num_replicas": options.replicas,
        "max_bytes": options.jobs_max_bytes,
        "max_msg_size": MAX_MESSAGE_BYTES,
        "max_consumers": MAX_QUEUES,
        "duplicate_window": nanos(DUPLICATE_WINDOW),
        "allow_direct": true,
        "republish": republish("grange.jobs.>", "grange.bell.>", true),
    });
    (JOBS.to_owned(), config)
}

fn state(options: &TopologyOptions) -> (String, Value) {
    let config = json!({
        "name": STATE,
        "subjects": ["grange.state.*.*"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": options.replicas,
        "max_bytes": options.state_max_bytes,
        "max_msg_size": MAX_MESSAGE_BYTES,
        "max_msgs_per_subject": 1,
        "duplicate_window": nanos(DUPLICATE_WINDOW),
        "allow_direct": true,
        "allow_msg_ttl": true,
        "allow_rollup_hdrs": true,
        "subject_delete_marker_ttl": nanos(MARKER_TTL),
        "republish": republish("grange.state.>", "grange.on.state.>", false),
    });
    (STATE.to_owned(), config)
}

fn events(options: &TopologyOptions) -> (String, Value) {
    let config = json!({
        "name": EVENTS,
        "subjects": ["grange.events.*.*.*"],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": options.replicas,
        "max_bytes": options.events_max_bytes,
        "max_age": nanos(options.events_max_age),
        "max_msg_size": MAX_MESSAGE_BYTES,
        "duplicate_window": nanos(DUPLICATE_WINDOW),
        "allow_direct": true,
        "republish": republish("grange.events.>", "grange.on.events.>", false),
    });
    (EVENTS.to_owned(), config)
}

fn dead(options: &TopologyOptions) -> (String, Value) {
    let config = json!({
        "name": DEAD,
        "subjects": ["grange.dead.*.*"],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": options.replicas,
        "max_bytes": options.dead_max_bytes,
        "duplicate_window": nanos(DUPLICATE_WINDOW),
        "allow_direct": true,
    });
    (DEAD.to_owned(), config)
}

/// What is to be submitted later. Without a limit of its own: the server takes schedules only into a stream that drops
/// the oldest when it is full, and what was accepted is never dropped. Who submits looks at its size (`schedules`). A
/// work queue, so that what was carried on is gone; the schedules themselves are given to nobody.
fn schedules(options: &TopologyOptions) -> (String, Value) {
    let config = json!({
        "name": SCHEDULES,
        "subjects": ["grange.schedule.*.*", "grange.cron.*.*", "grange.due.*.*.*.*.*", "grange.tick.*.*.*.*.*"],
        "retention": "workqueue",
        "storage": "file",
        "discard": "old",
        "num_replicas": options.replicas,
        "max_msg_size": MAX_MESSAGE_BYTES,
        "duplicate_window": nanos(DUPLICATE_WINDOW),
        "allow_direct": true,
        "allow_msg_schedules": true,
    });
    (SCHEDULES.to_owned(), config)
}

/// A key-value bucket as every NATS client makes it: one value a key, keys that may run out and leave a marker.
fn bucket(name: &str, options: &TopologyOptions) -> Value {
    let marker_ttl = if name == AGENTS_BUCKET { AGENT_MARKER_TTL } else { BUCKET_MARKER_TTL };
    json!({
        "name": format!("KV_{name}"),
        "subjects": [format!("$KV.{name}.>")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": options.replicas,
        "max_msgs_per_subject": 1,
        "duplicate_window": nanos(DUPLICATE_WINDOW),
        "allow_direct": true,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "allow_msg_ttl": true,
        "subject_delete_marker_ttl": nanos(marker_ttl),
    })
}
