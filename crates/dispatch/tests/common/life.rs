//! One life of an agent: random events until the choices are used up, then calm weather until every ticket has come to
//! its end, then a drain until the exit. Every step is checked.

use super::checks::broken;
use super::ledger::{Ledger, Mode};
use super::world::{Pending, Place, World, start_failure};
use super::{Broken, Checked, Choices, Law, key, lanes, law, plugin};
use grange_dispatch::{Action, Config, Dispatcher, Input, JobLimits, PluginSpec, RunEnd, Time, WorkerId};
use grange_protocol::name::PluginName;
use grange_protocol::subject::JobKey;

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

/// How long it takes until the next event.
const PAUSES: [Time; 8] = [0, 0, 0, 0, 1, 5, 60, 400];

/// How much of the conversation is told when a law is broken.
const TOLD: usize = 40;

struct Life {
    now: Time,
    choices: Choices,
    world: World,
    ledger: Ledger,
    dispatcher: Dispatcher,
    log: Vec<(Time, Input, Vec<Action>)>,
}

/// Lives one life, and says which law broke first, after which conversation.
pub(crate) fn live(mut choices: Choices) -> Checked {
    let world = World::new(&mut choices);
    let mut life = Life {
        now: 0,
        choices,
        world,
        ledger: Ledger::new(CONFIG),
        dispatcher: Dispatcher::new(CONFIG),
        log: Vec::new(),
    };
    life.pass_by().map_err(|Broken { law, mut said }| {
        for (now, input, actions) in life.log.iter().rev().take(TOLD).rev() {
            said.push_str(&format!("\n  {now:>6} {input:?}\n         -> {actions:?}"));
        }
        Broken { law, said }
    })
}

impl Life {
    fn pass_by(&mut self) -> Checked {
        for name in [LONG, SHORT] {
            self.plugin_ready(&plugin(name))?;
        }
        let leaves = self.choices.pick(3);
        while !self.choices.is_empty() {
            self.event()?;
        }
        if leaves == 0 && self.ledger.mode == Mode::Working {
            self.calm()?;
        }
        self.feed(if leaves == 2 { Input::StopRequested } else { Input::DrainRequested })?;
        self.leave()?;
        self.replay()
    }

    /// One input: noted, handled, checked, performed.
    fn feed(&mut self, input: Input) -> Checked {
        let stale = self.ledger.is_stale(&input);
        if let Input::Delivered { job, .. } = &input
            && self.ledger.jobs.contains_key(job)
        {
            // Nobody settles this delivery: the broker hands the ticket out again.
            self.world.put_back(job);
        }
        self.ledger.note(self.now, &input);
        let actions = self.dispatcher.handle(self.now, input.clone());
        self.log.push((self.now, input.clone(), actions.clone()));
        // The end of a pull always lets the dispatcher look at its lanes, and time has passed.
        let silent = stale && !matches!(input, Input::PullEnded { .. });
        law(Law::LateInputs, !silent || actions.is_empty(), || format!("{input:?} led to {actions:?}"))?;
        for action in &actions {
            self.ledger.act(self.now, &input, action)?;
        }
        self.ledger.settle(self.now, &input, &self.dispatcher)?;
        for action in &actions {
            self.world.perform(action, &mut self.choices);
        }
        Ok(())
    }

    fn event(&mut self) -> Checked {
        let chance = self.choices.pick(PAUSES.len() * 96);
        self.now += PAUSES[chance / 96];
        match chance % 96 {
            0..=26 => self.happen(),
            27..=66 => self.happen_to_jobs(),
            67..=72 => {
                let name = plugin([LONG, SHORT][self.choices.pick(2)]);
                let lane = lanes(&name).swap_remove(self.choices.pick(8));
                for _ in 0..=self.choices.pick(4) {
                    self.world.submit(lane.clone(), &mut self.choices);
                }
                Ok(())
            }
            73..=77 => self.feed(Input::Tick),
            78..=81 => self.cancel(),
            82 => self.lose(),
            83 | 84 => {
                self.world.crash(&mut self.choices);
                Ok(())
            }
            85 => self.toggle(),
            86 => self.reconnect(),
            87..=90 => self.repeat(),
            91 => self.strange(),
            92 => {
                // The broker was not told in time that a job goes on.
                if let Some(job) = self.any_job() {
                    self.world.put_back(&job);
                }
                Ok(())
            }
            93 if self.choices.one_in(6) => self.feed(Input::DrainRequested),
            94 if self.choices.one_in(6) => self.feed(Input::StopRequested),
            _ => Ok(()),
        }
    }

    fn happen(&mut self) -> Checked {
        if self.world.pending.is_empty() {
            return Ok(());
        }
        let index = self.choices.pick(self.world.pending.len());
        self.happens(index)
    }

    /// The outcome of a pull can wait: most lanes are empty.
    fn happen_to_jobs(&mut self) -> Checked {
        let busy = self.world.pending.iter().enumerate().filter(|(_, p)| !matches!(p, Pending::Pull(..)));
        let busy: Vec<usize> = busy.map(|(index, _)| index).collect();
        match busy.get(self.choices.pick(busy.len())) {
            Some(index) => self.happens(*index),
            None => self.happen(),
        }
    }

    fn happens(&mut self, index: usize) -> Checked {
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

    /// Any job, most often one in hand.
    fn any_job(&mut self) -> Option<JobKey> {
        let hands = &self.ledger.jobs;
        if hands.is_empty() || self.choices.one_in(4) {
            let tickets = &self.world.tickets;
            return tickets.keys().nth(self.choices.pick(tickets.len())).cloned();
        }
        hands.keys().nth(self.choices.pick(hands.len())).cloned()
    }

    /// Somebody cancels: the holder is told, or the record ends at once.
    fn cancel(&mut self) -> Checked {
        let Some(job) = self.any_job() else { return Ok(()) };
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
        let Some(job) = self.any_job() else { return Ok(()) };
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
        let again = matches!(
            input,
            Input::Tick | Input::StopRequested | Input::CancelRequested { .. } | Input::Lost { .. }
        );
        if again || self.ledger.is_stale(&input) { self.feed(input) } else { Ok(()) }
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
