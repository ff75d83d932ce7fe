//! Tickets, events, manifests and references.

use super::{Message, Unknown, plain, request, write, written};
use grange_protocol::event::{ChunkTally, Dropped, EventKind, LogLine, Progress};
use grange_protocol::failure::FailureKind;
use grange_protocol::json::Json;
use grange_protocol::manifest::{EnvironmentSpec, Manifest, PluginLimits};
use grange_protocol::name::PluginName;
use grange_protocol::object::ObjectRef;
use grange_protocol::retry::RetryPolicy;
use grange_protocol::subject;
use grange_protocol::ticket::{OnPartition, Ticket, TimeLimits};
use serde_json::json;
use std::collections::BTreeMap;

pub(super) fn messages() -> Vec<Message> {
    let ticket = |name, ticket: Ticket| Message {
        name,
        text: String::from_utf8(ticket.write()).expect("JSON is UTF-8"),
        read: Some(|text| Ticket::read(text).map(|t| write(&t)).map_err(|e| e.to_string())),
        unknown: Unknown::LeftOut,
    };
    let manifest = |name, text: String| Message {
        name,
        text,
        read: Some(|text| Manifest::read(text).map(|m| write(&m)).map_err(|e| e.to_string())),
        unknown: Unknown::Kept,
    };
    let cjm = Manifest::read(CJM.as_bytes()).expect("a manifest of cjm-plugin-system");
    let object = ObjectRef::new(DIGEST, 48_213, "page-1.png");
    vec![
        ticket("ticket-least", Ticket::default()),
        ticket("ticket-full", full_ticket()),
        plain("object", &object),
        Message {
            name: "object-value",
            text: object.to_value().to_string(),
            read: None,
            unknown: Unknown::LeftOut,
        },
        plain("event-progress", &Progress { progress: 0.25, message: "page 1 of 4".to_owned() }),
        plain("event-progress-unknown", &Progress { progress: -1.0, message: String::new() }),
        plain("event-log-line", &LogLine { stream: "stderr".to_owned(), line: "warming up".to_owned() }),
        plain("event-dropped", &Dropped { what: "log".to_owned(), lines: 120, bytes: 40_960 }),
        written("event-chunks", write(&chunks())),
        manifest("manifest-full", write(&full_manifest())),
        written("manifest-cjm-as-it-is", CJM.to_owned()),
        manifest("manifest-cjm-as-it-is-read", write(&cjm)),
    ]
}

const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

const CJM: &str = r#"{"name":"whisper-local","version":"1.0.0","description":"Whisper on this machine",
    "python_path":"/envs/w/bin/python","module":"cjm_transcription_plugin_whisper.plugin",
    "class":"WhisperLocalPlugin","category":"transcription","interface":"cjm.TranscriptionPlugin",
    "env_vars":{"CUDA_VISIBLE_DEVICES":"0"},"db_path":"/x.db",
    "resources":{"requires_gpu":true,"min_gpu_vram_mb":4096,"min_system_ram_mb":8192,
    "recommended_gpu_vram_mb":8192,"recommended_system_ram_mb":16384}}"#;

fn full_ticket() -> Ticket {
    let page = ObjectRef::new(DIGEST, 48_213, "page-1.png").to_value();
    Ticket {
        v: 1,
        args: Some(Json::parse(format!("[1,{page}]")).expect("JSON")),
        kwargs: Some(Json::parse(r#"{"deep":{"a":[null,true,1.50]},"language":"de"}"#).expect("JSON")),
        stream: Some(true),
        limits: TimeLimits {
            timeout_s: Some(600),
            lease_s: Some(60),
            cancel_grace_s: Some(10),
            on_partition: OnPartition::Continue,
        },
        retry: retry_policy(),
        resources: Some(request(r#"{"vram_mb":20000,"on":{"gpu":"a100"}}"#)),
    }
}

fn retry_policy() -> RetryPolicy {
    RetryPolicy {
        max_attempts: Some(5),
        worker_crashes: Some(2),
        host_losses: Some(20),
        backoff_ms: Some(500),
        backoff_max_ms: Some(30_000),
        kinds: Some(vec![FailureKind::PluginFailed, FailureKind::OutOfMemory]),
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
        resources: Some(request(
            r#"{"gpus":2,"vram_mb":4096,"exclusive":true,"ram_mb":2048,"cpus":2,"on":{"compute":"8.0","zone":"lab"}}"#,
        )),
        limits: PluginLimits {
            start_timeout_s: 60,
            timeout_s: Some(3600),
            cancel_grace_s: 10,
            keep_warm_s: Some(900),
            memory_mb: Some(8192),
        },
        retry: retry_policy(),
        other: BTreeMap::from([(text("homepage"), json!("https://example.org"))]),
    }
}
