//! A chunk of a round: ledger/line/rounds.rs, with what domain/line/rounds.rs decides, for wishes of one unit. And what
//! gives units back.

use super::guards::Guard;
use super::state::{Begin, EntryState, LineModel, Order, Phase, Plan, Position, Serving, State, Unit};

impl State {
    /// What a worker reads that has no memory of the line: `read_order`.
    pub(crate) fn read_order(&self, model: &LineModel) -> Order {
        let ranks = self.ranks();
        let stands = |rank: usize| {
            let waits = self.entries[ranks[rank]].state == EntryState::Waiting;
            rank < self.line.position.served && waits && model.has(Guard::StandsBy)
        };
        Order {
            count: ranks.len(),
            stands: (0..ranks.len()).map(stands).collect(),
            position: self.line.position,
            chunk: self.line.chunk,
            round: self.line.round,
        }
    }

    /// `give_chunk`. `None`: another worker was faster, or the transaction fails; the order is thrown away.
    pub(crate) fn give(&mut self, model: &LineModel, plan: &Plan, begin: Option<Begin>) -> Option<Order> {
        let mut order = plan.order.clone()?;
        let line = &self.line;
        let is_same = (line.chunk, line.round, line.position) == (order.chunk, order.round, order.position);
        let is_paused = line.paused_at.is_some() && begin.is_some_and(|begin| !begin.is_last);
        if !is_same && model.has(Guard::ChunkCompared)
            || line.phase != Phase::Drawn && model.has(Guard::RoundDrawn)
            || is_paused && model.has(Guard::RoundNotPaused)
        {
            return None;
        }
        self.seen.begun_in_pause |= is_paused;
        let ranks = self.ranks();
        if let Some(begin) = begin {
            order.begin(self.free(), begin.per_round);
            order.round = Some(begin.round);
        }
        if !model.has(Guard::Snapshot) {
            order.position.free = self.free();
        }
        let wishes = |rank: usize| self.wishes_of(model, ranks[rank]);
        let candidates = order.candidates(model, &wishes);
        let mut awards = Vec::new();
        for rank in candidates {
            let waits = match plan.waits.get(rank) {
                Some(waits) => *waits,
                None => self.entries[ranks[rank]].state == EntryState::Waiting || !model.has(Guard::GoneIsBarred),
            };
            let stood_by = rank < order.position.served;
            if let Some(variant) = order.decide(model, rank, waits, wishes(rank)) {
                awards.push((ranks[rank], variant, stood_by));
            }
        }
        order.end_if_nothing_is_free(model);
        order.end_if_over(model, &wishes);
        for (number, variant, stood_by) in awards {
            if self.entries[number].state != EntryState::Waiting && model.has(Guard::AwardWaiting) {
                return None;
            }
            let may = |unit: &Unit| unit.holder.is_none() || !model.has(Guard::UnitFree);
            let unit = self.units.iter().position(|unit| unit.variant == variant && may(unit))?;
            self.seen.served_standing_by |= stood_by;
            self.seen.given_at_last |= self.line.last_round_begun || begin.is_some_and(|begin| begin.is_last);
            self.award(model, number, unit);
        }
        if self.line.chunk != order.chunk && model.has(Guard::PositionFollows) {
            return None;
        }
        order.chunk += 1;
        self.line.chunk = order.chunk;
        self.line.round = order.round;
        self.line.position = order.position;
        self.line.last_round_begun |= begin.is_some_and(|begin| begin.is_last) && model.has(Guard::LastRoundOnce);
        Some(order)
    }

    fn award(&mut self, model: &LineModel, number: usize, unit: usize) {
        let variant = self.units[unit].variant;
        let waits_for_it = |number: &usize| {
            self.entries[*number].state == EntryState::Waiting && self.wishes_of(model, *number).contains(&variant)
        };
        let is_inverted = self.ranks().iter().take_while(|earlier| **earlier != number).any(waits_for_it);
        self.seen.inverted |= is_inverted;
        self.seen.awarded_twice |= matches!(self.entries[number].state, EntryState::Awarded { .. });
        self.seen.behind_the_close |= self.line.phase == Phase::Closed;
        self.entries[number].state = EntryState::Awarded { unit, is_live: true };
        self.units[unit].holder = Some(number);
    }

