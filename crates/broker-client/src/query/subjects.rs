//! Which subjects a stream has.
//!
//! Owns the paging of `STREAM.INFO`. Never reads a message.

use crate::api;
use crate::connect::Broker;
use crate::error::Error;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;

#[derive(Deserialize)]
struct Info {
    state: Holds,
    #[serde(default)]
    total: u64,
}

#[derive(Deserialize)]
struct Holds {
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

/// Every subject of a stream that fits the filter. The server tells 100,000 at a time.
pub(crate) async fn list(broker: &Broker, stream: &str, filter: &str) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    loop {
        let body = json!({ "subjects_filter": filter, "offset": found.len() });
        let info: Info = api::call(broker, &format!("STREAM.INFO.{stream}"), filter, &body).await?;
        let empty = info.state.subjects.is_empty();
        found.extend(info.state.subjects.into_keys());
        if empty || found.len() as u64 >= info.total {
            return Ok(found);
        }
    }
}
