//! The decisions alone: the simulated farm (`crates/farm-sim`), which says itself how long it took.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::process::Stdio;
use tokio::process::Command;

const PROGRAM: &str = "grange-farm-sim";

/// What the simulation says of itself.
pub(crate) async fn measure() -> Result<Value> {
    let mut command = Command::new(grange_tests::binary(PROGRAM));
    let said = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    if !said.status.success() {
        bail!("`{PROGRAM}` ended with {}; what went wrong stands above", said.status);
    }
    serde_json::from_slice(&said.stdout).with_context(|| format!("what `{PROGRAM}` printed is no JSON"))
}
