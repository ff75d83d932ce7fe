//! Simulates farms and prints what came of it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints")]

use grange_farm_sim::farm::{Settings, simulate};
use grange_farm_sim::mix::catalog::{Load, NAMES, Size, named};
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let hosts = args.get(1).and_then(|n| n.parse().ok()).unwrap_or(20);
    let jobs = args.get(2).and_then(|n| n.parse().ok()).unwrap_or(2000);
    let only = args.get(3);
    let load = args.get(4).and_then(|n| n.parse().ok()).map_or(Load::Backlog, Load::PerSecond);
    for name in NAMES {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let Some(mix) = named(name, Size { hosts, jobs, seed: 1 }, load) else { continue };
        let began = Instant::now();
        let outcome = simulate(&mix, &Settings::default());
        println!(
            "{name}: gpus {} wall {:.2} s makespan {:.1} s",
            mix.gpus(),
            began.elapsed().as_secs_f64(),
            outcome.makespan as f64 / 1e6
        );
        let h = outcome.started_share(0.8);
        println!(
            "  util {:.3} at {:.1} s",
            outcome.held_until(h) / (mix.gpus() as f64 * h as f64 / 1e6),
            h as f64 / 1e6
        );
        println!("  {:?}", outcome.counts);
        for v in &outcome.violations {
            eprintln!("  ! {v}");
        }
    }
}
