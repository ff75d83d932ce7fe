//! `grange jobs`.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use grange_broker_client::query::{DELAYED, JobFilter, list_jobs};
use grange_protocol::name::PluginName;
use grange_protocol::record::State;

#[derive(clap::Args)]
#[command(after_help = "Everybody's jobs are listed; --owner NAME shows only those of one.")]
pub(crate) struct JobsFlags {
    /// Only jobs in this state: delayed, queued, claimed, running, retrying, succeeded, failed, cancelled, expired, refused
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    state: Option<&'static str>,
    /// Only jobs of this plugin
    #[arg(long)]
    plugin: Option<PluginName>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

fn parse_state(text: &str) -> Result<&'static str, String> {
    let all: Vec<&str> = [DELAYED].into_iter().chain(State::ALL.iter().map(|state| state.as_str())).collect();
    let known = all.iter().find(|word| **word == text);
    known.copied().ok_or_else(|| format!("`{text}` is not a state; use one of {}", all.join(", ")))
}

pub(crate) async fn run(
    flags: JobsFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let filter = JobFilter {
        owner: context.only_owner.clone(),
        state: flags.state,
        plugin: flags.plugin,
        limit: flags.limit,
    };
    let views = list_jobs(&session.broker, &filter).await?;
    output.jobs(&views)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_by_their_words() {
        assert_eq!(parse_state("running"), Ok("running"));
        assert!(parse_state("done").unwrap_err().contains("delayed, queued, claimed"));
    }
}
