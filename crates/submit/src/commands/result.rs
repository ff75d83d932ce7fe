//! `grange result`.

use crate::cli::StateFlag;
use crate::context::{Context, JobArgument, Session};
use crate::ending::ending;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use grange_broker_client::ErrorKind;
use grange_broker_client::outcomes::Outcomes;
use grange_broker_client::query::{JobView, job_status};
use grange_protocol::record::{Record, State};
use grange_protocol::subject::JobKey;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "\
The exit code tells how the job ended: 0 succeeded, 3 failed, 4 cancelled, 5 expired, 6 refused; 10 not yet.

Examples:
  grange result @last
  grange result 019a --wait --out results --output json")]
pub(crate) struct ResultFlags {
    /// Id of the job, its unique beginning, owner/id, or @last
    job: JobArgument,
    /// Folder for the files of the result; without it they stay in the object store
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Wait until the job has ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: &ResultFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let key = context.find(&session, &flags.job).await?;
    let record = if flags.wait { wait(&session, &key).await? } else { look(&session, &key).await? };
    let exit = Exit::of_state(record.state);
    let ended = ending(context, key, record, flags.out.as_deref(), false).await?;
    output.ended(&ended)?;
    Ok(exit)
}

/// The terminal record, if there is one.
fn terminal(view: &mut JobView) -> Option<Box<Record>> {
    view.record.take_if(|record| record.state.is_terminal())
}

async fn look(session: &Session, key: &JobKey) -> Result<Box<Record>, Failure> {
    let mut view = job_status(&session.broker, &session.ledger, key).await?;
    if let Some(record) = terminal(&mut view) {
        return Ok(record);
    }
    let id = &key.job;
    if view.ran_out {
        return Err(expired(key));
    }
    let place = match (view.state(), view.record.as_ref().and_then(|record| record.attempt.as_ref())) {
        (State::Running | State::Claimed, Some(attempt)) => format!(" on {}", attempt.agent),
        _ => String::new(),
    };
    let failure = Failure::new(
        Exit::Unfinished,
        format!("job {id} is {}{place}, so it has no result yet", view.word()),
    );
    Err(failure.hint(format!("`grange result {id} --wait` waits for it, `grange watch {id}` shows it")))
}

fn expired(key: &JobKey) -> Failure {
    Failure::new(Exit::JobExpired, format!("job {} waited too long and expired", key.job))
}

async fn wait(session: &Session, key: &JobKey) -> Result<Box<Record>, Failure> {
    let outcomes = Outcomes::open(&session.broker, &key.owner).await?;
    // First the place in the queue, then the look: an end between the two is heard.
    let end = outcomes.wait(key);
    let mut view = job_status(&session.broker, &session.ledger, key).await?;
    match terminal(&mut view) {
        Some(record) => Ok(record),
        None if view.ran_out => Err(expired(key)),
        None => match end.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(expired(key)),
            ended => Ok(ended?),
        },
    }
}
