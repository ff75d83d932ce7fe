//! The pull discipline: which lane is asked next, for how many. Owns what is known of each lane's content; never more
//! than one pull per plugin at a time, so that a higher lane is always asked before a lower one.
//!
//! One exception, for plugins whose runs take a few milliseconds: where a bell was answered, one more ticket is asked
//! for without a bell (a standing pull, a slot kept for it), so that a client that sends one short job after the other
//! does not pay for bell and pull each time. It ends by itself within 100 ms, and other lanes are asked beside it.

use crate::vocabulary::Time;
use grange_protocol::name::{Class, PluginName};
use grange_protocol::subject::Lane;
use grange_protocol::ticket::Priority;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a lane.
#[derive(Clone, Copy, Debug, Default)]
struct Knowledge {
    /// Tickets that were asked for and have not come.
    asked: u32,
    /// Bells since the last pull.
    rung: u32,
    /// A pull found it empty at this time, and none since found as much as it looked for. A bell that was answered says
    /// nothing of it: the ticket that came may have been an older one.
    empty_since: Option<Time>,
    /// The last pull waited: it was made for bells, or stood.
    waiting: bool,
    /// The pull that is out waits without a bell, for one ticket that may follow.
    standing: bool,
    /// The last pull brought all it asked for: more may follow.
    lively: bool,
}

/// The lanes of the plugins that can run here, or could once: what they asked for may still come.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    open: BTreeSet<PluginName>,
    known: BTreeMap<PluginName, BTreeMap<Lane, Knowledge>>,
}

/// A pull to make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pull {
    pub(crate) lane: Lane,
    pub(crate) batch: u32,
    pub(crate) wait: bool,
}

impl Lanes {
    /// Takes a plugin's lanes in. False: they are there.
    pub(crate) fn open(&mut self, plugin: &PluginName) -> bool {
        if !self.open.insert(plugin.clone()) {
            return false;
        }
        let lanes = self.known.entry(plugin.clone()).or_default();
        for priority in Priority::ALL {
            for class in [Class::plugin_default(), Class::any()] {
                let known = lanes.entry(Lane { priority, plugin: plugin.clone(), class }).or_default();
                *known = Knowledge { asked: known.asked, ..Knowledge::default() };
            }
        }
        true
    }

    /// A plugin's lanes are asked no more. False: they were not.
    pub(crate) fn close(&mut self, plugin: &PluginName) -> bool {
        self.open.remove(plugin)
    }

    /// The (class, plugin) pairs whose bells are heard.
    pub(crate) fn bells(&self) -> Vec<(Class, PluginName)> {
        let pairs = |plugin: &PluginName| {
            [Class::plugin_default(), Class::any()].map(|class| (class, plugin.clone()))
        };
        self.open.iter().flat_map(pairs).collect()
    }

    /// A bell rang.
    pub(crate) fn ring(&mut self, lane: &Lane) {
        if let Some(known) = self.lane(lane) {
            known.rung = known.rung.saturating_add(1);
        }
    }

    /// A ticket came.
    pub(crate) fn delivered(&mut self, lane: &Lane) {
        let Some(known) = self.lane(lane).filter(|known| known.asked > 0) else { return };
        known.asked -= 1;
        if known.asked == 0 {
            if !known.waiting {
                known.empty_since = None;
            }
            (known.standing, known.lively) = (false, true);
        }
    }

    /// A pull brought all that is there. One that nobody waits for any more says nothing.
    pub(crate) fn ended(&mut self, lane: &Lane, now: Time) {
        if let Some(known) = self.lane(lane).filter(|known| known.asked > 0) {
            known.asked = 0;
            (known.standing, known.lively) = (false, false);
            known.empty_since = Some(now);
        }
    }

    /// Every pull is gone and nothing is known any more.
    pub(crate) fn reconnected(&mut self) {
        for known in self.known.values_mut().flat_map(BTreeMap::values_mut) {
            *known = Knowledge::default();
        }
    }

    /// Whether any pull is out.
    pub(crate) fn any_asked(&self) -> bool {
        self.known.values().flat_map(BTreeMap::values).any(|known| known.asked > 0)
    }

    /// The next pull of a plugin with `free` slots, from its highest lane that may hold something: not yet looked at,
    /// rung, or found empty `patience` ago. `short`: its runs take a few milliseconds.
    pub(crate) fn next(
        &mut self,
        plugin: &PluginName,
        free: u32,
        now: Time,
        patience: Time,
        short: bool,
    ) -> Option<Pull> {
        let lanes = self.known.get_mut(plugin)?;
        if lanes.values().any(|known| known.asked > 0 && !known.standing) {
            return None;
        }
        let kept: u32 = lanes.values().map(|known| known.asked).sum();
        let free = free.checked_sub(kept).filter(|free| *free > 0)?;
        let old = |since: Time| now.saturating_sub(since) >= patience;
        let hopeful =
            |known: &Knowledge| known.asked == 0 && (known.rung > 0 || known.empty_since.is_none_or(old));
        if let Some((lane, known)) = lanes.iter_mut().find(|(_, known)| hopeful(known)) {
            let wait = known.rung > 0;
            let batch = if wait { free.min(known.rung) } else { free };
            (known.asked, known.rung) = (batch, known.rung.saturating_sub(batch));
            known.waiting = wait;
            return Some(Pull { lane: lane.clone(), batch, wait });
        }
        let (lane, known) = lanes.iter_mut().find(|(_, known)| short && known.lively && known.asked == 0)?;
        (known.asked, known.waiting, known.standing) = (1, true, true);
        Some(Pull { lane: lane.clone(), batch: 1, wait: true })
    }

    fn lane(&mut self, lane: &Lane) -> Option<&mut Knowledge> {
        self.known.get_mut(&lane.plugin)?.get_mut(lane)
    }
}
