//! The pull discipline: which queue is asked next. Owns what is known of each queue's content, and whose turn it is; one
//! pull per plugin at a time, so that a higher queue is always asked before a lower one.
//!
//! One exception, for plugins whose runs take a few milliseconds: where a bell was answered, one more ticket is asked
//! for without a bell (a standing pull, a slot kept for it), so that a client that sends one short job after the other
//! does not pay for bell and pull each time. It ends by itself within 100 ms, and other queues are asked beside it.

use crate::vocabulary::Time;
use grange_protocol::name::{JobId, Owner, PluginName};
use grange_protocol::subject::Queue;
use std::collections::{BTreeMap, VecDeque};

/// Bells of one queue that are told apart; more are counted.
const BELLS_MAX: usize = 64;
/// A queue that is left to others first for no longer than this keeps the lower ones waiting, milliseconds.
const HELD_MS: Time = 10;
/// Tickets that came before their bell and are remembered, so that the bell is not answered again.
const EARLY_MAX: usize = 32;

/// Whether a queue can be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Door {
    #[default]
    Closed,
    Opening,
    Open,
}

/// What is known of a queue.
#[derive(Clone, Debug, Default)]
struct Knowledge {
    door: Door,
    /// Its class, by its place among the plugin's shapes.
    shape: usize,
    /// Tickets that were asked for and have not come.
    asked: u32,
    /// Tickets whose bell rang since the last pull that answered bells.
    bells: VecDeque<JobId>,
    /// And so many more.
    more_bells: u32,
    /// The bells are answered not before this time.
    due: Time,
    /// Overheard bells are not looked into before this time.
    look_from: Time,
    /// Looked at again at this time without another bell: the first look may have come before the ticket.
    again_at: Option<Time>,
    /// Tickets that came before their bells.
    early: VecDeque<JobId>,
    /// Tickets whose bells the pull that is out answers.
    answered: Vec<JobId>,
    /// A pull found it empty at this time, and none since found as much as it looked for. A bell that was answered says
    /// nothing of it: the ticket that came may have been an older one.
    empty_since: Option<Time>,
    /// Looked into at this time without a pull, and nothing was heard of it since.
    peeked: Option<Time>,
    /// The last pull waited: it was made for bells, or stood.
    waiting: bool,
    /// The pull that is out waits without a bell, for one ticket that may follow.
    standing: bool,
    /// The last pull brought all it asked for: more may follow.
    lively: bool,
    /// How old its oldest ticket is, as the overview said, and when that was heard.
    age: Option<(Time, Time)>,
    /// Since when its oldest ticket waits, as the overview said last; what came before this agent lies below 0.
    since: Option<i64>,
    /// When it was served last, in the order of turns.
    turn: u64,
}

impl Knowledge {
    fn rung(&self) -> u32 {
        u32::try_from(self.bells.len()).unwrap_or(u32::MAX).saturating_add(self.more_bells)
    }

    fn take_bells(&mut self, count: u32) {
        let named = (count as usize).min(self.bells.len());
        self.answered = self.bells.drain(..named).collect();
        self.more_bells = self.more_bells.saturating_sub(count - u32::try_from(named).unwrap_or(count));
    }

    fn forget(&mut self) {
        *self = Self { door: self.door, shape: self.shape, turn: self.turn, ..Self::default() };
    }
}

/// The queues of the plugins that can run here, or could once: what they asked for may still come.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    known: BTreeMap<PluginName, BTreeMap<Queue, Knowledge>>,
    owners: BTreeMap<Owner, u64>,
    turns: u64,
    count: usize,
}

/// How a queue may be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) now: Time,
    /// A queue found empty so long ago may hold something again.
    pub(crate) empty_ms: Time,
    /// Sweeps begin not before this time.
    pub(crate) from: Time,
    /// A rising in priority for each so long a wait.
    pub(crate) age_after_ms: Time,
    /// Its runs take a few milliseconds.
    pub(crate) short: bool,
}

