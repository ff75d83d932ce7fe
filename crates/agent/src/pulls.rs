//! Bells and pulls: hears that tickets were published, asks lanes for them, and passes on what comes.
//!
//! One inbox for the whole life of the connection; it is never unsubscribed, and a pull is never cancelled, so nothing
//! that was delivered is lost. Never decides which lane to ask.

use crate::clock::boot_ms;
use crate::news::HouseEvent;
use crate::tickets::{self, Arrival};
use async_nats::{Client, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use grange_protocol::name::{Class, PluginName};
use grange_protocol::subject::{Lane, bells, parse_ticket};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// A pull after a bell waits so long: the republished header can overtake the consumer's count.
const WAIT_MS: u64 = 100;
/// A pull that nobody answered is over after this, milliseconds beyond its own time.
const OVERDUE_MS: u64 = 3_000;
/// Agents of a farm share the bells.
const BELL_GROUP: &str = "agents";

/// A pull that is out.
struct Out {
    left: u32,
    over_at_ms: u64,
}

/// Lanes that were ever asked, by their place in the list: an answer's subject ends in it.
#[derive(Default)]
struct Asked {
    lanes: Vec<Lane>,
    places: HashMap<Lane, usize>,
    out: HashMap<Lane, Out>,
}

/// The agent's end of the queue.
pub struct Pulls {
    client: Client,
    inbox: String,
    asked: Arc<Mutex<Asked>>,
    news: mpsc::Sender<HouseEvent>,
    ears: HashMap<(Class, PluginName), AbortHandle>,
}

impl Pulls {
    /// Subscribes the inbox and begins to pass on what comes.
    pub async fn open(
        client: Client,
        news: mpsc::Sender<HouseEvent>,
    ) -> Result<Self, async_nats::SubscribeError> {
        let inbox = client.new_inbox();
        let arriving = client.subscribe(format!("{inbox}.*")).await?;
        let asked = Arc::<Mutex<Asked>>::default();
        tokio::spawn(receive(arriving, asked.clone(), news.clone()));
        Ok(Self { client, inbox, asked, news, ears: HashMap::new() })
    }

    /// Hears the bells of exactly these pairs.
    pub async fn listen(&mut self, pairs: &[(Class, PluginName)]) -> Result<(), async_nats::SubscribeError> {
        self.ears.retain(|pair, ear| {
            let kept = pairs.contains(pair);
            if !kept {
                ear.abort();
            }
            kept
        });
        for pair in pairs {
            if !self.ears.contains_key(pair) {
                let heard =
                    self.client.queue_subscribe(bells(&pair.0, &pair.1), BELL_GROUP.to_owned()).await?;
                let ear = tokio::spawn(hear(heard, self.news.clone()));
                self.ears.insert(pair.clone(), ear.abort_handle());
            }
        }
        Ok(())
    }

    /// Asks a lane for at most `batch` tickets. An ask that could not be sent ends by itself, as overdue.
    pub async fn pull(&self, lane: &Lane, batch: u32, wait: bool) {
        let place = self.asked.lock().unwrap_or_else(PoisonError::into_inner).ask(lane, batch, wait);
        let body = if wait {
            format!("{{\"batch\":{batch},\"expires\":{}}}", WAIT_MS * 1_000_000)
        } else {
            format!("{{\"batch\":{batch},\"no_wait\":true}}")
        };
        let reply = format!("{}.{place}", self.inbox);
        let sent = self.client.publish_with_reply(lane.pull(), reply, Bytes::from(body)).await;
        if let Err(error) = sent {
            tracing::debug!(%lane, %error, "pull not sent");
        }
    }

    /// Lanes whose pull was not answered in time; they count as ended.
    pub fn overdue(&self) -> Vec<Lane> {
        let now = boot_ms();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let late: Vec<Lane> =
            asked.out.iter().filter(|(_, out)| out.over_at_ms <= now).map(|(lane, _)| lane.clone()).collect();
        for lane in &late {
            asked.out.remove(lane);
        }
        late
    }

    /// The connection was lost: every pull is gone.
    pub fn forget(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).out.clear();
    }
}

impl Asked {
    fn ask(&mut self, lane: &Lane, batch: u32, wait: bool) -> usize {
        let own_time = if wait { WAIT_MS } else { 0 };
        let out = Out { left: batch, over_at_ms: boot_ms() + own_time + OVERDUE_MS };
        self.out.insert(lane.clone(), out);
        if let Some(place) = self.places.get(lane) {
            return *place;
        }
        self.lanes.push(lane.clone());
        self.places.insert(lane.clone(), self.lanes.len() - 1);
        self.lanes.len() - 1
    }

    /// A ticket came.
    fn came(&mut self, lane: &Lane) {
        if let Some(out) = self.out.get_mut(lane) {
            out.left = out.left.saturating_sub(1);
            if out.left == 0 {
                self.out.remove(lane);
            }
        }
    }

    /// A status came: the pull of this place is over.
    fn over(&mut self, subject: &Subject) -> Option<Lane> {
        let place: usize = subject.rsplit('.').next()?.parse().ok()?;
        let lane = self.lanes.get(place)?.clone();
        self.out.remove(&lane).map(|_| lane)
    }
}

/// Passes on what the inbox brings, in its order.
async fn receive(mut arriving: Subscriber, asked: Arc<Mutex<Asked>>, news: mpsc::Sender<HouseEvent>) {
    while let Some(message) = arriving.next().await {
        let event = if message.status.is_some() {
            let over = asked.lock().unwrap_or_else(PoisonError::into_inner).over(&message.subject);
            over.map(HouseEvent::PullEnded)
        } else {
            let arrival = tickets::read(&message);
            if let Some(arrival) = &arrival {
                let lane = match arrival {
                    Arrival::Ticket(delivery) => &delivery.lane,
                    Arrival::Unusable(unusable) => &unusable.lane,
                };
                asked.lock().unwrap_or_else(PoisonError::into_inner).came(lane);
            }
            arrival.map(|arrival| HouseEvent::Arrived(Box::new(arrival)))
        };
        if let Some(event) = event
            && news.send(event).await.is_err()
        {
            return;
        }
    }
}

/// Passes on the bells of one pair.
async fn hear(mut heard: Subscriber, news: mpsc::Sender<HouseEvent>) {
    while let Some(message) = heard.next().await {
        let Ok((lane, _)) = parse_ticket(&message.subject) else { continue };
        if news.send(HouseEvent::Bell(lane)).await.is_err() {
            return;
        }
    }
}
