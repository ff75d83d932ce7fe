//! `grange init`.

use crate::cli::StateFlag;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::units::{parse_duration, parse_size};
use grange_broker_client::ErrorKind;
use grange_broker_client::topology::{TopologyOptions, ensure};
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "\
Safe to run again: what is there is kept; sizes, ages and replicas of streams that exist change only with --resize.

Example, for a cluster of three:
  grange init --replicas 3 --broker nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222")]
pub(crate) struct InitFlags {
    /// Copies of everything: 1, 3 or 5
    #[arg(long, default_value_t = 1, value_parser = replicas)]
    replicas: usize,
    /// Room for waiting jobs; when it is full, submits are refused [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    jobs_bytes: Option<u64>,
    /// Room for job records [default: 2GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    state_bytes: Option<u64>,
    /// Room for chunks, progress and logs; the oldest give way [default: 2GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    events_bytes: Option<u64>,
    /// How long chunks, progress and logs are kept [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    events_age: Option<Duration>,
    /// Room for what could not be run; the oldest give way [default: 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    dead_bytes: Option<u64>,
    /// Change sizes, ages and replicas of streams that exist
    #[arg(long)]
    resize: bool,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

fn replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err(format!("`{text}` copies cannot be kept; use 1, 3 or 5")),
    }
}

impl InitFlags {
    fn options(&self) -> TopologyOptions {
        let defaults = TopologyOptions::default();
        let bytes = |given: Option<u64>, default: i64| {
            given.map_or(default, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
        };
        TopologyOptions {
            replicas: self.replicas,
            jobs_max_bytes: bytes(self.jobs_bytes, defaults.jobs_max_bytes),
            state_max_bytes: bytes(self.state_bytes, defaults.state_max_bytes),
            events_max_age: self.events_age.unwrap_or(defaults.events_max_age),
            events_max_bytes: bytes(self.events_bytes, defaults.events_max_bytes),
            dead_max_bytes: bytes(self.dead_bytes, defaults.dead_max_bytes),
            resize: self.resize,
        }
    }
}

pub(crate) async fn run(
    flags: &InitFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let done = ensure(&session.broker, &flags.options()).await.map_err(|error| {
        let kind = error.kind();
        let failure = Failure::from(error);
        match kind {
            ErrorKind::StorageFull => failure
                .hint("reserve less, e.g. --jobs-bytes 256MiB --state-bytes 512MiB --events-bytes 512MiB"),
            ErrorKind::Conflict if flags.replicas > 1 => {
                failure.hint("more than one copy needs a broker cluster of at least so many servers")
            }
            ErrorKind::Conflict => failure.hint("`grange doctor` shows what is there"),
            _ => failure,
        }
    })?;
    output.topology(&done)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_odd_numbers_of_copies() {
        assert_eq!(replicas("3"), Ok(3));
        assert!(replicas("2").unwrap_err().contains("1, 3 or 5"));
        assert!(replicas("x").is_err());
    }
}
