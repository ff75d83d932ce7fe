//! `grange-chaos`: one schedule, one JSON line. Ends with 1 where something did not hold, with 2 where it could not run.

use anyhow::Context;
use clap::Parser;
use grange_chaos::run::{Ran, run};
use grange_chaos::schedule::{Planned, Profile, Schedule, faults};
use grange_chaos::shrink::shrink;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs a farm under seeded faults and checks what must hold.
#[derive(Debug, Parser)]
struct Arguments {
    /// What the work and the faults are made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from `--seed` on; one line each.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long, seconds; healing and settling come on top.
    #[arg(long, default_value_t = 60)]
    secs: u64,
    /// `calm`, `net`, `proc`, `broker`, `wire`, `tickets`, `gpu` or `all`.
    #[arg(long, default_value = "all")]
    profile: Profile,
    /// How many agents.
    #[arg(long, default_value_t = 3)]
    agents: usize,
    /// How many servers: 1 or 3.
    #[arg(long, default_value_t = 1)]
    brokers: usize,
    /// Jobs a second.
    #[arg(long, default_value_t = 8.0)]
    rate: f64,
    /// Repeats a schedule that was written down.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Runs that making a failing schedule smaller may take; 0: it is left as it is.
    #[arg(long, default_value_t = 0)]
    shrink: usize,
    /// Ends well at the first seed that breaks something, badly when none does: for agents with a planted bug.
    #[arg(long)]
    hunt: bool,
    /// Where runs that failed are kept; default: the folder for temporary files.
    #[arg(long)]
    keep: Option<PathBuf>,
}

// Agents are started from this thread: their parent-death signal is sent when it ends.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match seeds(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "grange-chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn seeds(arguments: &Arguments) -> anyhow::Result<bool> {
    anyhow::ensure!([1, 3].contains(&arguments.brokers), "--brokers is 1 or 3");
    anyhow::ensure!((1..=16).contains(&arguments.agents), "--agents is 1 to 16");
    let mut all_well = true;
    for seed in arguments.seed..arguments.seed + arguments.seeds {
        let schedule = match &arguments.replay {
            Some(path) => {
                let text = std::fs::read(path).with_context(|| format!("`{}`", path.display()))?;
                serde_json::from_slice(&text).with_context(|| format!("`{}`", path.display()))?
            }
            None => made(arguments, seed),
        };
        all_well &= one(arguments, &schedule).await?;
        if arguments.hunt && !all_well {
            return Ok(true);
        }
    }
    Ok(all_well != arguments.hunt)
}

fn made(arguments: &Arguments, seed: u64) -> Schedule {
    let Arguments { secs, profile, agents, brokers, rate, .. } = *arguments;
    let faults = faults(seed, profile, secs, agents, brokers);
    Schedule { seed, secs, agents, brokers, rate_centi: (rate * 100.0) as u64, faults }
}

/// Runs one; what failed is kept, and made smaller where that was asked for.
async fn one(arguments: &Arguments, schedule: &Schedule) -> anyhow::Result<bool> {
    let profile = serde_json::to_value(arguments.profile)?;
    let profile = profile.as_str().unwrap_or_default();
    let (Ran { mut report, verdict }, kept) = in_folder(arguments, schedule, profile).await?;
    let broken = verdict.broken();
    if let Some(kept) = &kept {
        report["kept"] = kept.display().to_string().into();
        if arguments.shrink > 0 {
            let smaller = shrink(&schedule.faults, arguments.shrink, async |some: &[Planned]| {
                let smaller = Schedule { faults: some.to_vec(), ..schedule.clone() };
                let ran = in_folder(arguments, &smaller, profile).await;
                ran.is_ok_and(|(ran, _)| ran.verdict.broken().iter().any(|one| broken.contains(one)))
            });
            let smaller = Schedule { faults: smaller.await, ..schedule.clone() };
            let path = kept.join("shrunk.json");
            std::fs::write(&path, serde_json::to_vec_pretty(&smaller)?)?;
            report["shrunk"] = path.display().to_string().into();
        }
    }
    writeln!(std::io::stdout(), "{report}")?;
    Ok(broken.is_empty())
}

/// Runs a schedule in a folder of its own, which is kept where something did not hold.
async fn in_folder(
    arguments: &Arguments,
    schedule: &Schedule,
    profile: &str,
) -> anyhow::Result<(Ran, Option<PathBuf>)> {
    let top = arguments.keep.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&top)?;
    let folder =
        tempfile::Builder::new().prefix(&format!("grange-chaos-{}-", schedule.seed)).tempdir_in(&top)?;
    let ran = run(schedule, profile, folder.path()).await?;
    if ran.verdict.broken().is_empty() {
        return Ok((ran, None));
    }
    let kept = folder.keep();
    tidy(&kept);
    Ok((ran, Some(kept)))
}

/// What is large and tells nothing.
fn tidy(folder: &Path) {
    for name in ["nats", "objects", "locks"] {
        let _ = std::fs::remove_dir_all(folder.join(name));
    }
}
