//! Standing pulls: where runs are short, one more ticket is asked for without a bell.

use super::talk::{Talk, spec};
use grange_dispatch::Input;

/// A plugin with one worker and five slots, of which `a` has one; the pull that follows `a` is out.
fn followed() -> Talk {
    let mut t = Talk::swept(spec(1, 1));
    t.learn_short();
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("a"), &["claim a", "pull default/normal 1 wait"]);
    t.says(Talk::claimed("a"), &["run a on w1"]);
    t
}

#[test]
fn a_short_job_is_followed_until_nothing_follows() {
    let mut t = followed();
    t.says(Talk::ended("a", 1.0), &["conclude a: reported"]);
    t.says(Talk::settled("a"), &[]);
    t.now = 50;
    t.says(Talk::delivered("b"), &["claim b", "pull default/normal 1 wait"]);
    t.says(Talk::claimed("b"), &["run b on w1"]);
    t.now = 150;
    t.says(Talk::pull_ended("default/normal"), &[]);
    t.says(Talk::ended("b", 1.0), &["conclude b: reported"]);
    t.says(Talk::settled("b"), &[]);
    t.says(Input::Tick, &[]);
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
}

#[test]
fn a_bell_is_answered_beside_a_standing_pull_with_the_slots_that_are_left() {
    let mut t = followed();
    t.says(Talk::bell("urgent", "b"), &["pull default/urgent 1 wait"]);
    for job in ["x1", "x2", "x3"] {
        t.says(Talk::bell("urgent", job), &[]);
    }
    // Five slots: `a`, `b` and the standing pull have three.
    t.says(Talk::delivered_from("default/urgent", "b"), &["claim b ahead", "pull default/urgent 2 wait"]);
    t.says(Talk::delivered("c"), &["claim c ahead"]); // one pull that looks for what is there is enough
    t.says(Talk::pull_ended("default/urgent"), &["pull default/urgent 1 wait"]);
    t.says(Talk::pull_ended("default/urgent"), &["pull default/normal 1 wait"]);
}

#[test]
fn a_bell_waits_for_a_standing_pull_that_has_the_last_slot() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::ended("a", 4.0), &["conclude a: reported", "pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b", "pull default/normal 1 wait"]);
    t.says(Talk::claimed("b"), &["run b on w1"]);
    t.says(Talk::bell("urgent", "x1"), &[]); // two slots: `b` and the standing pull
    t.says(Talk::ended("b", 4.0), &["conclude b: reported", "pull default/urgent 1 wait"]);
}

#[test]
fn a_bell_during_a_standing_pull_is_answered_after_it() {
    let mut t = followed();
    t.says(Talk::bell("normal", "b"), &[]);
    t.says(Talk::pull_ended("default/normal"), &["pull default/normal 1 wait"]);
    t.says(Talk::pull_ended("default/normal"), &[]);

    let mut t = followed();
    t.says(Talk::bell("normal", "x1"), &[]);
    t.says(Talk::bell("normal", "x2"), &[]);
    t.says(Talk::delivered("b"), &["claim b ahead", "pull default/normal 2 wait"]);
}

#[test]
fn an_idle_sweep_looks_beside_a_standing_pull_everywhere_else() {
    let mut t = followed();
    t.now = 2_000;
    t.says(Input::Tick, &["pull any/urgent 3"]);
    for (lane, next) in [
        ("any/urgent", "pull default/urgent 3"),
        ("default/urgent", "pull any/high 3"),
        ("any/high", "pull default/high 3"),
        ("default/high", "pull any/normal 3"),
        ("any/normal", "pull any/low 3"),
        ("any/low", "pull default/low 3"),
    ] {
        t.says(Talk::pull_ended(lane), &[next]);
    }
    t.says(Talk::pull_ended("default/low"), &[]);
}

#[test]
fn a_long_job_is_not_followed() {
    let mut t = Talk::swept(spec(1, 2));
    t.running("a");
    t.says(Talk::ended("a", 50.0), &["conclude a: reported"]);
    t.says(Talk::settled("a"), &[]);
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b"]);
    t.says(Talk::claimed("b"), &["run b on w1"]);
    t.says(Talk::ended("b", 50.0), &["conclude b: reported"]);
    t.says(Talk::settled("b"), &[]);
    t.says(Input::Tick, &[]);
}

#[test]
fn a_look_that_was_answered_in_full_goes_on_in_the_slot_of_a_standing_pull() {
    let mut t = followed();
    t.now = 300;
    t.says(Talk::ended("a", 1.0), &["conclude a: reported", "pull any/urgent 4"]);
    t.says(Talk::delivered_from("any/urgent", "b"), &["claim b"]);
    for job in ["c", "d", "e"] {
        t.says(Talk::delivered_from("any/urgent", job), &[&format!("claim {job} ahead")]);
    }
    t.says(Talk::pull_ended("default/normal"), &["pull any/urgent 1"]);
}
