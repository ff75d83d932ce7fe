//! Fake GPUs: a script file for the fake NVML, and what a test does with it while an agent runs.

use crate::farm::{binary, plugin};
pub use grange_fake_nvml::script::{
    Gpu, Kind, PerProcess, Process, SCRIPT_VARIABLE, Script, USE_FOLDER, Use, Xid,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The GPUs of one host: a folder with the script and with what processes write down of their use.
#[derive(Clone, Debug)]
pub struct FakeGpus {
    folder: PathBuf,
}

impl FakeGpus {
    /// A host without GPUs so far; the folder is made.
    pub fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join(USE_FOLDER)).expect("a folder for the script");
        let gpus = Self { folder: folder.to_owned() };
        gpus.set(&Script::default());
        gpus
    }

    /// A host with these GPUs.
    pub fn with(folder: &Path, gpus: Vec<Gpu>) -> Self {
        let host = Self::new(folder);
        host.set(&Script { gpus, ..Script::default() });
        host
    }

    /// The library that says what the script says.
    pub fn library() -> PathBuf {
        binary("libgrange_fake_nvml.so")
    }

    /// Where the script is.
    pub fn path(&self) -> PathBuf {
        self.folder.join("script.json")
    }

    /// The script as it is.
    pub fn script(&self) -> Script {
        let text = std::fs::read(self.path()).expect("the script is there");
        serde_json::from_slice(&text).expect("the script is one")
    }

    /// Puts another script in its place, at once and whole.
    pub fn set(&self, script: &Script) {
        replace(&self.path(), &serde_json::to_vec(script).expect("a script is JSON"));
    }

    /// Changes the script.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.script();
        change(&mut script);
        self.set(&script);
    }

    /// Changes one GPU, or one MIG slice.
    pub fn change_gpu(&self, uuid: &str, change: impl FnOnce(&mut Gpu)) {
        self.change(|script| {
            let whole = script.gpus.iter().position(|gpu| gpu.uuid == uuid);
            let gpu = match whole {
                Some(at) => Some(&mut script.gpus[at]),
                None => script
                    .gpus
                    .iter_mut()
                    .flat_map(|gpu| gpu.mig.iter_mut().flatten())
                    .find(|gpu| gpu.uuid == uuid),
            };
            change(gpu.unwrap_or_else(|| panic!("the script has no GPU `{uuid}`")));
        });
    }

    /// A GPU reports an XID error.
    pub fn xid(&self, uuid: &str, code: u64) {
        self.change_gpu(uuid, |gpu| {
            let id = gpu.xids.last().map_or(1, |xid| xid.id + 1);
            gpu.xids.push(Xid { id, code });
        });
    }

    /// Says that a process, which has to be there, uses so many MiB of each of these devices until it ends.
    pub fn allocate(&self, pid: u32, gpus: &[(&str, u64)]) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
        let fields = stat.rsplit_once(") ").expect("a process has a name").1;
        let began = fields.split(' ').nth(19).and_then(|ticks| ticks.parse().ok()).expect("a process began");
        let usage = Use { began, gpus: gpus.iter().map(|(uuid, mb)| ((*uuid).to_owned(), *mb)).collect() };
        let path = self.folder.join(USE_FOLDER).join(format!("{pid}.json"));
        replace(&path, &serde_json::to_vec(&usage).expect("a use is JSON"));
    }

    /// What an agent's configuration needs to look here.
    pub fn config(&self) -> String {
        format!("[inventory]\nnvml_library = {:?}\n", Self::library())
    }

    /// And its environment.
    pub fn environment(&self) -> (String, String) {
        (SCRIPT_VARIABLE.to_owned(), self.path().to_string_lossy().into_owned())
    }

    /// Writes the manifest of a plugin `name` that is `tests/plugins/vram` on these GPUs into a plugin folder, which is
    /// made. `manifest` holds what is said beyond that, e.g. `resources`, `config`, `max_workers`.
    pub fn plugin(&self, folder: &Path, name: &str, manifest: &Value) {
        let mut whole = json!({
            "name": name,
            "version": "1.0.0",
            "module": "vram",
            "class": "Vram",
            "paths": [plugin("vram")],
            "env_vars": {SCRIPT_VARIABLE: self.path()},
            "config": {},
        });
        let said = manifest.as_object().expect("a manifest is an object").clone();
        whole.as_object_mut().expect("it is an object").extend(said);
        std::fs::create_dir_all(folder).expect("a plugin folder");
        std::fs::write(folder.join(format!("{name}.json")), whole.to_string()).expect("a manifest");
    }
}

fn replace(path: &Path, text: &[u8]) {
    let half = path.with_extension("half");
    std::fs::write(&half, text).expect("a file is written");
    std::fs::rename(&half, path).expect("a file takes its place");
}
