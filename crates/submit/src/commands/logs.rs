//! `grange logs`.

use crate::cli::StateFlag;
use crate::context::{Context, JobArgument, Session};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::words::Level;
use crate::units;
use grange_broker_client::follow::{Follow, Since, Update};
use grange_broker_client::query::job_status;
use grange_protocol::event::LogLine;
use grange_protocol::subject::JobKey;
use std::time::Duration;

/// A job that still runs has told all it kept when nothing more comes for so long.
const QUIET: Duration = Duration::from_secs(1);
/// Lines that are written at a time.
const BATCH: usize = 256;

#[derive(clap::Args)]
#[command(after_help = "All attempts' lines are shown, the first attempt's first.")]
pub(crate) struct LogsFlags {
    /// Id of the job, its unique beginning, owner/id, or @last
    job: JobArgument,
    /// Go on with what comes, to the job's end
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: &LogsFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let key = context.find(&session, &flags.job).await?;
    let Some(patience) = patience(&session, &key, flags.follow).await? else { return Ok(Exit::Ok) };
    let mut updates = Follow::start(&session.broker, &key, Since::Start).await?;
    let mut lines = Vec::new();
    loop {
        let update = match patience {
            Patience::ToTheEnd => updates.next().await?,
            // Silence counts as the end.
            Patience::Quiet => tokio::time::timeout(QUIET, updates.next()).await.unwrap_or(Ok(None))?,
        };
        match update {
            Some(Update::Log { token, line, .. }) => lines.push((token.number, line)),
            Some(Update::Dropped { dropped, .. }) => {
                flush(&mut lines, output)?;
                let text = format!(
                    "{} lines ({}) were over the limit and not kept",
                    dropped.lines,
                    units::size(dropped.bytes)
                );
                output.say(Level::Warning, &text)?;
            }
            Some(Update::End(_)) | None => break,
            Some(_) => {}
        }
        if flags.follow || lines.len() >= BATCH {
            flush(&mut lines, output)?;
        }
    }
    flush(&mut lines, output)?;
    Ok(Exit::Ok)
}

/// How long to wait for more lines.
enum Patience {
    ToTheEnd,
    Quiet,
}

/// None: the job has not begun, and nobody wants to wait for it.
async fn patience(session: &Session, key: &JobKey, follow: bool) -> Result<Option<Patience>, Failure> {
    let view = job_status(&session.broker, &session.ledger, key).await?;
    let has_record = view.record.is_some();
    let begun = view.record.as_ref().is_some_and(|record| record.attempt.is_some());
    Ok(match (follow || (has_record && view.state().is_terminal()), begun) {
        (true, _) => Some(Patience::ToTheEnd),
        (false, true) => Some(Patience::Quiet),
        (false, false) => None,
    })
}

fn flush(lines: &mut Vec<(u32, LogLine)>, output: &mut dyn Output) -> Result<(), Failure> {
    if !lines.is_empty() {
        output.logs(lines)?;
        lines.clear();
    }
    Ok(())
}
