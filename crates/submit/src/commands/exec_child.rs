//! `grange exec-child PARENT -- PROGRAM …`: what the children of `grange up` are started through.
//!
//! It ties its life to `grange up`, leaves the terminal's process group (so that Ctrl-C reaches only `grange up`), and
//! becomes the program.

use crate::failure::{Exit, Failure};
use rustix::process::{Signal, getppid, set_parent_process_death_signal, setpgid};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct ExecChildFlags {
    /// The process that has to be the parent
    parent: i32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The words to put before a program, so that it ends with this process.
pub(crate) fn shim() -> std::io::Result<Vec<OsString>> {
    let own = std::env::current_exe()?;
    Ok(vec![own.into(), "exec-child".into(), std::process::id().to_string().into(), "--".into()])
}

/// Only comes back when it does not become the program.
pub(crate) fn run(flags: &ExecChildFlags) -> Failure {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Failure::system("the parent-death signal cannot be set", &error);
    }
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != flags.parent) {
        return Failure::new(Exit::Other, "the parent ended before its child began");
    }
    if let Err(error) = setpgid(None, None) {
        return Failure::system("no process group of its own", &error);
    }
    let program = &flags.command[0];
    let error = Command::new(program).args(&flags.command[1..]).exec();
    Failure::system(format!("`{}` cannot be started", Path::new(program).display()), &error)
}
