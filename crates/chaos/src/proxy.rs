//! One TCP proxy per link, in this process: what goes through it can be cut, held back in one direction, or be late.
//!
//! Owns the two pumps of each connection. A shut direction takes nothing more from its sender, so that buffers fill and
//! nobody is told: as when a cable is out. Never looks into what it carries.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the link does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nothing passes towards the server.
    pub mute: bool,
    /// Nothing passes from the server.
    pub deaf: bool,
    /// Connections are refused.
    pub refuse: bool,
    /// Each piece is so late, milliseconds.
    pub late_ms: u64,
    /// Counts resets: a connection of an older count ends.
    pub resets: u64,
}

/// A link. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    listening: JoinHandle<()>,
}

/// Bytes that are carried at a time.
const PIECE_BYTES: usize = 16 * 1024;
/// Before a server that is away is tried again for a connection that waits.
const AGAIN: Duration = Duration::from_millis(50);

impl Proxy {
    /// Listens on a free port for `upstream`.
    pub async fn start(upstream: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather::default());
        let listening = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if !seen.borrow().refuse {
                    tokio::spawn(carry(near, upstream, seen.clone()));
                }
            }
        });
        Ok(Self { address, weather, listening })
    }

    /// Where the clients of this link connect.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Changes the weather.
    pub fn set(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    /// Everything passes; connections that were held back end, since either end may have given up.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| {
            let resets = weather.resets;
            *weather = Weather { resets, ..Weather::default() };
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.set(|weather| weather.resets += 1);
    }
}

async fn carry(near: TcpStream, upstream: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let resets = weather.borrow_and_update().resets;
    let Some(far) = connect(upstream, resets, &mut weather).await else { return };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let up = Pump { resets, weather: weather.clone(), shut: |weather| weather.mute };
    let down = Pump { resets, weather, shut: |weather| weather.deaf };
    // One end that closes ends both directions, as soon as that direction is open to say so.
    tokio::select! {
        () = up.run(near_in, far_out) => {}
        () = down.run(far_in, near_out) => {}
    }
}

/// A connection to the server, once something may pass to it. None: reset before.
async fn connect(
    upstream: SocketAddr,
    resets: u64,
    weather: &mut watch::Receiver<Weather>,
) -> Option<TcpStream> {
    let now = *weather.wait_for(|now| now.resets != resets || !now.mute).await.ok()?;
    if now.resets != resets {
        return None;
    }
    match TcpStream::connect(upstream).await {
        Ok(far) => Some(far),
        Err(_) => {
            // A server that is away refuses: so does its link, a moment later.
            tokio::time::sleep(AGAIN).await;
            None
        }
    }
}

/// One direction of one connection.
struct Pump {
    resets: u64,
    weather: watch::Receiver<Weather>,
    shut: fn(&Weather) -> bool,
}

impl Pump {
    async fn run(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut piece = vec![0; PIECE_BYTES];
        while self.open().await {
            let read = tokio::select! {
                read = from.read(&mut piece) => read,
                () = Self::changed(self.weather.clone()) => continue,
            };
            let Ok(count) = read else { return };
            // What was read just before the direction was shut waits with the rest.
            if !self.open().await || count == 0 {
                return;
            }
            let late_ms = self.weather.borrow().late_ms;
            if late_ms > 0 {
                tokio::time::sleep(Duration::from_millis(late_ms)).await;
            }
            let written = tokio::select! {
                written = to.write_all(&piece[..count]) => written.is_ok(),
                () = Self::reset(self.weather.clone(), self.resets) => false,
            };
            if !written {
                return;
            }
        }
    }

    /// Waits until this direction is open. False: the connection was reset.
    async fn open(&mut self) -> bool {
        let (resets, shut) = (self.resets, self.shut);
        let now = self.weather.wait_for(|now| now.resets != resets || !shut(now)).await;
        now.is_ok_and(|now| now.resets == resets)
    }

    async fn changed(mut weather: watch::Receiver<Weather>) {
        let _ = weather.changed().await;
    }

    async fn reset(mut weather: watch::Receiver<Weather>, resets: u64) {
        let _ = weather.wait_for(|now| now.resets != resets).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    const MOMENT: Duration = Duration::from_millis(200);

    /// A server that gives back what it is sent, and a connection to it.
    async fn link() -> (Proxy, TcpStream) {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let proxy = Proxy::start(address).await.unwrap();
        let near = TcpStream::connect(proxy.address).await.unwrap();
        (proxy, near)
    }

    async fn says(stream: &mut TcpStream, word: &[u8; 4]) {
        stream.write_all(word).await.unwrap();
    }

    async fn hears(stream: &mut TcpStream, limit: Duration) -> Option<[u8; 4]> {
        let mut heard = [0; 4];
        tokio::time::timeout(limit, stream.read_exact(&mut heard)).await.ok()?.ok().map(|_| heard)
    }

    #[tokio::test]
    async fn what_was_held_back_comes_afterwards() {
        let (proxy, mut near) = link().await;
        says(&mut near, b"one.").await;
        assert_eq!(hears(&mut near, SOON).await, Some(*b"one."));
        for shut in [|weather: &mut Weather| weather.mute = true, |weather: &mut Weather| weather.deaf = true]
        {
            proxy.set(shut);
            says(&mut near, b"two.").await;
            assert_eq!(hears(&mut near, MOMENT).await, None);
            proxy.heal();
            assert_eq!(hears(&mut near, SOON).await, Some(*b"two."));
        }
    }

    #[tokio::test]
    async fn a_reset_ends_what_is_there_and_refusing_what_comes() {
        let (proxy, mut near) = link().await;
        says(&mut near, b"one.").await;
        assert_eq!(hears(&mut near, SOON).await, Some(*b"one."));
        proxy.set(|weather| {
            weather.resets += 1;
            weather.refuse = true;
        });
        assert_eq!(tokio::time::timeout(SOON, near.read(&mut [0; 4])).await.unwrap().unwrap_or(0), 0);
        let mut refused = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(tokio::time::timeout(SOON, refused.read(&mut [0; 4])).await.unwrap().unwrap_or(0), 0);
        proxy.heal();
        let mut again = TcpStream::connect(proxy.address).await.unwrap();
        says(&mut again, b"new.").await;
        assert_eq!(hears(&mut again, SOON).await, Some(*b"new."));
    }
}
