//! `grange watch`.

use crate::cli::StateFlag;
use crate::context::{Context, JobArgument};
use crate::ending::ending;
use crate::failure::{Exit, Failure};
use crate::follow::follow;
use crate::interrupt::Interrupts;
use crate::output::Output;
use grange_broker_client::follow::{Follow, Since};
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "\
Shows all of a job from its start, whether it waits, runs or has ended long ago. To go on where a program stopped, give
the last `sequence` of a chunk, progress or log line that it saw in --output json. Chunks may share one: a program that
may have stopped between two gives one less, and leaves out the chunks whose `index` it has.")]
pub(crate) struct WatchFlags {
    /// Id of the job, its unique beginning, owner/id, or @last
    job: JobArgument,
    /// Begin after the event with this sequence
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Folder for the files of the result
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: &WatchFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let key = context.find(&session, &flags.job).await?;
    let mut interrupts = Interrupts::open()?;
    let since = flags.from.map_or(Since::Start, Since::After);
    let updates = Follow::start(&session.broker, &key, since).await?;
    let record = follow(&session, &key, updates, &mut interrupts, output).await?;
    let exit = Exit::of_state(record.state);
    let ended = ending(context, key, record, flags.out.as_deref(), true).await?;
    output.ended(&ended)?;
    Ok(exit)
}
