//! Bugs that are there on purpose, one at a time, so that the chaos harness can show that it finds them.
//!
//! Only a build with the feature `planted-bugs` has them: `make chaos-bugs` makes one in a folder of its own. Everywhere
//! else `is` is the constant false, and nothing in the environment can change that.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The end of an attempt is written over whatever stands in the record.
    IgnoreFence,
    /// A ticket is acknowledged before its record says how the job ended.
    EarlyAck,
    /// The supervisor does not keep the lease's deadline.
    NoDeadline,
    /// Only the worker's own process is killed, not what it started.
    KillOnlyWorker,
    /// A job is taken over without a look at its holder's heartbeat.
    HastyTakeover,
    /// A cancel that was asked for is forgotten with the next claim.
    ForgetCancel,
    /// Workers get the whole environment of their agent.
    LeakEnvironment,
    /// A worker that crashed counts as a run that returned nothing.
    CrashIsSuccess,
    /// Some chunks are not sent.
    LoseChunks,
    /// Scratch folders stay.
    KeepScratch,
}

/// Whether this build has it, and it is switched on.
#[cfg(feature = "planted-bugs")]
pub fn is(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var("GRANGE_PLANTED_BUG").unwrap_or_default()) == format!("{bug:?}")
}

/// Whether this build has it: it has none.
#[cfg(not(feature = "planted-bugs"))]
pub const fn is(_: Bug) -> bool {
    false
}
