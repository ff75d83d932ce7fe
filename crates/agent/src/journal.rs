//! The journal: which attempts this agent holds, on disk, so that its next life can end them.
//!
//! One file of JSON lines, a `+` line before a worker gets the job and a `-` line when its end is settled. It has to
//! outlive the process, not the host: after a power cut no worker is left either.

use crate::supervise::Report;
use grange_protocol::name::{AgentName, Incarnation, JobId, Owner};
use grange_protocol::record::{Fence, Holder};
use grange_protocol::retry::RetryPolicy;
use grange_protocol::subject::JobKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The file is written anew when it is larger than this and mostly ended attempts, bytes.
const COMPACT_BYTES: u64 = 4 << 20;

/// An attempt that was given to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The job's owner.
    pub owner: Owner,
    /// The job.
    pub job: JobId,
    /// The attempt's number.
    pub number: u32,
    /// The sequence of its claim.
    pub claim: u64,
    /// Who held it.
    pub agent: AgentName,
    /// Which life.
    pub incarnation: Incarnation,
    /// Where the ticket is settled.
    pub ack: String,
    /// The ticket's subject, whose bell is rung.
    pub ticket: String,
    /// When it is tried again.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// The worker's supervisor.
    pub supervisor: u32,
    /// When that process began, in the kernel's ticks.
    pub supervisor_began: u64,
    /// Which boot of the host that was; empty: not known. Of another one no process is left.
    #[serde(default)]
    pub boot: String,
}

impl Entry {
    /// The job.
    pub fn key(&self) -> JobKey {
        JobKey { owner: self.owner.clone(), job: self.job.clone() }
    }

    /// The attempt's fence.
    pub fn fence(&self) -> Fence {
        let holder = Holder { agent: self.agent.clone(), incarnation: self.incarnation.clone() };
        Fence { number: self.number, holder, claim: self.claim }
    }
}

#[derive(Serialize, Deserialize)]
enum Line {
    #[serde(rename = "+")]
    Begun(Box<Entry>),
    #[serde(rename = "-")]
    Over(u64),
}

/// The open file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    open: BTreeMap<u64, Entry>,
    bytes: u64,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("journal `{path}` cannot be written")]
pub struct JournalError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl Journal {
    /// Opens the journal and says what the last life left behind. A line that was cut off is the newest one, and was
    /// not acted on.
    pub fn open(path: &Path) -> Result<(Self, Vec<Entry>), JournalError> {
        let fault = |source| JournalError { path: path.to_owned(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(fault)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(fault)?;
        let mut open = BTreeMap::new();
        for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Line::Begun(entry)) => drop(open.insert(entry.claim, *entry)),
                Ok(Line::Over(claim)) => drop(open.remove(&claim)),
                Err(_) => {}
            }
        }
        let left = open.values().cloned().collect();
        let mut journal = Self { path: path.to_owned(), file, open, bytes: 0 };
        journal.compact()?;
        Ok((journal, left))
    }

    /// Writes an attempt down, before its worker gets it.
    pub fn begin(&mut self, entry: Entry) -> Result<(), JournalError> {
        let line = Line::Begun(Box::new(entry));
        self.append(&line)?;
        if let Line::Begun(entry) = line {
            self.open.insert(entry.claim, *entry);
        }
        Ok(())
    }

    /// Writes down that an attempt is over.
    pub fn end(&mut self, claim: u64) -> Result<(), JournalError> {
        if self.open.remove(&claim).is_none() {
            return Ok(());
        }
        self.append(&Line::Over(claim))?;
        if self.bytes > COMPACT_BYTES { self.compact() } else { Ok(()) }
    }

    fn append(&mut self, line: &Line) -> Result<(), JournalError> {
        let mut text = serde_json::to_vec(line).expect("a journal line is always JSON");
        text.push(b'\n');
        self.bytes += text.len() as u64;
        self.file.write_all(&text).map_err(|source| JournalError { path: self.path.clone(), source })
    }

    /// Writes the open attempts into a new file and puts it in the old one's place.
    fn compact(&mut self) -> Result<(), JournalError> {
        let aside = self.path.with_extension("new");
        let written = || -> std::io::Result<(File, u64)> {
            let mut file = File::create(&aside)?;
            let mut bytes = 0;
            for entry in self.open.values() {
                let mut text = serde_json::to_vec(&Line::Begun(Box::new(entry.clone())))?;
                text.push(b'\n');
                file.write_all(&text)?;
                bytes += text.len() as u64;
            }
            std::fs::rename(&aside, &self.path)?;
            Ok((OpenOptions::new().append(true).open(&self.path)?, bytes))
        };
        let (file, bytes) = written().map_err(|source| JournalError { path: self.path.clone(), source })?;
        self.file = file;
        self.bytes = bytes;
        Ok(())
    }
}

/// A report's text for logs.
pub fn describe(report: &Report) -> String {
    match report {
        Report::Started(pid) => format!("started as process {pid}"),
        Report::NotStarted(why) => why.clone(),
        Report::Ended { signal: Some(signal), .. } => format!("ended by signal {signal}"),
        Report::Ended { code, .. } => format!("ended with status {}", code.unwrap_or(-1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(claim: u64) -> Entry {
        Entry {
            owner: Owner::new("o").unwrap(),
            job: JobId::new("j").unwrap(),
            number: 1,
            claim,
            agent: AgentName::new("a").unwrap(),
            incarnation: Incarnation::new("i").unwrap(),
            ack: "$JS.ACK.x".into(),
            ticket: "grange.jobs.x".into(),
            retry: RetryPolicy::default(),
            supervisor: 1,
            supervisor_began: 2,
            boot: "b".into(),
        }
    }

    #[test]
    fn the_next_life_finds_what_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, left) = Journal::open(&path).unwrap();
        assert!(left.is_empty());
        journal.begin(entry(1)).unwrap();
        journal.begin(entry(2)).unwrap();
        journal.end(1).unwrap();
        drop(journal);
        // A line that was being written when the process died.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"+\":{\"ow").unwrap();
        let (_journal, left) = Journal::open(&path).unwrap();
        assert_eq!(left, vec![entry(2)]);
    }

    #[test]
    fn the_file_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.begin(entry(0)).unwrap();
        for claim in 1..40_000 {
            journal.begin(entry(claim)).unwrap();
            journal.end(claim).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() < COMPACT_BYTES + 1024);
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1, vec![entry(0)]);
    }
}
