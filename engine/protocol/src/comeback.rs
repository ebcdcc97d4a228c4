//! Units that come back: they rest, or standby's buyer is awarded them. And time, which they rest for.

use crate::actions::Action;
use crate::guards::Guard;
use crate::state::{
    AwardTold, Entry, Fate, Grant, Holder, LEASE, Line, Protocol, REST, Record, Stage, State, has, serials,
};

impl State {
    pub(crate) fn come_back(&mut self, protocol: &Protocol, action: Action) -> Option<()> {
        match action {
            Action::Release { claim } => {
                self.left.releases = self.left.releases.checked_sub(1)?;
                let serial = self.end_order(claim)?;
                self.give_back(protocol, self.postgres.tokens[serial].at, claim, Some(serial));
            }
            Action::ReleaseOld { claim } => {
                self.left.old_releases = self.left.old_releases.checked_sub(1)?;
                let serial = self.end_order(claim)?;
                let waits = if protocol.has(Guard::OldWait) { REST } else { 0 };
                let grant = Grant { serials: serials([serial]), ends: Some(claim), waits, ..Grant::default() };
                self.grant(self.postgres.tokens[serial].at, grant);
            }
            Action::HurryOld { warehouse, number } => {
                let is_pending = number > self.redis[warehouse].granted;
                let grant = self.postgres.grants[warehouse].get_mut(usize::from(number).checked_sub(1)?)?;
                if grant.waits == 0 || !is_pending || self.postgres.is_marked {
                    return None;
                }
                grant.is_hurried = true;
            }
            Action::Join => {
                if self.postgres.line != Line::Empty || protocol.scope.award.is_none() {
                    return None;
                }
                self.postgres.line = Line::Waiting;
            }
            Action::NoteAward => self.note_award(protocol),
            Action::NoteRest { serial } => {
                let Holder::Resting(ticks) = self.postgres.tokens[serial].holder else { return None };
                let in_time = !protocol.has(Guard::RestAgain) || !protocol.has(Guard::RestSince);
                let unmarked = !protocol.has(Guard::RestAlways) && !self.postgres.is_marked;
                if !(unmarked || in_time && ticks >= REST) {
                    return None;
                }
                self.noted |= serials([serial]);
            }
            Action::EndRest { serial } => self.end_rest(protocol, serial)?,
            _ => return None,
        }
        Some(())
    }

    /// An order ends; its unit has no holder from here on.
    fn end_order(&mut self, claim: usize) -> Option<usize> {
        let Fate::Live(serial) = self.postgres.claims[claim] else { return None };
        self.postgres.claims[claim] = Fate::Released;
        self.postgres.tokens[serial].holder = Holder::Nobody;
        Some(serial)
    }

    /// ledger/rest.rs, `come_back`, behind the grant that ends the claim, which has no units.
    pub(crate) fn give_back(&mut self, protocol: &Protocol, warehouse: usize, claim: usize, serial: Option<usize>) {
        let ends = Grant { ends: Some(claim), ..Grant::default() };
        let Some(serial) = serial else { return self.grant(warehouse, ends) };
        if !protocol.has(Guard::ReleaseRests) {
            self.postgres.tokens[serial].holder = Holder::Nobody;
            return self.grant(warehouse, Grant { serials: serials([serial]), ..ends });
        }
        self.grant(warehouse, ends);
        if !self.award(protocol, serial) {
            self.postgres.tokens[serial].holder = Holder::Resting(0);
        }
    }

    /// ledger/awards.rs, `hand_out` and `write`. `false`: nobody waits.
    fn award(&mut self, protocol: &Protocol, serial: usize) -> bool {
        let Some(claim) = protocol.scope.award.filter(|_| self.postgres.line == Line::Waiting) else { return false };
        self.postgres.line = Line::Over;
        let home = protocol.home(claim);
        let token = &mut self.postgres.tokens[serial];
        token.at = home;
        token.holder = if protocol.has(Guard::AwardHolder) { Holder::Awarded(claim) } else { Holder::Nobody };
        self.grant(home, Grant { serials: serials([serial]), award: Some(claim), ..Grant::default() });
        true
    }

