//! A farm in simulated time: one dispatcher per host, and around them a broker, a housekeeper and workers that behave as
//! the real ones do as far as decisions can notice. What is left out stands in `docs/scheduling.md`.
//!
//! ```text
//!   Publish ─► broker ─(bells, tickets, answers)─► agents ─► Dispatcher ─► actions ─┬─(words)─► broker
//!                                                    ▲                              └─► processes of the host
//!                                                    └───(ready, ended, gone, looks)──────────┘
//! ```

mod agent;
mod broker;
mod events;
mod host;
mod inversion;
mod perform;
mod serve;

use crate::chance::Chance;
use crate::lives::{Life, Outcome, Sample};
use crate::mix::{Micros, Mix};
use agent::Agent;
use broker::Broker;
use events::{Event, Events, News, Overview, Word};
use grange_dispatch::{Config, Facts, Input, JobLimits};
use grange_protocol::name::{JobId, PluginName};
use grange_protocol::subject::{JobKey, Queue};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

/// Most violations that are told.
const VIOLATIONS_MAX: usize = 20;

/// How the world around the dispatchers behaves. Ranges are microseconds, from and to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What dispatchers are told.
    pub config: Config,
    /// A message between agent and broker, one way.
    pub one_way: (Micros, Micros),
    /// A durable write at the broker.
    pub write: (Micros, Micros),
    /// A consumer is made.
    pub open: (Micros, Micros),
    /// A consumer counts a ticket so long after its bell was sent.
    pub count: (Micros, Micros),
    /// A word between agent and worker.
    pub link: Micros,
    /// A worker that was told to end is gone.
    pub stop: (Micros, Micros),
    /// Its GPU memory is back so long after that.
    pub memory: (Micros, Micros),
    /// A look at the host takes so long.
    pub look: Micros,
    /// And is taken this often without being asked for.
    pub look_every: Micros,
    /// Regular ticks.
    pub tick: Micros,
    /// The housekeeper's word.
    pub overview: Micros,
    /// The farm is given up then.
    pub limit: Micros,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: Config::default(),
            one_way: (75, 200),
            write: (100, 400),
            open: (500, 2_000),
            count: (0, 150),
            link: 50,
            stop: (20_000, 80_000),
            memory: (50_000, 300_000),
            look: 10_000,
            look_every: 2_000_000,
            tick: 100_000,
            overview: 2_000_000,
            limit: 4 * 3_600_000_000,
        }
    }
}

/// Runs a mix until every job that some host can run has ended.
pub fn simulate(mix: &Mix, settings: &Settings) -> Outcome {
    let mut farm = Farm::new(mix, settings);
    farm.begin();
    while farm.left > 0 {
        let Some((at, event)) = farm.events.next() else {
            farm.broken(|| "nothing happens any more, and jobs are left".to_owned());
            break;
        };
        farm.now = at;
        if at > settings.limit {
            let left = farm.left;
            farm.broken(|| format!("{left} jobs are left after {} s", at / 1_000_000));
            break;
        }
        farm.happen(event);
    }
    farm.outcome
}

struct Farm<'a> {
    mix: &'a Mix,
    set: &'a Settings,
    chance: Chance,
    now: Micros,
    events: Events,
    broker: Broker,
    agents: Vec<Agent>,
    outcome: Outcome,
    queues: HashMap<Queue, usize>,
    plugins: HashMap<PluginName, usize>,
    keys: Vec<JobKey>,
    /// Since when each queue's oldest ticket waited, as the last overview said.
    ages: HashMap<usize, Micros>,
    /// What of a higher priority waited when a job's claim was sent.
    suspects: HashMap<usize, BTreeSet<usize>>,
    /// When each job came to the agent that has it.
    delivered: Vec<Micros>,
    /// Jobs that some host can run and that have not ended.
    left: usize,
}

impl<'a> Farm<'a> {
    fn new(mix: &'a Mix, set: &'a Settings) -> Self {
        let key = |(n, job): (usize, &crate::mix::Job)| JobKey {
            owner: mix.queues[job.queue].queue.owner.clone(),
            job: JobId::new(n.to_string()).expect("a number is a name"),
        };
        let plugins = mix.plugins.len();
        let agents = mix.hosts.iter().enumerate().map(|(n, host)| Agent::new(n, host, plugins, set.config));
        let placeable = mix.placeable();
        let can = |job: &crate::mix::Job| placeable[mix.queues[job.queue].shape];
        Self {
            mix,
            set,
            chance: Chance::new(mix.seed, 3),
            now: 0,
            events: Events::default(),
            broker: Broker::new(mix.queues.len(), plugins),
            agents: agents.collect(),
            outcome: Outcome { lives: vec![Life::default(); mix.jobs.len()], ..Outcome::default() },
            queues: mix.queues.iter().enumerate().map(|(n, queue)| (queue.queue.clone(), n)).collect(),
            plugins: mix.plugins.iter().enumerate().map(|(n, plugin)| (plugin.name.clone(), n)).collect(),
            keys: mix.jobs.iter().enumerate().map(key).collect(),
            ages: HashMap::new(),
            suspects: HashMap::new(),
            delivered: vec![0; mix.jobs.len()],
            left: mix.jobs.iter().filter(|job| can(job)).count(),
        }
    }

