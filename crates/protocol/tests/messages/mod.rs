//! The messages themselves: made by the functions that make them in life, with fixed times and names.

mod frames;
mod records;
mod words;

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
    /// Whether fields that are not known are kept instead of left out.
    pub(crate) keeps_unknown: bool,
}

/// All of them.
pub(crate) fn messages() -> Vec<Message> {
    [words::messages(), records::messages(), frames::messages()].into_iter().flatten().collect()
}

fn plain<T: Serialize + DeserializeOwned>(name: &'static str, value: &T) -> Message {
    Message { name, text: write(value), read: Some(reread::<T>), keeps_unknown: false }
}

fn write<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a message is always JSON")
}

fn reread<T: Serialize + DeserializeOwned>(text: &[u8]) -> Result<String, String> {
    serde_json::from_slice::<T>(text).map(|value| write(&value)).map_err(|e| e.to_string())
}
