//! What can happen to a line, and what may never come of it: the model as the checker asks for it.

use stateright::{Model, Property};

use super::guards::Guard;
use super::promises;
use super::state::{LineModel, Phase, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A buyer joins under a key, and hears the answer.
    Join {
        buyer: usize,
        key: u8,
    },
    /// The same, and nobody hears it: the answer was lost, or the network repeats the request.
    JoinUnheard {
        buyer: usize,
        key: u8,
    },
    Change {
        buyer: usize,
        nth: u8,
    },
    ChangeUnheard {
        buyer: usize,
        nth: u8,
    },
    Leave {
        buyer: usize,
    },
    LeaveUnheard {
        buyer: usize,
    },
    /// A request reads what it should read under a lock: only without a guard.
    ReadEarly {
        buyer: usize,
    },
    /// Cards are merged behind the seal: only without a guard.
    MergeLate,
    Tick,
    /// A worker reads a line, and chooses what to do.
    Look {
        worker: usize,
    },
    /// It does it, in one transaction.
    Commit {
        worker: usize,
    },
    /// It forgets all that it has in memory. After a commit: the answer was lost.
    Die {
        worker: usize,
    },
    /// An order is not paid, or cancelled: its unit comes back.
    Release {
        unit: usize,
    },
    Restock,
    Pause,
    Resume,
    /// By the operator, before the drop's time is over.
    Close,
}

impl Model for LineModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for buyer in 0..state.buyers.len() {
            for key in 0..2 {
                actions.extend([Action::Join { buyer, key }, Action::JoinUnheard { buyer, key }]);
            }
            for nth in 0..self.scope.changes {
                actions.extend([Action::Change { buyer, nth }, Action::ChangeUnheard { buyer, nth }]);
            }
            actions.extend([Action::Leave { buyer }, Action::LeaveUnheard { buyer }, Action::ReadEarly { buyer }]);
        }
        for worker in 0..state.workers.len() {
            actions.extend([Action::Look { worker }, Action::Commit { worker }, Action::Die { worker }]);
        }
        actions.extend((0..state.units.len()).map(|unit| Action::Release { unit }));
        actions.extend([
            Action::MergeLate,
            Action::Tick,
            Action::Restock,
            Action::Pause,
            Action::Resume,
            Action::Close,
        ]);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        state.step(self, action)?;
        let (old, new) = (&before.line, &state.line);
        let was_final = old.root_seen.is_some();
        let is_other = new.rooted_at.is_none()
            || (old.root_seen, old.beacon) != (new.root_seen, new.beacon)
            || new.phase < old.phase;
        state.seen.root_replaced |= was_final && is_other;
        state.seen.behind_the_close |= old.phase == Phase::Closed && new.phase != Phase::Closed;
        state.seen.later_than_shown |= new.position.served < old.position.served;
        // The same workers in another order are the same state.
        state.workers.sort();
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::all()
    }
}

impl State {
    /// `None`: it cannot happen now, or nothing would come of it.
    fn step(&mut self, model: &LineModel, action: Action) -> Option<()> {
        match action {
            Action::Join { .. }
            | Action::JoinUnheard { .. }
            | Action::Change { .. }
            | Action::ChangeUnheard { .. }
            | Action::Leave { .. }
            | Action::LeaveUnheard { .. }
            | Action::ReadEarly { .. } => self.ask(model, action),
            Action::MergeLate => {
                let is_late = !model.has(Guard::MergeFirst) && self.line.phase > Phase::Open;
                is_late.then(|| self.merge(model))
            }
            Action::Tick => {
                self.now += 1;
                (self.now <= model.scope.until).then_some(())
            }
            Action::Look { worker } => self.look(model, worker),
            Action::Commit { worker } => self.commit(model, worker),
            Action::Die { worker } => {
                self.left.deaths = self.left.deaths.checked_sub(1)?;
                self.workers[worker] = Default::default();
                Some(())
            }
            Action::Release { unit } => {
                self.left.releases = self.left.releases.checked_sub(1)?;
                self.release(model, unit)
            }
            Action::Restock => {
                self.left.restocks = self.left.restocks.checked_sub(1)?;
                self.restock(model)
            }
            Action::Pause => {
                self.left.pauses = self.left.pauses.checked_sub(1)?;
                self.pause(model, true)
            }
            Action::Resume => self.pause(model, false),
            Action::Close => {
                if !model.scope.closes {
                    return None;
                }
                self.close(model)
            }
        }
    }
}
