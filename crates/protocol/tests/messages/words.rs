//! Tickets, events, control, heartbeats, manifests, references, and the names of everything on the broker.

use super::{Message, plain, write};
use grange_protocol::event::{ChunkTally, Dropped, EventKind, LogLine, Progress};
use grange_protocol::failure::FailureKind;
use grange_protocol::json::Json;
use grange_protocol::manifest::{EnvironmentSpec, Manifest, PluginLimits};
use grange_protocol::name::{AgentName, Class, Incarnation, JobId, Owner, PluginName};
use grange_protocol::object::ObjectRef;
use grange_protocol::record::State;
use grange_protocol::resource::{Capacity, Gpu, ResourceRequest};
use grange_protocol::status::{
    AgentState, AgentStatus, CancelOrder, ControlAnswer, HeldAttempt, PluginState, PluginStatus,
};
use grange_protocol::subject::{self, AttemptToken, JobKey, Lane};
use grange_protocol::ticket::{Priority, Ticket, TimeLimits};
use serde_json::json;
use std::collections::BTreeMap;

pub(super) fn messages() -> Vec<Message> {
    let ticket = |name, ticket: Ticket| Message {
        name,
        text: String::from_utf8(ticket.write()).expect("JSON is UTF-8"),
        read: Some(|text| Ticket::read(text).map(|t| write(&t)).map_err(|e| e.to_string())),
        keeps_unknown: false,
    };
    let manifest = |name, text: String| Message {
        name,
        text,
        read: Some(|text| Manifest::read(text).map(|m| write(&m)).map_err(|e| e.to_string())),
        keeps_unknown: true,
    };
    let cjm = Manifest::read(CJM.as_bytes()).expect("a manifest of cjm-plugin-system");
    let object = ObjectRef::new(DIGEST, 48_213, "page-1.png");
    let (ok, message) = (true, "the run is asked to stop".to_owned());
    let answer = ControlAnswer { ok, message };
    vec![
        ticket("ticket-least", Ticket::default()),
        ticket("ticket-full", full_ticket()),
        plain("object", &object),
        Message {
            name: "object-value",
            text: object.to_value().to_string(),
            read: None,
            keeps_unknown: false,
        },
        plain("event-progress", &Progress { progress: 0.25, message: "page 1 of 4".to_owned() }),
        plain("event-progress-unknown", &Progress { progress: -1.0, message: String::new() }),
        plain("event-log-line", &LogLine { stream: "stderr".to_owned(), line: "warming up".to_owned() }),
        plain("event-dropped", &Dropped { what: "log".to_owned(), lines: 120, bytes: 40_960 }),
        written("event-chunks", write(&chunks())),
        plain("control-cancel", &CancelOrder { owner: key().owner, job: key().job }),
        plain("control-answer", &answer),
        plain("heartbeat-least", &AgentStatus::silent(agent())),
        plain("heartbeat-full", &status()),
        manifest("manifest-full", write(&full_manifest())),
        written("manifest-cjm-as-it-is", CJM.to_owned()),
        manifest("manifest-cjm-as-it-is-read", write(&cjm)),
        written("names", write(&names())),
    ]
}

fn written(name: &'static str, text: String) -> Message {
    Message { name, text, read: None, keeps_unknown: false }
}

const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

const CJM: &str = r#"{"name":"whisper-local","version":"1.0.0","description":"Whisper on this machine",
    "python_path":"/envs/w/bin/python","module":"cjm_transcription_plugin_whisper.plugin",
    "class":"WhisperLocalPlugin","category":"transcription","interface":"cjm.TranscriptionPlugin",
    "env_vars":{"CUDA_VISIBLE_DEVICES":"0"},"db_path":"/x.db",
    "resources":{"requires_gpu":true,"min_gpu_vram_mb":4096,"min_system_ram_mb":8192}}"#;

fn key() -> JobKey {
    let job = JobId::new("0199a3b2-c1d4-7e5f-8a9b-0c1d2e3f4a5b").expect("a name");
    JobKey { owner: Owner::new("alice").expect("a name"), job }
}

fn agent() -> AgentName {
    AgentName::new("gpu-1").expect("a name")
}

