//! Queues at the broker: their consumers are made when a bell rings, found again after a start or a gap, and reserved for
//! the one host that saves up for one.

use super::House;
use super::rooms::Search;
use crate::news::{HouseEvent, Opening, PullEnd};
use grange_broker_client::bucket::Bucket;
use grange_broker_client::connect::Broker;
use grange_broker_client::error::ErrorKind;
use grange_broker_client::topology;
use grange_dispatch::Input;
use grange_protocol::facts::Reservation;
use grange_protocol::status::PluginState;
use grange_protocol::subject::{LANES_BUCKET, Queue};
use std::time::Duration;

/// How often a consumer is tried to be made for one bell.
const OPEN_TRIES: u32 = 6;
/// Pause between those tries, doubling.
const OPEN_PAUSE: Duration = Duration::from_millis(100);
/// Pause before the broker is asked again which queues there are.
const SEARCH_PAUSE: Duration = Duration::from_secs(2);
/// How long a reservation stands without its holder.
const SAVING_TTL: Duration = Duration::from_secs(30);

impl House {
    /// Makes a queue's consumer.
    pub(super) fn open_queue(&mut self, queue: Queue) {
        let (broker, news) = (self.claims.broker.clone(), self.news.clone());
        self.rooms.tasks.spawn(async move {
            let opening = open(&broker, &queue).await;
            let _ = news.send(HouseEvent::Opened(queue, opening)).await;
        });
    }

    /// A queue's consumer was made, or could not be.
    pub(super) fn queue_opened(&mut self, queue: Queue, opening: Opening) -> Input {
        let why = match opening {
            Opening::Open => {
                self.rooms.queues.trouble = None;
                return Input::QueueOpen { queue };
            }
            Opening::Full(why) => {
                format!("queue `{queue}` waits: the farm has as many queues as its stream may have ({why})")
            }
            Opening::Failed(why) => format!("queue `{queue}` cannot be made: {why}"),
        };
        tracing::warn!(why, "queue");
        self.rooms.to_tell |= self.rooms.queues.trouble.as_ref() != Some(&why);
        self.rooms.queues.trouble = Some(why);
        Input::QueueClosed { queue }
    }

    /// A pull is over. Where a bell had rung and no consumer was there, it was just removed, or moves to another server:
    /// it is made sure of at once. Else it is looked up after a while whether it is there.
    pub(super) async fn pull_ended(&mut self, queue: Queue, end: PullEnd) -> Option<Input> {
        let PullEnd::NoConsumer { waited } = end else { return Some(Input::PullEnded { queue }) };
        self.decide(Input::PullEnded { queue: queue.clone() }).await;
        if waited {
            self.open_queue(queue.clone());
        } else {
            self.find_queues(SEARCH_PAUSE);
        }
        Some(Input::QueueClosed { queue })
    }

    /// Asks the broker which queues there are, after a while; again and again until it says.
    pub fn find_queues(&mut self, pause: Duration) {
        if self.rooms.queues.search != Search::Resting {
            self.rooms.queues.search = Search::Again;
            return;
        }
        self.rooms.queues.search = Search::UnderWay;
        let (broker, news) = (self.claims.broker.clone(), self.news.clone());
        self.rooms.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            let event = loop {
                match topology::queues(&broker).await {
                    Ok(found) => break HouseEvent::Queues(found),
                    Err(error) => {
                        let why = crate::causes::chain(&error);
                        if news.send(HouseEvent::NoStreams(why)).await.is_err() {
                            return;
                        }
                    }
                }
                tokio::time::sleep(SEARCH_PAUSE).await;
            };
            let _ = news.send(event).await;
        });
    }

    /// These queues have consumers; so the farm's streams are there.
    pub(super) async fn queues_found(&mut self, found: Vec<Queue>) {
        let again = self.rooms.queues.search == Search::Again;
        self.rooms.queues.search = Search::Resting;
        if again {
            self.find_queues(Duration::ZERO);
        }
        if !std::mem::replace(&mut self.rooms.queues.streams_there, true) {
            self.begin_plugins().await;
        }
        for queue in found {
            if self.plugins.contains_key(&queue.lane.plugin) {
                self.decide(Input::QueueOpen { queue }).await;
            }
        }
    }

    /// The farm's streams are not there yet, or the broker does not say.
    pub(super) fn no_streams(&mut self, why: &str) {
        if self.rooms.queues.streams_there {
            return tracing::warn!(why, "queues cannot be listed yet");
        }
        let why = format!("the farm's streams are not there yet: {why}");
        tracing::warn!(why, "plugins wait");
        for plugin in self.plugins.values_mut() {
            if plugin.state == PluginState::Preparing {
                plugin.reason.clone_from(&why);
            }
        }
        self.heartbeat();
    }

    /// Tries to become the one host that saves up room for a queue.
    pub(super) fn save(&mut self, queue: Queue) {
        let reservation = Reservation {
            agent: self.claims.me.agent.clone(),
            incarnation: self.claims.me.incarnation.clone(),
            queue: queue.consumer(),
        };
        let (bucket, news) = (Bucket::new(&self.claims.broker, LANES_BUCKET), self.news.clone());
        self.rooms.tasks.spawn(async move {
            let revision = match bucket.create(&queue.saving(), &reservation, Some(SAVING_TTL)).await {
                Ok(revision) => Some(revision),
                Err(error) => {
                    if error.kind() != ErrorKind::Conflict {
                        tracing::warn!(%queue, %error, "room cannot be reserved");
                    }
                    None
                }
            };
            let _ = news.send(HouseEvent::Saving(queue, revision)).await;
        });
    }

    /// The reservation was made, or another host has it.
    pub(super) fn saving(&mut self, queue: Queue, revision: Option<u64>) -> Input {
        match revision {
            Some(revision) => {
                tracing::info!(%queue, "room is saved up");
                self.rooms.queues.saving.insert(queue.clone(), revision);
                Input::SaveGranted { queue }
            }
            None => Input::SaveRefused { queue },
        }
    }

    /// Others may save up for it again. A reservation that cannot be taken back runs out.
    pub(super) fn end_save(&mut self, queue: &Queue) {
        let Some(revision) = self.rooms.queues.saving.remove(queue) else { return };
        let (bucket, key) = (Bucket::new(&self.claims.broker, LANES_BUCKET), queue.saving());
        self.rooms.tasks.spawn(async move {
            if let Err(error) = bucket.delete(&key, revision).await {
                tracing::debug!(key, %error, "reservation not taken back; it runs out");
            }
        });
    }
}

async fn open(broker: &Broker, queue: &Queue) -> Opening {
    let mut pause = OPEN_PAUSE;
    let mut trouble = String::new();
    for _ in 0..OPEN_TRIES {
        match topology::ensure_queue(broker, queue).await {
            Ok(()) => return Opening::Open,
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                return Opening::Full(crate::causes::chain(&error));
            }
            Err(error) => trouble = crate::causes::chain(&error),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Opening::Failed(trouble)
}
