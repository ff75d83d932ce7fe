//! Many jobs from one command: `--array` and `--batch FILE`.
//!
//! Owns reading them one by one, never all at once, the bounded number of publishes that are out, and where a batch goes
//! on that was interrupted. What becomes of the jobs is followed by `waiting`.

use crate::failure::Failure;
use grange_broker_client::batches::MAX_BATCH_JOBS;
use grange_broker_client::submit::Submission;
use grange_protocol::class::class_of;
use grange_protocol::json::Json;
use grange_protocol::name::{Class, PluginName};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::ticket::{Priority, Ticket, TimeLimits};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Longest line of a file, bytes: above what any ticket may have.
const LONGEST_LINE_BYTES: u64 = 2_000_000;
/// What stands for the number in `--arg`.
const NUMBER: &str = "{}";

#[derive(clap::Args)]
#[command(next_help_heading = "Many jobs")]
pub(crate) struct BatchFlags {
    /// A job for each number from FROM to TO
    #[arg(long, value_name = "FROM-TO", value_parser = range, conflicts_with = "batch")]
    pub(crate) array: Option<RangeInclusive<u64>>,
    /// With --array: a named argument in which {} is the number [default: index={}]
    #[arg(long = "arg", value_name = "NAME=VALUE", requires = "array")]
    each: Vec<String>,
    /// A job for each line of a file: JSON objects with plugin, args, kwargs, priority, resources, limits, stream; what a
    /// line leaves out is as the other options say
    #[arg(long, value_name = "FILE")]
    pub(crate) batch: Option<PathBuf>,
    /// Its name; the same again goes on where it was interrupted [default: a new one]
    #[arg(long, value_name = "ID")]
    pub(crate) batch_id: Option<grange_protocol::name::JobId>,
    /// With --batch: leave out lines that are no job, instead of ending there
    #[arg(long, requires = "batch")]
    pub(crate) keep_going: bool,
}

fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let bad = || format!("`{text}` is no range of numbers; use a form like `0-999`");
    let (from, to) = text.split_once('-').ok_or_else(bad)?;
    let (from, to): (u64, u64) = (from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?);
    if from > to {
        return Err(bad());
    }
    if to - from >= MAX_BATCH_JOBS {
        return Err(format!("`{text}` is {} jobs; a batch has at most {MAX_BATCH_JOBS}", to - from + 1));
    }
    Ok(from..=to)
}

/// Where the jobs of a batch come from, one by one.
pub(crate) enum Source {
    Array { left: RangeInclusive<u64>, each: Vec<(String, String)> },
    Lines { reader: BufReader<File>, number: u64 },
}

/// One job, or what should have been one.
pub(crate) struct Item {
    pub(crate) number: u64,
    /// What it is made of: only the same goes on under a batch's name.
    pub(crate) text: Vec<u8>,
}

impl BatchFlags {
    pub(crate) fn is_given(&self) -> bool {
        self.array.is_some() || self.batch.is_some()
    }

    /// Opens what was given.
    pub(crate) fn source(&self) -> Result<Source, Failure> {
        if let Some(path) = &self.batch {
            return open(path);
        }
        let left = self.array.clone().unwrap_or(0..=0);
        let default = vec![format!("index={NUMBER}")];
        let given = if self.each.is_empty() { &default } else { &self.each };
        let each: Result<Vec<_>, Failure> = given
            .iter()
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
                _ => Err(Failure::usage(format!("`--arg {pair}` is not of the form name=value"))),
            })
            .collect();
        Ok(Source::Array { left, each: each? })
    }
}

fn open(path: &Path) -> Result<Source, Failure> {
    let file = File::open(path)
        .map_err(|e| Failure::usage(format!("`--batch {}` cannot be read: {e}", path.display())))?;
    Ok(Source::Lines { reader: BufReader::new(file), number: 0 })
}

impl Source {
    /// The number of the first job.
    pub(crate) fn first(&self) -> u64 {
        match self {
            Self::Array { left, .. } => *left.start(),
            Self::Lines { .. } => 1,
        }
    }

