//! After a restart: ends what the last life left behind, and hands its jobs back at once.
//!
//! Each attempt is given up on its own fence: where somebody took it over meanwhile, nothing is written.

use crate::attempts::ring;
use crate::claims::Claims;
use crate::clock::unix_ms;
use crate::journal::Entry;
use crate::process::start_ticks;
use bytes::Bytes;
use grange_broker_client::error::Error;
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::lifecycle::{RetryCause, conclude, is_spent, retry};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Outcome, State};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

/// How long a supervisor whose agent is gone may take to end its worker, before it is killed itself.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(5);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until the process of this journal entry is gone; ends it if it does not end by itself.
pub async fn end_leftover(entry: &Entry) {
    let is_there = || start_ticks(entry.supervisor) == Some(entry.supervisor_began);
    let waited = tokio::time::timeout(SUPERVISOR_GRACE, async {
        while is_there() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    if waited.await.is_ok() {
        return;
    }
    tracing::warn!(
        supervisor = entry.supervisor,
        "a supervisor of the last life is still there; it is killed"
    );
    let pid = i32::try_from(entry.supervisor).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|_| is_there()) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Gives one attempt of the last life up.
pub async fn give_up(claims: &Claims, entry: &Entry) -> Result<(), Error> {
    let (key, fence) = (entry.key(), entry.fence());
    loop {
        let Stored::Record { sequence, record, .. } = claims.ledger.read(&key).await? else {
            return Ok(());
        };
        if record.state.is_terminal() {
            claims.settle(&entry.ack, Bytes::from_static(b"+ACK")).await;
            return Ok(());
        }
        let now = unix_ms();
        let moved = if is_spent(&record, RetryCause::HostLost) {
            let failure = Failure::new(FailureKind::HostLost, "the host was lost too often while it ran");
            let outcome = Outcome { failure: Some(failure), ..Outcome::default() };
            conclude(&record, sequence, &fence, State::Failed, outcome, now)
        } else {
            retry(&record, sequence, &fence, RetryCause::HostLost, "agent restarted", now)
        };
        let Ok(next) = moved else { return Ok(()) };
        match claims.ledger.write(&key, sequence, &next, None).await {
            Ok(_) if next.state.is_terminal() => {
                claims.settle(&entry.ack, Bytes::from_static(b"+ACK")).await;
                return Ok(());
            }
            Ok(_) => {
                tracing::info!(job = %key, attempt = fence.number, "attempt of the last life handed back");
                claims.nak(&entry.ack, 0).await;
                ring(claims, &entry.ticket).await;
                return Ok(());
            }
            Err(error) if error.kind() == grange_broker_client::error::ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
}
