//! Placement: which worker gets a waiting job, when a worker is started, and what becomes of a job that lost its seat.

use super::{Dispatcher, Mode, Touched};
use crate::host::{Holding, Used};
use crate::jobs::Phase;
use crate::plugins::Plugin;
use crate::vocabulary::{Action, Conclusion, Time, WorkerId};
use crate::workers::{Claimant, LET_GO_MS, Stage, Worker};
use grange_protocol::failure::Failure;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::PluginName;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::JobKey;

/// A worker that is coming up, with the runs that it will begin at once.
struct Coming {
    asked: Option<ResourceRequest>,
    runs: u32,
}

impl Dispatcher {
    /// Gives waiting jobs to workers, and starts workers for those that still wait.
    pub(super) fn place(&mut self, name: &PluginName, now: Time, out: &mut Vec<Action>) {
        self.give(name, now, out);
        let Some(plugin) = self.plugins.get(name) else { return };
        if plugin.waiting.is_empty() || plugin.gone || self.mode != Mode::Working {
            return;
        }
        let still: Vec<JobKey> = plugin.waiting.iter().cloned().collect();
        let coming = |worker: &Worker| matches!(worker.stage, Stage::Starting | Stage::Waiting);
        let mut coming: Vec<Coming> = self
            .workers
            .live(name)
            .filter(|(_, worker)| coming(worker))
            .map(|(_, worker)| Coming { asked: worker.asked.clone(), runs: worker.concurrency })
            .collect();
        for key in still {
            self.find_worker(name, &key, &mut coming, now, out);
        }
        self.begin_starts(out);
    }

    /// Gives waiting jobs to ready workers, the oldest first.
    fn give(&mut self, name: &PluginName, now: Time, out: &mut Vec<Action>) {
        let mut place = 0;
        while let Some(key) = self.plugins.get(name).and_then(|plugin| plugin.waiting.get(place)).cloned() {
            let Some(id) = self.best_worker(name, &key) else {
                let Some(plugin) = self.plugins.get(name) else { return };
                if plugin.shapes.len() <= 2 && !plugin.shapes[0].is_heavy() {
                    return;
                }
                place += 1;
                continue;
            };
            let (Some(plugin), Some(job)) = (self.plugins.get_mut(name), self.jobs.get_mut(&key)) else {
                return;
            };
            plugin.waiting.remove(place);
            plugin.unplaced[job.shape] -= 1;
            job.phase = Phase::Given(id);
            if let Some(worker) = self.workers.get_mut(id) {
                worker.given.push(key.clone());
                if (worker.given.len() as u64) <= u64::from(worker.concurrency) {
                    job.begin(plugin.spec.timeout_ms, now);
                }
            }
            out.push(Action::Run { worker: id, job: key });
        }
    }

    /// The least loaded of the ready workers that could take a job, and may: a seat that another shape's jobs need is left
    /// to them where this one has another.
    fn best_worker(&mut self, name: &PluginName, key: &JobKey) -> Option<WorkerId> {
        let plugin = self.plugins.get(name)?;
        let shape = self.jobs.get(key)?.shape;
        let free = self.workers.least_loaded(name, plugin.shapes[shape].wanted(), plugin.ahead(&self.config));
        let others = plugin.unplaced.iter().enumerate().any(|(other, count)| other != shape && *count > 0)
            || self.queues.asked(name).any(|(other, _)| other != shape);
        if !others {
            return free.first().copied();
        }
        let before = self.seats_left(name, None).min(0);
        free.into_iter().find(|id| {
            // As if it were given to this one.
            self.unplace_for(name, shape, *id, Some(key));
            let leaves_enough = self.seats_left(name, None) >= before;
            self.unplace_for(name, shape, *id, None);
            leaves_enough
        })
    }

    /// Counts a job as given to a worker, or not.
    fn unplace_for(&mut self, name: &PluginName, shape: usize, id: WorkerId, given: Option<&JobKey>) {
        let (Some(plugin), Some(worker)) = (self.plugins.get_mut(name), self.workers.get_mut(id)) else {
            return;
        };
        if let Some(key) = given {
            plugin.unplaced[shape] -= 1;
            worker.given.push(key.clone());
        } else {
            plugin.unplaced[shape] += 1;
            worker.given.pop();
        }
    }

