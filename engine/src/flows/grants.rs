//! Brings units and the ends of claims from Postgres to Redis: what has rested is granted, and grants are applied.
//!
//! Anyone may apply a grant, any number of times, in the order of the numbers of its warehouse. No warehouse waits for another.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::domain::ids::{DropId, GrantNumber, WarehouseId};
use crate::domain::rest::{REST, RestWatch, RestingUnits};
use crate::ledger::grants::{PENDING_OF_WAREHOUSE, PendingGrant};
use crate::steps;
use crate::tokens::TokenError;
use crate::tokens::store::{AwardApplied, ReleasedClaim, WarehouseStore};

use super::engine::{Engine, EngineError, LiveDrop};

/// What this process has seen of units on their way back.
#[derive(Debug, Default)]
pub(super) struct ComingBack {
    rests: RestWatch,
    /// Grants with units that were made by a program from before units rested.
    older: HashMap<(WarehouseId, GrantNumber), Instant>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrantsReport {
    pub applied: usize,
    /// Left for later: they wait their time, or their warehouse is fenced or away.
    pub left: usize,
    /// Returns of units that rest.
    pub resting: usize,
    /// When the next of these will have rested.
    pub next: Option<Instant>,
    /// Some warehouse has taken as many as were looked at, so there may be more.
    pub has_more: bool,
}

impl GrantsReport {
    /// Nothing is on its way back any more.
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.resting == 0 && !self.has_more
    }
}

impl Engine {
    /// Grants what has rested, and applies every pending grant whose time has come.
    pub async fn apply_grants(&self) -> Result<GrantsReport, EngineError> {
        let (resting, next) = self.end_rests().await?;
        let pending = self.ledger.pending_grants().await?;
        let drops = if pending.is_empty() { Vec::new() } else { self.ledger.loaded_drops().await? };
        let drops = drops.into_iter().map(|drop| self.adopt(drop)).collect::<Vec<_>>();
        let report = self.apply(pending, &drops.iter().map(Arc::as_ref).collect::<Vec<_>>()).await?;
        Ok(GrantsReport { resting, next, ..report })
    }

    pub(super) async fn apply_grants_of(&self, live: &LiveDrop, warehouses: &[WarehouseId]) -> Result<(), EngineError> {
        let pending = self.ledger.pending_grants_of(warehouses).await?;
        self.apply(pending, &[live]).await.map(|_| ())
    }

    /// Grants the units that have rested. Answers in how many returns units still rest, and when the next of them will have.
    async fn end_rests(&self) -> Result<(usize, Option<Instant>), EngineError> {
        let resting = self.ledger.resting_units().await?;
        let returns = resting.len();
        let rested = {
            let mut coming = self.coming_back.lock().expect("nobody panics holding this lock");
            coming.rests.look(resting, Instant::now())
        };
        let left = returns - rested.units.len();
        let mut of_drops: BTreeMap<DropId, Vec<RestingUnits>> = BTreeMap::new();
        for units in rested.units {
            of_drops.entry(units.drop).or_default().push(units);
        }
        let mut failed = None;
        for (drop, rested) in of_drops {
            // What keeps one drop's units from sale keeps no other's.
            if let Err(error) = self.end_rests_of(drop, &rested).await {
                failed = Some(error);
            }
        }
        failed.map_or(Ok((left, rested.next)), Err)
    }

    async fn end_rests_of(&self, drop: DropId, rested: &[RestingUnits]) -> Result<(), EngineError> {
        let Some(drop) = self.ledger.drop_by_id(drop).await? else { return Ok(()) };
        while self.ledger.end_rest(&drop, rested, self.clock.now()).await? {}
        Ok(())
    }

    async fn apply(&self, pending: Vec<PendingGrant>, drops: &[&LiveDrop]) -> Result<GrantsReport, EngineError> {
        let mut report = GrantsReport::default();
        let too_early = self.too_early(&pending);
        let mut of_warehouses: BTreeMap<WarehouseId, Vec<PendingGrant>> = BTreeMap::new();
        for grant in pending {
            of_warehouses.entry(grant.warehouse).or_default().push(grant);
        }
        let mut applying = Vec::new();
        for (warehouse, grants) in &of_warehouses {
            let at = drops.iter().find_map(|live| live.store_by_id(*warehouse).map(|store| (*live, store)));
            match at {
                Some((live, store)) => applying.push(self.apply_in_order(live, store, grants, &too_early)),
                None => report.left += grants.len(),
            }
        }
        let mut failed = None;
        let mut applied = Vec::new();
        for of_warehouse in join_all(applying).await {
            report.left += of_warehouse.left;
            report.has_more |= of_warehouse.applied.len() == PENDING_OF_WAREHOUSE as usize;
            applied.extend(of_warehouse.applied);
            failed = of_warehouse.failed.or(failed);
        }
        report.applied = applied.len();
        metrics::counter!("doorbuster_grants_applied_total").increment(applied.len() as u64);
        if !applied.is_empty() {
            // Dying before it only means that they are brought again. The time is taken now: from then on Redis surely has them.
            self.ledger.mark_applied(&applied, self.clock.now()).await?;
            steps::passed("grants.recorded");
        }
        failed.map_or(Ok(report), Err)
    }

