//! The connection to the broker.
//!
//! Owns how to connect, what a server must be, and the news of reconnects. Never knows a job.

use crate::error::{self, Error, ErrorKind};
use crate::refusals::{self, Recent, Refusal};
use crate::tls;
use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ConnectOptions, Event, Message, Subject};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// The oldest server that keeps what Grange relies on.
pub const MINIMUM_SERVER: (u32, u32, u32) = (2, 15, 1);

const PING_INTERVAL: Duration = Duration::from_secs(5);
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// Messages that may wait in one subscription before it counts as slow.
const SUBSCRIPTION_CAPACITY: usize = 65_536;
/// Publishes that may wait for their acknowledgement.
const ACKS_IN_FLIGHT: usize = 32_768;
const JETSTREAM_CHECK: Duration = Duration::from_secs(2);

/// How to connect.
#[derive(Clone)]
pub struct Options {
    /// One address or several with commas between, e.g. `nats://localhost:4222`.
    pub url: String,
    /// User, with `password`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<String>,
    /// Token, for servers that ask for one.
    pub token: Option<String>,
    /// File with a JWT and its seed.
    pub creds_file: Option<PathBuf>,
    /// What the server shows for this connection.
    pub name: String,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time to wait for one answer.
    pub request_timeout: Duration,
    /// Keep trying until a broker answers, with jitter. Credentials and versions are not waited for.
    pub wait_for_broker: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            user: None,
            password: None,
            token: None,
            creds_file: None,
            name: "grange".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            wait_for_broker: false,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("creds_file", &self.creds_file)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A connection to a broker that is new enough and has JetStream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    client: Client,
    jetstream: jetstream::Context,
    request_timeout: Duration,
    reconnects: watch::Receiver<u64>,
    disturbances: watch::Receiver<u64>,
    refusals: watch::Receiver<Recent>,
}

/// What the event callback tells the rest.
struct News {
    lost: AtomicBool,
    reconnects: watch::Sender<u64>,
    disturbances: watch::Sender<u64>,
    refusals: watch::Sender<Recent>,
}

impl News {
    fn take(&self, event: &Event) {
        match event {
            Event::Disconnected => self.lost.store(true, Ordering::Release),
            Event::Connected => {
                if self.lost.swap(false, Ordering::AcqRel) {
                    self.reconnects.send_modify(|count| *count += 1);
                    self.disturbances.send_modify(|count| *count += 1);
                }
            }
            Event::SlowConsumer(_) => self.disturbances.send_modify(|count| *count += 1),
            Event::ServerError(error) => refusals::take(&self.refusals, error),
            Event::LameDuckMode | Event::Draining | Event::Closed | Event::ClientError(_) => {}
        }
        tracing::debug!(%event, "broker connection");
    }
}

impl Broker {
    /// Connects and checks what the server is.
    pub async fn connect(options: &Options) -> Result<Self, Error> {
        loop {
            match Self::connect_once(options).await {
                Err(error) if options.wait_for_broker && error.kind() == ErrorKind::Unreachable => {
                    tracing::warn!(%error, url = options.url, "broker is not reachable; trying again");
                    tokio::time::sleep(retry_delay(5)).await;
                }
                answer => return answer,
            }
        }
    }

    async fn connect_once(options: &Options) -> Result<Self, Error> {
        tls::use_ring();
        let (reconnects, reconnected) = watch::channel(0);
        let (disturbances, disturbed) = watch::channel(0);
        let (refusals, refused) = watch::channel(Recent::default());
        let news = Arc::new(News { lost: AtomicBool::new(false), reconnects, disturbances, refusals });
        let servers: Vec<String> =
            options.url.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let client = connect_options(options, news)
            .await?
            .connect(servers)
            .await
            .map_err(|e| error::from_connect(&options.url, e))?;
        check_version(&options.url, &client)?;
        let jetstream = ContextBuilder::new()
            .timeout(options.request_timeout)
            .ack_timeout(options.request_timeout)
            .max_ack_inflight(ACKS_IN_FLIGHT)
            .build(client.clone());
        let broker = Self {
            client,
            jetstream,
            request_timeout: options.request_timeout,
            reconnects: reconnected,
            disturbances: disturbed,
            refusals: refused,
        };
        broker.check_jetstream(&options.url).await?;
        Ok(broker)
    }

