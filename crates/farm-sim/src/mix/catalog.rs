//! The mixes of the published table. What each is for stands beside its name in `docs/scheduling.md`.

use super::{Kind, Maker, Micros, Mix, Runs, Strand};
use grange_protocol::resource::{ON_GPU, ResourceRequest};
use grange_protocol::ticket::Priority;

/// All of them.
pub const NAMES: [&str; 9] =
    ["small", "pairs", "sharing", "exclusive", "extremes", "burst", "scarce", "hopeless", "priorities"];

/// When jobs come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// All lie there before the agents come up.
    Backlog,
    /// So many in a second, at random.
    PerSecond(f64),
}

/// How large a mix is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Hosts.
    pub hosts: usize,
    /// Jobs that some host can run.
    pub jobs: usize,
    /// Chance.
    pub seed: u64,
}

const GIB_MB: u64 = 1024;
const SECOND: Micros = 1_000_000;
/// A backlog came in so many seconds, and most of it before the hosts come up.
const BEFORE_S: f64 = 30.0;

fn gpu(gpus: u32, vram_gib: u64) -> ResourceRequest {
    ResourceRequest {
        gpus,
        vram_mb: vram_gib * GIB_MB,
        ram_mb: 2 * GIB_MB,
        cpus: 1,
        ..ResourceRequest::default()
    }
}

fn owners(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("owner{n}")).collect()
}

fn usual(plugin: usize, mean_ms: f64) -> Strand {
    let (priorities, owners, runs) = (vec![Priority::Normal], owners(4), Runs::Around(mean_ms));
    Strand { plugin, beyond: None, priorities, owners, runs, kind: Kind::Usual }
}

/// Strings jobs of these strands together, each with its share in hundredths, until there are so many.
fn string(mut maker: Maker, strands: &[(u64, Strand)], count: usize, load: Load) -> Maker {
    let all = strands.iter().map(|(share, _)| share).sum::<u64>();
    let rate = match load {
        Load::Backlog => count as f64 / BEFORE_S,
        Load::PerSecond(rate) => rate,
    };
    if load == Load::Backlog {
        maker.begin((BEFORE_S * SECOND as f64) as Micros);
    }
    let mut at = 0.0;
    for _ in 0..count {
        at += maker.chance().around(1.0 / rate);
        let mut left = maker.chance().between(0, all - 1);
        let strand = strands.iter().find(|(share, _)| {
            let here = left < *share;
            left = left.saturating_sub(*share);
            here
        });
        if let Some((_, strand)) = strand {
            maker.add((at * SECOND as f64) as Micros, strand);
        }
    }
    maker
}

/// The mix of this name. None: there is none.
pub fn named(name: &str, size: Size, load: Load) -> Option<Mix> {
    let maker = Maker::new(name, size.hosts, size.seed);
    let maker = match name {
        "small" => small(maker, size, load),
        "pairs" => pairs(maker, size, load),
        "sharing" => sharing(maker, size, load, &[Priority::Normal], 20),
        "exclusive" => exclusive(maker, size, load),
        "extremes" => extremes(maker, size, load),
        "burst" => burst(maker, size),
        "scarce" => scarce(maker, size, load),
        "hopeless" => hopeless(maker, size, load),
        "priorities" => sharing(maker, size, load, &Priority::ALL, 10),
        _ => return None,
    };
    Some(maker.made())
}

fn small(mut maker: Maker, size: Size, load: Load) -> Maker {
    let small = maker.plugin("small", gpu(1, 8), 2_000);
    string(maker, &[(100, usual(small, 4_000.0))], size.jobs, load)
}

/// One in twenty wants two GPUs of a host.
fn pairs(mut maker: Maker, size: Size, load: Load) -> Maker {
    let small = maker.plugin("small", gpu(1, 8), 2_000);
    let pair = maker.plugin("pair", gpu(2, 14), 3_000);
    let big = Strand { kind: Kind::Big, ..usual(pair, 8_000.0) };
    string(maker, &[(95, usual(small, 4_000.0)), (5, big)], size.jobs, load)
}

