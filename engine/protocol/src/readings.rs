//! The reading that refuses, and the lease that may come of it: flows/readings.rs.

use crate::actions::Action;
use crate::guards::Guard;
use crate::promises;
use crate::state::{Holder, LEASE, Proof, Protocol, REST, Record, Redis, State, WAREHOUSES, serials};

impl State {
    pub(crate) fn prove(&mut self, protocol: &Protocol, action: Action) -> Option<()> {
        if action == Action::BuyerArrives {
            if self.proof.is_some() {
                return None;
            }
            self.left.proofs = self.left.proofs.checked_sub(1)?;
            // Committed before the first look.
            self.postgres.is_marked |= protocol.has(Guard::ReadingMarks);
            self.proof = Some(self.begin_reading());
            return Some(());
        }
        // Where it cannot come to anything any more, it ends at once.
        let mut proof = self.proof.take()?;
        let is_good = match proof.step {
            2 => self.ask_postgres(protocol, &mut proof),
            step => self.look(protocol, &mut proof, usize::from(step % 3)),
        };
        proof.step += 1;
        if !is_good {
            return Some(());
        }
        if proof.step == 3 {
            self.seen.refused_while_free |= !proof.was_empty;
        }
        let last = if protocol.has(Guard::LeaseTwice) { 5 } else { 3 };
        if proof.step < last {
            self.proof = Some(proof);
        } else {
            // One that is alive is as true.
            self.lease = self.lease.max(proof.lease_left(protocol));
        }
        Some(())
    }

    fn begin_reading(&self) -> Proof {
        Proof {
            step: 0,
            epochs: self.postgres.epoch,
            granted: [0; WAREHOUSES],
            age: 0,
            lease: 0,
            was_empty: false,
            is_disturbed: false,
        }
    }

    /// One look at a warehouse; `false`: it does not answer, or shows units.
    fn look(&self, protocol: &Protocol, proof: &mut Proof, warehouse: usize) -> bool {
        let redis = &self.redis[warehouse];
        if proof.step < 3 {
            proof.granted[warehouse] = redis.granted;
        }
        let is_leaving = !redis.out.is_empty() && protocol.has(Guard::ReadingLeaving);
        self.issues(protocol, warehouse, proof.epochs[warehouse]) && redis.free == 0 && !is_leaving
    }

    /// The one query in Postgres; `false`: units move.
    fn ask_postgres(&self, protocol: &Protocol, proof: &mut Proof) -> bool {
        let counts_awards = !protocol.has(Guard::ReadingAwards);
        let at_rest = (0..WAREHOUSES).all(|warehouse| {
            let mut behind = self.postgres.grants[warehouse].iter().skip(usize::from(proof.granted[warehouse]));
            let epoch_holds = proof.epochs[warehouse] == self.postgres.epoch[warehouse];
            let is_applied = !behind.any(|grant| grant.has_units() || counts_awards && grant.award.is_some());
            (epoch_holds || !protocol.has(Guard::ReadingEpochs)) && (is_applied || !protocol.has(Guard::ReadingGranted))
        });
        let ages = self.postgres.tokens.iter().filter_map(|token| match token.holder {
            Holder::Resting(ticks) => Some(ticks),
            _ => None,
        });
        let age = if protocol.has(Guard::LeaseOldest) { ages.max() } else { ages.min() };
        let set_back = u8::from(!protocol.has(Guard::LeaseClock));
        let age = if protocol.has(Guard::LeaseAge) { age.unwrap_or(0).saturating_sub(set_back) } else { 0 };
        proof.lease = LEASE.min(REST - age);
        at_rest
    }

    /// Whether a reading that nothing disturbs would refuse a buyer.
    pub(crate) fn would_refuse(&self, protocol: &Protocol) -> bool {
        let mut proof = self.begin_reading();
        (0..WAREHOUSES).all(|warehouse| self.look(protocol, &mut proof, warehouse))
            && self.ask_postgres(protocol, &mut proof)
    }

    /// What a running reading would find changed at its second look, and whether there was an instant without any unit.
    pub(crate) fn watch_the_proof(&mut self, protocol: &Protocol, before: &Self) {
        let is_empty = !promises::is_anything_free(self);
        let Some(proof) = &mut self.proof else { return };
        proof.was_empty |= is_empty;
        let is_read = |warehouse: usize| usize::from(proof.step) > warehouse && proof.step < 4 + warehouse as u8;
        // `seq` grows with all of these but the epoch, which the look asks for. A claim that ends was known before.
        let seen = |redis: &Redis| {
            let is_known = |record: &Record| *record != Record::None;
            let known =
                serials(redis.records.iter().enumerate().filter(|(_, record)| is_known(record)).map(|(n, _)| n));
            (redis.epoch, redis.replid, redis.fence, redis.free, known)
        };
        let is_changed = |warehouse: usize| {
            let (now, then) = (&self.redis[warehouse], &before.redis[warehouse]);
            seen(now) != seen(then) || now.out != then.out
        };
        proof.is_disturbed |= (0..WAREHOUSES).any(|warehouse| is_read(warehouse) && is_changed(warehouse));
        if proof.step >= 3 && proof.lease_left(protocol) == 0 {
            self.proof = None;
        }
    }
}

impl Proof {
    /// Ticks that are left of the lease after a reading that has refused. None: there will be no lease.
    fn lease_left(&self, protocol: &Protocol) -> u8 {
        let is_lost = self.is_disturbed && protocol.has(Guard::LeaseSeq) && protocol.has(Guard::LeaseTwice);
        let spent = if protocol.has(Guard::LeaseStart) { self.age } else { 0 };
        if is_lost { 0 } else { self.lease.saturating_sub(spent) }
    }
}
