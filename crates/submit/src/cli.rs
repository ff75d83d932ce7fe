//! The command line: what there is, and what `--help` says. Each command's own flags lie beside the command.

use crate::commands::{
    agents, cancel, completions, cron, doctor, exec_child, init, jobs, logs, plugins, priority, result,
    status, submit, up, usage, wait, watch, why,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use grange_protocol::name::Owner;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Examples:
  grange up --plugins examples/plugins        start a farm of one; Ctrl-C stops it
  grange submit echo text=hello               run a job and follow it
  grange submit ocr --file page=letter.png --out results
  grange result @last --output json           the last job's result, for a program

Exit codes:
  0  ok                    5  job expired              10  job has not finished yet
  1  other error           6  job or submit refused   130  interrupted, job left running
  2  wrong use             7  no such job or plugin
  3  job failed            8  broker unreachable, too old, or without what a farm needs
  4  job cancelled         9  object store unreachable

Environment: GRANGE_BROKER, GRANGE_OBJECTS, GRANGE_OWNER, GRANGE_STATE, GRANGE_POLICY stand for the options of these names;
credentials: GRANGE_BROKER_USER with GRANGE_BROKER_PASSWORD, GRANGE_BROKER_TOKEN, or GRANGE_BROKER_CREDS (a file);
AWS_* for an s3:// object store; NO_COLOR for no colour; GRANGE_LOG=debug for what happens underneath.";

/// Jobs on a farm of GPU hosts.
#[derive(Parser)]
#[command(
    name = "grange",
    version,
    about = "Submits jobs to a Grange farm, follows them and looks after the farm"
)]
#[command(after_help = AFTER_HELP, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: GlobalFlags,
}

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Farm")]
pub(crate) struct GlobalFlags {
    /// Broker, e.g. nats://host:4222 [default: GRANGE_BROKER, else the farm that `grange up` runs here]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) broker: Option<String>,
    /// Object store, file:///folder or s3://bucket/prefix [default: GRANGE_OBJECTS, else the farm's]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) objects: Option<String>,
    /// Who submits, and whose jobs are looked at [default: GRANGE_OWNER, else the login name]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) owner: Option<Owner>,
    // Not global: `jobs --state` is something else. The other commands have it by `StateFlag`.
    /// Folder for what is kept on this machine [default: GRANGE_STATE, else ~/.local/state/grange]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// For people, for programs (JSON, or JSON lines for what streams), or only the essential word
    #[arg(long, global = true, value_enum, value_name = "FORM", default_value_t)]
    pub(crate) output: OutputForm,
}

/// `--state` behind a command's name.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Farm")]
pub(crate) struct StateFlag {
    /// Folder for what is kept on this machine [default: GRANGE_STATE, else ~/.local/state/grange]
    #[arg(long, value_name = "DIR", id = "state_folder")]
    state: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OutputForm {
    #[default]
    Human,
    Json,
    Quiet,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start a farm of one on this machine: a broker, an agent and an object folder
    Up(up::UpFlags),
    /// Make the farm's streams and buckets on a broker
    Init(init::InitFlags),
    /// Submit a job
    Submit(Box<submit::SubmitFlags>),
    /// Submit jobs again and again: add, list, show, remove or run one
    Cron(cron::CronFlags),
    /// Wait for the end of many jobs
    Wait(wait::WaitFlags),
    /// Follow a job from its start to its end
    Watch(watch::WatchFlags),
    /// Show the result of a job
    Result(result::ResultFlags),
    /// Ask for the end of a job
    Cancel(cancel::CancelFlags),
    /// Say why a job waits
    Why(why::WhyFlags),
    /// Give a job that waits another priority
    Priority(priority::PriorityFlags),
    /// List jobs, newest first
    Jobs(jobs::JobsFlags),
    /// Show a job with its history
    Status(status::StatusFlags),
    /// Show what a job's plugin printed
    Logs(logs::LogsFlags),
    /// List the agents that are up, or show one; put a GPU back to use
    Agents(agents::AgentsFlags),
    /// List the plugins of the farm, what they need and what they were seen to use
    Plugins(plugins::PluginsFlags),
    /// Sum up what jobs took, by owner and plugin
    Usage(usage::UsageFlags),
    /// Look whether the farm is as it should be
    Doctor(doctor::DoctorFlags),
    /// Print completions for a shell
    Completions(completions::CompletionsFlags),
    /// Become a program that ends with `grange up`
    #[command(hide = true)]
    ExecChild(exec_child::ExecChildFlags),
}

impl Cli {
    /// The flags of every command, with `--state` from wherever it stands.
    pub(crate) fn global_flags(&self) -> GlobalFlags {
        let behind = match &self.command {
            Command::Up(flags) => &flags.state,
            Command::Init(flags) => &flags.state,
            Command::Submit(flags) => &flags.state,
            Command::Cron(flags) => flags.state(),
            Command::Wait(flags) => &flags.state,
            Command::Watch(flags) => &flags.state,
            Command::Result(flags) => &flags.state,
            Command::Cancel(flags) => &flags.state,
            Command::Priority(flags) => &flags.state,
            Command::Why(flags) => &flags.state,
            Command::Status(flags) => &flags.state,
            Command::Logs(flags) => &flags.state,
            Command::Agents(flags) => flags.state(),
            Command::Plugins(flags) => &flags.state,
            Command::Usage(flags) => &flags.state,
            Command::Doctor(flags) => &flags.state,
            Command::Jobs(_) | Command::Completions(_) | Command::ExecChild(_) => &StateFlag { state: None },
        };
        let mut flags = self.global.clone();
        flags.state = behind.state.clone().or(flags.state);
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_exit_code_is_in_the_help() {
        let help = Cli::command().render_long_help().to_string();
        for code in ["0  ok", "10  job", "130  interrupted", "8  broker", "9  object"] {
            assert!(help.contains(code), "{code}");
        }
    }
}
