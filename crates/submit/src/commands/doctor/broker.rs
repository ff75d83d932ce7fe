//! What the broker is and promises.
//!
//! The only place of this crate that asks the JetStream API itself: the client library has verbs for jobs, none for
//! looking at a server.

use super::{ok, streams, warn};
use crate::context::{Context, Session, Source};
use crate::output::words::Check;
use crate::units;
use grange_local_farm::probe;
use serde_json::Value;
use std::net::SocketAddr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A clock that is off by more confuses people; nothing is decided by it.
const CLOCK_MS: u64 = 2_000;
/// Use of the store above which there should be more of it, per cent.
const FULL_PER_CENT: u64 = 80;

pub(super) async fn checks(session: &Session, context: &Context, monitor: Option<SocketAddr>) -> Vec<Check> {
    let server = session.broker.client().server_info();
    let cluster = server.cluster.as_deref().map(|name| format!(", cluster `{name}`")).unwrap_or_default();
    let place = match context.source {
        Source::Given => String::new(),
        Source::FarmFile => ", the farm of `grange up`".to_owned(),
        Source::Default => ", the default address".to_owned(),
    };
    let mut checks = vec![ok(
        "broker",
        format!("nats-server {} at {}{place}{cluster}", server.version, context.broker.url),
    )];
    checks.push(account(session).await);
    checks.extend(streams::checks(session, server.cluster.is_some()).await);
    checks.push(sync(monitor).await);
    checks.push(clock(session).await);
    checks
}

/// Asks the API; None says that it did not answer as it should.
pub(super) async fn ask(session: &Session, verb: &str) -> Option<Value> {
    let answer = session.broker.request(format!("$JS.API.{verb}"), Vec::new().into()).await.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

/// The broker's time in an answer of its API, Unix milliseconds.
pub(super) fn told_ms(told: &Value) -> Option<u64> {
    let at = OffsetDateTime::parse(told["ts"].as_str()?, &Rfc3339).ok()?;
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

async fn account(session: &Session) -> Check {
    let Some(told) = ask(session, "INFO").await.filter(|told| told.get("error").is_none()) else {
        let text = "the broker does not tell this user about its JetStream";
        return warn("jetstream", text, "ask with a user who may read `$JS.API.INFO`");
    };
    let number = |name: &str| told[name].as_i64().unwrap_or(0);
    let used = u64::try_from(number("storage")).unwrap_or(0);
    let limit = told["limits"]["max_storage"].as_i64().and_then(|limit| u64::try_from(limit).ok());
    let streams = number("streams");
    match limit {
        None | Some(0) => {
            ok("jetstream", format!("{streams} streams use {} of the server's own limit", units::size(used)))
        }
        Some(limit) if used * 100 >= limit * FULL_PER_CENT => warn(
            "jetstream",
            format!("{streams} streams use {} of {}", units::size(used), units::size(limit)),
            "raise the account's limit, or keep events for a shorter time with `grange init --resize`",
        ),
        Some(limit) => {
            ok("jetstream", format!("{streams} streams use {} of {}", units::size(used), units::size(limit)))
        }
    }
}

/// Only the monitoring pages tell it.
async fn sync(monitor: Option<SocketAddr>) -> Check {
    let Some(address) = monitor else {
        return warn(
            "durability",
            "how often the broker forces its writes to the disk cannot be known from here",
            "give --monitor HOST:PORT; jobs survive a power cut with `sync_interval: always` or three replicas on machines that do not fail together",
        );
    };
    let page = match probe::page(address, "/jsz?config=true").await {
        Ok(page) => page,
        Err(error) => {
            let text = format!("the monitoring pages at {address} do not answer: {error}");
            return warn("durability", text, "check --monitor");
        }
    };
    let config = &page["config"];
    if config["sync_always"].as_bool() == Some(true) {
        return ok("durability", "`sync_interval: always`: a power cut loses nothing that was accepted");
    }
    match config["sync_interval"].as_u64() {
        Some(nanos) => warn(
            "durability",
            format!(
                "writes are forced to the disk every {}: a killed broker loses nothing, a power cut may lose that much",
                units::millis(nanos as f64 / 1e6)
            ),
            "where that matters: `sync_interval: always` (`grange up --sync always`), or three replicas",
        ),
        None => warn(
            "durability",
            format!("the pages at {address} do not tell"),
            "see the server's configuration",
        ),
    }
}

async fn clock(session: &Session) -> Check {
    let before = units::now_ms();
    let told = ask(session, "STREAM.INFO.GRANGE_STATE").await;
    let after = units::now_ms();
    let Some(broker_ms) = told.as_ref().and_then(told_ms) else {
        return warn("clock", "the broker does not tell its time", "make the streams first: `grange init`");
    };
    let off = broker_ms.abs_diff(u64::midpoint(before, after));
    let text = format!(
        "{off} ms between this machine and the broker (asked in {} ms)",
        after.saturating_sub(before)
    );
    if off > CLOCK_MS + after.saturating_sub(before) {
        return warn(
            "clock",
            text,
            "run NTP on both; times that are shown are off, nothing is decided by them",
        );
    }
    ok("clock", text)
}