/// A queue that may hold something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    /// A ticket that may follow without a bell: after all others.
    pub(crate) standing: bool,
    /// 0: urgent. Lower ones rise with age.
    pub(crate) level: u8,
    owner_turn: u64,
    /// The queue of the owner that waits longest.
    pub(crate) since: i64,
    turn: u64,
    pub(crate) queue: Queue,
    pub(crate) shape: usize,
    /// Bells that wait to be answered; 0: it is swept.
    pub(crate) rung: u32,
    /// It was to be looked at once more by now.
    once_more: bool,
    /// It is left to others for a moment still.
    pub(crate) held: bool,
}

impl Queues {
    /// Whether one more queue may be taken in.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Every queue of a plugin is asked anew: it can run again.
    pub(crate) fn renew(&mut self, plugin: &PluginName) {
        for known in self.known.get_mut(plugin).into_iter().flat_map(BTreeMap::values_mut) {
            let asked = known.asked;
            known.forget();
            known.asked = asked;
        }
    }

    fn entry(&mut self, queue: &Queue) -> &mut Knowledge {
        let queues = self.known.entry(queue.lane.plugin.clone()).or_default();
        if !queues.contains_key(queue) {
            self.count += 1;
        }
        queues.entry(queue.clone()).or_default()
    }

    fn get(&mut self, queue: &Queue) -> Option<&mut Knowledge> {
        self.known.get_mut(&queue.lane.plugin)?.get_mut(queue)
    }

    pub(crate) fn is_known(&self, queue: &Queue) -> bool {
        self.known.get(&queue.lane.plugin).is_some_and(|queues| queues.contains_key(queue))
    }

    /// Wants the queue's consumer. False: it is there, or wanted already.
    pub(crate) fn begin_to_open(&mut self, queue: &Queue) -> bool {
        let known = self.entry(queue);
        let closed = known.door == Door::Closed;
        if closed {
            known.door = Door::Opening;
        }
        closed
    }

    /// The queue can be asked, and may hold something.
    pub(crate) fn opened(&mut self, queue: &Queue, shape: usize) {
        let known = self.entry(queue);
        (known.door, known.shape) = (Door::Open, shape);
        (known.empty_since, known.peeked) = (None, None);
    }

    /// The queue cannot be asked. It is forgotten, so that another may be known in its place.
    pub(crate) fn closed(&mut self, queue: &Queue) {
        let queues = self.known.get_mut(&queue.lane.plugin);
        if queues.is_some_and(|queues| queues.remove(queue).is_some()) {
            self.count -= 1;
        }
    }

    /// Makes room for one more: forgets the open queue that was served longest ago, of those that nothing is known of.
    /// False: there is none.
    pub(crate) fn forget_one(&mut self) -> bool {
        let quiet = |known: &Knowledge| {
            known.door == Door::Open && known.asked == 0 && known.rung() == 0 && known.age.is_none()
        };
        let all = self.known.values().flatten().filter(|(_, known)| quiet(known));
        let Some((queue, _)) = all.min_by_key(|(_, known)| known.turn) else { return false };
        let queue = queue.clone();
        self.closed(&queue);
        if !self.known.values().flatten().any(|(other, _)| other.owner == queue.owner) {
            self.owners.remove(&queue.owner);
        }
        true
    }

    /// A bell rang. It is answered at `due` at the earliest, and when `again_ms` is not 0, once more so much later.
    pub(crate) fn ring(&mut self, queue: &Queue, job: JobId, due: Time, again_ms: Time) {
        let known = self.entry(queue);
        if let Some(early) = known.early.iter().position(|early| *early == job) {
            known.early.remove(early);
            return;
        }
        if known.bells.contains(&job) {
            return;
        }
        known.peeked = None;
        if known.rung() == 0 {
            known.due = due;
        }
        if again_ms > 0 {
            known.again_at = Some(due + again_ms);
        }
        if known.bells.len() < BELLS_MAX {
            known.bells.push_back(job);
        } else {
            known.more_bells = known.more_bells.saturating_add(1);
        }
    }

    /// A bell rang for others, or for all: from `from` on there may be something where there is room, and a pull does not
    /// wait for it, because it may be gone. Looked at once more `again_ms` later, when the consumer surely counts it.
    pub(crate) fn overhear(&mut self, queue: &Queue, job: &JobId, from: Time, again_ms: Time) {
        let known = self.entry(queue);
        if let Some(early) = known.early.iter().position(|early| early == job) {
            known.early.remove(early);
            return;
        }
        known.peeked = None;
        // One bell after the other must not put the look off for ever.
        if known.empty_since.take().is_some() {
            known.look_from = from;
        }
        known.again_at = Some(from + again_ms);
    }

