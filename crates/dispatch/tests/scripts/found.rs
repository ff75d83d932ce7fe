//! Cases that were wrong once.

use super::talk::{Talk, spec};
use grange_dispatch::{Input, PluginSpec};

#[test]
fn a_run_behind_another_has_its_time_from_its_own_start() {
    let mut t = Talk::swept(PluginSpec { timeout_ms: Some(1_500), ..spec(1, 1) });
    t.learn_short();
    t.running("a");
    t.says(Talk::bell("normal"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b ahead", "pull default/normal 3"]);
    t.says(Talk::claimed("b"), &["run b on w1"]);
    t.now = 1_500;
    t.says(Input::Tick, &["cancel a on w1"]);
    t.now = 1_600;
    t.says(Talk::ended("a", 1_600.0), &["conclude a: reported"]);
    t.now = 3_099;
    t.says(Input::Tick, &[]);
    t.now = 3_100;
    t.says(Input::Tick, &["cancel b on w1"]);
}

#[test]
fn a_cancelled_run_says_nothing_of_how_long_runs_take() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::cancel("a"), &["cancel a on w1"]);
    t.says(Talk::obeyed("a"), &["conclude a: cancelled", "pull default/normal 1"]);
}
