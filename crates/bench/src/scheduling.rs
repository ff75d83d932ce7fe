//! Scheduling: several agents as real processes with unlike hosts, on one server and on a cluster of three. Plugins are
//! `grange-bench-plugin`, which takes as long as it is told and uses no processor meanwhile.

mod arrivals;
mod delivery;
mod freed;
mod ground;
mod lanes;
mod pure;
mod unplaceable;
mod warm;
mod watch;

use crate::Failures;
use ground::Servers;
use serde_json::{Map, Value};

/// The parts, each of which can be run alone.
pub(crate) const PARTS: [&str; 6] = ["warm", "delivery", "freed", "unplaceable", "lanes", "pure"];

/// Measures all parts, or one. Where a part fails, the others are measured all the same.
pub(crate) async fn measure(only: Option<&str>, failures: &mut Failures) -> Value {
    let mut report = Map::new();
    for part in PARTS {
        if only.is_some_and(|only| only != part) {
            continue;
        }
        crate::say(&format!("measuring scheduling, {part} …"));
        let measured = match part {
            "warm" | "delivery" => on_both(part, failures).await,
            "freed" => failures.figures(part, freed::measure().await),
            "unplaceable" => failures.figures(part, unplaceable::measure().await),
            "lanes" => failures.figures(part, lanes::measure().await),
            _ => failures.figures(part, pure::measure().await),
        };
        report.insert(part.to_owned(), measured);
    }
    Value::Object(report)
}

async fn on_both(part: &str, failures: &mut Failures) -> Value {
    let mut report = Map::new();
    for (servers, field) in Servers::BOTH {
        let measured = match part {
            "warm" => warm::measure(servers).await,
            _ => delivery::measure(servers).await,
        };
        report.insert(field.to_owned(), failures.figures(&format!("{part}, {field}"), measured));
    }
    Value::Object(report)
}
