//! `grange status`.

use crate::cli::StateFlag;
use crate::context::{Context, JobArgument};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use grange_broker_client::query::job_status;

#[derive(clap::Args)]
pub(crate) struct StatusFlags {
    /// Id of the job, its unique beginning, owner/id, or @last
    job: JobArgument,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: &StatusFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let key = context.find(&session, &flags.job).await?;
    let view = job_status(&session.broker, &session.ledger, &key).await?;
    output.job(&view)?;
    Ok(Exit::Ok)
}
