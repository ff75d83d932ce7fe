//! Bells: hears that tickets were published, and calls the others when this agent cannot answer one.
//!
//! One subscription per plugin for bells, heard in turn with other agents or not, and one for calls, heard by all. Never
//! decides how a plugin's bells are heard, or what follows from one.

use crate::news::{Bell, HouseEvent};
use async_nats::{Client, HeaderMap, Message, SubscribeError, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use grange_dispatch::Ear;
use grange_protocol::name::{JobId, PluginName};
use grange_protocol::subject::{HOPS_HEADER, JobKey, Queue, bells, calls, parse_ticket};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The farm's agents with a free place in a loaded worker hear each bell in turn.
const WARM_GROUP: &str = "warm";
/// And so do those that could start a worker.
const COLD_GROUP: &str = "cold";
/// Nobody hears this bell: it has no queue.
const NOBODY: &str = "grange.bell.nobody";
/// The answer that nobody hears it comes at once; should somebody, who hears everything, none comes.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// How a plugin's bells and calls are heard; what of it is dropped ends, after what had arrived.
struct Listening {
    ear: Ear,
    _bells: oneshot::Sender<()>,
    _calls: oneshot::Sender<()>,
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
        let heard = self.listen(heard, ear);
        if let Some(listening) = self.ears.get_mut(plugin) {
            (listening.ear, listening._bells) = (ear, heard);
            return Ok(());
        }
        let calls = self.client.subscribe(calls(plugin)).await?;
        let calls = self.listen(calls, Ear::All);
        self.ears.insert(plugin.clone(), Listening { ear, _bells: heard, _calls: calls });
        Ok(())
    }

    /// Begins to pass on what a subscription brings. It ends when what comes back is dropped.
    fn listen(&self, heard: Subscriber, ear: Ear) -> oneshot::Sender<()> {
        let (end, ended) = oneshot::channel();
        tokio::spawn(listen(heard, ear, self.news.clone(), over(self.client.clone(), ended)));
        end
    }

    /// Calls all agents that have room. A call that is lost is made good by a sweep.
    pub async fn pass_on(&self, queue: &Queue, job: JobId, hops: u32) {
        let key = JobKey { owner: queue.owner.clone(), job };
        let subject = key.call(&queue.lane);
        let mut headers = HeaderMap::new();
        headers.insert(HOPS_HEADER, hops.to_string());
        let sent = self.client.publish_with_headers(subject, headers, Bytes::new()).await;
        if let Err(error) = sent {
            tracing::debug!(%queue, %error, "call not sent; a sweep will find the ticket");
        }
    }
}

/// The subject of a ticket's bell.
pub fn bell_of(ticket: &str) -> String {
    ticket.replacen("grange.jobs.", "grange.bell.", 1)
}

/// Passes on the bells of one plugin until that is over, and then what had arrived before.
async fn listen(
    mut heard: Subscriber,
    ear: Ear,
    news: mpsc::Sender<HouseEvent>,
    over: impl Future<Output = ()>,
) {
    let mut over = std::pin::pin!(over);
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
            () = &mut over, if !ending => {
                ending = true;
                if heard.unsubscribe().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Waits until a subscription is wanted no more and all that the server had sent to it has arrived: the client leaves out
/// what comes for one that it has taken back. The server answers a request that nobody hears in the order of all it sends.
async fn over(client: Client, ended: oneshot::Receiver<()>) {
    let _ = ended.await;
    let request = async_nats::Request::new().timeout(Some(ROUND_TRIP));
    let _ = client.send_request(NOBODY, request).await;
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
