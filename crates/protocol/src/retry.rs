//! When a job is tried again that an attempt did not end well. Errors of the plugin, crashes of its worker and lost hosts
//! have budgets of their own.
//!
//! Owns the policy, how a ticket's lies over its plugin's, and the decision: again, and after which wait, or not. Never
//! writes a record (`lifecycle::retry` does), and never throws dice: chance is given.

use crate::failure::FailureKind;
use crate::lifecycle::RetryCause;
use crate::record::Tries;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Attempts that a job gets whose plugin raises, unless a policy says more.
pub const MAX_ATTEMPTS: u32 = 1;
/// Crashes of its worker that a job gets before it is given up.
pub const WORKER_CRASHES: u32 = 3;
/// Lost hosts that a job gets before it is given up.
pub const HOST_LOSSES: u32 = 10;
/// Most tries that a policy may give, of each kind.
pub const TRIES_MAX: u32 = 1_000;
/// First wait before another try, milliseconds.
pub const BACKOFF_MS: u64 = 1_000;
/// Longest wait before another try, milliseconds.
pub const BACKOFF_MAX_MS: u64 = 60_000;
/// Longest wait that a policy may name, milliseconds: a day.
pub const BACKOFF_LIMIT_MS: u64 = 86_400_000;
/// How long the agent that a job failed on leaves it to others, milliseconds.
pub const AVOID_MS: u64 = 30_000;

const TRIES: RangeInclusive<u32> = 1..=TRIES_MAX;

/// Errors that are worth another try, unless a policy names others.
pub const KINDS: [FailureKind; 5] = [
    FailureKind::PluginFailed,
    FailureKind::TimedOut,
    FailureKind::StartFailed,
    FailureKind::InputUnavailable,
    FailureKind::StoreFailed,
];

/// When a job is tried again. What is left out is as the plugin says, then as the defaults are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Attempts that may end with an error of `kinds`; the last of them fails the job. Default 1: no other try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Attempts that may end by a crash of the worker; default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_crashes: Option<u32>,
    /// Attempts that may end by the loss of their host; default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_losses: Option<u32>,
    /// First wait before another try, milliseconds; each further one is twice as long. Default 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// Longest wait, milliseconds; default 60000, or `backoff_ms` where that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_max_ms: Option<u64>,
    /// Errors that are worth another try; default `plugin_failed`, `timed_out`, `start_failed`,
    /// `input_unavailable` and `store_failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<FailureKind>>,
}

/// Why a policy cannot be used. The text reaches whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Out of its range.
    #[error("`retry.{field}` is {given}; it must be {range}")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// What was given.
        given: u64,
        /// What may be.
        range: String,
    },
    /// No failure has this name.
    #[error("`retry.kinds` names a kind of failure that is not known; use some of {}", all_kinds())]
    UnknownKind,
    /// The way to end a job.
    #[error("`retry.kinds` names `{0}`, which ends a job for good")]
    Final(FailureKind),
}

/// What becomes of a job after an attempt without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is tried again.
    Again(Pause),
    /// It would be, but this was the last try of so many.
    Spent {
        /// Tries that ended this way.
        tries: u32,
    },
    /// Another try would not help, or nobody asked for one.
    Final,
}

/// How long a job rests before its next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// Nobody claims it before, milliseconds.
    pub backoff_ms: u64,
    /// And the last agent leaves it to others for so much longer, milliseconds.
    pub avoid_ms: u64,
}

