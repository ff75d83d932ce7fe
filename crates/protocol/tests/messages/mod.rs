//! The messages themselves: made by the functions that make them in life, with fixed times and names.

mod frames;
mod hosts;
mod names;
mod records;
mod words;

use grange_protocol::name::{JobId, Owner};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::JobKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a message and writes it again.
pub(crate) type Reread = fn(&[u8]) -> Result<String, String>;

/// One message.
pub(crate) struct Message {
    /// The golden file's name.
    pub(crate) name: &'static str,
    /// What is written today.
    pub(crate) text: String,
    /// How it is read; None: this crate only writes it.
    pub(crate) read: Option<Reread>,
    /// What becomes of fields that are not known.
    pub(crate) unknown: Unknown,
}

/// What becomes of fields that are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    LeftOut,
    Kept,
    /// There are none: the keys are data.
    Data,
}

/// All of them.
pub(crate) fn messages() -> Vec<Message> {
    [words::messages(), hosts::messages(), names::messages(), records::messages(), frames::messages()]
        .into_iter()
        .flatten()
        .collect()
}

fn plain<T: Serialize + DeserializeOwned>(name: &'static str, value: &T) -> Message {
    Message { name, text: write(value), read: Some(reread::<T>), unknown: Unknown::LeftOut }
}

fn written(name: &'static str, text: String) -> Message {
    Message { name, text, read: None, unknown: Unknown::LeftOut }
}

fn key() -> JobKey {
    let job = JobId::new("0199a3b2-c1d4-7e5f-8a9b-0c1d2e3f4a5b").expect("a name");
    JobKey { owner: Owner::new("alice").expect("a name"), job }
}

fn request(text: &str) -> ResourceRequest {
    serde_json::from_str(text).expect("a request")
}

fn write<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a message is always JSON")
}

fn reread<T: Serialize + DeserializeOwned>(text: &[u8]) -> Result<String, String> {
    serde_json::from_slice::<T>(text).map(|value| write(&value)).map_err(|e| e.to_string())
}
