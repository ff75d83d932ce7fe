//! From a supervisor to a worker: the instant in which the same binary ties its life, takes its bounds and becomes the
//! program.
//!
//! Owns what a process can only do to itself before it executes another program. So nothing here needs `unsafe`.

use super::Program;
use crate::cage::Cage;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// What the kernel ends first when the host's memory is used up: a worker, not its agent. Of at most 1000.
const OOM_SCORE: &str = "500";
/// Exit status of a worker that could not be begun.
const EXIT_NOT_BEGUN: u8 = 71;

/// What a worker goes through.
#[derive(Clone, Debug, Default)]
pub struct Entrance {
    /// The process that has to be the parent.
    pub parent: i32,
    /// The groups that it enters.
    pub groups: Vec<PathBuf>,
    /// Its limit of open files.
    pub open_files: Option<u64>,
}

/// Starts the worker through `exec-worker`.
pub(super) fn start(program: &Program, link: OwnedFd) -> std::io::Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("exec-worker").arg(getpid().as_raw_nonzero().to_string());
    for folder in program.cage.folders() {
        command.arg("--cgroup").arg(folder);
    }
    if let Some(most) = program.bounds.open_files {
        command.args(["--open-files", &most.to_string()]);
    }
    let child = command
        .arg("--")
        .args(&program.command)
        .env_clear()
        .envs(&program.env)
        .current_dir(&program.folder)
        .process_group(0)
        .stdin(Stdio::from(link))
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| std::io::Error::other("the worker has no process id"))
}

/// `grange-agent exec-worker PARENT -- PROGRAM …`: dies with its supervisor, then becomes the program. Without a program
/// it says that it is ready and stays until its input ends: so an agent tries a group out.
pub fn exec_worker(entrance: &Entrance, command: &[String]) -> ExitCode {
    let fail = |text: String| {
        let _ = writeln!(std::io::stderr(), "{text}");
        ExitCode::from(EXIT_NOT_BEGUN)
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return fail(format!("the parent-death signal could not be set: {error}"));
    }
    if getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != entrance.parent) {
        return fail("the supervisor ended before its worker began".to_owned());
    }
    if let Err(error) = Cage::enter(&entrance.groups) {
        return fail(format!("the worker could not be put into its control groups: {error}"));
    }
    if let Err(error) = take_bounds(entrance) {
        return fail(format!("the worker's limits could not be set: {error}"));
    }
    let Some((program, arguments)) = command.split_first() else {
        let _ = writeln!(std::io::stdout(), "ready");
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        return ExitCode::SUCCESS;
    };
    let error = Command::new(program).args(arguments).exec();
    fail(format!("`{program}` could not be started: {error}"))
}

/// No core files, so many open files, and the first to go when the host runs out of memory. Never the address space:
/// CUDA reserves huge ranges of it.
fn take_bounds(entrance: &Entrance) -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    if let Some(wanted) = entrance.open_files {
        let most = getrlimit(Resource::Nofile).maximum.map_or(wanted, |hard| hard.min(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    // A host may forbid it; then its own order counts.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}
