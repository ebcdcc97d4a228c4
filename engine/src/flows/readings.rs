//! Readings and leases: who may be told that nothing is left.
//!
//! A reading is one look at every warehouse, then one statement in Postgres; what follows from it is a rule of
//! [`crate::domain::rest`], and answers everybody who had arrived when it began. A lease is a reading that this process keeps for
//! those who come later, so that a crowd before a drop that is gone costs the stores one reading a second. A lease saves
//! readings and is needed for nothing else.
//!
//! Whoever holds something of the drop is never refused from memory: their claim may have been taken under the same key, and
//! the same click gets the same answer. So a lease needs the list of those who hold something, of the same instant: the
//! variant's `seq` is equal before and after it was read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use jiff::Timestamp;

use crate::domain::claims::{ClaimOutcome, Quantity};
use crate::domain::drops::DropState;
use crate::domain::ids::{BuyerId, VariantNumber, WarehouseId};
use crate::domain::rest::{Evidence, OldestRest, lease};
use crate::ledger::readings::{Rests, Standing};
use crate::tokens::TokenError;
use crate::tokens::store::View;

use super::engine::{Engine, EngineError, Holders, LiveDrop};
use super::pull::Asked;

/// What a reading came to that may be relied on until it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    available: u32,
    until: Instant,
    /// From then on whoever is refused has it renewed.
    renew_at: Instant,
    is_renewing: bool,
}

impl Lease {
    fn new(available: u32, began: Instant, lasts: Duration) -> Self {
        Self { available, until: began + lasts, renew_at: began + lasts.mul_f32(0.7), is_renewing: false }
    }
}

/// One look at every warehouse, each at an instant of its own.
pub(super) struct Look {
    /// Before the first of them.
    pub(super) began: Instant,
    /// In the order of the warehouses' numbers.
    pub(super) views: Vec<Result<View, Arc<TokenError>>>,
}

impl Look {
    /// Why not all of them answered.
    pub(super) fn error(&self) -> Option<EngineError> {
        self.views.iter().find_map(|view| view.as_ref().err()).map(|error| EngineError::Tokens(Arc::clone(error)))
    }

    pub(super) fn free(&self, position: usize) -> u32 {
        self.views.iter().flatten().map(|view| view.free[position]).sum()
    }
}

/// What Postgres said behind a look.
pub(super) struct Read {
    standing: Standing,
    clock_even_since: Timestamp,
}

impl Read {
    /// What a reading found of one variant.
    pub(super) fn evidence(&self, live: &LiveDrop, variant: VariantNumber, look: &Look) -> Evidence {
        let position = live.variant_position(variant);
        let standing = &self.standing;
        let epochs_hold = live.stores.iter().map(|store| store.epoch()).eq(standing.epochs.iter().copied());
        let oldest = |rests: &Rests| OldestRest {
            age: standing.clock.duration_since(rests.first),
            is_measured: rests.first >= self.clock_even_since && rests.last <= standing.clock,
        };
        Evidence {
            free: look.free(position),
            is_leaving: look.views.iter().flatten().any(|view| view.leaving_of(variant).next().is_some()),
            is_granted: standing.granted.contains(&variant),
            is_whole: epochs_hold && look.error().is_none(),
            oldest_rest: standing.rests.iter().find(|rests| rests.variant == variant).map(oldest),
        }
    }
}

impl Engine {
    pub(super) async fn look_everywhere(&self, live: &LiveDrop) -> Look {
        let began = Instant::now();
        let views = join_all(live.stores.iter().map(|store| store.look())).await;
        Look { began, views: views.into_iter().map(|view| view.map_err(Arc::new)).collect() }
    }

    /// Commits that somebody may be refused, once for each process and drop, before its first reading.
    pub(super) async fn mark_proof(&self, live: &LiveDrop) -> Result<(), EngineError> {
        live.shared.is_marked.get_or_try_init(|| self.ledger.mark_proof(live.drop.id, self.clock.now())).await?;
        Ok(())
    }

    /// The second half of a reading: what Postgres says behind a look that every warehouse has answered.
    pub(super) async fn read_behind(&self, live: &LiveDrop, look: &Look) -> Result<Read, EngineError> {
        let granted = look.views.iter().flatten().map(|view| view.granted).collect::<Vec<_>>();
        metrics::counter!("doorbuster_readings_total").increment(1);
        let sent = Instant::now();
        let standing = self.ledger.standing(live.drop.id, &granted).await?;
        let mut clock = self.postgres_clock.lock().expect("nobody panics holding this lock");
        let clock_even_since = clock.see(sent, Instant::now(), standing.clock);
        Ok(Read { standing, clock_even_since })
    }

