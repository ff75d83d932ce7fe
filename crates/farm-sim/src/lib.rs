//! A whole farm over the pure dispatcher, in simulated time, and a central scheduler with perfect knowledge to compare it
//! with. `docs/scheduling.md` holds the table that it prints.

pub mod chance;
pub mod compare;
pub mod farm;
pub mod figures;
pub mod lives;
pub mod machine;
pub mod mix;
pub mod oracle;
