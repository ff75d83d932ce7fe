//! A job whose waiting time ran out: told when it happens, whether or not anybody has written it down.
//!
//! Owns the record that a marker stands for. Never writes it: that is for an agent, which needs the ticket.

use crate::api;
use crate::connect::Broker;
use crate::error::{Error, ErrorKind};
use crate::ledger::Ledger;
use grange_protocol::lifecycle::end_unclaimed;
use grange_protocol::ownership::Stored;
use grange_protocol::record::{Outcome, Record, State};
use grange_protocol::subject::{JOBS, JobKey, parse_ticket};

/// What a job is of which a marker was seen: `expired`, as it is written or as it will be; or what somebody made of it
/// meanwhile. `NotFound`: nothing is kept of it.
pub(crate) async fn record(broker: &Broker, ledger: &Ledger, key: &JobKey) -> Result<Box<Record>, Error> {
    if let Some(record) = written(ledger, key).await? {
        return Ok(record);
    }
    if let Some(ticket) = api::leader_last(broker, JOBS, &key.any_ticket()).await?
        && let Ok((lane, _)) = parse_ticket(&ticket.subject)
    {
        let queued = Record::new(&lane, State::Queued, ticket.stored_ms);
        let ended = end_unclaimed(Some(&queued), &lane, State::Expired, Outcome::default(), api::now_ms());
        return Ok(Box::new(ended.unwrap_or(queued)));
    }
    // The ticket goes after the record is written.
    let text = format!("job `{key}` has expired: its waiting time ran out; nothing else is kept of it");
    written(ledger, key).await?.ok_or_else(|| Error::new(ErrorKind::NotFound, text))
}

async fn written(ledger: &Ledger, key: &JobKey) -> Result<Option<Box<Record>>, Error> {
    match ledger.read(key).await? {
        Stored::Record { record, .. } => Ok(Some(record)),
        Stored::Nothing | Stored::Marker { .. } => Ok(None),
    }
}
