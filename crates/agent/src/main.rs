//! `grange-agent`: the daemon of a host, and the two small roles that its workers are started through.

use clap::{Parser, Subcommand};
use grange_agent::config::{Config, Flags};
use grange_agent::{run, supervise};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit status of a configuration that cannot be used.
const EXIT_CONFIG: u8 = 64;
/// Exit status of a failure to come up or to go on.
const EXIT_FAILURE: u8 = 1;

#[derive(Parser)]
#[command(name = "grange-agent", version, about = "Runs jobs of a Grange farm on this host")]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    options: RunOptions,
}

#[derive(clap::Args)]
struct RunOptions {
    /// Configuration file (TOML)
    #[arg(long, env = "GRANGE_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Broker URL, e.g. nats://host:4222
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// Folder for what has to outlive the agent
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The agent's name; the host's name when left out
    #[arg(long)]
    name: Option<String>,
    /// Folder with plugin manifests; repeat for several, the first that has a name wins
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
    /// Object store, file:///folder or s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    objects: Option<String>,
    /// Make the streams and buckets first, as `grange init` does
    #[arg(long)]
    init: bool,
    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Role {
    /// Hold one worker's process tree and its deadline (started by an agent)
    #[command(hide = true)]
    Supervise,
    /// Become a worker that dies with its supervisor (started by a supervisor)
    #[command(hide = true)]
    ExecWorker {
        /// The process that has to be the parent
        parent: i32,
        /// A control group that it enters
        #[arg(long)]
        cgroup: Vec<PathBuf>,
        /// Its limit of open files
        #[arg(long)]
        open_files: Option<u64>,
        /// The program and its arguments
        #[arg(last = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Supervise) => supervise::run(),
        Some(Role::ExecWorker { parent, cgroup, open_files, command }) => {
            supervise::exec_worker(&supervise::Entrance { parent, groups: cgroup, open_files }, &command)
        }
        None => agent(cli.options),
    }
}

fn agent(options: RunOptions) -> ExitCode {
    start_log(options.log_json);
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let flags = Flags {
        broker: options.broker,
        state: options.state,
        name: options.name,
        plugins: options.plugins,
        objects: options.objects,
        init: options.init,
    };
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let config = match Config::load(options.config.as_deref(), &environment, &flags, &host) {
        Ok(config) => config,
        Err(error) => return say(&grange_agent::causes::chain(&error), EXIT_CONFIG),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run::run(config, environment, host)),
        Err(error) => return say(&format!("the runtime cannot start: {error}"), EXIT_FAILURE),
    };
    match ended {
        Ok(leave) => {
            tracing::info!(?leave, "agent ended");
            ExitCode::SUCCESS
        }
        Err(error) => say(&format!("{error:#}"), EXIT_FAILURE),
    }
}

fn start_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("GRANGE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,async_nats=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if json {
        log.json().init();
    } else {
        log.init();
    }
}

fn say(text: &str, status: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "grange-agent: {text}");
    ExitCode::from(status)
}
