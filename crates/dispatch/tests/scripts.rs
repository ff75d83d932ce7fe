//! The important single cases, as conversations: what is told to the dispatcher, and what it answers.

#[cfg(test)]
#[path = "scripts/chance.rs"]
mod chance;
#[cfg(test)]
#[path = "scripts/found.rs"]
mod found;
#[cfg(test)]
#[path = "scripts/giving_way.rs"]
mod giving_way;
#[cfg(test)]
#[path = "scripts/standing.rs"]
mod standing;
#[cfg(test)]
#[path = "scripts/stops.rs"]
mod stops;
#[cfg(test)]
#[path = "scripts/stuck.rs"]
mod stuck;
#[cfg(test)]
#[path = "scripts/talk.rs"]
mod talk;
#[cfg(test)]
#[path = "scripts/words.rs"]
mod words;

use grange_dispatch::{Ear, Facts, Input, PluginSpec};
use talk::{Talk, spec};

#[test]
fn a_job_from_its_bell_to_its_end() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.says(Talk::claimed("a"), &["spawn w1"]);
    t.says(Talk::ready(1), &["run a on w1"]);
    t.says(Talk::ended("a", 50.0), &["conclude a: reported"]);
    t.says(Talk::settled("a"), &[]);
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b"]);
    t.says(Talk::claimed("b"), &["run b on w1"]);
}

#[test]
fn the_queues_of_a_new_plugin_are_swept_from_the_top() {
    let mut t = Talk::new();
    t.says(Talk::plugin_ready(spec(2, 2)), &[]);
    t.says(Talk::open("default/normal"), &["pull default/normal 4"]);
    for queue in ["any/low", "default/high", "any/high", "default/urgent"] {
        t.says(Talk::open(queue), &[]);
    }
    for (queue, next) in [
        ("default/normal", "pull default/urgent 4"),
        ("default/urgent", "pull any/high 4"),
        ("any/high", "pull default/high 4"),
        ("default/high", "pull any/low 4"),
    ] {
        t.says(Talk::pull_ended(queue), &[next]);
    }
    t.says(Talk::pull_ended("any/low"), &[]);
}

#[test]
fn a_queue_that_nobody_asked_before_is_opened_when_its_bell_rings() {
    let mut t = Talk::new();
    t.tell(Talk::plugin_ready(spec(1, 1)));
    t.says(Talk::bell("normal", "a"), &["open default/normal"]);
    t.says(Talk::bell("normal", "b"), &[]);
    t.says(Talk::open("default/normal"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.says(Input::QueueClosed { queue: words::queue("default/low") }, &[]);
    t.says(Talk::bell("low", "c"), &["open default/low"]);
    t.says(Input::QueueClosed { queue: words::queue("default/low") }, &[]);
    t.says(Talk::bell("low", "d"), &["open default/low"]);
    t.says(Talk::open("default/low"), &[]);
    t.says(Talk::not_claimed("a"), &["pull default/normal 1 wait"]);
    t.says(Talk::pull_ended("default/normal"), &["pull default/low 1 wait"]);
}

#[test]
fn a_freed_slot_asks_the_first_queue_and_looks_into_the_others_meanwhile() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.now = 200;
    for (job, queue) in ["urgent", "high", "normal", "low"].into_iter().enumerate() {
        let queue = format!("default/{queue}");
        t.says(Talk::bell_heard(&queue, &format!("gone-{job}"), Ear::All, 1), &[]);
    }
    (t.now, t.says_peeks) = (220, true);
    let said = t.hears(Talk::ended("a", 210.0));
    let others = "peek default/high default/normal default/low";
    assert_eq!(said, ["conclude a: reported", "pull default/urgent 1", others]);
    // What was heard after the look began counts more than its answer.
    t.says(Talk::bell_heard("default/high", "b", Ear::All, 1), &[]);
    t.says(Talk::found_empty("default/high"), &[]);
    t.says(Talk::found_empty("default/normal"), &[]);
    t.says(Talk::pull_ended("default/urgent"), &["pull default/high 1"]);
    // One that is asked says so itself, and one that does not answer is asked.
    t.says(Talk::found_empty("default/high"), &[]);
    t.says(Talk::pull_ended("default/high"), &["pull default/low 1"]);
    t.says(Talk::pull_ended("default/low"), &[]);
}

#[test]
fn a_bell_is_known_again() {
    let mut t = Talk::swept(spec(3, 1));
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::bell("normal", "b"), &[]);
    t.says(Talk::bell("normal", "b"), &[]);
    t.says(Talk::delivered("a"), &["claim a", "pull default/normal 1 wait"]); // `b` rang twice and is one ticket
    t.says(Talk::pull_ended("default/normal"), &[]);
    t.says(Input::Reconnected, &["pull any/urgent 2"]);
    t.says(Talk::delivered_from("any/urgent", "c"), &["claim c"]);
    t.says(Talk::bell("any/urgent", "c"), &[]); // it is here already
    t.says(Talk::bell("default/urgent", "d"), &[]);
    t.says(Talk::pull_ended("any/urgent"), &["pull default/urgent 1 wait"]);
}

