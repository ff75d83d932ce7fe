//! `grange usage`.

use crate::cli::StateFlag;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::words::UsageRow;
use crate::units::{now_ms, parse_duration};
use grange_broker_client::usage::{UsageFilter, usage};
use grange_protocol::name::PluginName;
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "\
Sums up the records that are still kept: those of jobs that ended longer ago than the farm keeps records are gone. Time
and GPU time are those of the attempt that ended a job; what still runs counts when it has ended.

Examples:
  grange usage                      what your jobs took
  grange usage --all --since 7d     everybody's of the last week")]
pub(crate) struct UsageFlags {
    /// Only jobs that were submitted so long ago at most, e.g. 7d or 12h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Only jobs of this plugin
    #[arg(long)]
    plugin: Option<PluginName>,
    /// Everybody's, instead of one owner's
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(
    flags: UsageFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let owner = match (flags.all, &context.only_owner) {
        (true, Some(owner)) => {
            return Err(Failure::usage(format!("`--all` and `--owner {owner}` exclude each other")));
        }
        (true, None) => None,
        (false, _) => Some(context.owner.clone()),
    };
    let since_ms = flags.since.map(|since| {
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        now_ms().saturating_sub(since)
    });
    let session = context.connect().await?;
    let filter = UsageFilter { owner, plugin: flags.plugin, since_ms };
    let rows: Vec<UsageRow> = usage(&session.broker, &filter)
        .await?
        .into_iter()
        .map(|((owner, plugin), used)| UsageRow { owner, plugin, used })
        .collect();
    output.usage(&rows)?;
    Ok(Exit::Ok)
}
