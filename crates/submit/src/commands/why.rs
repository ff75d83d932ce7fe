//! `grange why`.

use crate::cli::StateFlag;
use crate::context::{Context, JobArgument};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use grange_broker_client::why::why;

#[derive(clap::Args)]
#[command(after_help = "\
Says what matters most, the job's place in its queue, which queues go before it, and what each host says: that it could
start it, what it lacks, that it is draining or does not have the plugin. Heartbeats are up to two seconds old, and
agents alone decide: this is a forecast.")]
pub(crate) struct WhyFlags {
    /// Id of the job, its unique beginning, owner/id, or @last
    job: JobArgument,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: &WhyFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let key = context.find(&session, &flags.job).await?;
    let why = why(&session.broker, &key).await?;
    output.why(&why)?;
    Ok(Exit::Ok)
}