/// Many plugins that share cards, some wanted much more often than others.
fn sharing(mut maker: Maker, size: Size, load: Load, priorities: &[Priority], plugins: u64) -> Maker {
    let mut strands = Vec::new();
    for n in 0..plugins {
        let (vram, start_ms) = (2 + n * 38 / (plugins - 1), 500 + 150 * n);
        let plugin = maker.plugin(&format!("model{n}"), gpu(1, vram), start_ms);
        // Unlike sizes of run, not in the order of their sizes of memory.
        let mean = 3_000.0 + 1_500.0 * ((n * 7) % plugins) as f64;
        let strand = Strand { priorities: priorities.to_vec(), ..usual(plugin, mean) };
        strands.push((1 + 60 / (1 + (n * 3) % plugins), strand));
    }
    string(maker, &strands, size.jobs, load)
}

fn exclusive(mut maker: Maker, size: Size, load: Load) -> Maker {
    let small = maker.plugin("small", gpu(1, 8), 2_000);
    let whole = maker.plugin("whole", ResourceRequest { exclusive: true, ..gpu(1, 12) }, 3_000);
    string(maker, &[(70, usual(small, 4_000.0)), (30, usual(whole, 6_000.0))], size.jobs, load)
}

/// Most take 50 ms, one in five hundred ten minutes.
fn extremes(mut maker: Maker, size: Size, load: Load) -> Maker {
    let short = maker.plugin("short", gpu(1, 4), 1_000);
    let long = maker.plugin("long", gpu(1, 10), 5_000);
    let short = Strand { runs: Runs::Between(40, 60), ..usual(short, 0.0) };
    let long = Strand { runs: Runs::Between(590_000, 610_000), ..usual(long, 0.0) };
    string(maker, &[(499, short), (1, long)], size.jobs, load)
}

/// Half of the jobs are one owner's, at once; the others come one by one while those run.
fn burst(mut maker: Maker, size: Size) -> Maker {
    let small = maker.plugin("small", gpu(1, 8), 2_000);
    let bulk = Strand { owners: vec!["bulk".to_owned()], kind: Kind::Bulk, ..usual(small, 4_000.0) };
    let single = Strand { owners: owners(20), kind: Kind::Single, ..usual(small, 4_000.0) };
    let (many, few) = (size.jobs * 19 / 20, size.jobs / 20);
    // About eight workers on a host: what is left after two thirds of the work.
    let over_us = (many as f64 * 4.0 / (size.hosts as f64 * 8.0) * 0.66 * SECOND as f64) as Micros;
    for _ in 0..many {
        maker.add(5 * SECOND, &bulk);
    }
    for _ in 0..few {
        let at = 5 * SECOND + maker.chance().between(0, over_us.max(1));
        maker.add(at, &single);
    }
    maker
}

/// Three in ten want a model that few hosts have.
fn scarce(mut maker: Maker, size: Size, load: Load) -> Maker {
    let small = maker.plugin("small", gpu(1, 8), 2_000);
    let on = |word: &str| ResourceRequest {
        on: [(ON_GPU.to_owned(), word.to_owned())].into(),
        ..ResourceRequest::default()
    };
    let h200 = Strand { beyond: Some(on("h200")), ..usual(small, 3_000.0) };
    let a100 = Strand { beyond: Some(on("a100")), ..usual(small, 4_000.0) };
    string(maker, &[(70, usual(small, 4_000.0)), (15, h200), (15, a100)], size.jobs, load)
}

/// Ten thousand that no host can run lie before and between the others.
fn hopeless(mut maker: Maker, size: Size, load: Load) -> Maker {
    let small = maker.plugin("small", gpu(1, 8), 2_000);
    let strand = |beyond: ResourceRequest| Strand {
        beyond: Some(beyond),
        priorities: vec![Priority::High, Priority::Normal],
        kind: Kind::Hopeless,
        ..usual(small, 4_000.0)
    };
    let huge = ResourceRequest { vram_mb: 180 * GIB_MB, ..ResourceRequest::default() };
    let many = ResourceRequest { gpus: 16, ..ResourceRequest::default() };
    let elsewhere =
        ResourceRequest { on: [(ON_GPU.to_owned(), "b200".to_owned())].into(), ..ResourceRequest::default() };
    let strands = [strand(huge), strand(many), strand(elsewhere)];
    for n in 0..10_000 {
        maker.add(0, &strands[n % strands.len()]);
    }
    string(maker, &[(100, usual(small, 4_000.0))], size.jobs, load)
}
