//! `grange-bench [SECTION]`: starts its own farm, measures it against the raw broker in the same run, and prints one
//! JSON document on stdout. What each field means is in `docs/benchmark.md`.

mod agent;
mod figures;
mod files;
mod jobs;
mod raw;
mod scheduling;
mod site;
mod streams;

use anyhow::{Result, bail};
use grange_local_farm::options::SyncInterval;
use serde_json::{Map, Value, json};
use site::Site;
use std::io::Write;
use std::process::ExitCode;

const SECTIONS: [&str; 9] =
    ["raw", "latency", "throughput", "chunks", "files", "start", "memory", "durable", "scheduling"];
/// A part of scheduling is a section of its own when it is asked for: `scheduling-warm`.
const SCHEDULING: &str = "scheduling";
const ONE_BY_ONE: usize = 2_000;
const PIPELINED: usize = 30_000;
const PIPELINED_DURABLE: usize = 5_000;
const CHUNKS: usize = 200_000;
const FIRST_CHUNKS: usize = 500;
const FILE_BYTES: u64 = 256 << 20;
const FILE_TIMES: u64 = 3;
const COLD_STARTS: usize = 5;
const QUEUED: usize = 100_000;

/// Where a figure should stand, and why it does not. What else was measured is printed all the same.
#[derive(Default)]
pub(crate) struct Failures(usize);

impl Failures {
    /// A part's figures, or in their place what happened.
    pub(crate) fn figures(&mut self, part: &str, measured: Result<Value>) -> Value {
        measured.unwrap_or_else(|error| {
            self.0 += 1;
            // The causes, without the backtrace that `{:?}` would add.
            let error = format!("{error:#}");
            say(&format!("{part} failed: {error}"));
            json!({ "error": error })
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut failures = Failures::default();
    match run(&mut failures).await {
        Ok(()) if failures.0 == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(failures: &mut Failures) -> Result<()> {
    let wanted = std::env::args().nth(1).filter(|section| !section.is_empty());
    let part = wanted.as_deref().and_then(part_of_scheduling);
    let wanted = if part.is_some() { Some(SCHEDULING.to_owned()) } else { wanted };
    if let Some(section) = wanted.as_deref().filter(|section| !SECTIONS.contains(section)) {
        let parts: Vec<String> =
            scheduling::PARTS.iter().map(|part| format!("{SCHEDULING}-{part}")).collect();
        bail!("`{section}` is not a section; use one of {}, {}", SECTIONS.join(", "), parts.join(", "));
    }
    let mut report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
    });
    for section in SECTIONS {
        let needed = match wanted.as_deref() {
            None => true,
            // Ratios need their base from the same run.
            Some(only) => only == section || (section == "raw" && ["latency", "throughput"].contains(&only)),
        };
        if needed {
            say(&format!("measuring {section} …"));
            report[section] = match section {
                SCHEDULING => scheduling::measure(part, failures).await,
                "durable" => durable(failures).await,
                _ => failures.figures(section, measure(section).await),
            };
        }
    }
    jobs::compare(&mut report);
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

fn part_of_scheduling(wanted: &str) -> Option<&'static str> {
    let part = wanted.strip_prefix(SCHEDULING)?.strip_prefix('-')?;
    scheduling::PARTS.into_iter().find(|known| *known == part)
}

async fn measure(section: &str) -> Result<Value> {
    let open = || Site::open(SyncInterval::Default);
    match section {
        "raw" => raw::measure(&open().await?.farm.nats.url(), ONE_BY_ONE, PIPELINED).await,
        "latency" => jobs::latency(&open().await?, ONE_BY_ONE).await,
        "throughput" => jobs::throughput(&open().await?, PIPELINED).await,
        "chunks" => streams::measure(&open().await?, CHUNKS, FIRST_CHUNKS).await,
        "files" => files::measure(&open().await?, FILE_BYTES, FILE_TIMES).await,
        "start" => agent::cold_start(COLD_STARTS).await,
        "memory" => agent::memory(QUEUED).await,
        _ => bail!("`{section}` has no figures"),
    }
}

/// Everything again on a server that forces every write to the disk.
async fn durable(failures: &mut Failures) -> Value {
    let site = match Site::open(SyncInterval::Always).await {
        Ok(site) => site,
        Err(error) => return failures.figures("durable", Err(error)),
    };
    let mut report = Map::new();
    for part in ["raw", "latency", "throughput"] {
        let measured = match part {
            "raw" => raw::measure(&site.farm.nats.url(), ONE_BY_ONE, PIPELINED_DURABLE).await,
            "latency" => jobs::latency(&site, ONE_BY_ONE).await,
            _ => jobs::throughput(&site, PIPELINED_DURABLE).await,
        };
        report.insert(part.to_owned(), failures.figures(&format!("durable {part}"), measured));
    }
    let mut report = Value::Object(report);
    jobs::compare(&mut report);
    report
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
