//! What a broker must be, and what is said of one that is not.

use crate::farm::{Farm, LIMIT, options, server};
use grange_broker_client::{Broker, ErrorKind, Options};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// A port that nobody listens on.
async fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("nats://{}", listener.local_addr().unwrap())
}

/// Speaks just enough to be taken for a server of `version`.
async fn pretend(version: &str, jetstream: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let info = format!(
        "INFO {{\"server_id\":\"x\",\"version\":\"{version}\",\"headers\":true,\"max_payload\":1048576,\"jetstream\":{jetstream},\"proto\":1}}\r\n"
    );
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (read, mut write) = socket.into_split();
            write.write_all(info.as_bytes()).await.unwrap();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("PING") && write.write_all(b"PONG\r\n").await.is_err() {
                    break;
                }
            }
        }
    });
    url
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_names_the_address() {
    let url = dead_url().await;
    let error = Broker::connect(&options(&url)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains(&url), "{error}");
    let error = Broker::connect(&options("::not an address::")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn an_old_server_is_named_with_what_is_needed() {
    let error = Broker::connect(&options(&pretend("2.10.24", true).await)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OldServer);
    let text = error.to_string();
    assert!(text.contains("2.10.24") && text.contains("2.15.1"), "{text}");
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused() {
    let options =
        Options { request_timeout: Duration::from_millis(300), ..options(&pretend("2.15.1", false).await) };
    let error = Broker::connect(&options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoJetStream, "{error}");
}

#[tokio::test]
async fn wrong_credentials_are_told_apart() {
    let (server, _folder) = server("authorization { user: a, password: b }").await;
    let wrong =
        Options { user: Some("a".to_owned()), password: Some("wrong".to_owned()), ..options(&server.url()) };
    let error = Broker::connect(&wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
    let right = Options { password: Some("b".to_owned()), ..wrong };
    Broker::connect(&right).await.unwrap().settle().await.unwrap();
}

#[tokio::test]
async fn reconnects_are_counted() {
    let mut farm = Farm::start().await;
    let mut reconnects = farm.broker.reconnects();
    assert_eq!(*reconnects.borrow_and_update(), 0);
    farm.server.kill().await.unwrap();
    farm.server.restart().await.unwrap();
    timeout(LIMIT, reconnects.changed()).await.unwrap().unwrap();
    assert_eq!(*reconnects.borrow(), 1);
    farm.broker.settle().await.unwrap();
}

#[tokio::test]
async fn an_agent_waits_for_its_broker() {
    let (mut server, _folder) = server("").await;
    server.kill().await.unwrap();
    let patient = Options { wait_for_broker: true, ..options(&server.url()) };
    let waiting = tokio::spawn(async move { Broker::connect(&patient).await });
    server.restart().await.unwrap();
    timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
}
