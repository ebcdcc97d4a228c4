//! Buyers join, change their wish and leave. Each request is one transaction: ledger/line/joins.rs.
//!
//! What a buyer sends for the first time and does not hear of is on its way: it may arrive at any time, twice or not.

use super::actions::Action;
use super::guards::Guard;
use super::state::{Buyer, Entry, EntryState, LineModel, Phase, State, Told};

/// The key of a buyer's first place.
const FIRST: u8 = 0;

impl State {
    pub(crate) fn ask(&mut self, model: &LineModel, action: Action) -> Option<()> {
        match action {
            Action::Join { buyer, key } => {
                let Buyer { told, keys, has_asked_to_leave, .. } = self.buyers[buyer];
                let is_sent = keys & 1 << key != 0;
                let may = match told {
                    Told::Nothing if key == FIRST => !has_asked_to_leave,
                    Told::Nothing => is_sent,
                    Told::InLine { .. } | Told::Left => key != FIRST,
                };
                if !may {
                    return None;
                }
                let number = self.join(model, buyer, key)?;
                // What they ask for next has read nothing yet.
                self.buyers[buyer].read = None;
                // A second click tells them nothing new.
                if !matches!(told, Told::InLine { .. }) {
                    self.buyers[buyer].keys |= 1 << key;
                    self.buyers[buyer].told = Told::InLine { number, wish: Some(self.entries[number].wish) };
                }
                Some(())
            }
            Action::JoinUnheard { buyer, key } => {
                let Buyer { told, keys, has_asked_to_leave, .. } = self.buyers[buyer];
                if !model.scope.repeats {
                    return None;
                }
                if keys & 1 << key != 0 {
                    return self.join(model, buyer, key).map(|_| ());
                }
                let may = match told {
                    Told::Nothing => key == FIRST && !has_asked_to_leave,
                    Told::Left => key != FIRST,
                    Told::InLine { .. } => false,
                };
                self.buyers[buyer].keys |= 1 << key;
                self.buyers[buyer].told = Told::Nothing;
                may.then_some(())
            }
            Action::Change { buyer, nth } => {
                let Told::InLine { number, .. } = self.buyers[buyer].told else { return None };
                if nth != self.buyers[buyer].changes || self.entries[number].key != FIRST {
                    return None;
                }
                self.buyers[buyer].changes += 1;
                if self.change(model, buyer, nth) {
                    self.buyers[buyer].told = Told::InLine { number, wish: Some(nth + 1) };
                }
                Some(())
            }
            Action::ChangeUnheard { buyer, nth } => {
                if !model.scope.repeats {
                    return None;
                }
                if nth < self.buyers[buyer].changes {
                    let is_meant = self.place_of(buyer).is_some_and(|number| self.entries[number].key == FIRST);
                    return (is_meant || model.scope.late_changes).then(|| self.change(model, buyer, nth)).map(|_| ());
                }
                let Told::InLine { number, .. } = self.buyers[buyer].told else { return None };
                if nth != self.buyers[buyer].changes || self.entries[number].key != FIRST {
                    return None;
                }
                self.buyers[buyer].changes += 1;
                self.buyers[buyer].told = Told::InLine { number, wish: None };
                Some(())
            }
            Action::Leave { buyer } => {
                self.left.leaves = self.left.leaves.checked_sub(1)?;
                let Buyer { told, keys, has_asked_to_leave, .. } = self.buyers[buyer];
                // A join on its way would come behind it: they ask what became of that first.
                let is_asked_again = has_asked_to_leave && keys == 1 << FIRST;
                if told == Told::Left || told == Told::Nothing && !is_asked_again {
                    return None;
                }
                self.buyers[buyer].has_asked_to_leave = true;
                if self.leave(model, buyer)? {
                    self.buyers[buyer].told = Told::Left;
                }
                Some(())
            }
            Action::LeaveUnheard { buyer } => {
                if !model.scope.repeats {
                    return None;
                }
                if self.buyers[buyer].has_asked_to_leave {
                    let is_meant = self.place_of(buyer).is_some_and(|number| self.entries[number].key == FIRST);
                    return (is_meant || model.scope.late_leaves).then(|| self.leave(model, buyer))?.map(|_| ());
                }
                self.left.leaves = self.left.leaves.checked_sub(1)?;
                self.buyers[buyer].has_asked_to_leave = true;
                let is_told = matches!(self.buyers[buyer].told, Told::InLine { .. });
                self.buyers[buyer].told = Told::Nothing;
                is_told.then_some(())
            }
            Action::ReadEarly { buyer } => {
                let guards = [
                    Guard::JoinBehindCounter,
                    Guard::ChangeBehindCounter,
                    Guard::LeaveBehindCounter,
                    Guard::LeaveLocks,
                ];
                if guards.into_iter().all(|guard| model.has(guard)) || self.buyers[buyer].read.is_some() {
                    return None;
                }
                let waits =
                    self.place_of(buyer).is_some_and(|number| self.entries[number].state == EntryState::Waiting);
                self.buyers[buyer].read = Some((self.line.phase, waits));
                Some(())
            }
            _ => None,
        }
    }

