//! What commands say: one trait, three forms. Data goes to stdout, messages go to stderr.
//!
//! Owns the words that commands hand over ([`words`]) and the choice of the form. Never connects to anything.

mod human;
mod json;
mod live;
mod quiet;
mod screen;
mod table;
mod value;
pub(crate) mod words;

use crate::cli::OutputForm;
use crate::failure::Failure;
use grange_broker_client::cancel::Cancelled;
use grange_broker_client::follow::Update;
use grange_broker_client::priority::Reprioritised;
use grange_broker_client::query::JobView;
use grange_broker_client::submit::Submitted;
use grange_broker_client::topology::Ensured;
use grange_broker_client::why::Why;
use grange_protocol::event::LogLine;
use grange_protocol::name::AgentName;
use grange_protocol::status::ControlAnswer;
use grange_protocol::subject::JobKey;
use grange_protocol::ticket::Priority;
use screen::Screen;
use std::collections::BTreeMap;
use std::io;
use words::{
    Agents, BatchRow, Check, CronRow, Ended, FarmNews, Level, PluginEntry, Rows, Sending, Showing, UsageRow,
};

/// One form of everything that commands say. Every method writes at once.
pub(crate) trait Output {
    /// A message on stderr.
    fn say(&mut self, level: Level, text: &str) -> io::Result<()>;
    /// Why the command ends, on stderr.
    fn failure(&mut self, failure: &Failure) -> io::Result<()>;
    /// A job was accepted; `followed`: its updates come next.
    fn submitted(&mut self, job: &Submitted, followed: bool) -> io::Result<()>;
    /// A file is on its way to the store; called again while it is, and with None when it is there.
    fn sending(&mut self, file: Option<&Sending>) -> io::Result<()>;
    /// What happened to the job that is followed.
    fn updates(&mut self, updates: &[Update]) -> io::Result<()>;
    /// The job that is followed waits; this is where.
    fn waiting(&mut self, view: &JobView) -> io::Result<()>;
    /// Takes away what moves, before a question is asked.
    fn pause(&mut self) -> io::Result<()>;
    /// The end of a job, with its result.
    fn ended(&mut self, end: &Ended) -> io::Result<()>;
    /// Lines that a job's plugin printed.
    fn logs(&mut self, lines: &[(u32, LogLine)]) -> io::Result<()>;
    /// One job with its history.
    fn job(&mut self, view: &JobView) -> io::Result<()>;
    /// Many jobs.
    fn jobs(&mut self, views: &[JobView]) -> io::Result<()>;
    /// What a request for a job's end led to.
    fn cancelled(&mut self, key: &JobKey, outcome: Cancelled) -> io::Result<()>;
    /// Why a job waits.
    fn why(&mut self, why: &Why) -> io::Result<()>;
    /// A job that waits has this priority now.
    fn reprioritised(&mut self, key: &JobKey, priority: Priority, done: Reprioritised) -> io::Result<()>;
    /// Recurring jobs.
    fn crons(&mut self, rows: &[CronRow]) -> io::Result<()>;
    /// One recurring job.
    fn cron(&mut self, row: &CronRow) -> io::Result<()>;
    /// How far a batch is; called again while it goes on.
    fn batch(&mut self, row: &BatchRow) -> io::Result<()>;
    /// How far a batch is where the command ends.
    fn batch_end(&mut self, row: &BatchRow) -> io::Result<()>;
    /// Agents, with the ages of their heartbeats.
    fn agents(&mut self, agents: &Agents<'_>, showing: Showing) -> io::Result<()>;
    /// What an agent answered to an order.
    fn answered(&mut self, agent: &AgentName, answer: &ControlAnswer) -> io::Result<()>;
    /// Plugins, each with the hosts that know it.
    fn plugins(&mut self, plugins: &[PluginEntry], rows: Rows) -> io::Result<()>;
    /// What jobs took.
    fn usage(&mut self, rows: &[UsageRow]) -> io::Result<()>;
    /// What was done about streams and buckets.
    fn topology(&mut self, done: &[Ensured]) -> io::Result<()>;
    /// What `doctor` found.
    fn check(&mut self, check: &Check) -> io::Result<()>;
    /// What happens to the farm of one.
    fn farm(&mut self, news: &FarmNews) -> io::Result<()>;
}

/// The form that was asked for, on this process's stdout and stderr.
pub(crate) fn open(form: OutputForm, environment: &BTreeMap<String, String>) -> Box<dyn Output> {
    let screen = Screen::of_process(environment);
    match form {
        OutputForm::Human => Box::new(human::Human::new(screen)),
        OutputForm::Json => Box::new(json::Json::new(screen)),
        OutputForm::Quiet => Box::new(quiet::Quiet::new(screen)),
    }
}
