//! What people see of what jobs took.

use super::human;
use crate::output::Output;
use crate::output::words::UsageRow;
use grange_broker_client::usage::Used;

#[test]
fn usage_is_summed_below_several_rows() {
    let (mut human, out, err) = human();
    let row = |owner: &str, used: Used| UsageRow {
        owner: owner.parse().unwrap(),
        plugin: "ocr".parse().unwrap(),
        used,
    };
    let ann = Used {
        jobs: 3,
        succeeded: 2,
        failed: 1,
        run_seconds: 75.0,
        gpu_seconds: 20.5,
        peak_vram_mb: 6144,
        ..Used::default()
    };
    let bob = Used { jobs: 2, dropped: 1, unfinished: 1, peak_vram_mb: 512, ..Used::default() };
    human.usage(&[row("ann", ann.clone()), row("bob", bob)]).unwrap();
    let lines: Vec<String> =
        out.take().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "OWNER PLUGIN JOBS SUCCEEDED FAILED DROPPED UNFINISHED RUN TIME GPU-SECONDS PEAK VRAM",
            "ann ocr 3 2 1 - - 1 m 15 s 20.5 6.0 GiB",
            "bob ocr 2 - - 1 1 0 s - 512.0 MiB",
            "all 5 2 1 1 1 1 m 15 s 20.5 6.0 GiB",
        ]
    );
    human.usage(&[row("ann", ann)]).unwrap();
    assert_eq!(out.take().lines().count(), 2, "one row is its own sum");
    human.usage(&[]).unwrap();
    assert_eq!((out.take().as_str(), err.take().as_str()), ("", "no records of jobs are kept\n"));
}
