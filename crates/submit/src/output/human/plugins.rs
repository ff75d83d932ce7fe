//! The plugins of the farm as a table: one row for a plugin, or one for each host that has it.

use crate::output::screen::{Look, Style};
use crate::output::table::{Cell, Table};
use crate::output::words::PluginEntry;
use crate::resources::in_words;
use crate::units;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::status::{PluginState, PluginStatus};

/// One row for a plugin, over all hosts.
pub(super) fn overall(plugins: &[PluginEntry], look: Look) -> Vec<String> {
    let mut table = Table::new([
        "PLUGIN",
        "VERSION",
        "HOSTS",
        "NEEDS",
        ">PEAK VRAM",
        ">START",
        ">WORKERS",
        ">RUNNING",
        "NOTE",
    ]);
    for plugin in plugins {
        let all = || plugin.hosts.iter().map(|(_, status)| status);
        let mut versions: Vec<&str> = all().map(|status| status.version.as_str()).collect();
        versions.sort_unstable();
        versions.dedup();
        // Hosts may have learned different amounts: the most counts.
        let needs = all().fold(ResourceRequest::default(), |most, status| most.raised(&status.resources));
        let (running, slots) = all().fold((0, 0), |sum, s| (sum.0 + s.running, sum.1 + s.slots));
        let trouble =
            all().find(|s| s.state == PluginState::Failed).or_else(|| all().find(|s| !s.reason.is_empty()));
        let note = trouble.map(|status| status.reason.as_str()).filter(|reason| !reason.is_empty());
        table.row([
            plugin.name.as_str().into(),
            versions.join(", ").into(),
            hosts(plugin),
            needed(&needs).into(),
            peak(all().filter_map(|status| status.peak_vram_mb).max()).into(),
            start(all().filter_map(|status| status.start_ms).max()).into(),
            all().map(|status| status.workers).sum::<u32>().to_string().into(),
            format!("{running}/{slots}").into(),
            note.or_else(|| all().next().map(|status| status.description.as_str()))
                .unwrap_or_default()
                .into(),
        ]);
    }
    table.lines(look)
}

/// `3 ready`, or how many of them are.
fn hosts(plugin: &PluginEntry) -> Cell {
    let count = |state| plugin.hosts.iter().filter(|(_, status)| status.state == state).count();
    let (ready, all) = (count(PluginState::Ready), plugin.hosts.len());
    match (ready, count(PluginState::Failed)) {
        (0, failed) if failed == all => Cell::styled("failed", Style::Red),
        (0, _) => Cell::styled("preparing", Style::Dim),
        _ if ready == all => Cell::styled(format!("{ready} ready"), Style::Green),
        _ => Cell::styled(format!("{ready} of {all} ready"), Style::Yellow),
    }
}

/// One row for each host.
pub(super) fn by_host(plugins: &[PluginEntry], look: Look) -> Vec<String> {
    let mut table = Table::new([
        "PLUGIN",
        "VERSION",
        "AGENT",
        "STATE",
        "NEEDS",
        ">PEAK VRAM",
        ">START",
        ">WORKERS",
        ">RUNNING",
        "NOTE",
    ]);
    for plugin in plugins {
        for (agent, status) in &plugin.hosts {
            table.row([
                plugin.name.as_str().into(),
                status.version.as_str().into(),
                agent.into(),
                Cell::styled(status.state.as_str(), style(status)),
                needed(&status.resources).into(),
                peak(status.peak_vram_mb).into(),
                start(status.start_ms).into(),
                status.workers.to_string().into(),
                format!("{}/{}", status.running, status.slots).into(),
                if status.reason.is_empty() { &status.description } else { &status.reason }.into(),
            ]);
        }
    }
    table.lines(look)
}

fn needed(request: &ResourceRequest) -> String {
    if request.is_empty() { "-".to_owned() } else { in_words(request) }
}

fn peak(mb: Option<u64>) -> String {
    mb.filter(|mb| *mb > 0).map_or("-".to_owned(), units::mib)
}

fn start(ms: Option<u64>) -> String {
    ms.map_or("-".to_owned(), |ms| units::millis(ms as f64))
}

fn style(status: &PluginStatus) -> Style {
    match status.state {
        PluginState::Ready => Style::Green,
        PluginState::Preparing => Style::Dim,
        PluginState::Failed => Style::Red,
    }
}
