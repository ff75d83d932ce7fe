//! The flags that say what a job is, however it is submitted: at once, later, again and again, or many at a time.

use crate::arguments::Arguments;
use crate::context::Context;
use crate::failure::Failure;
use crate::resources::{Policy, ResourceFlags, Wanted, priority};
use crate::retries::RetryFlags;
use crate::units::parse_duration;
use grange_broker_client::submit::Submission;
use grange_protocol::name::PluginName;
use grange_protocol::subject::Lane;
use grange_protocol::ticket::{OnPartition, Priority, TICKET_VERSION, Ticket, TimeLimits};
use std::time::Duration;

/// Shortest wait for a start.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(crate) struct JobFlags {
    /// Named arguments
    #[arg(value_name = "KEY=VALUE")]
    arguments: Vec<String>,
    /// A file as a named argument
    #[arg(long = "file", value_name = "NAME=PATH")]
    files: Vec<String>,
    /// Arguments as JSON: an object of named ones or an array of positional ones; @FILE reads it from a file
    #[arg(long, value_name = "JSON")]
    args_json: Vec<String>,
    /// How soon: urgent, high, normal or low; or an integer: 10 or more is urgent, 1 to 9 high, 0 normal, below low
    #[arg(long, value_name = "LEVEL", value_parser = priority, default_value = "normal", allow_negative_numbers = true)]
    pub(crate) priority: Priority,
    /// Longest wait for a start, e.g. 30s; then the job expires
    #[arg(long, value_name = "TIME", value_parser = wait)]
    pub(crate) max_wait: Option<Duration>,
    /// Longest run, e.g. 5m; then the job fails
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,
    /// When the run's host is cut off for as long as its lease: stop (the default), so that no two run at one time, or
    /// continue, and count if nobody took over meanwhile
    #[arg(long, value_name = "WORD", value_parser = on_partition)]
    on_partition: Option<OnPartition>,
    /// Ask for chunks; without this and --no-stream the plugin does as it does best
    #[arg(long, overrides_with = "no_stream")]
    stream: bool,
    /// Ask for the result only
    #[arg(long)]
    no_stream: bool,
    /// What is to be done when nobody can start it now [default: GRANGE_POLICY, else queue]
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    #[command(flatten)]
    retries: RetryFlags,
    #[command(flatten)]
    resources: ResourceFlags,
}

fn wait(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        wait if wait >= SHORTEST_WAIT => Ok(wait),
        _ => Err(format!("`{text}` is too short; the least is 1s")),
    }
}

fn on_partition(text: &str) -> Result<OnPartition, String> {
    match text {
        "stop" => Ok(OnPartition::Stop),
        "continue" => Ok(OnPartition::Continue),
        _ => Err(format!("`{text}` is neither `stop` nor `continue`")),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    if timeout.is_zero() || timeout.as_secs() >= u64::from(u32::MAX) {
        return Err(format!("`{text}` is no time limit; use 1s or more"));
    }
    Ok(timeout)
}

impl JobFlags {
    pub(crate) fn arguments(&self) -> Result<Arguments, Failure> {
        Arguments::read(&self.arguments, &self.files, &self.args_json)
    }

    pub(crate) fn policy(&self, context: &Context) -> Result<Policy, Failure> {
        Policy::resolve(self.policy, &context.environment)
    }

    pub(crate) fn wanted(&self, policy: Policy) -> Result<Wanted, Failure> {
        self.resources.wanted(policy)
    }

    pub(crate) fn lane(&self, plugin: &PluginName, wanted: &Wanted) -> Lane {
        Lane { priority: self.priority, plugin: plugin.clone(), class: wanted.class.clone() }
    }

    pub(crate) fn submission(
        &self,
        plugin: &PluginName,
        context: &Context,
        wanted: Wanted,
        arguments: Arguments,
    ) -> Submission {
        let (args, kwargs) = arguments.into_json();
        let stream = match (self.stream, self.no_stream) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        let timeout_s =
            self.timeout.map(|timeout| u32::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(u32::MAX));
        let limits = TimeLimits {
            timeout_s,
            on_partition: self.on_partition.unwrap_or_default(),
            ..TimeLimits::default()
        };
        let lane = self.lane(plugin, &wanted);
        let ticket = Ticket {
            v: TICKET_VERSION,
            args,
            kwargs,
            stream,
            limits,
            retry: self.retries.policy(),
            resources: wanted.resources,
        };
        Submission { owner: context.owner.clone(), job: None, lane, ticket, max_wait: self.max_wait }
    }
}
