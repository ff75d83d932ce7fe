//! The laws: every action compared with what the ledger knows, then what has to be true after a step.

use super::ledger::{At, Cause, Hand, LaneFacts, Ledger, Life, Mode, Worker};
use super::{Broken, Checked, Law, law};
use grange_dispatch::{Action, Conclusion, Dispatcher, Input, Time, WorkerId};
use grange_protocol::failure::FailureKind;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::{Class, PluginName};
use grange_protocol::subject::{JobKey, Lane};

/// How a job in hand has to end in this step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Reported,
    Cancelled,
    Failed(FailureKind),
    Retry(RetryCause),
    Forget,
}

impl From<&Conclusion> for End {
    fn from(how: &Conclusion) -> Self {
        match how {
            Conclusion::Reported => Self::Reported,
            Conclusion::Cancelled => Self::Cancelled,
            Conclusion::Failed(failure) => Self::Failed(failure.kind),
            Conclusion::Retry(cause) => Self::Retry(*cause),
        }
    }
}

impl Ledger {
    /// Checks one action and writes it down.
    pub(crate) fn act(&mut self, now: Time, input: &Input, action: &Action) -> Checked {
        let exited = self.mode == Mode::Exited && !matches!(action, Action::Return { .. });
        law(Law::Drains, !exited, || format!("{action:?} after the exit"))?;
        match action {
            Action::Listen(pairs) => self.listen(pairs),
            Action::Pull { lane, batch, wait } => self.pull(now, input, lane, *batch, *wait),
            Action::Return { job } => self.returned(job),
            Action::Claim { job, .. } => self.claim(job),
            Action::Spawn { worker, plugin } => self.spawn(now, *worker, plugin),
            Action::Run { worker, job } => self.run(now, *worker, job),
            Action::CancelRun { worker, job } => self.cancel_run(*worker, job),
            Action::StopWorker { worker } => self.stop_worker(*worker),
            Action::KillWorker { worker } => self.kill(now, input, *worker),
            Action::Conclude { job, how } => self.end(job, how.into()),
            Action::Forget { job } => self.end(job, End::Forget),
            Action::Exit => {
                let left = self.jobs.len() + self.workers.len();
                let asked = self.lanes.values().any(|facts| facts.asked > 0);
                law(Law::Drains, self.mode == Mode::Draining, || "exit without a drain".to_owned())?;
                law(Law::Drains, left == 0 && !asked, || format!("exit with {left} left, asked: {asked}"))?;
                self.mode = Mode::Exited;
                Ok(())
            }
        }
    }

    /// Checks what has to be true after a step.
    pub(crate) fn settle(&self, now: Time, input: &Input, dispatcher: &Dispatcher) -> Checked {
        for (job, hand) in &self.jobs {
            let due = self.due(job, hand);
            law(Law::SettledOnce, due.is_none(), || format!("{job} should end as {due:?}: {hand:?}"))?;
            law(Law::SettledOnce, hand.at != At::Delivered, || format!("{job} is not answered"))?;
            law(Law::Stops, !hand.ask, || format!("{job} was not asked to stop"))?;
        }
        for (id, worker) in &self.workers {
            let late = matches!(input, Input::Tick) && self.overdue(now, worker);
            law(Law::Stops, !late || worker.life == Life::Ending, || format!("{id:?} was not killed"))?;
            let idle = worker.given.is_empty() && worker.life != Life::Ending;
            law(Law::Drains, self.mode == Mode::Working || !idle, || format!("{id:?} is kept in a drain"))?;
        }
        let empty = self.jobs.is_empty() && self.workers.is_empty();
        let left = self.mode == Mode::Draining && empty && self.lanes.values().all(|f| f.asked == 0);
        law(Law::Drains, !left, || "nothing is left, and no exit".to_owned())?;
        for name in self.plugins.keys() {
            self.idle_slots(now, input, name)?;
            self.bells(now, input, name)?;
            self.shown(name, dispatcher)?;
        }
        let hearing: Vec<&PluginName> =
            self.plugins.keys().filter(|name| !self.plugins[*name].gone).collect();
        let right = self.mode != Mode::Working || hearing.iter().copied().eq(&self.listening);
        law(Law::Bells, right, || format!("hears {:?}, not {hearing:?}", self.listening))?;
        let counted = dispatcher.jobs_in_hand() == self.jobs.len();
        law(Law::SettledOnce, counted, || format!("{} in hand", dispatcher.jobs_in_hand()))
    }

