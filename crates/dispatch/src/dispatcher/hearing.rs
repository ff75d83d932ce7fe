//! Hearing: in which group of agents this one hears a plugin's bells. Those with a free place in a loaded worker take
//! turns, those who could start one take turns after them, and those who can do neither hear everything, to know where
//! to look when they can.

use super::{Dispatcher, Mode};
use crate::vocabulary::{Action, Ear, Time};
use crate::workers::Stage;
use grange_protocol::name::PluginName;

impl Dispatcher {
    /// Whether a loaded worker of the plugin is here.
    pub(super) fn is_warm(&self, name: &PluginName) -> bool {
        self.workers
            .live(name)
            .any(|(_, worker)| worker.stage == Stage::Ready && worker.gives_way_to.is_none())
    }

    /// Whether a plugin's bells are heard, and should be.
    pub(super) fn hears(&self, name: &PluginName) -> bool {
        let wanted = self.mode == Mode::Working && self.plugins.get(name).is_some_and(|plugin| !plugin.gone);
        wanted && self.ears.contains_key(name)
    }

    /// Hears a plugin's bells as befits it from now on.
    pub(super) fn hear(&mut self, name: &PluginName, now: Time, out: &mut Vec<Action>) {
        let ear = self.ear(name, now);
        if self.ears.get(name).copied() == ear {
            return;
        }
        match ear {
            Some(ear) => self.ears.insert(name.clone(), ear),
            None => self.ears.remove(name),
        };
        out.push(Action::Hear { plugin: name.clone(), ear });
    }

    fn ear(&mut self, name: &PluginName, now: Time) -> Option<Ear> {
        let plugin = self.plugins.get(name).filter(|plugin| !plugin.gone)?;
        if self.mode != Mode::Working {
            return None;
        }
        let free = |w: &crate::workers::Worker| (w.given.len() as u64) < u64::from(w.concurrency);
        // Whether one that gives way to a plan leaves is open for a moment: to hear otherwise meanwhile takes longer.
        let ready = |w: &crate::workers::Worker| w.stage == Stage::Ready;
        let brief = plugin.is_brief();
        if self.workers.live(name).any(|(_, worker)| ready(worker) && (brief || free(worker))) {
            return Some(Ear::Warm);
        }
        if self.is_full(name, 0, u8::MAX) {
            return Some(Ear::All);
        }
        if self.roomy.contains(name) {
            return Some(Ear::Cold);
        }
        if self.free_seats(name, 0) > 0 {
            return Some(Ear::Cold);
        }
        // A plan shows whether there is room, and is not kept.
        if self.plan(name, 0, Some(u8::MAX), now) {
            self.trim_plans(std::slice::from_ref(name));
            self.roomy.push(name.clone());
            return Some(Ear::Cold);
        }
        self.found_full(name, 0, u8::MAX);
        Some(Ear::All)
    }
}
