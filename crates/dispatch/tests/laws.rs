//! The laws of the dispatcher (`common`), each a property over random lives of an agent in a farm of fakes.

#[cfg(test)]
mod common;

use common::life::{live, live_operated};
use common::{Choices, Law};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Random lives per law.
const LIVES: u32 = 200;
/// Where chance begins.
const SEED: u64 = 2;
/// Most choices in one life; an event takes two or three.
const CHOICES: usize = 1_000;

fn choices() -> impl Strategy<Value = Choices> {
    proptest::collection::vec(any::<u16>(), 0..CHOICES).prop_map(Choices::new)
}

/// The same lives every time, other ones for each law, so that a check of one change fails by that change alone.
/// `LAWS_SEED=<n>` lives others, `LIVES=<n>` more of them.
fn config(law: Law) -> ProptestConfig {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    ProptestConfig {
        cases: number("LIVES").map_or(LIVES, |lives| u32::try_from(lives).unwrap_or(LIVES)),
        rng_seed: RngSeed::Fixed(number("LAWS_SEED").unwrap_or(SEED) << 8 | law as u64),
        failure_persistence: None,
        max_shrink_iters: 1_000,
        ..ProptestConfig::default()
    }
}

macro_rules! laws {
    (of $lives:ident: $($name:ident: $law:ident;)*) => {
        $(
            proptest! {
                #![proptest_config(config(Law::$law))]
                #[test]
                fn $name(choices in choices()) {
                    if let Err(broken) = $lives(choices) {
                        prop_assert!(broken.law != Law::$law, "{}", broken);
                    }
                }
            }
        )*
    };
}

laws! {
    of live:
    workers_are_filled_to_their_slots_and_jobs_go_to_one: Placement;
    every_delivery_is_settled_once_and_as_it_ended: SettledOnce;
    a_job_is_claimed_then_run_and_neither_twice: InOrder;
    no_action_names_a_worker_that_is_not_there: KnownWorkers;
    nothing_is_asked_for_that_cannot_start: Capacity;
    one_pull_at_a_time_and_higher_queues_first: PullOrder;
    no_bell_is_forgotten: Bells;
    bells_are_heard_with_those_who_can_do_as_much: Hearing;
    a_run_is_asked_to_stop_once_and_killed_once: Stops;
    a_plugin_that_does_not_start_rests: Rests;
    a_drain_starts_nothing_and_ends_in_one_exit: Drains;
    late_and_unknown_inputs_do_nothing: LateInputs;
    a_healthy_farm_ends_every_ticket_that_fits: Liveness;
    equal_inputs_give_equal_actions: Equality;
    nothing_of_the_host_is_given_twice: Booking;
    what_is_granted_and_what_is_free_are_the_whole: Accounts;
    a_grant_comes_back_when_the_memory_is_seen_back: Returning;
    only_idle_workers_leave_and_no_more_than_needed: Eviction;
    no_owner_has_more_than_the_cap: OwnerCap;
    one_queue_is_saved_up_for_and_what_is_kept_is_kept: Saving;
    what_never_fits_is_not_kept_from_others: Unplaceable;
    cold_agents_leave_the_first_word_to_warm_ones: Cold;
    a_failed_gpu_loses_its_workers_and_no_job: Faults;
    an_overrun_is_said_once_or_ended: Overruns;
    a_tick_is_wanted_when_something_is_due: Wakes;
}

laws! {
    of live_operated:
    a_drained_host_starts_nothing_and_stays: Drains;
    a_drained_host_settles_every_delivery_once: SettledOnce;
    a_drained_host_stops_runs_once: Stops;
    a_host_is_drained_in_order: InOrder;
    a_drained_host_gives_nothing_twice: Booking;
}
