//! The agents as a table, and one agent with its GPUs, workers and running jobs.

use crate::output::screen::{Look, Style, clean_lines};
use crate::output::table::{Cell, Table};
use crate::units;
use grange_protocol::capacity::Gpu;
use grange_protocol::name::PluginName;
use grange_protocol::status::{AgentState, AgentStatus, DrainStatus, WorkerState, WorkerStatus};
use std::collections::BTreeMap;
use std::time::Duration;

/// One row for an agent, and one more for each further model of GPU that it has; below them what calls for attention.
pub(super) fn table(agents: &[(AgentStatus, Duration)], look: Look) -> Vec<String> {
    let mut table = Table::new([
        "AGENT",
        "STATE",
        "GPUS",
        ">VRAM FREE",
        ">GRANTED",
        ">RUNNING",
        ">CORES FREE",
        ">MEMORY FREE",
        ">HEARD",
        "WARM",
    ]);
    for (status, age) in agents {
        let capacity = &status.capacity;
        let mut models = models(&capacity.gpus).into_iter();
        let first = models.next();
        table.row([
            status.agent.as_str().into(),
            state(status),
            first.as_ref().map_or("-", |model| model.name.as_str()).into(),
            first.as_ref().map_or("-", |model| model.free.as_str()).into(),
            first.as_ref().map_or("-", |model| model.granted.as_str()).into(),
            status.attempts.len().to_string().into(),
            format!("{}/{}", capacity.cpus_grantable, capacity.cpus).into(),
            units::mib_of(capacity.ram_grantable_mb, capacity.ram_mb).into(),
            heard(*age).into(),
            warm(&status.workers).into(),
        ]);
        for model in models {
            let nothing = Cell::default;
            table.row([
                nothing(),
                nothing(),
                model.name.into(),
                model.free.into(),
                model.granted.into(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
            ]);
        }
    }
    let mut lines = table.lines(look);
    lines.extend(agents.iter().flat_map(|(status, _)| attention(status, look)));
    lines
}

/// GPUs of one model.
struct Model {
    name: String,
    free: String,
    granted: String,
}

fn models(gpus: &[Gpu]) -> Vec<Model> {
    let mut by_name: Vec<(&str, Vec<&Gpu>)> = Vec::new();
    for gpu in gpus {
        match by_name.iter_mut().find(|(name, _)| *name == gpu.name) {
            Some((_, all)) => all.push(gpu),
            None => by_name.push((&gpu.name, vec![gpu])),
        }
    }
    let sum = |all: &[&Gpu], amount: fn(&Gpu) -> u64| all.iter().map(|gpu| amount(gpu)).sum();
    let model = |(name, all): (&str, Vec<&Gpu>)| {
        let granted = sum(&all, |gpu| gpu.granted_mb);
        Model {
            name: format!("{} × {name}", all.len()),
            free: units::mib_of(sum(&all, |gpu| gpu.grantable_mb), sum(&all, |gpu| gpu.vram_mb)),
            granted: if granted == 0 { "-".to_owned() } else { units::mib(granted) },
        }
    };
    by_name.into_iter().map(model).collect()
}

fn state(status: &AgentStatus) -> Cell {
    let style = if status.state == AgentState::Ready { Style::Green } else { Style::Yellow };
    Cell::styled(status.state_word(), style)
}

/// `new driver; what runs is stopped in 9m`
fn drained(drain: &DrainStatus) -> String {
    let reason = clean_lines(&drain.reason);
    match drain.left_ms.filter(|_| !drain.done) {
        Some(left_ms) => format!("{reason}; what runs is stopped in {}", units::millis(left_ms as f64)),
        None => reason,
    }
}

fn heard(age: Duration) -> String {
    format!("{} s ago", age.as_secs())
}

/// `ocr 1 busy 2 idle, whisper 1 idle`
fn warm(workers: &[WorkerStatus]) -> String {
    let mut counts: BTreeMap<&PluginName, (u32, u32)> = BTreeMap::new();
    for worker in workers {
        match worker.state {
            WorkerState::Busy => counts.entry(&worker.plugin).or_default().0 += 1,
            WorkerState::Idle => counts.entry(&worker.plugin).or_default().1 += 1,
            WorkerState::Waiting | WorkerState::Starting | WorkerState::Ending | WorkerState::Returning => {}
        }
    }
    let part = |count: u32, word: &str| if count > 0 { format!(" {count} {word}") } else { String::new() };
    let said: Vec<String> = counts
        .into_iter()
        .map(|(plugin, (busy, idle))| format!("{plugin}{}{}", part(busy, "busy"), part(idle, "idle")))
        .collect();
    if said.is_empty() { "-".to_owned() } else { said.join(", ") }
}

/// What an operator should look at: GPUs out of service, room that is kept free, and what the agent says itself.
fn attention(status: &AgentStatus, look: Look) -> Vec<String> {
    let agent = &status.agent;
    let ill = status.capacity.gpus.iter().filter_map(|gpu| {
        let why = gpu.quarantine.as_ref()?;
        Some(format!("{agent}: GPU {} is quarantined: {}", gpu.uuid, clean_lines(why)))
    });
    let drain =
        status.drain.iter().map(|drain| format!("{agent}: {}: {}", status.state_word(), drained(drain)));
    let notices = status.notices.iter().map(|notice| format!("{agent}: {}", clean_lines(notice)));
    ill.chain(drain).chain(notices).map(|line| look.paint(Style::Yellow, &line)).collect()
}

/// `8 cores, 62.7 GiB, 2 × NVIDIA H200`
pub(super) fn capacity(status: &AgentStatus) -> String {
    let capacity = &status.capacity;
    let models: Vec<String> = models(&capacity.gpus).into_iter().map(|model| model.name).collect();
    let gpus = if models.is_empty() { "no GPU".to_owned() } else { models.join(", ") };
    format!("{} cores, {}, {gpus}", capacity.cpus, units::mib(capacity.ram_mb))
}

/// Everything that one agent says of itself, for people.
pub(super) fn details(status: &AgentStatus, age: Duration, look: Look) -> Vec<String> {
    let mut lines = facts(status, age, look);
    let mut section = |rows: Vec<String>| {
        if !rows.is_empty() {
            lines.push(String::new());
            lines.extend(rows);
        }
    };
    section(gpus(&status.capacity.gpus, look));
    section(workers(status, look));
    section(running(status, look));
    let notes: Vec<String> = status.notices.iter().map(|notice| clean_lines(notice)).collect();
    section(notes.iter().map(|notice| look.paint(Style::Yellow, notice)).collect());
    lines
}

fn facts(status: &AgentStatus, age: Duration, look: Look) -> Vec<String> {
    let capacity = &status.capacity;
    let mut table = Table::new(["", ""]);
    let mut fact = |name: &str, cell: Cell| table.row([Cell::styled(name, Style::Dim), cell]);
    fact("agent", status.agent.as_str().into());
    fact("state", state(status));
    if let Some(drain) = &status.drain {
        fact("drain", drained(drain).into());
    }
    if !status.host.is_empty() {
        fact("host", status.host.as_str().into());
    }
    let now_ms = units::now_ms();
    let up = units::ago(status.started_ms, now_ms);
    let up =
        if status.started_ms == 0 { String::new() } else { format!(", up {}", up.trim_end_matches(" ago")) };
    fact("build", format!("{}{up}, heard {}", status.version, heard(age)).into());
    if !status.isolation.is_empty() {
        fact("isolation", status.isolation.as_str().into());
    }
    fact("cores", format!("{} of {} can be given", capacity.cpus_grantable, capacity.cpus).into());
    let free = units::mib(capacity.ram_grantable_mb);
    fact("memory", format!("{free} of {} can be given", units::mib(capacity.ram_mb)).into());
    if !capacity.driver.is_empty() {
        fact("driver", capacity.driver.as_str().into());
    }
    if !capacity.labels.is_empty() {
        let labels: Vec<String> =
            capacity.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        fact("labels", labels.join(", ").into());
    }
    if let Some(saving) = &status.saving {
        let left = units::millis(saving.left_ms as f64);
        let gpus = numbers(&saving.gpus, &capacity.gpus);
        let on = if saving.gpus.is_empty() { String::new() } else { format!(" on GPU {gpus}") };
        fact("saves up", format!("for `{}`{on}, {left} left", saving.queue).into());
    }
    table.lines(look)
}

/// Their numbers as the table of GPUs has them.
fn numbers(uuids: &[String], gpus: &[Gpu]) -> String {
    let number = |uuid: &String| {
        let place = gpus.iter().position(|gpu| gpu.uuid == *uuid);
        place.map_or_else(|| uuid.clone(), |place| place.to_string())
    };
    if uuids.is_empty() { "-".to_owned() } else { uuids.iter().map(number).collect::<Vec<_>>().join(", ") }
}

fn gpus(gpus: &[Gpu], look: Look) -> Vec<String> {
    if gpus.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new([
        ">#",
        "GPU",
        "MODEL",
        ">TOTAL",
        ">GRANTABLE",
        ">GRANTED",
        ">FOREIGN",
        ">BUSY",
        ">TEMP",
        "NOTE",
    ]);
    let amount = |mb: u64| if mb == 0 { "-".to_owned() } else { units::mib(mb) };
    for (number, gpu) in gpus.iter().enumerate() {
        let note = match &gpu.quarantine {
            Some(why) => Cell::styled(format!("quarantined: {why}"), Style::Yellow),
            None if gpu.exclusive => "one worker has it for itself".into(),
            None if gpu.mig => "MIG slice".into(),
            None => Cell::default(),
        };
        let temperature =
            if gpu.temperature_c == 0 { "-".to_owned() } else { format!("{} °C", gpu.temperature_c) };
        table.row([
            number.to_string().into(),
            gpu.uuid.as_str().into(),
            gpu.name.as_str().into(),
            units::mib(gpu.vram_mb).into(),
            units::mib(gpu.grantable_mb).into(),
            amount(gpu.granted_mb).into(),
            amount(gpu.foreign_mb).into(),
            format!("{} %", gpu.utilisation).into(),
            temperature.into(),
            note,
        ]);
    }
    table.lines(look)
}

fn workers(status: &AgentStatus, look: Look) -> Vec<String> {
    if status.workers.is_empty() {
        return vec![look.paint(Style::Dim, "no workers")];
    }
    let mut table = Table::new(["WORKER", "STATE", "GPUS", "GRANT", ">VRAM USED", ">RUNNING", ">IDLE"]);
    for worker in &status.workers {
        let used = if worker.vram_used_mb == 0 { "-".to_owned() } else { units::mib(worker.vram_used_mb) };
        let idle = if worker.idle_ms == 0 { "-".to_owned() } else { units::millis(worker.idle_ms as f64) };
        table.row([
            worker.plugin.as_str().into(),
            Cell::styled(worker.state.as_str(), worker_style(worker.state)),
            numbers(&worker.gpus, &status.capacity.gpus).into(),
            grant(worker).into(),
            used.into(),
            worker.running.to_string().into(),
            idle.into(),
        ]);
    }
    table.lines(look)
}

/// `8.0 GiB of VRAM, 2.0 GiB of memory, 2 cores`
fn grant(worker: &WorkerStatus) -> String {
    let mut parts = Vec::new();
    if !worker.gpus.is_empty() {
        let each = if worker.gpus.len() > 1 { " on each" } else { "" };
        let own = if worker.exclusive { ", for itself" } else { "" };
        parts.push(format!("{} of VRAM{each}{own}", units::mib(worker.vram_mb)));
    }
    if worker.ram_mb > 0 {
        parts.push(format!("{} of memory", units::mib(worker.ram_mb)));
    }
    if worker.cpus > 0 {
        parts.push(format!("{} core{}", worker.cpus, if worker.cpus == 1 { "" } else { "s" }));
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn worker_style(state: WorkerState) -> Style {
    match state {
        WorkerState::Idle => Style::Green,
        WorkerState::Busy => Style::Cyan,
        WorkerState::Waiting | WorkerState::Starting => Style::Dim,
        WorkerState::Ending | WorkerState::Returning => Style::Yellow,
    }
}

fn running(status: &AgentStatus, look: Look) -> Vec<String> {
    if status.attempts.is_empty() {
        return vec![look.paint(Style::Dim, "no running jobs")];
    }
    let mut table = Table::new(["RUNNING JOB", "PLUGIN", "OWNER", ">ATTEMPT"]);
    for attempt in &status.attempts {
        table.row([
            attempt.job.as_str().into(),
            attempt.plugin.as_ref().map_or("-", PluginName::as_str).into(),
            attempt.owner.as_str().into(),
            attempt.number.to_string().into(),
        ]);
    }
    table.lines(look)
}
