//! Carries what is due into the queues: jobs whose time has come, and firings of recurring ones.
//!
//! Every agent does it; the broker gives each message to one of them, and to another where it is not acknowledged. Never
//! decides what becomes of a job: `broker_client::schedules` asks its record.

use crate::causes::chain;
use crate::clock::about;
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use grange_broker_client::connect::Broker;
use grange_broker_client::error::{Error, ErrorKind};
use grange_broker_client::ledger::Ledger;
use grange_broker_client::schedules::{Carried, DueMessage, carry, ensure_consumer, read_delivery};
use grange_protocol::schedule::{DUE_CONSUMER, SCHEDULES};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Messages that one pull asks for.
const BATCH: usize = 64;
/// Messages that are carried at one time; no more are taken meanwhile.
const MOST_AT_ONCE: usize = 128;
/// A pull waits so long.
const WAIT: Duration = Duration::from_secs(20);
/// A pull that nobody ended is over after this, beyond its own time.
const OVERDUE: Duration = Duration::from_secs(3);
/// Pause when the broker refuses, milliseconds.
const PAUSE_MS: u64 = 2_000;
/// Pause on a farm that has no stream for schedules: it was made by an older version, milliseconds.
const PAUSE_WITHOUT_STREAM_MS: u64 = 30_000;
/// What could not be carried comes again after this, nanoseconds.
const AGAIN_NS: u64 = 2_000_000_000;

/// Carries for as long as the agent lives.
pub async fn run(broker: Broker) {
    let inbox = broker.client().new_inbox();
    let arriving = match broker.client().subscribe(format!("{inbox}.*")).await {
        Ok(arriving) => arriving,
        Err(error) => return tracing::warn!(%error, "what is due is not carried by this agent"),
    };
    let reconnects = broker.reconnects();
    Carrier { broker, inbox, pulls: 0, arriving, reconnects, carrying: JoinSet::new() }.run().await;
}

struct Carrier {
    broker: Broker,
    inbox: String,
    /// The number of the newest pull: what comes late of an earlier one does not end it.
    pulls: u64,
    arriving: Subscriber,
    reconnects: watch::Receiver<u64>,
    carrying: JoinSet<()>,
}

impl Carrier {
    async fn run(&mut self) {
        while let Some(open) = self.open().await {
            if open && self.pull().await.is_none() {
                return;
            }
        }
    }

    /// Makes sure of the consumer. None: the connection is gone for good.
    async fn open(&mut self) -> Option<bool> {
        let pause = match ensure_consumer(&self.broker).await {
            Ok(()) => return Some(true),
            Err(error) => pause_after(&error),
        };
        tokio::select! {
            () = sleep(about(pause)) => Some(false),
            changed = self.reconnects.changed() => changed.ok().map(|()| false),
        }
    }

    /// Pulls again and again, as long as the consumer is there. None: the connection is gone for good.
    async fn pull(&mut self) -> Option<()> {
        loop {
            self.pulls += 1;
            let body = format!("{{\"batch\":{BATCH},\"expires\":{}}}", WAIT.as_nanos());
            let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{SCHEDULES}.{DUE_CONSUMER}");
            let reply = format!("{}.{}", self.inbox, self.pulls);
            let sent = self.broker.client().publish_with_reply(subject, reply, Bytes::from(body)).await;
            if let Err(error) = sent {
                tracing::debug!(%error, "pull for what is due not sent");
            }
            if !self.take().await? {
                return Some(());
            }
        }
    }

    /// Takes what a pull brings. False: the consumer may be gone.
    async fn take(&mut self) -> Option<bool> {
        let over_at = Instant::now() + WAIT + OVERDUE;
        let mut left = BATCH;
        while left > 0 {
            tokio::select! {
                Some(_) = self.carrying.join_next() => {}
                message = self.arriving.next(), if self.carrying.len() < MOST_AT_ONCE => {
                    let message = message?;
                    match message.status.map(|status| status.as_u16()) {
                        Some(_) if !self.is_of_newest(&message) => {}
                        // The wait is over: the usual end.
                        Some(408) => return Some(true),
                        Some(_) => {
                            sleep(about(PAUSE_MS)).await;
                            return Some(false);
                        }
                        None => if let Some(due) = read_delivery(message) {
                            left -= 1;
                            self.carrying.spawn(settle(self.broker.clone(), due));
                        }
                    }
                }
                changed = self.reconnects.changed() => return changed.ok().map(|()| false),
                () = sleep_until(over_at) => return Some(true),
            }
        }
        Some(true)
    }

    fn is_of_newest(&self, message: &Message) -> bool {
        message.subject.rsplit('.').next().and_then(|number| number.parse().ok()) == Some(self.pulls)
    }
}

fn pause_after(error: &Error) -> u64 {
    tracing::debug!(error = chain(error), "the consumer of what is due cannot be had");
    match error.kind() {
        ErrorKind::NoTopology | ErrorKind::Unauthorised => PAUSE_WITHOUT_STREAM_MS,
        _ => PAUSE_MS,
    }
}

/// Carries one message and says so.
async fn settle(broker: Broker, due: DueMessage) {
    let answer = match carry(&broker, &Ledger::new(&broker), &due).await {
        Ok(Carried::Submitted(key)) => {
            tracing::debug!(job = %key, "its time has come; it waits in its lane");
            Bytes::from_static(b"+ACK")
        }
        Ok(Carried::Known(key)) => {
            tracing::debug!(job = %key, "its time has come, but it is known already");
            Bytes::from_static(b"+ACK")
        }
        Ok(Carried::Unusable(why)) => {
            tracing::warn!(subject = due.subject, why, "what a schedule fired is no job");
            Bytes::from_static(b"+ACK")
        }
        Err(error) => {
            tracing::info!(subject = due.subject, error = chain(&error), "not carried yet; it comes again");
            Bytes::from(format!("-NAK {{\"delay\":{AGAIN_NS}}}"))
        }
    };
    if let Err(error) = broker.client().publish(due.ack, answer).await {
        tracing::debug!(%error, subject = due.subject, "what was carried is not settled; it comes again");
    }
}
