//! What the workers themselves wrote down, and whether their processes are still there.
//!
//! Owns reading the witness file. Nothing in it comes from an agent.

use crate::history::now_ns;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// One line of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// An execution begins.
    Start {
        /// Its own name.
        execution: String,
        /// The job, as its arguments say.
        job: String,
        /// The job, as the agent says.
        named: String,
        /// The attempt, as the agent says.
        attempt: u32,
        /// The host.
        agent: String,
        /// The worker process.
        pid: u32,
        /// When that began.
        ticks: u64,
        /// What the worker was given.
        input_sha256: String,
        /// Variables that it should not have.
        secrets: Vec<String>,
        /// The monotonic clock.
        at_ns: u64,
    },
    /// A lock was taken that must be free: somebody else's execution is not over.
    Taken {
        /// Who found it.
        execution: String,
        /// Its job.
        job: String,
        /// Its attempt.
        attempt: u32,
        /// `job-…` or `gpu-…`.
        lock: String,
        /// The monotonic clock.
        at_ns: u64,
    },
    /// An execution ends by itself.
    End {
        /// Which.
        execution: String,
        /// Its job.
        job: String,
        /// Its attempt.
        attempt: u32,
        /// `returned`, `raised` or `stopped`.
        how: String,
        /// Chunks that it gave.
        chunks: u64,
        /// Their digest.
        digest: String,
        /// The monotonic clock.
        at_ns: u64,
    },
    /// The process of an execution that did not end by itself was found gone.
    Gone {
        /// Which.
        execution: String,
        /// Its job.
        job: String,
        /// When it was last seen alive is not known; this is when it was first not there.
        at_ns: u64,
    },
}

/// Reads the file as it grows, and watches the processes of what is open.
#[derive(Debug)]
pub struct Witness {
    path: PathBuf,
    read: u64,
    lines: Vec<Line>,
    open: BTreeMap<String, (String, u32, u64)>,
}

impl Witness {
    /// The witness file in this folder.
    pub fn new(folder: &Path) -> Self {
        Self { path: folder.join("witness.jsonl"), read: 0, lines: Vec::new(), open: BTreeMap::new() }
    }

    /// Reads what is new and looks who is gone.
    pub fn look(&mut self) {
        let mut fresh = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            file.seek(SeekFrom::Start(self.read)).expect("a file can be sought");
            file.read_to_end(&mut fresh).expect("the witness file can be read");
        }
        fresh.truncate(fresh.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        self.read += fresh.len() as u64;
        for line in fresh.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line).expect("a witness line is JSON of the shape");
            match &line {
                Line::Start { execution, job, pid, ticks, .. } => {
                    self.open.insert(execution.clone(), (job.clone(), *pid, *ticks));
                }
                Line::End { execution, .. } => drop(self.open.remove(execution)),
                Line::Taken { .. } | Line::Gone { .. } => {}
            }
            self.lines.push(line);
        }
        let gone: Vec<String> = self
            .open
            .iter()
            .filter(|(_, (_, pid, ticks))| !is_there(*pid, *ticks))
            .map(|(execution, _)| execution.clone())
            .collect();
        for execution in gone {
            let Some((job, ..)) = self.open.remove(&execution) else { continue };
            self.lines.push(Line::Gone { execution, job, at_ns: now_ns() });
        }
    }

    /// Everything so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Executions that are not over: job and process.
    pub fn open(&self) -> Vec<(String, u32)> {
        self.open.values().map(|(job, pid, _)| (job.clone(), *pid)).collect()
    }
}

/// Whether this very process is there and not a zombie.
fn is_there(pid: u32, ticks: u64) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let fields: Vec<&str> = fields.split(' ').collect();
    fields.first().is_some_and(|state| *state != "Z")
        && fields.get(19).and_then(|field| field.parse().ok()) == Some(ticks)
}
