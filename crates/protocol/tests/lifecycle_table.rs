//! `docs/lifecycle.md` is what the code does: the table in it is made by trying every move from every state.
//! `UPDATE_DOCS=1` writes it anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use grange_protocol::lifecycle::{
    Claim, Denied, GivenUp, RetryCause, abandon, claim, conclude, end_unclaimed, move_to, request_cancel,
    retry,
};
use grange_protocol::name::{AgentName, Class, Incarnation, PluginName};
use grange_protocol::record::{Holder, Outcome, Record, State};
use grange_protocol::subject::Lane;
use grange_protocol::ticket::Priority;
use std::path::Path;

const SEQUENCE: u64 = 10;
const BEGIN: &str = "<!-- table: made by crates/protocol/tests/lifecycle_table.rs -->\n";
const END: &str = "<!-- end of table -->";

fn lane() -> Lane {
    let plugin = PluginName::new("echo").unwrap();
    Lane { priority: Priority::Normal, plugin, class: Class::plugin_default() }
}

fn holder() -> Holder {
    Holder { agent: AgentName::new("a").unwrap(), incarnation: Incarnation::new("i").unwrap() }
}

fn claiming(ahead: bool) -> Claim {
    Claim { holder: holder(), lease_s: 30, ahead, at_ms: 1 }
}

/// A record in this state, reached by real moves where an attempt is needed.
fn record_in(state: State) -> Record {
    let mut record = claim(None, &lane(), 1, &claiming(state == State::Claimed)).unwrap();
    record.state = state;
    record
}

type Move = (&'static str, fn(&Record) -> Result<Record, Denied>);

fn moves() -> Vec<Move> {
    vec![
        ("claim", |r| claim(Some(r), &lane(), 1, &claiming(false))),
        ("claim ahead", |r| claim(Some(r), &lane(), 1, &claiming(true))),
        ("conclude", |r| {
            conclude(r, SEQUENCE, &r.fence(SEQUENCE).unwrap(), State::Succeeded, Outcome::default(), 2)
        }),
        ("give up", |r| {
            let given_up = GivenUp::at_once(RetryCause::HostLost);
            retry(r, SEQUENCE, &r.fence(SEQUENCE).unwrap(), &given_up, "", 2)
        }),
        ("abandon", |r| abandon(r, SEQUENCE, Outcome::default(), 2)),
        ("ask to cancel", |r| request_cancel(Some((r, SEQUENCE)), &lane(), "", 2)),
        ("move", |r| move_to(Some(r), &lane(), &Lane { priority: Priority::High, ..lane() }, 1, 2)),
        ("expire or refuse", |r| end_unclaimed(Some(r), &lane(), State::Expired, Outcome::default(), 2)),
    ]
}

fn table() -> String {
    let moves = moves();
    let head: Vec<&str> = moves.iter().map(|(name, _)| *name).collect();
    let mut text = format!("| from | {} |\n|---|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for state in State::ALL {
        let cells: Vec<String> = moves
            .iter()
            .map(|(_, step)| match step(&record_in(state)) {
                Ok(next) if next.state == state && next.cancel_requested.is_some() => {
                    format!("{state}, asked to end")
                }
                Ok(next) if next.state == state && next.lane() != lane() => format!("{state}, elsewhere"),
                Ok(next) => next.state.to_string(),
                Err(_) => "–".to_owned(),
            })
            .collect();
        text.push_str(&format!("| {state} | {} |\n", cells.join(" | ")));
    }
    text
}

#[test]
fn the_document_says_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lifecycle.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the table's begin mark");
    let (found, after) = rest.split_once(END).expect("the table's end mark");
    let made = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(found, made, "run this test with UPDATE_DOCS=1");
}
