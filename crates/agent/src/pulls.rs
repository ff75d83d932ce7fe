//! Pulls: asks queues for tickets, and passes on what comes.
//!
//! A pull is never cancelled, so nothing that was delivered is lost. Where one was not answered in time, the broker may no
//! longer send to its inbox, and nobody is told: the next ones go by a new one, and the old one is still heard for as long
//! as that. Never decides which queue to ask.

use crate::clock::boot_ms;
use crate::news::{HouseEvent, PullEnd};
use crate::tickets;
use async_nats::connection::State;
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use grange_protocol::subject::Queue;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// A pull after a bell waits so long: the republished header can overtake the consumer's count.
const WAIT_MS: u64 = 100;
/// A pull that nobody answered is over after this, milliseconds beyond its own time.
const OVERDUE_MS: u64 = 3_000;
/// A look: a pull that takes nothing, because no ticket is so small. The server answers an empty queue with "no messages",
/// another one with "message size exceeds max bytes", and counts no delivery.
const PEEK: &str = r#"{"batch":1,"no_wait":true,"max_bytes":1}"#;
/// Status: the queue is empty.
const NO_MESSAGES: u16 = 404;
/// Status: nobody takes pulls of this queue.
const NO_RESPONDERS: u16 = 503;
/// Status: the pull ends; its text says why.
const ENDED: u16 = 409;

/// A pull that is out.
struct Out {
    number: u64,
    left: u32,
    waits: bool,
    over_at_ms: u64,
}

/// What is out: one pull and one look of each queue. The subject of an answer ends in the pull's number, so that what comes late of
/// an earlier pull does not end a later one.
#[derive(Default)]
struct Asked {
    newest: u64,
    out: HashMap<Queue, Out>,
    queues: HashMap<u64, Queue>,
    /// The newest look into each queue.
    looks: HashMap<Queue, u64>,
    looked_into: HashMap<u64, Queue>,
}

/// Whose answer came.
enum Answered {
    Pull(Queue, bool),
    Look(Queue),
}

/// The agent's end of the queues.
pub struct Pulls {
    client: Client,
    inbox: String,
    asked: Arc<Mutex<Asked>>,
    news: mpsc::Sender<HouseEvent>,
    /// Who hears the newest inbox, and the one before.
    ears: (AbortHandle, Option<AbortHandle>),
}

impl Pulls {
    /// Subscribes the inbox and begins to pass on what comes.
    pub async fn open(
        client: Client,
        news: mpsc::Sender<HouseEvent>,
    ) -> Result<Self, async_nats::SubscribeError> {
        let asked = Arc::<Mutex<Asked>>::default();
        let (inbox, ear) = listen(&client, &asked, &news).await?;
        Ok(Self { client, inbox, asked, news, ears: (ear, None) })
    }

    /// Asks by another inbox from now on. While there is no connection that changes nothing, and nothing is done.
    pub async fn rebuild(&mut self) {
        if self.client.connection_state() != State::Connected {
            return;
        }
        match listen(&self.client, &self.asked, &self.news).await {
            Ok((inbox, ear)) => {
                tracing::warn!(before = self.inbox, "a pull was not answered in time; another inbox is used");
                self.inbox = inbox;
                let before = std::mem::replace(&mut self.ears.0, ear);
                if let Some(oldest) = self.ears.1.replace(before) {
                    oldest.abort();
                }
            }
            Err(error) => tracing::warn!(%error, "no other inbox for pulls"),
        }
    }

    /// Asks a queue for at most `batch` tickets. An ask that could not be sent ends by itself, as overdue.
    pub async fn pull(&self, queue: &Queue, batch: u32, wait: bool) {
        let number = lock(&self.asked).ask(queue, batch, wait);
        let body = if wait {
            format!("{{\"batch\":{batch},\"expires\":{}}}", WAIT_MS * 1_000_000)
        } else {
            format!("{{\"batch\":{batch},\"no_wait\":true}}")
        };
        let reply = format!("{}.{number}", self.inbox);
        let sent = self.client.publish_with_reply(queue.pull(), reply, Bytes::from(body)).await;
        if let Err(error) = sent {
            tracing::debug!(%queue, %error, "pull not sent");
        }
    }

    /// Looks which of these queues are empty, all at once. A look that is not answered changes nothing.
    pub async fn peek(&self, queues: &[Queue]) {
        for queue in queues {
            let reply = format!("{}.{}", self.inbox, lock(&self.asked).look(queue));
            let sent =
                self.client.publish_with_reply(queue.pull(), reply, Bytes::from_static(PEEK.as_bytes()));
            if let Err(error) = sent.await {
                tracing::debug!(%queue, %error, "look not sent");
            }
        }
    }

    /// Queues whose pull was not answered in time; they count as ended.
    pub fn overdue(&self) -> Vec<Queue> {
        let now = boot_ms();
        let mut asked = lock(&self.asked);
        let late = asked.out.iter().filter(|(_, out)| out.over_at_ms <= now);
        let late: Vec<Queue> = late.map(|(queue, _)| queue.clone()).collect();
        for queue in &late {
            asked.close(queue);
        }
        late
    }

    /// The connection was lost: every pull is gone.
    pub fn forget(&self) {
        let mut asked = lock(&self.asked);
        asked.out.clear();
        asked.queues.clear();
        asked.looks.clear();
        asked.looked_into.clear();
    }
}

