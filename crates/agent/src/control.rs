//! The agent's control subjects, `grange.ctl.<agent>.<verb>`, as a NATS micro service (so `$SRV.*` finds it too).
//!
//! A word here is never the truth: a cancel is believed when the job's record says so.

use crate::claims::Claims;
use crate::news::HouseEvent;
use async_nats::service::error::Error as ServiceError;
use async_nats::service::{Request, Service, ServiceExt};
use bytes::Bytes;
use futures_util::StreamExt;
use grange_protocol::ownership::Stored;
use grange_protocol::status::{CancelOrder, ControlAnswer, DrainOrder, UnquarantineOrder};
use grange_protocol::subject::JobKey;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

/// Begins to answer. The service ends when it is dropped.
pub async fn open(claims: Claims, news: mpsc::Sender<HouseEvent>) -> Result<Service, async_nats::Error> {
    let service = claims
        .broker
        .client()
        .service_builder()
        .description("runs jobs of a Grange farm on this host")
        .start("grange-agent", env!("CARGO_PKG_VERSION"))
        .await?;
    let group = service.group(format!("grange.ctl.{}", claims.me.agent));
    let mut cancels = group.endpoint("cancel").await?;
    let mut drains = group.endpoint("drain").await?;
    let mut undrains = group.endpoint("undrain").await?;
    let mut unquarantines = group.endpoint("unquarantine").await?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(request) = cancels.next() => cancel(&claims, &news, request).await,
                Some(request) = drains.next() => drain(&news, request).await,
                Some(request) = undrains.next() => {
                    let (reply, replied) = oneshot::channel();
                    let told = news.send(HouseEvent::Undrain(reply)).await.is_ok();
                    pass_on(request, told, replied).await;
                }
                Some(request) = unquarantines.next() => unquarantine(&news, request).await,
                else => return,
            }
        }
    });
    Ok(service)
}

async fn cancel(claims: &Claims, news: &mpsc::Sender<HouseEvent>, request: Request) {
    let order: CancelOrder = match serde_json::from_slice(&request.message.payload) {
        Ok(order) => order,
        Err(error) => return answer(request, false, &format!("the order cannot be read: {error}")).await,
    };
    let key = JobKey { owner: order.owner, job: order.job };
    let asked = match claims.ledger.read(&key).await {
        Ok(Stored::Record { record, .. }) => {
            let mine = record.attempt.as_ref().is_some_and(|attempt| attempt.holder() == claims.me);
            mine && record.cancel_requested.is_some()
        }
        Ok(Stored::Nothing | Stored::Marker { .. }) => false,
        Err(error) => return answer(request, false, &format!("the record cannot be read: {error}")).await,
    };
    if !asked {
        return answer(request, false, "the job's record does not ask this agent for it").await;
    }
    let told = news.send(HouseEvent::CancelRequested(key)).await.is_ok();
    answer(request, told, "the run is asked to stop").await;
}

async fn unquarantine(news: &mpsc::Sender<HouseEvent>, request: Request) {
    let order = match read_unquarantine(&request.message.payload) {
        Ok(order) => order,
        Err(why) => return answer(request, false, &format!("the order cannot be read: {why}")).await,
    };
    let (reply, replied) = oneshot::channel();
    let told = news.send(HouseEvent::Unquarantine(order.gpu, reply)).await.is_ok();
    pass_on(request, told, replied).await;
}

async fn drain(news: &mpsc::Sender<HouseEvent>, request: Request) {
    let order = match read_order::<DrainOrder>(&request.message.payload, &["deadline_s", "reason", "exit"]) {
        Ok(order) => order,
        Err(why) => return answer(request, false, &format!("the order cannot be read: {why}")).await,
    };
    let (reply, replied) = oneshot::channel();
    let told = news.send(HouseEvent::Drain(order, reply)).await.is_ok();
    pass_on(request, told, replied).await;
}

/// Answers what the house says.
async fn pass_on(request: Request, told: bool, replied: oneshot::Receiver<ControlAnswer>) {
    match replied.await {
        Ok(said) if told => answer(request, said.ok, &said.message).await,
        _ => answer(request, false, "the agent is going down").await,
    }
}

/// No `gpu` means every one, so nothing may be mistaken for that.
fn read_unquarantine(body: &[u8]) -> Result<UnquarantineOrder, String> {
    read_order(body, &["gpu"])
}

/// An order whose fields may all be left out: one that is misspelt must not pass for that.
fn read_order<T: DeserializeOwned + Default>(body: &[u8], known: &[&str]) -> Result<T, String> {
    if body.is_empty() {
        return Ok(T::default());
    }
    let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) {
        let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
        return Err(format!("`{field}` is not known; give {}, or nothing", known.join(", ")));
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())
}

async fn answer(request: Request, ok: bool, message: &str) {
    let body = ControlAnswer { ok, message: message.to_owned() };
    let body = serde_json::to_vec(&body)
        .map(Bytes::from)
        .map_err(|e| ServiceError { status: e.to_string(), code: 500 });
    if let Err(error) = request.respond(body).await {
        tracing::debug!(%error, "control request not answered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nothing_means_every_gpu() {
        let read = |body: &str| read_unquarantine(body.as_bytes()).map(|order| order.gpu);
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("{}"), Ok(None));
        assert_eq!(read(r#"{"gpu":"GPU-a"}"#), Ok(Some("GPU-a".to_owned())));
        for wrong in ["[]", "null", r#"{"gpus":"GPU-a"}"#, r#"{"gpu":["GPU-a"]}"#, "GPU-a"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
