//! The chaos harness: real servers, agents and workers under seeded faults, and a checker of what must hold.
//!
//! `schedule` is the list of faults that a seed stands for, `nemesis` performs it, `workload` submits, cancels and
//! follows jobs meanwhile. What was seen is `history` (told by clients) and `witness` (told by the workers themselves);
//! `checker` judges both, purely. `docs/faults.md` says what each invariant means and what was found.
#![expect(clippy::expect_used, reason = "a harness ends its run at the first surprise, and says why")]

pub mod census;
pub mod checker;
pub mod history;
pub mod nemesis;
pub mod proxy;
pub mod report;
pub mod run;
pub mod schedule;
pub mod shrink;
pub mod site;
pub mod witness;
pub mod workload;
