//! When a job that is submitted is tried again: the flags for it, and the policy that they make.

use crate::units::parse_duration;
use grange_protocol::retry::{BACKOFF_LIMIT_MS, RetryPolicy, TRIES_MAX};

#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct RetryFlags {
    /// How often the job is tried again after an error [default: as the plugin says, else never]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..i64::from(TRIES_MAX)))]
    retries: Option<u32>,
    /// Longest wait before the first of these tries, e.g. 2s; doubled each time, each wait by chance below it
    #[arg(long, value_name = "TIME", value_parser = backoff_ms)]
    backoff: Option<u64>,
}

impl RetryFlags {
    pub(crate) fn policy(&self) -> RetryPolicy {
        let max_attempts = self.retries.map(|retries| retries + 1);
        RetryPolicy { max_attempts, backoff_ms: self.backoff, ..RetryPolicy::default() }
    }
}

fn backoff_ms(text: &str) -> Result<u64, String> {
    match u64::try_from(parse_duration(text)?.as_millis()) {
        Ok(ms) if ms <= BACKOFF_LIMIT_MS => Ok(ms),
        _ => Err(format!("`{text}` is too long; the most is 1d")),
    }
}
