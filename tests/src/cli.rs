//! The command line as a real process: what it printed, how it ended.

use crate::eventually::eventually;
use crate::farm::{Farm, binary, death_shim, repository};
use crate::processes::{descendants, signal};
use grange_local_farm::tools;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// `grange` with its settings, in a home of its own. Nothing of this process's settings reaches it.
pub struct Grange {
    folder: TempDir,
    environment: BTreeMap<String, String>,
    count: AtomicU32,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code; None: a signal ended it.
    pub code: Option<i32>,
    /// What is on stdout; of a command on a terminal all that is on the terminal.
    pub out: String,
    /// What is on stderr.
    pub err: String,
}

/// A command that runs. Dropping it kills it.
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Farm {
    /// The command line of somebody who uses this farm.
    pub fn grange(&self, owner: &str) -> Grange {
        Grange::bare()
            .with("GRANGE_BROKER", &self.nats.url())
            .with("GRANGE_OBJECTS", &self.objects_url())
            .with("GRANGE_OWNER", owner)
    }
}

impl Grange {
    /// Without any farm.
    pub fn bare() -> Self {
        let folder = tempfile::Builder::new().prefix("grange-home-").tempdir().expect("a folder");
        let server = tools::nats_server(&repository().join(".tools"), &|_| {}).expect("nats-server");
        let home = folder.path().display().to_string();
        let environment = [
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("HOME", home.clone()),
            ("TMPDIR", home),
            ("TERM", "xterm".to_owned()),
            ("GRANGE_NATS_SERVER", server.display().to_string()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
        Self { folder, environment, count: AtomicU32::new(0) }
    }

    /// The same with this in its environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A path in its home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command to its end.
    pub async fn run<S: AsRef<str>>(&self, words: &[S]) -> Said {
        self.start(words).end().await
    }

    /// Starts a command, without a terminal.
    pub fn start<S: AsRef<str>>(&self, words: &[S]) -> Running {
        let mut all: Vec<OsString> = vec![binary("grange").into()];
        all.extend(words.iter().map(|word| word.as_ref().into()));
        self.spawn(all, Stdio::null())
    }

    /// Starts a command on a terminal; `Running::types` types there. Only its stdout is a file: `stdout` in its home.
    pub fn start_on_terminal<S: AsRef<str>>(&self, words: &[S]) -> Running {
        let quote = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        let mut line = format!("exec {}", quote(&binary("grange").display().to_string()));
        for word in words {
            line.push(' ');
            line.push_str(&quote(word.as_ref()));
        }
        line.push_str(" > stdout");
        let script = ["script", "--quiet", "--return", "--flush", "--command", &line, "/dev/null"];
        self.spawn(script.map(Into::into).to_vec(), Stdio::piped())
    }

    fn spawn(&self, words: Vec<OsString>, stdin: Stdio) -> Running {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path(&format!("out-{count}")), self.path(&format!("err-{count}")));
        let all: Vec<OsString> = death_shim().into_iter().chain(words).collect();
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).env_clear().envs(&self.environment).current_dir(self.folder.path());
        let open = |path: &Path| File::create(path).expect("a file for what is said");
        command.stdin(stdin).stdout(open(&out)).stderr(open(&err));
        Running { child: command.spawn().expect("the command starts"), out, err }
    }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it started.
    pub fn descendants(&self) -> Vec<u32> {
        descendants(self.pid())
    }

    /// What is on stdout by now.
    pub fn out(&self) -> String {
        read(&self.out)
    }

    /// What is on stderr by now.
    pub fn err(&self) -> String {
        read(&self.err)
    }

    /// Sends it a signal.
    pub fn signal(&self, kind: Signal) {
        assert!(signal(self.pid(), kind), "the command is there:\n{}{}", self.out(), self.err());
    }

    /// Types this on its terminal.
    pub fn types(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("it has a terminal");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("it can be typed to");
    }

    /// Waits until this is on stdout.
    pub async fn says(&self, text: &str) {
        eventually(&format!("`{text}` is on stdout"), LIMIT, async || match self.out() {
            out if out.contains(text) => Ok(()),
            out => Err(format!("{out}\n--- stderr\n{}", self.err())),
        })
        .await;
    }

    /// Waits until this is on stderr.
    pub async fn complains(&self, text: &str) {
        eventually(&format!("`{text}` is on stderr"), LIMIT, async || match self.err() {
            err if err.contains(text) => Ok(()),
            err => Err(format!("{err}\n--- stdout\n{}", self.out())),
        })
        .await;
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> Said {
        let (out, err) = (self.out.clone(), self.err.clone());
        let status = eventually("the command ends", LIMIT, async || {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => Ok(status),
                None => Err(format!("{}\n--- stderr\n{}", read(&out), read(&err))),
            }
        })
        .await;
        Said { code: status.code(), out: self.out(), err: self.err() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    /// Ended with this code, and without anything that only a terminal understands.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for text in [&self.out, &self.err] {
            assert!(!text.contains('\x1b') && !text.contains("panicked"), "{self:#?}");
        }
        self
    }

    /// Ended with this code, all of `texts` on stderr, and nothing on stdout.
    #[track_caller]
    pub fn fails(self, code: i32, texts: &[&str]) -> Self {
        let said = self.ends(code).complains(texts);
        assert_eq!(said.out, "", "{said:#?}");
        said
    }

    /// Has all of these on stderr.
    #[track_caller]
    pub fn complains(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.err.contains(text), "no {text:?} in {self:#?}");
        }
        self
    }

    /// The one line on stdout.
    #[track_caller]
    pub fn word(&self) -> String {
        let mut lines = self.out.lines();
        let (first, rest) = (lines.next(), lines.next());
        assert!(first.is_some() && rest.is_none(), "not one line: {self:#?}");
        first.unwrap_or_default().to_owned()
    }

    /// Stdout as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Stdout as JSON lines.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:#?}"));
        self.out.lines().map(read).collect()
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
