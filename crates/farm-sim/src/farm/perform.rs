//! What a dispatcher says is done.

use super::Farm;
use super::agent::Out;
use super::events::Word;
use grange_dispatch::{Action, Conclusion};
use grange_protocol::name::JobId;
use grange_protocol::subject::JobKey;

/// Jobs are named by their place.
fn place_of(job: &JobId) -> usize {
    job.as_str().parse().unwrap_or(usize::MAX)
}

impl Farm<'_> {
    pub(super) fn perform(&mut self, agent: usize, action: Action) {
        match action {
            Action::Hear { plugin, ear } => {
                let plugin = self.plugins[&plugin];
                self.say(agent, Word::Hear { plugin, ear });
            }
            Action::Open { queue } => {
                let queue = self.queues[&queue];
                self.say(agent, Word::Open { queue });
            }
            Action::Pull { queue, batch, wait } => {
                let queue = self.queues[&queue];
                self.pull(agent, queue, batch, wait);
            }
            // Nobody has to answer; the simulated farms are published without.
            Action::Peek { .. } => {}
            Action::PassOn { job, hops, .. } => self.say(agent, Word::Call { job: place_of(&job), hops }),
            Action::Return { job, delay_ms } => {
                let job = self.no_longer_here(agent, &job);
                self.outcome.counts.returned += 1;
                self.say(agent, Word::HandBack { job, delay: delay_ms * 1_000 });
            }
            Action::Claim { job, .. } => {
                let job = place_of(&job.job);
                self.outcome.counts.claims += 1;
                self.note_who_waits(job);
                self.say(agent, Word::Claim { job });
            }
            Action::Spawn { worker, plugin, grant } => {
                let plugin = self.plugins[&plugin];
                self.spawn(agent, worker, plugin, &grant);
            }
            Action::Run { worker, job } => self.give(agent, worker, place_of(&job.job)),
            Action::StopWorker { worker } => {
                self.outcome.counts.evicted += 1;
                self.end_worker(agent, worker);
            }
            Action::KillWorker { worker } => self.end_worker(agent, worker),
            Action::Look => self.want_look(agent),
            Action::Save { queue } => {
                let queue = self.queues[&queue];
                self.say(agent, Word::Save { queue });
            }
            Action::EndSave { queue } => {
                let queue = self.queues[&queue];
                self.say(agent, Word::EndSave { queue });
            }
            Action::Conclude { job, how } => self.conclude(agent, &job, &how),
            Action::Warn { .. } => {}
            Action::CancelRun { .. } | Action::Forget { .. } | Action::Exit => {
                self.broken(|| format!("agent {agent}: nobody asked for {action:?}"));
            }
        }
    }

    fn pull(&mut self, agent: usize, queue: usize, batch: u32, wait: bool) {
        self.outcome.counts.pulls += 1;
        let entry = &mut self.agents[agent];
        entry.pulls += 1;
        let number = entry.pulls;
        if entry.out.insert(queue, Out { number, left: batch }).is_some() {
            self.broken(|| format!("agent {agent}: a second pull of queue {queue}"));
        }
        self.say(agent, Word::Pull { queue, number, batch, wait });
    }

    fn no_longer_here(&mut self, agent: usize, key: &JobKey) -> usize {
        let job = place_of(&key.job);
        let plugin = self.mix.shape_of(job).plugin;
        self.agents[agent].unplaced[plugin] -= 1;
        job
    }

    fn conclude(&mut self, agent: usize, key: &JobKey, how: &Conclusion) {
        match how {
            Conclusion::Reported => self.say(agent, Word::Conclude { job: place_of(&key.job), again: false }),
            Conclusion::Retry(_) => {
                let job = self.no_longer_here(agent, key);
                self.outcome.counts.given_up += 1;
                self.say(agent, Word::Conclude { job, again: true });
            }
            Conclusion::Cancelled | Conclusion::Failed(_) => {
                self.broken(|| format!("agent {agent}: job {key} ends as {how:?}"));
            }
        }
    }
}
