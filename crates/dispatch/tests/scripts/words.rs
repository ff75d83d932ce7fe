//! How queues, jobs and actions are written in a script.

use grange_dispatch::{Action, Conclusion, Ear, Grant, WorkerId};
use grange_protocol::name::{Class, JobId, Owner, PluginName};
use grange_protocol::subject::{JobKey, Lane, Queue};

/// The plugin and the owner that go without saying.
const OCR: &str = "ocr";
const ALICE: &str = "alice";

pub(crate) fn plugin(name: &str) -> PluginName {
    PluginName::new(name).unwrap()
}

/// `class/priority/plugin/owner`; `ocr` and `alice` go without saying.
pub(crate) fn queue(text: &str) -> Queue {
    let parts: Vec<&str> = text.split('/').collect();
    let part =
        |place: usize, otherwise: &'static str| parts.get(place).copied().unwrap_or(otherwise).to_owned();
    let lane = Lane {
        class: Class::new(parts[0]).unwrap(),
        priority: parts[1].parse().unwrap(),
        plugin: plugin(&part(2, OCR)),
    };
    Queue { lane, owner: Owner::new(part(3, ALICE)).unwrap() }
}

/// `job`, or `owner/job`.
pub(crate) fn key(job: &str) -> JobKey {
    let (owner, job) = job.split_once('/').unwrap_or((ALICE, job));
    JobKey { owner: Owner::new(owner).unwrap(), job: JobId::new(job).unwrap() }
}

fn of_queue(queue: &Queue) -> String {
    let Queue { lane: Lane { priority, plugin, class }, owner } = queue;
    match (plugin.as_str(), owner.as_str()) {
        (OCR, ALICE) => format!("{class}/{priority}"),
        (_, ALICE) => format!("{class}/{priority}/{plugin}"),
        _ => format!("{class}/{priority}/{plugin}/{owner}"),
    }
}

fn of_job(job: &JobKey) -> String {
    if job.owner.as_str() == ALICE { job.job.to_string() } else { job.to_string() }
}

pub(crate) fn of_ear(ear: Option<Ear>) -> &'static str {
    match ear {
        Some(Ear::Warm) => "warm",
        Some(Ear::Cold) => "cold",
        Some(Ear::All) => "all",
        None => "nothing",
    }
}

fn of_worker(id: WorkerId) -> String {
    format!("w{}", id.0)
}

/// What a worker got: `of whisper on gpu0 gpu1 with 8192 MiB, 4096 RAM, 2 cores`.
fn of_grant(grant: &Grant) -> String {
    let mut text = String::new();
    if !grant.devices.is_empty() {
        text.push_str(&format!(" on {} with {} MiB", grant.devices.join(" "), grant.vram_mb));
    }
    if grant.exclusive {
        text.push_str(" alone");
    }
    if grant.ram_mb > 0 {
        text.push_str(&format!(", {} MiB RAM", grant.ram_mb));
    }
    if grant.cpus > 0 {
        text.push_str(&format!(", {} cores", grant.cpus));
    }
    text
}

fn of_conclusion(how: &Conclusion) -> String {
    match how {
        Conclusion::Reported => "reported".to_owned(),
        Conclusion::Cancelled => "cancelled".to_owned(),
        Conclusion::Failed(failure) => format!("failed, {}", failure.message),
        Conclusion::Retry(cause) => format!("retry, {cause:?}"),
    }
}

/// An action in words.
pub(crate) fn of_action(action: &Action) -> String {
    match action {
        Action::Hear { plugin, ear } => format!("hear {plugin} {}", of_ear(*ear)),
        Action::Open { queue } => format!("open {}", of_queue(queue)),
        Action::Pull { queue, batch, wait } => {
            format!("pull {} {batch}{}", of_queue(queue), if *wait { " wait" } else { "" })
        }
        Action::Peek { queues } => {
            format!("peek {}", queues.iter().map(of_queue).collect::<Vec<_>>().join(" "))
        }
        Action::PassOn { queue, job, hops } => format!("pass on {job} of {}, hop {hops}", of_queue(queue)),
        Action::Return { job, delay_ms: 0 } => format!("return {}", of_job(job)),
        Action::Return { job, delay_ms } => format!("return {} in {delay_ms} ms", of_job(job)),
        Action::Claim { job, ahead } => {
            format!("claim {}{}", of_job(job), if *ahead { " ahead" } else { "" })
        }
        Action::Spawn { worker, plugin, grant } => {
            let of = if plugin.as_str() == OCR { String::new() } else { format!(" of {plugin}") };
            format!("spawn {}{of}{}", of_worker(*worker), of_grant(grant))
        }
        Action::Run { worker, job } => format!("run {} on {}", of_job(job), of_worker(*worker)),
        Action::CancelRun { worker, job } => format!("cancel {} on {}", of_job(job), of_worker(*worker)),
        Action::StopWorker { worker } => format!("stop {}", of_worker(*worker)),
        Action::KillWorker { worker } => format!("kill {}", of_worker(*worker)),
        Action::Warn { worker, text } => format!("warn {}: {text}", of_worker(*worker)),
        Action::Look => "look".to_owned(),
        Action::Save { queue } => format!("save {}", of_queue(queue)),
        Action::EndSave { queue } => format!("end saving {}", of_queue(queue)),
        Action::Conclude { job, how } => format!("conclude {}: {}", of_job(job), of_conclusion(how)),
        Action::Forget { job } => format!("forget {}", of_job(job)),
        Action::Exit => "exit".to_owned(),
    }
}
