//! `grange cancel`.

use crate::cli::StateFlag;
use crate::context::{Context, JobArgument};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use grange_broker_client::cancel::cancel;

#[derive(clap::Args)]
#[command(after_help = "A job that has ended already stays as it is; that is no error.")]
pub(crate) struct CancelFlags {
    /// Id of the job, its unique beginning, owner/id, or @last
    job: JobArgument,
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
    let key = context.find(&session, &flags.job).await?;
    let outcome = cancel(&session.broker, &session.ledger, &key, &flags.reason).await?;
    output.cancelled(&key, outcome)?;
    Ok(Exit::Ok)
}
