//! Owns: asking a nats-server, over a plain socket, who it is: its ports file, its greeting, its monitoring pages.
//! Never speaks the NATS protocol any further. Every answer has a limit in size and in time.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

const GREETING_LIMIT_BYTES: u64 = 64 * 1024;
const PAGE_LIMIT_BYTES: u64 = 4 * 1024 * 1024;
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub client: SocketAddr,
    /// For its monitoring pages (plain HTTP), if it has them.
    pub monitor: Option<SocketAddr>,
}

/// What a server says of itself to whoever connects: the `INFO` line.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct Greeting {
    /// The server's version, as in `2.15.1`.
    pub version: String,
    /// Whether it has JetStream.
    #[serde(default)]
    pub jetstream: bool,
    /// Whether it wants a login.
    #[serde(default)]
    pub auth_required: bool,
    /// The largest message it takes, in bytes.
    pub max_payload: u64,
    /// The cluster it is in.
    pub cluster: Option<String>,
    /// The addresses of the members of its cluster that it knows, itself included.
    #[serde(default)]
    pub connect_urls: Vec<String>,
}

/// Reads a server's greeting, within two seconds.
///
/// # Errors
/// When nobody listens, nothing comes in time, or what comes is not a nats-server's greeting.
pub async fn greeting(address: SocketAddr) -> io::Result<Greeting> {
    let line = in_time(async {
        let stream = TcpStream::connect(address).await?;
        let mut line = String::new();
        BufReader::new(stream.take(GREETING_LIMIT_BYTES)).read_line(&mut line).await?;
        Ok(line)
    })
    .await?;
    let json = line.strip_prefix("INFO ").ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("`{address}` does not greet as a nats-server does"),
        )
    })?;
    Ok(serde_json::from_str(json)?)
}

/// Reads one of a server's monitoring pages, such as `/jsz`, as JSON, within two seconds.
///
/// # Errors
/// When nobody listens, nothing comes in time, or what comes is not an answer with a JSON body.
pub async fn page(monitor: SocketAddr, path: &str) -> io::Result<serde_json::Value> {
    let answer = in_time(async {
        let mut stream = TcpStream::connect(monitor).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {monitor}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(PAGE_LIMIT_BYTES).read_to_string(&mut answer).await?;
        Ok(answer)
    })
    .await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("`{monitor}{path}` is not an HTTP answer"))
    })?;
    Ok(serde_json::from_str(body)?)
}

/// The ports file that a server has written into `folder`, if it is there and whole.
pub(crate) fn read_ports(folder: &Path) -> Option<Addresses> {
    let path = ports_files(folder).into_iter().next()?;
    let ports: Ports = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let monitor = ports.monitoring.first().and_then(|url| address(url));
    Some(Addresses { client: address(ports.nats.first()?)?, monitor })
}

/// Removes the ports files of servers that were killed.
pub(crate) fn clear_ports(folder: &Path) -> io::Result<()> {
    ports_files(folder).into_iter().try_for_each(fs::remove_file)
}

#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
    #[serde(default)]
    monitoring: Vec<String>,
}

fn ports_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "ports")).collect()
}

fn address(url: &str) -> Option<SocketAddr> {
    url.split_once("://")?.1.parse().ok()
}

async fn in_time<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(ANSWER_LIMIT, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 2 s")),
    }
}

#[cfg(test)]
mod tests {
    use super::{clear_ports, read_ports};

    #[test]
    fn the_ports_file_is_read_and_cleared() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_ports(folder.path()), None);
        let path = folder.path().join("nats-server_7.ports");
        std::fs::write(&path, r#"{"nats":["nats://127.0.0.1:33"#).unwrap();
        assert_eq!(read_ports(folder.path()), None, "half written");
        std::fs::write(&path, r#"{"nats":["nats://127.0.0.1:339"],"monitoring":["http://127.0.0.1:35"]}"#)
            .unwrap();
        let addresses = read_ports(folder.path()).unwrap();
        assert_eq!(addresses.client, "127.0.0.1:339".parse().unwrap());
        assert_eq!(addresses.monitor, Some("127.0.0.1:35".parse().unwrap()));
        clear_ports(folder.path()).unwrap();
        assert_eq!(read_ports(folder.path()), None);
    }
}