/// Begins to pass on what a new inbox brings.
async fn listen(
    client: &Client,
    asked: &Arc<Mutex<Asked>>,
    news: &mpsc::Sender<HouseEvent>,
) -> Result<(String, AbortHandle), async_nats::SubscribeError> {
    let inbox = client.new_inbox();
    let arriving = client.subscribe(format!("{inbox}.*")).await?;
    let ear = tokio::spawn(receive(arriving, asked.clone(), news.clone()));
    Ok((inbox, ear.abort_handle()))
}

fn lock(asked: &Mutex<Asked>) -> MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Asked {
    fn ask(&mut self, queue: &Queue, batch: u32, wait: bool) -> u64 {
        self.close(queue);
        self.newest += 1;
        let own_time = if wait { WAIT_MS } else { 0 };
        let over_at_ms = boot_ms() + own_time + OVERDUE_MS;
        self.out.insert(queue.clone(), Out { number: self.newest, left: batch, waits: wait, over_at_ms });
        self.queues.insert(self.newest, queue.clone());
        self.newest
    }

    fn look(&mut self, queue: &Queue) -> u64 {
        self.newest += 1;
        if let Some(before) = self.looks.insert(queue.clone(), self.newest) {
            self.looked_into.remove(&before);
        }
        self.looked_into.insert(self.newest, queue.clone());
        self.newest
    }

    fn close(&mut self, queue: &Queue) {
        if let Some(out) = self.out.remove(queue) {
            self.queues.remove(&out.number);
        }
    }

    /// A ticket came.
    fn came(&mut self, queue: &Queue) {
        if let Some(out) = self.out.get_mut(queue) {
            out.left = out.left.saturating_sub(1);
            if out.left == 0 {
                self.close(queue);
            }
        }
    }

    /// A status came: the look or the pull of this number is over.
    fn answered(&mut self, number: u64) -> Option<Answered> {
        if let Some(queue) = self.looked_into.remove(&number) {
            self.looks.remove(&queue);
            return Some(Answered::Look(queue));
        }
        self.over(number).map(|(queue, waited)| Answered::Pull(queue, waited))
    }

    /// The pull of this number is over. Its queue, and whether it waited.
    fn over(&mut self, number: u64) -> Option<(Queue, bool)> {
        let queue = self.queues.remove(&number)?;
        let out = self.out.remove(&queue)?;
        Some((queue, out.waits))
    }
}

/// Passes on what the inbox brings, in its order.
async fn receive(mut arriving: Subscriber, asked: Arc<Mutex<Asked>>, news: mpsc::Sender<HouseEvent>) {
    while let Some(message) = arriving.next().await {
        let event = match message.status.map(|status| status.as_u16()) {
            Some(status) => {
                let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
                match number.and_then(|number| lock(&asked).answered(number)) {
                    Some(Answered::Pull(queue, waited)) => {
                        Some(HouseEvent::PullEnded(queue, end_of(status, &message, waited)))
                    }
                    Some(Answered::Look(queue)) if status == NO_MESSAGES => {
                        Some(HouseEvent::FoundEmpty(queue))
                    }
                    Some(Answered::Look(_)) | None => None,
                }
            }
            None => tickets::read(&message).map(|arrival| {
                lock(&asked).came(arrival.queue());
                HouseEvent::Arrived(Box::new(arrival))
            }),
        };
        if let Some(event) = event
            && news.send(event).await.is_err()
        {
            return;
        }
    }
}

fn end_of(status: u16, message: &Message, waited: bool) -> PullEnd {
    let says = |text: &str| message.description.as_ref().is_some_and(|said| said.contains(text));
    match status {
        NO_RESPONDERS => PullEnd::NoConsumer { waited },
        ENDED if says("Consumer Deleted") => PullEnd::NoConsumer { waited },
        _ => PullEnd::Empty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(owner: &str) -> Queue {
        Queue::parse(&format!("default:normal:ocr:{owner}")).unwrap()
    }

    #[test]
    fn what_comes_late_of_an_earlier_pull_ends_no_later_one() {
        let mut asked = Asked::default();
        let first = asked.ask(&queue("a"), 2, true);
        asked.close(&queue("a"));
        let second = asked.ask(&queue("a"), 2, true);
        assert_eq!(asked.over(first), None);
        assert_eq!(asked.over(second), Some((queue("a"), true)));
        assert_eq!(asked.over(second), None);
    }

    #[test]
    fn a_pull_is_over_with_its_last_ticket() {
        let mut asked = Asked::default();
        let number = asked.ask(&queue("a"), 2, false);
        let other = asked.ask(&queue("b"), 1, false);
        asked.came(&queue("a"));
        asked.came(&queue("a"));
        asked.came(&queue("a"));
        assert_eq!((asked.over(number), asked.over(other)), (None, Some((queue("b"), false))));
        assert!(asked.out.is_empty() && asked.queues.is_empty(), "nothing is kept of what is over");
    }

    #[test]
    fn only_the_newest_look_into_a_queue_says_anything() {
        let mut asked = Asked::default();
        let (first, second) = (asked.look(&queue("a")), asked.look(&queue("a")));
        assert!(asked.answered(first).is_none());
        assert!(matches!(asked.answered(second), Some(Answered::Look(of)) if of == queue("a")));
        assert!(asked.answered(second).is_none());
        assert!(asked.looks.is_empty() && asked.looked_into.is_empty(), "nothing is kept of what is over");
    }
}