    /// A worker for a job that no ready one can take: one that is coming up, or a new one. A job that lost its seat, and
    /// for which there is no room any more, is somebody else's.
    fn find_worker(
        &mut self,
        name: &PluginName,
        key: &JobKey,
        coming: &mut Vec<Coming>,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(plugin) = self.plugins.get(name) else { return };
        let Some(job) = self.jobs.get(key) else { return };
        let (shape, concurrency) = (job.shape, plugin.spec.concurrency);
        let wanted = plugin.shapes[shape].wanted().cloned();
        let serves =
            |asked: &Option<ResourceRequest>| crate::workers::serves(asked.as_ref(), wanted.as_ref());
        if let Some(seat) = coming.iter_mut().find(|seat| seat.runs > 0 && serves(&seat.asked)) {
            seat.runs -= 1;
            return;
        }
        let heavy = plugin.shapes[shape].needs_plan();
        if now < plugin.rest_until {
            return;
        }
        if !heavy && self.unplanned(name, plugin) > 0 {
            self.start_worker(name, wanted.clone(), None, out);
            coming.push(Coming { asked: wanted, runs: concurrency - 1 });
            return;
        }
        let mut plan = self.take_sound_plan(name, wanted.as_ref());
        if plan.is_none() && self.plan(name, shape, None, now) {
            plan = self.take_plan(name, wanted.as_ref());
        }
        if let Some(plan) = plan {
            coming.push(Coming { asked: plan.asked.clone(), runs: concurrency - 1 });
            self.start_worker(name, plan.asked, Some((plan.holding, plan.claimant)), out);
        } else if heavy && !self.workers.live(name).any(|(_, worker)| worker.covers(wanted.as_ref())) {
            if let Some(plugin) = self.plugins.get_mut(name) {
                plugin.waiting.retain(|waiting| waiting != key);
            }
            self.conclude(key, Conclusion::Retry(RetryCause::NotStarted), out);
        }
    }

    /// Takes a worker in; those who give way to it are told to leave.
    fn start_worker(
        &mut self,
        name: &PluginName,
        asked: Option<ResourceRequest>,
        booked: Option<(Holding, Claimant)>,
        out: &mut Vec<Action>,
    ) {
        let concurrency = self.plugins.get(name).map_or(1, |plugin| plugin.spec.concurrency);
        let (holding, claimant) = booked.map_or((Holding::default(), None), |(h, c)| (h, Some(c)));
        for (id, worker) in self.workers.iter_mut() {
            if claimant.is_some() && worker.gives_way_to == claimant && worker.stage == Stage::Ready {
                worker.ends_by(self.now.saturating_add(LET_GO_MS));
                out.push(Action::StopWorker { worker: id });
            }
        }
        let grant = self.host.grant(&holding);
        let worker = self.workers.insert(Worker {
            plugin: name.clone(),
            stage: if claimant.is_some() { Stage::Waiting } else { Stage::Starting },
            given: Vec::new(),
            concurrency,
            asked,
            holding,
            used: Used::default(),
            idle_since: self.now,
            gives_way_to: None,
            plan: claimant,
            fault: None,
            gone_by: None,
            is_stuck: false,
            warned: false,
        });
        // `begin_starts` starts what was booked, when it is free.
        if claimant.is_none() {
            out.push(Action::Spawn { worker, plugin: name.clone(), grant });
        }
    }

