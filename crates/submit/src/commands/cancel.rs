//! `grange cancel`.

use crate::cli::StateFlag;
use crate::context::{Context, JobArgument, Session};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use futures_util::{StreamExt, stream};
use grange_broker_client::cancel::cancel;
use grange_broker_client::{ErrorKind, batches};
use grange_protocol::name::JobId;
use grange_protocol::subject::JobKey;

/// Requests that are out at a time.
const AT_ONCE: usize = 64;

#[derive(clap::Args)]
#[command(after_help = "A job that has ended already stays as it is; that is no error.")]
pub(crate) struct CancelFlags {
    /// Id of the job, its unique beginning, owner/id, or @last
    #[arg(required_unless_present = "batch")]
    job: Option<JobArgument>,
    /// All jobs of this batch
    #[arg(long, value_name = "ID", conflicts_with = "job")]
    batch: Option<JobId>,
    /// Why; kept in the job's record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: &CancelFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    if let Some(batch) = &flags.batch {
        return cancel_all(flags, batch, context, &session, output).await;
    }
    let job = flags.job.as_ref().ok_or_else(|| Failure::usage("no job is given"))?;
    let key = context.find(&session, job).await?;
    let outcome = cancel(&session.broker, &session.ledger, &key, &flags.reason).await?;
    output.cancelled(&key, outcome)?;
    Ok(Exit::Ok)
}

/// Each job of a batch, several at a time, in any order.
async fn cancel_all(
    flags: &CancelFlags,
    batch: &JobId,
    context: &Context,
    session: &Session,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let (_, keys) = batches::jobs(&session.broker, &context.owner, batch).await?;
    let ask = |key: JobKey| async {
        let outcome = cancel(&session.broker, &session.ledger, &key, &flags.reason).await;
        (key, outcome)
    };
    let mut answers = stream::iter(keys).map(ask).buffer_unordered(AT_ONCE);
    while let Some((key, outcome)) = answers.next().await {
        match outcome {
            Ok(outcome) => output.cancelled(&key, outcome)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Exit::Ok)
}
