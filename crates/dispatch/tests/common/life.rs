//! One life of an agent: random events until the choices are used up, then calm weather until every ticket has come to
//! its end, then a drain until the exit. Every step is checked.

use super::checks::broken;
use super::ledger::{Ledger, Mode};
use super::world::{Place, World, start_failure};
use super::{Broken, Checked, Choices, Law, key, lanes, law, plugin};
use grange_dispatch::{Action, Config, Dispatcher, Input, JobLimits, PluginSpec, RunEnd, Time, WorkerId};
use grange_protocol::name::PluginName;

/// A plugin whose runs are short enough to be held ahead.
pub(crate) const SHORT: &str = "short";
/// A plugin whose runs are not.
const LONG: &str = "long";

const CONFIG: Config = Config {
    pull_ahead_ms: 4,
    pull_ahead_max: 3,
    empty_lane_ms: 250,
    idle_sweep_ms: 2_000,
    start_backoff_ms: 1_000,
    start_backoff_max_ms: 6_000,
};

/// Most steps of calm weather: far more than any life needs.
const CALM_STEPS: usize = 4_000;

/// What a life was made of.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) steps: usize,
    pub(crate) actions: usize,
}

struct Life {
    now: Time,
    choices: Choices,
    world: World,
    ledger: Ledger,
    dispatcher: Dispatcher,
    log: Vec<(Time, Input, Vec<Action>)>,
}

/// Lives one life, and says which law broke first.
pub(crate) fn live(numbers: Vec<u16>) -> Result<Told, Broken> {
    let mut life = Life {
        now: 0,
        choices: Choices::new(numbers),
        world: World::new(),
        ledger: Ledger::new(CONFIG),
        dispatcher: Dispatcher::new(CONFIG),
        log: Vec::new(),
    };
    for name in [LONG, SHORT] {
        life.plugin_ready(&plugin(name))?;
    }
    while !life.choices.is_empty() {
        life.event()?;
    }
    if life.ledger.mode == Mode::Working {
        life.calm()?;
        life.feed(Input::DrainRequested)?;
    }
    life.leave()?;
    life.replay()?;
    Ok(Told { steps: life.log.len(), actions: life.log.iter().map(|(_, _, actions)| actions.len()).sum() })
}

impl Life {
    /// One input: noted, handled, checked, performed.
    fn feed(&mut self, input: Input) -> Checked {
        let stale = self.ledger.is_stale(&input);
        if let Input::Delivered { job, .. } = &input {
            if self.ledger.jobs.contains_key(job) {
                // Nobody settles this delivery: the broker hands the ticket out again.
                self.world.put_back(job);
            }
        }
        self.ledger.note(self.now, &input);
        let actions = self.dispatcher.handle(self.now, input.clone());
        law(Law::LateInputs, !stale || actions.is_empty(), || format!("{input:?} led to {actions:?}"))?;
        for action in &actions {
            self.ledger.act(self.now, &input, action)?;
        }
        self.ledger.settle(self.now, &input, &self.dispatcher)?;
        for action in &actions {
            self.world.perform(action, &mut self.choices);
        }
        self.log.push((self.now, input, actions));
        Ok(())
    }

    fn event(&mut self) -> Checked {
        self.now += [0, 0, 0, 1, 5, 40, 300, 2_500][self.choices.pick(8)];
        match self.choices.pick(48) {
            0..=24 => self.happen(),
            25..=30 => {
                let name = plugin([LONG, SHORT][self.choices.pick(2)]);
                let lane = lanes(&name).swap_remove(self.choices.pick(8));
                self.world.submit(lane, &mut self.choices);
                Ok(())
            }
            31..=34 => self.feed(Input::Tick),
            35 | 36 => self.cancel(),
            37 => self.lose(),
            38 => {
                self.world.crash(&mut self.choices);
                Ok(())
            }
            39 => self.toggle(),
            40 => self.reconnect(),
            41..=43 => self.repeat(),
            44 => self.strange(),
            45 => self.hand_out_again(),
            46 if self.choices.one_in(3) => self.feed(Input::DrainRequested),
            47 if self.choices.one_in(6) => self.feed(Input::StopRequested),
            _ => Ok(()),
        }
    }

    fn happen(&mut self) -> Checked {
        if self.world.pending.is_empty() {
            return Ok(());
        }
        let index = self.choices.pick(self.world.pending.len());
        match self.world.happen(index, &mut self.choices) {
            Some(Input::Bell { lane }) if !self.ledger.listening.contains(&lane.plugin) => Ok(()),
            Some(input) => self.feed(input),
            None => Ok(()),
        }
    }

    fn plugin_ready(&mut self, name: &PluginName) -> Checked {
        let spec = PluginSpec {
            concurrency: [1, 2, 3][self.choices.pick(3)],
            max_workers: [1, 2, 3][self.choices.pick(3)],
            timeout_ms: [None, Some(400), Some(5_000)][self.choices.pick(3)],
            cancel_grace_ms: [100, 1_000][self.choices.pick(2)],
        };
        self.world.set_spec(name, &spec);
        self.feed(Input::PluginReady { plugin: name.clone(), spec })
    }

    /// Somebody cancels: the holder is told, or the record ends at once.
    fn cancel(&mut self) -> Checked {
        let Some(job) = self.world.any_job(&mut self.choices) else { return Ok(()) };
        if !self.ledger.jobs.contains_key(&job) {
            let ticket = self.world.tickets.get_mut(&job).unwrap();
            ticket.elsewhere = true;
            if ticket.place == Place::InLane {
                ticket.place = Place::Gone;
            }
        }
        self.feed(Input::CancelRequested { job })
    }

