//! The laws of the dispatcher (`common`), each a property over random lives of an agent in a farm of fakes.

#[cfg(test)]
mod common;

use common::life::live;
use common::{Choices, Law};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// Random lives per law.
const LIVES: u32 = 400;
/// Most choices in one life; an event takes two or three.
const CHOICES: usize = 1_000;

fn choices() -> impl Strategy<Value = Choices> {
    proptest::collection::vec(any::<u16>(), 0..CHOICES).prop_map(Choices::new)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: LIVES,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_iters: 5_000,
        ..ProptestConfig::default()
    }
}

macro_rules! laws {
    ($($name:ident: $law:ident;)*) => {
        proptest! {
            #![proptest_config(config())]
            $(
                #[test]
                fn $name(choices in choices()) {
                    if let Err(broken) = live(choices) {
                        prop_assert!(broken.law != Law::$law, "{}", broken);
                    }
                }
            )*
        }
    };
}

laws! {
    workers_are_filled_to_their_slots_and_jobs_go_to_one: Placement;
    every_delivery_is_settled_once_and_as_it_ended: SettledOnce;
    a_job_is_claimed_then_run_and_neither_twice: InOrder;
    no_action_names_a_worker_that_is_not_there: KnownWorkers;
    nothing_is_asked_for_that_cannot_start: Capacity;
    one_pull_at_a_time_and_higher_lanes_first: PullOrder;
    no_bell_is_forgotten: Bells;
    a_run_is_asked_to_stop_once_and_killed_once: Stops;
    a_plugin_that_does_not_start_rests: Rests;
    a_drain_starts_nothing_and_ends_in_one_exit: Drains;
    late_and_unknown_inputs_do_nothing: LateInputs;
    a_healthy_farm_ends_every_ticket: Liveness;
    equal_inputs_give_equal_actions: Equality;
}