    /// The grants of an older program that must wait. The wait of each runs from its own first sight, whatever waits before it.
    fn too_early(&self, pending: &[PendingGrant]) -> Vec<(WarehouseId, GrantNumber)> {
        let mut coming = self.coming_back.lock().expect("nobody panics holding this lock");
        let now = Instant::now();
        // Others apply grants too; what nobody has applied for so long is looked at anew.
        coming.older.retain(|_, seen| now - *seen < 20 * REST);
        let older = pending.iter().filter(|grant| grant.must_rest).map(|grant| (grant.warehouse, grant.number));
        older.filter(|key| now - *coming.older.entry(*key).or_insert(now) < REST).collect()
    }

    /// Applies the grants of one warehouse until one must wait: none may overtake the one before it.
    async fn apply_in_order(
        &self,
        live: &LiveDrop,
        store: &WarehouseStore,
        grants: &[PendingGrant],
        too_early: &[(WarehouseId, GrantNumber)],
    ) -> AppliedInOrder {
        let mut of_warehouse = AppliedInOrder::default();
        for grant in grants {
            let key = (grant.warehouse, grant.number);
            if too_early.contains(&key) {
                break;
            }
            match self.apply_one(live, store, grant).await {
                Ok(()) => of_warehouse.applied.push(key),
                // The warehouse is about to be rebuilt, from a state that contains this grant.
                Err(EngineError::Tokens(error))
                    if matches!(*error, TokenError::Fenced | TokenError::NotLoaded | TokenError::Gap) =>
                {
                    break;
                }
                Err(error) => {
                    of_warehouse.failed = Some(error);
                    break;
                }
            }
        }
        of_warehouse.left = grants.len() - of_warehouse.applied.len();
        of_warehouse
    }

    /// Brings one grant to Redis. Dying behind it only means that it is brought again.
    async fn apply_one(
        &self,
        live: &LiveDrop,
        store: &WarehouseStore,
        grant: &PendingGrant,
    ) -> Result<(), EngineError> {
        let now = self.clock.now();
        if let Some(claim) = &grant.award {
            let serials = grant.tokens.iter().flat_map(|(_, serials)| serials).copied().collect::<Vec<_>>();
            let applied = store.award(grant.number, now.as_millisecond(), claim, &serials).await?;
            let outcome = match applied {
                AwardApplied::Taken => "taken",
                AwardApplied::Refused => "refused",
            };
            if applied == AwardApplied::Refused
                && let Some(home) = live.drop.warehouse_by_id(grant.warehouse)
            {
                // Until this is committed the units are in no place: whoever comes next is told the same, and tries again.
                self.ledger.refuse_award(&live.drop, home, grant.number, claim, now).await?;
            }
            metrics::counter!("doorbuster_standby_awards_total", "outcome" => outcome).increment(1);
        } else {
            let released = grant.released.as_ref().map(|released| ReleasedClaim {
                id: released.claim,
                buyer: released.buyer.clone(),
                variant: released.variant,
                units: released.units,
            });
            store.grant(grant.number, &grant.tokens, released.as_ref()).await?;
        }
        steps::passed("grants.applied");
        Ok(())
    }
}

/// How far the grants of one warehouse have come.
#[derive(Debug, Default)]
struct AppliedInOrder {
    applied: Vec<(WarehouseId, GrantNumber)>,
    left: usize,
    failed: Option<EngineError>,
}

/// When to look for units on their way back again: at once while more wait than one look shows, as soon as the next has rested,
/// and often enough to see new ones soon.
pub fn look_again(report: &GrantsReport, every: Duration) -> Duration {
    if report.has_more {
        return Duration::ZERO;
    }
    let next = report.next.map_or(every, |next| next.saturating_duration_since(Instant::now()));
    next.min(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_is_at_once_while_more_wait_than_one_look_shows() {
        let every = Duration::from_millis(250);
        let report = GrantsReport::default();
        assert_eq!(look_again(&report, every), every);
        assert_eq!(look_again(&GrantsReport { has_more: true, ..report }, every), Duration::ZERO);
        let soon = GrantsReport { next: Some(Instant::now()), ..report };
        assert_eq!(look_again(&soon, every), Duration::ZERO);
    }
}
