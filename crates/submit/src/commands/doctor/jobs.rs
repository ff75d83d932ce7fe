//! Do jobs get where they should: does work wait beside free hosts, for plugins that nobody has, or as dead letters, and
//! are there more consumers than a farm needs?

use super::broker::ask;
use super::{ok, warn};
use crate::context::Session;
use crate::output::words::Check;
use crate::units;
use grange_broker_client::bucket::Bucket;
use grange_protocol::admission::{Answer, explain};
use grange_protocol::facts::{OVERVIEW_KEY, OVERVIEW_STALE_MS, Overview, QueueFact};
use grange_protocol::status::AgentStatus;
use grange_protocol::subject::{AGENTS_BUCKET, DEAD, EVENTS, JOBS, LANES_BUCKET, Queue, STATE};
use serde_json::Value;

/// A queue whose oldest ticket waits for longer beside a host that could start it stands still, milliseconds.
const STILL_MS: u64 = 60_000;
/// Use of what a stream may have of consumers above which new queues may soon be refused, per cent.
const FULL_PER_CENT: u64 = 80;
/// Consumers of one stream that readers make for a moment; with more, somebody leaves them behind.
const READERS_MANY: u64 = 200;

pub(super) async fn checks(session: &Session, agents: &[AgentStatus]) -> Vec<Check> {
    let mut checks = consumers(session).await;
    checks.extend(dead(session).await);
    checks.extend(queues(session, agents).await);
    checks
}

async fn consumers(session: &Session) -> Vec<Check> {
    let mut checks = Vec::new();
    let agents = format!("KV_{AGENTS_BUCKET}");
    for name in [JOBS, STATE, EVENTS, agents.as_str()] {
        let told = ask(session, &format!("STREAM.INFO.{name}")).await.unwrap_or_default();
        let Some(count) = told["state"]["consumer_count"].as_u64() else { continue };
        checks.extend(too_many(name, count, told["config"]["max_consumers"].as_u64()));
        if name == JOBS && checks.is_empty() {
            checks.push(ok("consumers", format!("{count} queues have a consumer")));
        }
    }
    checks
}

fn too_many(name: &str, count: u64, limit: Option<u64>) -> Option<Check> {
    let limit = limit.filter(|limit| *limit > 0);
    if name == JOBS {
        let limit = limit.filter(|limit| count * 100 >= limit * FULL_PER_CENT)?;
        let text =
            format!("`{name}` has {count} of {limit} consumers: then new owners and plugins get no queue");
        let advice =
            "queues are removed when they are empty for an hour; does somebody submit under ever new names?";
        return Some(warn("consumers", text, advice));
    }
    (count >= READERS_MANY).then(|| {
        let text = format!("`{name}` has {count} consumers; readers take theirs along");
        warn("consumers", text, "look at `nats consumer ls` for a program that leaves them behind")
    })
}

async fn dead(session: &Session) -> Option<Check> {
    let told = ask(session, &format!("STREAM.INFO.{DEAD}")).await?;
    let count = told["state"]["messages"].as_u64().filter(|count| *count > 0)?;
    let text = format!("{count} dead letter{} in `{DEAD}`", if count == 1 { "" } else { "s" });
    Some(warn("dead letters", text, "see what they are, e.g. `nats stream view GRANGE_DEAD`"))
}

async fn queues(session: &Session, agents: &[AgentStatus]) -> Vec<Check> {
    let lanes = Bucket::new(&session.broker, LANES_BUCKET);
    let Ok(found) = lanes.get_copy::<Overview>(OVERVIEW_KEY).await else { return Vec::new() };
    let told = ask(session, &format!("STREAM.INFO.{JOBS}")).await.unwrap_or_default();
    let now_ms = super::broker::told_ms(&told);
    let fresh = found.filter(|found| {
        now_ms.is_none_or(|now_ms| now_ms.saturating_sub(found.stored_ms) <= OVERVIEW_STALE_MS)
    });
    let Some(Overview { queues, .. }) = fresh.map(|found| found.value) else {
        let since = now_ms.map(|now_ms| now_ms.saturating_sub(OVERVIEW_STALE_MS));
        let young = |agent: &AgentStatus| since.is_some_and(|since| agent.started_ms > since);
        return match (agents.is_empty(), waiting(&told)) {
            // Nobody can have kept it yet.
            (false, _) if agents.iter().all(young) => Vec::new(),
            (true, Some(count)) => {
                let text = format!("{count} tickets lie in `{JOBS}`, and no agent is there");
                vec![warn("queues", text, "start an agent, or see `grange jobs`")]
            }
            (true, None) => Vec::new(),
            (false, _) => {
                let text = format!("nobody has kept house for {} s", OVERVIEW_STALE_MS / 1000);
                let advice = "an agent takes it up by itself within 10 s; if not, see the agents' logs";
                vec![warn("queues", text, advice)]
            }
        };
    };
    let checks: Vec<Check> = queues.iter().filter_map(|fact| queue(fact, agents)).collect();
    if checks.is_empty() {
        let count: u64 = queues.iter().map(|fact| fact.waiting).sum();
        return vec![ok("queues", format!("{count} tickets wait, none without a reason"))];
    }
    checks
}

