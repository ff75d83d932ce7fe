//! What people see, on two pipes.

mod hosts;
mod usage;
mod why;

use super::super::screen::tests::{Kept, pipes};
use super::*;
use crate::failure::Exit;
use crate::output::words::FetchedFile;
use grange_protocol::event::Progress;
use grange_protocol::failure::{Failure as JobFailure, FailureKind};
use grange_protocol::json::Json;
use grange_protocol::name::Class;
use grange_protocol::object::ObjectRef;
use grange_protocol::record::Outcome;
use grange_protocol::subject::{AttemptToken, Lane};
use grange_protocol::ticket::Priority;
use serde_json::{Value, json};

const TOKEN: AttemptToken = AttemptToken { number: 1, claim: 7 };

fn human() -> (Human, Kept, Kept) {
    let (screen, out, err) = pipes();
    (Human::new(screen), out, err)
}

fn lane() -> Lane {
    Lane { priority: Priority::Normal, plugin: "ocr".parse().unwrap(), class: Class::plugin_default() }
}

fn ended(state: State, outcome: Outcome, result: Option<Value>) -> Ended {
    let mut record = Record::new(&lane(), state, 1);
    record.outcome = Some(outcome);
    let key = JobKey { owner: "ann".parse().unwrap(), job: "j-1".parse().unwrap() };
    Ended { key, record: Box::new(record), result, files: Vec::new(), left: Vec::new(), followed: true }
}

#[test]
fn data_and_messages_are_apart() {
    let (mut human, out, err) = human();
    let chunk = json!({"line": 1, "of": 2, "text": "Dear reader,", "confidence": 0.981});
    let log = LogLine { stream: "stderr".into(), line: "loading\x1b[2J".into() };
    human
        .updates(&[
            Update::Attempt { token: TOKEN },
            Update::Chunk { token: TOKEN, index: 0, sequence: 3, value: Json::from(&chunk) },
            Update::Log { token: TOKEN, sequence: 4, line: log },
            Update::Progress {
                token: TOKEN,
                sequence: 5,
                progress: Progress { progress: 0.5, message: "line 1 of 2".into() },
            },
        ])
        .unwrap();
    assert_eq!(out.take(), "  1/2  0.98  Dear reader,\n");
    assert_eq!(err.take(), "  │ loading\n   50 %  line 1 of 2\n");
}

#[test]
fn a_good_end_shows_the_result() {
    let (mut human, out, err) = human();
    let object = ObjectRef::new("ab".repeat(32), 3, "a.png");
    let mut end = ended(
        State::Succeeded,
        Outcome { chunks: 2, ..Outcome::default() },
        Some(json!({"lines": 2, "text": "a\nb"})),
    );
    end.files.push(FetchedFile { object: object.clone(), path: "out/a.png".into() });
    end.left.push(object);
    human.ended(&end).unwrap();
    assert_eq!(out.take(), "  lines  2\n  text   a … (2 lines)\n");
    assert_eq!(
        err.take(),
        "✔ succeeded, 2 chunks\nhint: `a.png` can be fetched: grange result j-1 --out DIR\n"
    );
}

#[test]
fn a_bad_end_says_why_and_gives_no_data() {
    let (mut human, out, err) = human();
    let failure = JobFailure::new(FailureKind::PluginFailed, "EchoError: boom")
        .raised("EchoError", Some("Traceback\n  x"));
    let outcome = Outcome { failure: Some(failure), ..Outcome::default() };
    human.ended(&ended(State::Failed, outcome, None)).unwrap();
    assert_eq!(out.take(), "");
    assert_eq!(err.take(), "✘ failed\nplugin_failed: EchoError: boom\n  │ Traceback\n  │   x\n");
}

#[test]
fn an_error_is_one_line_and_a_hint() {
    let (mut human, out, err) = human();
    human.failure(&Failure::new(Exit::Broker, "no broker answers").hint("start one")).unwrap();
    assert_eq!(
        (out.take().as_str(), err.take().as_str()),
        ("", "error: no broker answers\nhint: start one\n")
    );
}

#[test]
fn jobs_are_a_table() {
    let (mut human, out, _) = human();
    let key = JobKey { owner: "ann".parse().unwrap(), job: "j-1".parse().unwrap() };
    let mut record = Record::new(&lane(), State::Failed, 1_700_000_000_000);
    let failure = JobFailure::new(FailureKind::PluginFailed, "boom\nmore");
    record.outcome = Some(Outcome { failure: Some(failure), ..Outcome::default() });
    let view = JobView {
        key,
        sequence: 5,
        record: Some(Box::new(record)),
        waiting: None,
        delayed: None,
        ran_out: false,
    };
    human.jobs(std::slice::from_ref(&view)).unwrap();
    let shown = out.take();
    assert!(shown.starts_with("JOB  PLUGIN  STATE   OWNER  AGENT  RUN"), "{shown}");
    assert!(shown.contains("j-1  ocr     failed  ann    -        -") && shown.ends_with("boom\n"), "{shown}");
    human.job(&view).unwrap();
    let shown = out.take();
    assert!(
        shown.contains("submitted  2023-11-14 22:13:20.000Z") && shown.contains("plugin_failed: boom"),
        "{shown}"
    );
}
