//! One life of an agent: random events until the choices are used up, then calm weather until every ticket has come to
//! its end, then a drain until the exit. Every step is checked.

use super::farm::{self, NOBODY, QUEUES_FEW, UNKNOWN_WORKER, cast, plugin, queue, start_failure};
use super::ledger::Mode;
use super::pulls::TICK_MS;
use super::watch::{Watch, leaves};
use super::world::{Pending, Place, World};
use super::{Checked, Choices, Law, broken, law};
use grange_dispatch::{Action, Ear, Input, JobLimits, RunEnd, Time};
use grange_protocol::fit::place_when_empty;
use grange_protocol::name::PluginName;
use grange_protocol::subject::{JobKey, Queue};

/// Most steps of calm weather: far more than any life needs.
const CALM_STEPS: usize = 6_000;

/// How long it takes until the next event.
const PAUSES: [Time; 8] = [0, 0, 0, 0, 1, 5, 60, 400];

struct Life {
    now: Time,
    choices: Choices,
    names: &'static [&'static str],
    world: World,
    watch: Watch,
    /// It is drained and undrained by an operator.
    operated: bool,
}

/// Lives one life, and says which law broke first, after which conversation.
pub(crate) fn live(choices: Choices) -> Checked {
    live_so(choices, false)
}

/// The same on a host that is drained and undrained.
pub(crate) fn live_operated(choices: Choices) -> Checked {
    live_so(choices, true)
}

fn live_so(mut choices: Choices, operated: bool) -> Checked {
    let names = cast(&mut choices);
    let config = farm::config(&mut choices);
    let world = World::new(&mut choices);
    let mut life = Life { now: 0, choices, names, world, watch: Watch::new(config), operated };
    life.pass_by().map_err(|broken| life.watch.told(broken))
}

impl Life {
    fn pass_by(&mut self) -> Checked {
        if !self.choices.one_in(4) {
            self.look()?;
        }
        for name in self.names {
            self.plugin_ready(name)?;
        }
        let leaves = self.choices.pick(3);
        while !self.choices.is_empty() {
            self.event()?;
        }
        // Queues that never fit here may be all that are known where few may be.
        let many = self.watch.ledger.config.queues_max > QUEUES_FEW;
        if leaves == 0 && many && self.watch.ledger.mode == Mode::Working {
            self.calm()?;
        }
        self.feed(if leaves == 2 { Input::StopRequested } else { Input::DrainRequested { exit: true } })?;
        self.leave()?;
        self.watch.replay()
    }

    fn feed(&mut self, input: Input) -> Checked {
        if let Input::Delivered { job, .. } = &input
            && self.watch.ledger.jobs.contains_key(job)
        {
            // Nobody settles this delivery: the broker hands the ticket out again.
            self.world.put_back(job);
        }
        self.world.now = self.now;
        for action in self.watch.tell(self.now, input)? {
            let concurrency = match &action {
                Action::Spawn { worker, .. } => self.watch.ledger.workers[worker].concurrency,
                _ => 0,
            };
            self.world.perform(&action, concurrency, &mut self.choices);
        }
        Ok(())
    }

    /// Time passes; the dispatcher is told of it whenever it wants to be.
    fn wait(&mut self, pause: Time) -> Checked {
        let until = self.now + pause;
        loop {
            let wake = self.watch.dispatcher.next_wake().unwrap_or(Time::MAX).max(self.now);
            let next = wake.min(self.now - self.now % TICK_MS + TICK_MS);
            if next > until {
                self.now = until;
                return Ok(());
            }
            self.now = next;
            self.feed(Input::Tick)?;
        }
    }

    fn event(&mut self) -> Checked {
        let chance = self.choices.pick(PAUSES.len() * 112);
        self.wait(PAUSES[chance / 112])?;
        match chance % 112 {
            0..=26 => self.happen(),
            27..=66 => self.happen_to_jobs(),
            67..=74 => {
                let name = self.name();
                let queue = queue(name, &mut self.choices);
                for _ in 0..=self.choices.pick(4) {
                    self.world.submit(queue.clone(), &mut self.choices);
                }
                Ok(())
            }
            75..=79 => self.feed(Input::Tick),
            80..=83 => self.cancel(),
            84 => self.lose(),
            85 | 86 => {
                self.world.crash(&mut self.choices);
                Ok(())
            }
            87 => self.toggle(),
            88 if self.choices.one_in(2) => self.reconnect(),
            88 => self.give_up_a_pull(),
            89..=92 => self.repeat(),
            93 => self.strange(),
            94 => {
                // The broker was not told in time that a job goes on.
                if let Some(job) = self.any_job() {
                    self.world.put_back(&job);
                }
                Ok(())
            }
            95..=97 => {
                self.world.machine.change(&mut self.choices);
                Ok(())
            }
            98..=101 => self.look(),
            102..=105 => {
                let facts = self.world.facts(self.names, &mut self.choices);
                self.feed(Input::Facts(Box::new(facts)))
            }
            106 => self.queue_news(),
            107 => {
                let owner = farm::owner(self.choices.of(&["alice", "bob"]));
                self.feed(Input::OwnerFull { owner })
            }
            108 => {
                let device = self.world.machine.uuids().into_iter().next().filter(|_| self.choices.one_in(2));
                self.feed(Input::Unquarantined { device })
            }
            109 if self.choices.one_in(6) => self.feed(Input::DrainRequested { exit: true }),
            111 if self.operated => match self.choices.pick(4) {
                0 | 1 => self.feed(Input::UndrainRequested),
                2 => self.feed(Input::DrainRequested { exit: false }),
                _ => self.feed(Input::StopRuns),
            },
            110 if self.choices.one_in(6) => self.feed(Input::StopRequested),
            _ => Ok(()),
        }
    }

