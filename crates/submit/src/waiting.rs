//! Waiting for the ends of many jobs of one owner.
//!
//! Owns what is counted. Every job is registered first, then read: an end between the two is heard.

use crate::context::Session;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::words::BatchRow;
use futures_util::stream::{FuturesUnordered, StreamExt};
use grange_broker_client::batches::states;
use grange_broker_client::outcomes::Outcomes;
use grange_protocol::name::Owner;
use grange_protocol::record::State;
use grange_protocol::subject::JobKey;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// How often progress is told.
const TOLD: Duration = Duration::from_millis(500);
/// How often the jobs that have not ended are read, to count those that run.
const READ: Duration = Duration::from_secs(3);
/// Jobs that are read so often at most.
const READ_AT_MOST: usize = 2048;
/// A wait without end.
const FOR_EVER: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Waits until all have ended; the exit code is that of the worst end, or says that some have not.
pub(crate) async fn wait_for_all(
    session: &Session,
    owner: &Owner,
    keys: &[JobKey],
    mut row: BatchRow,
    timeout: Option<Duration>,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let over = Instant::now() + timeout.unwrap_or(FOR_EVER);
    let outcomes = Outcomes::open(&session.broker, owner).await?;
    let mut open: HashSet<JobKey> = keys.iter().cloned().collect();
    row.jobs = Some(open.len() as u64);
    row.submitted = open.len() as u64;
    let mut ends: FuturesUnordered<_> = open
        .iter()
        .map(|key| {
            let (key, end) = (key.clone(), outcomes.wait(key));
            async move { (key, end.await) }
        })
        .collect();
    let mut worst = Exit::Ok;
    let all: Vec<JobKey> = open.iter().cloned().collect();
    look(session, &all, &mut open, &mut row, &mut worst).await?;
    let mut told = interval(TOLD);
    let mut read = interval(READ);
    told.set_missed_tick_behavior(MissedTickBehavior::Delay);
    read.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !open.is_empty() {
        tokio::select! {
            Some((key, end)) = ends.next() => {
                // One that was seen to have ended is in no hurry.
                if open.contains(&key) {
                    count(&key, end?.state, &mut open, &mut row, &mut worst);
                }
            }
            _ = told.tick() => output.batch(&row)?,
            _ = read.tick() => {
                let some: Vec<JobKey> = open.iter().take(READ_AT_MOST).cloned().collect();
                look(session, &some, &mut open, &mut row, &mut worst).await?;
            }
            () = sleep_until(over) => {
                output.batch_end(&row)?;
                let left = open.len();
                return Err(Failure::new(Exit::Unfinished, format!("{left} jobs have not ended")));
            }
        }
    }
    row.running = 0;
    output.batch_end(&row)?;
    Ok(worst)
}

async fn look(
    session: &Session,
    some: &[JobKey],
    open: &mut HashSet<JobKey>,
    row: &mut BatchRow,
    worst: &mut Exit,
) -> Result<(), Failure> {
    let found = states(&session.broker, some).await?;
    row.running = found.values().filter(|state| state.is_held()).count() as u64;
    for (key, state) in found {
        count(&key, state, open, row, worst);
    }
    Ok(())
}

fn count(key: &JobKey, state: State, open: &mut HashSet<JobKey>, row: &mut BatchRow, worst: &mut Exit) {
    if !state.is_terminal() || !open.remove(key) {
        return;
    }
    match state {
        State::Succeeded => row.succeeded += 1,
        State::Failed => row.failed += 1,
        _ => row.dropped += 1,
    }
    row.running = row.running.saturating_sub(1);
    let exit = Exit::of_state(state);
    // A failure is the worst; then the order of the codes.
    if *worst == Exit::Ok || (exit != Exit::Ok && exit.code() < worst.code()) {
        *worst = exit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_end_is_the_exit_code() {
        let key = |n: u32| JobKey { owner: "a".parse().unwrap(), job: n.to_string().parse().unwrap() };
        let (mut open, mut row, mut worst) = ((0..5).map(key).collect(), BatchRow::default(), Exit::Ok);
        let ends = [State::Succeeded, State::Cancelled, State::Running, State::Failed, State::Expired];
        for (n, state) in ends.into_iter().enumerate() {
            count(&key(u32::try_from(n).unwrap()), state, &mut open, &mut row, &mut worst);
        }
        assert_eq!((worst, open.len(), row.ended()), (Exit::JobFailed, 1, 4));
    }
}
