//! The inventory through the real NVML wrapper and a library that says what a script says. Each test loads a copy of
//! the library of its own, with the script beside it.

mod faults;
mod hangs;
mod readings;
mod starting;

use super::Look;
use super::looker::Looker;
use crate::config::{Config, Flags};
use grange_dispatch::{DeviceReading, Time, WorkerId};
use grange_fake_nvml::script::{Gpu, Script, USE_FOLDER, Use, Xid};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LIBRARY: &str = "libgrange_fake_nvml.so";

/// A host with scripted GPUs.
struct Host {
    folder: TempDir,
    looks: Time,
}

impl Host {
    fn with(gpus: Vec<Gpu>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let me = std::env::current_exe().unwrap();
        let beside = me.ancestors().map(|folder| folder.join(LIBRARY)).find(|path| path.is_file());
        std::fs::copy(beside.expect("the library is built with the tests"), folder.path().join(LIBRARY))
            .unwrap();
        std::fs::create_dir(folder.path().join(USE_FOLDER)).unwrap();
        let host = Self { folder, looks: 0 };
        host.set(&Script { gpus, ..Script::default() });
        host
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn library(&self) -> PathBuf {
        self.path().join(LIBRARY)
    }

    fn replace(&self, name: &str, text: &[u8]) {
        replace(self.path(), name, text);
    }

    fn script(&self) -> Script {
        serde_json::from_slice(&std::fs::read(self.path().join("script.json")).unwrap()).unwrap()
    }

    fn set(&self, script: &Script) {
        self.replace("script.json", &serde_json::to_vec(script).unwrap());
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.script();
        change(&mut script);
        self.set(&script);
    }

    fn xid(&self, gpu: usize, code: u64) {
        self.change(|script| {
            let xids = &mut script.gpus[gpu].xids;
            xids.push(Xid { id: xids.len() as u64 + 1, code });
        });
    }

    /// A process says what it uses.
    fn allocate(&self, pid: u32, gpu: &str, mb: u64) {
        let began = super::processes::look_up(pid).unwrap().began;
        let usage = Use { began, gpus: BTreeMap::from([(gpu.to_owned(), mb)]) };
        self.replace(&format!("{USE_FOLDER}/{pid}.json"), &serde_json::to_vec(&usage).unwrap());
    }

    fn config(&self, more: &str) -> Config {
        let text =
            format!("{more}\n[inventory]\nnvml_library = {:?}\nlabels = {{zone = \"lab\"}}", self.library());
        Config::resolve(&text, &BTreeMap::new(), &Flags::default(), "box").unwrap()
    }

    fn looker(&self) -> Looker {
        self.looker_with("")
    }

    fn looker_with(&self, more: &str) -> Looker {
        Looker::new(&self.config(more), "box")
    }

    fn look(&mut self, looker: &mut Looker) -> Look {
        self.look_at(looker, &[])
    }

    fn look_at(&mut self, looker: &mut Looker, workers: &[(u64, u32)]) -> Look {
        self.looks += 1;
        looker.look(self.looks, &workers.iter().map(|(worker, pid)| (WorkerId(*worker), *pid)).collect())
    }
}

fn replace(folder: &Path, name: &str, text: &[u8]) {
    let half = folder.join("half");
    std::fs::write(&half, text).unwrap();
    std::fs::rename(half, folder.join(name)).unwrap();
}

fn gpu(uuid: &str, memory_mb: u64) -> Gpu {
    Gpu::new(uuid, "NVIDIA A100", memory_mb)
}

fn device<'l>(look: &'l Look, uuid: &str) -> &'l DeviceReading {
    look.reading.devices.iter().find(|device| device.uuid == uuid).unwrap()
}

fn faults(look: &Look) -> Vec<Option<&str>> {
    look.reading.devices.iter().map(|device| device.fault.as_deref()).collect()
}

/// Polls until something is so.
fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A worker's processes: a shell in the supervisor's place, and a child.
struct Worker(Child);

impl Worker {
    fn start() -> Self {
        let shell = Command::new("sh").args(["-c", "sleep 1000 & wait"]).stdin(Stdio::null()).spawn();
        Self(shell.unwrap())
    }

    fn supervisor(&self) -> u32 {
        self.0.id()
    }

    /// The child, once it is there.
    fn process(&self) -> u32 {
        let is_child = |process: &super::processes::Process| process.parent == self.supervisor();
        eventually("the worker has its child", || {
            super::processes::walk().into_iter().find(|(_, process)| is_child(process)).map(|(pid, _)| pid)
        })
    }

    /// Ends the child and the supervisor.
    fn end(&mut self) {
        let pid = i32::try_from(self.process()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // The shell waits for its child and ends after it.
        self.0.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.end();
        }
    }
}
