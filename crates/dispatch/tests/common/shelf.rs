//! What an onlooker knows of one queue: what was asked, which bells rang, when it was found empty.

use grange_dispatch::{Config, Time};
use grange_protocol::name::JobId;
use grange_protocol::subject::Queue;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Door {
    #[default]
    Closed,
    Opening,
    Open,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) door: Door,
    /// Tickets that were asked for and have not come.
    pub(crate) asked: u32,
    /// In which step.
    pub(crate) step: usize,
    /// Tickets whose bells no pull has answered, and when they may be.
    pub(crate) bells: Vec<JobId>,
    pub(crate) due: Time,
    /// What was overheard is looked into not before this time.
    pub(crate) look_from: Time,
    /// One more look is taken then.
    pub(crate) again_at: Option<Time>,
    /// Tickets whose bells the pull that is out answers.
    answered: Vec<JobId>,
    /// Tickets that came before their bells.
    early: Vec<JobId>,
    /// When a pull found nothing more; none since found as much as it looked for.
    pub(crate) empty_since: Option<Time>,
    /// Looked into then, and nothing was heard of it since.
    pub(crate) peeked: Option<Time>,
    /// The pull that is out waits.
    waiting: bool,
    /// The pull that is out was made without a bell, after one that was answered.
    pub(crate) standing: bool,
    /// The last pull was answered in full.
    pub(crate) lively: bool,
    /// When it was served last, in the order of turns.
    pub(crate) turn: usize,
    /// How old its oldest ticket was said to be, and when.
    pub(crate) age: Option<(Time, Time)>,
}

impl Shelf {
    pub(crate) fn ring(&mut self, job: &JobId, now: Time, patience: Time) {
        if let Some(place) = self.early.iter().position(|early| early == job) {
            self.early.remove(place);
        } else if !self.bells.contains(job) {
            self.peeked = None;
            self.due = if self.bells.is_empty() { now + patience } else { self.due };
            if patience > 0 {
                self.again_at = Some(now + 2 * patience);
            }
            self.bells.push(job.clone());
        }
    }

    /// A bell rang for others, or for all: it may hold something.
    pub(crate) fn overhear(&mut self, job: &JobId, from: Time, again_ms: Time) {
        if let Some(place) = self.early.iter().position(|early| early == job) {
            self.early.remove(place);
            return;
        }
        self.peeked = None;
        self.look_from = if self.empty_since.take().is_some() { from } else { self.look_from };
        self.again_at = Some(from + again_ms);
    }

    /// A pull brought one of what it asked for; None: it was no ticket.
    pub(crate) fn came(&mut self, job: Option<&JobId>) {
        self.age = None;
        match job {
            Some(job) if self.bells.contains(job) => self.bells.retain(|bell| bell != job),
            Some(job) if self.answered.contains(job) => {}
            Some(job) => self.early.push(job.clone()),
            None => {}
        }
        if self.asked == 1 {
            if !self.waiting {
                self.empty_since = None;
            }
            (self.standing, self.lively) = (false, true);
            self.answered.clear();
        }
        self.asked = self.asked.saturating_sub(1);
    }

    pub(crate) fn went_back(&mut self, job: &JobId) {
        self.early.retain(|early| early != job);
        self.peeked = None;
    }

    /// A look that took nothing found it empty.
    pub(crate) fn found_empty(&mut self, now: Time) {
        let Some(began) = self.peeked.take() else { return };
        (self.empty_since, self.age) = (Some(now), None);
        self.again_at = self.again_at.filter(|at| *at > began);
    }

    pub(crate) fn ended(&mut self, now: Time) {
        if self.asked > 0 {
            (self.asked, self.standing, self.lively) = (0, false, false);
            (self.empty_since, self.age) = (Some(now), None);
            self.answered.clear();
        }
    }

    /// Nothing is known any more; `asked` may be out still.
    pub(crate) fn forget(&mut self, asked: u32) {
        *self = Self { door: self.door, turn: self.turn, step: self.step, asked, ..Self::default() };
    }

    pub(crate) fn asks(&mut self, batch: u32, wait: bool, standing: bool, now: Time) {
        let rung = if self.due <= now && !standing { self.bells.len() } else { 0 };
        if rung == 0 && self.is_looked_at_again(now) {
            self.again_at = None;
        }
        (self.asked, self.waiting, self.standing) = (batch, wait, standing);
        self.peeked = None;
        self.answered = self.bells.drain(..rung.min(batch as usize)).collect();
    }

    pub(crate) fn is_ripe(&self, now: Time) -> bool {
        !self.bells.is_empty() && self.due <= now
    }

    pub(crate) fn is_looked_at_again(&self, now: Time) -> bool {
        self.again_at.is_some_and(|at| at <= now)
    }

    /// Whether it was found empty less than so long ago.
    pub(crate) fn is_fresh(&self, now: Time, patience_ms: Time) -> bool {
        self.empty_since.is_some_and(|at| now < at + patience_ms)
    }

    /// Its priority, raised by age: 0 is the highest.
    pub(crate) fn level(&self, queue: &Queue, now: Time, config: &Config) -> u8 {
        let rises = self.age.map_or(0, |(age, heard)| (age + now - heard) / config.age_after_ms);
        (queue.lane.priority as u8).saturating_sub(u8::try_from(rises).unwrap_or(u8::MAX))
    }
}
