//! What a host physically has and who holds it. Shares no code with the dispatcher's ledger: it checks that one, and is
//! what the oracle places by.

/// One GPU.
#[derive(Clone, Debug)]
pub struct GpuSpec {
    /// The model as NVML says it.
    pub name: &'static str,
    /// The word of the name that jobs ask for.
    pub word: &'static str,
    /// Compute capability.
    pub compute: &'static str,
    /// Memory, MiB.
    pub total_mb: u64,
    /// Of that, used by strangers all the time, MiB.
    pub foreign_mb: u64,
    /// Its partner on an NVLink, by its place in the host.
    pub link: Option<usize>,
}

/// One host.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its GPUs.
    pub gpus: Vec<GpuSpec>,
    /// Memory, MiB.
    pub ram_mb: u64,
    /// Cores.
    pub cpus: u32,
}

/// What one worker needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// GPUs.
    pub gpus: usize,
    /// Memory on each, MiB.
    pub vram_mb: u64,
    /// Nobody else on them.
    pub exclusive: bool,
    /// Host memory, MiB.
    pub ram_mb: u64,
    /// Cores.
    pub cpus: u32,
    /// The word of the model; None: any.
    pub model: Option<String>,
}

impl Ask {
    /// Whether a worker that was started for this can run what asks for `other`.
    pub fn serves(&self, other: &Self) -> bool {
        self.gpus == other.gpus
            && self.vram_mb >= other.vram_mb
            && self.exclusive >= other.exclusive
            && self.ram_mb >= other.ram_mb
            && self.cpus >= other.cpus
            && (other.model.is_none() || other.model == self.model)
    }
}

/// A part of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// GPUs, by their place.
    pub gpus: Vec<usize>,
    /// Memory on each, MiB.
    pub vram_mb: u64,
    /// Nobody else on them.
    pub exclusive: bool,
    /// Host memory, MiB.
    pub ram_mb: u64,
    /// Cores.
    pub cpus: u32,
}

#[derive(Clone, Debug)]
struct Gpu {
    word: &'static str,
    total_mb: u64,
    free_mb: i64,
    sharers: u32,
    alone: u32,
}

/// A host with what is held of it.
#[derive(Clone, Debug)]
pub struct Machine {
    gpus: Vec<Gpu>,
    ram_mb: i64,
    cpus: i64,
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

impl Machine {
    /// Nobody holds anything.
    pub fn new(spec: &HostSpec) -> Self {
        let gpu = |gpu: &GpuSpec| Gpu {
            word: gpu.word,
            total_mb: gpu.total_mb,
            free_mb: signed(gpu.total_mb) - signed(gpu.foreign_mb),
            sharers: 0,
            alone: 0,
        };
        let gpus = spec.gpus.iter().map(gpu).collect();
        Self { gpus, ram_mb: signed(spec.ram_mb), cpus: spec.cpus.into() }
    }

    /// Where this fits now: the GPUs with the least free memory that will do.
    pub fn find(&self, ask: &Ask) -> Option<Share> {
        if signed(ask.ram_mb) > self.ram_mb || i64::from(ask.cpus) > self.cpus {
            return None;
        }
        let fits = |gpu: &Gpu| {
            gpu.alone == 0
                && (!ask.exclusive || gpu.sharers == 0)
                && gpu.free_mb >= signed(ask.vram_mb)
                && ask.model.as_ref().is_none_or(|word| word == gpu.word)
        };
        let mut gpus: Vec<usize> = (0..self.gpus.len()).filter(|place| fits(&self.gpus[*place])).collect();
        if gpus.len() < ask.gpus {
            return None;
        }
        gpus.sort_by_key(|place| (self.gpus[*place].free_mb, *place));
        gpus.truncate(ask.gpus);
        let Ask { vram_mb, exclusive, ram_mb, cpus, .. } = *ask;
        Some(Share { gpus, vram_mb, exclusive, ram_mb, cpus })
    }

    /// Gives a part away. False: it was not free, or not fit to be given.
    #[must_use]
    pub fn take(&mut self, share: &Share) -> bool {
        self.ram_mb -= signed(share.ram_mb);
        self.cpus -= i64::from(share.cpus);
        let mut sound = self.ram_mb >= 0 && self.cpus >= 0;
        for place in &share.gpus {
            let Some(gpu) = self.gpus.get_mut(*place) else { return false };
            gpu.free_mb -= signed(share.vram_mb);
            gpu.sharers += 1;
            gpu.alone += u32::from(share.exclusive);
            sound &= gpu.free_mb >= 0 && (gpu.alone == 0 || gpu.sharers == 1);
        }
        sound
    }

    /// A process is gone: its cores and host memory are free.
    pub fn leave(&mut self, share: &Share) {
        self.ram_mb += signed(share.ram_mb);
        self.cpus += i64::from(share.cpus);
    }

    /// Its GPU memory is back.
    pub fn give_back(&mut self, share: &Share) {
        for place in &share.gpus {
            if let Some(gpu) = self.gpus.get_mut(*place) {
                gpu.free_mb += signed(share.vram_mb);
                gpu.sharers -= 1;
                gpu.alone -= u32::from(share.exclusive);
            }
        }
    }

    /// How many GPUs this part is, by memory, and how much memory, MiB.
    pub fn weight(&self, share: &Share) -> (f64, f64) {
        let part = |place: &usize| {
            let total = self.gpus[*place].total_mb as f64;
            let held = if share.exclusive { total } else { share.vram_mb as f64 };
            (held / total, held)
        };
        share.gpus.iter().map(part).fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }

    /// How many GPUs there are.
    pub fn gpus(&self) -> usize {
        self.gpus.len()
    }

    /// The word of a GPU's model.
    pub fn word(&self, place: usize) -> &'static str {
        self.gpus.get(place).map_or("", |gpu| gpu.word)
    }
}
