//! How runs are stopped and how agents leave: cancel, timeout, loss, drain, stop.

use super::talk::{Talk, spec};
use grange_dispatch::{Input, JobLimits};

#[test]
fn a_cancelled_run_that_obeys_is_cancelled() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::cancel("a"), &["cancel a on w1"]);
    t.says(Talk::cancel("a"), &[]);
    t.says(Talk::obeyed("a"), &["conclude a: cancelled"]);
    t.says(Talk::cancel("a"), &[]);
    t.now = 1_000;
    t.says(Input::Tick, &[]);
}

#[test]
fn a_cancelled_run_that_ends_by_itself_is_reported() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::cancel("a"), &["cancel a on w1"]);
    t.says(Talk::ended("a", 50.0), &["conclude a: reported"]);
}

#[test]
fn a_cancelled_run_that_goes_on_loses_its_worker_and_its_neighbour_is_handed_back() {
    let mut t = Talk::swept(spec(2, 1));
    t.running("a");
    t.running("b");
    t.now = 100;
    t.says(Talk::cancel("a"), &["cancel a on w1"]);
    t.now = 1_099;
    t.says(Input::Tick, &[]);
    t.now = 1_100;
    t.says(Input::Tick, &["kill w1"]);
    t.says(Input::Tick, &[]);
    t.says(Talk::exited(1), &["conclude a: cancelled", "conclude b: retry, NotStarted", "pull any/urgent 2"]);
}

#[test]
fn a_job_that_is_cancelled_before_it_runs_never_runs() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.says(Talk::cancel("a"), &[]);
    t.says(Talk::claimed("a"), &["conclude a: cancelled"]);
    t.says(Talk::settled("a"), &[]);
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b"]);
    t.says(Talk::claimed("b"), &["spawn w1"]);
    t.says(Talk::cancel("b"), &["conclude b: cancelled"]);
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
    t.says(Talk::ready(1), &[]);
}

#[test]
fn the_jobs_own_grace_counts() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Input::Reconnected, &["pull any/urgent 1"]);
    let limits = JobLimits { timeout_ms: None, cancel_grace_ms: Some(20) };
    t.says(Talk::delivered_with("any/urgent", "a", limits), &["claim a"]);
    t.says(Talk::claimed("a"), &["spawn w1"]);
    t.says(Talk::ready(1), &["run a on w1"]);
    t.says(Talk::cancel("a"), &["cancel a on w1"]);
    t.now = 20;
    t.says(Input::Tick, &["kill w1"]);
}

#[test]
fn a_run_over_its_time_is_asked_to_stop_then_killed() {
    let mut t = Talk::swept(grange_dispatch::PluginSpec { timeout_ms: Some(1_500), ..spec(1, 1) });
    t.running("a");
    t.now = 1_499;
    t.says(Input::Tick, &[]);
    t.now = 1_500;
    t.says(Input::Tick, &["cancel a on w1"]);
    t.says(Talk::cancel("a"), &[]);
    t.now = 2_500;
    t.says(Input::Tick, &["kill w1"]);
    let over = "conclude a: failed, the run took longer than its limit of 1.5 s";
    t.says(Talk::exited(1), &[over, "pull any/urgent 1"]); // found empty more than 250 ms ago
}

#[test]
fn the_jobs_own_timeout_counts() {
    let mut t = Talk::swept(grange_dispatch::PluginSpec { timeout_ms: Some(10), ..spec(1, 1) });
    t.says(Input::Reconnected, &["pull any/urgent 1"]);
    let limits = JobLimits { timeout_ms: Some(3_000), cancel_grace_ms: None };
    t.says(Talk::delivered_with("any/urgent", "a", limits), &["claim a"]);
    t.says(Talk::claimed("a"), &["spawn w1"]);
    t.now = 2_000;
    t.says(Talk::ready(1), &["run a on w1"]);
    t.now = 4_999;
    t.says(Input::Tick, &[]);
    t.now = 5_000;
    t.says(Input::Tick, &["cancel a on w1"]);
    let over = "conclude a: failed, the run took longer than its limit of 3 s";
    t.says(Talk::obeyed("a"), &[over, "pull default/urgent 1"]);
}