    /// Another agent takes the job over, or takes its ticket first.
    fn lose(&mut self) -> Checked {
        let Some(job) = self.world.any_job(&mut self.choices) else { return Ok(()) };
        let ticket = self.world.tickets.get_mut(&job).unwrap();
        ticket.elsewhere = true;
        if ticket.place == Place::InLane {
            ticket.place = Place::Gone;
        }
        self.feed(Input::Lost { job })
    }

    fn toggle(&mut self) -> Checked {
        let name = plugin([LONG, SHORT][self.choices.pick(2)]);
        if self.choices.one_in(2) || self.ledger.plugins[&name].gone {
            return self.plugin_ready(&name);
        }
        self.feed(Input::PluginGone { plugin: name })
    }

    /// The pulls are gone; what one of them brought may still come, late.
    fn reconnect(&mut self) -> Checked {
        self.world.disconnect();
        self.feed(Input::Reconnected)?;
        let stray = self.world.tickets.iter().find(|(_, ticket)| ticket.place == Place::InLane);
        match stray.map(|(job, ticket)| (job.clone(), ticket.lane.clone())) {
            Some((job, lane)) if self.choices.one_in(2) => {
                self.world.tickets.get_mut(&job).unwrap().place = Place::Out;
                self.feed(Input::Delivered { lane, job, limits: JobLimits::default() })
            }
            _ => Ok(()),
        }
    }

    /// An earlier input once more, where it says nothing new any more.
    fn repeat(&mut self) -> Checked {
        let back = self.choices.pick(12.min(self.log.len()));
        let input = self.log[self.log.len() - 1 - back].1.clone();
        let harmless = match &input {
            Input::PullEnded { lane } => self.ledger.lanes.get(lane).is_none_or(|facts| facts.asked == 0),
            Input::Bell { lane } => self.ledger.listening.contains(&lane.plugin),
            Input::Tick | Input::StopRequested | Input::CancelRequested { .. } | Input::Lost { .. } => true,
            _ => self.ledger.is_stale(&input),
        };
        if harmless { self.feed(input) } else { Ok(()) }
    }

    /// About a job, a worker and a plugin that nobody knows.
    fn strange(&mut self) -> Checked {
        let (job, worker, name) = (key(9_999), WorkerId(9_999), plugin("nobody"));
        let lane = lanes(&name).swap_remove(self.choices.pick(8));
        let input = match self.choices.pick(13) {
            0 => Input::Claimed { job },
            1 => Input::NotClaimed { job },
            2 => Input::RunEnded { job, end: RunEnd { run_ms: 1.0, cancelled: false } },
            3 => Input::Settled { job },
            4 => Input::CancelRequested { job },
            5 => Input::Lost { job },
            6 => Input::WorkerReady { worker },
            7 => Input::WorkerFailed { worker, failure: start_failure() },
            8 => Input::WorkerExited { worker },
            9 => Input::Bell { lane },
            10 => Input::PullEnded { lane },
            11 => Input::PluginGone { plugin: name },
            _ => Input::Delivered { lane, job, limits: JobLimits::default() },
        };
        let returns = matches!(input, Input::Delivered { .. });
        self.feed(input)?;
        let said = self.log.last().map_or(0, |(_, _, actions)| actions.len());
        law(Law::LateInputs, said == usize::from(returns), || format!("{:?}", self.log.last()))
    }

    /// The broker was not told in time that a job goes on.
    fn hand_out_again(&mut self) -> Checked {
        if let Some(job) = self.world.any_job(&mut self.choices) {
            self.world.put_back(&job);
        }
        Ok(())
    }

    /// Calm weather: what is pending happens in order and ends well, until no ticket is left.
    fn calm(&mut self) -> Checked {
        let gone: Vec<PluginName> =
            self.ledger.plugins.iter().filter(|(_, p)| p.gone).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.plugin_ready(&name)?;
        }
        for step in 0..CALM_STEPS {
            if self.world.all_gone() && self.ledger.jobs.is_empty() {
                return Ok(());
            }
            self.pass(step)?;
        }
        let left = self.world.tickets.iter().filter(|(_, ticket)| ticket.place != Place::Gone);
        broken(
            Law::Liveness,
            format!("left: {:?}, in hand: {:?}", left.collect::<Vec<_>>(), self.ledger.jobs),
        )
    }

    /// After a drain: until the exit, and a little longer.
    fn leave(&mut self) -> Checked {
        for step in 0..CALM_STEPS {
            if self.ledger.mode == Mode::Exited {
                self.feed(Input::Tick)?;
                self.feed(Input::StopRequested)?;
                return Ok(());
            }
            self.pass(step)?;
        }
        broken(Law::Drains, format!("no exit; in hand: {:?}", self.ledger.jobs))
    }

    fn pass(&mut self, step: usize) -> Checked {
        if step.is_multiple_of(8) {
            self.now += 300;
            self.feed(Input::Tick)
        } else {
            self.happen()
        }
    }

    fn replay(&self) -> Checked {
        let mut again = Dispatcher::new(CONFIG);
        for (now, input, actions) in &self.log {
            let said = again.handle(*now, input.clone());
            law(Law::Equality, said == *actions, || format!("{input:?} led to {actions:?}, then {said:?}"))?;
        }
        Ok(())
    }
}