#[test]
fn the_bell_of_a_ticket_that_went_back_is_news() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Input::Reconnected, &["pull any/urgent 1"]);
    t.says(Talk::delivered_from("any/urgent", "a"), &["claim a"]); // its bell was never heard
    t.says(Talk::claimed("a"), &["spawn w1"]);
    t.says(Talk::exited(1), &["spawn w2"]);
    t.says(Talk::ready(2), &["run a on w2"]);
    t.says(Talk::exited(2), &["conclude a: retry, WorkerCrashed", "pull default/urgent 1"]);
    t.says(Talk::settled("a"), &[]);
    t.says(Talk::pull_ended("default/urgent"), &["pull any/urgent 1"]);
    t.says(Talk::bell("any/urgent", "a"), &[]);
    t.says(Talk::pull_ended("any/urgent"), &["pull any/urgent 1 wait"]);

    // And so is that of one that came in answer to its bell.
    let mut t = Talk::swept(spec(1, 1));
    t.running("b");
    t.says(Talk::exited(1), &["conclude b: retry, WorkerCrashed"]);
    t.says(Talk::settled("b"), &[]);
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
}

#[test]
fn a_bell_without_room_is_answered_when_there_is_room() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    t.says(Talk::bell("low", "x1"), &[]);
    t.says(Talk::bell("high", "x2"), &[]);
    t.says(Talk::ended("a", 50.0), &["conclude a: reported", "pull default/high 1 wait"]);
    t.says(Talk::pull_ended("default/high"), &["pull default/low 1 wait"]);
}

#[test]
fn a_bell_that_rang_for_others_is_looked_into_without_waiting() {
    let mut t = Talk::swept(spec(1, 1));
    t.running("a");
    let overheard = |lane, job| Talk::bell_heard(lane, job, Ear::All, 0);
    t.says(overheard("default/low", "x1"), &[]);
    t.says(overheard("default/high", "x2"), &[]);
    t.now += 25;
    t.says(Talk::ended("a", 50.0), &["conclude a: reported", "pull default/high 1"]);
    t.says(Talk::pull_ended("default/high"), &["pull default/low 1"]);
    t.says(Talk::pull_ended("default/low"), &[]);
    // The first look may have come before the consumer counted the ticket.
    t.says(overheard("default/high", "x3"), &["pull default/high 1"]);
    t.says(Talk::pull_ended("default/high"), &[]);
    t.now += 20;
    t.says(Input::Tick, &["pull default/high 1"]);
    t.says(Talk::pull_ended("default/high"), &[]);
}

