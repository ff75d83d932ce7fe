//! Hosts of many sizes: none to eight GPUs of one of six models, memory and cores to match, some with strangers on them.

use crate::chance::Chance;
use crate::machine::{GpuSpec, HostSpec};

/// A model with its share of the hosts, in hundredths.
struct Model {
    percent: u64,
    name: &'static str,
    word: &'static str,
    compute: &'static str,
    total_mb: u64,
    linked: bool,
}

const MODELS: [Model; 6] = [
    Model { percent: 20, name: "Tesla T4", word: "t4", compute: "7.5", total_mb: 15_360, linked: false },
    Model { percent: 25, name: "NVIDIA L4", word: "l4", compute: "8.9", total_mb: 23_034, linked: false },
    Model {
        percent: 15,
        name: "NVIDIA A100-SXM4-40GB",
        word: "a100",
        compute: "8.0",
        total_mb: 40_960,
        linked: true,
    },
    Model { percent: 20, name: "NVIDIA L40S", word: "l40s", compute: "8.9", total_mb: 46_068, linked: false },
    Model {
        percent: 12,
        name: "NVIDIA A100-SXM4-80GB",
        word: "a100",
        compute: "8.0",
        total_mb: 81_920,
        linked: true,
    },
    Model { percent: 8, name: "NVIDIA H200", word: "h200", compute: "9.0", total_mb: 143_771, linked: true },
];

/// Numbers of GPUs with their share of the hosts, in hundredths.
const COUNTS: [(u64, usize); 7] = [(8, 0), (22, 1), (22, 2), (4, 3), (25, 4), (4, 6), (15, 8)];
/// Every so many GPUs has strangers on it.
const FOREIGN_PERCENT: u64 = 10;

fn pick<T>(choices: &[T], percent: impl Fn(&T) -> u64, chance: &mut Chance) -> usize {
    let mut left = chance.between(0, choices.iter().map(&percent).sum::<u64>() - 1);
    for (place, choice) in choices.iter().enumerate() {
        if left < percent(choice) {
            return place;
        }
        left -= percent(choice);
    }
    0
}

pub(super) fn hosts(count: usize, seed: u64) -> Vec<HostSpec> {
    let mut chance = Chance::new(seed, 1);
    (0..count).map(|_| host(&mut chance)).collect()
}

fn host(chance: &mut Chance) -> HostSpec {
    let model = &MODELS[pick(&MODELS, |model| model.percent, chance)];
    let count = COUNTS[pick(&COUNTS, |(percent, _)| *percent, chance)].1;
    let gpus = (0..count).map(|place| {
        let strangers = chance.between(1, 100) <= FOREIGN_PERCENT;
        let partner = place ^ 1;
        GpuSpec {
            name: model.name,
            word: model.word,
            compute: model.compute,
            total_mb: model.total_mb,
            foreign_mb: if strangers { chance.between(500, 4_000) } else { 0 },
            link: (model.linked && partner < count).then_some(partner),
        }
    });
    let gpus: Vec<GpuSpec> = gpus.collect();
    HostSpec {
        gpus,
        ram_mb: 1024 * (32 + 64 * count as u64),
        cpus: 8 + 8 * u32::try_from(count).unwrap_or(0),
    }
}
