//! What there is in the farm: plugins of several kinds, their classes, their owners and their queues.

use super::Choices;
use grange_dispatch::{Config, PluginSpec, Reserve, WorkerId};
use grange_protocol::class::{self, Meaning};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::fit::Need;
use grange_protocol::name::{Class, JobId, Owner, PluginName};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::{JobKey, Lane, Queue};
use grange_protocol::ticket::Priority;

/// A plugin whose runs are short enough to be held ahead, and that takes nothing of the host.
pub(crate) const SHORT: &str = "short";
/// Nobody has a plugin of this name.
pub(crate) const NOBODY: &str = "nobody";

/// So few queues may be known in some lives.
pub(crate) const QUEUES_FEW: usize = 5;

pub(crate) const PRIORITIES: [Priority; 3] = [Priority::Urgent, Priority::Normal, Priority::Low];

/// The plugins of one life: never the same three twice in a row.
const CASTS: [&[&str]; 9] = [
    &["long", SHORT],
    &["ocr", "whole"],
    &["ocr", "pair", SHORT],
    &["ram", "ocr"],
    &["mixed", "ocr"],
    &["whole", "pair"],
    &["ram", "mixed", SHORT],
    &["ocr"],
    &["pair", "ocr", "ram"],
];

/// All amounts of GPU memory that plugins and classes here ask for, MiB.
pub(crate) const VRAM_MB: [u64; 8] = [2_000, 3_000, 4_000, 4_096, 6_000, 8_192, 11_000, 16_384];

/// The names of a life's plugins.
pub(crate) fn cast(choices: &mut Choices) -> &'static [&'static str] {
    choices.of(&CASTS)
}

/// Classes in which jobs of a plugin come. One of them asks for more than any host here has.
pub(crate) fn classes(name: &str) -> &'static [&'static str] {
    match name {
        "ocr" => &["default", "any", "g1+v8", "m16", "g1+v8+m16", "g1+v16"],
        "pair" => &["default", "any", "g2+v8", "g8"],
        "ram" => &["default", "any", "m16", "m512"],
        "mixed" => &["default", "g1+v4"],
        "whole" => &["default", "any"],
        _ => &["default", "any"],
    }
}

fn request(name: &str, choices: &mut Choices) -> ResourceRequest {
    let none = ResourceRequest::default();
    match name {
        "ocr" => ResourceRequest { gpus: 1, vram_mb: choices.of(&[2_000, 6_000, 11_000]), ..none },
        "pair" => ResourceRequest { gpus: 2, vram_mb: 4_000, exclusive: choices.one_in(3), ..none },
        "ram" => {
            ResourceRequest { ram_mb: choices.of(&[3_000, 9_000]), cpus: choices.of(&[0, 2, 5]), ..none }
        }
        "whole" if choices.one_in(2) => ResourceRequest { gpus: 1, vram_mb: 3_000, exclusive: true, ..none },
        "whole" => ResourceRequest { gpus: 1, ..none },
        _ => none,
    }
}

/// How a plugin runs, this time.
pub(crate) fn spec(name: &str, choices: &mut Choices) -> PluginSpec {
    PluginSpec {
        concurrency: choices.of(&[1, 2, 3]),
        max_workers: choices.of(&[1, 2, 3]),
        timeout_ms: choices.of(&[None, None, Some(400), Some(5_000)]),
        cancel_grace_ms: choices.of(&[100, 1_000]),
        request: request(name, choices),
        is_learned: choices.one_in(4),
        keep_warm_ms: choices.of(&[None, None, Some(1_500)]),
        start_ms: choices.of(&[None, Some(500), Some(20_000)]),
    }
}

/// How an agent is configured, this time.
pub(crate) fn config(choices: &mut Choices) -> Config {
    Config {
        pull_ahead_max: 3,
        start_backoff_max_ms: 6_000,
        save_after_ms: 4_000,
        save_for_ms: 6_000,
        vram_return_ms: 2_000,
        overrun_kills: choices.one_in(2),
        reserve: Reserve { vram_mb: choices.of(&[0, 500]), ram_mb: 1_000, cpus: 1 },
        owner_running_max: choices.of(&[None, None, Some(3)]),
        queues_max: choices.of(&[4_000, 4_000, QUEUES_FEW]),
        ..Config::default()
    }
}

/// How long a run takes, milliseconds.
pub(crate) fn run_ms(name: &PluginName) -> f64 {
    if matches!(name.as_str(), SHORT | "whole") { 1.0 } else { 80.0 }
}

/// What a worker must be given for a job of this class; None: anything will do.
pub(crate) fn need(class: &Class, spec: &PluginSpec) -> Option<Need> {
    match class::read(class).unwrap() {
        Meaning::Any if spec.request.is_empty() => Some(Need::default()),
        Meaning::Any => None,
        Meaning::Default => Some(Need::from(spec.request.clone())),
        Meaning::Asks(asks) => {
            Some(Need { request: spec.request.raised(&asks.upto), over: spec.request.raised(&asks.over) })
        }
    }
}

pub(crate) fn plugin(name: &str) -> PluginName {
    PluginName::new(name).unwrap()
}

pub(crate) fn owner(name: &str) -> Owner {
    Owner::new(name).unwrap()
}

/// Any queue of a plugin.
pub(crate) fn queue(name: &str, choices: &mut Choices) -> Queue {
    let classes = classes(name);
    // Most jobs ask for nothing of their own.
    let class = if choices.one_in(2) { classes[choices.pick(classes.len())] } else { classes[0] };
    let lane =
        Lane { priority: choices.of(&PRIORITIES), class: Class::new(class).unwrap(), plugin: plugin(name) };
    Queue { lane, owner: owner(choices.of(&["alice", "alice", "bob"])) }
}

/// The job of a ticket, in the order of their coming.
pub(crate) fn key(owner: &Owner, n: usize) -> JobKey {
    JobKey { owner: owner.clone(), job: JobId::new(format!("j{n}")).unwrap() }
}

pub(crate) const UNKNOWN_WORKER: WorkerId = WorkerId(9_999);

pub(crate) fn start_failure() -> Box<Failure> {
    Box::new(Failure::new(FailureKind::StartFailed, "no module named `ocr`"))
}
