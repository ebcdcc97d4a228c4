//! The search for tokens when a home has too few: a pull from other warehouses, or the proof that there are none.
//!
//! A pull, each step of which anyone may repeat or finish:
//!
//! 1. `pull.lua` sets tokens aside in the source's `out`;
//! 2. one Postgres transaction grants them to the destination (the transfer id is unique, the source's epoch must hold);
//! 3. the grant is applied to the destination;
//! 4. the source forgets what it had set aside.
//!
//! A crash after 1 leaves tokens in `out`: whoever looks next finishes at 2. After 2 the grant is pending: the worker or the
//! next search applies it. One search for each variant at a time in a process; several processes disturb but never hurt each
//! other.
//!
//! A search and a proof look at their own variant only. What is sold, moved or granted of another one does not stop them:
//! else nobody could be told that his size is gone while the others still sell.
//!
//! A claim waits for a search until its own deadline. The search is not cancelled with it: it is a task that keeps its turn
//! until it has come to its end, so that no transfer is left half-way only because its buyer could not wait, and no connection
//! goes back to the pool with an answer on it that nobody has read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use uuid::Uuid;

use crate::domain::claims::Quantity;
use crate::domain::drops::Warehouse;
use crate::domain::ids::{BuyerId, TransferId, VariantNumber, WarehouseId};
use crate::ledger::grants::TransferDecided;
use crate::steps;
use crate::tokens::contract::MAX_SERIALS;
use crate::tokens::store::{LeavingTokens, View};

use super::engine::{Engine, EngineError, Holders, LiveDrop, Proof};

/// A proof is good for this long, counted from before its first reading. [`super::grants::FREED_UNITS_WAIT`] is longer.
pub(super) const PROOF_LEASE: Duration = Duration::from_secs(1);

/// How long a claim waits for its turn to search.
const SEARCH_WAIT: Duration = Duration::from_secs(2);

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The home has, or had a moment ago, what was asked for.
    Fetched,
    /// At one instant after the search began no more than this could be had anywhere.
    NoMoreThan { available: u32 },
    /// Units are between places; neither can be said yet.
    Moving,
}

/// How the last search ended: those who waited behind it since before it began need not repeat it.
#[derive(Debug)]
pub(super) struct LastSearch {
    began: Instant,
    warehouses: Vec<Warehouse>,
    outcome: Result<Found, EngineError>,
}

impl LastSearch {
    /// What a search would come to that a claim has waited for since `arrived`, if this one has found it out already.
    fn shared_with(&self, live: &LiveDrop, arrived: Instant) -> Option<Result<Found, EngineError>> {
        let is_ours = self.began >= arrived && self.warehouses == live.drop.warehouses;
        match &self.outcome {
            Ok(Found::Moving) if is_ours => Some(Ok(Found::Moving)),
            // In turn, each of a crowd would wait for the same stall.
            Err(error) if is_ours => Some(Err(error.clone())),
            _ => None,
        }
    }
}

