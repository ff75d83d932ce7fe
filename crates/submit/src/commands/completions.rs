//! `grange completions`.

use crate::cli::Cli;
use crate::failure::{Exit, Failure};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  grange completions bash > ~/.local/share/bash-completion/completions/grange"
)]
pub(crate) struct CompletionsFlags {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(flags: &CompletionsFlags) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Cli::command(), "grange", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Ok)
}
