//! `grange wait`.

use crate::cli::StateFlag;
use crate::context::{Context, JobArgument};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::words::BatchRow;
use crate::units::parse_duration;
use crate::waiting::wait_for_all;
use grange_broker_client::batches;
use grange_protocol::name::JobId;
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "\
The exit code is that of the worst end: 3 a job failed, 4 cancelled, 5 expired, 6 refused, 0 all succeeded; 10 some had
not ended when the time was over.

Examples:
  grange wait 019a 019b
  grange wait --batch nightly-17 --timeout 2h")]
pub(crate) struct WaitFlags {
    /// Ids of jobs, their unique beginnings, owner/id, or @last; all of one owner
    #[arg(value_name = "JOB", required_unless_present = "batch")]
    jobs: Vec<JobArgument>,
    /// All jobs of this batch
    #[arg(long, value_name = "ID", conflicts_with = "jobs")]
    batch: Option<JobId>,
    /// Longest wait, e.g. 2h [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: &WaitFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    if let Some(batch) = &flags.batch {
        let (facts, keys) = batches::jobs(&session.broker, &context.owner, batch).await?;
        let skipped = facts.skipped.len() as u64;
        let row = BatchRow { batch: Some(batch.to_string()), skipped, ..BatchRow::default() };
        return wait_for_all(&session, &context.owner, &keys, row, flags.timeout, output).await;
    }
    let mut keys = Vec::with_capacity(flags.jobs.len());
    for job in &flags.jobs {
        keys.push(context.find(&session, job).await?);
    }
    let owner = keys.first().map_or_else(|| context.owner.clone(), |key| key.owner.clone());
    if let Some(other) = keys.iter().find(|key| key.owner != owner) {
        return Err(Failure::usage(format!(
            "`{other}` is not of `{owner}`; wait for one owner's jobs at a time"
        )));
    }
    wait_for_all(&session, &owner, &keys, BatchRow::default(), flags.timeout, output).await
}
