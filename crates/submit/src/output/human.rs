//! For people: lines, tables, one bar that moves on a terminal.
//!
//! Owns the wording of what happens to a job that is followed; listings are in [`listings`].

mod agents;
mod batches;
mod ends;
mod farm;
mod listings;
mod plugins;
mod usage;
mod why;

use super::Output;
use super::live::Live;
use super::screen::{Screen, Style, clean, clean_lines};
use super::value::{chunk_line, result_lines};
use super::words::{
    Agents, BatchRow, Check, CronRow, Ended, FarmNews, Level, PluginEntry, Rows, Sending, Showing, UsageRow,
    Verdict,
};
use crate::failure::Failure;
use crate::units;
use grange_broker_client::cancel::Cancelled;
use grange_broker_client::follow::Update;
use grange_broker_client::priority::Reprioritised;
use grange_broker_client::query::JobView;
use grange_broker_client::submit::Submitted;
use grange_broker_client::topology::{Change, Ensured};
use grange_broker_client::why::Why;
use grange_protocol::event::LogLine;
use grange_protocol::name::AgentName;
use grange_protocol::record::{Record, State};
use grange_protocol::status::ControlAnswer;
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Priority;
use std::io;

const LOG_MARK: &str = "  │ ";

pub(super) struct Human {
    screen: Screen,
    live: Live,
}

/// Which stream a line is for.
enum To {
    Out,
    Err,
}

impl Human {
    pub(super) fn new(screen: Screen) -> Self {
        let live = Live::new(screen.err_look);
        Self { screen, live }
    }

    /// Writes lines with the bar out of the way.
    fn write(&mut self, lines: &[(To, String)]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let screen = &mut self.screen;
        screen.leave();
        self.live.around(|| {
            for (to, line) in lines {
                match to {
                    To::Out => writeln!(screen.out, "{line}")?,
                    To::Err => {
                        // What was written to the other stream before comes first on a terminal too.
                        screen.out.flush()?;
                        writeln!(screen.err, "{line}")?;
                        screen.err.flush()?;
                    }
                }
            }
            screen.flush()
        })
    }

    fn out(&mut self, lines: Vec<String>) -> io::Result<()> {
        let lines: Vec<_> = lines.into_iter().map(|line| (To::Out, line)).collect();
        self.write(&lines)
    }

    fn err(&mut self, line: String) -> io::Result<()> {
        self.write(&[(To::Err, line)])
    }

    fn dim(&self, text: &str) -> String {
        self.screen.err_look.paint(Style::Dim, text)
    }

    fn update(&mut self, update: &Update) -> Option<(To, String)> {
        match update {
            Update::State { record: Some(record), .. } => self.state(record),
            Update::State { .. } => Some((To::Err, "its waiting time ran out".to_owned())),
            Update::Attempt { token } if token.number > 1 => {
                let text = format!("attempt {}: what came before does not count", token.number);
                Some((To::Err, self.dim(&text)))
            }
            Update::Chunk { value, .. } => Some((To::Out, chunk_line(&value.value(), self.screen.out_look))),
            Update::Progress { progress, .. } => self
                .live
                .progress(progress.progress, &progress.message)
                .map(|line| (To::Err, self.dim(&line))),
            Update::Log { line, .. } => {
                Some((To::Err, self.dim(&format!("{LOG_MARK}{}", clean(&line.line)))))
            }
            Update::Dropped { dropped, .. } => {
                let text = format!(
                    "{LOG_MARK}[{} lines of {}, {}, over the limit and not kept]",
                    dropped.lines,
                    clean(&dropped.what),
                    units::size(dropped.bytes)
                );
                Some((To::Err, self.dim(&text)))
            }
            Update::End(_) => {
                self.live.clear();
                None
            }
            _ => None,
        }
    }

    /// What a new record says; most of it moves in the bar.
    fn state(&mut self, record: &Record) -> Option<(To, String)> {
        let agent = record.attempt.as_ref().map_or("an agent", |attempt| attempt.agent.as_str());
        match record.state {
            State::Retrying => {
                let note = record.history.last().map(|moment| clean(&moment.note)).unwrap_or_default();
                self.live.state("waits for another attempt");
                Some((To::Err, format!("attempt on {agent} did not end: {note}; another follows")))
            }
            State::Running | State::Claimed if record.cancel_requested.is_some() => {
                self.live.state(&format!("cancel was asked for; {agent} ends it"));
                None
            }
            State::Running | State::Claimed => {
                self.live.state(&format!("runs on {agent}"));
                None
            }
            State::Queued => {
                self.live.state(&format!("waits for a host with `{}`", record.plugin));
                None
            }
            State::Succeeded | State::Failed | State::Cancelled | State::Expired | State::Refused => None,
        }
    }
}