fn waiting(told: &Value) -> Option<u64> {
    told["state"]["messages"].as_u64().filter(|count| *count > 0)
}

/// What is wrong with a queue that holds tickets.
fn queue(fact: &QueueFact, agents: &[AgentStatus]) -> Option<Check> {
    let queue = Queue::parse(&fact.queue).filter(|_| fact.waiting > 0)?;
    let name = &queue.lane.plugin;
    let waits = format!(
        "{} ticket{} of `{}` for plugin `{name}`, the oldest for {}",
        fact.waiting,
        if fact.waiting == 1 { "" } else { "s" },
        queue.owner,
        units::millis(fact.oldest_ms as f64),
    );
    let answers: Vec<(&AgentStatus, Answer)> =
        agents.iter().map(|status| (status, explain(&queue.lane, None, status))).collect();
    if answers.iter().all(|(_, answer)| *answer == Answer::NotInstalled) {
        let text = format!("{waits}: no agent has it");
        return Some(warn("queues", text, "give a host the plugin, or cancel the jobs"));
    }
    if !answers
        .iter()
        .any(|(_, answer)| matches!(answer, Answer::Now(_) | Answer::Perhaps { .. } | Answer::Busy(_)))
    {
        let text = format!("{waits}: no host can run it as it is");
        return Some(warn("queues", text, "`grange why JOB` says what each host lacks"));
    }
    let (status, _) = answers.iter().find(|(_, answer)| matches!(answer, Answer::Now(_)))?;
    (fact.oldest_ms > STILL_MS).then(|| {
        let text = format!("{waits}, though `{}` could start it: the queue stands still", status.agent);
        warn("queues", text, "restart that agent, and keep its log: this should not be")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use grange_protocol::name::AgentName;
    use serde_json::json;

    fn agent(plugin: &str, running: u32) -> AgentStatus {
        let mut status = AgentStatus::silent(AgentName::new("h1").unwrap());
        let one = json!({"name": plugin, "version": "1", "state": "ready", "workers": 1, "running": running, "slots": 1});
        status.plugins = vec![serde_json::from_value(one).unwrap()];
        status.workers = vec![
            serde_json::from_value(json!({
                "plugin": plugin, "state": if running > 0 { "busy" } else { "idle" }, "running": running, "slots": 1
            }))
            .unwrap(),
        ];
        status
    }

    fn fact(oldest_ms: u64) -> QueueFact {
        QueueFact { queue: "default:normal:ocr:alice".to_owned(), waiting: 2, oldest_ms }
    }

    #[test]
    fn tickets_that_nobody_will_take_are_named() {
        let text = |fact: &QueueFact, agents: &[AgentStatus]| queue(fact, agents).map(|check| check.text);
        assert!(text(&fact(1), &[agent("asr", 0)]).unwrap().contains("no agent has it"));
        assert!(text(&fact(1), &[]).is_some());
        assert_eq!(text(&fact(1), &[agent("ocr", 0)]), None, "it comes to it in a moment");
        assert_eq!(text(&fact(STILL_MS + 1), &[agent("ocr", 1)]), None, "it is busy");
        assert!(text(&fact(STILL_MS + 1), &[agent("ocr", 0)]).unwrap().contains("stands still"));
        assert_eq!(text(&QueueFact { waiting: 0, ..fact(STILL_MS + 1) }, &[]), None);
    }

    #[test]
    fn consumers_that_are_left_behind_are_named() {
        assert_eq!(too_many(JOBS, 3_999, Some(5_000)), None);
        assert!(too_many(JOBS, 4_000, Some(5_000)).is_some());
        assert_eq!((too_many(EVENTS, 199, None), too_many(EVENTS, 200, None).is_some()), (None, true));
    }
}
