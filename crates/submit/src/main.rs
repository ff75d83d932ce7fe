//! `grange`: the command line of a farm.
//!
//! Owns reading the command line and the process's end. What a command does is in `commands`, what it says in
//! `output`, where the farm is in `context`.

mod admission;
mod arguments;
mod batch;
mod cli;
mod commands;
mod context;
mod ending;
mod failure;
mod follow;
mod interrupt;
mod job_flags;
mod nearest;
mod output;
mod resources;
mod retries;
mod sending;
mod state_folder;
mod units;
mod waiting;
mod when;

use clap::Parser;
use cli::{Cli, Command};
use context::Context;
use failure::{Exit, Failure};
use output::Output;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// How long work in other threads may hold up the end of the process.
const LEFTOVERS: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    // Variables that are no text are nobody's setting here.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut output = output::open(cli.global.output, &environment);
    match run(cli, environment, output.as_mut()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.silent {
                // Where stderr is gone too, the exit code has to do.
                let _ = output.failure(&failure);
            }
            failure.exit.into()
        }
    }
}

fn run(cli: Cli, environment: BTreeMap<String, String>, output: &mut dyn Output) -> Result<Exit, Failure> {
    match &cli.command {
        Command::ExecChild(flags) => return Err(commands::exec_child::run(flags)),
        Command::Completions(flags) => return commands::completions::run(flags),
        _ => {}
    }
    let login = context::login_name(&environment, rustix::process::getuid().as_raw());
    let context = Context::resolve(&cli.global_flags(), environment, &login)?;
    // One thread: a child's death signal comes when the thread that started it ends.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::system("the runtime cannot start", &e))?;
    let ended = runtime.block_on(dispatch(cli.command, &context, output));
    runtime.shutdown_timeout(LEFTOVERS);
    ended
}

async fn dispatch(command: Command, context: &Context, output: &mut dyn Output) -> Result<Exit, Failure> {
    match command {
        Command::Up(flags) => commands::up::run(flags, context, output).await,
        Command::Init(flags) => commands::init::run(&flags, context, output).await,
        Command::Submit(flags) => commands::submit::run(*flags, context, output).await,
        Command::Cron(flags) => commands::cron::run(&flags, context, output).await,
        Command::Wait(flags) => commands::wait::run(&flags, context, output).await,
        Command::Watch(flags) => commands::watch::run(&flags, context, output).await,
        Command::Result(flags) => commands::result::run(&flags, context, output).await,
        Command::Cancel(flags) => commands::cancel::run(&flags, context, output).await,
        Command::Priority(flags) => commands::priority::run(&flags, context, output).await,
        Command::Why(flags) => commands::why::run(&flags, context, output).await,
        Command::Jobs(flags) => commands::jobs::run(flags, context, output).await,
        Command::Status(flags) => commands::status::run(&flags, context, output).await,
        Command::Logs(flags) => commands::logs::run(&flags, context, output).await,
        Command::Agents(flags) => commands::agents::run(&flags, context, output).await,
        Command::Plugins(flags) => commands::plugins::run(&flags, context, output).await,
        Command::Usage(flags) => commands::usage::run(flags, context, output).await,
        Command::Doctor(flags) => commands::doctor::run(&flags, context, output).await,
        Command::ExecChild(_) | Command::Completions(_) => Ok(Exit::Ok),
    }
}

/// What happens underneath, for those who ask for it by `GRANGE_LOG`.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("GRANGE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
