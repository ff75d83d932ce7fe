//! What the broker does with a word, and with time.

use super::Farm;
use super::broker::Pulled;
use super::events::{Event, News, Word};
use crate::mix::Micros;
use grange_dispatch::Ear;

/// A pull after a bell waits so long.
const WAIT: Micros = 100_000;
/// A reservation stands so long.
const SAVING: Micros = 30_000_000;

impl Farm<'_> {
    /// A ticket is stored: its bell is sent, and its queue's consumer counts it a moment later.
    pub(super) fn publish(&mut self, job: usize) {
        self.ring(job);
        let at = self.now + self.among(self.set.count);
        self.events.add(at, Event::Count { job, again: false });
    }

    fn ring(&mut self, job: usize) {
        let plugin = self.mix.shape_of(job).plugin;
        for (agent, ear) in self.broker.ring(plugin, &mut self.chance) {
            self.send(agent, News::Bell { job, ear, hops: 0 });
        }
    }

    pub(super) fn count(&mut self, job: usize, again: bool) {
        let queue = self.mix.jobs[job].queue;
        if let Some(given) = self.broker.count(queue, job, again) {
            self.send(given.agent, News::Ticket { job: given.job });
        }
    }

    /// A ticket waits again, and its bell is rung.
    pub(super) fn due(&mut self, job: usize) {
        self.count(job, true);
        self.ring(job);
    }

    /// A word arrived.
    pub(super) fn serve(&mut self, agent: usize, word: Word) {
        match word {
            Word::Hear { plugin, ear } => self.broker.hear(agent, plugin, ear),
            Word::Open { queue } => {
                self.broker.open(queue);
                self.answer(agent, self.set.open, News::Opened { queue });
            }
            Word::Pull { queue, number, batch, wait } => {
                let (given, pulled) = self.broker.pull(queue, (agent, number), batch, wait);
                self.outcome.counts.empty_pulls += u64::from(given.is_empty() && pulled == Pulled::Short);
                for job in given {
                    self.send(agent, News::Ticket { job });
                }
                match pulled {
                    Pulled::Full => {}
                    Pulled::Short => self.send(agent, News::PullEnded { queue, number }),
                    Pulled::Waits => self.events.add(self.now + WAIT, Event::Expire { queue, agent, number }),
                }
            }
            Word::Call { job, hops } => {
                for agent in self.broker.call(self.mix.shape_of(job).plugin) {
                    self.send(agent, News::Bell { job, ear: Ear::All, hops });
                }
            }
            Word::HandBack { job, delay } => self.events.add(self.now + delay, Event::Due { job }),
            Word::Claim { job } => self.answer(agent, self.set.write, News::Claimed { job }),
            Word::Conclude { job, again } => {
                self.answer(agent, self.set.write, News::Settled { job });
                if again {
                    self.events.add(self.now + self.set.write.1, Event::Due { job });
                }
            }
            Word::Save { queue } => {
                let granted = self.broker.save(queue, agent, self.now, self.now + SAVING);
                self.outcome.counts.savings += u64::from(granted);
                let news = if granted { News::SaveGranted { queue } } else { News::SaveRefused { queue } };
                self.answer(agent, self.set.write, news);
            }
            Word::EndSave { queue } => self.broker.end_save(queue, agent),
        }
    }

    fn answer(&mut self, agent: usize, takes: (Micros, Micros), news: News) {
        let at = self.now + self.among(takes);
        self.events.add(at, Event::FromBroker(agent, news));
    }
}