    /// The line's state as a request knows it: behind the counter's lock, or without that guard as it was read before.
    fn known_phase(&mut self, model: &LineModel, buyer: usize, guard: Guard) -> Phase {
        let early = if model.has(guard) { None } else { self.buyers[buyer].read.take() };
        early.map_or(self.line.phase, |(phase, _)| phase)
    }

    /// The one in line, or else the last: `joins.entry_of_buyer`.
    fn place_of(&self, buyer: usize) -> Option<usize> {
        let has_left = |number: usize| matches!(self.entries[number].state, EntryState::Left | EntryState::Withdrawn);
        let places = (0..self.entries.len()).filter(|number| self.entries[*number].buyer == buyer);
        places.max_by_key(|number| (!has_left(*number), *number))
    }

    /// domain/line/joining.rs `join`. `None`: refused; else the number of the place.
    fn join(&mut self, model: &LineModel, buyer: usize, key: u8) -> Option<usize> {
        let phase = self.known_phase(model, buyer, Guard::JoinBehindCounter);
        let places = (0..self.entries.len()).filter(|number| self.entries[*number].buyer == buyer).collect::<Vec<_>>();
        let has_left = |entry: &Entry| matches!(entry.state, EntryState::Left | EntryState::Withdrawn);
        let of_key = places.iter().find(|number| self.entries[**number].key == key);
        let known = match of_key {
            Some(number) if has_left(&self.entries[*number]) => {
                if model.has(Guard::Tombstone) {
                    return None;
                }
                None
            }
            known => known.copied(),
        };
        let is_in_line = |number: &&usize| match self.entries[**number].state {
            EntryState::Waiting | EntryState::Merged => true,
            EntryState::Awarded { is_live, .. } => is_live,
            EntryState::Left | EntryState::Withdrawn => false,
        };
        let in_line = places.iter().find(is_in_line).copied().filter(|_| model.has(Guard::OnePlace));
        if let Some(number) = known.or(in_line) {
            if !model.has(Guard::JoinKeepsPlace) {
                self.entries[number].wish = 0;
            }
            return Some(number);
        }
        let comes_back = phase != Phase::Open && model.scope.is_draw && !places.is_empty();
        if phase == Phase::Closed || comes_back && model.has(Guard::DrawIsSealed) {
            return None;
        }
        self.seen.behind_the_close |= self.line.phase == Phase::Closed;
        self.seen.came_back_to_a_draw |= comes_back;
        let places = self.entries.iter().filter(|entry| entry.buyer == buyer);
        let before = places.map(|entry| entry.revision).max().filter(|_| model.has(Guard::RevisionGoesOn));
        let revision = 1 + before.unwrap_or_default();
        self.entries.push(Entry { buyer, key, wish: 0, revision, state: EntryState::Waiting });
        Some(self.entries.len() - 1)
    }

    /// `may_change`. The nth change was made by somebody who saw the revision before it.
    fn change(&mut self, model: &LineModel, buyer: usize, nth: u8) -> bool {
        let phase = self.known_phase(model, buyer, Guard::ChangeBehindCounter);
        let Some(number) = self.place_of(buyer) else { return false };
        let entry = &mut self.entries[number];
        let is_in_time = phase == Phase::Open || !model.has(Guard::ChangeBeforeSeal);
        let is_seen = entry.revision == nth + 1 || !model.has(Guard::Revision);
        let may = entry.state == EntryState::Waiting && is_in_time && is_seen;
        if may {
            (entry.wish, entry.revision) = (nth + 1, entry.revision + 1);
        }
        may
    }

    /// `leave`. `None`: nothing is written, and it begins anew; `false`: the place is kept.
    fn leave(&mut self, model: &LineModel, buyer: usize) -> Option<bool> {
        let early = if model.has(Guard::LeaveLocks) { None } else { self.buyers[buyer].read.take() };
        let phase = self.known_phase(model, buyer, Guard::LeaveBehindCounter);
        let Some(number) = self.place_of(buyer) else { return Some(false) };
        let state = self.entries[number].state;
        let waits = early.map_or(state == EntryState::Waiting, |(_, waits)| waits);
        match state {
            EntryState::Left | EntryState::Withdrawn => return Some(true),
            _ if waits => {}
            EntryState::Waiting | EntryState::Merged | EntryState::Awarded { .. } => return Some(false),
        }
        if state != EntryState::Waiting && model.has(Guard::LeaveWaiting) {
            return None;
        }
        let is_sealed = phase > Phase::Open && model.has(Guard::LeftKeepsRank);
        self.entries[number].state = if is_sealed { EntryState::Withdrawn } else { EntryState::Left };
        Some(true)
    }
}
