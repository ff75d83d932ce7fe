//! Who leaves: idle workers that nobody keeps, and the agent itself when a drain is over.

use super::{Dispatcher, Mode};
use crate::plugins::Plugin;
use crate::vocabulary::{Action, Time, WorkerId};
use crate::workers::{KILLED_MS, LET_GO_MS, Stage, Worker};
use grange_protocol::name::PluginName;

impl Dispatcher {
    /// Lets idle workers go that are kept for nothing, and says of which plugins; while drained all of them, and then
    /// exits when nothing is left, if it is to.
    pub(super) fn leave(&mut self, now: Time, out: &mut Vec<Action>) -> Vec<PluginName> {
        match self.mode {
            Mode::Working => return self.let_spare_ones_go(now, out),
            Mode::Drained | Mode::Draining => {}
            Mode::Exited => return Vec::new(),
        }
        let unborn: Vec<WorkerId> =
            self.workers.iter().filter(|(_, w)| w.stage == Stage::Waiting).map(|(id, _)| id).collect();
        for worker in unborn {
            self.workers.remove(worker);
        }
        for (worker, entry) in self.workers.iter_mut() {
            if !entry.given.is_empty() || !entry.is_live() {
                continue;
            }
            let starting = entry.stage == Stage::Starting;
            entry.ends_by(now.saturating_add(if starting { KILLED_MS } else { LET_GO_MS }));
            out.push(if starting { Action::KillWorker { worker } } else { Action::StopWorker { worker } });
        }
        // Memory that is on its way back keeps nobody from leaving, nor does a process that cannot be ended.
        let processes = self
            .workers
            .iter()
            .any(|(_, worker)| !worker.is_stuck && !matches!(worker.stage, Stage::Returning(_)));
        if self.mode == Mode::Draining && self.jobs.is_empty() && !processes && !self.queues.any_asked() {
            self.mode = Mode::Exited;
            out.push(Action::Exit);
        }
        Vec::new()
    }

    /// Workers that are idle for longer than their plugin keeps them, that are too many, or whose plugin is gone. The least
    /// recently used goes first: one may be enough.
    fn let_spare_ones_go(&mut self, now: Time, out: &mut Vec<Action>) -> Vec<PluginName> {
        let is_spare = |worker: &Worker, plugin: Option<&Plugin>| {
            let Some(plugin) = plugin.filter(|plugin| !plugin.gone) else { return true };
            let kept =
                plugin.spec.keep_warm_ms.is_none_or(|kept| now.saturating_sub(worker.idle_since) < kept);
            let many = self.workers.live(&worker.plugin).count() > plugin.spec.max_workers as usize;
            (!kept || many) && !self.is_wanted(worker)
        };
        let idle = self.workers.iter().filter(|(_, worker)| worker.is_idle());
        let spare = idle.filter(|(_, worker)| is_spare(worker, self.plugins.get(&worker.plugin)));
        let spare = spare.min_by_key(|(id, worker)| (worker.idle_since, *id)).map(|(id, _)| id);
        let Some((id, worker)) = spare.and_then(|id| Some((id, self.workers.get_mut(id)?))) else {
            return Vec::new();
        };
        worker.ends_by(now.saturating_add(LET_GO_MS));
        let name = worker.plugin.clone();
        out.push(Action::StopWorker { worker: id });
        let mut left = self.let_spare_ones_go(now, out);
        left.push(name);
        left
    }
}
