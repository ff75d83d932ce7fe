//! The laws of single actions: each compared with what the ledger knows, then written down.

use super::estate::covers;
use super::ledger::{At, Cause, Hand, Ledger, Life, Mode, Orphan, Saving, Worker};
use super::shelf::Door;
use super::{Checked, Law, broken, law};
use grange_dispatch::{Action, Conclusion, Dispatcher, Ear, Grant, Input, Time, WorkerId, WorkerView};
use grange_protocol::failure::FailureKind;
use grange_protocol::fit::place_when_empty;
use grange_protocol::lifecycle::RetryCause;
use grange_protocol::name::PluginName;
use grange_protocol::status::WorkerState;
use grange_protocol::subject::{JobKey, Queue};

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

/// One step, as it is checked.
pub(crate) struct Step<'a> {
    pub(crate) now: Time,
    pub(crate) input: &'a Input,
    /// What the dispatcher shows after it.
    pub(crate) shown: Vec<WorkerView>,
    /// What it showed before.
    pub(crate) before: Vec<WorkerView>,
    pub(crate) dispatcher: &'a Dispatcher,
}

impl Step<'_> {
    /// Workers for which room is made.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &WorkerView> {
        self.shown.iter().filter(|worker| worker.state == WorkerState::Waiting)
    }

    /// An idle worker that gives way to another, should that one be started.
    pub(crate) fn gives_way(&self, id: WorkerId) -> bool {
        let idle = |w: &&WorkerView| w.worker == id && w.state == WorkerState::Idle;
        self.shown.iter().find(idle).is_some_and(|worker| worker.idle_since.is_none())
    }
}

impl Ledger {
    /// Checks one action and writes it down.
    pub(crate) fn act(&mut self, step: &Step<'_>, action: &Action) -> Checked {
        // What comes late is handed back, also the right to save up.
        let late = matches!(action, Action::Return { .. } | Action::EndSave { .. });
        let exited = self.mode == Mode::Exited && !late;
        law(Law::Drains, !exited, || format!("{action:?} after the exit"))?;
        match action {
            Action::Hear { plugin, ear } => self.hears(plugin, *ear),
            Action::Open { queue } => {
                let wanted = self.opens.remove(queue);
                law(Law::Bells, wanted, || format!("{queue} is opened for no new reason"))
            }
            Action::Pull { queue, batch, wait } => self.pull(step, queue, *batch as usize, *wait),
            Action::Peek { queues } => self.peek(step, queues),
            Action::PassOn { queue, job, hops } => {
                let said = self.passes.take();
                let right = said.as_ref().is_some_and(|said| (&said.0, &said.1) == (queue, job));
                let room = said.is_some_and(|(.., room)| room == Some(true));
                let once = right && !room && *hops == 1;
                law(Law::Hearing, once, || format!("{action:?}, rung: {right}, room: {room}"))
            }
            Action::Return { job, delay_ms } => self.returned(job, *delay_ms),
            Action::Claim { job, ahead } => self.claim(job, *ahead),
            Action::Spawn { worker, plugin, grant } => self.spawn(step, *worker, plugin, grant),
            Action::Run { worker, job } => self.run(step, *worker, job),
            Action::CancelRun { worker, job } => self.cancel_run(*worker, job),
            Action::StopWorker { worker } => self.stop_worker(step, *worker),
            Action::KillWorker { worker } => self.kill(step, *worker),
            Action::Warn { worker, text } => {
                let said = self.warns.remove(worker);
                law(Law::Overruns, said, || format!("{worker:?} is said for no new reason: {text}"))
            }
            Action::Look => {
                self.looks = false;
                Ok(())
            }
            Action::Save { queue } => self.save(step, queue),
            Action::EndSave { queue } => self.end_save(queue),
            Action::Conclude { job, how } => self.end(job, how.into()),
            Action::Forget { job } => self.end(job, End::Forget),
            Action::Exit => self.exit(),
        }
    }