impl Engine {
    pub(super) async fn find_tokens(
        &self,
        live: &LiveDrop,
        home: &Warehouse,
        variant: VariantNumber,
        quantity: Quantity,
        deadline: Instant,
    ) -> Result<Found, EngineError> {
        let arrived = Instant::now();
        if let Some(available) = proved(live, variant, quantity) {
            return Ok(Found::NoMoreThan { available });
        }
        let search = &live.shared.searches[live.variant_position(variant)];
        // Behind a search that takes long, for Postgres does, a claim must not wait for ever.
        let turn = Arc::clone(search).lock_owned();
        let patience = deadline.min(arrived + SEARCH_WAIT);
        let Ok(mut last) = tokio::time::timeout_at(patience.into(), turn).await else {
            return Ok(Found::Moving);
        };
        if let Some(available) = proved(live, variant, quantity) {
            return Ok(Found::NoMoreThan { available });
        }
        if let Some(outcome) = last.as_ref().and_then(|last| last.shared_with(live, arrived)) {
            return outcome;
        }
        let search = tokio::spawn({
            let (engine, live, home) = (self.clone(), live.clone(), *home);
            async move {
                let began = Instant::now();
                let outcome = engine.search(&live, &home, variant, quantity, began).await;
                let warehouses = live.drop.warehouses.clone();
                *last = Some(LastSearch { began, warehouses, outcome: outcome.clone() });
                outcome
            }
        });
        match tokio::time::timeout_at(deadline.into(), search).await {
            Ok(Ok(outcome)) => outcome,
            // Nobody aborts it: it has panicked, or the process is stopping.
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Err(_)) => Ok(Found::Moving),
            Err(_) => {
                metrics::counter!("doorbuster_searches_outwaited_total").increment(1);
                Ok(Found::Moving)
            }
        }
    }

    async fn search(
        &self,
        live: &LiveDrop,
        home: &Warehouse,
        variant: VariantNumber,
        quantity: Quantity,
        began: Instant,
    ) -> Result<Found, EngineError> {
        let position = live.variant_position(variant);
        let views = self.look_everywhere(live).await?;
        // What somebody set aside and did not bring home: finish it first, it may be all that is left.
        if self.finish(live, &views, |leaving| leaving.variant == variant).await? > 0 {
            return Ok(Found::Fetched);
        }
        let at_home = views[usize::from(home.number.0)].free[position];
        let everywhere = views.iter().map(|view| view.free[position]).sum::<u32>();
        if at_home >= quantity.units() {
            return Ok(Found::Fetched);
        }
        if everywhere < quantity.units() {
            return self.prove(live, variant, quantity, began).await;
        }
        let mut donors =
            live.drop.warehouses.iter().zip(&views).filter(|(donor, _)| donor.id != home.id).collect::<Vec<_>>();
        donors.sort_by_key(|(_, view)| std::cmp::Reverse(view.free[position]));
        let mut missing = quantity.units() - at_home;
        for (donor, view) in donors {
            let rest = view.free[position];
            if missing == 0 || rest == 0 {
                break;
            }
            // What is asked for, plus an even share of the donor's rest, so that the next buyers of this home need no pull.
            // Near the end the share is nothing, and units go one by one to whoever asks.
            let share = rest.saturating_sub(missing) / live.drop.warehouses.len() as u32;
            let units = (missing + share).min(rest).min(MAX_SERIALS as u32);
            let transfer = TransferId(Uuid::now_v7());
            let serials = live.store(donor).pull(variant, transfer, home.number, units).await?;
            metrics::counter!("doorbuster_pulled_units_total").increment(serials.len() as u64);
            if serials.is_empty() {
                continue;
            }
            missing = missing.saturating_sub(serials.len() as u32);
            steps::passed("pull.set_aside");
            let leaving = LeavingTokens { transfer, variant, destination: home.number, serials };
            self.finish_transfer(live, donor, &leaving).await?;
        }
        Ok(Found::Fetched)
    }

    /// Finishes every transfer that somebody began and did not bring home.
    pub async fn finish_transfers(&self, live: &LiveDrop) -> Result<(), EngineError> {
        let views = self.look_everywhere(live).await?;
        self.finish(live, &views, |_| true).await.map(|_| ())
    }

    /// Finishes the transfers that are `wanted` of those in `views`. Answers how many they were.
    async fn finish(
        &self,
        live: &LiveDrop,
        views: &[View],
        wanted: impl Fn(&LeavingTokens) -> bool,
    ) -> Result<usize, EngineError> {
        let mut finished = 0;
        for (source, view) in live.drop.warehouses.iter().zip(views) {
            for leaving in view.leaving.iter().filter(|leaving| wanted(leaving)) {
                self.finish_transfer(live, source, leaving).await?;
                finished += 1;
            }
        }
        Ok(finished)
    }

    /// Steps 2 to 4 of a pull.
    async fn finish_transfer(
        &self,
        live: &LiveDrop,
        source: &Warehouse,
        leaving: &LeavingTokens,
    ) -> Result<(), EngineError> {
        let destination = live.drop.warehouses.get(usize::from(leaving.destination.0)).unwrap_or(source);
        let decided = self
            .ledger
            .grant_transfer(&live.drop, source, destination.id, leaving.variant, leaving.transfer, &leaving.serials)
            .await?;
        if decided == TransferDecided::Void {
            return Ok(());
        }
        let granted = if decided == TransferDecided::Returned { source } else { destination };
        self.apply_grants_of(live, granted).await?;
        steps::passed("pull.applied");
        live.store(source).clear(leaving.transfer).await?;
        steps::passed("pull.cleared");
        Ok(())
    }

    async fn look_everywhere(&self, live: &LiveDrop) -> Result<Vec<View>, EngineError> {
        Ok(try_join_all(live.stores.iter().map(|store| store.look())).await?)
    }

    /// Reads who holds something, in the warehouses where the variant has changed since the last time. Bounded by the stock:
    /// only who got something has a record.
    ///
    /// One reading serves every variant. Records never go while the epoch lasts, so it has everybody who had one at its
    /// `seq`; and while `seq` of a variant stays, no claim of that variant is added to anybody's record. It may miss somebody
    /// who got another variant since. He has no stored answer for this one; if he asks for it with a key that he has used,
    /// or beyond his limit, he may hear that it is sold out, which is as true.
    async fn read_holders(
        &self,
        live: &LiveDrop,
        position: usize,
        views: &[View],
    ) -> Result<Vec<(WarehouseId, Holders)>, EngineError> {
        let mut changed = Vec::new();
        for (warehouse, view) in live.drop.warehouses.iter().zip(views) {
            let is_known = {
                let holders = live.shared.holders.lock().expect("nobody panics holding this lock");
                holders
                    .get(&warehouse.id)
                    .is_some_and(|known| (known.epoch, known.seq[position]) == (warehouse.epoch, view.seq[position]))
            };
            if is_known {
                continue;
            }
            let buyers = live.store(warehouse).holders().await?;
            let buyers = Arc::new(buyers.iter().map(|buyer| live.drop.hash_of(buyer)).collect());
            changed.push((warehouse.id, Holders { epoch: warehouse.epoch, seq: view.seq.clone(), buyers }));
        }
        Ok(changed)
    }

    /// Proves that at one instant no more than `available` units of the variant were free anywhere and none was moving.
    ///
    /// Its `seq` in every warehouse is equal before and after the reading in Postgres, so in between nothing happened to it;
    /// and in that time every warehouse had applied every grant of such units that Postgres knew of. Grants of other variants
    /// may be pending and others' units be sold or leave: that makes none of this one free.
    async fn prove(
        &self,
        live: &LiveDrop,
        variant: VariantNumber,
        quantity: Quantity,
        began: Instant,
    ) -> Result<Found, EngineError> {
        let position = live.variant_position(variant);
        self.ledger.mark_proof(live.drop.id, self.clock.now()).await?;
        let first_reading = Instant::now();
        let before = self.look_everywhere(live).await?;
        let granted = before.iter().map(|view| view.granted).collect::<Vec<_>>();
        let marks = self.ledger.warehouse_marks(live.drop.id, variant, &granted).await?;
        let holders = self.read_holders(live, position, &before).await?;
        let after = self.look_everywhere(live).await?;

        let of_variant = |view: &View| (view.seq[position], view.free[position]);
        let stood_still = before.iter().map(of_variant).eq(after.iter().map(of_variant));
        let epochs_hold = live.stores.iter().zip(&marks).all(|(store, mark)| store.epoch() == mark.epoch);
        let grants_applied = marks.iter().all(|mark| !mark.is_pending);
        let at_rest = after.iter().all(|view| view.leaving_of(variant).next().is_none());
        if !stood_still || !epochs_hold || !grants_applied || !at_rest || marks.len() != after.len() {
            for warehouse in &live.drop.warehouses {
                self.apply_grants_of(live, warehouse).await?;
            }
            return Ok(Found::Moving);
        }
        let available = after.iter().map(|view| view.free[position]).sum::<u32>();
        if available >= quantity.units() {
            return Ok(Found::Fetched);
        }
        // Only now: what was read beside a change may miss somebody who holds something.
        live.shared.holders.lock().expect("nobody panics holding this lock").extend(holders);
        let proof = Proof { available, good_until: first_reading + PROOF_LEASE };
        live.shared.proofs.lock().expect("nobody panics holding this lock").insert(variant, proof);
        metrics::counter!("doorbuster_sold_out_proofs_total").increment(1);
        tracing::debug!(drop = %live.drop.name, available, took = ?began.elapsed(), "proved: {available} units left");
        Ok(Found::NoMoreThan { available })
    }
}

