//! Only the essential word: ids, states, names, results. For scripts that need no JSON.

use super::Output;
use super::screen::{Screen, clean};
use super::words::{
    Agents, BatchRow, Check, CronRow, Ended, FarmNews, Level, PluginEntry, Rows, Sending, Showing, UsageRow,
    Verdict,
};
use crate::failure::Failure;
use grange_broker_client::cancel::Cancelled;
use grange_broker_client::follow::Update;
use grange_broker_client::priority::Reprioritised;
use grange_broker_client::query::JobView;
use grange_broker_client::submit::Submitted;
use grange_broker_client::topology::Ensured;
use grange_broker_client::why::Why;
use grange_protocol::event::LogLine;
use grange_protocol::name::AgentName;
use grange_protocol::status::ControlAnswer;
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Priority;
use std::io;

pub(super) struct Quiet {
    screen: Screen,
}

impl Quiet {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen }
    }
}

impl Output for Quiet {
    fn say(&mut self, level: Level, text: &str) -> io::Result<()> {
        match level {
            Level::Note => Ok(()),
            Level::Warning => self.screen.message(&format!("warning: {}", clean(text))),
        }
    }

    fn failure(&mut self, failure: &Failure) -> io::Result<()> {
        self.screen.message(&format!("error: {}", clean(&failure.text)))
    }

    fn submitted(&mut self, job: &Submitted, followed: bool) -> io::Result<()> {
        if followed { Ok(()) } else { self.screen.line(job.key.job.as_str()) }
    }

    fn sending(&mut self, _: Option<&Sending>) -> io::Result<()> {
        Ok(())
    }

    fn updates(&mut self, _: &[Update]) -> io::Result<()> {
        Ok(())
    }

    fn waiting(&mut self, _: &JobView) -> io::Result<()> {
        Ok(())
    }

    fn pause(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn ended(&mut self, end: &Ended) -> io::Result<()> {
        if let Some(result) = &end.result {
            return self.screen.line(&result.to_string());
        }
        let failure = end.record.outcome.as_ref().and_then(|outcome| outcome.failure.as_ref());
        let why = failure.map(|failure| format!(": {}", clean(&failure.to_string()))).unwrap_or_default();
        self.screen.message(&format!("{} {}{why}", end.key.job, end.record.state))
    }

    fn logs(&mut self, lines: &[(u32, LogLine)]) -> io::Result<()> {
        for (_, line) in lines {
            writeln!(self.screen.out, "{}", line.line)?;
        }
        self.screen.flush()
    }

    fn job(&mut self, view: &JobView) -> io::Result<()> {
        self.screen.line(view.word())
    }

    fn jobs(&mut self, views: &[JobView]) -> io::Result<()> {
        for view in views {
            writeln!(self.screen.out, "{}", view.key.job)?;
        }
        self.screen.flush()
    }

    fn cancelled(&mut self, _: &JobKey, outcome: Cancelled) -> io::Result<()> {
        self.screen.line(match outcome {
            Cancelled::AtOnce => "cancelled",
            Cancelled::Requested => "requested",
            Cancelled::AlreadyEnded(state) => state.as_str(),
        })
    }

    fn why(&mut self, why: &Why) -> io::Result<()> {
        let word = serde_json::to_value(why.reason)?;
        self.screen.line(word.as_str().unwrap_or_default())
    }

    fn reprioritised(&mut self, _: &JobKey, priority: Priority, _: Reprioritised) -> io::Result<()> {
        self.screen.line(priority.as_str())
    }

    fn crons(&mut self, rows: &[CronRow]) -> io::Result<()> {
        for row in rows {
            writeln!(self.screen.out, "{}", row.view.name)?;
        }
        self.screen.flush()
    }

    fn cron(&mut self, row: &CronRow) -> io::Result<()> {
        self.screen.line(&row.view.pattern)
    }

    fn batch(&mut self, _: &BatchRow) -> io::Result<()> {
        Ok(())
    }

    fn batch_end(&mut self, row: &BatchRow) -> io::Result<()> {
        match &row.batch {
            Some(batch) => self.screen.line(batch),
            None => Ok(()),
        }
    }

    fn agents(&mut self, agents: &Agents<'_>, _: Showing) -> io::Result<()> {
        match agents {
            Agents::All(all) => {
                for (status, _) in *all {
                    writeln!(self.screen.out, "{}", status.agent)?;
                }
                self.screen.flush()
            }
            Agents::One(status, _) => self.screen.line(status.state_word()),
        }
    }

    fn answered(&mut self, _: &AgentName, _: &ControlAnswer) -> io::Result<()> {
        Ok(())
    }

    fn plugins(&mut self, plugins: &[PluginEntry], _: Rows) -> io::Result<()> {
        for plugin in plugins {
            writeln!(self.screen.out, "{}", plugin.name)?;
        }
        self.screen.flush()
    }

    fn usage(&mut self, rows: &[UsageRow]) -> io::Result<()> {
        let gpu_seconds: f64 = rows.iter().map(|row| row.used.gpu_seconds).sum();
        self.screen.line(&format!("{gpu_seconds:.3}"))
    }

    fn topology(&mut self, _: &[Ensured]) -> io::Result<()> {
        Ok(())
    }

    fn check(&mut self, check: &Check) -> io::Result<()> {
        match check.verdict {
            Verdict::Ok => Ok(()),
            verdict => self.screen.line(&format!("{} {}: {}", verdict.as_str(), check.name, check.text)),
        }
    }

    fn farm(&mut self, news: &FarmNews) -> io::Result<()> {
        match news {
            FarmNews::Broker { url, .. } => self.screen.line(url),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::screen::tests::pipes;
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn only_the_word() {
        let (screen, out, err) = pipes();
        let mut quiet = Quiet::new(screen);
        quiet.say(Level::Note, "not said").unwrap();
        quiet.failure(&Failure::new(Exit::Other, "bad").hint("not said")).unwrap();
        let key = JobKey { owner: "ann".parse().unwrap(), job: "j-1".parse().unwrap() };
        quiet.cancelled(&key, Cancelled::AtOnce).unwrap();
        assert_eq!((out.take().as_str(), err.take().as_str()), ("cancelled\n", "error: bad\n"));
    }
}