    fn listen(&mut self, pairs: &[(Class, PluginName)]) -> Checked {
        let quiet = self.mode == Mode::Working || pairs.is_empty();
        law(Law::Drains, quiet, || format!("listens to {pairs:?} in a drain"))?;
        let both = pairs.chunks(2).all(|pair| {
            let classes: Vec<&str> = pair.iter().map(|(class, _)| class.as_str()).collect();
            classes == [Class::DEFAULT, Class::ANY] && pair[0].1 == pair[1].1
        });
        self.listening = pairs.iter().step_by(2).map(|(_, plugin)| plugin.clone()).collect();
        law(Law::Bells, both, || format!("{pairs:?} lack a class"))
    }

    fn pull(&mut self, now: Time, input: &Input, lane: &Lane, batch: u32, wait: bool) -> Checked {
        self.starts("pull")?;
        let name = &lane.plugin;
        let open = self.plugins.get(name).is_some_and(|known| !known.gone);
        law(Law::PullOrder, open, || format!("{lane} is pulled, its plugin is gone"))?;
        let beside = self.looked_for(name) > 0 || self.lanes[lane].asked > 0;
        law(Law::PullOrder, !beside, || format!("{lane} is pulled beside another pull"))?;
        let (held, capacity) = (self.held(name) + self.asked(name), self.capacity(name, now));
        let fits = batch > 0 && held + batch as usize <= capacity;
        law(Law::Capacity, fits, || format!("{batch} asked, {held} held of {capacity}"))?;
        let unasked = |(higher, facts): &(&Lane, &LaneFacts)| higher.plugin == *name && facts.asked == 0;
        for (higher, facts) in self.lanes.range(..lane.clone()).filter(unasked) {
            let fresh = facts.empty_since.is_some_and(|at| now < at + self.config.idle_sweep_ms);
            let passed = fresh && facts.bells == 0;
            let urgent = higher.priority < lane.priority;
            law(Law::PullOrder, passed || !urgent, || format!("{lane} is pulled, {higher} may hold some"))?;
        }
        let short = self.is_short(name);
        let facts = self.lanes.get_mut(lane).unwrap();
        let standing = wait && facts.bells == 0;
        if standing {
            let after = short && facts.lively && batch == 1;
            law(Law::Bells, after, || format!("{lane} is pulled without a bell, and nothing came before"))?;
            (facts.asked, facts.waiting, facts.standing, facts.lively) = (1, true, true, false);
            return Ok(());
        }
        let patience = if frees(input) { self.config.empty_lane_ms } else { self.config.idle_sweep_ms };
        let alone = facts.bells == 0 && facts.empty_since.is_some_and(|at| now < at + patience);
        law(Law::PullOrder, !alone, || format!("{lane} was found empty at {:?}", facts.empty_since))?;
        let answers = wait == (facts.bells > 0) && (!wait || batch <= facts.bells);
        law(Law::Bells, answers, || {
            format!("{batch} asked of {lane} (wait: {wait}), {} bells", facts.bells)
        })?;
        facts.asked = batch;
        facts.bells = facts.bells.saturating_sub(batch);
        (facts.waiting, facts.lively) = (wait, false);
        Ok(())
    }

    fn returned(&mut self, job: &JobKey) -> Checked {
        let hand = self.jobs.remove(job).filter(|hand| hand.at == At::Delivered);
        let Some(hand) = hand else { return broken(Law::SettledOnce, format!("{job} cannot be returned")) };
        let gone = self.plugins.get(&hand.plugin).is_none_or(|known| known.gone);
        let right = gone || self.mode != Mode::Working;
        law(Law::SettledOnce, right, || format!("{job} is returned, and could run"))
    }

    fn claim(&mut self, job: &JobKey) -> Checked {
        self.starts("claim")?;
        let Some(hand) = self.jobs.get_mut(job).filter(|hand| hand.at == At::Delivered) else {
            return broken(Law::InOrder, format!("{job} is claimed, and was not just delivered"));
        };
        hand.at = At::Claiming;
        let open = self.plugins.get(&hand.plugin).is_some_and(|known| !known.gone);
        law(Law::InOrder, open, || format!("{job} is claimed for a plugin that is gone"))
    }

