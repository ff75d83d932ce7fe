//! `grange doctor`: is the farm as it should be?
//!
//! Owns the order of the checks. Each looks and says what it found; none changes anything but one small object of
//! always the same bytes in the store.

mod broker;
mod farm;
mod jobs;
mod streams;

use crate::cli::StateFlag;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::words::{Check, Verdict};
use std::net::SocketAddr;

#[derive(clap::Args)]
#[command(after_help = "\
Exit code 0 when nothing failed (warnings are no failure), 8 when the broker cannot be used, 9 when the object store
cannot, else 1.")]
pub(crate) struct DoctorFlags {
    /// The broker's monitoring address, where it has one: some settings are told only there
    #[arg(long, value_name = "HOST:PORT")]
    monitor: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

fn ok(name: &'static str, text: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Ok, text: text.into(), advice: None }
}

fn warn(name: &'static str, text: impl Into<String>, advice: &str) -> Check {
    Check { name, verdict: Verdict::Warn, text: text.into(), advice: Some(advice.to_owned()) }
}

fn fail(name: &'static str, text: impl Into<String>, advice: &str) -> Check {
    Check { name, verdict: Verdict::Fail, text: text.into(), advice: Some(advice.to_owned()) }
}

pub(crate) async fn run(
    flags: &DoctorFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Ok;
    let session = match context.connect().await {
        Ok(session) => session,
        Err(failure) => {
            let advice = failure.hint.as_deref().unwrap_or("every other command needs it; see --broker");
            output.check(&fail("broker", &failure.text, advice))?;
            let store = farm::store(context).await;
            output.check(&store)?;
            return Ok(failure.exit);
        }
    };
    let monitor = flags.monitor.or_else(|| context.farm.as_ref()?.monitor.as_ref()?.parse().ok());
    let mut checks = broker::checks(&session, context, monitor).await;
    let broker_fails = checks.iter().any(|check| check.verdict == Verdict::Fail);
    let store = farm::store(context).await;
    let store_fails = store.verdict == Verdict::Fail;
    checks.push(store);
    let (seen, agents) = farm::agents(&session).await;
    checks.extend(seen);
    checks.extend(jobs::checks(&session, &agents).await);
    for check in &checks {
        output.check(check)?;
        if check.verdict == Verdict::Fail {
            exit = Exit::Other;
        }
    }
    Ok(match (broker_fails, store_fails) {
        (true, _) => Exit::Broker,
        (false, true) => Exit::Store,
        (false, false) => exit,
    })
}