impl Output for Human {
    fn say(&mut self, level: Level, text: &str) -> io::Result<()> {
        let text = clean_lines(text);
        let line = match level {
            Level::Note => text,
            Level::Warning => format!("{} {text}", self.screen.err_look.paint(Style::Yellow, "warning:")),
        };
        self.err(line)
    }

    fn failure(&mut self, failure: &Failure) -> io::Result<()> {
        self.live.clear();
        let word = self.screen.err_look.paint(Style::Red, "error:");
        self.err(format!("{word} {}", clean(&failure.text)))?;
        for line in &failure.details {
            self.err(format!("  {}", clean(line)))?;
        }
        match &failure.hint {
            Some(hint) => self.err(format!("hint: {}", clean(hint))),
            None => Ok(()),
        }
    }

    fn submitted(&mut self, job: &Submitted, followed: bool) -> io::Result<()> {
        if !followed {
            return self.out(vec![job.key.job.to_string()]);
        }
        let line = format!("job {} for `{}`", job.key.job, job.lane.plugin);
        let line = self.dim(&line);
        self.err(line)?;
        match job.due_ms {
            Some(due_ms) => {
                let line = self.dim(&format!("it is submitted at {}", units::date_time(due_ms)));
                self.err(line)?;
                self.live.state(&format!("waits for {}", units::date_time(due_ms)));
            }
            None => self.live.state(&format!("waits for a host with `{}`", job.lane.plugin)),
        }
        Ok(())
    }

    fn sending(&mut self, file: Option<&Sending>) -> io::Result<()> {
        let Some(file) = file else {
            self.live.clear();
            return Ok(());
        };
        match self.live.sending(file) {
            Some(line) => self.err(line),
            None => Ok(()),
        }
    }

    fn updates(&mut self, updates: &[Update]) -> io::Result<()> {
        let lines: Vec<_> = updates.iter().filter_map(|update| self.update(update)).collect();
        self.write(&lines)
    }

    fn waiting(&mut self, view: &JobView) -> io::Result<()> {
        if let Some(delayed) = &view.delayed {
            self.live.state(&format!("waits for {}", units::date_time(delayed.due_ms)));
            return Ok(());
        }
        let plugin = view.lane().map(|lane| format!(" with `{}`", lane.plugin)).unwrap_or_default();
        let ahead = match view.waiting.as_ref().and_then(|waiting| waiting.ahead) {
            Some(0) | None => String::new(),
            Some(ahead) => format!(", {ahead} before it"),
        };
        self.live.state(&format!("waits for a host{plugin}{ahead}"));
        Ok(())
    }

    fn pause(&mut self) -> io::Result<()> {
        self.live.clear();
        self.screen.flush()
    }

    fn ended(&mut self, end: &Ended) -> io::Result<()> {
        self.live.clear();
        let usage = end.record.outcome.as_ref().map(|outcome| outcome.usage.clone()).unwrap_or_default();
        if end.followed || end.result.is_none() || listings::gpu_use(&usage).is_some() {
            self.err(ends::line(end, self.screen.err_look))?;
        }
        for line in ends::failure(end, self.screen.err_look) {
            self.err(line)?;
        }
        if let Some(result) = &end.result {
            let brief = end.followed && end.record.outcome.as_ref().is_some_and(|o| o.chunks > 0);
            self.out(result_lines(result, brief, self.screen.out_look))?;
        }
        if !end.left.is_empty() {
            let names: Vec<String> =
                end.left.iter().map(|object| format!("`{}`", clean(&object.name))).collect();
            let id = &end.key.job;
            self.err(format!("hint: {} can be fetched: grange result {id} --out DIR", names.join(", ")))?;
        }
        Ok(())
    }

    fn logs(&mut self, lines: &[(u32, LogLine)]) -> io::Result<()> {
        self.out(lines.iter().map(|(_, line)| clean(&line.line)).collect())
    }

    fn job(&mut self, view: &JobView) -> io::Result<()> {
        self.out(listings::job(view, self.screen.out_look))
    }

    fn jobs(&mut self, views: &[JobView]) -> io::Result<()> {
        if views.is_empty() {
            return self.err("no jobs".to_owned());
        }
        self.out(listings::jobs(views, self.screen.out_look))
    }

    fn cancelled(&mut self, key: &JobKey, outcome: Cancelled) -> io::Result<()> {
        let id = &key.job;
        self.out(vec![match outcome {
            Cancelled::AtOnce => format!("job {id} is cancelled"),
            Cancelled::Requested => format!("job {id} runs; its agent was asked to end it"),
            Cancelled::AlreadyEnded(state) => format!("job {id} had ended before: {state}"),
        }])
    }