#[test]
fn a_lost_job_is_stopped_and_forgotten() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::lost("a"), &["cancel a on w1"]);
    t.says(Talk::ended("a", 50.0), &["forget a"]);
    t.says(Talk::settled("a"), &[]);
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b"]);
    t.says(Talk::claimed("b"), &["run b on w1"]);
    t.says(Talk::cancel("b"), &["cancel b on w1"]);
    t.says(Talk::lost("b"), &[]);
    t.says(Talk::exited(1), &["forget b"]);
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
}

#[test]
fn a_job_that_is_lost_before_it_runs_is_forgotten() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.says(Talk::lost("a"), &[]);
    t.says(Talk::claimed("a"), &["forget a"]);
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b"]);
    t.says(Talk::claimed("b"), &["spawn w1"]);
    t.says(Talk::lost("b"), &["forget b"]);
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
}

#[test]
fn a_drain_finishes_what_runs_and_hands_back_the_rest() {
    let mut t = Talk::swept(spec(1, 3));
    t.running("a");
    t.says(Input::Reconnected, &["pull any/urgent 2"]);
    t.says(Talk::delivered_from("any/urgent", "b"), &["claim b"]);
    t.says(Talk::delivered_from("any/urgent", "c"), &["claim c"]);
    t.says(Talk::claimed("b"), &["spawn w2"]);
    let listens_to_nothing = ["conclude b: retry, NotStarted", "kill w2"];
    t.says(Input::DrainRequested { exit: true }, &listens_to_nothing);
    t.says(Talk::claimed("c"), &["conclude c: retry, NotStarted"]);
    t.says(Talk::delivered_from("any/urgent", "d"), &["return d"]);
    t.says(Talk::bell("normal", "x1"), &[]);
    t.says(Talk::settled("b"), &[]);
    t.says(Talk::settled("c"), &[]);
    t.says(Talk::exited(2), &[]);
    t.says(Talk::ended("a", 50.0), &["conclude a: reported", "stop w1"]);
    t.says(Talk::exited(1), &[]);
    t.says(Talk::settled("a"), &["exit"]);
    t.says(Input::DrainRequested { exit: true }, &[]);
    t.says(Input::StopRequested, &[]);
    t.says(Input::Tick, &[]);
}

#[test]
fn a_drained_host_stays_and_takes_work_again() {
    let mut t = Talk::swept(spec(1, 3));
    t.running("a");
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b"]);
    t.says(Input::DrainRequested { exit: false }, &[]);
    t.says(Talk::claimed("b"), &["conclude b: retry, NotStarted"]);
    t.says(Talk::settled("b"), &[]);
    t.says(Input::StopRuns, &["cancel a on w1"]);
    t.says(Talk::obeyed("a"), &["conclude a: retry, NotStarted", "stop w1"]);
    t.says(Talk::exited(1), &[]);
    t.says(Talk::settled("a"), &[]);
    t.says(Input::Tick, &[]);
    t.says(Input::UndrainRequested, &["pull any/urgent 3"]);
    t.says(Input::DrainRequested { exit: false }, &[]);
    t.says(Talk::pull_ended("any/urgent"), &[]);
    t.says(Input::DrainRequested { exit: true }, &["exit"]);
    t.says(Input::UndrainRequested, &[]);
}

#[test]
fn a_drain_waits_for_its_pull() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
    t.says(Input::DrainRequested { exit: true }, &[]);
    t.says(Talk::pull_ended("default/normal"), &["exit"]);
}

#[test]
fn a_stop_hands_back_what_runs_and_kills_what_does_not_end() {
    let mut t = Talk::swept(spec(1, 3));
    t.running("a");
    t.running("b");
    t.says(Talk::bell("normal", "c"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("c"), &["claim c"]);
    t.says(Talk::claimed("c"), &["spawn w3"]);
    t.says(Input::DrainRequested { exit: true }, &["conclude c: retry, NotStarted", "kill w3"]);
    t.says(Input::StopRequested, &["cancel a on w1", "cancel b on w2"]);
    t.says(Input::StopRequested, &[]);
    t.says(Talk::obeyed("a"), &["conclude a: retry, NotStarted", "stop w1"]);
    t.now = 1_000;
    t.says(Input::Tick, &["kill w2"]);
    t.says(Talk::failed(3), &[]);
    t.says(Talk::exited(1), &[]);
    t.says(Talk::exited(2), &["conclude b: retry, NotStarted"]);
    for job in ["a", "b"] {
        t.says(Talk::settled(job), &[]);
    }
    t.says(Talk::settled("c"), &["exit"]);
}

#[test]
fn a_run_that_ends_well_in_a_stop_is_reported() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Input::StopRequested, &["cancel a on w1"]);
    t.says(Talk::ended("a", 50.0), &["conclude a: reported", "stop w1"]);
}