    /// The overview says that it holds tickets.
    pub(crate) fn holds(&mut self, queue: &Queue, age_ms: Time, now: Time) {
        if let Some(known) = self.get(queue) {
            known.age = Some((age_ms, now));
            known.since = Some(signed(now) - signed(age_ms));
            (known.empty_since, known.peeked) = (None, None);
        }
    }

    /// Ages that an older overview said are forgotten.
    pub(crate) fn forget_ages(&mut self) {
        for known in self.known.values_mut().flat_map(BTreeMap::values_mut) {
            known.age = None;
        }
    }

    /// How old a queue's oldest ticket is, as far as that is known.
    pub(crate) fn age_ms(&self, queue: &Queue, now: Time) -> Option<Time> {
        let (age, heard) = self.known.get(&queue.lane.plugin)?.get(queue)?.age?;
        Some(age + now.saturating_sub(heard))
    }

    /// A ticket came.
    pub(crate) fn delivered(&mut self, queue: &Queue, job: Option<&JobId>) {
        self.turns += 1;
        let turn = self.turns;
        let Some(known) = self.get(queue) else { return };
        known.turn = turn;
        known.age = None;
        if let Some(job) = job {
            if let Some(rung) = known.bells.iter().position(|rung| rung == job) {
                known.bells.remove(rung);
            } else if !known.answered.contains(job) {
                known.early.push_back(job.clone());
                if known.early.len() > EARLY_MAX {
                    known.early.pop_front();
                }
            }
        }
        if known.asked > 0 {
            known.asked -= 1;
            if known.asked == 0 {
                if !known.waiting {
                    known.empty_since = None;
                }
                (known.standing, known.lively) = (false, true);
                known.answered.clear();
            }
        }
        self.owners.insert(queue.owner.clone(), turn);
    }

    /// A ticket goes back: its bell, when it rings again, is news.
    pub(crate) fn went_back(&mut self, queue: &Queue, job: &JobId) {
        if let Some(known) = self.get(queue) {
            known.early.retain(|early| early != job);
            known.peeked = None;
        }
    }

    /// Whether a queue that is not asked may hold something still, where one found empty rests for so long.
    pub(crate) fn may_hold(&self, queue: &Queue, empty_ms: Time, now: Time) -> bool {
        let known = self.known.get(&queue.lane.plugin).and_then(|queues| queues.get(queue));
        known.is_some_and(|known| {
            let old = known.empty_since.is_none_or(|at| now.saturating_sub(at) >= empty_ms);
            known.asked == 0 && (old || known.again_at.is_some_and(|at| at <= now))
        })
    }

    /// Looks into a queue without a pull.
    pub(crate) fn peeks(&mut self, queue: &Queue, now: Time) {
        if let Some(known) = self.get(queue) {
            known.peeked = Some(now);
        }
    }

    /// A look found nothing. Where something was heard of the queue after the look began, it says nothing.
    pub(crate) fn found_empty(&mut self, queue: &Queue, now: Time) {
        let Some(known) = self.get(queue) else { return };
        let Some(began) = known.peeked.take() else { return };
        (known.empty_since, known.age, known.since) = (Some(now), None, None);
        known.again_at = known.again_at.filter(|at| *at > began);
    }

    /// A pull brought all that is there. One that nobody waits for any more says nothing.
    pub(crate) fn ended(&mut self, queue: &Queue, now: Time) {
        if let Some(known) = self.get(queue).filter(|known| known.asked > 0) {
            known.asked = 0;
            known.answered.clear();
            (known.standing, known.lively) = (false, false);
            (known.empty_since, known.age) = (Some(now), None);
            known.since = None;
        }
    }

    /// Every pull is gone and nothing is known any more.
    pub(crate) fn reconnected(&mut self) {
        self.known.values_mut().flat_map(BTreeMap::values_mut).for_each(Knowledge::forget);
    }

    /// Whether a pull of this queue is out.
    pub(crate) fn is_asked(&self, queue: &Queue) -> bool {
        let known = self.known.get(&queue.lane.plugin).and_then(|queues| queues.get(queue));
        known.is_some_and(|known| known.asked > 0)
    }