fn full_ticket() -> Ticket {
    let page = ObjectRef::new(DIGEST, 48_213, "page-1.png").to_value();
    Ticket {
        v: 1,
        args: Some(Json::parse(format!("[1,{page}]")).expect("JSON")),
        kwargs: Some(Json::parse(r#"{"deep":{"a":[null,true,1.50]},"language":"de"}"#).expect("JSON")),
        stream: Some(true),
        limits: TimeLimits { timeout_s: Some(600), lease_s: Some(60), cancel_grace_s: Some(10) },
    }
}

/// What a `chunk` event with three chunks carries: its headers, its body, and the digest of a stream of only these.
fn chunks() -> serde_json::Value {
    let body = "{\"n\":0}\n\"two\\nlines\"\nnull\n";
    let mut tally = ChunkTally::default();
    tally.add(body.as_bytes(), 3);
    json!({
        "headers": {
            (subject::KIND_HEADER): EventKind::Chunk.as_str(),
            (subject::FIRST_HEADER): "0",
            (subject::COUNT_HEADER): "3",
        },
        "body": body,
        "sha256": tally.sha256(),
    })
}

fn status() -> AgentStatus {
    let gpu = Gpu {
        uuid: "GPU-5f1c0a52-8c61-4d0a-9b7e-2f3d4c5b6a79".to_owned(),
        name: "NVIDIA H200".to_owned(),
        vram_mb: 143_771,
        vram_free_mb: 120_000,
        utilisation: 37,
    };
    let capacity = Capacity {
        cpus: 16,
        ram_mb: 131_072,
        ram_free_mb: 100_000,
        gpus: vec![gpu],
        labels: BTreeMap::from([("zone".to_owned(), "lab".to_owned())]),
    };
    let plugin = |name: &str, state, reason: &str| PluginStatus {
        name: PluginName::new(name).expect("a name"),
        version: "1.2.0".to_owned(),
        description: "Reads pages".to_owned(),
        category: "ocr".to_owned(),
        state,
        reason: reason.to_owned(),
        workers: 1,
        running: 1,
        slots: 4,
    };
    AgentStatus {
        incarnation: Incarnation::new("0199a3b2c1d47e5f8a9b0c1d2e3f4a5b").expect("a name"),
        version: "0.1.0".to_owned(),
        host: "gpu-1.lab".to_owned(),
        state: AgentState::Draining,
        isolation: "process".to_owned(),
        started_ms: 1_790_000_000_000,
        capacity,
        attempts: vec![HeldAttempt { owner: key().owner, job: key().job, number: 1, claim: 4711 }],
        covers: 4711,
        plugins: vec![
            plugin("ocr", PluginState::Ready, ""),
            plugin("whisper", PluginState::Preparing, "its environment is being built"),
            plugin("broken", PluginState::Failed, "`uv` is not on this host"),
        ],
        notices: vec!["manifest `/etc/grange/plugins/x.json` was skipped: not valid".to_owned()],
        ..AgentStatus::silent(agent())
    }
}

fn full_manifest() -> Manifest {
    let text = |t: &str| t.to_owned();
    Manifest {
        name: PluginName::new("ocr").expect("a name"),
        version: text("1.2.0"),
        description: text("Reads pages"),
        author: text("Grange"),
        category: text("ocr"),
        interface: text("grange.examples.Ocr"),
        module: text("ocr_plugin"),
        class: text("OcrPlugin"),
        python_path: None,
        environment: Some(EnvironmentSpec {
            python: text("3.11"),
            requirements: vec![text("rapidocr-onnxruntime==1.4.4")],
            overrides: vec![text("numpy<2")],
        }),
        command: Vec::new(),
        paths: vec![text(".")],
        env_vars: BTreeMap::from([(text("OMP_NUM_THREADS"), text("2"))]),
        config: Some(serde_json::Map::from_iter([(text("language"), json!("en"))])),
        config_schema: Some(json!({"properties": {"language": {"type": "string"}}, "type": "object"})),
        concurrency: 2,
        max_workers: 4,
        resources: ResourceRequest { gpus: 1, vram_mb: 4096, exclusive: false, ram_mb: 2048, cpus: 2 },
        limits: PluginLimits { start_timeout_s: 60, timeout_s: Some(3600), cancel_grace_s: 10 },
        other: BTreeMap::from([(text("homepage"), json!("https://example.org"))]),
    }
}

/// Subjects, headers, names and words, by what they are for.
fn names() -> serde_json::Value {
    let lane = Lane {
        priority: Priority::High,
        plugin: PluginName::new("ocr").expect("a name"),
        class: Class::plugin_default(),
    };
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
            "bells": subject::bells(&lane.class, &lane.plugin),
            "dead": key().dead("malformed"),
            "control": subject::control(&agent(), "cancel"),
            "heartbeat": subject::heartbeat(&agent()),
        },
        "lane": {
            "shown": lane.to_string(),
            "consumer": lane.consumer(),
            "filter": lane.filter(),
            "pull": lane.pull(),
        },
        "headers": [
            subject::STATE_HEADER, subject::KIND_HEADER, subject::FIRST_HEADER, subject::COUNT_HEADER,
            subject::SEQUENCE_HEADER, subject::PREVIOUS_HEADER, subject::MESSAGE_ID_HEADER,
            subject::EXPECT_HEADER, subject::TTL_HEADER, subject::MARKER_HEADER,
        ],
        "priorities": Priority::ALL,
        "classes": [Class::DEFAULT, Class::ANY],
        "states": State::ALL,
        "event kinds": kinds,
        "failure kinds": FAILURE_KINDS,
    })
}

/// Every kind of failure; the match below does not compile when one is missing here.
const FAILURE_KINDS: [FailureKind; 13] = [
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
    FailureKind::HostLost,
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
            | FailureKind::HostLost
            | FailureKind::Internal
            | FailureKind::Unknown => at += 1,
        }
    }
};