#[test]
fn an_agent_without_work_exits_at_once() {
    let mut t = Talk::new();
    t.says(Input::StopRequested, &["exit"]);
}

/// `a` runs, and `b` is held behind it.
fn one_behind() -> Talk {
    let mut t = Talk::swept(spec(1, 1));
    t.learn_short();
    t.running("a");
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b ahead", "pull default/normal 1 wait"]);
    t.says(Talk::claimed("b"), &["run b on w1"]);
    t.says(Talk::pull_ended("default/normal"), &[]);
    t
}

#[test]
fn whoever_waits_behind_a_run_that_turns_out_long_is_handed_back() {
    let mut t = one_behind();
    t.now = 250;
    t.says(Input::Tick, &[]);
    t.now = 251;
    t.says(Input::Tick, &["cancel b on w1"]);
    t.now = 5_000;
    t.says(Input::Tick, &[]); // and its worker is not killed for it
    t.says(Talk::obeyed("b"), &["conclude b: retry, NotStarted"]);
    t.says(Talk::settled("b"), &[]);
    t.says(Talk::bell("normal", "b"), &[]); // nothing is held behind long runs
    t.says(Talk::ended("a", 5_000.0), &["conclude a: reported", "pull any/urgent 1"]);
}

#[test]
fn one_that_begins_before_it_is_handed_back_ends_as_it_does() {
    let mut t = one_behind();
    t.now = 300;
    t.says(Input::Tick, &["cancel b on w1"]);
    t.says(Talk::ended("a", 300.0), &["conclude a: reported"]);
    t.says(Talk::cancel("b"), &[]); // it was asked already
    t.now = 1_299;
    t.says(Input::Tick, &[]);
    t.now = 1_300;
    t.says(Input::Tick, &["kill w1"]);
    t.says(Talk::exited(1), &["conclude b: cancelled", "pull any/urgent 1"]);

    let mut t = one_behind();
    t.now = 300;
    t.says(Input::Tick, &["cancel b on w1"]);
    t.says(Talk::ended("a", 300.0), &["conclude a: reported"]);
    let said = t.hears(Talk::ended("b", 1.0));
    assert_eq!(said[0], "conclude b: reported");
}

#[test]
fn nobody_is_handed_back_while_one_of_the_runs_before_it_is_young() {
    let mut t = Talk::swept(spec(2, 1));
    t.learn_short();
    t.running("a");
    t.now = 200;
    t.running("b");
    t.says(Talk::bell("normal", "c"), &["pull default/normal 1 wait"]);
    let said = t.hears(Talk::delivered("c"));
    assert_eq!(said[0], "claim c ahead");
    t.sweep(said);
    t.says(Talk::claimed("c"), &["run c on w1"]);
    t.now = 450;
    t.says(Input::Tick, &[]);
    t.now = 451;
    t.says(Input::Tick, &["cancel c on w1"]);
}

#[test]
fn a_worker_is_idle_from_when_it_is_up() {
    let mut t = Talk::swept(grange_dispatch::PluginSpec { keep_warm_ms: Some(1_000), ..spec(1, 1) });
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.says(Talk::claimed("a"), &["spawn w1"]);
    t.says(Talk::cancel("a"), &["conclude a: cancelled"]);
    t.now = 1_500;
    t.says(Talk::ready(1), &[]);
    t.now = 2_499;
    let said = t.hears(Input::Tick);
    t.sweep(said);
    t.now = 2_500;
    t.says(Input::Tick, &["stop w1"]);
}