    fn spawn(&mut self, now: Time, id: WorkerId, name: &PluginName) -> Checked {
        self.starts("spawn")?;
        law(Law::KnownWorkers, self.newest < Some(id), || format!("{id:?} is not a new name"))?;
        self.newest = Some(id);
        let known = &self.plugins[name];
        law(Law::Rests, now >= known.rest_until, || format!("{name} is started in its rest"))?;
        let all = self.workers_of(name).count();
        let fits = all < known.spec.max_workers as usize && !known.gone;
        law(Law::Capacity, fits, || format!("{name} has {all} workers, and gets one more"))?;
        let needed = known.waiting.len() > self.coming(name);
        law(Law::Capacity, needed, || format!("{name} gets a worker that nothing waits for"))?;
        let worker = Worker {
            plugin: name.clone(),
            life: Life::Starting,
            given: Vec::new(),
            concurrency: known.spec.concurrency as usize,
        };
        self.workers.insert(id, worker);
        Ok(())
    }

    fn run(&mut self, now: Time, id: WorkerId, job: &JobKey) -> Checked {
        self.starts("run")?;
        let Some(hand) = self.jobs.get_mut(job).filter(|hand| hand.at == At::Waiting) else {
            return broken(Law::InOrder, format!("{job} is run, and does not wait"));
        };
        let ready = self.workers.get(&id).is_some_and(|w| w.life == Life::Ready && w.plugin == hand.plugin);
        law(Law::KnownWorkers, ready, || format!("{job} is given to {id:?}, which is not ready"))?;
        hand.at = At::With(id);
        let name = hand.plugin.clone();
        let oldest = self.plugins.get_mut(&name).unwrap().waiting.pop_front();
        law(Law::Placement, oldest.as_ref() == Some(job), || format!("{job} goes before {oldest:?}"))?;
        let slots = self.slots(&self.plugins[&name], &name);
        let fewest = self.workers_of(&name).filter(|w| w.life == Life::Ready).map(|w| w.given.len()).min();
        let given = &mut self.workers.get_mut(&id).unwrap().given;
        law(Law::Placement, given.len() < slots, || format!("{id:?} has {given:?} of {slots}"))?;
        law(Law::Placement, Some(given.len()) == fewest, || format!("{job} goes to the fuller {id:?}"))?;
        given.push(job.clone());
        self.begin(id, now);
        Ok(())
    }

    fn cancel_run(&mut self, id: WorkerId, job: &JobKey) -> Checked {
        let hand = self.jobs.get_mut(job).filter(|hand| hand.at == At::With(id));
        let asked = hand.is_some_and(|hand| std::mem::take(&mut hand.ask));
        law(Law::Stops, asked, || format!("{job} is asked to stop for no new reason"))
    }

    fn stop_worker(&mut self, id: WorkerId) -> Checked {
        let Some(worker) = self.workers.get_mut(&id) else {
            return broken(Law::KnownWorkers, format!("{id:?} is stopped, and is not there"));
        };
        let idle = worker.life == Life::Ready && worker.given.is_empty();
        worker.life = Life::Ending;
        law(Law::Drains, idle && self.mode == Mode::Draining, || format!("{id:?} is let go"))
    }

    fn kill(&mut self, now: Time, input: &Input, id: WorkerId) -> Checked {
        let Some(worker) = self.workers.get(&id) else {
            return broken(Law::KnownWorkers, format!("{id:?} is killed, and is not there"));
        };
        let late = matches!(input, Input::Tick) && self.overdue(now, worker);
        let unborn = self.mode == Mode::Draining && worker.life == Life::Starting;
        let right = worker.life != Life::Ending && (late || unborn);
        law(Law::Stops, right, || format!("{id:?} is killed: {worker:?}"))?;
        self.workers.get_mut(&id).unwrap().life = Life::Ending;
        Ok(())
    }

    fn end(&mut self, job: &JobKey, end: End) -> Checked {
        let Some(hand) = self.jobs.get(job) else {
            return broken(Law::SettledOnce, format!("{job} ends as {end:?}, and is not in hand"));
        };
        let due = self.due(job, hand);
        law(Law::SettledOnce, due == Some(end), || format!("{job} ends as {end:?}, not {due:?}"))?;
        if let Some(known) = self.plugins.get_mut(&hand.plugin) {
            known.waiting.retain(|waiting| waiting != job);
        }
        if end == End::Forget {
            self.jobs.remove(job);
        } else {
            self.jobs.get_mut(job).unwrap().at = At::Closing;
        }
        Ok(())
    }