    fn exit(&mut self) -> Checked {
        let processes = self.workers.values().filter(|worker| worker.is_process() && !worker.stuck).count();
        let left = self.jobs.len() + processes;
        let asked = self.shelves.values().any(|shelf| shelf.asked > 0);
        law(Law::Drains, self.mode == Mode::Draining, || "exit without a drain".to_owned())?;
        law(Law::Drains, left == 0 && !asked, || format!("exit with {left} left, asked: {asked}"))?;
        self.mode = Mode::Exited;
        Ok(())
    }

    fn hears(&mut self, plugin: &PluginName, ear: Option<Ear>) -> Checked {
        let before = self.ears.get(plugin).copied();
        law(Law::Hearing, before != ear, || format!("{plugin} is heard as before: {ear:?}"))?;
        match ear {
            Some(ear) => self.ears.insert(plugin.clone(), ear),
            None => self.ears.remove(plugin),
        };
        Ok(())
    }

    fn returned(&mut self, job: &JobKey, delay_ms: u64) -> Checked {
        let hand = self.jobs.remove(job).filter(|hand| hand.at == At::Delivered);
        let Some(hand) = hand else { return broken(Law::SettledOnce, format!("{job} cannot be returned")) };
        self.went_back(&hand.queue, job);
        let gone = self.plugins.get(hand.plugin()).is_none_or(|known| known.gone);
        if gone || self.mode != Mode::Working {
            return law(Law::SettledOnce, delay_ms == 0, || format!("{job} is kept from others"));
        }
        if delay_ms == 0 {
            let full = hand.stray.is_some_and(|room| room != Some(true));
            return law(Law::Capacity, full, || format!("{job} is returned, and could start: {hand:?}"));
        }
        let never = self.never_fits(&hand);
        law(Law::Unplaceable, never, || format!("{job} is returned, and could run: {hand:?}"))
    }

    /// Whether a job asks, exactly, for more than this host will ever have.
    fn never_fits(&self, hand: &Hand) -> bool {
        let request = &self.plugins[hand.plugin()].spec.request;
        let Some(own) = hand.resources.as_ref() else { return false };
        place_when_empty(&request.raised(own).into(), &self.estate.room(&[])).is_err()
    }

    fn claim(&mut self, job: &JobKey, ahead: bool) -> Checked {
        self.starts("claim")?;
        let Some(hand) = self.jobs.get_mut(job).filter(|hand| hand.at == At::Delivered) else {
            return broken(Law::InOrder, format!("{job} is claimed, and was not just delivered"));
        };
        hand.at = At::Claiming;
        let (hand, name) = (hand.clone(), hand.plugin().clone());
        law(Law::Capacity, hand.stray != Some(Some(false)), || format!("{job} is claimed without room"))?;
        let open = self.plugins.get(&name).is_some_and(|known| !known.gone);
        law(Law::InOrder, open, || format!("{job} is claimed for a plugin that is gone"))?;
        law(Law::Unplaceable, !self.never_fits(&hand), || format!("{job} is claimed, and never fits"))?;
        let live = || self.workers_of(&name).filter(|(_, worker)| worker.is_live());
        let ready: usize = live().filter(|(_, w)| w.life == Life::Ready).map(|(_, w)| w.concurrency).sum();
        let given: usize = live().map(|(_, worker)| worker.given.len()).sum();
        let unplaced = self.jobs.values().filter(|hand| *hand.plugin() == name && hand.is_unplaced()).count();
        let behind = self.ahead(&name) > 0 && ready > 0 && given + unplaced > ready;
        law(Law::InOrder, ahead == behind, || format!("{job} is ahead: {ahead}, {given} given of {ready}"))
    }