    /// Keeps what a reading found of one variant, if nothing happened to the variant since its look.
    pub(super) async fn keep_reading(
        &self,
        live: &LiveDrop,
        variant: VariantNumber,
        look: &Look,
        evidence: &Evidence,
    ) -> Result<(), EngineError> {
        let Some(lasts) = lease(evidence.oldest_rest) else { return Ok(()) };
        let position = live.variant_position(variant);
        let before = look.views.iter().flatten().collect::<Vec<_>>();
        let holders = self.read_holders(live, position, &before).await?;
        let after = self.look_everywhere(live).await;
        let seen = |view: &View| (view.seq[position], view.free[position]);
        // Of a drop that is paused or closed something else is to be said.
        let sells = |view: &View| view.state == DropState::Open.as_str();
        let stood_still = after.error().is_none()
            && before.len() == after.views.len()
            && after.views.iter().flatten().all(sells)
            && before.iter().zip(after.views.iter().flatten()).all(|(before, after)| seen(before) == seen(after));
        if !stood_still {
            return Ok(());
        }
        // Only now: what was read beside a change may miss somebody who holds something.
        live.shared.holders.lock().expect("nobody panics holding this lock").extend(holders);
        let kept = Lease::new(evidence.free, look.began, lasts);
        let mut leases = live.shared.leases.lock().expect("nobody panics holding this lock");
        // One that lasts longer is as true.
        if leases.get(&variant).is_none_or(|known| known.until < kept.until || known.available != kept.available) {
            leases.insert(variant, kept);
        }
        drop(leases);
        metrics::counter!("doorbuster_sold_out_proofs_total").increment(1);
        let (drop, available) = (&live.drop.name, evidence.free);
        tracing::debug!(%drop, variant = variant.0, available, ?lasts, "{available} units are left for {lasts:?}");
        Ok(())
    }

    /// Reads who holds something, in the warehouses where the variant has changed since the last time. Bounded by the stock:
    /// only who got something has a record.
    ///
    /// One reading serves every variant. Records never go while the epoch lasts, so it has everybody who had one at its
    /// `seq`; and while `seq` of a variant stays, no claim of that variant is added to anybody's record. It may miss somebody
    /// who got another variant since. They have no stored answer for this one; if they ask for it with a key that they have
    /// used, or beyond their limit, they may hear that it is sold out, which is as true.
    async fn read_holders(
        &self,
        live: &LiveDrop,
        position: usize,
        views: &[&View],
    ) -> Result<Vec<(WarehouseId, Holders)>, EngineError> {
        let is_new = |known: &HashMap<WarehouseId, Holders>, (warehouse, view): &(&_, &&View)| {
            let warehouse: &crate::domain::drops::Warehouse = warehouse;
            known
                .get(&warehouse.id)
                .is_none_or(|known| (known.epoch, known.seq[position]) != (warehouse.epoch, view.seq[position]))
        };
        let changed = {
            let known = live.shared.holders.lock().expect("nobody panics holding this lock");
            live.drop.warehouses.iter().zip(views).filter(|pair| is_new(&known, pair)).collect::<Vec<_>>()
        };
        let reads = changed.into_iter().map(|(warehouse, view)| async move {
            let buyers = live.store(warehouse).holders().await?;
            let buyers = Arc::new(buyers.iter().map(|buyer| live.drop.hash_of(buyer)).collect());
            Ok::<_, EngineError>((warehouse.id, Holders { epoch: warehouse.epoch, seq: view.seq.clone(), buyers }))
        });
        try_join_all(reads).await
    }

    /// Refuses from memory whom a lease covers, and nobody who may hold something.
    pub(super) fn refused_already(
        &self,
        live: &LiveDrop,
        buyer: &BuyerId,
        variant: VariantNumber,
        quantity: Quantity,
    ) -> Option<ClaimOutcome> {
        let (available, must_renew) = {
            let mut leases = live.shared.leases.lock().expect("nobody panics holding this lock");
            let lease = leases.get_mut(&variant)?;
            let now = Instant::now();
            if now >= lease.until || quantity.units() <= lease.available {
                return None;
            }
            let must_renew = now >= lease.renew_at && !lease.is_renewing;
            lease.is_renewing |= must_renew;
            (lease.available, must_renew)
        };
        if must_renew {
            self.have_searched(live, Asked::Reading { variant });
        }
        if may_hold(live, buyer) {
            return None;
        }
        metrics::counter!("doorbuster_latched_refusals_total").increment(1);
        Some(refusal(available))
    }
}

/// What a lease says of so many units of a variant.
pub(super) fn leased(live: &LiveDrop, variant: VariantNumber, units: u32) -> Option<u32> {
    let leases = live.shared.leases.lock().expect("nobody panics holding this lock");
    let lease = leases.get(&variant)?;
    (Instant::now() < lease.until && units > lease.available).then_some(lease.available)
}

/// Whether this buyer may have a record at their home with a claim of a variant whose lease holds: nobody can have got
/// one since it was read, with that lease or later. Two buyers with one hash only mean a needless word with Redis.
fn may_hold(live: &LiveDrop, buyer: &BuyerId) -> bool {
    let home = live.home_of(buyer);
    let holders = live.shared.holders.lock().expect("nobody panics holding this lock");
    let known = holders.get(&home.id).filter(|holders| holders.epoch == home.epoch);
    known.is_none_or(|holders| holders.buyers.contains(&live.drop.hash_of(buyer)))
}

pub(super) fn refusal(available: u32) -> ClaimOutcome {
    match available {
        0 => ClaimOutcome::SoldOut,
        available => ClaimOutcome::NotEnough { available },
    }
}

impl LiveDrop {
    /// Whether a lease holds that no unit of the variant can be had.
    pub fn is_known_to_be_gone(&self, variant: VariantNumber) -> bool {
        let leases = self.shared.leases.lock().expect("nobody panics holding this lock");
        leases.get(&variant).is_some_and(|lease| lease.available == 0 && Instant::now() < lease.until)
    }
}
