//! JSON for programs: one document, or one object a line where things stream. A supported interface (`docs/cli.md`).
//!
//! Owns the shapes. On stderr too every line is an object.

use super::Output;
use super::screen::Screen;
use super::words::{
    Agents, BatchRow, Check, CronRow, Ended, FarmNews, Level, PluginEntry, Rows, Sending, Showing, UsageRow,
};
use crate::failure::Failure;
use grange_broker_client::cancel::Cancelled;
use grange_broker_client::follow::Update;
use grange_broker_client::priority::Reprioritised;
use grange_broker_client::query::JobView;
use grange_broker_client::submit::Submitted;
use grange_broker_client::topology::{Change, Ensured};
use grange_broker_client::why::Why;
use grange_protocol::event::LogLine;
use grange_protocol::name::AgentName;
use grange_protocol::status::{AgentStatus, ControlAnswer};
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Priority;
use serde_json::{Value, json};
use std::io;
use std::time::Duration;

pub(super) struct Json {
    screen: Screen,
}

impl Json {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen }
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        self.screen.line(&value.to_string())
    }

    fn lines(&mut self, values: impl Iterator<Item = Value>) -> io::Result<()> {
        for value in values {
            writeln!(self.screen.out, "{value}")?;
        }
        self.screen.flush()
    }
}

impl Output for Json {
    fn say(&mut self, level: Level, text: &str) -> io::Result<()> {
        self.screen.message(&json!({ "level": level.as_str(), "text": text }).to_string())
    }

    fn failure(&mut self, failure: &Failure) -> io::Result<()> {
        let value = json!({
            "level": "error", "text": failure.text, "details": failure.details, "hint": failure.hint,
            "exit": failure.exit.code(),
        });
        self.screen.message(&value.to_string())
    }

    fn submitted(&mut self, job: &Submitted, followed: bool) -> io::Result<()> {
        let mut value = json!({
            "job": job.key.job, "owner": job.key.owner, "plugin": job.lane.plugin, "class": job.lane.class,
            "priority": job.lane.priority, "sequence": job.sequence,
        });
        if let Some(due_ms) = job.due_ms {
            value["due_ms"] = due_ms.into();
        }
        if job.duplicate {
            value["duplicate"] = true.into();
        }
        if followed {
            value["event"] = "submitted".into();
        }
        self.line(&value)
    }

    fn sending(&mut self, _: Option<&Sending>) -> io::Result<()> {
        Ok(())
    }

    fn updates(&mut self, updates: &[Update]) -> io::Result<()> {
        self.lines(updates.iter().filter_map(update))
    }

    fn waiting(&mut self, _: &JobView) -> io::Result<()> {
        Ok(())
    }