    fn run(&mut self, step: &Step<'_>, id: WorkerId, job: &JobKey) -> Checked {
        self.starts("run")?;
        let Some(hand) = self.jobs.get(job).filter(|hand| hand.at == At::Waiting).cloned() else {
            return broken(Law::InOrder, format!("{job} is run, and does not wait"));
        };
        let name = hand.plugin().clone();
        let ready = |w: &&Worker| w.life == Life::Ready && w.plugin == name;
        let Some(worker) = self.workers.get(&id).filter(ready).cloned() else {
            return broken(Law::KnownWorkers, format!("{job} is given to {id:?}, which is not ready"));
        };
        let covered = self.serves(&worker, &hand);
        law(Law::Placement, covered, || format!("{job} is given to {id:?}, which has too little"))?;
        let free = self.free_slots(&worker);
        law(Law::Placement, free > 0, || format!("{id:?} has {:?} already", worker.given))?;
        // A seat that another class needs is left to it where this job has another.
        let alone = self.wants().get(&name).is_none_or(|classes| classes.len() == 1);
        let older = self.jobs.iter().filter(|_| alone).find(|(_, other)| {
            let waits = other.at == At::Waiting && *other.plugin() == name && other.turn < hand.turn;
            waits && self.takers(step, other).next().is_some()
        });
        law(Law::Placement, older.is_none(), || format!("{job} goes before {older:?}"))?;
        let load = |w: &Worker| (w.given.len() >= w.concurrency, w.given.len());
        let fewest = self.takers(step, &hand).map(|(_, worker)| load(worker)).min();
        law(Law::Placement, !alone || fewest == Some(load(&worker)), || {
            format!("{job} goes to the fuller {id:?}")
        })?;
        self.jobs.get_mut(job).unwrap().at = At::With(id);
        self.workers.get_mut(&id).unwrap().given.push(job.clone());
        self.begin(id, step.now);
        Ok(())
    }

    pub(crate) fn serves(&self, worker: &Worker, hand: &Hand) -> bool {
        let need = self.need(hand.plugin(), &hand.queue.lane.class);
        worker.covers(need.as_ref())
    }