    /// What lies there already, and what is certain to happen.
    fn begin(&mut self) {
        for (n, job) in self.mix.jobs.iter().enumerate() {
            if job.at < self.mix.begin {
                self.broker.open(job.queue);
                let _ = self.broker.count(job.queue, n, false);
            } else {
                self.events.add(job.at, Event::Publish { job: n });
            }
        }
        for agent in 0..self.agents.len() {
            let up = self.mix.begin + self.chance.between(0, self.set.tick);
            self.events.add(up, Event::ToAgent(agent, News::Up));
        }
        self.events.add(self.mix.begin + self.set.overview, Event::Overview);
    }

    fn broken(&mut self, text: impl FnOnce() -> String) {
        if self.outcome.violations.len() < VIOLATIONS_MAX {
            self.outcome.violations.push(format!("{:.6} s: {}", self.now as f64 / 1e6, text()));
        }
    }

    fn among(&mut self, (from, to): (Micros, Micros)) -> Micros {
        self.chance.between(from, to)
    }

    /// An agent says something to the broker.
    fn say(&mut self, agent: usize, word: Word) {
        let at = self.now + self.among(self.set.one_way);
        let at = at.max(self.agents[agent].said_until);
        self.agents[agent].said_until = at;
        self.events.add(at, Event::ToBroker(agent, word));
    }

    /// The broker says something to an agent.
    fn send(&mut self, agent: usize, news: News) {
        let at = self.now + self.among(self.set.one_way);
        let at = at.max(self.agents[agent].heard_until);
        self.agents[agent].heard_until = at;
        self.events.add(at, Event::ToAgent(agent, news));
    }

