//! For people: lines, tables, one bar that moves on a terminal.
//!
//! Owns the wording of what happens to a job that is followed; listings are in [`listings`].

mod listings;

use super::Output;
use super::live::Live;
use super::screen::{Screen, Style, clean, clean_lines};
use super::value::{chunk_line, result_lines};
use super::words::{Check, Ended, FarmNews, Level, PluginEntry, Sending, Verdict};
use crate::failure::Failure;
use crate::units;
use grange_broker_client::cancel::Cancelled;
use grange_broker_client::follow::Update;
use grange_broker_client::query::JobView;
use grange_broker_client::submit::Submitted;
use grange_broker_client::topology::{Change, Ensured};
use grange_protocol::event::LogLine;
use grange_protocol::record::{Record, State};
use grange_protocol::status::{AgentStatus, PluginState};
use grange_protocol::subject::JobKey;
use std::io;
use std::time::Duration;

/// Last lines of a traceback that are shown.
const TRACEBACK_LINES: usize = 24;
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

    /// `succeeded in 3.2 s on host-1 (25 chunks)`
    fn end_line(&self, end: &Ended) -> String {
        let record = &end.record;
        let outcome = record.outcome.clone().unwrap_or_default();
        let (mark, style) = match record.state {
            State::Succeeded => ("✔", Style::Green),
            State::Cancelled | State::Expired | State::Refused => ("■", Style::Yellow),
            _ => ("✘", Style::Red),
        };
        let mut rest = String::new();
        if outcome.usage.run_ms > 0.0 {
            rest.push_str(&format!(" in {}", units::millis(outcome.usage.run_ms)));
        }
        if let Some(attempt) = &record.attempt {
            rest.push_str(&format!(" on {}", attempt.agent));
            if attempt.number > 1 {
                rest.push_str(&format!(", attempt {}", attempt.number));
            }
        }
        if outcome.chunks > 0 {
            let s = if outcome.chunks == 1 { "" } else { "s" };
            rest.push_str(&format!(", {} chunk{s}", outcome.chunks));
        }
        let word = self.screen.err_look.paint(style, &format!("{mark} {}", record.state));
        format!("{word}{}", self.dim(&rest))
    }

    fn failure_lines(&self, end: &Ended) -> Vec<(To, String)> {
        let Some(failure) = end.record.outcome.as_ref().and_then(|outcome| outcome.failure.as_ref()) else {
            return Vec::new();
        };
        let raised = failure.exception.as_deref().filter(|name| !failure.message.contains(name));
        let raised = raised.map(|name| format!("{}: ", clean(name))).unwrap_or_default();
        let mut lines =
            vec![(To::Err, format!("{}: {raised}{}", failure.kind, clean_lines(&failure.message)))];
        let shown = |text: &Option<String>| text.as_deref().map(clean_lines).unwrap_or_default();
        for text in [shown(&failure.traceback), shown(&failure.stderr)] {
            let count = text.lines().count();
            let last = text.lines().skip(count.saturating_sub(TRACEBACK_LINES));
            lines.extend(last.map(|line| (To::Err, self.dim(&format!("{LOG_MARK}{line}")))));
        }
        lines
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
        self.live.state(&format!("waits for a host with `{}`", job.lane.plugin));
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
        if end.followed || end.result.is_none() {
            let line = self.end_line(end);
            self.err(line)?;
        }
        let lines = self.failure_lines(end);
        self.write(&lines)?;
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

    fn agents(&mut self, agents: &[(AgentStatus, Duration)]) -> io::Result<()> {
        if agents.is_empty() {
            return self.err("no agent is up".to_owned());
        }
        self.out(listings::agents(agents, self.screen.out_look))
    }

    fn plugins(&mut self, plugins: &[PluginEntry]) -> io::Result<()> {
        if plugins.is_empty() {
            return self.err("no agent that is up has a plugin".to_owned());
        }
        self.out(listings::plugins(plugins, self.screen.out_look))
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
        let line = |topic: &str, text: String| vec![format!("{topic:<9}{}", clean(&text))];
        let look = self.screen.out_look;
        let lines = match news {
            FarmNews::Broker { url, version, durability } => vec![
                format!("{:<9}nats-server {version} with JetStream at {url}", "broker"),
                format!("{:<9}{durability}", ""),
            ],
            FarmNews::Objects { url } => line("objects", url.clone()),
            FarmNews::Agent { status, log } => {
                let text =
                    format!("{}: {}; its log: {}", status.agent, listings::capacity(status), log.display());
                line("agent", text)
            }
            FarmNews::Notice { text } => line("", format!("note: {text}")),
            FarmNews::Plugin { name, version, state, reason } => {
                let style = match state {
                    PluginState::Ready => Style::Green,
                    PluginState::Preparing => Style::Dim,
                    PluginState::Failed => Style::Red,
                };
                let why = if reason.is_empty() { String::new() } else { format!(": {}", clean(reason)) };
                let state = look.paint(style, state.as_str());
                vec![format!("{:<9}{name} {} {state}{why}", "plugin", clean(version))]
            }
            FarmNews::Ready { plugins, failed } => {
                let failed = if *failed > 0 { format!(", {failed} of them failed") } else { String::new() };
                let s = if *plugins == 1 { "" } else { "s" };
                line(
                    "ready",
                    format!(
                        "{plugins} plugin{s}{failed}; `grange submit PLUGIN key=value` runs one, Ctrl-C ends the farm"
                    ),
                )
            }
            FarmNews::AgentLost { how } => {
                line("agent", format!("ended by itself ({how}); starting it again"))
            }
            FarmNews::BrokerLost => line("broker", "ended by itself; it was started again".to_owned()),
            FarmNews::Stopping { signal } => line(
                "stopping",
                format!("on {signal}; jobs that run are finished first, another {signal} stops them"),
            ),
            FarmNews::Stopped => line("stopped", "no process of this farm is left".to_owned()),
        };
        self.out(lines)
    }
}

#[cfg(test)]
mod tests;