    /// How many there will be, where that is known before.
    pub(crate) fn jobs(&self) -> Option<u64> {
        match self {
            Self::Array { left, .. } => Some(left.end() - left.start() + 1),
            Self::Lines { .. } => None,
        }
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, Failure> {
        match self {
            Self::Array { left, each } => Ok(left.next().map(|number| {
                let told: Vec<String> = each.iter().map(|(name, value)| format!("{name}={value}")).collect();
                Item { number, text: format!("{number} {}", told.join(" ")).into_bytes() }
            })),
            Self::Lines { reader, number } => {
                let mut text = Vec::new();
                let mut bounded = reader.by_ref().take(LONGEST_LINE_BYTES);
                let read = bounded.read_until(b'\n', &mut text);
                let read = read.map_err(|e| Failure::system("the batch's file cannot be read", &e))?;
                if read == 0 {
                    return Ok(None);
                }
                *number += 1;
                if *number > MAX_BATCH_JOBS {
                    return Err(Failure::usage(format!("the file has more than {MAX_BATCH_JOBS} lines"))
                        .hint("split it, each part with a batch id of its own"));
                }
                if text.last() != Some(&b'\n') && text.len() as u64 == LONGEST_LINE_BYTES {
                    return Err(Failure::usage(format!(
                        "line {number} is longer than {LONGEST_LINE_BYTES} bytes; send large values as files"
                    )));
                }
                Ok(Some(Item { number: *number, text }))
            }
        }
    }

    /// Makes the job of an item, from what all of them have in common. The error is for people.
    pub(crate) fn job(&self, item: &Item, common: &Common) -> Result<Submission, String> {
        match self {
            Self::Array { each, .. } => {
                let number = item.number.to_string();
                let mut line = Line::default();
                let kwargs = each.iter().map(|(name, value)| {
                    let value = value.replace(NUMBER, &number);
                    (name.clone(), serde_json::from_str(&value).unwrap_or(Value::String(value)))
                });
                line.kwargs = Some(kwargs.collect());
                line.submission(common)
            }
            Self::Lines { .. } => {
                let text = item.text.trim_ascii();
                if text.is_empty() {
                    return Err("it is empty".to_owned());
                }
                if text.first() != Some(&b'{') {
                    return Err("it is not a JSON object".to_owned());
                }
                let line: Line = serde_json::from_slice(text).map_err(|e| e.to_string())?;
                line.submission(common)
            }
        }
    }
}

/// What all jobs of a batch have in common.
pub(crate) struct Common {
    /// None: each line names its plugin.
    pub(crate) plugin: Option<PluginName>,
    pub(crate) base: Submission,
    pub(crate) kwargs: Map<String, Value>,
}

/// One line of a file; what it leaves out is as the options say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Line {
    plugin: Option<PluginName>,
    args: Option<Vec<Value>>,
    kwargs: Option<Map<String, Value>>,
    priority: Option<Priority>,
    resources: Option<ResourceRequest>,
    limits: Option<TimeLimits>,
    stream: Option<bool>,
}

impl Line {
    fn submission(self, common: &Common) -> Result<Submission, String> {
        let mut submission = common.base.clone();
        submission.lane.plugin = match (self.plugin, &common.plugin) {
            (Some(plugin), _) => plugin,
            (None, Some(plugin)) => plugin.clone(),
            (None, None) => return Err("it has no `plugin`, and none was given for all".to_owned()),
        };
        submission.lane.priority = self.priority.unwrap_or(submission.lane.priority);
        let ticket = &mut submission.ticket;
        if let Some(args) = self.args {
            ticket.args = Some(Json::from(&Value::Array(args)));
        }
        if let Some(own) = self.kwargs {
            let mut kwargs = common.kwargs.clone();
            kwargs.extend(own);
            ticket.kwargs = Some(Json::from(&Value::Object(kwargs)));
        }
        ticket.limits = self.limits.unwrap_or(ticket.limits);
        ticket.stream = self.stream.or(ticket.stream);
        if let Some(resources) = self.resources {
            if submission.lane.class == Class::any() {
                return Err("`resources` go with no policy `permissive`".to_owned());
            }
            submission.lane.class = class_of(&resources).map_err(|e| e.to_string())?;
            ticket.resources = Some(resources);
        }
        // As an agent will read it.
        Ticket::read(&ticket.write()).map_err(|e| e.to_string())?;
        Ok(submission)
    }
}
