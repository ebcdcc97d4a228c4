//! Two workers. Each reads a line and chooses a step by the clock, and takes it in one transaction, however much later:
//! its part of flows/line/steps.rs and domain/line/schedule.rs.

use super::guards::Guard;
use super::state::{Begin, EntryState, LineModel, POSTPONE_BEFORE, Phase, Plan, ROOT_BEFORE, State, Step};

impl State {
    pub(crate) fn look(&mut self, model: &LineModel, worker: usize) -> Option<()> {
        if self.workers[worker].plan.is_some() {
            return None;
        }
        let step = self.next_step(model)?;
        let order = matches!(step, Step::Give(_)).then(|| {
            let memory = self.workers[worker].memory.take();
            let is_ours = |order: &super::state::Order| {
                (order.chunk, order.round) == (self.line.chunk, self.line.round) || !model.has(Guard::MemoryCompared)
            };
            let mut order = memory.filter(is_ours).unwrap_or_else(|| self.read_order(model));
            if matches!(step, Step::Give(Some(_))) {
                // Who has joined since stands behind.
                order.count = self.ranks().len();
                order.stands.resize(order.count, false);
            }
            order
        });
        let waits = match step {
            Step::Give(_) if !model.has(Guard::FactsLocked) => {
                self.ranks().iter().map(|number| self.entries[*number].state == EntryState::Waiting).collect()
            }
            _ => Vec::new(),
        };
        let (beacon, round) = (self.line.beacon, self.line.round);
        self.workers[worker].plan = Some(Plan { step, at: self.now, beacon, round, order, waits });
        Some(())
    }

    /// What fails leaves nothing behind: the worker forgets the order of the line and looks again.
    pub(crate) fn commit(&mut self, model: &LineModel, worker: usize) -> Option<()> {
        let plan = self.workers[worker].plan.take()?;
        let mut after = self.clone();
        match after.take(model, worker, &plan) {
            Some(()) => *self = after,
            None => self.workers[worker].memory = None,
        }
        Some(())
    }

    fn take(&mut self, model: &LineModel, worker: usize, plan: &Plan) -> Option<()> {
        match plan.step {
            Step::Seal => self.seal(model),
            Step::Root => self.root(model, plan),
            Step::Confirm => self.confirm(model, plan),
            Step::Postpone { round } => self.postpone(model, round),
            Step::Void { round } => self.void(model, round),
            Step::Reveal => self.draw(model, plan),
            Step::Give(begin) => {
                let order = self.give(model, plan, begin)?;
                self.workers[worker].memory = Some(order);
                Some(())
            }
            Step::Skip { to } => {
                let is_same = self.line.phase == Phase::Drawn && self.line.round == plan.round;
                self.line.round = Some(to);
                is_same.then_some(())
            }
            Step::Close => self.close_by_clock(model),
        }
    }

    /// `next_step`. `None`: nothing is due.
    pub(crate) fn next_step(&self, model: &LineModel) -> Option<Step> {
        let (line, now) = (&self.line, self.now);
        let has_free = self.units.iter().any(|unit| unit.holder.is_none());
        if line.phase == Phase::Closed {
            return None;
        }
        if now >= model.scope.closes_at {
            let is_drawn = line.phase == Phase::Drawn;
            if is_drawn && line.position.is_in_round() {
                return Some(Step::Give(None));
            }
            if is_drawn && has_free && !line.last_round_begun && model.has(Guard::LastRound) {
                let round = line.round.map_or(0, |round| round + 1);
                return Some(Step::Give(Some(Begin { round, per_round: 0, is_last: true })));
            }
            return Some(Step::Close);
        }
        match (line.phase, line.beacon) {
            (Phase::Open, _) => Some(Step::Seal),
            (Phase::Sealed, None) => Some(Step::Root),
            (Phase::Sealed, Some(round)) if now + ROOT_BEFORE <= round => Some(Step::Root),
            (Phase::Sealed, Some(round)) if now + POSTPONE_BEFORE < round => Some(Step::Postpone { round }),
            (Phase::Sealed, Some(round)) => (now >= round).then_some(Step::Void { round }),
            (Phase::Rooted, Some(round)) => match line.root_seen {
                None if now >= round && model.has(Guard::VoidUnseen) => Some(Step::Void { round }),
                None if now < round => Some(Step::Confirm),
                _ => (now >= round).then_some(Step::Reveal),
            },
            (Phase::Rooted | Phase::Closed, _) => None,
            (Phase::Drawn, _) => self.round_step(model, has_free),
        }
    }

    fn round_step(&self, model: &LineModel, has_free: bool) -> Option<Step> {
        let line = &self.line;
        if line.position.is_in_round() {
            return Some(Step::Give(None));
        }
        let next = line.round.map_or(0, |round| round + 1);
        let due = model.scope.opens_at + next + line.paused;
        if line.paused_at.is_some() || self.now < due {
            return None;
        }
        let begin =
            |round: u8| Some(Step::Give(Some(Begin { round, per_round: model.scope.per_round, is_last: false })));
        let latest = next + (self.now - due);
        if self.ranks().len() > line.position.served {
            begin(next)
        } else if has_free {
            begin(latest)
        } else {
            Some(Step::Skip { to: latest })
        }
    }
}
