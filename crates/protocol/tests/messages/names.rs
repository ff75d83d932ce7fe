//! The names of everything on the broker, and every word that is one of a list.

use super::{Message, key, request, write, written};
use grange_protocol::class::class_of;
use grange_protocol::event::EventKind;
use grange_protocol::facts::{HOUSEKEEPER_KEY, Learned, OVERVIEW_KEY, RunningByAgent};
use grange_protocol::failure::FailureKind;
use grange_protocol::name::{AgentName, Class, PluginName};
use grange_protocol::record::State;
use grange_protocol::status::WorkerState;
use grange_protocol::subject::{self, AttemptToken, Lane};
use grange_protocol::ticket::Priority;
use serde_json::json;

pub(super) fn messages() -> Vec<Message> {
    vec![written("names", write(&names())), written("classes", write(&classes()))]
}

fn agent() -> AgentName {
    AgentName::new("gpu-1").expect("a name")
}

/// Requests, and the class that each of them has.
fn classes() -> serde_json::Value {
    let requests = [
        "{}",
        r#"{"gpus":1}"#,
        r#"{"vram_mb":1}"#,
        r#"{"vram_mb":8192}"#,
        r#"{"vram_mb":8193}"#,
        r#"{"gpus":2,"vram_mb":24000,"exclusive":true}"#,
        r#"{"ram_mb":20000,"cpus":6}"#,
        r#"{"on":{"zone":"lab","gpu":"a100","compute":"8.0"}}"#,
        r#"{"gpus":8,"vram_mb":81920,"exclusive":true,"ram_mb":900000,"cpus":96,"on":{"driver":"550.54","host":"gpu-1"}}"#,
    ];
    let class = |text: &str| {
        let asked: serde_json::Value = serde_json::from_str(text).expect("JSON");
        json!({ "asked": asked, "class": class_of(&request(text)).expect("a class") })
    };
    requests.map(class).into_iter().collect()
}

/// Subjects, headers, names and words, by what they are for.
fn names() -> serde_json::Value {
    let lane = Lane {
        priority: Priority::High,
        plugin: PluginName::new("ocr").expect("a name"),
        class: class_of(&request(r#"{"vram_mb":20000,"on":{"compute":"8.0"}}"#)).expect("a class"),
    };
    let queue = key().queue(&lane);
    let token = AttemptToken { number: 1, claim: 4711 };
    let kinds = [EventKind::Chunk, EventKind::Progress, EventKind::Log, EventKind::Dropped];
    json!({
        "streams": [subject::JOBS, subject::STATE, subject::EVENTS, subject::DEAD],
        "buckets": [
            subject::AGENTS_BUCKET, subject::LANES_BUCKET, subject::PLUGINS_BUCKET, subject::SESSIONS_BUCKET,
            subject::RUNS_BUCKET,
        ],
        "subjects": {
            "ticket": key().ticket(&lane),
            "any ticket": key().any_ticket(),
            "state": key().state(),
            "on state": key().on_state(),
            "on states": subject::on_states(&key().owner),
            "events": key().events(&token),
            "on events": key().on_events(),
            "bells": subject::bells(&lane.plugin),
            "call": key().call(&lane),
            "calls": subject::calls(&lane.plugin),
            "dead": key().dead("malformed"),
            "control": subject::control(&agent(), "cancel"),
            "unquarantine": subject::control(&agent(), "unquarantine"),
            "heartbeat": subject::heartbeat(&agent()),
        },
        "lane": lane.to_string(),
        "queue": {
            "shown": queue.to_string(),
            "consumer": queue.consumer(),
            "filter": queue.filter(),
            "pull": queue.pull(),
        },
        "keys": {
            "overview": OVERVIEW_KEY,
            "housekeeper": HOUSEKEEPER_KEY,
            "reservation": queue.saving(),
            "running": RunningByAgent::key(&key().owner),
            "learned": Learned::key(&lane.plugin, "0a1b2c3d", "NVIDIA A100-SXM4-80GB"),
            "learned without a GPU": Learned::key(&lane.plugin, "0a1b2c3d", ""),
        },
        "headers": [
            subject::STATE_HEADER, subject::KIND_HEADER, subject::FIRST_HEADER, subject::COUNT_HEADER,
            subject::SEQUENCE_HEADER, subject::PREVIOUS_HEADER, subject::MESSAGE_ID_HEADER,
            subject::EXPECT_HEADER, subject::HOPS_HEADER, subject::TTL_HEADER, subject::MARKER_HEADER,
        ],
        "priorities": Priority::ALL,
        "classes": [Class::DEFAULT, Class::ANY],
        "states": State::ALL,
        "worker states": WORKER_STATES.map(WorkerState::as_str),
        "event kinds": kinds,
        "failure kinds": FAILURE_KINDS,
    })
}

/// Every kind of failure; the match below does not compile when one is missing here.
const FAILURE_KINDS: [FailureKind; 17] = [
    FailureKind::InvalidInput,
    FailureKind::InputUnavailable,
    FailureKind::PluginUnavailable,
    FailureKind::StartFailed,
    FailureKind::PluginFailed,
    FailureKind::Unserialisable,
    FailureKind::OutputTooLarge,
    FailureKind::StoreFailed,
    FailureKind::WorkerCrashed,
    FailureKind::TimedOut,
    FailureKind::OutOfMemory,
    FailureKind::OutOfDisk,
    FailureKind::HostLost,
    FailureKind::GpuFailed,
    FailureKind::OverLimit,
    FailureKind::Internal,
    FailureKind::Unknown,
];

const _: () = {
    let mut at = 0;
    while at < FAILURE_KINDS.len() {
        match FAILURE_KINDS[at] {
            FailureKind::InvalidInput
            | FailureKind::InputUnavailable
            | FailureKind::PluginUnavailable
            | FailureKind::StartFailed
            | FailureKind::PluginFailed
            | FailureKind::Unserialisable
            | FailureKind::OutputTooLarge
            | FailureKind::StoreFailed
            | FailureKind::WorkerCrashed
            | FailureKind::TimedOut
            | FailureKind::OutOfMemory
            | FailureKind::OutOfDisk
            | FailureKind::HostLost
            | FailureKind::GpuFailed
            | FailureKind::OverLimit
            | FailureKind::Internal
            | FailureKind::Unknown => at += 1,
        }
    }
};

/// Every state of a worker.
const WORKER_STATES: [WorkerState; 6] = [
    WorkerState::Waiting,
    WorkerState::Starting,
    WorkerState::Idle,
    WorkerState::Busy,
    WorkerState::Ending,
    WorkerState::Returning,
];

const _: () = {
    let mut at = 0;
    while at < WORKER_STATES.len() {
        match WORKER_STATES[at] {
            WorkerState::Waiting
            | WorkerState::Starting
            | WorkerState::Idle
            | WorkerState::Busy
            | WorkerState::Ending
            | WorkerState::Returning => at += 1,
        }
    }
};