    /// Ready workers that could take this job now.
    pub(crate) fn takers<'a>(
        &'a self,
        step: &'a Step<'_>,
        hand: &'a Hand,
    ) -> impl Iterator<Item = (WorkerId, &'a Worker)> {
        self.workers_of(hand.plugin()).filter(|(id, worker)| {
            let leaves = worker.given.is_empty() && step.gives_way(*id);
            worker.life == Life::Ready && !leaves && self.free_slots(worker) > 0 && self.serves(worker, hand)
        })
    }

    fn cancel_run(&mut self, id: WorkerId, job: &JobKey) -> Checked {
        let hand = self.jobs.get_mut(job).filter(|hand| hand.at == At::With(id));
        let asked = hand.is_some_and(|hand| std::mem::take(&mut hand.ask));
        law(Law::Stops, asked, || format!("{job} is asked to stop for no new reason"))
    }

    fn end(&mut self, job: &JobKey, end: End) -> Checked {
        let Some(hand) = self.jobs.get(job).cloned() else {
            return broken(Law::SettledOnce, format!("{job} ends as {end:?}, and is not in hand"));
        };
        let due = self.due(&hand);
        let homeless = End::Retry(RetryCause::NotStarted);
        let went = due.is_none() && end == homeless && self.is_homeless(&hand);
        law(Law::SettledOnce, due == Some(end) || went, || format!("{job} ends as {end:?}, not {due:?}"))?;
        if matches!(end, End::Retry(_) | End::Forget) {
            self.went_back(&hand.queue, job);
        }
        if end == End::Forget {
            self.jobs.remove(job);
        } else {
            self.jobs.get_mut(job).unwrap().at = At::Closing;
        }
        Ok(())
    }

    /// A job whose seat was lost, and that no worker here can take some time.
    pub(crate) fn is_homeless(&self, hand: &Hand) -> bool {
        let need = self.need(hand.plugin(), &hand.queue.lane.class);
        let light = need.as_ref().is_some_and(|need| need.request.is_empty());
        let live = self.workers_of(hand.plugin()).any(|(_, w)| w.is_live() && w.covers(need.as_ref()));
        hand.at == At::Waiting && !light && !live && !self.is_waited_for(hand)
    }

    /// Whether room is made for a worker that would take this job.
    fn is_waited_for(&self, hand: &Hand) -> bool {
        let need = self.need(hand.plugin(), &hand.queue.lane.class);
        let takes = |grant: &Grant| covers(grant, need.as_ref());
        self.waited_for.iter().any(|worker| worker.plugin == *hand.plugin() && takes(&worker.grant))
    }

    /// Whether it has to end now, whatever as.
    pub(crate) fn is_due(&self, hand: &Hand) -> Option<String> {
        self.due(hand).map(|end| format!("{end:?}"))
    }

    /// How a job has to end now, if it has to.
    fn due(&self, hand: &Hand) -> Option<End> {
        let cause = hand.stop.map(|stop| stop.cause);
        let stopped = |otherwise: End| match cause {
            Some(Cause::Cancelled) => End::Cancelled,
            Some(Cause::TimedOut) => End::Failed(FailureKind::TimedOut),
            Some(Cause::Stopped | Cause::Behind) => End::Retry(RetryCause::NotStarted),
            Some(Cause::Lost) => End::Forget,
            None => otherwise,
        };
        let not_started = End::Retry(RetryCause::NotStarted);
        match hand.at {
            At::Delivered | At::Claiming | At::With(_) | At::Closing => None,
            At::Ended { obeyed } if obeyed || cause == Some(Cause::Lost) => Some(stopped(End::Reported)),
            At::Ended { .. } => Some(End::Reported),
            At::Orphaned(how) => Some(match (how, cause) {
                (Orphan::OverLimit, _) if cause != Some(Cause::Lost) => End::Failed(FailureKind::OverLimit),
                (Orphan::GpuFailed, None | Some(Cause::Stopped | Cause::Behind)) => {
                    End::Retry(RetryCause::GpuFailed)
                }
                (Orphan::Crashed, None) => End::Retry(RetryCause::WorkerCrashed),
                _ => stopped(not_started),
            }),
            At::Waiting => {
                let leaves = self.plugins[hand.plugin()].gone || self.mode != Mode::Working;
                if cause.is_some() || leaves {
                    return Some(stopped(not_started));
                }
                let hopeless = self.hopeless.as_ref() == Some(hand.plugin());
                let other = self.workers_of(hand.plugin()).any(|(_, w)| w.is_live() && self.serves(w, hand));
                (hopeless && !other && !self.is_waited_for(hand))
                    .then_some(End::Failed(FailureKind::StartFailed))
            }
        }
    }

    pub(crate) fn starts(&self, what: &str) -> Checked {
        law(Law::Drains, self.mode == Mode::Working, || format!("a {what} in a drain"))
    }

    fn save(&mut self, step: &Step<'_>, queue: &Queue) -> Checked {
        self.starts("saving")?;
        let Saving { asked, kept, resting, .. } = &self.saving;
        let one = asked.is_none() && kept.is_none();
        law(Law::Saving, one, || format!("{queue} is saved up for beside {asked:?} {kept:?}"))?;
        let old = match step.input {
            Input::Facts(facts) => facts.waiting.get(queue).copied().unwrap_or(0),
            _ => 0,
        };
        let waits = old >= self.config.save_after_ms && !resting.contains_key(queue);
        law(Law::Saving, waits, || format!("{queue} is saved up for, and waits for {old} ms"))?;
        let name = &queue.lane.plugin;
        let here = self.plugins.get(name).is_some_and(|known| !known.gone);
        law(Law::Saving, here, || format!("{queue} is saved up for, and cannot run here"))?;
        let fits = self.surely_fits(name, &queue.lane.class, step.now);
        law(Law::Saving, !fits, || format!("{queue} is saved up for, and fits"))?;
        self.saving.asked = Some(queue.clone());
        Ok(())
    }

    fn end_save(&mut self, queue: &Queue) -> Checked {
        if self.saving.ends.take_if(|ends| ends == queue).is_some() {
            return Ok(());
        }
        // What was granted just now may be out of reach.
        let out_of_reach =
            self.saving.fresh && self.saving.kept.take_if(|kept| kept.queue == *queue).is_some();
        law(Law::Saving, out_of_reach, || format!("{queue} is given up: {:?}", self.saving.kept))
    }

    pub(crate) fn is_open(&self, queue: &Queue) -> bool {
        self.shelves.get(queue).is_some_and(|shelf| shelf.door == Door::Open)
    }
}
