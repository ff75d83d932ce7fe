//! Following one job on behalf of `submit` and `watch`: updates to the output, until the end or Ctrl-C.

use crate::context::Session;
use crate::failure::{Exit, Failure};
use crate::interrupt::{Choice, Interrupts};
use crate::output::Output;
use crate::output::words::Level;
use futures_util::FutureExt;
use grange_broker_client::ErrorKind;
use grange_broker_client::cancel::{Cancelled, cancel};
use grange_broker_client::follow::{Follow, Update};
use grange_broker_client::query::job_status;
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Record, State};
use grange_protocol::subject::JobKey;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Updates that are shown together when they come fast.
const BATCH: usize = 512;
/// A job that waits longer is looked up in its lane, so often.
const LOOK: Duration = Duration::from_secs(2);

/// Shows everything up to the job's end, and answers its terminal record. Ctrl-C may end it before, with an error
/// that names the job.
pub(crate) async fn follow(
    session: &Session,
    key: &JobKey,
    mut updates: Follow,
    interrupts: &mut Interrupts,
    output: &mut dyn Output,
) -> Result<Box<Record>, Failure> {
    let mut looks = interval_at(Instant::now() + LOOK, LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waits = true;
    loop {
        tokio::select! {
            update = updates.next() => {
                let batch = match update {
                    Ok(Some(first)) => take_batch(&mut updates, first),
                    Ok(None) => return Err(Failure::new(Exit::Other, format!("job `{key}` ended without a record"))),
                    Err(error) => Batch { updates: Vec::new(), error: Some(error) },
                };
                output.updates(&batch.updates)?;
                waits = batch.updates.last().map_or(waits, is_waiting);
                if let Some(Update::End(record)) = batch.updates.into_iter().next_back() {
                    return Ok(record);
                }
                if let Some(error) = batch.error {
                    return give_up(session, key, error, output).await;
                }
            }
            _ = looks.tick(), if waits => {
                if let Ok(view) = job_status(&session.broker, &session.ledger, key).await
                    && view.state() == State::Queued
                {
                    output.waiting(&view)?;
                }
            }
            () = interrupts.next() => match interrupts.ask(output).await? {
                Choice::Leave => return Err(left(key)),
                Choice::Cancel => ask_for_end(session, key, output).await?,
            },
        }
    }
}

struct Batch {
    updates: Vec<Update>,
    error: Option<grange_broker_client::Error>,
}

/// Everything that is there already.
fn take_batch(follow: &mut Follow, first: Update) -> Batch {
    let mut batch = Batch { updates: vec![first], error: None };
    while batch.updates.len() < BATCH && !matches!(batch.updates.last(), Some(Update::End(_))) {
        match follow.next().now_or_never() {
            Some(Ok(Some(update))) => batch.updates.push(update),
            Some(Err(error)) => {
                batch.error = Some(error);
                break;
            }
            Some(Ok(None)) | None => break,
        }
    }
    batch
}

fn is_waiting(update: &Update) -> bool {
    matches!(update, Update::State { record: Some(record), .. } if record.state == State::Queued)
}

/// Events may be gone while the record still has the outcome; of a job that expired nothing may be kept but that.
async fn give_up(
    session: &Session,
    key: &JobKey,
    error: grange_broker_client::Error,
    output: &mut dyn Output,
) -> Result<Box<Record>, Failure> {
    if error.kind() == ErrorKind::NotFound {
        match session.ledger.read(key).await? {
            Stored::Record { record, .. } if record.state.is_terminal() => {
                output.say(Level::Warning, &error.to_string())?;
                return Ok(record);
            }
            Stored::Marker { .. } => return Err(Failure::new(Exit::JobExpired, error.to_string())),
            Stored::Record { .. } | Stored::Nothing => {}
        }
    }
    Err(Failure::from(error).hint(format!("the job goes on without us: `grange watch {}`", key.job)))
}

async fn ask_for_end(session: &Session, key: &JobKey, output: &mut dyn Output) -> Result<(), Failure> {
    let answer = cancel(&session.broker, &session.ledger, key, "Ctrl-C").await?;
    let text = match answer {
        Cancelled::AtOnce => "cancelled before it began",
        Cancelled::Requested => "its agent was asked to end it",
        Cancelled::AlreadyEnded(_) => "it had ended before",
    };
    Ok(output.say(Level::Note, text)?)
}

fn left(key: &JobKey) -> Failure {
    let id = &key.job;
    Failure::new(Exit::LeftRunning, format!("interrupted; job {id} is left running"))
        .hint(format!("`grange watch {id}` follows it again, `grange cancel {id}` ends it"))
}
