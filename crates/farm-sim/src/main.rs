//! `grange-farm-sim`: simulates farms and prints one JSON document on stdout; progress goes to stderr. What each field
//! means is in `docs/scheduling.md`.

use clap::Parser;
use clap::builder::PossibleValuesParser;
use grange_farm_sim::compare::{capacity, compare};
use grange_farm_sim::farm::Settings;
use grange_farm_sim::figures::Comparison;
use grange_farm_sim::mix::catalog::{Load, NAMES, Size, named};
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

/// Every mix.
const ALL: &str = "all";
/// Exit status of a simulation in which something was that must never be.
const EXIT_VIOLATION: u8 = 1;

#[derive(Parser)]
#[command(
    name = "grange-farm-sim",
    version,
    about = "Simulates a farm of agents beside a central first-fit oracle"
)]
struct Cli {
    /// Hosts, each with an agent
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    hosts: u32,
    /// Jobs of each mix that some host can run
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// Which mixes
    #[arg(long, value_delimiter = ',', default_value = "small,pairs",
          value_parser = PossibleValuesParser::new(NAMES.into_iter().chain([ALL])))]
    mix: Vec<String>,
    /// `backlog`, or a share of what the oracle starts in a second when all jobs wait, e.g. 0.7
    #[arg(long, value_delimiter = ',', default_value = "backlog")]
    load: Vec<Wanted>,
    /// Decides hosts, jobs and all chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A load as it is asked for.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Backlog,
    Share(f64),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "backlog" {
            return Ok(Self::Backlog);
        }
        let share = text.parse().ok().filter(|share| (0.01..=2.0).contains(share));
        share.map(Self::Share).ok_or_else(|| format!("`{text}` is no load; use `backlog` or 0.01 to 2"))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let began = Instant::now();
    let mut all = Vec::new();
    let mut sound = true;
    for name in NAMES.into_iter().filter(|name| cli.mix.iter().any(|mix| mix == name || mix == ALL)) {
        for load in &cli.load {
            let Some(comparison) = simulate(name, &cli, *load) else { continue };
            sound &= comparison.violations.is_empty();
            all.push(comparison.json());
        }
    }
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "hosts": cli.hosts,
        "jobs": cli.jobs,
        "seed": cli.seed,
        "took_s": (began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        "mixes": all,
    });
    if let Err(error) = print(&report) {
        say(&format!("cannot print: {error}"));
        return ExitCode::FAILURE;
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::from(EXIT_VIOLATION) }
}

fn print(report: &Value) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(report)?)
}

fn say(text: &str) {
    // Who does not read it misses nothing that counts.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Simulates one mix under one load, and tells how it went. None: this mix has only its own load.
fn simulate(name: &str, cli: &Cli, wanted: Wanted) -> Option<Comparison> {
    let settings = Settings::default();
    let size = Size { hosts: cli.hosts as usize, jobs: cli.jobs as usize, seed: cli.seed };
    let (load, told) = match wanted {
        Wanted::Backlog => (Load::Backlog, "backlog".to_owned()),
        Wanted::Share(share) => {
            (Load::PerSecond(share * capacity(name, size, &settings)?), format!("{share}"))
        }
    };
    let mix = named(name, size, load)?;
    say(&format!("simulating `{name}`, {told}: {} hosts, {} jobs …", mix.hosts.len(), mix.jobs.len()));
    let c = compare(&mix, &told, &settings);
    say(&format!(
        "  {:.1} s; GPU-seconds {:.4} of the oracle's, work {:.4}; makespan {:.0} s of {:.0} s; {:.2} pulls a start",
        c.took_s,
        c.ratio(),
        c.work_ratio(),
        c.farm.makespan_s,
        c.oracle.makespan_s,
        c.pulls_per_start(),
    ));
    for violation in &c.violations {
        say(&format!("  never: {violation}"));
    }
    Some(c)
}