    /// lua/award.lua. A repeat is answered as the first call was.
    pub(crate) fn apply_award(
        &mut self,
        protocol: &Protocol,
        warehouse: usize,
        number: u8,
        claim: usize,
    ) -> Option<()> {
        let at_limit = self.is_at_limit(protocol, claim) && protocol.has(Guard::AwardLimit);
        let serial = self.postgres.grants[warehouse][usize::from(number) - 1].serials.trailing_zeros() as usize;
        let redis = &mut self.redis[warehouse];
        let is_known = redis.records[claim] != Record::None;
        if number > redis.granted + 1 || number <= redis.granted && (is_known || self.postgres.is_award_noted) {
            return None;
        }
        let is_taken = number > redis.granted && !is_known && !at_limit;
        redis.granted = redis.granted.max(number);
        if is_taken {
            redis.records[claim] = Record::Live(serial);
            redis.log.push(Entry { claim, serial, epoch: redis.epoch });
            self.award = AwardTold::Taken;
        } else {
            self.award = AwardTold::Refused;
        }
        Some(())
    }

    /// flows/grants.rs and ledger/awards.rs, `refuse_award`: what the home has answered is written down. A rebuild
    /// may have decided the award since.
    pub(crate) fn note_award(&mut self, protocol: &Protocol) {
        let told = std::mem::replace(&mut self.award, AwardTold::Nothing);
        self.postgres.is_award_noted |= told != AwardTold::Nothing;
        let Some(claim) = protocol.scope.award.filter(|_| told == AwardTold::Refused) else { return };
        let holder = Holder::Awarded(claim);
        let serial = self.postgres.tokens.iter().position(|token| token.holder == holder);
        let is_open = self.postgres.claims[claim] == Fate::Unseen && protocol.has(Guard::RefusalKept);
        if let Some(serial) = serial.filter(|_| is_open) {
            self.postgres.claims[claim] = Fate::Rejected;
            self.give_back(protocol, self.postgres.tokens[serial].at, claim, Some(serial));
        }
    }

    /// ledger/rest.rs, `end_rest`: the transaction that grants a unit whose rest is over, or awards it to who has
    /// joined the line since. Its worker may have waited for any time; what counts is what it reads under the lock.
    pub(crate) fn end_rest(&mut self, protocol: &Protocol, serial: usize) -> Option<()> {
        let holder = self.postgres.tokens[serial].holder;
        let is_resting = matches!(holder, Holder::Resting(_));
        let is_due = holder == Holder::Resting(REST) || is_resting && !protocol.has(Guard::RestWait);
        if !is_due {
            // Only without a guard: it goes by what it saw some time ago.
            if !has(self.noted, serial) || is_resting != protocol.has(Guard::RestAgain) {
                return None;
            }
            self.noted &= !serials([serial]);
        }
        if !self.award(protocol, serial) {
            if is_resting {
                self.postgres.tokens[serial].holder = Holder::Nobody;
            }
            self.grant(self.postgres.tokens[serial].at, Grant { serials: serials([serial]), ..Grant::default() });
        }
        Some(())
    }

    /// Time goes on.
    pub(crate) fn tick(&mut self) -> Option<()> {
        for token in &mut self.postgres.tokens {
            if let Holder::Resting(ticks) = &mut token.holder {
                *ticks = REST.min(*ticks + 1);
            }
        }
        for grant in self.postgres.grants.iter_mut().flatten() {
            grant.waits = grant.waits.saturating_sub(1);
        }
        for rebuild in &mut self.rebuilds {
            rebuild.waits = rebuild.waits.saturating_sub(1);
        }
        if let Some(proof) = &mut self.proof {
            proof.age = LEASE.min(proof.age + 1);
        }
        self.lease = self.lease.saturating_sub(1);
        Some(())
    }

    /// Where no reading is to come, under way or still good, nobody is refused: all waits are over then, since nothing
    /// is left that they are for.
    pub(crate) fn forget_time(&mut self) {
        if self.left.proofs > 0 || self.proof.is_some() || self.lease > 0 {
            return;
        }
        for token in &mut self.postgres.tokens {
            if let Holder::Resting(ticks) = &mut token.holder {
                *ticks = REST;
            }
        }
        for grant in self.postgres.grants.iter_mut().flatten() {
            (grant.waits, grant.is_hurried) = (0, false);
        }
        for rebuild in &mut self.rebuilds {
            rebuild.waits = 0;
            if let Stage::Loaded { is_marked, .. } = &mut rebuild.stage {
                *is_marked = false;
            }
        }
    }
}