    /// An order gives its unit back. It is free in Postgres at once, and waits for the next round.
    pub(crate) fn release(&mut self, model: &LineModel, unit: usize) -> Option<()> {
        let number = self.units[unit].holder.take()?;
        if let EntryState::Awarded { is_live, .. } = &mut self.entries[number].state {
            *is_live = false;
        }
        self.units[unit].is_late = self.now >= model.scope.closes_at;
        if !model.has(Guard::FreedRests) && self.line.phase == Phase::Drawn {
            let variant = self.units[unit].variant;
            let next = (0..self.entries.len()).find(|number| {
                self.entries[*number].state == EntryState::Waiting && self.wishes_of(model, *number).contains(&variant)
            });
            if let Some(number) = next {
                self.award(model, number, unit);
            }
        }
        Some(())
    }

    pub(crate) fn restock(&mut self, model: &LineModel) -> Option<()> {
        if self.line.phase == Phase::Closed {
            return None;
        }
        self.units.push(Unit { variant: 0, holder: None, is_late: self.now >= model.scope.closes_at });
        Some(())
    }
}

impl Order {
    /// `begin_round`.
    fn begin(&mut self, free: [u8; 2], per_round: u8) {
        let served = self.position.served;
        let end_of_round = (served + usize::from(per_round)).min(self.count);
        self.position = Position { serving: Serving::StandingBy(0), served, end_of_round, free };
    }

    fn candidates<'a>(&self, model: &LineModel, wishes: &impl Fn(usize) -> &'a [u8]) -> Vec<usize> {
        let Position { serving, served, end_of_round, free } = self.position;
        let next = served..end_of_round;
        if let Serving::StandingBy(from) = serving
            && (model.has(Guard::StandersFirst) || next.is_empty())
        {
            let could = |rank: &usize| wishes(*rank).iter().any(|variant| free[usize::from(*variant)] > 0);
            let standing = (from..served.min(self.count)).filter(|rank| self.stands[*rank]).filter(could);
            let standing = standing.take(model.scope.chunk).collect::<Vec<_>>();
            if !standing.is_empty() {
                return standing;
            }
        }
        if self.position.free == [0; 2] { Vec::new() } else { next.take(model.scope.chunk).collect() }
    }

    /// The variant that this rank is given.
    fn decide(&mut self, model: &LineModel, rank: usize, waits: bool, wishes: &[u8]) -> Option<u8> {
        let Position { serving, served, end_of_round, free } = &mut self.position;
        let given = wishes.iter().copied().find(|variant| waits && free[usize::from(*variant)] > 0);
        if let Some(variant) = given {
            free[usize::from(variant)] -= 1;
        }
        let stands = waits && given.is_none() && model.has(Guard::StandsBy);
        if rank < *served {
            *serving = Serving::StandingBy(rank + 1);
            if !model.has(Guard::PaceInRanks) {
                *end_of_round = (*end_of_round - 1).max(*served);
            }
        } else {
            (*serving, *served) = (Serving::Next, rank + 1);
        }
        self.stands[rank] = stands;
        given
    }

    fn end_if_nothing_is_free(&mut self, model: &LineModel) {
        if self.position.free == [0; 2] {
            let all = self.count;
            self.stands[self.position.served..].fill(model.has(Guard::StandsBy));
            self.position = Position { serving: Serving::Next, served: all, end_of_round: all, ..self.position };
        }
    }

    fn end_if_over<'a>(&mut self, model: &LineModel, wishes: &impl Fn(usize) -> &'a [u8]) {
        if self.candidates(model, wishes).is_empty() {
            self.position.serving = Serving::Next;
        }
    }
}
