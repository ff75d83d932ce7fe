//! `grange agents drain` and `undrain`: a host that takes nothing new, until it may again.

use super::{ask, find};
use crate::cli::StateFlag;
use crate::context::Session;
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::output::words::Level;
use crate::units::parse_duration;
use grange_broker_client::query;
use grange_protocol::name::AgentName;
use grange_protocol::status::{ControlAnswer, DrainOrder};
use std::time::Duration;

/// Between two looks at a host that drains.
const LOOKS: Duration = Duration::from_millis(500);
/// Looks in a row in which nothing is heard of the host: twice as long as a heartbeat stands.
const SILENT_LOOKS: u32 = 24;

#[derive(clap::Args)]
#[command(after_help = "\
What runs is finished, what waits on the host goes back to its queue, idle workers leave. The host stays up and stays
drained, also when its agent starts again, until `grange agents undrain`.

Examples:
  grange agents drain gpu1 --wait        before work on a host: come back when nothing runs there
  grange agents drain gpu1 --deadline 10m --reason 'new driver'
                                         what still runs after 10 minutes is stopped and runs elsewhere")]
pub(super) struct DrainFlags {
    /// The agent
    #[arg(value_name = "HOST")]
    agent: AgentName,
    /// Stop what still runs after this, and hand it back; without it everything may finish
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    deadline: Option<Duration>,
    /// Why, for those who ask why their job waits
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Come back when nothing runs there any more
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    state: StateFlag,
}

#[derive(clap::Args)]
pub(super) struct UndrainFlags {
    /// The agent
    #[arg(value_name = "HOST")]
    agent: AgentName,
    #[command(flatten)]
    state: StateFlag,
}

impl DrainFlags {
    pub(super) fn state(&self) -> &StateFlag {
        &self.state
    }
}

impl UndrainFlags {
    pub(super) fn state(&self) -> &StateFlag {
        &self.state
    }
}

pub(super) async fn drain(
    flags: &DrainFlags,
    session: &Session,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let agents = query::agents(&session.broker).await?;
    find(&agents, &flags.agent)?;
    let deadline_s = flags.deadline.map(|deadline| deadline.as_millis().div_ceil(1000));
    let order = DrainOrder {
        deadline_s: deadline_s.map(|seconds| u64::try_from(seconds).unwrap_or(u64::MAX)),
        reason: flags.reason.clone(),
        exit: false,
    };
    let answer = ask(session, &flags.agent, "drain", &order).await?;
    if !flags.wait {
        output.answered(&flags.agent, &answer)?;
        return Ok(Exit::Ok);
    }
    output.say(Level::Note, &format!("{}: {}", flags.agent, answer.message))?;
    wait(&flags.agent, session, output).await
}

/// Until nothing runs there. The drain goes on when the waiting is given up.
async fn wait(agent: &AgentName, session: &Session, output: &mut dyn Output) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::open()?;
    let mut looks = tokio::time::interval(LOOKS);
    let (mut held, mut silent) = (None, 0);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = interrupts.next() => {
                output.say(Level::Note, "not waiting any more; the host drains on")?;
                return Ok(Exit::LeftRunning);
            }
        }
        let agents = query::agents(&session.broker).await?;
        let heard = agents.iter().find(|(status, _)| status.agent == *agent).map(|(status, _)| status);
        let Some((status, drain)) = heard.and_then(|status| Some((status, status.drain.as_ref()?))) else {
            // It may be the heartbeat before the order's, or the agent starts again.
            silent += 1;
            if silent < SILENT_LOOKS {
                continue;
            }
            return Err(match heard {
                Some(_) => Failure::new(Exit::Other, format!("agent `{agent}` takes work again")),
                None => Failure::new(Exit::Other, format!("agent `{agent}` is not heard any more"))
                    .hint("the drain is written down on its host: it goes on when the agent is up again"),
            });
        };
        silent = 0;
        if drain.done {
            let answer = ControlAnswer { ok: true, message: "drained: nothing runs".to_owned() };
            output.answered(agent, &answer)?;
            return Ok(Exit::Ok);
        }
        let running = status.attempts.len();
        if held.replace(running) != Some(running) {
            let jobs = if running == 1 { "job" } else { "jobs" };
            output.say(Level::Note, &format!("{agent}: {running} {jobs} still run"))?;
        }
    }
}

pub(super) async fn undrain(
    flags: &UndrainFlags,
    session: &Session,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let agents = query::agents(&session.broker).await?;
    find(&agents, &flags.agent)?;
    let answer = ask(session, &flags.agent, "undrain", &serde_json::json!({})).await?;
    output.answered(&flags.agent, &answer)?;
    Ok(Exit::Ok)
}
