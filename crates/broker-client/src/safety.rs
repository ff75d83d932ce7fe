//! The policy `safety`: a job that nobody can start at once is refused. Before the submit the heartbeats are looked at;
//! what nobody has claimed soon after it becomes `refused`, unless it was claimed meanwhile.
//!
//! Owns the look and the compare-and-set of the refusal. Whether a host could start a job is `protocol::admission`'s.

use crate::api;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::headers;
use crate::ledger::Ledger;
use crate::query;
use crate::submit::Submitted;
use crate::tidy;
use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use grange_protocol::admission::{self, Refusal};
use grange_protocol::failure::{Failure, FailureKind};
use grange_protocol::lifecycle::{Denied, end_unclaimed};
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Outcome, Record, State};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::{JobKey, Lane};
use grange_protocol::ticket::Ticket;
use std::time::Duration;
use tokio::time::timeout;

/// How long a job may be unclaimed, unless somebody says otherwise.
pub const CLAIMED_WITHIN: Duration = Duration::from_millis(500);
/// How often the record may change under the refusal before it gives up.
const TRIES: u32 = 16;

/// What the heartbeats say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Some host could start it, as far as is known; with what is not known.
    Could(Vec<String>),
    /// None could; with what is needed and what is there.
    CouldNot(Refusal),
}

/// Whether some host could start a job now. `exact`: what it asks for beyond its plugin's request.
pub async fn look(broker: &Broker, lane: &Lane, exact: Option<&ResourceRequest>) -> Result<Looked, Error> {
    let hosts: Vec<_> = query::agents(broker).await?.into_iter().map(|(status, _)| status).collect();
    Ok(match admission::look(lane, exact, &hosts) {
        Ok(unknown) => Looked::Could(unknown),
        Err(refusal) => Looked::CouldNot(refusal),
    })
}

/// What became of a job that had to be claimed soon.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// An agent has it, or it has ended otherwise.
    Taken,
    /// It is `refused`: this is its record.
    Refused(Box<Record>),
}

/// Hears whether one job is claimed. Make it before the job is submitted.
#[derive(Debug)]
pub struct Watch {
    broker: Broker,
    ledger: Ledger,
    key: JobKey,
    states: Subscriber,
}

impl Watch {
    /// Subscribes to the job's record.
    pub async fn open(broker: &Broker, ledger: &Ledger, key: &JobKey) -> Result<Self, Error> {
        let states = broker.client().subscribe(key.on_state()).await.map_err(|_| Error::closed())?;
        Ok(Self { broker: broker.clone(), ledger: ledger.clone(), key: key.clone(), states })
    }

    /// Waits until the job is claimed or has ended, but no longer than `within`; then refuses it. Its `ticket` says what it
    /// asks for, to say so.
    pub async fn settle(
        mut self,
        submitted: &Submitted,
        ticket: &Ticket,
        within: Duration,
    ) -> Result<Settled, Error> {
        if timeout(within, self.taken()).await.is_ok() {
            return Ok(Settled::Taken);
        }
        let late = format!("no agent claimed it within {} ms", within.as_millis());
        let why = match look(&self.broker, &submitted.lane, ticket.resources.as_ref()).await {
            Ok(Looked::CouldNot(refusal)) => format!("{late}; {refusal}"),
            Ok(Looked::Could(_)) | Err(_) => late,
        };
        refuse(&self.broker, &self.ledger, &self.key, &submitted.lane, &why).await
    }

    /// Ends when somebody has the job. A copy that is lost is made good by the leader, which is asked afterwards.
    async fn taken(&mut self) {
        while let Some(message) = self.states.next().await {
            if is_taken(&message) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

fn is_taken(message: &Message) -> bool {
    if message.headers.as_ref().is_some_and(|headers| headers.get(headers::MARKER).is_some()) {
        return true;
    }
    Record::read(&message.payload).is_ok_and(|record| record.state.is_held() || record.state.is_terminal())
}

/// Makes a job that nobody holds `refused`, with this reason; one that was claimed meanwhile goes on. `Timeout`: nobody
/// knows; the record tells.
pub async fn refuse(
    broker: &Broker,
    ledger: &Ledger,
    key: &JobKey,
    lane: &Lane,
    why: &str,
) -> Result<Settled, Error> {
    let mut unknown = None;
    for _ in 0..TRIES {
        let (expect, before) = match ledger.read(key).await? {
            Stored::Nothing => (0, None),
            Stored::Marker { .. } => return Ok(Settled::Taken),
            Stored::Record { sequence, record, .. } => (sequence, Some(record)),
        };
        let failure = Failure::new(FailureKind::PluginUnavailable, why);
        let outcome = Outcome { failure: Some(failure), ..Outcome::default() };
        let refused = match end_unclaimed(before.as_deref(), lane, State::Refused, outcome, api::now_ms()) {
            Ok(refused) => refused,
            // The write without an answer was ours, and it came through.
            Err(Denied::Ended(State::Refused)) if unknown.is_some() => {
                return Ok(before.map_or(Settled::Taken, Settled::Refused));
            }
            Err(Denied::Ended(_) | Denied::NotFromHere { .. } | Denied::Lost(_)) => {
                return Ok(Settled::Taken);
            }
        };
        match ledger.write(key, expect, &refused, None).await {
            Ok(_) => {
                tidy::newest(broker, key).await;
                return Ok(Settled::Refused(Box::new(refused)));
            }
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            Err(e) if e.kind() == ErrorKind::Timeout => unknown = Some(e),
            Err(e) => return Err(e),
        }
    }
    let text = format!(
        "job `{key}` changed {TRIES} times while it was to be refused; see `grange status {}`",
        key.job
    );
    Err(unknown.unwrap_or_else(|| Error::new(ErrorKind::Conflict, text)))
}