#[test]
fn a_bell_that_rang_for_all_is_left_to_those_who_are_warm_first() {
    let mut t = Talk::swept(PluginSpec { start_ms: Some(1_000), ..spec(1, 1) });
    let warm_elsewhere = [words::plugin("ocr")].into();
    t.hears(Input::Facts(Box::new(Facts { warm_elsewhere, ..Facts::default() })));
    t.says(Talk::bell_heard("default/normal", "x1", Ear::All, 1), &[]);
    t.now += 5;
    t.says(Talk::bell_heard("default/normal", "x2", Ear::All, 1), &[]); // puts nothing off
    t.now += 5;
    t.says(Input::Tick, &["pull default/normal 1"]);
}

#[test]
fn what_is_left_to_warm_agents_for_a_moment_keeps_its_turn() {
    let mut t = Talk::swept(PluginSpec { start_ms: Some(1_000), ..spec(1, 1) });
    let warm_elsewhere = [words::plugin("ocr")].into();
    t.hears(Input::Facts(Box::new(Facts { warm_elsewhere, ..Facts::default() })));
    t.says(Talk::bell_heard("default/low", "x1", Ear::All, 1), &[]);
    t.now += 5;
    t.says(Talk::bell_heard("default/high", "x2", Ear::All, 1), &[]);
    t.now += 5;
    t.says(Input::Tick, &[]); // `low` could be asked, and would have the only place
    t.now += 5;
    t.says(Input::Tick, &["pull default/high 1"]);
    t.says(Talk::pull_ended("default/high"), &["pull default/low 1"]);
}

#[test]
fn a_bell_during_a_pull_is_answered_after_it() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
    t.says(Talk::bell("normal", "x2"), &[]);
    t.says(Talk::bell("high", "x3"), &[]);
    t.says(Talk::pull_ended("default/normal"), &["pull default/high 1 wait"]);
    t.says(Talk::pull_ended("default/high"), &["pull default/normal 1 wait"]);
    t.says(Talk::pull_ended("default/normal"), &[]);
}

#[test]
fn several_bells_are_one_pull_as_large_as_the_room() {
    let mut t = Talk::swept(spec(2, 1));
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
    t.says(Talk::bell("low", "x2"), &[]);
    t.says(Talk::bell("low", "x3"), &[]);
    t.says(Talk::bell("low", "x4"), &[]);
    t.says(Talk::pull_ended("default/normal"), &["pull default/low 2 wait"]);
    t.says(Talk::pull_ended("default/low"), &["pull default/low 1 wait"]);
}

#[test]
fn an_empty_lane_rests_250_ms_from_freed_slots_and_2_s_from_all_else() {
    let mut t = Talk::swept(spec(2, 1));
    t.running("a");
    t.running("b");
    t.now = 249;
    t.says(Talk::ended("a", 50.0), &["conclude a: reported"]);
    t.now = 250;
    t.says(Talk::ended("b", 50.0), &["conclude b: reported", "pull any/urgent 2"]);
    t.says(Talk::pull_ended("any/urgent"), &[]);
    t.now = 1_999;
    t.says(Input::Tick, &[]);
    t.now = 2_000;
    t.says(Input::Tick, &["pull default/urgent 2"]);
    t.says(Talk::pull_ended("default/urgent"), &["pull any/high 2"]);
    t.says(Talk::pull_ended("any/high"), &["pull default/high 2"]);
    t.says(Talk::pull_ended("default/high"), &["pull any/normal 2"]);
    t.says(Talk::pull_ended("any/normal"), &["pull default/normal 2"]); // its bells were answered at 0
}

#[test]
fn another_lane_is_not_asked_for_more_than_can_start() {
    let mut t = Talk::swept(spec(2, 2));
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.now = 2_000;
    t.says(Input::Tick, &["pull any/urgent 3"]);
    t.says(Talk::not_claimed("a"), &[]);
    t.says(Talk::pull_ended("any/urgent"), &["pull default/urgent 4"]);
}

#[test]
fn something_that_is_no_ticket_makes_room_for_the_next() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
    t.says(Talk::bell("normal", "x2"), &[]);
    t.says(Talk::unusable("default/normal"), &["pull default/normal 1 wait"]);
}