    /// Whether any pull is out.
    pub(crate) fn any_asked(&self) -> bool {
        self.known.values().flat_map(BTreeMap::values).any(|known| known.asked > 0)
    }

    /// Tickets asked for and not come, by shape.
    pub(crate) fn asked(&self, plugin: &PluginName) -> impl Iterator<Item = (usize, u32)> {
        let queues = self.known.get(plugin).into_iter().flat_map(BTreeMap::values);
        queues.filter(|known| known.asked > 0).map(|known| (known.shape, known.asked))
    }

    /// Tickets of an owner that were asked for and have not come.
    pub(crate) fn asked_of(&self, owner: &Owner) -> u32 {
        let all = self.known.values().flatten();
        all.filter(|(queue, _)| queue.owner == *owner).map(|(_, known)| known.asked).sum()
    }

    /// Whether a pull of this plugin is out, beside standing ones.
    pub(crate) fn is_busy(&self, plugin: &PluginName) -> bool {
        let mut all = self.known.get(plugin).into_iter().flat_map(BTreeMap::values);
        all.any(|known| known.asked > 0 && !known.standing)
    }

    /// Queues of a plugin that may hold something, and the next time that one may. Not in order.
    pub(crate) fn candidates(
        &self,
        plugin: &PluginName,
        patience: &Patience,
        out: &mut Vec<Candidate>,
    ) -> Option<Time> {
        let mut wake: Option<Time> = None;
        for (queue, known) in self.known.get(plugin).into_iter().flatten() {
            if known.asked > 0 || known.door != Door::Open {
                continue;
            }
            let rung = known.rung();
            let old = |since: Time| patience.now.saturating_sub(since) >= patience.empty_ms;
            let mut later = |at: Time| wake = Some(wake.map_or(at, |wake| wake.min(at)));
            let (ripe, again) = (rung > 0 && known.due <= patience.now, known.again_at);
            let sweep = known.empty_since.is_none_or(old);
            // What the overview names has waited for long: those who are warm do not take it.
            let from = if known.age.is_some() { 0 } else { patience.from.max(known.look_from) };
            let once_more = again.is_some_and(|at| at.max(from) <= patience.now);
            if rung > 0 && !ripe {
                later(known.due);
            } else if let Some(at) = again.filter(|_| !once_more && rung == 0) {
                later(at.max(from));
            }
            if sweep && !ripe && from > patience.now {
                later(from);
            }
            let hopeful = ripe || once_more || (sweep && rung == 0 && from <= patience.now);
            let standing = !hopeful && patience.short && known.lively;
            let soon = |at: Time| at > patience.now && at - patience.now <= HELD_MS;
            let held = !hopeful && !standing && if rung > 0 { soon(known.due) } else { sweep && soon(from) };
            if hopeful || standing || held {
                out.push(Candidate {
                    level: level(queue, known, patience),
                    standing,
                    owner_turn: self.owners.get(&queue.owner).copied().unwrap_or(0),
                    since: known.since.unwrap_or(i64::MAX),
                    turn: known.turn,
                    queue: queue.clone(),
                    shape: known.shape,
                    rung: if ripe { rung } else { 0 },
                    once_more: once_more && !ripe,
                    held,
                });
            }
        }
        wake
    }

    /// Writes a pull down.
    pub(crate) fn asks(&mut self, candidate: &Candidate, batch: u32, wait: bool) {
        let Some(known) = self.get(&candidate.queue) else { return };
        (known.asked, known.waiting, known.standing) = (batch, wait, candidate.standing);
        known.peeked = None;
        if candidate.once_more {
            known.again_at = None;
        }
        known.take_bells(if candidate.standing { 0 } else { batch.min(candidate.rung) });
    }
}

fn signed(ms: Time) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// The priority that counts: a queue whose oldest ticket waits for long rises, until it was served.
fn level(queue: &Queue, known: &Knowledge, patience: &Patience) -> u8 {
    let own = queue.lane.priority as u8;
    let Some((age, heard)) = known.age else { return own };
    let age = age + patience.now.saturating_sub(heard);
    let rises = age / patience.age_after_ms.max(1);
    own.saturating_sub(u8::try_from(rises).unwrap_or(u8::MAX))
}
