//! Simulates farms and prints what came of it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints")]

use grange_farm_sim::compare::{capacity, compare};
use grange_farm_sim::farm::Settings;
use grange_farm_sim::mix::catalog::{Load, NAMES, Size, named};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |n: usize, or: usize| args.get(n).and_then(|n| n.parse().ok()).unwrap_or(or);
    let (hosts, jobs) = (number(1, 20), number(2, 2000));
    let only = args.get(3).map_or("all", String::as_str);
    let share = args.get(4).filter(|s| *s != "-").and_then(|n| n.parse::<f64>().ok());
    let mut settings = Settings::default();
    for arg in args.iter().skip(5) {
        match arg.split_once('=') {
            Some(("save", ms)) => settings.config.save_after_ms = ms.parse().unwrap_or(250),
            Some(("age", ms)) => settings.config.age_after_ms = ms.parse().unwrap_or(250),
            Some(("empty", ms)) => settings.config.empty_lane_ms = ms.parse().unwrap_or(250),
            _ => eprintln!("? {arg}"),
        }
    }
    for name in NAMES {
        if only != "all" && !only.split(',').any(|only| only == name) {
            continue;
        }
        let size = Size { hosts, jobs, seed: 1 };
        let load = match share {
            Some(share) => Load::PerSecond(share * capacity(name, size, &settings).unwrap_or(1.0)),
            None => Load::Backlog,
        };
        let Some(mix) = named(name, size, load) else { continue };
        let told = share.map_or("backlog".to_owned(), |share| format!("{share}"));
        let c = compare(&mix, &told, &settings);
        println!(
            "{name} {told}: gpus {} took {:.2} s ratio {:.4} mem {:.4} util {:.3}/{:.3} at {:.1} s, makespan {:.1}/{:.1}",
            mix.gpus(),
            c.took_s,
            c.ratio(),
            c.memory_ratio(),
            c.farm.utilisation,
            c.oracle.utilisation,
            c.horizon_s,
            c.farm.makespan_s,
            c.oracle.makespan_s
        );
        println!("  starting, idle, leaving {:.3?}", c.farm.overhead);
        println!(
            "  over {:.4} inv {:.4} pulls/start {:.2} warm {:.3}/{:.3} evict {:.3}/{:.3} {:?}",
            c.over_delivery(),
            c.inversions(),
            c.pulls_per_start(),
            c.farm.warm,
            c.oracle.warm,
            c.farm.evictions,
            c.oracle.evictions,
            c.counts
        );
        for (who, f) in [("farm", &c.farm), ("best", &c.oracle)] {
            println!(
                "  {who} wait {:.1}/{:.1}/{:.0} by prio {:?} big {:?} single {:?} before {:?}",
                f.all.p50,
                f.all.p99,
                f.all.worst,
                f.waits.iter().map(|w| (w.p50 as u64, w.p99 as u64)).collect::<Vec<_>>(),
                (f.big.p50 as u64, f.big.worst as u64),
                (f.single.p50 as u64, f.single.worst as u64),
                f.bulk_before
            );
        }
        for v in &c.violations {
            eprintln!("  ! {v}");
        }
    }
}
