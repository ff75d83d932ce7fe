//! Reads the overview again and again.

use super::{Latest, Own, Reading, facts};
use crate::causes::chain;
use crate::clock::{about, boot_ms};
use crate::news::HouseEvent;
use grange_broker_client::bucket::{Bucket, Entry};
use grange_broker_client::connect::Broker;
use grange_broker_client::error::Error;
use grange_broker_client::upkeep::clock_ms;
use grange_protocol::facts::{OVERVIEW_KEY, OVERVIEW_MS, Overview};
use grange_protocol::subject::LANES_BUCKET;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// The broker's clock is asked this often, milliseconds; in between this host's own goes on.
const CLOCK_MS: u64 = 60_000;

/// This host's clock against the broker's.
#[derive(Clone, Copy, Debug)]
struct BrokerClock {
    read_ms: u64,
    broker_ms: u64,
}

impl BrokerClock {
    async fn read(broker: &Broker) -> Result<Self, Error> {
        let broker_ms = clock_ms(broker).await?;
        Ok(Self { read_ms: boot_ms(), broker_ms })
    }

    /// A moment of the broker's clock, in milliseconds since this host booted.
    fn since_boot_ms(&self, broker_ms: u64) -> u64 {
        (self.read_ms + broker_ms).saturating_sub(self.broker_ms)
    }
}

/// Reads the overview again and again, tells the house what is new in it, and keeps the newest for others.
pub struct Reader {
    broker: Broker,
    bucket: Bucket,
    own: Own,
    news: mpsc::Sender<HouseEvent>,
    latest: watch::Sender<Option<Arc<Reading>>>,
    clock: Option<BrokerClock>,
    revision: u64,
}

impl Reader {
    /// A reader, and where it keeps the newest overview.
    pub fn new(broker: &Broker, own: Own, news: mpsc::Sender<HouseEvent>) -> (Self, Latest) {
        let (latest, newest) = watch::channel(None);
        let bucket = Bucket::new(broker, LANES_BUCKET);
        (Self { broker: broker.clone(), bucket, own, news, latest, clock: None, revision: 0 }, newest)
    }

    /// Reads until nobody listens.
    pub async fn run(mut self) {
        let mut troubled = false;
        while !self.news.is_closed() {
            match self.look().await {
                Ok(()) => troubled = false,
                Err(error) if !troubled => {
                    troubled = true;
                    tracing::warn!(
                        why = chain(&error),
                        "overview not read; this agent looks for itself meanwhile"
                    );
                }
                Err(error) => tracing::debug!(%error, "overview not read"),
            }
            tokio::time::sleep(about(OVERVIEW_MS)).await;
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let Some(entry) = self.bucket.get_copy::<Overview>(OVERVIEW_KEY).await? else { return Ok(()) };
        if entry.revision == self.revision {
            return Ok(());
        }
        let clock = match self.clock.filter(|clock| boot_ms() < clock.read_ms + CLOCK_MS) {
            Some(clock) => clock,
            None => *self.clock.insert(BrokerClock::read(&self.broker).await?),
        };
        self.revision = entry.revision;
        self.take(entry, clock).await;
        Ok(())
    }

    async fn take(&mut self, entry: Entry<Overview>, clock: BrokerClock) {
        let made_ms = clock.since_boot_ms(entry.value.at_ms).min(boot_ms());
        let before = self.latest.borrow().clone().unwrap_or_default();
        let reading = before.followed_by(entry.value, made_ms);
        if !reading.is_fresh() {
            return;
        }
        let facts = facts(&reading.overview, &self.own.at(made_ms), reading.age_ms());
        self.latest.send_replace(Some(Arc::new(reading)));
        let _ = self.news.send(HouseEvent::Facts(Box::new(facts))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_the_broker_are_told_by_this_hosts_clock() {
        let clock = BrokerClock { read_ms: 5_000, broker_ms: 1_700_000_000_000 };
        assert_eq!(clock.since_boot_ms(1_700_000_001_000), 6_000);
        assert_eq!(clock.since_boot_ms(1_699_999_999_000), 4_000);
    }
}