    fn after(&mut self, delay: Micros, agent: usize, news: News) {
        self.events.add(self.now + delay, Event::ToAgent(agent, news));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Publish { job } => self.publish(job),
            Event::Count { job, again } => self.count(job, again),
            Event::Due { job } => self.due(job),
            Event::Expire { queue, agent, number } => {
                if self.broker.expire(queue, agent, number) {
                    self.send(agent, News::PullEnded { queue, number });
                }
            }
            Event::Overview => self.overview(),
            Event::ToBroker(agent, word) => self.serve(agent, word),
            Event::FromBroker(agent, news) => self.send(agent, news),
            Event::ToAgent(agent, news) => self.hear(agent, news),
        }
    }

    /// The housekeeper looks at the farm and tells everybody.
    fn overview(&mut self) {
        let overview = Rc::new(self.look_around());
        for agent in 0..self.agents.len() {
            self.send(agent, News::Facts(overview.clone()));
        }
        let mut sample = Sample { at: self.now, ..Sample::default() };
        self.agents.iter().for_each(|agent| agent.sample(&mut sample));
        self.outcome.samples.push(sample);
        self.events.add(self.now + self.set.overview, Event::Overview);
    }

    fn look_around(&mut self) -> Overview {
        let oldest = |queue: usize| self.broker.heads(queue).map(|job| self.mix.jobs[job].at).min();
        let ages: HashMap<usize, Micros> =
            (0..self.mix.queues.len()).filter_map(|n| Some((n, oldest(n)?))).collect();
        let told = |(n, at): (&usize, &Micros)| (self.mix.queues[*n].queue.clone(), (self.now - at) / 1_000);
        let waiting = ages.iter().map(told).collect();
        let loaded = |plugin| self.agents.iter().filter(|agent| agent.is_loaded(plugin)).count();
        let warm = (0..self.mix.plugins.len()).map(|plugin| u32::try_from(loaded(plugin)).unwrap_or(0));
        self.ages = ages;
        Overview { waiting, warm: warm.collect() }
    }

    fn facts(&self, agent: usize, overview: &Overview) -> Facts {
        let elsewhere = |(plugin, count): (usize, &u32)| {
            let own = u32::from(self.agents[agent].is_loaded(plugin));
            (*count > own).then(|| self.mix.plugins[plugin].name.clone())
        };
        let warm_elsewhere: BTreeSet<PluginName> =
            overview.warm.iter().enumerate().filter_map(elsewhere).collect();
        Facts { waiting: overview.waiting.clone(), warm_elsewhere, running_elsewhere: Default::default() }
    }

    /// News arrive at an agent: what the dispatcher is told of them.
    fn hear(&mut self, agent: usize, news: News) {
        let input = match news {
            News::Up => return self.come_up(agent),
            News::Tick => {
                self.after(self.set.tick, agent, News::Tick);
                Input::Tick
            }
            News::Wake(at) => {
                if self.agents[agent].wake != Some(at) {
                    return;
                }
                self.agents[agent].wake = None;
                Input::Tick
            }
            News::Bell { job, ear, hops } => {
                self.outcome.counts.bells += 1;
                Input::Bell { queue: self.queue_of(job), job: self.keys[job].job.clone(), ear, hops }
            }
            News::Opened { queue } => Input::QueueOpen { queue: self.mix.queues[queue].queue.clone() },
            News::Ticket { job } => self.ticket(agent, job),
            News::PullEnded { queue, number } => {
                let out = &mut self.agents[agent].out;
                if out.get(&queue).is_none_or(|out| out.number != number) {
                    return;
                }
                out.remove(&queue);
                Input::PullEnded { queue: self.mix.queues[queue].queue.clone() }
            }
            News::Claimed { job } => return self.claimed(agent, job),
            News::Settled { job } => Input::Settled { job: self.keys[job].clone() },
            News::Facts(overview) => Input::Facts(Box::new(self.facts(agent, &overview))),
            News::SaveGranted { queue } => Input::SaveGranted { queue: self.mix.queues[queue].queue.clone() },
            News::SaveRefused { queue } => Input::SaveRefused { queue: self.mix.queues[queue].queue.clone() },
            News::Look => return self.look(agent),
            News::Looked(reading) => self.looked(agent, reading),
            News::Ready(worker) => self.worker_ready(agent, worker),
            News::Exited(worker) => self.worker_gone(agent, worker),
            News::MemoryBack(worker) => return self.memory_back(agent, worker),
            News::RunEnded { worker, job } => match self.run_ended(agent, worker, job) {
                Some(input) => input,
                None => return,
            },
        };
        self.tell(agent, input);
    }

    fn queue_of(&self, job: usize) -> Queue {
        self.mix.queues[self.mix.jobs[job].queue].queue.clone()
    }

    fn come_up(&mut self, agent: usize) {
        let now_ms = self.now / 1_000;
        let reading = self.agents[agent].reading(now_ms);
        self.tell(agent, Input::Host(Box::new(reading)));
        for plugin in &self.mix.plugins {
            let (plugin, spec) = (plugin.name.clone(), plugin.spec.clone());
            self.tell(agent, Input::PluginReady { plugin, spec });
        }
        // The newest overview is there before anything else.
        let overview = self.look_around();
        let facts = self.facts(agent, &overview);
        self.tell(agent, Input::Facts(Box::new(facts)));
        for queue in 0..self.mix.queues.len() {
            if self.broker.is_open(queue) {
                self.tell(agent, Input::QueueOpen { queue: self.mix.queues[queue].queue.clone() });
            }
        }
        self.after(self.set.tick, agent, News::Tick);
        self.after(self.set.look_every, agent, News::Look);
    }

    fn ticket(&mut self, agent: usize, job: usize) -> Input {
        self.outcome.counts.delivered += 1;
        self.delivered[job] = self.now;
        let queue = self.mix.jobs[job].queue;
        let out = &mut self.agents[agent].out;
        if let Some(pull) = out.get_mut(&queue) {
            pull.left -= 1;
            if pull.left == 0 {
                out.remove(&queue);
            }
        }
        let shape = self.mix.shape_of(job);
        self.agents[agent].unplaced[shape.plugin] += 1;
        Input::Delivered {
            queue: self.queue_of(job),
            job: self.keys[job].clone(),
            limits: JobLimits::default(),
            resources: shape.beyond.clone().map(Box::new),
        }
    }

    /// Tells a dispatcher, and does what it says.
    fn tell(&mut self, agent: usize, input: Input) {
        self.outcome.counts.inputs += 1;
        let now_ms = self.now / 1_000;
        let actions = self.agents[agent].core.handle(now_ms, input);
        for action in actions {
            self.perform(agent, action);
        }
        let wish = self.agents[agent].core.next_wake();
        if wish != self.agents[agent].wake {
            self.agents[agent].wake = wish;
            if let Some(at) = wish {
                let due = (at * 1_000).max(self.now + 1);
                self.events.add(due, Event::ToAgent(agent, News::Wake(at)));
            }
        }
    }
}
