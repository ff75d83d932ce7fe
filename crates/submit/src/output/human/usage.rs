//! What jobs took, by owner and plugin.

use crate::output::screen::{Look, Style};
use crate::output::table::{Cell, Table};
use crate::output::words::UsageRow;
use crate::units;
use grange_broker_client::usage::Used;

/// One row for an owner and a plugin, and below several of them their sum.
pub(super) fn table(rows: &[UsageRow], look: Look) -> Vec<String> {
    let mut table = Table::new([
        "OWNER",
        "PLUGIN",
        ">JOBS",
        ">SUCCEEDED",
        ">FAILED",
        ">DROPPED",
        ">UNFINISHED",
        ">RUN TIME",
        ">GPU-SECONDS",
        ">PEAK VRAM",
    ]);
    for row in rows {
        table.row(cells(row.owner.as_str().into(), row.plugin.as_str().into(), &row.used));
    }
    if rows.len() > 1 {
        let mut sum = Used::default();
        rows.iter().for_each(|row| sum.merge(&row.used));
        table.row(cells(Cell::styled("all", Style::Dim), Cell::default(), &sum));
    }
    table.lines(look)
}

fn cells(owner: Cell, plugin: Cell, used: &Used) -> [Cell; 10] {
    let count = |count: u64| if count == 0 { "-".to_owned() } else { count.to_string() }.into();
    let peak = if used.peak_vram_mb == 0 { "-".to_owned() } else { units::mib(used.peak_vram_mb) };
    let gpu = if used.gpu_seconds > 0.0 { units::seconds(used.gpu_seconds) } else { "-".to_owned() };
    [
        owner,
        plugin,
        count(used.jobs),
        count(used.succeeded),
        count(used.failed),
        count(used.dropped),
        count(used.unfinished),
        units::millis(used.run_seconds * 1000.0).into(),
        gpu.into(),
        peak.into(),
    ]
}