    /// How a job has to end now, if it has to.
    fn due(&self, job: &JobKey, hand: &Hand) -> Option<End> {
        let cause = hand.stop.map(|stop| stop.cause);
        let stopped = |otherwise: End| match cause {
            Some(Cause::Cancelled) => End::Cancelled,
            Some(Cause::TimedOut) => End::Failed(FailureKind::TimedOut),
            Some(Cause::Stopped) => End::Retry(RetryCause::NotStarted),
            Some(Cause::Lost) => End::Forget,
            None => otherwise,
        };
        match hand.at {
            At::Delivered | At::Claiming | At::With(_) | At::Closing => None,
            At::Ended { obeyed } if obeyed || cause == Some(Cause::Lost) => Some(stopped(End::Reported)),
            At::Ended { .. } => Some(End::Reported),
            At::Orphaned { crashed: true } => Some(stopped(End::Retry(RetryCause::WorkerCrashed))),
            At::Orphaned { crashed: false } => Some(stopped(End::Retry(RetryCause::NotStarted))),
            At::Waiting => {
                let known = &self.plugins[&hand.plugin];
                let hopeless = self.hopeless.as_ref() == Some(&hand.plugin) && known.waiting.contains(job);
                let leaves = known.gone || self.mode != Mode::Working;
                if cause.is_some() || leaves {
                    Some(stopped(End::Retry(RetryCause::NotStarted)))
                } else {
                    hopeless.then_some(End::Failed(FailureKind::StartFailed))
                }
            }
        }
    }

    /// Whether a run on this worker had its grace and did not stop.
    fn overdue(&self, now: Time, worker: &Worker) -> bool {
        worker.given.iter().any(|job| self.jobs[job].stop.is_some_and(|stop| stop.kill_at <= now))
    }

    fn starts(&self, what: &str) -> Checked {
        law(Law::Drains, self.mode == Mode::Working, || format!("a {what} in a drain"))
    }

    /// Runs for which workers are coming up.
    fn coming(&self, name: &PluginName) -> usize {
        let starting = self.workers_of(name).filter(|w| w.life == Life::Starting).count();
        starting * self.plugins[name].spec.concurrency as usize
    }

    /// Nothing waits beside a free slot, or beside room for a worker.
    fn idle_slots(&self, now: Time, input: &Input, name: &PluginName) -> Checked {
        let known = &self.plugins[name];
        let slots = self.slots(known, name);
        let free = self.workers_of(name).any(|w| w.life == Life::Ready && w.given.len() < slots);
        let waits = known.waiting.len();
        law(Law::Placement, waits == 0 || !free, || format!("{waits} wait beside a free slot of {name}"))?;
        let looked_at = matches!(input, Input::Tick) && now >= known.rest_until;
        let room = self.workers_of(name).count() < known.spec.max_workers as usize;
        let lacking = looked_at && room && !known.gone && waits > self.coming(name);
        law(Law::Placement, !lacking, || format!("{waits} wait for {name}, and none is started"))
    }

    /// Where there is room, no bell and no unseen lane is left without a pull.
    fn bells(&self, now: Time, input: &Input, name: &PluginName) -> Checked {
        let rung = matches!(input, Input::Bell { lane } if lane.plugin == *name);
        let looked_at = rung || matches!(input, Input::Tick | Input::Reconnected);
        let open = self.mode == Mode::Working && !self.plugins[name].gone;
        let full = self.held(name) + self.asked(name) >= self.capacity(name, now);
        if !looked_at || !open || self.looked_for(name) > 0 || full {
            return Ok(());
        }
        let hopeful = self.lanes.iter().find(|(lane, facts)| {
            let old = facts.empty_since.is_none_or(|at| now >= at + self.config.idle_sweep_ms);
            lane.plugin == *name && facts.asked == 0 && (facts.bells > 0 || old)
        });
        law(Law::Bells, hopeful.is_none(), || format!("{hopeful:?} is not pulled"))
    }

    /// The heartbeat's numbers are the ledger's.
    fn shown(&self, name: &PluginName, dispatcher: &Dispatcher) -> Checked {
        let live: Vec<&Worker> = self.workers_of(name).filter(|w| w.life != Life::Ending).collect();
        let given: usize = live.iter().map(|worker| worker.given.len()).sum();
        let spec = &self.plugins[name].spec;
        let view = dispatcher.view(name);
        let shown = (view.workers as usize, view.running as usize, view.slots);
        let right = shown == (live.len(), given, spec.concurrency * spec.max_workers);
        law(Law::Placement, right, || format!("{name} shows {shown:?}, has {} and {given}", live.len()))
    }
}

/// Whether a slot may become free by this, so that lanes are looked at sooner.
fn frees(input: &Input) -> bool {
    matches!(
        input,
        Input::RunEnded { .. }
            | Input::NotClaimed { .. }
            | Input::Claimed { .. }
            | Input::Lost { .. }
            | Input::WorkerExited { .. }
            | Input::WorkerFailed { .. }
    )
}

pub(crate) fn broken(law: Law, said: String) -> Checked {
    Err(Broken { law, said })
}
