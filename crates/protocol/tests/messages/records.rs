//! The state record in every state, moved by the functions of `lifecycle`.

use super::{Message, plain};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::json::Json;
use grange_protocol::lifecycle::{self, Claim, GivenUp, RetryCause};
use grange_protocol::name::{AgentName, Class, Incarnation, PluginName};
use grange_protocol::object::ObjectRef;
use grange_protocol::record::{Holder, Outcome, Record, State, Usage};
use grange_protocol::subject::Lane;
use grange_protocol::ticket::Priority;

/// Times, Unix milliseconds: submitted, claimed, ended.
const SUBMITTED: u64 = 1_790_000_000_000;
const CLAIMED: u64 = 1_790_000_000_250;
const ENDED: u64 = 1_790_000_004_750;
/// Where the claim is stored.
const CLAIM: u64 = 4711;

pub(super) fn messages() -> Vec<Message> {
    let queued = lifecycle::queue(&lane(), SUBMITTED);
    let high = Lane { priority: Priority::High, ..lane() };
    let moved = lifecycle::move_to(Some(&queued), &lane(), &high, SUBMITTED, CLAIMED).expect("it waits");
    let running = claim(None, "gpu-1", false);
    let asked = lifecycle::request_cancel(Some((&running, CLAIM)), &lane(), "no longer needed", ENDED)
        .expect("a running job can be asked to end");
    let retrying = retried(&running, RetryCause::WorkerCrashed, "the worker process ended by signal 9");
    vec![
        plain("record-queued", &queued),
        plain("record-queued-moved", &moved),
        plain("record-claimed", &claim(Some(&queued), "gpu-1", true)),
        plain("record-running", &running),
        plain("record-running-cancel-requested", &asked),
        plain("record-retrying", &retrying),
        plain("record-running-again", &claim(Some(&retrying), "gpu-2", false)),
        plain("record-running-taken-over", &claim(Some(&running), "gpu-2", false)),
        plain("record-succeeded", &concluded(&running, State::Succeeded, inline())),
        plain("record-succeeded-null", &concluded(&running, State::Succeeded, Outcome::default())),
        plain("record-succeeded-object", &concluded(&running, State::Succeeded, by_reference())),
        plain("record-failed", &concluded(&running, State::Failed, raised())),
        plain("record-failed-crashed", &concluded(&running, State::Failed, crashed())),
        plain("record-cancelled-running", &concluded(&asked, State::Cancelled, Outcome::default())),
        plain(
            "record-cancelled-waiting",
            &lifecycle::request_cancel(None, &lane(), "wrong file", ENDED).expect("nobody holds it"),
        ),
        plain("record-expired", &unclaimed(Some(&queued), State::Expired, Outcome::default())),
        plain("record-refused", &unclaimed(None, State::Refused, refused())),
        plain("record-failed-unclaimed", &unclaimed(None, State::Failed, malformed())),
    ]
}

fn lane() -> Lane {
    let plugin = PluginName::new("ocr").expect("a name");
    Lane { priority: Priority::Normal, plugin, class: Class::plugin_default() }
}

fn claim(before: Option<&Record>, agent: &str, ahead: bool) -> Record {
    let holder = Holder {
        agent: AgentName::new(agent).expect("a name"),
        incarnation: Incarnation::new("0199a3b2c1d47e5f8a9b0c1d2e3f4a5b").expect("a name"),
    };
    let claim = Claim { holder, lease_s: 30, ahead, at_ms: CLAIMED };
    lifecycle::claim(before, &lane(), SUBMITTED, &claim).expect("it can be claimed")
}

fn retried(running: &Record, cause: RetryCause, note: &str) -> Record {
    let fence = running.fence(CLAIM).expect("it is held");
    let given_up = GivenUp::at_once(cause);
    lifecycle::retry(running, CLAIM, &fence, &given_up, note, ENDED).expect("the holder may")
}

fn concluded(held: &Record, state: State, outcome: Outcome) -> Record {
    let fence = held.fence(CLAIM).expect("it is held");
    lifecycle::conclude(held, CLAIM, &fence, state, outcome, ENDED).expect("the holder may")
}

fn unclaimed(before: Option<&Record>, state: State, outcome: Outcome) -> Record {
    lifecycle::end_unclaimed(before, &lane(), state, outcome, ENDED).expect("nobody holds it")
}

fn inline() -> Outcome {
    let page = ObjectRef::new("9f".repeat(32), 48_213, "page-1.png");
    let text = format!(r#"{{"lines":["Dear Sir","é€😀"],"page":{},"score":0.75}}"#, page.to_value());
    Outcome {
        result: Some(Json::parse(text).expect("JSON")),
        chunks: 3,
        chunks_sha256: Some("5c".repeat(32)),
        usage: Usage { run_ms: 4321.5, gpu_seconds: 4.5, peak_vram_mb: 2048 },
        ..Outcome::default()
    }
}

fn by_reference() -> Outcome {
    let object = ObjectRef::new("ab".repeat(32), 1_048_577, "result.json");
    Outcome { result_object: Some(object), ..Outcome::default() }
}

fn raised() -> Outcome {
    let traceback =
        "Traceback (most recent call last):\n  File \"ocr.py\", line 7, in execute\nValueError: no page";
    let failure = Failure::new(FailureKind::PluginFailed, "no page").raised("ValueError", Some(traceback));
    Outcome { failure: Some(failure), ..Outcome::default() }
}

fn crashed() -> Outcome {
    let text = "the worker process ended by signal 11 in the middle of the run";
    let mut failure = Failure::new(FailureKind::WorkerCrashed, text);
    failure.exit_code = Some(139);
    failure.signal = Some(11);
    failure.stderr = Some("Fatal Python error: Segmentation fault\n".to_owned());
    Outcome { failure: Some(failure), ..Outcome::default() }
}

fn refused() -> Outcome {
    let text = "no agent claimed it within 500 ms; no host can start `ocr` now; it needs 1 GPU with 8192 MiB of VRAM; \
                `gpu-1`: needs 8192 MiB of VRAM, 6100 MiB free";
    Outcome { failure: Some(Failure::new(FailureKind::PluginUnavailable, text)), ..Outcome::default() }
}

fn malformed() -> Outcome {
    let text = "ticket is not the JSON that `docs/wire.md` describes: `args` is not an array";
    Outcome { failure: Some(Failure::new(FailureKind::InvalidInput, text)), ..Outcome::default() }
}
