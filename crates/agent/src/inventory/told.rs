//! What NVML told in one round of questions, before anybody judged it.

/// One GPU, or one MIG slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    /// Stable identity.
    pub(super) uuid: String,
    /// The model.
    pub(super) name: String,
    /// Compute capability; empty: not told.
    pub(super) compute: String,
    /// It is a MIG slice.
    pub(super) mig: bool,
    /// Memory, bytes.
    pub(super) total: u64,
    /// Of that free, bytes.
    pub(super) free: u64,
    /// Of that used, what the driver keeps included, bytes.
    pub(super) used: u64,
    /// What each process uses, bytes. None: the driver does not tell.
    pub(super) listed: Option<Vec<(u32, u64)>>,
    /// Busy share of the last second, per cent.
    pub(super) utilisation: u32,
    /// Degrees Celsius; 0: not told.
    pub(super) temperature_c: u32,
    /// Its place on the PCI bus.
    pub(super) bus: String,
    /// Places on the bus where its NVLinks end: other GPUs', or switches'.
    pub(super) ends: Vec<String>,
}

/// Why a GPU told nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is lost, or needs a reset.
    Lost(String),
    /// Something else, which may pass.
    Failing(String),
}

/// The answer of one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Its number in NVML.
    pub(super) index: u32,
    /// Itself, or its slices when it is in MIG mode.
    pub(super) devices: Result<Vec<Device>, Trouble>,
    /// XID errors since the last round; None: one whose code NVML did not know.
    pub(super) xids: Vec<Option<u64>>,
}

/// What became of NVML itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Library {
    /// It was asked.
    #[default]
    Asked,
    /// There is none, or no driver below it.
    Absent(String),
    /// It failed, which may pass.
    Failing(String),
    /// It is asked no more.
    Off(String),
}

/// One round of questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// What became of NVML itself.
    pub(super) library: Library,
    /// Version of the driver; empty: none.
    pub(super) driver: String,
    /// What the GPUs said.
    pub(super) answers: Vec<Answer>,
    /// GPUs that did not answer in time.
    pub(super) hung: Vec<u32>,
}