    fn pause(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn ended(&mut self, end: &Ended) -> io::Result<()> {
        let value = ended(end);
        self.line(&value)
    }

    fn logs(&mut self, lines: &[(u32, LogLine)]) -> io::Result<()> {
        self.lines(
            lines.iter().map(
                |(attempt, line)| json!({ "attempt": attempt, "stream": line.stream, "line": line.line }),
            ),
        )
    }

    fn job(&mut self, view: &JobView) -> io::Result<()> {
        self.line(&job(view))
    }

    fn jobs(&mut self, views: &[JobView]) -> io::Result<()> {
        let all: Vec<Value> = views.iter().map(job).collect();
        self.line(&json!(all))
    }

    fn cancelled(&mut self, key: &JobKey, outcome: Cancelled) -> io::Result<()> {
        let (outcome, state) = match outcome {
            Cancelled::AtOnce => ("cancelled", Some("cancelled")),
            Cancelled::Requested => ("requested", None),
            Cancelled::AlreadyEnded(state) => ("ended_before", Some(state.as_str())),
        };
        self.line(&json!({ "job": key.job, "owner": key.owner, "outcome": outcome, "state": state }))
    }

    fn why(&mut self, why: &Why) -> io::Result<()> {
        self.line(&json!(why))
    }

    fn reprioritised(&mut self, key: &JobKey, priority: Priority, done: Reprioritised) -> io::Result<()> {
        let (outcome, from) = match done {
            Reprioritised::Moved { from } => ("moved", from),
            Reprioritised::Unchanged => ("unchanged", priority),
        };
        self.line(&json!({
            "job": key.job, "owner": key.owner, "priority": priority, "from": from, "outcome": outcome,
        }))
    }

    fn crons(&mut self, rows: &[CronRow]) -> io::Result<()> {
        let all: Vec<Value> = rows.iter().map(cron).collect();
        self.line(&json!(all))
    }

    fn cron(&mut self, row: &CronRow) -> io::Result<()> {
        self.line(&cron(row))
    }

    fn batch(&mut self, row: &BatchRow) -> io::Result<()> {
        self.line(&batch("progress", row))
    }

    fn batch_end(&mut self, row: &BatchRow) -> io::Result<()> {
        self.line(&batch("end", row))
    }

    fn agents(&mut self, agents: &Agents<'_>, _: Showing) -> io::Result<()> {
        let value = match agents {
            Agents::All(all) => all.iter().map(|(status, age)| agent(status, *age)).collect(),
            Agents::One(status, age) => agent(status, *age),
        };
        self.line(&value)
    }

    fn answered(&mut self, agent: &AgentName, answer: &ControlAnswer) -> io::Result<()> {
        self.line(&json!({ "agent": agent, "ok": answer.ok, "message": answer.message }))
    }

    fn plugins(&mut self, plugins: &[PluginEntry], _: Rows) -> io::Result<()> {
        let all: Vec<Value> = plugins
            .iter()
            .map(|plugin| {
                let hosts: Vec<Value> = plugin
                    .hosts
                    .iter()
                    .map(|(agent, status)| {
                        let mut value = json!(status);
                        value["agent"] = json!(agent);
                        value
                    })
                    .collect();
                json!({ "name": plugin.name, "hosts": hosts })
            })
            .collect();
        self.line(&json!(all))
    }

    fn usage(&mut self, rows: &[UsageRow]) -> io::Result<()> {
        let all: Vec<Value> = rows
            .iter()
            .map(|row| {
                let mut value = json!(row.used);
                (value["owner"], value["plugin"]) = (json!(row.owner), json!(row.plugin));
                value
            })
            .collect();
        self.line(&json!(all))
    }

    fn topology(&mut self, done: &[Ensured]) -> io::Result<()> {
        let all: Vec<Value> = done
            .iter()
            .map(|ensured| match &ensured.change {
                Change::Created => json!({ "name": ensured.name, "change": "created" }),
                Change::Updated(fields) => {
                    json!({ "name": ensured.name, "change": "updated", "fields": fields })
                }
                Change::Unchanged => json!({ "name": ensured.name, "change": "unchanged" }),
            })
            .collect();
        self.line(&json!(all))
    }

    fn check(&mut self, check: &Check) -> io::Result<()> {
        self.line(&json!({
            "check": check.name, "verdict": check.verdict.as_str(), "text": check.text, "advice": check.advice,
        }))
    }

    fn farm(&mut self, news: &FarmNews) -> io::Result<()> {
        let value = farm(news);
        self.line(&value)
    }
}

fn update(update: &Update) -> Option<Value> {
    let token = |token: &grange_protocol::subject::AttemptToken| token.to_string();
    Some(match update {
        Update::State { sequence, record, expired_marker } => json!({
            "event": "state", "revision": sequence, "record": record,
            "state": record.as_ref().map(|record| record.state), "ran_out": expired_marker,
        }),
        Update::Attempt { token: attempt } => {
            json!({ "event": "attempt", "attempt": token(attempt), "number": attempt.number })
        }
        Update::Chunk { token: attempt, index, sequence, value } => json!({
            "event": "chunk", "attempt": token(attempt), "index": index, "sequence": sequence,
            "value": value.value(),
        }),
        Update::Progress { token: attempt, sequence, progress } => json!({
            "event": "progress", "attempt": token(attempt), "sequence": sequence,
            "progress": progress.progress, "message": progress.message,
        }),
        Update::Log { token: attempt, sequence, line } => json!({
            "event": "log", "attempt": token(attempt), "sequence": sequence,
            "stream": line.stream, "line": line.line,
        }),
        Update::Dropped { token: attempt, sequence, dropped } => json!({
            "event": "dropped", "attempt": token(attempt), "sequence": sequence,
            "what": dropped.what, "lines": dropped.lines, "bytes": dropped.bytes,
        }),
        // The end comes with the result, by `ended`.
        _ => return None,
    })
}

fn ended(end: &Ended) -> Value {
    let record = &end.record;
    let outcome = record.outcome.clone().unwrap_or_default();
    let files: Vec<Value> = end
        .files
        .iter()
        .map(|file| {
            json!({
                "path": file.path, "name": file.object.name, "sha256": file.object.sha256, "size": file.object.size,
            })
        })
        .collect();
    let mut value = json!({
        "job": end.key.job, "owner": end.key.owner, "plugin": record.plugin, "state": record.state,
        "result": end.result, "failure": outcome.failure, "files": files, "chunks": outcome.chunks,
        "attempts": record.attempt.as_ref().map_or(0, |attempt| attempt.number),
        "agent": record.attempt.as_ref().map(|attempt| &attempt.agent), "usage": outcome.usage,
    });
    if end.followed {
        value["event"] = "end".into();
    }
    value
}

fn job(view: &JobView) -> Value {
    let lane = view.lane();
    json!({
        "job": view.key.job, "owner": view.key.owner, "state": view.word(),
        "due_ms": view.delayed.as_ref().map(|delayed| delayed.due_ms),
        "plugin": lane.as_ref().map(|lane| &lane.plugin), "class": lane.as_ref().map(|lane| &lane.class),
        "priority": lane.as_ref().map(|lane| lane.priority), "revision": view.sequence,
        "waiting": view.waiting.as_ref().map(|waiting| json!({
            "sequence": waiting.sequence, "submitted_ms": waiting.submitted_ms, "ahead": waiting.ahead,
        })),
        "record": view.record,
    })
}

fn cron(row: &CronRow) -> Value {
    let view = &row.view;
    let ticket = view.ticket.as_ref();
    json!({
        "name": view.name, "owner": view.owner, "when": view.pattern, "zone": view.zone,
        "plugin": view.lane.plugin, "class": view.lane.class, "priority": view.lane.priority,
        "args": ticket.and_then(|ticket| ticket.args.as_ref()), "kwargs": ticket.and_then(|t| t.kwargs.as_ref()),
        "max_wait_ms": view.max_wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        "created_ms": view.created_ms, "next_ms": row.next_ms,
        "last": view.last.as_ref().map(|(job, at_ms)| json!({ "job": job, "at_ms": at_ms })),
    })
}

fn batch(event: &str, row: &BatchRow) -> Value {
    json!({
        "event": event, "batch": row.batch, "jobs": row.jobs, "submitted": row.submitted, "running": row.running,
        "succeeded": row.succeeded, "failed": row.failed, "dropped": row.dropped, "skipped": row.skipped,
    })
}

fn agent(status: &AgentStatus, age: Duration) -> Value {
    let mut value = json!(status);
    value["heartbeat_age_ms"] = json!(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    value
}

fn farm(news: &FarmNews) -> Value {
    match news {
        FarmNews::Broker { url, version, durability } => {
            json!({ "event": "broker", "url": url, "version": version, "durability": durability })
        }
        FarmNews::Objects { url } => json!({ "event": "objects", "url": url }),
        FarmNews::Agent { status, log } => json!({
            "event": "agent", "name": status.agent, "incarnation": status.incarnation,
            "capacity": status.capacity, "log": log,
        }),
        FarmNews::Notice { text } => json!({ "event": "notice", "text": text }),
        FarmNews::Plugin { name, version, state, reason } => json!({
            "event": "plugin", "name": name, "version": version, "state": state, "reason": reason,
        }),
        FarmNews::Ready { plugins, failed } => {
            json!({ "event": "ready", "plugins": plugins, "failed": failed })
        }
        FarmNews::AgentLost { how } => json!({ "event": "agent_lost", "how": how }),
        FarmNews::BrokerLost => json!({ "event": "broker_lost" }),
        FarmNews::Stopping { signal } => json!({ "event": "stopping", "signal": signal }),
        FarmNews::Stopped => json!({ "event": "stopped" }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::screen::tests::pipes;
    use super::*;
    use crate::failure::Exit;
    use grange_protocol::json::Json as Text;
    use grange_protocol::subject::AttemptToken;

    #[test]
    fn every_line_is_one_object() {
        let (screen, out, err) = pipes();
        let mut json = Json::new(screen);
        let token = AttemptToken { number: 1, claim: 7 };
        let value = Text::parse("{\"a\":\n1}").unwrap();
        json.updates(&[Update::Attempt { token }, Update::Chunk { token, index: 0, sequence: 9, value }])
            .unwrap();
        json.failure(&Failure::new(Exit::Broker, "gone").hint("wait")).unwrap();
        let lines = out.take();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], json!({"event": "attempt", "attempt": "1-7", "number": 1}));
        assert_eq!(lines[1]["value"], json!({"a": 1}));
        let error: Value = serde_json::from_str(&err.take()).unwrap();
        assert_eq!(
            error,
            json!({"level": "error", "text": "gone", "details": [], "hint": "wait", "exit": 8})
        );
    }
}
