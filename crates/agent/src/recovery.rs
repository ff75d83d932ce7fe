//! After a restart: ends what the last life left behind, and hands its jobs back at once.
//!
//! Each attempt is given up on its own fence: where somebody took it over meanwhile, nothing is written.

use crate::attempts::ring;
use crate::claims::Claims;
use crate::clock::{boot_id, unix_ms};
use crate::journal::Entry;
use crate::letters;
use crate::process::start_ticks;
use bytes::Bytes;
use grange_broker_client::error::Error;
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::lifecycle::{GivenUp, RetryCause, conclude, retry};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Outcome, State};
use grange_protocol::retry::{Decision, decide};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::time::Duration;

/// How long a supervisor whose agent is gone may take to end its worker, before it is killed itself.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(5);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until the process of this journal entry is gone; ends it if it does not end by itself.
pub async fn end_leftover(entry: &Entry) {
    let is_there = || is_there(entry, boot_id(), start_ticks(entry.supervisor));
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
    let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
    // What the descriptor names stays that process: looked at once more, it can be no other.
    if is_there() {
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

/// Whether the process of an entry lives: its number alone may by now be another's, and after a boot so may its begin.
fn is_there(entry: &Entry, boot: &str, began: Option<u64>) -> bool {
    (entry.boot.is_empty() || entry.boot == boot) && began == Some(entry.supervisor_began)
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
        let lost = Failure::new(FailureKind::HostLost, "agent restarted");
        let moved = match decide(&entry.retry, &record.tries, RetryCause::HostLost, lost.kind, 0) {
            Decision::Spent { tries } if record.held_by(&fence, sequence) => {
                let failure = letters::last_of(lost, RetryCause::HostLost, tries, &record);
                letters::bury(&claims.broker, &key, &record, &failure).await;
                let outcome = Outcome { failure: Some(failure), ..Outcome::default() };
                conclude(&record, sequence, &fence, State::Failed, outcome, now)
            }
            // An agent that is back is as good as any other: nobody has to leave it to others.
            Decision::Spent { .. } | Decision::Final | Decision::Again(_) => {
                let given_up = GivenUp { failure: Some(&lost), ..GivenUp::at_once(RetryCause::HostLost) };
                retry(&record, sequence, &fence, &given_up, "agent restarted", now)
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// An entry of a process with this number, begun then, in this boot.
    fn entry(supervisor: u32, supervisor_began: u64, boot: &str) -> Entry {
        Entry {
            owner: "alice".parse().unwrap(),
            job: "1".parse().unwrap(),
            number: 1,
            claim: 1,
            agent: "h1".parse().unwrap(),
            incarnation: "i1".parse().unwrap(),
            ack: String::new(),
            ticket: String::new(),
            retry: grange_protocol::retry::RetryPolicy::default(),
            supervisor,
            supervisor_began,
            boot: boot.to_owned(),
        }
    }

    #[test]
    fn a_number_is_no_process() {
        assert!(is_there(&entry(7, 50, "now"), "now", Some(50)));
        assert!(is_there(&entry(7, 50, ""), "now", Some(50)), "a journal of before knew no boots");
        assert!(!is_there(&entry(7, 50, "now"), "now", Some(51)), "another process has its number");
        assert!(!is_there(&entry(7, 50, "then"), "now", Some(50)), "and after a boot its begin too");
        assert!(!is_there(&entry(7, 50, "now"), "now", None));
    }

    #[tokio::test]
    async fn a_forged_journal_ends_no_stranger() {
        let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
        let began = start_ticks(stranger.id()).unwrap();
        for forged in [entry(stranger.id(), began + 1, boot_id()), entry(stranger.id(), began, "another")] {
            end_leftover(&forged).await;
            assert!(stranger.try_wait().unwrap().is_none(), "{forged:?}");
        }
        end_leftover(&entry(stranger.id(), began, boot_id())).await;
        stranger.wait().unwrap();
    }
}
