//! Who leaves: idle workers that nobody keeps, and the agent itself when a drain is over.

use super::{Dispatcher, Mode};
use crate::plugins::Plugin;
use crate::vocabulary::{Action, Time, WorkerId};
use crate::workers::{Stage, Worker};

impl Dispatcher {
    /// Lets idle workers go that are kept for nothing; while draining all of them, and then exits when nothing is left.
    pub(super) fn leave(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.mode == Mode::Working {
            return self.let_spare_ones_go(now, out);
        }
        if self.mode == Mode::Exited {
            return;
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
            entry.stage = Stage::Ending;
            out.push(if starting { Action::KillWorker { worker } } else { Action::StopWorker { worker } });
        }
        // Memory that is on its way back keeps nobody from leaving.
        let processes = self.workers.iter().any(|(_, worker)| !matches!(worker.stage, Stage::Returning(_)));
        if self.jobs.is_empty() && !processes && !self.queues.any_asked() {
            self.mode = Mode::Exited;
            out.push(Action::Exit);
        }
    }

    /// Workers that are idle for longer than their plugin keeps them, that are too many, or whose plugin is gone.
    fn let_spare_ones_go(&mut self, now: Time, out: &mut Vec<Action>) {
        if !self.workers.iter().any(|(_, worker)| worker.is_idle()) {
            return;
        }
        let spare = |worker: &Worker, plugin: Option<&Plugin>| {
            let Some(plugin) = plugin.filter(|plugin| !plugin.gone) else { return true };
            let kept =
                plugin.spec.keep_warm_ms.is_none_or(|kept| now.saturating_sub(worker.idle_since) < kept);
            let many = self.workers.count(&worker.plugin) > plugin.spec.max_workers;
            (!kept || many) && !self.is_wanted(worker)
        };
        let spare: Option<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.is_idle())
            .find(|(_, worker)| spare(worker, self.plugins.get(&worker.plugin)))
            .map(|(id, _)| id);
        if let Some(id) = spare
            && let Some(worker) = self.workers.get_mut(id)
        {
            worker.stage = Stage::Ending;
            out.push(Action::StopWorker { worker: id });
            self.let_spare_ones_go(now, out);
        }
    }
}
