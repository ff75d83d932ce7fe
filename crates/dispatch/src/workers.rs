//! The worker table: who is up, what was given to whom, and what each holds of the host.

use crate::host::{Holding, Used};
use crate::vocabulary::{Time, WorkerId};
use grange_protocol::name::PluginName;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::JobKey;
use std::collections::{BTreeMap, BTreeSet};

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its room is promised, but not free yet: idle workers leave for it.
    Waiting,
    /// Loading.
    Starting,
    /// Takes runs.
    Ready,
    /// Was told to end; takes nothing more.
    Ending,
    /// Its processes are gone since then; its GPU memory is not seen to be back.
    Returning(Time),
}

/// Why a worker was killed, where that is what becomes of its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A GPU under it failed.
    Gpu,
    /// It used more than it was given.
    OverLimit(String),
}

/// A worker that was killed is gone after so long, milliseconds, or hangs in the kernel.
pub(crate) const KILLED_MS: Time = 10_000;
/// One that was let go has time to clean up, and is killed then.
pub(crate) const LET_GO_MS: Time = 20_000;

/// One worker process.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) plugin: PluginName,
    pub(crate) stage: Stage,
    /// What was given to it and has not ended, oldest first: the first `concurrency` of them run.
    pub(crate) given: Vec<JobKey>,
    pub(crate) concurrency: u32,
    /// What it was started for; None: without a check of resources, for jobs that ask for none.
    pub(crate) asked: Option<ResourceRequest>,
    pub(crate) holding: Holding,
    pub(crate) used: Used,
    /// Since when it has had nothing to do.
    pub(crate) idle_since: Time,
    /// It leaves when that is needed for this one, or because it was.
    pub(crate) gives_way_to: Option<Claimant>,
    /// The plan that it was.
    pub(crate) plan: Option<Claimant>,
    pub(crate) fault: Option<Fault>,
    /// When it is to be gone, where it was told to end.
    pub(crate) gone_by: Option<Time>,
    /// It is not gone by then: nothing waits for its end any more.
    pub(crate) is_stuck: bool,
    /// Its overrun was said.
    pub(crate) warned: bool,
}

/// For whom idle workers leave: a plan that is made for a pull, or the worker that it became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claimant(pub(crate) u64);

impl Worker {
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Starting | Stage::Ready)
    }

    /// It is told to end, and takes nothing more.
    pub(crate) fn ends_by(&mut self, gone_by: Time) {
        (self.stage, self.gone_by) = (Stage::Ending, Some(gone_by));
    }

    /// It was told to end, and its end may still be waited for.
    pub(crate) fn is_leaving(&self) -> bool {
        match self.stage {
            Stage::Ending => !self.is_stuck,
            Stage::Returning(_) => true,
            Stage::Waiting | Stage::Starting | Stage::Ready => false,
        }
    }

    /// It has nothing to do and nothing planned for it.
    pub(crate) fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.given.is_empty() && self.gives_way_to.is_none()
    }

    /// Runs that it may have in hand, so many of them behind each of those that go on.
    pub(crate) fn slots(&self, ahead: u32) -> u64 {
        u64::from(self.concurrency) * (1 + u64::from(ahead))
    }

    /// Whether it can run what asks for this; None: what asks for nothing.
    pub(crate) fn covers(&self, wanted: Option<&ResourceRequest>) -> bool {
        serves(self.asked.as_ref(), wanted)
    }
}

/// Whether a worker that was started for `asked` serves `wanted`. None asks for nothing, and was given nothing.
pub(crate) fn serves(asked: Option<&ResourceRequest>, wanted: Option<&ResourceRequest>) -> bool {
    let (asked, wanted) = match (asked, wanted) {
        (_, None) => return true,
        (None, Some(_)) => return false,
        (Some(asked), Some(wanted)) => (asked, wanted),
    };
    let vram = if wanted.vram_mb == 0 {
        asked.vram_mb == 0
    } else {
        asked.vram_mb == 0 || wanted.vram_mb <= asked.vram_mb
    };
    asked.gpus == wanted.gpus
        && (vram || asked.gpus == 0)
        // What is not known has a GPU to itself.
        && wanted.exclusive <= (asked.exclusive || (asked.gpus > 0 && asked.vram_mb == 0))
        && wanted.ram_mb <= asked.ram_mb
        && wanted.cpus <= asked.cpus
        && wanted.on.iter().all(|(key, value)| asked.on.get(key) == Some(value))
}

/// All workers of this agent.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    table: BTreeMap<WorkerId, Worker>,
    /// Those of each plugin, in the order of their names: a worker's plugin never changes.
    of_plugin: BTreeMap<PluginName, BTreeSet<WorkerId>>,
    last: u64,
}

impl Workers {
    /// Takes a new worker in, and names it.
    pub(crate) fn insert(&mut self, worker: Worker) -> WorkerId {
        self.last += 1;
        let id = WorkerId(self.last);
        self.of_plugin.entry(worker.plugin.clone()).or_default().insert(id);
        self.table.insert(id, worker);
        id
    }

    pub(crate) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.table.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.table.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        let worker = self.table.remove(&id)?;
        if let Some(ids) = self.of_plugin.get_mut(&worker.plugin) {
            ids.remove(&id);
        }
        Some(worker)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.table.iter().map(|(id, worker)| (*id, worker))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (WorkerId, &mut Worker)> {
        self.table.iter_mut().map(|(id, worker)| (*id, worker))
    }

    /// All workers of a plugin.
    pub(crate) fn of(&self, plugin: &PluginName) -> impl Iterator<Item = (WorkerId, &Worker)> {
        let ids = self.of_plugin.get(plugin).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.table.get(id)?)))
    }

    /// Those that are up or coming up.
    pub(crate) fn live(&self, plugin: &PluginName) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.of(plugin).filter(|(_, worker)| worker.is_live())
    }

    /// Processes of a plugin, those included that are told to end: they have their place until they are gone.
    pub(crate) fn count(&self, plugin: &PluginName) -> u32 {
        let processes = self.of(plugin).filter(|(_, w)| !matches!(w.stage, Stage::Returning(_)));
        u32::try_from(processes.count()).unwrap_or(u32::MAX)
    }

    /// The ready workers of a plugin that serve this, those with the fewest runs first: where it would begin at once,
    /// then those that have fewer than `ahead` behind each slot.
    pub(crate) fn least_loaded(
        &self,
        plugin: &PluginName,
        wanted: Option<&ResourceRequest>,
        ahead: u32,
    ) -> Vec<WorkerId> {
        let behind = |w: &Worker| w.given.len() as u64 >= u64::from(w.concurrency);
        let mut free: Vec<(bool, usize, WorkerId)> = self
            .live(plugin)
            .filter(|(_, w)| w.stage == Stage::Ready && w.gives_way_to.is_none())
            .filter(|(_, w)| (w.given.len() as u64) < w.slots(ahead) && w.covers(wanted))
            .map(|(id, w)| (behind(w), w.given.len(), id))
            .collect();
        free.sort_unstable();
        free.into_iter().map(|(.., id)| id).collect()
    }

    /// Takes an ended run off its worker. Returns the job behind it that begins now.
    pub(crate) fn take_back(&mut self, id: WorkerId, job: &JobKey, now: Time) -> Option<JobKey> {
        let worker = self.table.get_mut(&id)?;
        let place = worker.given.iter().position(|given| given == job)?;
        worker.given.remove(place);
        if worker.given.is_empty() {
            worker.idle_since = now;
        }
        let last = (worker.concurrency as usize).checked_sub(1)?;
        worker.given.get(last).filter(|_| place <= last).cloned()
    }
}
