//! Waiting for something to become true, with a deadline, instead of sleeping.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// Polls until the condition gives a value; after `limit` it panics with what the condition said last.
pub async fn eventually<T, E: Display>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(last) if begun.elapsed() >= limit => {
                panic!("{what}: not within {limit:?}; last: {last}");
            }
            Err(_) => tokio::time::sleep(EVERY).await,
        }
    }
}