    fn why(&mut self, why: &Why) -> io::Result<()> {
        self.out(why::lines(why, self.screen.out_look))
    }

    fn reprioritised(&mut self, key: &JobKey, priority: Priority, done: Reprioritised) -> io::Result<()> {
        let id = &key.job;
        self.out(vec![match done {
            Reprioritised::Moved { from } => {
                format!("job {id} waits with priority {priority} now; it was {from}")
            }
            Reprioritised::Unchanged => format!("job {id} has priority {priority} already"),
        }])
    }

    fn crons(&mut self, rows: &[CronRow]) -> io::Result<()> {
        if rows.is_empty() {
            return self.err("no recurring jobs".to_owned());
        }
        self.out(batches::crons(rows, self.screen.out_look))
    }

    fn cron(&mut self, row: &CronRow) -> io::Result<()> {
        self.out(batches::cron(row, self.screen.out_look))
    }

    fn batch(&mut self, row: &BatchRow) -> io::Result<()> {
        let text = batches::progress(row);
        if row.jobs.is_none() {
            self.live.state(&text);
            return Ok(());
        }
        let fraction = row.ended() as f64 / row.jobs.unwrap_or(0).max(1) as f64;
        match self.live.progress(fraction, &text) {
            Some(line) => self.err(line),
            None => Ok(()),
        }
    }

    fn batch_end(&mut self, row: &BatchRow) -> io::Result<()> {
        self.live.clear();
        self.err(batches::progress(row))?;
        match &row.batch {
            Some(batch) => self.out(vec![batch.clone()]),
            None => Ok(()),
        }
    }

    fn agents(&mut self, agents: &Agents<'_>, showing: Showing) -> io::Result<()> {
        let look = self.screen.out_look;
        let lines = match agents {
            Agents::All([]) if showing == Showing::Once => return self.err("no agent is up".to_owned()),
            Agents::All([]) => vec!["no agent is up".to_owned()],
            Agents::All(all) => agents::table(all, look),
            Agents::One(status, age) => agents::details(status, *age, look),
        };
        match showing {
            Showing::Once => self.out(lines),
            Showing::Again => {
                let now = units::date_time(units::now_ms());
                let head = look.paint(Style::Dim, &format!("{now}; Ctrl-C ends"));
                self.screen.repaint(&[vec![head], lines].concat())
            }
        }
    }

    fn answered(&mut self, agent: &AgentName, answer: &ControlAnswer) -> io::Result<()> {
        self.out(vec![format!("{agent}: {}", clean(&answer.message))])
    }

    fn plugins(&mut self, plugins: &[PluginEntry], rows: Rows) -> io::Result<()> {
        if plugins.is_empty() {
            return self.err("no agent that is up has a plugin".to_owned());
        }
        let look = self.screen.out_look;
        self.out(match rows {
            Rows::Overall => plugins::overall(plugins, look),
            Rows::ByHost => plugins::by_host(plugins, look),
        })
    }

    fn usage(&mut self, rows: &[UsageRow]) -> io::Result<()> {
        if rows.is_empty() {
            return self.err("no records of jobs are kept".to_owned());
        }
        self.out(usage::table(rows, self.screen.out_look))
    }

    fn topology(&mut self, done: &[Ensured]) -> io::Result<()> {
        let lines = done.iter().map(|ensured| match &ensured.change {
            Change::Created => format!("{:<16} created", ensured.name),
            Change::Updated(fields) => format!("{:<16} changed: {}", ensured.name, fields.join(", ")),
            Change::Unchanged => format!("{:<16} as it should be", ensured.name),
        });
        self.out(lines.collect())
    }

    fn check(&mut self, check: &Check) -> io::Result<()> {
        let look = self.screen.out_look;
        let style = match check.verdict {
            Verdict::Ok => Style::Green,
            Verdict::Warn => Style::Yellow,
            Verdict::Fail => Style::Red,
        };
        let word = look.paint(style, &format!("{:<4}", check.verdict.as_str()));
        let mut lines = vec![format!("{word}  {:<14} {}", check.name, clean(&check.text))];
        lines.extend(check.advice.iter().map(|advice| format!("{:21}→ {}", "", clean(advice))));
        self.out(lines)
    }

    fn farm(&mut self, news: &FarmNews) -> io::Result<()> {
        self.out(farm::lines(news, self.screen.out_look))
    }
}

#[cfg(test)]
mod tests;
