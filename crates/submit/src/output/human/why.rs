//! Why a job waits, for people: the one thing that matters most, its place, who goes first, and what each host says.

use super::listings::state_style;
use crate::output::screen::{Look, Style};
use crate::output::table::{Cell, Table};
use crate::resources::in_words;
use crate::units;
use grange_broker_client::why::{HostSays, Place, Reason, Why};
use grange_protocol::facts::QueueFact;
use grange_protocol::subject::Queue;

/// Hosts that say the same stand on one line when there are more of them than this.
const TOGETHER: usize = 4;
/// Most queues that are named of those that go first, or take turns.
const QUEUES: usize = 4;

pub(super) fn lines(why: &Why, look: Look) -> Vec<String> {
    let agent = why.agent.as_ref().map(|agent| format!(" on `{agent}`")).unwrap_or_default();
    let state = look.paint(state_style(why.state), why.state.as_str());
    match why.reason {
        Reason::Ended => return vec![format!("job {} does not wait: it is {state}{agent}", why.job)],
        Reason::Running => {
            let age = why.age_ms.map(|age| format!(", submitted {} ago", millis(age))).unwrap_or_default();
            return vec![format!("job {} does not wait: it is {state}{agent}{age}", why.job)];
        }
        Reason::Delayed => {
            let due = why.due_ms.map(|at| format!(": {}", units::date_time(at))).unwrap_or_default();
            return vec![format!("job {} waits for its time{due}", why.job)];
        }
        _ => {}
    }
    let mut lines = vec![format!("job {} waits for `{}`: {}", why.job, why.plugin, headline(why))];
    let mut table = Table::new(["", ""]);
    let mut fact = |name: &str, cell: Cell| table.row([Cell::styled(name, Style::Dim), cell]);
    fact("state", format!("{}{}", why.state, times(why)).into());
    if let Some(place) = &why.place {
        fact("queue", format!("{}; {}", place.queue, position(place)).into());
    }
    if let Some(asked) = why.resources.as_ref().map(in_words).filter(|words| !words.is_empty()) {
        fact("asks for", format!("{asked}, beyond what the plugin asks for").into());
    }
    if !why.higher.is_empty() {
        fact("first go", queues(&why.higher).into());
    }
    if !why.beside.is_empty() {
        fact("in turns", queues(&why.beside).into());
    }
    if let (Some(running), Some(most)) = (why.running, why.running_max) {
        fact("owner", format!("`{}` has {running} running of {most} at most", why.owner).into());
    }
    lines.extend(table.lines(look).into_iter().map(|line| format!("  {line}")));
    lines.extend(hosts(&why.hosts, look));
    lines
}

fn headline(why: &Why) -> String {
    match (why.reason, &why.place) {
        (Reason::OwnerFull, _) => match (why.running, why.running_max) {
            (Some(running), Some(most)) => {
                format!("`{}` has {running} running, and may have {most}", why.owner)
            }
            _ => why.reason.as_str().to_owned(),
        },
        (Reason::InLine, Some(place)) => {
            format!("{} of the same queue go first", jobs(place.ahead))
        }
        (reason, _) => reason.as_str().to_owned(),
    }
}

fn jobs(count: u64) -> String {
    if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") }
}

/// `, for 12.0 s; expires in 48.0 s`
fn times(why: &Why) -> String {
    let age = why.age_ms.map(|age| format!(", for {}", millis(age))).unwrap_or_default();
    let left = why.left_ms.map(|left| format!("; it expires in {}", millis(left))).unwrap_or_default();
    format!("{age}{left}")
}

fn millis(ms: u64) -> String {
    units::millis(ms as f64)
}

fn position(place: &Place) -> String {
    if place.handed_out {
        return format!("an agent was given it; {} wait there", place.waiting.saturating_sub(1));
    }
    let seen = if place.open { "" } else { "; no agent has asked there yet" };
    format!("position {} of {}{seen}", place.ahead + 1, place.waiting)
}

/// `3 high jobs of bob (oldest 10.0 s), …`
fn queues(facts: &[QueueFact]) -> String {
    let one = |fact: &QueueFact| {
        let oldest = millis(fact.oldest_ms);
        match Queue::parse(&fact.queue) {
            Some(Queue { lane, owner }) => {
                let s = if fact.waiting == 1 { "" } else { "s" };
                format!("{} {} job{s} of `{owner}` (oldest {oldest})", fact.waiting, lane.priority)
            }
            None => format!("{} in `{}` (oldest {oldest})", jobs(fact.waiting), fact.queue),
        }
    };
    let mut named: Vec<String> = facts.iter().take(QUEUES).map(one).collect();
    match facts.len().saturating_sub(QUEUES) {
        0 => {}
        more => named.push(format!("{more} more queues")),
    }
    named.join(", ")
}

/// One line for each host, those that could run it first; many that say the same together.
fn hosts(hosts: &[HostSays], look: Look) -> Vec<String> {
    let mut groups: Vec<(&HostSays, Vec<&str>)> = Vec::new();
    for host in hosts {
        match groups.iter_mut().find(|(first, _)| first.text == host.text) {
            Some((_, names)) => names.push(host.agent.as_str()),
            None => groups.push((host, vec![host.agent.as_str()])),
        }
    }
    let mut rows: Vec<(&HostSays, String)> = Vec::new();
    for (first, names) in groups {
        if names.len() > TOGETHER {
            rows.push((first, format!("{} and {} more", names[..2].join(", "), names.len() - 2)));
        } else {
            rows.extend(names.into_iter().map(|name| (first, name.to_owned())));
        }
    }
    rows.sort_by(|(a, a_name), (b, b_name)| (rank(a.answer), a_name).cmp(&(rank(b.answer), b_name)));
    let mut table = Table::new(["", ""]);
    for (host, names) in rows {
        let style = match host.answer {
            "now" | "perhaps" => Style::Green,
            "busy" => Style::Plain,
            _ => Style::Dim,
        };
        table.row([names.into(), Cell::styled(&host.text, style)]);
    }
    table.lines(look).into_iter().map(|line| format!("  {line}")).collect()
}

/// From those that could start it to those that never will.
fn rank(answer: &str) -> usize {
    let order = ["now", "perhaps", "busy", "not_ready", "draining", "never"];
    order.iter().position(|word| *word == answer).unwrap_or(order.len())
}
