//! `grange agents`: who is up, one of them in detail, a host that takes nothing new, and a GPU put back to use.

mod drain;

use crate::cli::StateFlag;
use crate::context::{Context, Session};
use crate::failure::{Exit, Failure};
use crate::interrupt::Interrupts;
use crate::nearest::nearest;
use crate::output::Output;
use crate::output::words::{Agents, Level, Showing};
use crate::units::parse_duration;
use grange_broker_client::{ErrorKind, query};
use grange_protocol::name::AgentName;
use grange_protocol::status::{AgentStatus, ControlAnswer, UnquarantineOrder};
use grange_protocol::subject::control;
use serde::Serialize;
use std::time::Duration;

/// Shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(200);
/// Agents that an error names.
const LISTED: usize = 12;
/// How long a broker that does not answer is asked again, in looks.
const TRIES: u32 = 30;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(after_help = "\
VRAM, cores and memory are what a new worker could be given: what the host has, less its reserve, what workers were
given and what other processes use.

Examples:
  grange agents                          one line for an agent
  grange agents gpu1                     its GPUs, workers and running jobs
  grange agents --watch                  the same again and again, until Ctrl-C
  grange agents drain gpu1 --wait        it takes nothing new; wait until nothing runs there
  grange agents undrain gpu1             it takes work again
  grange agents unquarantine gpu1 GPU-5e a GPU that was taken out of service may be used again")]
pub(crate) struct AgentsFlags {
    /// Only this agent, with its GPUs, workers and running jobs
    #[arg(value_name = "HOST")]
    agent: Option<AgentName>,
    /// Again and again, on a terminal in place, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// How often
    #[arg(long, value_name = "TIME", value_parser = every, default_value = "2s", requires = "watch")]
    every: Duration,
    #[command(flatten)]
    state: StateFlag,
    #[command(subcommand)]
    order: Option<Order>,
}

#[derive(clap::Subcommand)]
enum Order {
    /// Let a host take nothing new; what runs is finished
    Drain(drain::DrainFlags),
    /// Let a host take work again
    Undrain(drain::UndrainFlags),
    /// Let a GPU be used again that was taken out of service
    Unquarantine(UnquarantineFlags),
}

#[derive(clap::Args)]
#[command(after_help = "\
A GPU is taken out of service when it reports an error, is lost, hangs, or does not give memory back. When the reason
stands after this order, it is taken out again.")]
struct UnquarantineFlags {
    /// The agent
    #[arg(value_name = "HOST")]
    agent: AgentName,
    /// The GPU's UUID, or its unique beginning; without it every GPU of the host
    gpu: Option<String>,
    #[command(flatten)]
    state: StateFlag,
}

impl AgentsFlags {
    pub(crate) fn state(&self) -> &StateFlag {
        match &self.order {
            Some(Order::Drain(flags)) => flags.state(),
            Some(Order::Undrain(flags)) => flags.state(),
            Some(Order::Unquarantine(flags)) => &flags.state,
            None => &self.state,
        }
    }
}

fn every(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        every if every >= SHORTEST => Ok(every),
        _ => Err(format!("`{text}` is too often; the least is 200ms")),
    }
}

pub(crate) async fn run(
    flags: &AgentsFlags,
    context: &Context,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    match &flags.order {
        Some(Order::Drain(order)) => drain::drain(order, &session, output).await,
        Some(Order::Undrain(order)) => drain::undrain(order, &session, output).await,
        Some(Order::Unquarantine(order)) => unquarantine(order, &session, output).await,
        None if flags.watch => watch(flags, &session, output).await,
        None => {
            look(flags, &session, output, Showing::Once).await?;
            Ok(Exit::Ok)
        }
    }
}

async fn look(
    flags: &AgentsFlags,
    session: &Session,
    output: &mut dyn Output,
    showing: Showing,
) -> Result<(), Failure> {
    let agents = query::agents(&session.broker).await?;
    match &flags.agent {
        None => output.agents(&Agents::All(&agents), showing)?,
        Some(name) => {
            let (status, age) = find(&agents, name)?;
            output.agents(&Agents::One(status, *age), showing)?;
        }
    }
    Ok(())
}

fn find<'a>(
    agents: &'a [(AgentStatus, Duration)],
    name: &AgentName,
) -> Result<&'a (AgentStatus, Duration), Failure> {
    if let Some(found) = agents.iter().find(|(status, _)| status.agent == *name) {
        return Ok(found);
    }
    let names: Vec<&str> = agents.iter().map(|(status, _)| status.agent.as_str()).collect();
    let near = nearest(name.as_str(), names.iter().copied());
    let ticks = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let failure = Failure::new(Exit::NotFound, format!("no agent `{name}` is up"));
    Err(match (near.is_empty(), names.len()) {
        (false, _) => failure.hint(format!("is it {}?", ticks(&near))),
        (true, 0) => failure.hint("no agent is up at all"),
        (true, 1..=LISTED) => failure.hint(format!("there are {}", ticks(&names))),
        (true, _) => failure.hint("`grange agents` lists those that are up"),
    })
}

/// Until Ctrl-C. A broker that does not answer for a while is no reason to end.
async fn watch(flags: &AgentsFlags, session: &Session, output: &mut dyn Output) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::open()?;
    let mut looks = tokio::time::interval(flags.every);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failed = 0;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = interrupts.next() => return Ok(Exit::Ok),
        }
        let looked = tokio::select! {
            looked = look(flags, session, output, Showing::Again) => looked,
            () = interrupts.next() => return Ok(Exit::Ok),
        };
        match looked {
            Ok(()) => failed = 0,
            Err(failure) if failure.exit == Exit::Broker && failed < TRIES => {
                if failed == 0 {
                    output.say(Level::Warning, &format!("{}; trying again", failure.text))?;
                }
                failed += 1;
            }
            // An agent that is looked at may be gone for a moment too.
            Err(failure) if failure.exit == Exit::NotFound && failed > 0 => failed += 1,
            Err(failure) => return Err(failure),
        }
    }
}