    fn name(&mut self) -> &'static str {
        self.choices.of(self.names)
    }

    fn look(&mut self) -> Checked {
        self.feed(Input::Host(Box::new(self.world.machine.reading(self.now))))
    }

    /// A queue is found, or its consumer is removed.
    fn queue_news(&mut self) -> Checked {
        let name = self.name();
        let queue = queue(name, &mut self.choices);
        let open = self.choices.one_in(2);
        self.feed(if open { Input::QueueOpen { queue } } else { Input::QueueClosed { queue } })
    }

    fn happen(&mut self) -> Checked {
        if self.world.pending.is_empty() {
            return Ok(());
        }
        let index = self.choices.pick(self.world.pending.len());
        self.happens(index)
    }

    /// The outcome of a pull can wait: most queues are empty.
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
            Some(Input::Bell { queue, job, hops, .. }) => {
                let heard = self.watch.ledger.ears.get(&queue.lane.plugin).copied();
                // It may have been on its way when the ear was changed.
                let late = self.choices.one_in(8).then_some(Ear::Warm);
                let Some(ear) = heard.and(late).or(heard) else { return Ok(()) };
                let hops = if self.choices.one_in(8) { 3 } else { hops };
                self.feed(Input::Bell { queue, job, ear, hops })
            }
            Some(input) => self.feed(input),
            None => Ok(()),
        }
    }

    fn plugin_ready(&mut self, name: &str) -> Checked {
        let spec = farm::spec(name, &mut self.choices);
        self.feed(Input::PluginReady { plugin: plugin(name), spec })
    }

    /// Any job, most often one in hand.
    fn any_job(&mut self) -> Option<JobKey> {
        let hands = &self.watch.ledger.jobs;
        if hands.is_empty() || self.choices.one_in(4) {
            let tickets = &self.world.tickets;
            return tickets.keys().nth(self.choices.pick(tickets.len())).cloned();
        }
        hands.keys().nth(self.choices.pick(hands.len())).cloned()
    }

    /// Somebody cancels: the holder is told, or the record ends at once.
    fn cancel(&mut self) -> Checked {
        let Some(job) = self.any_job() else { return Ok(()) };
        if !self.watch.ledger.jobs.contains_key(&job) {
            let ticket = self.world.tickets.get_mut(&job).unwrap();
            ticket.elsewhere = true;
            if ticket.place == Place::InQueue {
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
        if ticket.place == Place::InQueue {
            ticket.place = Place::Gone;
        }
        self.feed(Input::Lost { job })
    }

    fn toggle(&mut self) -> Checked {
        let name = self.name();
        if self.choices.one_in(2) || self.watch.ledger.plugins[&plugin(name)].gone {
            return self.plugin_ready(name);
        }
        self.feed(Input::PluginGone { plugin: plugin(name) })
    }

    /// The pulls are gone; what one of them brought may still come, late.
    fn reconnect(&mut self) -> Checked {
        self.world.disconnect();
        self.feed(Input::Reconnected)?;
        let stray = self.world.tickets.iter().find(|(_, ticket)| ticket.place == Place::InQueue);
        match stray.map(|(job, ticket)| (job.clone(), ticket.clone())) {
            Some((job, ticket)) if self.choices.one_in(2) => {
                self.world.tickets.get_mut(&job).unwrap().place = Place::Out;
                let resources = ticket.resources.map(Box::new);
                self.feed(Input::Delivered { queue: ticket.queue, job, limits: ticket.limits, resources })
            }
            _ => Ok(()),
        }
    }

    /// A pull counts as overdue. It may still be answered.
    fn give_up_a_pull(&mut self) -> Checked {
        let out = self.world.pending.iter().find_map(|pending| match pending {
            Pending::Pull(queue, _) => Some(queue.clone()),
            _ => None,
        });
        out.map_or(Ok(()), |queue| self.feed(Input::PullEnded { queue }))
    }

    /// An earlier input once more, where it says nothing new any more.
    fn repeat(&mut self) -> Checked {
        let back = self.choices.pick(12.min(self.watch.log.len()));
        let input = self.watch.log[self.watch.log.len() - 1 - back].1.clone();
        let again = matches!(
            input,
            Input::Tick
                | Input::StopRequested
                | Input::CancelRequested { .. }
                | Input::Lost { .. }
                | Input::Host(_)
        );
        if again || self.watch.ledger.is_stale(&input) { self.feed(input) } else { Ok(()) }
    }

    /// About a job, a worker and a plugin that nobody knows.
    fn strange(&mut self) -> Checked {
        let queue = queue(NOBODY, &mut self.choices);
        let (job, worker, name) = (farm::key(&queue.owner, 9_999), UNKNOWN_WORKER, plugin(NOBODY));
        let input = match self.choices.pick(16) {
            0 => Input::Claimed { job },
            1 => Input::NotClaimed { job },
            2 => Input::RunEnded { job, end: RunEnd { run_ms: 1.0, cancelled: false } },
            3 => Input::Settled { job },
            4 => Input::CancelRequested { job },
            5 => Input::Lost { job },
            6 => Input::WorkerReady { worker },
            7 => Input::WorkerFailed { worker, failure: start_failure() },
            8 => Input::WorkerExited { worker },
            9 => Input::Bell { queue, job: job.job, ear: Ear::Warm, hops: 0 },
            10 => Input::PullEnded { queue },
            11 => Input::PluginGone { plugin: name },
            12 => Input::QueueOpen { queue },
            13 => Input::QueueClosed { queue },
            14 => Input::SaveRefused { queue },
            _ => Input::Delivered { queue, job, limits: JobLimits::default(), resources: None },
        };
        let returns = matches!(input, Input::Delivered { .. });
        self.feed(input)?;
        let told = |action: &&Action| !leaves(action);
        let said = self.watch.log.last().map_or(0, |(_, _, actions)| actions.iter().filter(told).count());
        law(Law::LateInputs, said == usize::from(returns), || format!("{:?}", self.watch.log.last()))
    }

    /// Calm weather: what is pending happens in order and ends well, until no ticket is left that fits.
    fn calm(&mut self) -> Checked {
        self.world.machine.heal();
        self.look()?;
        self.feed(Input::Unquarantined { device: None })?;
        let gone = self.watch.ledger.plugins.iter().filter(|(_, p)| p.gone).map(|(name, _)| name.clone());
        for name in gone.collect::<Vec<PluginName>>() {
            self.plugin_ready(name.as_str())?;
        }
        for step in 0..CALM_STEPS {
            if self.left().next().is_none() && self.watch.ledger.jobs.is_empty() {
                return Ok(());
            }
            self.pass(step)?;
        }
        let left: Vec<_> = self.left().collect();
        broken(Law::Liveness, format!("left: {left:?}, in hand: {:?}", self.watch.ledger.jobs))
    }

    /// Tickets that have not come to their end, and would fit this host if nobody else were on it.
    fn left(&self) -> impl Iterator<Item = (&JobKey, &Queue)> {
        let mut room = self.watch.ledger.estate.room(&[]);
        // Where nobody tells who uses what, an idle worker that was given no memory counts as a stranger.
        let untold = self.watch.ledger.untold();
        room.devices.retain(|device| !untold.contains(&device.uuid));
        let open = self.world.tickets.iter().filter(|(_, ticket)| ticket.place != Place::Gone);
        let fits = open.filter(move |(_, ticket)| {
            let lane = &ticket.queue.lane;
            let spec = &self.watch.ledger.plugins[&lane.plugin].spec;
            let class = farm::need(&lane.class, spec);
            let exact = ticket.resources.as_ref().map(|own| spec.request.raised(own).into());
            class.iter().chain(&exact).all(|need| place_when_empty(need, &room).is_ok())
        });
        fits.map(|(job, ticket)| (job, &ticket.queue))
    }

    /// After a drain: until the exit, and a little longer.
    fn leave(&mut self) -> Checked {
        for step in 0..CALM_STEPS {
            if self.watch.ledger.mode == Mode::Exited {
                self.feed(Input::Tick)?;
                return self.feed(Input::StopRequested);
            }
            self.pass(step)?;
        }
        broken(Law::Drains, format!("no exit; in hand: {:?}", self.watch.ledger.jobs))
    }

    /// The housekeeper removes the consumers of empty queues.
    fn tidy_up(&mut self) -> Checked {
        let waits = |queue: &Queue| {
            self.world.tickets.values().any(|ticket| ticket.queue == *queue && ticket.place == Place::InQueue)
        };
        let shelves = self.watch.ledger.shelves.iter();
        let empty = shelves.filter(|(queue, shelf)| shelf.asked == 0 && !waits(queue));
        for queue in empty.map(|(queue, _)| queue.clone()).collect::<Vec<_>>() {
            self.feed(Input::QueueClosed { queue })?;
        }
        Ok(())
    }

    fn pass(&mut self, step: usize) -> Checked {
        if step.is_multiple_of(80) {
            self.tidy_up()?;
            self.look()?;
            self.feed(Input::Unquarantined { device: None })?;
            let facts = self.world.facts(self.names, &mut self.choices);
            self.feed(Input::Facts(Box::new(facts)))?;
        }
        if step.is_multiple_of(8) {
            self.wait(300)?;
            self.feed(Input::Tick)
        } else {
            self.happen()
        }
    }
}
