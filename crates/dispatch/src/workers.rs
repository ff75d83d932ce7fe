//! The worker table: who is up, and what was given to whom, in order.

use crate::vocabulary::WorkerId;
use grange_protocol::name::PluginName;
use grange_protocol::subject::JobKey;
use std::collections::BTreeMap;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Loading.
    Starting,
    /// Takes runs.
    Ready,
    /// Was told to end; takes nothing more.
    Ending,
}

/// One worker process.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) plugin: PluginName,
    pub(crate) stage: Stage,
    /// What was given to it and has not ended, oldest first: the first `concurrency` of them run.
    pub(crate) given: Vec<JobKey>,
    pub(crate) concurrency: u32,
}

/// All workers of this agent.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    table: BTreeMap<WorkerId, Worker>,
    last: u64,
}

impl Workers {
    /// A new worker that is about to start.
    pub(crate) fn start(&mut self, plugin: &PluginName, concurrency: u32) -> WorkerId {
        self.last += 1;
        let id = WorkerId(self.last);
        let worker =
            Worker { plugin: plugin.clone(), stage: Stage::Starting, given: Vec::new(), concurrency };
        self.table.insert(id, worker);
        id
    }

    pub(crate) fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.table.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.table.remove(&id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Workers of a plugin that are up or coming up.
    pub(crate) fn live(&self, plugin: &PluginName) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.table
            .iter()
            .filter(move |(_, w)| w.plugin == *plugin && w.stage != Stage::Ending)
            .map(|(id, w)| (*id, w))
    }

    /// Workers of a plugin, those included that are told to end: they have their place until they are gone.
    pub(crate) fn count(&self, plugin: &PluginName) -> u32 {
        u32::try_from(self.table.values().filter(|w| w.plugin == *plugin).count()).unwrap_or(u32::MAX)
    }

    /// Every worker, for drains.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (WorkerId, &mut Worker)> {
        self.table.iter_mut().map(|(id, w)| (*id, w))
    }

    /// The ready worker of a plugin with the fewest runs, if it has fewer than `slots` in hand.
    pub(crate) fn least_loaded(&self, plugin: &PluginName, slots: u32) -> Option<WorkerId> {
        self.live(plugin)
            .filter(|(_, w)| w.stage == Stage::Ready && (w.given.len() as u64) < u64::from(slots))
            .min_by_key(|(id, w)| (w.given.len(), *id))
            .map(|(id, _)| id)
    }

    /// Takes an ended run off its worker. Returns the job behind it that begins now.
    pub(crate) fn take_back(&mut self, id: WorkerId, job: &JobKey) -> Option<JobKey> {
        let worker = self.table.get_mut(&id)?;
        let place = worker.given.iter().position(|given| given == job)?;
        worker.given.remove(place);
        let last = (worker.concurrency as usize).checked_sub(1)?;
        worker.given.get(last).filter(|_| place <= last).cloned()
    }
}
