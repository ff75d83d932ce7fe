//! What is known of each plugin: its shapes, how long its runs take, and whether its workers come up.

use crate::vocabulary::{Config, PluginSpec, Time};
use grange_protocol::class::{self, Meaning};
use grange_protocol::fit::Need;
use grange_protocol::name::{Class, PluginName};
use grange_protocol::resource::ResourceRequest;
use grange_protocol::subject::JobKey;
use std::collections::{BTreeMap, VecDeque};

/// What jobs of one class need of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    class: Class,
    /// None: anything will do.
    pub(crate) need: Option<Need>,
}

impl Shape {
    /// What a worker must have been started for.
    pub(crate) fn wanted(&self) -> Option<&ResourceRequest> {
        self.need.as_ref().map(|need| &need.request)
    }

    /// Whether a worker of this shape is started on a plan alone: it takes some of the host, or nobody knows.
    pub(crate) fn needs_plan(&self) -> bool {
        self.is_heavy() || self.need.is_none()
    }

    /// Whether a worker of this shape takes anything of the host.
    pub(crate) fn is_heavy(&self) -> bool {
        self.need.as_ref().is_some_and(|need| !need.request.is_empty())
    }
}

/// One plugin.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) spec: PluginSpec,
    /// The default shape first, then `any`, then classes as they came.
    pub(crate) shapes: Vec<Shape>,
    /// Jobs that are ours and wait for a worker, oldest first.
    pub(crate) waiting: VecDeque<JobKey>,
    /// Jobs in hand that have no place in a worker yet, by shape.
    pub(crate) unplaced: Vec<u32>,
    /// Smoothed time of a run, milliseconds.
    run_ms: Option<f64>,
    /// No worker is started before this time.
    pub(crate) rest_until: Time,
    failures: u32,
    /// It can no longer run here.
    pub(crate) gone: bool,
    /// Another agent has a loaded worker.
    pub(crate) warm_elsewhere: bool,
    /// Without a worker of its own this agent looks at its queues not before this time: a warm one goes first.
    pub(crate) look_from: Time,
}

/// Most classes of one plugin that an agent serves; more wait until it starts anew.
const CLASSES_MAX: usize = 256;
/// Weight of the newest run in the smoothed time.
const NEWEST: f64 = 0.2;
/// Runs shorter than this, milliseconds, give their slot back before it is worth telling anybody.
const BRIEF_MS: f64 = 50.0;
/// A cold agent waits a hundredth of a start, within these bounds, milliseconds: with pull and claim it stays below two.
const COLD_SHARE: u64 = 100;
const COLD_LEAST_MS: u64 = 3;
const COLD_MOST_MS: u64 = 250;

impl Plugin {
    pub(crate) fn new(spec: PluginSpec) -> Self {
        let mut plugin = Self {
            spec: PluginSpec::default(),
            shapes: Vec::new(),
            waiting: VecDeque::new(),
            unplaced: Vec::new(),
            run_ms: None,
            rest_until: 0,
            failures: 0,
            gone: false,
            warm_elsewhere: false,
            look_from: 0,
        };
        plugin.shape_of(&Class::plugin_default());
        plugin.shape_of(&Class::any());
        plugin.set_spec(spec);
        plugin
    }

    /// It runs differently from now on.
    pub(crate) fn set_spec(&mut self, spec: PluginSpec) {
        self.spec = spec;
        for shape in &mut self.shapes {
            shape.need = need_of(&shape.class, &self.spec.request);
        }
    }

    /// Whether jobs of this class can be told apart: there is a limit on what strangers may think up.
    pub(crate) fn takes(&self, class: &Class) -> bool {
        let known = self.shapes.iter().any(|shape| shape.class == *class);
        known || self.shapes.len() < CLASSES_MAX || class::read(class).is_err()
    }

    /// The place of a class among the shapes. One that cannot be read, or is one too many, counts as the plugin's own.
    pub(crate) fn shape_of(&mut self, class: &Class) -> usize {
        if let Some(place) = self.shapes.iter().position(|shape| shape.class == *class) {
            return place;
        }
        if self.shapes.len() >= CLASSES_MAX || class::read(class).is_err() {
            return 0;
        }
        let need = need_of(class, &self.spec.request);
        self.shapes.push(Shape { class: class.clone(), need });
        self.unplaced.push(0);
        self.shapes.len() - 1
    }

    /// Whether anything of it takes a part of the host that other plugins want too.
    pub(crate) fn is_heavy(&self) -> bool {
        self.shapes.iter().any(Shape::is_heavy)
    }

    /// Learns how long a run took.
    pub(crate) fn ran(&mut self, ms: f64) {
        if ms.is_finite() && ms >= 0.0 {
            self.run_ms = Some(self.run_ms.map_or(ms, |old| old + (ms - old) * NEWEST));
        }
    }

    /// Its runs are so short that a slot is free again before a word of it would arrive.
    pub(crate) fn is_brief(&self) -> bool {
        self.run_ms.is_some_and(|ms| ms < BRIEF_MS)
    }

    /// How many runs may be held ahead of each slot: those that start within `pull_ahead_ms`.
    pub(crate) fn ahead(&self, config: &Config) -> u32 {
        let Some(run_ms) = self.run_ms else { return 0 };
        let fit = f64::from(config.pull_ahead_ms) / run_ms.max(0.01);
        // `as` saturates: a huge ratio becomes the largest number and is then cut to the limit.
        (fit as u32).min(config.pull_ahead_max)
    }

    /// Runs that one worker may have in hand.
    pub(crate) fn slots(&self, config: &Config) -> u32 {
        self.spec.concurrency.saturating_mul(1 + self.ahead(config))
    }

    /// The overview says whether another agent has a loaded worker. If none has, nothing is left to them any more.
    pub(crate) fn hears_of_warm_ones(&mut self, warm_elsewhere: bool) {
        self.warm_elsewhere = warm_elsewhere;
        self.look_from = if warm_elsewhere { self.look_from } else { 0 };
    }

    /// How long an agent without a loaded worker leaves a ticket to one that has one, milliseconds.
    pub(crate) fn patience_ms(&self) -> Time {
        if !self.warm_elsewhere {
            return 0;
        }
        (self.spec.start_ms.unwrap_or(0) / COLD_SHARE).clamp(COLD_LEAST_MS, COLD_MOST_MS)
    }

    /// A worker came up.
    pub(crate) fn started(&mut self) {
        self.failures = 0;
        self.rest_until = 0;
    }

    /// A worker did not come up: rest, longer each time.
    pub(crate) fn start_failed(&mut self, now: Time, config: &Config) {
        let doubled = config.start_backoff_ms.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.rest_until = now + doubled.min(config.start_backoff_max_ms);
    }
}

/// What a class needs of a worker. One that cannot be read needs what the plugin needs: its tickets are refused when
/// they come.
fn need_of(class: &Class, plugin: &ResourceRequest) -> Option<Need> {
    match class::read(class) {
        Ok(Meaning::Any) if !plugin.is_empty() => None,
        Ok(Meaning::Asks(asks)) => {
            Some(Need { request: plugin.raised(&asks.upto), over: plugin.raised(&asks.over) })
        }
        Ok(Meaning::Any | Meaning::Default) | Err(_) => Some(Need::from(plugin.clone())),
    }
}

/// All plugins.
pub(crate) type Plugins = BTreeMap<PluginName, Plugin>;