async fn unquarantine(
    flags: &UnquarantineFlags,
    session: &Session,
    output: &mut dyn Output,
) -> Result<Exit, Failure> {
    let agents = query::agents(&session.broker).await?;
    let (status, _) = find(&agents, &flags.agent)?;
    let gpu = match &flags.gpu {
        Some(given) => Some(find_gpu(status, given)?),
        None => None,
    };
    let answer = ask(session, &flags.agent, "unquarantine", &UnquarantineOrder { gpu }).await?;
    output.answered(&flags.agent, &answer)?;
    Ok(Exit::Ok)
}

/// Gives an agent an order; its refusal is a failure.
async fn ask<T: Serialize>(
    session: &Session,
    agent: &AgentName,
    verb: &str,
    order: &T,
) -> Result<ControlAnswer, Failure> {
    let order = serde_json::to_vec(order).map_err(|e| Failure::system("the order cannot be written", &e))?;
    let subject = control(agent, verb);
    let answer = session.broker.request(subject, order.into()).await.map_err(|error| match error.kind() {
        ErrorKind::Timeout => Failure::new(Exit::Other, format!("agent `{agent}` does not answer"))
            .hint("`grange agents` shows when it was heard last"),
        _ => error.into(),
    })?;
    let answer: ControlAnswer = serde_json::from_slice(&answer.payload)
        .map_err(|e| Failure::system(format!("the answer of agent `{agent}`"), &e))?;
    if !answer.ok {
        return Err(Failure::new(Exit::Other, format!("agent `{agent}` refuses: {}", answer.message)));
    }
    Ok(answer)
}

/// The whole UUID of the GPU that was meant.
fn find_gpu(status: &AgentStatus, given: &str) -> Result<String, Failure> {
    let begins = |uuid: &str| uuid.get(..given.len()).is_some_and(|start| start.eq_ignore_ascii_case(given));
    let all: Vec<&str> = status.capacity.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
    let found: Vec<&str> = all.iter().copied().filter(|uuid| *uuid == given).collect();
    let found =
        if found.is_empty() { all.iter().copied().filter(|uuid| begins(uuid)).collect() } else { found };
    let agent = &status.agent;
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(Failure::new(Exit::NotFound, format!("agent `{agent}` has no GPU `{given}`"))
            .hint(format!("`grange agents {agent}` lists those it has"))),
        [first, second, ..] => {
            Err(Failure::usage(format!("`{given}` means several GPUs, e.g. `{first}` and `{second}`"))
                .hint("give more of it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use grange_protocol::capacity::Gpu;

    fn agent(name: &str, gpus: &[&str]) -> (AgentStatus, Duration) {
        let mut status = AgentStatus::silent(AgentName::new(name).unwrap());
        let gpu = |uuid: &&str| Gpu { uuid: (*uuid).to_owned(), ..Gpu::default() };
        status.capacity.gpus = gpus.iter().map(gpu).collect();
        (status, Duration::ZERO)
    }

    fn flags(line: &str) -> Result<AgentsFlags, String> {
        let words = ["grange", "agents"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Agents(flags) => Ok(flags),
            _ => panic!("not agents"),
        }
    }

    #[test]
    fn a_host_and_an_order_are_told_apart() {
        let one = flags("gpu1 --watch --every 500ms").unwrap();
        assert_eq!((one.agent.as_ref().map(AgentName::as_str), one.watch), (Some("gpu1"), true));
        let order = flags("unquarantine gpu1 GPU-5e").unwrap();
        assert!(order.agent.is_none() && order.order.is_some());
        let drains = flags("drain gpu1 --deadline 10m --reason driver").unwrap();
        assert!(drains.agent.is_none() && matches!(drains.order, Some(Order::Drain(_))));
        assert!(flags("drain gpu1 --deadline soon").is_err());
        assert!(flags("unquarantine").err().unwrap().contains("<HOST>"));
        assert!(flags("--every 1s").err().unwrap().contains("--watch"));
        assert!(flags("--watch --every 1ms").err().unwrap().contains("the least is 200ms"));
    }

    #[test]
    fn an_agent_that_is_not_up_is_named_with_those_that_are() {
        let farm = [agent("gpu1", &[]), agent("gpu2", &[])];
        let hint = |name: &str| find(&farm, &AgentName::new(name).unwrap()).unwrap_err().hint.unwrap();
        assert_eq!(hint("gpu3"), "is it `gpu1`, `gpu2`?");
        assert_eq!(hint("elsewhere"), "there are `gpu1`, `gpu2`");
        assert!(find(&[], &AgentName::new("gpu1").unwrap()).unwrap_err().hint.unwrap().contains("no agent"));
    }

    #[test]
    fn a_gpu_is_named_by_the_beginning_of_its_uuid() {
        let (status, _) = agent("gpu1", &["GPU-5e11", "GPU-5e1", "GPU-7a"]);
        let found = |given: &str| find_gpu(&status, given);
        assert_eq!(found("gpu-7"), Ok("GPU-7a".to_owned()));
        assert_eq!(found("GPU-5e1"), Ok("GPU-5e1".to_owned()), "all of it before the beginning of another");
        assert!(found("GPU-5e").unwrap_err().text.contains("means several"));
        let none = found("GPU-99").unwrap_err();
        assert_eq!((none.exit, none.text.as_str()), (Exit::NotFound, "agent `gpu1` has no GPU `GPU-99`"));
    }
}
