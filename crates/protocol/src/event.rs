//! Events of one attempt: chunks, progress, logs, in one order.
//!
//! A `chunk` message carries one or more chunks as lines of JSON, each ended by a line feed; `Grange-First` says the
//! index of the first and `Grange-Count` how many. The digest of a stream is SHA-256 over the bodies of its chunk
//! messages, one after the other: it does not depend on how chunks were put together.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::str::FromStr;

/// What an event message carries, by its `Grange-Kind` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Values of the stream, one a line.
    Chunk,
    /// How far it is.
    Progress,
    /// Lines that the plugin printed, one a line of JSON.
    Log,
    /// Something was left out, and how much.
    Dropped,
}

impl EventKind {
    /// The header's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::Progress => "progress",
            Self::Log => "log",
            Self::Dropped => "dropped",
        }
    }
}

impl FromStr for EventKind {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Chunk, Self::Progress, Self::Log, Self::Dropped]
            .into_iter()
            .find(|k| k.as_str() == text)
            .ok_or(())
    }
}

/// Body of a `progress` event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 1, or -1 when nobody knows.
    pub progress: f64,
    /// What it is doing.
    #[serde(default)]
    pub message: String,
}

/// One line of a `log` event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// `stdout`, `stderr`, or `agent`: what the agent has to say of the run.
    pub stream: String,
    /// The line, without its end.
    pub line: String,
}

/// Body of a `dropped` event: a limit was reached, and this much is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// What was left out: `log`.
    pub what: String,
    /// How many lines.
    pub lines: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Counts the chunks of a stream and digests them, on either side.
#[derive(Clone, Debug, Default)]
pub struct ChunkTally {
    count: u64,
    hash: Sha256,
}

/// Why a chunk message does not continue the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Something between is missing.
    #[error("chunks {expected} to {first} are missing")]
    Gap {
        /// The index that should have come.
        expected: u64,
        /// The index that came.
        first: u64,
    },
    /// The message says another count than it has lines.
    #[error("chunk message says {said} chunks and has {found}")]
    Count {
        /// By the header.
        said: u64,
        /// By its lines.
        found: u64,
    },
}

impl ChunkTally {
    /// How many chunks there were; the index of the next.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes a body of `count` lines into account.
    pub fn add(&mut self, body: &[u8], count: u64) {
        self.hash.update(body);
        self.count += count;
    }

    /// Checks a received message against what came before. False: all of it was there already.
    pub fn receive(&mut self, first: u64, count: u64, body: &[u8]) -> Result<bool, ChunkError> {
        if first < self.count {
            return Ok(false);
        }
        if first > self.count {
            return Err(ChunkError::Gap { expected: self.count, first });
        }
        let found = body.iter().filter(|b| **b == b'\n').count() as u64;
        if found != count {
            return Err(ChunkError::Count { said: count, found });
        }
        self.add(body, count);
        Ok(true)
    }

    /// The digest so far, in hex.
    pub fn sha256(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_digest_does_not_depend_on_packing(chunks in proptest::collection::vec("[a-z]{0,8}", 0..20), cut in 0usize..20) {
            let line = |c: &String| format!("\"{c}\"\n");
            let all: String = chunks.iter().map(line).collect();
            let mut one = ChunkTally::default();
            one.add(all.as_bytes(), chunks.len() as u64);
            let cut = cut.min(chunks.len());
            let (a, b): (String, String) = (chunks[..cut].iter().map(line).collect(), chunks[cut..].iter().map(line).collect());
            let mut two = ChunkTally::default();
            prop_assert_eq!(two.receive(0, cut as u64, a.as_bytes()), Ok(true));
            prop_assert_eq!(two.receive(cut as u64, (chunks.len() - cut) as u64, b.as_bytes()), Ok(true));
            prop_assert_eq!(one.sha256(), two.sha256());
            prop_assert_eq!(one.count(), two.count());
        }
    }

    #[test]
    fn gaps_and_repeats_are_told_apart() {
        let mut tally = ChunkTally::default();
        assert_eq!(tally.receive(0, 1, b"1\n"), Ok(true));
        assert_eq!(tally.receive(0, 1, b"1\n"), Ok(false));
        assert_eq!(tally.receive(3, 1, b"1\n"), Err(ChunkError::Gap { expected: 1, first: 3 }));
        assert_eq!(tally.receive(1, 2, b"1\n"), Err(ChunkError::Count { said: 2, found: 1 }));
    }
}