impl RetryPolicy {
    /// This policy, and where it says nothing, what `below` says.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        Self {
            max_attempts: self.max_attempts.or(below.max_attempts),
            worker_crashes: self.worker_crashes.or(below.worker_crashes),
            host_losses: self.host_losses.or(below.host_losses),
            backoff_ms: self.backoff_ms.or(below.backoff_ms),
            backoff_max_ms: self.backoff_max_ms.or(below.backoff_max_ms),
            kinds: self.kinds.clone().or_else(|| below.kinds.clone()),
        }
    }

    /// Whether everything is in its range.
    pub fn check(&self) -> Result<(), PolicyError> {
        let tries = [
            ("max_attempts", self.max_attempts),
            ("worker_crashes", self.worker_crashes),
            ("host_losses", self.host_losses),
        ];
        for (field, given) in tries {
            if let Some(given) = given.filter(|given| !TRIES.contains(given)) {
                let range = format!("{} to {}", TRIES.start(), TRIES.end());
                return Err(PolicyError::OutOfRange { field, given: given.into(), range });
            }
        }
        for (field, given) in [("backoff_ms", self.backoff_ms), ("backoff_max_ms", self.backoff_max_ms)] {
            if let Some(given) = given.filter(|given| *given > BACKOFF_LIMIT_MS) {
                let range = format!("at most {BACKOFF_LIMIT_MS} (a day)");
                return Err(PolicyError::OutOfRange { field, given, range });
            }
        }
        self.kinds.iter().flatten().try_for_each(|kind| check_kind(*kind))
    }

    /// How many attempts may end so.
    fn budget(&self, cause: RetryCause) -> Option<u32> {
        match cause {
            RetryCause::PluginError => Some(self.max_attempts.unwrap_or(MAX_ATTEMPTS)),
            RetryCause::WorkerCrashed => Some(self.worker_crashes.unwrap_or(WORKER_CRASHES)),
            RetryCause::HostLost | RetryCause::GpuFailed => Some(self.host_losses.unwrap_or(HOST_LOSSES)),
            RetryCause::NotStarted => None,
        }
    }

    /// Whether an error of this kind is worth another try.
    fn retries(&self, kind: FailureKind) -> bool {
        self.kinds.as_deref().unwrap_or(&KINDS).contains(&kind)
    }

    /// The longest wait after so many tries, milliseconds: twice as long each time, up to the cap.
    fn bound_ms(&self, tries: u32) -> u64 {
        let first = self.backoff_ms.unwrap_or(BACKOFF_MS);
        let most = self.backoff_max_ms.unwrap_or(BACKOFF_MAX_MS.max(first));
        let doubled = 2u64.checked_pow(tries).and_then(|times| first.checked_mul(times));
        doubled.unwrap_or(u64::MAX).min(most)
    }
}

/// Which budget an error of this kind counts against.
pub fn cause_of(kind: FailureKind) -> RetryCause {
    match kind {
        FailureKind::WorkerCrashed | FailureKind::OutOfMemory => RetryCause::WorkerCrashed,
        FailureKind::HostLost => RetryCause::HostLost,
        FailureKind::GpuFailed => RetryCause::GpuFailed,
        FailureKind::InvalidInput
        | FailureKind::InputUnavailable
        | FailureKind::PluginUnavailable
        | FailureKind::StartFailed
        | FailureKind::PluginFailed
        | FailureKind::Unserialisable
        | FailureKind::OutputTooLarge
        | FailureKind::StoreFailed
        | FailureKind::TimedOut
        | FailureKind::OutOfDisk
        | FailureKind::OverLimit
        | FailureKind::Internal
        | FailureKind::Unknown => RetryCause::PluginError,
    }
}

/// Decides. `tries`: those before this one. `chance`: anything, evenly spread over all numbers.
pub fn decide(
    policy: &RetryPolicy,
    tries: &Tries,
    cause: RetryCause,
    kind: FailureKind,
    chance: u64,
) -> Decision {
    let before = match cause {
        RetryCause::PluginError => tries.plugin_errors,
        RetryCause::WorkerCrashed => tries.worker_crashes,
        RetryCause::HostLost | RetryCause::GpuFailed => tries.host_losses,
        RetryCause::NotStarted => 0,
    };
    let now = before.saturating_add(1);
    let is_error = cause == RetryCause::PluginError;
    if is_error && !policy.retries(kind) {
        return Decision::Final;
    }
    match policy.budget(cause) {
        Some(1) if is_error => return Decision::Final,
        Some(budget) if now >= budget => return Decision::Spent { tries: now },
        Some(_) | None => {}
    }
    let backoff_ms = match cause {
        RetryCause::PluginError | RetryCause::WorkerCrashed => {
            let rests = tries.plugin_errors.saturating_add(tries.worker_crashes);
            // Full jitter: jobs that failed together do not come back together.
            scaled(policy.bound_ms(rests), chance)
        }
        RetryCause::HostLost | RetryCause::GpuFailed | RetryCause::NotStarted => 0,
    };
    Decision::Again(Pause { backoff_ms, avoid_ms: avoid_ms(cause, kind) })
}