    async fn check_jetstream(&self, url: &str) -> Result<(), Error> {
        let request = async_nats::Request::new().timeout(Some(self.request_timeout.min(JETSTREAM_CHECK)));
        let subject = Subject::from_static("$JS.API.INFO");
        let refusal = self.refusal(subject.clone());
        let enabled = match refusal.or(self.client.send_request(subject, request)).await {
            Ok(Ok(message)) => !message.payload.windows(7).any(|w| w == b"\"error\""),
            // A user who may not ask gets no answer at all: the server's own word has to do.
            Ok(Err(_)) | Err(_) => self.client.server_info().jetstream,
        };
        if enabled {
            return Ok(());
        }
        let text =
            format!("the broker at `{url}` has no JetStream for this account; start nats-server with `-js`");
        Err(Error::new(ErrorKind::NoJetStream, text))
    }

    /// The NATS client underneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The JetStream context underneath.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Counts reconnects; subscriptions are back when it changes, messages in between are not.
    pub fn reconnects(&self) -> watch::Receiver<u64> {
        self.reconnects.clone()
    }

    /// Counts everything after which a subscription may have missed messages: reconnects and slow consumers.
    pub fn disturbances(&self) -> watch::Receiver<u64> {
        self.disturbances.clone()
    }

    /// Longest time that one answer is waited for.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Hears whether the server refuses this user a subject that is used from now on.
    pub(crate) fn refusal(&self, subject: Subject) -> Refusal {
        Refusal::of(subject, &self.refusals)
    }

    /// Sends a request and waits for one answer. Nobody there is `NotFound`; `Unauthorised`: this user may not ask.
    pub async fn request(&self, subject: String, payload: Bytes) -> Result<Message, Error> {
        let request = async_nats::Request::new().payload(payload).timeout(Some(self.request_timeout));
        let subject = Subject::from(subject);
        let answer = self.refusal(subject.clone()).or(self.client.send_request(subject.clone(), request));
        answer.await?.map_err(|e| error::from_request(&subject, e))
    }

    /// Waits until the server has taken everything that this connection sent before, subscriptions included.
    pub async fn settle(&self) -> Result<(), Error> {
        let inbox = self.client.new_inbox();
        let request = async_nats::Request::new().inbox(inbox.clone()).timeout(Some(self.request_timeout));
        // The request is its own answer: it comes back on the inbox that it is sent to.
        self.client.send_request(inbox.clone(), request).await.map_err(|e| error::from_request(&inbox, e))?;
        Ok(())
    }
}

async fn connect_options(options: &Options, news: Arc<News>) -> Result<ConnectOptions, Error> {
    let who = options.user.clone().unwrap_or_else(|| Uuid::now_v7().simple().to_string());
    let who: String =
        who.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let mut connect = ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(options.connect_timeout)
        .request_timeout(Some(options.request_timeout))
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .custom_inbox_prefix(format!("_INBOX_{who}"))
        .reconnect_delay_callback(retry_delay)
        .event_callback(move |event| {
            news.take(&event);
            std::future::ready(())
        });
    if let (Some(user), Some(password)) = (&options.user, &options.password) {
        connect = connect.user_and_password(user.clone(), password.clone());
    }
    if let Some(token) = &options.token {
        connect = connect.token(token.clone());
    }
    if let Some(path) = &options.creds_file {
        connect = connect
            .credentials_file(path)
            .await
            .map_err(|e| Error::file("read the credentials file", path, e))?;
    }
    Ok(connect)
}

/// Grows to 2 s; half of it is by chance, so that a farm does not come back in one moment.
fn retry_delay(attempt: usize) -> Duration {
    let full = SHORTEST_RETRY.saturating_mul(1 << attempt.min(5)).min(LONGEST_RETRY);
    let chance = Uuid::now_v7().as_bytes()[15];
    (full / 2 + full / 2 * u32::from(chance) / 255).max(SHORTEST_RETRY)
}

fn check_version(url: &str, client: &Client) -> Result<(), Error> {
    let found = client.server_info().version;
    if parse_version(&found) >= Some(MINIMUM_SERVER) {
        return Ok(());
    }
    let (major, minor, patch) = MINIMUM_SERVER;
    Err(Error::new(
        ErrorKind::OldServer,
        format!(
            "the broker at `{url}` is nats-server {found}; Grange needs {major}.{minor}.{patch} or newer: upgrade it, \
             or run `grange up` for a private one"
        ),
    ))
}

/// Reads `2.15.1` and `2.15.1-beta.2` alike.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(parse_version("2.15.1") >= Some(MINIMUM_SERVER));
        assert!(parse_version("2.16.0-dev") >= Some(MINIMUM_SERVER));
        assert!(parse_version("2.9.25") < Some(MINIMUM_SERVER));
        assert!(parse_version("?") < Some(MINIMUM_SERVER));
    }

    #[test]
    fn retries_wait_between_a_tenth_and_two_seconds() {
        for attempt in 0..100 {
            let delay = retry_delay(attempt);
            assert!((SHORTEST_RETRY..=LONGEST_RETRY).contains(&delay), "{delay:?}");
        }
    }
}