#[test]
fn a_reconnect_forgets_pulls_and_looks_everywhere() {
    let mut t = Talk::swept(spec(1, 1));
    t.says(Talk::bell("normal", "x1"), &["pull default/normal 1 wait"]);
    t.says(Input::Reconnected, &["pull any/urgent 1"]);
    t.says(Talk::pull_ended("any/urgent"), &["pull default/urgent 1"]);
}

#[test]
fn a_worker_that_does_not_come_up_fails_what_waits_and_rests_twice_as_long_each_time() {
    let mut t = Talk::swept(spec(1, 1));
    let (mut worker, mut at) = (0, 0);
    for pause in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        worker += 1;
        t.now = at;
        t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
        t.says(Talk::delivered("a"), &["claim a"]);
        t.says(Talk::claimed("a"), &[&format!("spawn w{worker}")]);
        t.says(Talk::failed(worker), &["conclude a: failed, no module named `ocr`"]);
        t.says(Talk::settled("a"), &[]);
        t.now = at + pause - 1;
        t.says(Talk::bell("high", "x1"), &[]);
        at += pause;
        t.now = at;
        let said = t.hears(Input::Tick);
        assert!(said[0].starts_with("pull "), "{said:?}");
        t.sweep(said);
    }
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("a"), &["claim a"]);
    t.says(Talk::claimed("a"), &["spawn w9"]);
    t.says(Talk::ready(9), &["run a on w9"]);
    t.says(Talk::exited(9), &["conclude a: retry, WorkerCrashed"]);
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b"]);
    t.says(Talk::claimed("b"), &["spawn w10"]);
    t.says(Talk::failed(10), &["conclude b: failed, no module named `ocr`"]);
    t.now += 1_000;
    t.says(Talk::bell("normal", "x2"), &["pull default/normal 1 wait"]);
}

#[test]
fn a_failed_start_beside_another_worker_fails_nothing() {
    let mut t = Talk::swept(spec(1, 2));
    t.says(Talk::bell("normal", "a"), &["pull default/normal 1 wait"]);
    t.says(Talk::bell("normal", "b"), &[]);
    t.says(Talk::delivered("a"), &["claim a", "pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b"]);
    t.says(Talk::claimed("a"), &["spawn w1"]);
    t.says(Talk::claimed("b"), &["spawn w2"]);
    t.says(Talk::failed(1), &[]);
    t.now = 1_000;
    t.says(Input::Tick, &["spawn w3"]);
    t.says(Talk::ready(2), &["run a on w2"]);
    t.says(Talk::failed(3), &[]);
    t.says(Talk::ended("a", 50.0), &["conclude a: reported", "run b on w2"]);
}

#[test]
fn a_crash_retries_what_ran_and_hands_back_what_was_behind() {
    let mut t = Talk::swept(spec(1, 1));
    t.learn_short();
    t.running("a");
    t.says(Talk::bell("normal", "b"), &["pull default/normal 1 wait"]);
    t.says(Talk::delivered("b"), &["claim b ahead", "pull default/normal 1 wait"]);
    t.says(Talk::claimed("b"), &["run b on w1"]);
    t.says(Talk::exited(1), &["conclude a: retry, WorkerCrashed", "conclude b: retry, NotStarted"]);
    t.says(Talk::exited(1), &[]);
    t.says(Talk::ended("a", 1.0), &[]);
}

#[test]
fn a_crash_leaves_what_waits_to_the_next_worker() {
    let mut t = Talk::one_runs_and_wait(&["b"]);
    t.says(Talk::claimed("b"), &[]);
    t.says(Talk::exited(1), &["conclude a: retry, WorkerCrashed", "spawn w2"]);
    t.says(Talk::ready(2), &["run b on w2"]);
}

