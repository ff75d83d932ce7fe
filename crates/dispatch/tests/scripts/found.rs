//! Cases that were wrong once.

use super::talk::{Talk, spec};
use grange_dispatch::{Input, PluginSpec};

#[test]
fn a_plugin_that_comes_back_waits_for_the_pull_that_is_out() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
    t.says(Talk::plugin_gone(), &[]);
    t.says(Talk::plugin_ready(spec(1, 1)), &[]);
    t.says(Talk::pull_ended("default/normal"), &["pull any/urgent 1"]);
}

#[test]
fn a_drain_waits_for_the_pull_of_a_plugin_that_went() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::plugin_gone(), &[]);
    t.says(Input::DrainRequested { exit: true }, &[]);
    t.says(Talk::delivered("a"), &["return a", "exit"]);
}

#[test]
fn a_drain_hears_no_bells_again() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Input::DrainRequested { exit: true }, &[]);
    t.says(Talk::plugin_gone(), &[]);
    t.says(Talk::plugin_ready(spec(1, 1)), &[]);
}

#[test]
fn two_runs_that_do_not_stop_kill_their_worker_once() {
    let mut t = Talk::swept(spec(2, 1));
    t.running("a");
    t.running("b");
    t.says(Talk::cancel("a"), &["cancel a on w1"]);
    t.says(Talk::cancel("b"), &["cancel b on w1"]);
    t.now = 1_000;
    t.says(Input::Tick, &["kill w1"]);
}

#[test]
fn a_run_behind_another_has_its_time_from_its_own_start() {
    let mut t = Talk::swept(PluginSpec { timeout_ms: Some(200), ..spec(1, 1) });
    t.learn_short();
    t.running("a");
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b ahead", "pull default/normal 1 wait"]);
    t.says(Talk::claimed("b"), &["run b on w1"]);
    t.now = 100;
    t.says(Talk::pull_ended("default/normal"), &[]);
    t.now = 200;
    t.says(Input::Tick, &["cancel a on w1"]);
    t.now = 240;
    t.says(Talk::ended("a", 240.0), &["conclude a: reported"]);
    t.now = 439;
    t.says(Input::Tick, &[]);
    t.now = 440;
    t.says(Input::Tick, &["cancel b on w1"]);
}

#[test]
fn a_killed_worker_has_its_place_until_it_is_gone() {
    let mut t = Talk::one_runs_and_wait(&["b"]);
    t.says(Talk::cancel("a"), &["cancel a on w1"]);
    t.says(Talk::claimed("b"), &[]);
    t.now = 1_000;
    t.says(Input::Tick, &["kill w1"]);
    t.says(Talk::obeyed("a"), &["conclude a: cancelled"]);
    t.says(Talk::cancel("b"), &["conclude b: cancelled"]);
    t.says(Talk::exited(1), &["pull default/urgent 1"]);
    t.says(Talk::delivered_from("default/urgent", "c"), &["claim c"]);
    t.says(Talk::claimed("c"), &["spawn w2"]);
}

#[test]
fn a_late_word_about_a_claim_leaves_the_run_alone() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::not_claimed("a"), &[]);
    t.says(Talk::ended("a", 50.0), &["conclude a: reported"]);
    t.says(Talk::not_claimed("a"), &[]);
    assert_eq!(t.view().running, 0);
}

#[test]
fn a_cancelled_run_says_nothing_of_how_long_runs_take() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::cancel("a"), &["cancel a on w1"]);
    t.says(Talk::obeyed("a"), &["conclude a: cancelled"]);
    t.says(Input::Reconnected, &["pull any/urgent 1"]);
}

#[test]
fn a_late_end_of_a_pull_says_nothing_of_its_lane() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
    t.says(Input::Reconnected, &["pull any/urgent 1"]);
    t.says(Talk::pull_ended("default/normal"), &[]);
    for (lane, next) in [
        ("any/urgent", "pull default/urgent 1"),
        ("default/urgent", "pull any/high 1"),
        ("any/high", "pull default/high 1"),
        ("default/high", "pull any/normal 1"),
        ("any/normal", "pull default/normal 1"),
    ] {
        t.says(Talk::pull_ended(lane), &[next]);
    }
}

#[test]
fn a_worker_that_was_up_and_failed_crashed() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::failed(1), &["conclude a: retry, WorkerCrashed"]);
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]); // it rests only after failed starts
}

#[test]
fn a_bell_in_a_lane_that_holds_more_hides_nothing() {
    let mut t = Talk::new();
    t.tell(Talk::plugin_ready(spec(1, 1)));
    t.says(Talk::open("default/normal"), &["pull default/normal 1"]);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.says(Talk::bell("normal", "b"), &[]);
    t.says(Talk::not_claimed("a"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b"]);
    t.says(Talk::not_claimed("b"), &["pull default/normal 1"]); // it was never found empty
}

#[test]
fn bells_that_are_answered_do_not_put_off_the_next_look_at_their_lane() {
    let mut t = Talk::swept(spec(1, 2));
    for (now, job) in [(100, "a"), (1_900, "b")] {
        t.now = now;
        t.says(Talk::bell("low", "x1"), &["pull default/low 1 wait"]);
        t.says(Talk::delivered_from("default/low", job), &[&format!("claim {job}")]);
    }
    t.now = 2_000;
    t.says(Talk::not_claimed("a"), &["pull any/urgent 1"]);
    for (lane, next) in [
        ("any/urgent", "pull default/urgent 1"),
        ("default/urgent", "pull any/high 1"),
        ("any/high", "pull default/high 1"),
        ("default/high", "pull any/normal 1"),
        ("any/normal", "pull default/normal 1"),
        ("default/normal", "pull any/low 1"),
        ("any/low", "pull default/low 1"),
    ] {
        t.says(Talk::pull_ended(lane), &[next]);
    }
}

#[test]
fn what_comes_late_is_claimed_where_there_is_room_and_else_handed_back() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    // Nobody answered in time; another job came meanwhile.
    t.says(Talk::pull_ended("default/normal"), &[]);
    t.says(Talk::bell("high", "b"), &["pull default/high 1 wait"]);
    t.says(Talk::delivered_from("default/high", "b"), &["claim b"]);
    t.says(Talk::delivered("a"), &["return a"]);
    t.says(Talk::claimed("b"), &["spawn w1"]);
    t.says(Talk::delivered("a"), &["return a"]);
    t.says(Talk::ready(1), &["run b on w1"]);
    let said = t.hears(Talk::ended("b", 50.0));
    t.sweep(said);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.says(Talk::claimed("a"), &["run a on w1"]);
}
