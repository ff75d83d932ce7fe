//! The pull discipline: which lane is asked next, for how many. Owns what is known of each lane's content; never more
//! than one pull per plugin at a time, so that a higher lane is always asked before a lower one.

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
    /// Found empty at this time, and no bell since.
    empty_since: Option<Time>,
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
            known.empty_since = None;
        }
    }

    /// A ticket came.
    pub(crate) fn delivered(&mut self, lane: &Lane) {
        if let Some(known) = self.lane(lane) {
            known.asked = known.asked.saturating_sub(1);
        }
    }

    /// A pull brought all that is there. One that nobody waits for any more says nothing.
    pub(crate) fn ended(&mut self, lane: &Lane, now: Time) {
        if let Some(known) = self.lane(lane).filter(|known| known.asked > 0) {
            known.asked = 0;
            if known.rung == 0 {
                known.empty_since = Some(now);
            }
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
    /// rung, or found empty `patience` ago.
    pub(crate) fn next(&mut self, plugin: &PluginName, free: u32, now: Time, patience: Time) -> Option<Pull> {
        let lanes = self.known.get_mut(plugin)?;
        if free == 0 || lanes.values().any(|known| known.asked > 0) {
            return None;
        }
        let hopeful = |known: &Knowledge| match known.empty_since {
            None => true,
            Some(_) if known.rung > 0 => true,
            Some(since) => now.saturating_sub(since) >= patience,
        };
        let (lane, known) = lanes.iter_mut().find(|(_, known)| hopeful(known))?;
        let wait = known.rung > 0;
        let batch = if wait { free.min(known.rung) } else { free };
        known.asked = batch;
        known.rung = known.rung.saturating_sub(batch);
        Some(Pull { lane: lane.clone(), batch, wait })
    }

    fn lane(&mut self, lane: &Lane) -> Option<&mut Knowledge> {
        self.known.get_mut(&lane.plugin)?.get_mut(lane)
    }
}
