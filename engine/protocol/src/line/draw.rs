//! From the seal to the draw, and the close: each is one transaction under the line's row. ledger/line/draws.rs and
//! rows.rs.

use super::guards::Guard;
use super::state::{EntryState, LATER, LineModel, Phase, Plan, REVEAL_AFTER, ROOT_BEFORE, Sealed, State};

impl State {
    pub(crate) fn seal(&mut self, model: &LineModel) -> Option<()> {
        if self.line.phase != Phase::Open {
            return None;
        }
        if model.has(Guard::MergeFirst) {
            self.merge(model);
        }
        self.line.phase = Phase::Sealed;
        self.line.sealed = Some(Sealed { numbers: self.entries.len(), count: 0 });
        let list = self.sealed_list();
        self.line.sealed = Some(Sealed { numbers: self.entries.len(), count: list.len() });
        self.line.beacon = Some(REVEAL_AFTER);
        self.seen.list = Some(list);
        Some(())
    }

    /// Of each card the first entry stays.
    pub(crate) fn merge(&mut self, model: &LineModel) {
        for number in 0..self.entries.len() {
            let waits = |number: usize| self.entries[number].state == EntryState::Waiting;
            let card = |number: usize| model.scope.cards.get(self.entries[number].buyer);
            let is_of_card = |other: usize| card(other).is_some() && card(other) == card(number);
            if waits(number) && (0..number).any(|other| waits(other) && is_of_card(other)) {
                self.entries[number].state = EntryState::Merged;
            }
        }
    }

    /// The limit is of a planned round: behind a void one the root comes first, and its round is later than that.
    pub(crate) fn root(&mut self, model: &LineModel, plan: &Plan) -> Option<()> {
        let is_first = self.line.phase == Phase::Sealed && self.line.beacon == plan.beacon;
        let is_in_time = plan.beacon.is_none_or(|round| self.now + ROOT_BEFORE <= round);
        if !is_first && model.has(Guard::RootOnce) || !is_in_time && model.has(Guard::RootInTime) {
            return None;
        }
        self.line.phase = Phase::Rooted;
        (self.line.rooted_at, self.line.root_seen) = (Some(self.now), None);
        self.line.beacon = plan.beacon.or(Some(plan.at + LATER));
        Some(())
    }

    pub(crate) fn confirm(&mut self, model: &LineModel, plan: &Plan) -> Option<()> {
        let line = &mut self.line;
        let is_written = line.phase == Phase::Rooted && line.beacon == plan.beacon && line.root_seen.is_none();
        let is_in_time = plan.beacon.is_none_or(|round| self.now < round) || !model.has(Guard::SeenInTime);
        line.root_seen = Some(self.now);
        (is_written && is_in_time).then_some(())
    }

    pub(crate) fn postpone(&mut self, model: &LineModel, round: u8) -> Option<()> {
        let has_no_root = self.line.phase == Phase::Sealed || !model.has(Guard::PostponeSealed);
        let is_in_time = self.now < round || !model.has(Guard::PostponeInTime);
        if !has_no_root || !is_in_time || self.line.beacon != Some(round) {
            return None;
        }
        self.line.beacon = Some(round + LATER);
        self.seen.was_postponed = true;
        self.seen.postponed_late |= self.now >= round;
        Some(())
    }

    pub(crate) fn void(&mut self, model: &LineModel, round: u8) -> Option<()> {
        let line = &mut self.line;
        let is_of_round = line.beacon == Some(round) || !model.has(Guard::VoidRound);
        let is_unseen = line.phase == Phase::Sealed || line.phase == Phase::Rooted && line.root_seen.is_none();
        if !is_of_round || !is_unseen && model.has(Guard::VoidKeepsSeen) {
            return None;
        }
        self.seen.was_void = true;
        self.seen.void_early |= line.beacon.is_some_and(|round| self.now < round);
        line.phase = Phase::Sealed;
        (line.beacon, line.rooted_at, line.root_seen) = (None, None, None);
        Some(())
    }

    pub(crate) fn draw(&mut self, model: &LineModel, plan: &Plan) -> Option<()> {
        let line = &mut self.line;
        let is_rooted = line.phase == Phase::Rooted || !model.has(Guard::DrawOnce);
        let is_seen = line.root_seen.is_some() || !model.has(Guard::RootSeen);
        if !is_rooted || !is_seen || line.beacon != plan.beacon {
            return None;
        }
        let round = line.beacon?;
        let is_early = line.rooted_at.is_some_and(|at| at + ROOT_BEFORE <= round) || self.seen.was_void;
        self.seen.drawn_too_early |= !is_early || line.root_seen.is_none_or(|at| at >= round);
        line.phase = Phase::Drawn;
        line.paused += self.now.saturating_sub(model.scope.opens_at);
        line.paused_at = line.paused_at.and(Some(self.now));
        Some(())
    }

    pub(crate) fn pause(&mut self, model: &LineModel, pauses: bool) -> Option<()> {
        let line = &mut self.line;
        if line.phase == Phase::Closed || line.paused_at.is_some() == pauses {
            return None;
        }
        match line.paused_at.take() {
            Some(at) => line.paused += self.now.saturating_sub(at.max(model.scope.opens_at)),
            None => line.paused_at = Some(self.now),
        }
        Some(())
    }

    pub(crate) fn close(&mut self, model: &LineModel) -> Option<()> {
        let line = &mut self.line;
        let in_round = line.phase == Phase::Drawn && line.position.is_in_round();
        if line.phase == Phase::Closed || in_round && model.has(Guard::CloseBetween) {
            return None;
        }
        self.seen.cut |= in_round;
        line.phase = Phase::Closed;
        line.paused_at = None;
        Some(())
    }

    /// Nobody stands by who wants what came back in time. That is asked at the end of a line that had its draw.
    pub(crate) fn close_by_clock(&mut self, model: &LineModel) -> Option<()> {
        let is_drawn = self.line.phase == Phase::Drawn;
        self.close(model)?;
        let served = self.line.position.served;
        let in_time = |variant: &u8| {
            self.units.iter().any(|unit| unit.variant == *variant && unit.holder.is_none() && !unit.is_late)
        };
        let waits = |number: usize| {
            let is_waiting = self.entries[number].state == EntryState::Waiting;
            is_waiting && self.wishes_of(model, number).iter().any(in_time)
        };
        let is_in_vain = is_drawn && self.ranks().into_iter().take(served).any(waits);
        self.seen.in_vain |= is_in_vain;
        Some(())
    }
}
