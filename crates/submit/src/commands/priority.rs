//! `grange priority`.

use crate::cli::StateFlag;
use crate::context::{Context, JobArgument};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::resources::priority;
use grange_broker_client::ErrorKind;
use grange_broker_client::priority::reprioritise;
use grange_protocol::ticket::Priority;

#[derive(clap::Args)]
#[command(after_help = "\
A job that waits is put behind those that wait with that priority already. One that runs or has ended stays as it is;
then the command fails.")]
pub(crate) struct PriorityFlags {
    /// Id of the job, its unique beginning, owner/id, or @last
    job: JobArgument,
    /// urgent, high, normal or low; or an integer: 10 or more is urgent, 1 to 9 high, 0 normal, below low
    #[arg(value_parser = priority, allow_negative_numbers = true)]
    level: Priority,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: &PriorityFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let key = context.find(&session, &flags.job).await?;
    let done = reprioritise(&session.broker, &session.ledger, &key, flags.level).await;
    let done = done.map_err(|error| match error.kind() {
        ErrorKind::Conflict => {
            Failure::from(error).hint(format!("`grange status {}` shows where it is", key.job))
        }
        _ => error.into(),
    })?;
    output.reprioritised(&key, flags.level, done)?;
    Ok(Exit::Ok)
}
