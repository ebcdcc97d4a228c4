//! What can happen in a state, and what may never come of it: the model as the checker asks for it. How each action changes the
//! state is steps.rs.

use stateright::{Model, Property};

use crate::promises;
use crate::state::{Protocol, State, WAREHOUSES};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Claim {
        claim: usize,
    },
    /// From here on the replica of this warehouse hears nothing: what follows will be lost.
    FallBehind {
        warehouse: usize,
    },
    Failover {
        warehouse: usize,
    },
    OldPrimaryReturns {
        warehouse: usize,
    },
    ReadLog {
        worker: usize,
        warehouse: usize,
    },
    Settle {
        worker: usize,
    },
    /// The commit happened and its answer was lost: the worker will settle the same again.
    SettleUnknown {
        worker: usize,
    },
    /// The lane of the newer entries commits before the one of the oldest.
    SettleAhead {
        worker: usize,
    },
    Mark {
        worker: usize,
    },
    MarkOverGap {
        worker: usize,
    },
    MarkEarly {
        worker: usize,
    },
    WorkerDies {
        worker: usize,
    },
    Release {
        claim: usize,
    },
    /// By a worker of the version before.
    ReleaseOld {
        claim: usize,
    },
    /// A worker of the version before reads a grant and then looks for the mark.
    HurryOld {
        warehouse: usize,
        number: u8,
    },
    Join,
    NoteAward,
    NoteRest {
        serial: usize,
    },
    EndRest {
        serial: usize,
    },
    Tick,
    ApplyGrant {
        warehouse: usize,
        number: u8,
    },
    Pull {
        source: usize,
    },
    FindTransfer {
        source: usize,
        at: usize,
    },
    CommitTransfer {
        transfer: usize,
    },
    Clear {
        transfer: usize,
    },
    ClearEarly {
        transfer: usize,
    },
    TransferDies {
        transfer: usize,
    },
    BeginRebuild {
        warehouse: usize,
    },
    Rebuild {
        rebuild: usize,
    },
    RebuildDies {
        rebuild: usize,
    },
    BuyerArrives,
    ProofReads,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for claim in 0..self.scope.claims.len() {
            actions.extend([Action::Claim { claim }, Action::Release { claim }, Action::ReleaseOld { claim }]);
        }
        for serial in 0..self.scope.tokens.len() {
            actions.extend([Action::NoteRest { serial }, Action::EndRest { serial }]);
        }
        actions.extend([Action::Join, Action::NoteAward, Action::Tick]);
        for warehouse in 0..WAREHOUSES {
            if warehouse < self.scope.forgetful {
                actions.extend([
                    Action::FallBehind { warehouse },
                    Action::Failover { warehouse },
                    Action::OldPrimaryReturns { warehouse },
                    Action::BeginRebuild { warehouse },
                ]);
            }
            actions.push(Action::Pull { source: warehouse });
            let numbers = 1..=state.last_grant(warehouse);
            actions.extend(numbers.clone().map(|number| Action::ApplyGrant { warehouse, number }));
            actions.extend(numbers.map(|number| Action::HurryOld { warehouse, number }));
            let found = 0..state.redis[warehouse].out.len();
            actions.extend(found.map(|at| Action::FindTransfer { source: warehouse, at }));
        }
        for worker in 0..state.workers.len() {
            actions.extend((0..WAREHOUSES).map(|warehouse| Action::ReadLog { worker, warehouse }));
            actions.extend([
                Action::Settle { worker },
                Action::SettleUnknown { worker },
                Action::SettleAhead { worker },
                Action::Mark { worker },
                Action::MarkOverGap { worker },
                Action::MarkEarly { worker },
                Action::WorkerDies { worker },
            ]);
        }
        for transfer in 0..state.transfers.len() {
            actions.extend([
                Action::CommitTransfer { transfer },
                Action::Clear { transfer },
                Action::ClearEarly { transfer },
                Action::TransferDies { transfer },
            ]);
        }
        for rebuild in 0..state.rebuilds.len() {
            actions.extend([Action::Rebuild { rebuild }, Action::RebuildDies { rebuild }]);
        }
        actions.extend([Action::BuyerArrives, Action::ProofReads]);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        state.step(self, action)?;
        state.watch_the_proof(self, before);
        state.forget_time();
        // The same processes in another order are the same state.
        state.workers.sort();
        state.rebuilds.sort();
        state.transfers.sort();
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::all()
    }
}