/// How many units a proof whose lease still holds says there are at most, if that is fewer than asked for.
pub(super) fn proved(live: &LiveDrop, variant: VariantNumber, quantity: Quantity) -> Option<u32> {
    let proofs = live.shared.proofs.lock().expect("nobody panics holding this lock");
    let proof = proofs.get(&variant)?;
    let holds = Instant::now() < proof.good_until && quantity.units() > proof.available;
    holds.then_some(proof.available)
}

impl LiveDrop {
    /// Whether a proof holds that no unit of the variant can be had.
    pub fn is_known_to_be_gone(&self, variant: VariantNumber) -> bool {
        let proofs = self.shared.proofs.lock().expect("nobody panics holding this lock");
        proofs.get(&variant).is_some_and(|proof| proof.available == 0 && Instant::now() < proof.good_until)
    }
}

/// Whether this buyer may have a record at his home with a claim of a variant whose proof's lease holds: nobody can have got
/// one since it was read, with that proof or later. Two buyers with one hash only mean a needless word with Redis.
pub(super) fn may_hold(live: &LiveDrop, buyer: &BuyerId) -> bool {
    let home = live.home_of(buyer);
    let holders = live.shared.holders.lock().expect("nobody panics holding this lock");
    let known = holders.get(&home.id).filter(|holders| holders.epoch == home.epoch);
    known.is_none_or(|holders| holders.buyers.contains(&live.drop.hash_of(buyer)))
}
