//! Recurring jobs and batches, for people.

use crate::output::screen::{Look, Style};
use crate::output::table::{Cell, Table};
use crate::output::words::{BatchRow, CronRow};
use crate::units;
use grange_protocol::json::Json;

/// `1000 jobs: 640 submitted, 12 running, 600 succeeded, 3 failed`
pub(super) fn progress(row: &BatchRow) -> String {
    let jobs = row.jobs.map(|jobs| format!("{jobs} jobs: ")).unwrap_or_default();
    let mut parts = vec![format!("{} submitted", row.submitted)];
    let rest = [
        (row.running, "running"),
        (row.succeeded, "succeeded"),
        (row.failed, "failed"),
        (row.dropped, "cancelled, expired or refused"),
        (row.skipped, "lines skipped"),
    ];
    parts.extend(rest.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")));
    format!("{jobs}{}", parts.join(", "))
}

fn at(ms: Option<u64>) -> String {
    ms.map_or("-".to_owned(), units::date_time)
}

fn last(row: &CronRow) -> String {
    let now_ms = units::now_ms();
    let last = row.view.last.as_ref();
    last.map_or("-".to_owned(), |(job, at_ms)| format!("{job}, {}", units::ago(*at_ms, now_ms)))
}

pub(super) fn crons(rows: &[CronRow], look: Look) -> Vec<String> {
    let mut table = Table::new(["NAME", "PLUGIN", "OWNER", "WHEN", "NEXT", "LAST JOB"]);
    for row in rows {
        let view = &row.view;
        let zone = view.zone.as_ref().map(|zone| format!(" {zone}")).unwrap_or_default();
        table.row([
            view.name.as_str().into(),
            view.lane.plugin.as_str().into(),
            view.owner.as_str().into(),
            format!("{}{zone}", view.pattern).into(),
            at(row.next_ms).into(),
            last(row).into(),
        ]);
    }
    table.lines(look)
}

pub(super) fn cron(row: &CronRow, look: Look) -> Vec<String> {
    let view = &row.view;
    let mut table = Table::new(["", ""]);
    let mut fact = |name: &str, text: String| table.row([Cell::styled(name, Style::Dim), text.into()]);
    fact("name", view.name.to_string());
    fact("owner", view.owner.to_string());
    fact("plugin", view.lane.plugin.to_string());
    fact("lane", format!("{}, {}", view.lane.class, view.lane.priority));
    fact("when", view.pattern.clone());
    fact("zone", view.zone.clone().unwrap_or_else(|| "UTC".to_owned()));
    fact("next", at(row.next_ms));
    fact("last job", last(row));
    if let Some(wait) = view.max_wait {
        fact("longest wait", units::duration(wait));
    }
    let given = view.ticket.as_ref().and_then(|ticket| ticket.kwargs.as_ref().or(ticket.args.as_ref()));
    fact("arguments", given.map_or("-", Json::text).to_owned());
    table.lines(look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_says_what_there_is_to_say() {
        let row = BatchRow { jobs: Some(10), submitted: 10, running: 2, succeeded: 3, ..BatchRow::default() };
        assert_eq!(progress(&row), "10 jobs: 10 submitted, 2 running, 3 succeeded");
        assert_eq!(progress(&BatchRow::default()), "0 submitted");
    }
}
