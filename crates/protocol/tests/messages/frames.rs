//! Frames of the worker link. What the agent writes is made by `ToWorker::write`; what a worker writes is given here
//! as text, and each has to be read as what it is.

use super::{Message, Unknown};
use grange_protocol::frame::{FromWorker, HEADER_BYTES, LINK_PROTOCOL, Load, Question, Run, ToWorker};
use grange_protocol::json::Json;
use grange_protocol::limit::{INLINE_BYTES, MAX_FRAME_BYTES};

pub(super) fn messages() -> Vec<Message> {
    let run = Run {
        run: 7,
        args: Json::parse("[1]").expect("JSON"),
        kwargs: Json::parse(r#"{"path":"/state/scratch/x/in/0/page-1.png"}"#).expect("JSON"),
        stream: None,
        scratch: "/state/scratch/x".to_owned(),
        job: "0199a3b2-c1d4-7e5f-8a9b-0c1d2e3f4a5b".to_owned(),
        attempt: 1,
    };
    let ask = |what| ToWorker::Ask { id: 3, what };
    let mut all = vec![
        to_worker("to-worker-load", &ToWorker::Load(Box::new(load()))),
        to_worker("to-worker-run", &ToWorker::Run(Box::new(run))),
        to_worker("to-worker-cancel", &ToWorker::Cancel { run: 7 }),
        to_worker("to-worker-credit", &ToWorker::Credit { run: 7, chunks: 16 }),
        to_worker("to-worker-ask-health", &ask(Question::Health)),
        to_worker("to-worker-ask-stats", &ask(Question::Stats)),
        to_worker("to-worker-ask-config", &ask(Question::Config)),
        to_worker("to-worker-ask-schema", &ask(Question::Schema)),
        to_worker("to-worker-release", &ToWorker::Release { id: 3 }),
        to_worker("to-worker-exit", &ToWorker::Exit),
    ];
    all.extend(FROM_WORKER.map(|(name, text)| Message {
        name,
        text: text.to_owned(),
        read: Some(reread),
        unknown: Unknown::LeftOut,
    }));
    all
}

fn load() -> Load {
    Load {
        protocol: LINK_PROTOCOL,
        plugin: "ocr".to_owned(),
        module: "ocr_plugin".to_owned(),
        class: "OcrPlugin".to_owned(),
        paths: vec!["/plugins/ocr".to_owned()],
        config: Some(serde_json::Map::from_iter([("language".to_owned(), "en".into())])),
        concurrency: 2,
        frame_bytes: MAX_FRAME_BYTES,
        window: 1024,
        inline_bytes: INLINE_BYTES,
    }
}

fn to_worker(name: &'static str, frame: &ToWorker) -> Message {
    let mut bytes = Vec::new();
    frame.write(&mut bytes, MAX_FRAME_BYTES).expect("it is below the limit");
    let text = String::from_utf8(bytes.split_off(HEADER_BYTES)).expect("JSON is UTF-8");
    Message { name, text, read: None, unknown: Unknown::LeftOut }
}

/// As `worker/grange_worker` writes them, less `pid`, `streams` and the like that the agent does not read.
const FROM_WORKER: [(&str, &str); 14] = [
    (
        "from-worker-ready",
        r#"{"t":"ready","protocol":1,"name":"ocr","version":"1.2.0","config":{"language":"en"},"schema":{"type":"object"},"releases":true}"#,
    ),
    (
        "from-worker-failed",
        r#"{"t":"failed","stage":"import","type":"ModuleNotFoundError","message":"No module named 'x'","traceback":"Traceback …"}"#,
    ),
    ("from-worker-started", r#"{"t":"started","run":7}"#),
    ("from-worker-chunk", r#"{"t":"chunk","run":7,"value":{"n":1.50,"text":"a"},"files":false}"#),
    (
        "from-worker-chunk-file",
        r#"{"t":"chunk","run":7,"value":{"$file":{"name":"p.png","path":"/s/p.png","temp":false}},"files":true}"#,
    ),
    ("from-worker-progress", r#"{"t":"progress","run":7,"progress":0.5,"message":"half"}"#),
    ("from-worker-log", r#"{"t":"log","run":7,"stream":"stdout","line":"hello"}"#),
    ("from-worker-log-of-nobody", r#"{"t":"log","run":null,"stream":"stderr","line":"warming up"}"#),
    ("from-worker-done", r#"{"t":"done","run":7,"value":[1,null],"files":false,"ms":12.5}"#),
    ("from-worker-done-null", r#"{"t":"done","run":7,"value":null,"files":false,"ms":0.25}"#),
    (
        "from-worker-error",
        r#"{"t":"error","run":7,"type":"ValueError","message":"no page","traceback":"Traceback …","cancelled":false,"kind":"raised","ms":3.5}"#,
    ),
    ("from-worker-cancelling", r#"{"t":"cancelling","run":7,"answer":"cancelled"}"#),
    ("from-worker-answer", r#"{"t":"answer","id":3,"ok":true,"value":{"idle":true}}"#),
    (
        "from-worker-answer-raised",
        r#"{"t":"answer","id":3,"ok":false,"error":{"type":"KeyError","message":"x","traceback":"T"}}"#,
    ),
];

/// Reads a frame and spells out what was read, field by field, as the worker would have written it.
fn reread(text: &[u8]) -> Result<String, String> {
    let json = |text: &str| serde_json::to_string(text).expect("a text is JSON");
    let raw = |value: &Option<Json>| value.as_ref().map_or("null".to_owned(), |v| v.text().to_owned());
    Ok(match FromWorker::read(text).map_err(|e| e.to_string())? {
        FromWorker::Ready(ready) => format!(
            r#"{{"t":"ready","protocol":{},"name":{},"version":{},"config":{},"schema":{},"releases":{}}}"#,
            ready.protocol,
            json(&ready.name.unwrap_or_default()),
            json(&ready.version.unwrap_or_default()),
            raw(&ready.config),
            raw(&ready.schema),
            ready.releases,
        ),
        FromWorker::Failed { stage, raised } => format!(
            r#"{{"t":"failed","stage":{},"type":{},"message":{},"traceback":{}}}"#,
            json(&stage),
            json(&raised.class),
            json(&raised.message),
            json(&raised.traceback),
        ),
        FromWorker::Started { run } => format!(r#"{{"t":"started","run":{run}}}"#),
        FromWorker::Chunk { run, value, files } => {
            format!(r#"{{"t":"chunk","run":{run},"value":{},"files":{files}}}"#, value.get())
        }
        FromWorker::Progress { run, progress, message } => {
            format!(r#"{{"t":"progress","run":{run},"progress":{progress},"message":{}}}"#, json(&message))
        }
        FromWorker::Log { run, stream, line } => {
            let run = run.map_or("null".to_owned(), |run| run.to_string());
            format!(r#"{{"t":"log","run":{run},"stream":{},"line":{}}}"#, json(&stream), json(&line))
        }
        FromWorker::Done { run, value, files, ms } => {
            let value = value.map_or("null", |v| v.get());
            format!(r#"{{"t":"done","run":{run},"value":{value},"files":{files},"ms":{ms}}}"#)
        }
        FromWorker::Error { run, raised, kind, cancelled, ms } => format!(
            r#"{{"t":"error","run":{run},"type":{},"message":{},"traceback":{},"cancelled":{cancelled},"kind":{},"ms":{ms}}}"#,
            json(&raised.class),
            json(&raised.message),
            json(&raised.traceback),
            json(&kind),
        ),
        FromWorker::Cancelling { run, answer } => {
            format!(r#"{{"t":"cancelling","run":{run},"answer":{}}}"#, json(&answer))
        }
        FromWorker::Answer { id, value: Ok(value) } => {
            format!(r#"{{"t":"answer","id":{id},"ok":true,"value":{}}}"#, raw(&value))
        }
        FromWorker::Answer { id, value: Err(raised) } => format!(
            r#"{{"t":"answer","id":{id},"ok":false,"error":{{"type":{},"message":{},"traceback":{}}}}}"#,
            json(&raised.class),
            json(&raised.message),
            json(&raised.traceback),
        ),
    })
}
