//! An agent as a real process.

use crate::eventually::eventually;
use crate::farm::{binary, death_shim};
use crate::processes::{descendants, is_alive, named, rss_bytes, signal};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How an agent is to be started.
#[derive(Clone, Debug)]
pub struct AgentPlan {
    /// Its name.
    pub name: String,
    /// The broker's URL.
    pub broker: String,
    /// The object store's URL.
    pub objects: String,
    /// Its state folder.
    pub state: PathBuf,
    /// Its plugin folders.
    pub plugins: Vec<PathBuf>,
    /// More of its configuration, TOML.
    pub config: String,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
}

impl AgentPlan {
    /// Starts the process.
    pub fn start(&self) -> Agent {
        self.start_within(&[])
    }

    /// The same, behind a command that becomes the agent, e.g. one that enters a network.
    pub fn start_within(&self, command: &[OsString]) -> Agent {
        std::fs::create_dir_all(&self.state).expect("a state folder");
        let config = self.state.join("agent.toml");
        std::fs::write(&config, &self.config).expect("a configuration");
        let log =
            File::options().create(true).append(true).open(self.state.join("agent.log")).expect("a log");
        let mut words = death_shim();
        words.extend_from_slice(command);
        words.push(binary("grange-agent").into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.args(["--config"]).arg(&config).args(["--name", &self.name, "--broker", &self.broker]);
        command.args(["--objects", &self.objects]).arg("--state").arg(&self.state);
        for folder in &self.plugins {
            command.arg("--plugins").arg(folder);
        }
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the agent starts");
        Agent { child, plan: self.clone() }
    }
}

/// Removes a control group once the kernel lets it go.
fn remove_group(group: &std::path::Path) {
    let begun = Instant::now();
    while group.is_dir() && std::fs::remove_dir(group).is_err() && begun.elapsed() < Duration::from_secs(2) {
        std::thread::yield_now();
    }
}

/// A running agent. Dropping it ends it and everything below it.
pub struct Agent {
    child: Child,
    plan: AgentPlan,
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it was started.
    pub fn plan(&self) -> &AgentPlan {
        &self.plan
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.plan.state.join("agent.log")).unwrap_or_default()
    }

    /// Everything that it started.
    pub fn descendants(&self) -> Vec<u32> {
        descendants(self.pid())
    }

    /// Its supervisors.
    pub fn supervisors(&self) -> Vec<u32> {
        let is_one = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).nth(1) == Some(b"supervise")
        };
        self.descendants().into_iter().filter(is_one).collect()
    }

    /// The parents of its workers' control groups; none where it has no control groups.
    pub fn groups(&self) -> Vec<PathBuf> {
        let list = std::fs::read_to_string(self.plan.state.join("isolation-groups")).unwrap_or_default();
        list.lines().map(PathBuf::from).collect()
    }

    /// Waits until it has so many processes of this name below it, and gives everything below it.
    pub async fn tree_with(&self, name: &str, count: usize) -> Vec<u32> {
        eventually(&format!("{count} `{name}` are there"), Duration::from_secs(20), async || {
            let tree = self.descendants();
            if named(&tree, name).len() == count { Ok(tree) } else { Err(format!("{tree:?}")) }
        })
        .await
    }

    /// Its resident memory, bytes.
    pub fn rss_bytes(&self) -> u64 {
        rss_bytes(self.pid()).expect("the agent is there")
    }

    /// Sends it a signal.
    pub fn signal(&self, kind: Signal) {
        signal(self.pid(), kind);
    }

    /// Kills it (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(begun.elapsed() < limit, "the agent did not end within {limit:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let below = self.descendants();
        self.kill();
        for pid in below {
            if is_alive(pid) {
                signal(pid, Signal::KILL);
            }
        }
        // An agent that is killed tidies up in its next life; this one has none.
        for group in self.groups() {
            for inner in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = std::fs::write(inner.path().join("cgroup.kill"), "1");
                remove_group(&inner.path());
            }
            remove_group(&group);
        }
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(6_000);
            println!("--- log of agent {} ---\n{}", self.plan.name, log.get(start..).unwrap_or(&log));
        }
    }
}
