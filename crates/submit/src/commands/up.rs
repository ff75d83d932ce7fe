//! `grange up`: a farm of one.
//!
//! Owns the life of its two children, the broker and the agent: they start in this order, end in the other, and end
//! with this process in any case.

mod agent;
mod server;
mod watch;

use crate::cli::StateFlag;
use crate::commands::exec_child::shim;
use crate::context::{Context, Session};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::output::words::{FarmNews, Level};
use crate::state_folder::FarmFile;
use crate::units;
use agent::Agent;
use grange_local_farm::nats::NatsServer;
use grange_local_farm::options::SyncInterval;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use watch::Watch;

/// How often the broker is asked whether it is still there.
const HEALTH: Duration = Duration::from_millis(500);
/// How often the agent's heartbeat is read.
const LOOK: Duration = Duration::from_millis(250);
/// Longest time for the agent's drain, which has a limit of its own.
const DRAIN_LIMIT: Duration = Duration::from_secs(90);
/// Longest time for the broker's end.
const BROKER_LIMIT: Duration = Duration::from_secs(10);
/// Signals after which the agent is killed.
const PATIENCE: u32 = 3;

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Every two minutes: a killed process loses nothing, a power cut may lose two minutes
    Default,
    /// Before each answer: a power cut loses nothing; slower
    Always,
}

#[derive(clap::Args)]
#[command(after_help = "\
While it runs, the other commands on this machine find the farm by its state folder. The broker listens on 127.0.0.1 and
lets in every user of this machine. Everything is kept in the state folder: jobs that wait go on at the next `grange up`.

Example:
  grange up --plugins examples/plugins")]
pub(crate) struct UpFlags {
    /// Folder with plugins; repeat for several, the first that has a name wins [default: GRANGE_PLUGINS]
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
    /// Port of the broker; any free one when left out
    #[arg(long)]
    port: Option<u16>,
    /// When the broker forces what it accepted to the disk
    #[arg(long, value_enum, default_value = "default")]
    sync: Sync,
    /// The program `grange-agent` [default: GRANGE_AGENT, else the one beside `grange`, else the one on the PATH]
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

/// What runs.
struct Farm {
    server: NatsServer,
    session: Session,
    agent: Agent,
    watch: Watch,
}

pub(crate) async fn run(flags: UpFlags, context: &Context, output: &mut dyn Output) -> Result<Exit, Failure> {
    check(context, output)?;
    context.state.make()?;
    let _only_one = lock(context)?;
    context.state.remove_farm()?;
    let mut signals = Signals::open()?;
    let mut farm = tokio::select! {
        farm = come_up(&flags, context, output) => farm?,
        // What had started ends with its handle.
        _ = signals.next() => return Ok(Exit::LeftRunning),
    };
    let ended = go_on(&mut farm, &mut signals, output).await;
    let stopped = stop(farm, context, &mut signals, output).await;
    ended?;
    stopped?;
    Ok(Exit::Ok)
}

fn check(context: &Context, output: &mut dyn Output) -> Result<(), Failure> {
    if context.source != crate::context::Source::Given {
        return Ok(());
    }
    if context.environment.get("GRANGE_BROKER").is_some_and(|url| *url == context.broker.url) {
        let text = "GRANGE_BROKER is set: other commands use that broker, not this farm, until it is unset";
        return Ok(output.say(Level::Warning, text)?);
    }
    Err(Failure::usage("`grange up` starts a broker of its own and takes no --broker")
        .hint("to join this machine to a farm, start `grange-agent --broker URL`"))
}

/// One farm per state folder; let go when this process ends, however it ends.
fn lock(context: &Context) -> Result<File, Failure> {
    let path = context.state.join("up.lock");
    let file = File::create(&path).map_err(|e| Failure::system(format!("`{}`", path.display()), &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => {
            let text =
                format!("a farm runs already with the state folder `{}`", context.state.path().display());
            Err(Failure::new(Exit::Other, text).hint("use it, stop it, or give another --state"))
        }
    }
}

async fn come_up(flags: &UpFlags, context: &Context, output: &mut dyn Output) -> Result<Farm, Failure> {
    let shim = shim().map_err(|e| Failure::system("this program's own path", &e))?;
    let folders = agent::plugin_folders(&flags.plugins)?;
    let program = agent::find(flags.agent.as_deref(), context)?;
    let binary = server::binary(context, output).await?;
    let uv = agent::uv(&folders, context, output).await?;
    let sync = match flags.sync {
        Sync::Default => SyncInterval::Default,
        Sync::Always => SyncInterval::Always,
    };
    let server = server::start(binary, context, flags.port, sync, shim.clone()).await?;
    let session = server::connect(&server).await?;
    server::topology(&session, output).await?;
    output.farm(&FarmNews::Broker {
        url: server.url(),
        version: session.broker.client().server_info().version,
        durability: server::durability(sync).to_owned(),
    })?;
    let folder = || format!("file://{}", context.state.join("objects").display());
    let objects = context.objects_flag.clone().unwrap_or_else(folder);
    output.farm(&FarmNews::Objects { url: objects.clone() })?;
    let plan = agent::Plan {
        program,
        shim,
        broker: server.url(),
        state: context.state.join("agent"),
        objects: objects.clone(),
        plugins: folders,
        uv,
        log: context.state.join("agent.log"),
    };
    let watch = Watch::new(plan.log.clone(), units::now_ms());
    let agent = Agent::start(plan)?;
    context.state.write_farm(&FarmFile {
        broker: server.url(),
        objects,
        owner: context.owner.clone(),
        monitor: server.addresses().monitor.map(|address| address.to_string()),
        pid: std::process::id(),
    })?;
    Ok(Farm { server, session, agent, watch })
}

/// Until a signal, or until something cannot go on.
async fn go_on(farm: &mut Farm, signals: &mut Signals, output: &mut dyn Output) -> Result<(), Failure> {
    let mut looks = interval(LOOK);
    let mut health = interval(HEALTH);
    for ticks in [&mut looks, &mut health] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            signal = signals.next() => {
                output.farm(&FarmNews::Stopping { signal })?;
                return Ok(());
            }
            how = farm.agent.ended() => {
                farm.agent.check_end(&how, farm.watch.has_seen_agent())?;
                output.farm(&FarmNews::AgentLost { how })?;
                farm.agent.start_again()?;
            }
            _ = looks.tick() => farm.watch.look(&farm.session, output).await?,
            _ = health.tick() => {
                if server::revive(&mut farm.server).await? {
                    output.farm(&FarmNews::BrokerLost)?;
                }
            }
        }
    }
}

async fn stop(
    mut farm: Farm,
    context: &Context,
    signals: &mut Signals,
    output: &mut dyn Output,
) -> Result<(), Failure> {
    let mut told = 1;
    let deadline = Instant::now() + DRAIN_LIMIT;
    farm.agent.tell_to_end();
    loop {
        tokio::select! {
            _ = farm.agent.ended() => break,
            _ = signals.next() => {
                told += 1;
                if told >= PATIENCE { farm.agent.kill() } else { farm.agent.tell_to_end() }
            }
            () = sleep_until(deadline) => farm.agent.kill(),
        }
    }
    context.state.remove_farm()?;
    farm.server.stop(BROKER_LIMIT).await.map_err(|e| Failure::system("the broker does not end", &e))?;
    Ok(output.farm(&FarmNews::Stopped)?)
}

/// Everything that asks for the end: Ctrl-C, a service manager, a closed terminal.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn open() -> Result<Self, Failure> {
        let open = |kind| signal(kind).map_err(|e| Failure::system("signals cannot be listened for", &e));
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
            hangup: open(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