    /// Starts workers whose room is free now. One whose room went elsewhere is given up; its jobs look for another.
    pub(super) fn begin_starts(&mut self, out: &mut Vec<Action>) {
        let waiting: Vec<WorkerId> =
            self.workers.iter().filter(|(_, w)| w.stage == Stage::Waiting).map(|(id, _)| id).collect();
        for id in waiting {
            let start = if self.is_needed(id) { self.is_room_free(id) } else { None };
            match start {
                Some(true) => {
                    let Some(worker) = self.workers.get_mut(id) else { continue };
                    worker.stage = Stage::Starting;
                    // The plugin may have been changed while others left.
                    let spec = self.plugins.get(&worker.plugin).map(|plugin| &plugin.spec);
                    worker.concurrency = spec.map_or(worker.concurrency, |spec| spec.concurrency);
                    let (plugin, holding) = (worker.plugin.clone(), worker.holding.clone());
                    let beside_others = worker.asked.is_none() && !holding.devices.is_empty();
                    let grant = self.host.grant(&holding);
                    out.push(Action::Spawn { worker: id, plugin, grant });
                    if beside_others {
                        // Nothing was checked for it: it may stand on a GPU that another was to have alone.
                        self.drop_unsound_plans();
                    }
                }
                Some(false) => {}
                None => {
                    self.workers.remove(id);
                }
            }
        }
    }

    /// Whether anything is there, or was asked for, that a waiting worker could be for.
    fn is_needed(&self, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get(id).filter(|_| self.mode == Mode::Working) else { return false };
        let asked = self.queues.asked(&worker.plugin).next().is_some();
        let unplaced = |plugin: &Plugin| asked || plugin.unplaced.iter().any(|count| *count > 0);
        self.plugins.get(&worker.plugin).is_some_and(|plugin| !plugin.gone && unplaced(plugin))
    }

    /// Whether what a waiting worker was promised is free. None: it will not be, nobody is leaving for it any more.
    fn is_room_free(&self, id: WorkerId) -> Option<bool> {
        let worker = self.workers.get(id)?;
        let given = self.given_to(|other, entry| entry.stage != Stage::Waiting || other == id);
        let count = usize::try_from(self.workers.count(&worker.plugin)).unwrap_or(usize::MAX);
        let plugin = self.plugins.get(&worker.plugin)?;
        if self.now < plugin.rest_until {
            return Some(false);
        }
        let most = plugin.spec.max_workers as usize;
        if count <= most && (worker.asked.is_none() || self.host.is_sound(&worker.holding, &given, &[])) {
            return Some(true);
        }
        // Room that a stranger took meanwhile does not come, whoever leaves.
        let leaving: Vec<WorkerId> =
            self.workers.iter().filter(|(_, w)| w.is_leaving()).map(|(other, _)| other).collect();
        let given = self.given(&leaving, None);
        let fits = worker.asked.is_none() || self.fits_without(&worker.holding, &given, &leaving);
        (fits && self.places_taken(&worker.plugin, &leaving) <= most).then_some(false)
    }

    pub(super) fn worker_ready(&mut self, id: WorkerId, now: Time) -> Touched {
        let Some(worker) = self.workers.get_mut(id).filter(|w| w.stage == Stage::Starting) else {
            return Touched::Nobody;
        };
        worker.stage = Stage::Ready;
        worker.idle_since = now;
        let plugin = worker.plugin.clone();
        if let Some(known) = self.plugins.get_mut(&plugin) {
            known.started();
        }
        Touched::One(plugin)
    }

    pub(super) fn worker_failed(
        &mut self,
        id: WorkerId,
        failure: &Failure,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Touched {
        let Some(worker) = self.workers.get(id) else { return Touched::Nobody };
        if worker.stage != Stage::Starting {
            return self.worker_exited(id, now, out);
        }
        let name = worker.plugin.clone();
        self.return_grant(id, now, out);
        let Some(known) = self.plugins.get_mut(&name) else { return Touched::Nobody };
        known.start_failed(now, &self.config);
        // What another worker can take waits for it.
        let hopeless = |job: &JobKey| {
            let wanted = self.jobs.get(job).and_then(|job| known.shapes[job.shape].wanted());
            !self.workers.live(&name).any(|(_, worker)| worker.covers(wanted))
        };
        let hopeless: Vec<JobKey> = known.waiting.iter().filter(|job| hopeless(job)).cloned().collect();
        known.waiting.retain(|job| !hopeless.contains(job));
        for job in hopeless {
            self.conclude(&job, Conclusion::Failed(Box::new(failure.clone())), out);
        }
        Touched::One(name)
    }
}
