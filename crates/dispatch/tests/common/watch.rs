//! A dispatcher under watch: every input is noted, handled, checked and remembered.

use super::checks::Step;
use super::ledger::Ledger;
use super::{Broken, Checked, Law, law};
use grange_dispatch::{Action, Config, Dispatcher, Input, Time, WorkerView};

/// How much of the conversation is told when a law is broken.
const TOLD: usize = 200;

pub(crate) struct Watch {
    config: Config,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) ledger: Ledger,
    pub(crate) log: Vec<(Time, Input, Vec<Action>)>,
    shown: Vec<WorkerView>,
}

/// What may be done whenever time has passed: an idle worker leaves, and its plugin is heard otherwise.
pub(crate) fn leaves(action: &Action) -> bool {
    matches!(action, Action::StopWorker { .. } | Action::Hear { .. })
}

impl Watch {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            dispatcher: Dispatcher::new(config),
            ledger: Ledger::new(config),
            log: Vec::new(),
            shown: Vec::new(),
        }
    }

    pub(crate) fn tell(&mut self, now: Time, input: Input) -> Result<Vec<Action>, Broken> {
        let stale = self.ledger.is_stale(&input);
        self.ledger.note(now, &input);
        let actions = self.dispatcher.handle(now, input.clone());
        self.log.push((now, input.clone(), actions.clone()));
        // The end of a pull always lets the dispatcher look at its queues. And time has passed: workers may leave.
        let silent = stale && !matches!(input, Input::PullEnded { .. });
        let nothing = actions.iter().all(leaves);
        law(Law::LateInputs, !silent || nothing, || format!("{input:?} led to {actions:?}"))?;
        let shown = self.dispatcher.workers();
        let before = std::mem::replace(&mut self.shown, shown.clone());
        let step = Step { now, input: &input, shown, before, dispatcher: &self.dispatcher };
        self.ledger.waited_for = step.waiting().cloned().collect();
        for action in &actions {
            self.ledger.act(&step, action)?;
        }
        self.ledger.settle(&step)?;
        Ok(actions)
    }

    /// The same inputs lead to the same actions.
    pub(crate) fn replay(&self) -> Checked {
        let mut again = Dispatcher::new(self.config);
        for (now, input, actions) in &self.log {
            let said = again.handle(*now, input.clone());
            law(Law::Equality, said == *actions, || format!("{input:?} led to {actions:?}, then {said:?}"))?;
        }
        Ok(())
    }

    /// Adds the last part of the conversation.
    pub(crate) fn told(&self, Broken { law, mut said }: Broken) -> Broken {
        for (now, input, actions) in self.log.iter().rev().take(TOLD).rev() {
            said.push_str(&format!("\n  {now:>6} {input:?}\n         -> {actions:?}"));
        }
        for (id, worker) in &self.ledger.workers {
            said.push_str(&format!("\n  {id:?}: {worker:?}"));
        }
        said.push_str(&format!("\n{:?}", self.dispatcher));
        Broken { law, said }
    }
}
