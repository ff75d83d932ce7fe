//! Bells: hears that tickets were published, and rings one again for another agent.
//!
//! One subscription per plugin. Never decides how a plugin's bells are heard, or what follows from one.

use crate::news::{Bell, HouseEvent};
use async_nats::{Client, HeaderMap, Message, SubscribeError, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use grange_dispatch::Ear;
use grange_protocol::name::{JobId, PluginName};
use grange_protocol::subject::{HOPS_HEADER, JobKey, Queue, bells, parse_ticket};
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};

/// The farm's agents with a free place in a loaded worker hear each bell in turn.
const WARM_GROUP: &str = "warm";
/// And so do those that could start a worker.
const COLD_GROUP: &str = "cold";

/// One subscription; dropping it ends it, after what had arrived.
struct Listening {
    ear: Ear,
    _end: oneshot::Sender<()>,
}

/// The agent's ears.
pub struct Bells {
    client: Client,
    news: mpsc::Sender<HouseEvent>,
    ears: HashMap<PluginName, Listening>,
}

impl Bells {
    /// Hears nothing yet.
    pub fn new(client: Client, news: mpsc::Sender<HouseEvent>) -> Self {
        Self { client, news, ears: HashMap::new() }
    }

    /// Hears a plugin's bells so from now on. The new ear is there before the old one goes, so that no bell rings
    /// unheard in between; one may be heard by both.
    pub async fn hear(&mut self, plugin: &PluginName, ear: Option<Ear>) -> Result<(), SubscribeError> {
        if self.ears.get(plugin).map(|listening| listening.ear) == ear {
            return Ok(());
        }
        let Some(ear) = ear else {
            self.ears.remove(plugin);
            return Ok(());
        };
        let subject = bells(plugin);
        let heard = match ear {
            Ear::Warm => self.client.queue_subscribe(subject, WARM_GROUP.to_owned()).await?,
            Ear::Cold => self.client.queue_subscribe(subject, COLD_GROUP.to_owned()).await?,
            Ear::All => self.client.subscribe(subject).await?,
        };
        let (end, ended) = oneshot::channel();
        tokio::spawn(listen(heard, ear, self.news.clone(), ended));
        self.ears.insert(plugin.clone(), Listening { ear, _end: end });
        Ok(())
    }

    /// Rings a bell again. One that is lost is made good by a sweep.
    pub async fn pass_on(&self, queue: &Queue, job: JobId, hops: u32) {
        let key = JobKey { owner: queue.owner.clone(), job };
        let subject = bell_of(&key.ticket(&queue.lane));
        let mut headers = HeaderMap::new();
        headers.insert(HOPS_HEADER, hops.to_string());
        let sent = self.client.publish_with_headers(subject, headers, Bytes::new()).await;
        if let Err(error) = sent {
            tracing::debug!(%queue, %error, "bell not passed on; a sweep will find the ticket");
        }
    }
}

/// The subject of a ticket's bell.
pub fn bell_of(ticket: &str) -> String {
    ticket.replacen("grange.jobs.", "grange.bell.", 1)
}

/// Passes on the bells of one plugin until it is told to end, and then what had arrived before.
async fn listen(
    mut heard: Subscriber,
    ear: Ear,
    news: mpsc::Sender<HouseEvent>,
    mut ended: oneshot::Receiver<()>,
) {
    let mut ending = false;
    loop {
        tokio::select! {
            message = heard.next() => {
                let Some(message) = message else { return };
                let Some(bell) = read(&message, ear) else { continue };
                if news.send(HouseEvent::Bell(bell)).await.is_err() {
                    return;
                }
            }
            _ = &mut ended, if !ending => {
                ending = true;
                if heard.unsubscribe().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// None: it is no bell.
fn read(message: &Message, ear: Ear) -> Option<Bell> {
    let (lane, key) = parse_ticket(&message.subject).ok()?;
    let hops = message.headers.as_ref().and_then(|headers| headers.get(HOPS_HEADER));
    let hops = hops.and_then(|hops| hops.as_str().parse().ok()).unwrap_or(0);
    Some(Bell { queue: Queue { lane, owner: key.owner }, job: key.job, ear, hops })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, hops: Option<&str>) -> Message {
        let mut headers = HeaderMap::new();
        if let Some(hops) = hops {
            headers.insert(HOPS_HEADER, hops);
        }
        Message {
            subject: subject.into(),
            reply: None,
            payload: Bytes::new(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_bell_says_queue_job_and_hops() {
        let heard = read(&message("grange.bell.g1.high.ocr.alice.7", Some("2")), Ear::Cold).unwrap();
        assert_eq!(heard.queue.consumer(), "g1:high:ocr:alice");
        assert_eq!((heard.job.as_str(), heard.ear, heard.hops), ("7", Ear::Cold, 2));
        assert_eq!(read(&message("grange.bell.g1.high.ocr.alice.7", None), Ear::All).unwrap().hops, 0);
        let strange = message("grange.bell.g1.high.ocr.alice.7", Some("many"));
        assert_eq!(
            read(&strange, Ear::All).unwrap().hops,
            0,
            "a ticket must not be able to silence its bell"
        );
        assert_eq!(read(&message("grange.bell.g1.soon.ocr.alice.7", None), Ear::All), None);
    }

    #[test]
    fn a_ticket_has_one_bell() {
        assert_eq!(bell_of("grange.jobs.default.high.ocr.alice.7"), "grange.bell.default.high.ocr.alice.7");
    }
}
