//! The script: what the GPUs of a host are, and how they misbehave. Read again whenever the file has changed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The environment variable with the script's path.
pub const SCRIPT_VARIABLE: &str = "GRANGE_FAKE_NVML";
/// The folder beside the script in which processes write down what they use, each in `<pid>.json`.
pub const USE_FOLDER: &str = "use";

/// The whole host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// Version of the driver.
    pub driver: String,
    /// What `nvmlInit_v2` returns; 0 is success, 9 is "driver not loaded".
    pub init: u32,
    /// Functions that do not return while their name stands here: those that ask no single GPU, such as
    /// `nvmlDeviceGetCount_v2`.
    pub hang: Vec<String>,
    /// The GPUs, in the order of their indices.
    pub gpus: Vec<Gpu>,
}

impl Default for Script {
    fn default() -> Self {
        Self { driver: "580.82.07".to_owned(), init: 0, hang: Vec::new(), gpus: Vec::new() }
    }
}

/// One GPU, or one MIG slice of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// Stable identity.
    pub uuid: String,
    /// The model.
    pub name: String,
    /// Memory, MiB.
    pub memory_mb: u64,
    /// Memory that the driver keeps for itself, MiB.
    pub reserved_mb: u64,
    /// Memory that nobody is known to use, MiB.
    pub unowned_mb: u64,
    /// A lie: what is reported as free whatever is used, MiB.
    pub free_mb: Option<u64>,
    /// Busy share, per cent.
    pub utilisation: u32,
    /// Degrees Celsius.
    pub temperature: u32,
    /// Compute capability.
    pub compute: (i32, i32),
    /// Place on the PCI bus; empty: made from the index.
    pub bus_id: String,
    /// Far ends of its NVLinks, link by link: a GPU's uuid, or a bus id that is no GPU's (a switch).
    pub links: Vec<String>,
    /// Processes other than those in the folder `use`.
    pub processes: Vec<Process>,
    /// What is told of single processes.
    pub per_process: PerProcess,
    /// Memory of a process that ended stays in use for so long after that was noticed, milliseconds; then it is listed
    /// nowhere and belongs to nobody.
    pub return_ms: u64,
    /// Memory of processes that ended does not come back while this is true.
    pub keeps: bool,
    /// It fell off the bus: every call says so.
    pub lost: bool,
    /// Functions that do not return for this GPU while their name stands here; `*`: all.
    pub hang: Vec<String>,
    /// Functions that fail for this GPU, with what they return; `*`: all.
    pub errors: BTreeMap<String, u32>,
    /// XID errors, oldest first. Each is delivered once; those that are there when events are first registered are past.
    pub xids: Vec<Xid>,
    /// Its MIG slices. None: not in MIG mode.
    pub mig: Option<Vec<Self>>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            uuid: String::new(),
            name: "NVIDIA Fake".to_owned(),
            memory_mb: 24_576,
            reserved_mb: 0,
            unowned_mb: 0,
            free_mb: None,
            utilisation: 0,
            temperature: 40,
            compute: (8, 0),
            bus_id: String::new(),
            links: Vec::new(),
            processes: Vec::new(),
            per_process: PerProcess::Told,
            return_ms: 0,
            keeps: false,
            lost: false,
            hang: Vec::new(),
            errors: BTreeMap::new(),
            xids: Vec::new(),
            mig: None,
        }
    }
}

impl Gpu {
    /// A GPU with this identity, model and memory in MiB.
    pub fn new(uuid: &str, name: &str, memory_mb: u64) -> Self {
        Self { uuid: uuid.to_owned(), name: name.to_owned(), memory_mb, ..Self::default() }
    }
}

/// A process that uses a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its id; it need not exist.
    pub pid: u32,
    /// What it uses, MiB.
    pub mb: u64,
    /// In which lists it stands.
    #[serde(default)]
    pub kind: Kind,
}

/// What a process does on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It computes.
    #[default]
    Compute,
    /// It draws.
    Graphics,
    /// Both: it stands in both lists.
    Both,
    /// It computes through the multi-process service.
    Mps,
}

/// What is told of single processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerProcess {
    /// Everything.
    #[default]
    Told,
    /// Who they are, but not how much they use.
    Unavailable,
    /// Nothing: the calls are not supported.
    Unsupported,
}

/// An XID error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xid {
    /// Which event; later ones have larger numbers.
    pub id: u64,
    /// Its code.
    pub code: u64,
}

/// What one process writes down of itself, in `use/<pid>.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// When it began: field 22 of `/proc/<pid>/stat`. A process with the same id that began otherwise is another one.
    pub began: u64,
    /// What it uses by device, MiB.
    pub gpus: BTreeMap<String, u64>,
}