/// How long the last agent leaves the job to others: where the host may have had a part in it.
fn avoid_ms(cause: RetryCause, kind: FailureKind) -> u64 {
    let by_host = matches!(kind, FailureKind::StartFailed | FailureKind::InputUnavailable);
    match cause {
        RetryCause::WorkerCrashed | RetryCause::HostLost | RetryCause::GpuFailed => AVOID_MS,
        RetryCause::PluginError if by_host => AVOID_MS,
        RetryCause::PluginError | RetryCause::NotStarted => 0,
    }
}

/// A part of `most`, from nothing to all of it.
fn scaled(most: u64, chance: u64) -> u64 {
    let part = u128::from(most) * u128::from(chance) / u128::from(u64::MAX);
    u64::try_from(part).unwrap_or(most)
}

/// Kinds that have budgets of their own may stand in the list; they are tried again by those.
fn check_kind(kind: FailureKind) -> Result<(), PolicyError> {
    let is_end = kind == FailureKind::InvalidInput;
    if kind == FailureKind::Unknown {
        return Err(PolicyError::UnknownKind);
    }
    if is_end { Err(PolicyError::Final(kind)) } else { Ok(()) }
}

fn all_kinds() -> String {
    let more = [
        FailureKind::PluginUnavailable,
        FailureKind::Unserialisable,
        FailureKind::OutputTooLarge,
        FailureKind::OutOfDisk,
        FailureKind::OverLimit,
        FailureKind::Internal,
    ];
    let words: Vec<String> = KINDS.iter().chain(&more).map(|kind| format!("`{kind}`")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::count;
    use proptest::prelude::*;

    fn policy(max_attempts: u32) -> RetryPolicy {
        RetryPolicy { max_attempts: Some(max_attempts), ..RetryPolicy::default() }
    }

    fn errors(plugin_errors: u32) -> Tries {
        Tries { plugin_errors, ..Tries::default() }
    }

    fn raised(policy: &RetryPolicy, tries: u32) -> Decision {
        decide(policy, &errors(tries), RetryCause::PluginError, FailureKind::PluginFailed, u64::MAX)
    }

    #[test]
    fn without_a_policy_an_error_is_the_end_and_a_crash_is_not() {
        let none = RetryPolicy::default();
        assert_eq!(raised(&none, 0), Decision::Final);
        let crashed = |worker_crashes| {
            let tries = Tries { worker_crashes, ..Tries::default() };
            decide(&none, &tries, RetryCause::WorkerCrashed, FailureKind::WorkerCrashed, 0)
        };
        assert_eq!(crashed(0), Decision::Again(Pause { backoff_ms: 0, avoid_ms: AVOID_MS }));
        assert_eq!(crashed(2), Decision::Spent { tries: 3 });
    }

    #[test]
    fn each_wait_is_twice_as_long_up_to_the_cap() {
        let policy = RetryPolicy { backoff_ms: Some(100), backoff_max_ms: Some(350), ..policy(9) };
        let waits: Vec<Decision> = (0..4).map(|tries| raised(&policy, tries)).collect();
        let expected = [100, 200, 350, 350].map(|ms| Decision::Again(Pause { backoff_ms: ms, avoid_ms: 0 }));
        assert_eq!(waits, expected);
        let long = RetryPolicy { backoff_ms: Some(120_000), ..policy.over(&RetryPolicy::default()) };
        let long = RetryPolicy { backoff_max_ms: None, ..long };
        assert_eq!(long.bound_ms(5), 120_000, "a first wait above the usual cap is its own cap");
    }

    #[test]
    fn only_the_kinds_that_are_named_are_tried_again() {
        let kinds = Some(vec![FailureKind::TimedOut]);
        let policy = RetryPolicy { kinds, ..policy(5) };
        assert_eq!(raised(&policy, 0), Decision::Final);
        let late = decide(&policy, &errors(0), RetryCause::PluginError, FailureKind::TimedOut, 0);
        assert!(matches!(late, Decision::Again(_)));
    }

    #[test]
    fn a_ticket_lies_over_its_manifest() {
        let manifest = RetryPolicy { backoff_ms: Some(5), ..policy(7) };
        let both = policy(2).over(&manifest);
        assert_eq!((both.max_attempts, both.backoff_ms), (Some(2), Some(5)));
    }

    #[test]
    fn what_is_out_of_range_is_said() {
        let said =
            |json: &str| serde_json::from_str::<RetryPolicy>(json).unwrap().check().unwrap_err().to_string();
        assert!(said(r#"{"max_attempts":0}"#).contains("`retry.max_attempts` is 0; it must be 1 to 1000"));
        assert!(said(r#"{"worker_crashes":1001}"#).contains("1 to 1000"));
        assert!(said(r#"{"backoff_ms":86400001}"#).contains("a day"));
        assert!(said(r#"{"kinds":["gremlins"]}"#).contains("`plugin_failed`"));
        assert!(said(r#"{"kinds":["invalid_input"]}"#).contains("for good"));
        assert!(RetryPolicy::default().check().is_ok());
    }

    fn causes() -> impl Strategy<Value = RetryCause> {
        prop_oneof![
            Just(RetryCause::PluginError),
            Just(RetryCause::WorkerCrashed),
            Just(RetryCause::HostLost),
            Just(RetryCause::GpuFailed),
        ]
    }

    proptest! {
        /// Whatever the policy: a job that always ends the same way is given up after exactly its budget, and no wait is
        /// longer than the cap.
        #[test]
        fn every_budget_ends(
            attempts in 2u32..30, crashes in 1u32..30, losses in 1u32..30,
            first in 0u64..=BACKOFF_LIMIT_MS, most in 0u64..=BACKOFF_LIMIT_MS,
            cause in causes(), chance: u64,
        ) {
            let policy = RetryPolicy {
                max_attempts: Some(attempts),
                worker_crashes: Some(crashes),
                host_losses: Some(losses),
                backoff_ms: Some(first),
                backoff_max_ms: Some(most),
                kinds: None,
            };
            prop_assert_eq!(policy.check(), Ok(()));
            let mut tries = Tries::default();
            let mut number = 0;
            loop {
                number += 1;
                match decide(&policy, &tries, cause, FailureKind::PluginFailed, chance) {
                    Decision::Again(pause) => prop_assert!(pause.backoff_ms <= most),
                    Decision::Spent { tries } => { prop_assert_eq!(tries, number); break }
                    Decision::Final => prop_assert!(false, "a kind that is tried again"),
                }
                count(&mut tries, cause);
            }
            prop_assert_eq!(Some(number), policy.budget(cause));
        }

        /// What was handed back before it began is handed back for ever, at once.
        #[test]
        fn what_never_began_counts_for_nothing(losses: u32, chance: u64) {
            let tries = Tries { host_losses: losses, plugin_errors: losses, worker_crashes: losses };
            let kind = FailureKind::WorkerCrashed;
            let next = decide(&RetryPolicy::default(), &tries, RetryCause::NotStarted, kind, chance);
            prop_assert_eq!(next, Decision::Again(Pause::default()));
        }
    }
}