#[test]
fn short_runs_are_held_ahead_as_many_as_start_in_4_ms() {
    let mut t = Talk::swept(spec(2, 1));
    t.running("a");
    t.says(Talk::ended("a", 1.5), &["conclude a: reported", "pull default/normal 1 wait"]);
    t.says(Talk::settled("a"), &[]);
    t.says(Input::Reconnected, &["pull any/urgent 6"]);
    for (job, says) in [("b", "claim b"), ("c", "claim c"), ("d", "claim d ahead")] {
        t.says(Talk::delivered_from("any/urgent", job), &[says]);
        t.says(Talk::claimed(job), &[&format!("run {job} on w1")]);
    }
    t.says(Talk::ended("b", 11.5), &["conclude b: reported"]); // 1.5 + (11.5 - 1.5) / 5 = 3.5
    assert_eq!((t.view().workers, t.view().running, t.view().slots), (1, 2, 2));
    t.says(Talk::ended("c", 23.5), &["conclude c: reported"]); // 7.5: no longer short
    t.says(Talk::pull_ended("any/urgent"), &["pull default/urgent 1"]);
}

#[test]
fn free_workers_are_filled_before_anything_is_held_ahead() {
    let mut t = Talk::swept(spec(1, 2));
    t.running("a");
    t.running("b");
    t.says(Talk::ended("a", 1.0), &["conclude a: reported", "pull default/normal 1 wait"]);
    t.says(Input::Reconnected, &["pull any/urgent 9"]);
    t.says(Talk::delivered_from("any/urgent", "c"), &["claim c"]);
    t.says(Talk::claimed("c"), &["run c on w1"]);
    t.says(Talk::delivered_from("any/urgent", "d"), &["claim d ahead"]);
    t.says(Talk::claimed("d"), &["run d on w1"]);
    t.says(Talk::delivered_from("any/urgent", "e"), &["claim e ahead"]);
    t.says(Talk::claimed("e"), &["run e on w2"]);
}

#[test]
fn a_plugin_that_goes_hands_back_what_waits_and_lets_the_rest_finish() {
    let mut t = Talk::one_runs_and_wait(&["b", "c"]);
    t.says(Talk::claimed("b"), &[]);
    t.says(Talk::plugin_gone(), &["conclude b: retry, NotStarted"]);
    t.says(Talk::claimed("c"), &["conclude c: retry, NotStarted"]);
    t.says(Talk::delivered("d"), &["return d"]);
    t.says(Talk::ended("a", 50.0), &["conclude a: reported", "stop w1"]);
    t.says(Talk::exited(1), &[]);
    t.says(Talk::plugin_ready(spec(1, 1)), &["pull default/urgent 1"]);
}

#[test]
fn with_1024_ends_under_way_nothing_is_pulled() {
    let mut t = Talk::swept(spec(1_024, 2));
    let mut said = t.hears(Input::Reconnected);
    let mut ends = 0;
    while let Some(pull) = said.iter().find_map(|said| said.strip_prefix("pull ")) {
        let (queue, batch) = pull.split_once(' ').unwrap();
        let (queue, batch): (String, u32) = (queue.to_owned(), batch.parse().unwrap());
        // The last one that came may be on its way to its end.
        assert!(ends + batch <= 1_025, "{batch} are asked with {ends} ends under way");
        for _ in 0..batch {
            ends += 1;
            let job = format!("j{ends}");
            said = t.hears(Talk::delivered_from(&queue, &job));
            t.tell(Talk::cancel(&job));
            let ended = t.hears(Talk::claimed(&job));
            assert_eq!(ended[0], format!("conclude {job}: cancelled"));
            said.extend(ended);
        }
    }
    assert_eq!(ends, 1_025);
    t.tell(Talk::delivered("stray"));
    t.tell(Talk::cancel("stray"));
    t.says(Talk::claimed("stray"), &["conclude stray: cancelled"]);
    t.says(Input::Tick, &[]);
    t.says(Talk::settled("j1"), &[]);
    t.says(Talk::settled("j2"), &[]);
    let said = t.hears(Talk::settled("stray"));
    assert!(said[0].starts_with("pull ") && said[0].ends_with(" 1"), "{said:?}");
}
