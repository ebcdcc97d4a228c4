//! Brings grants from Postgres to Redis. Anyone may, any number of times, in the order of their numbers.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::domain::drops::Warehouse;
use crate::domain::ids::{DropId, GrantNumber, WarehouseId};
use crate::ledger::grants::PendingGrant;
use crate::steps;
use crate::tokens::TokenError;
use crate::tokens::store::{AwardApplied, ReleasedClaim, WarehouseStore};

use super::engine::{Engine, EngineError, LiveDrop};

/// How long a grant that frees units waits after its commit while a proof of "sold out" may be out: longer than a proof's
/// lease, by a margin for clocks that tick at different speeds. So no refusal overlaps a free unit.
pub const FREED_UNITS_WAIT: Duration = Duration::from_millis(1500);

/// When this process first saw a grant committed: the wait is counted from there, on the monotonic clock.
pub(super) type FirstSeen = HashMap<(WarehouseId, GrantNumber), Instant>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrantsReport {
    pub applied: usize,
    /// Left for later: they wait their time, or their warehouse is fenced.
    pub left: usize,
}

impl Engine {
    /// Applies every pending grant whose time has come.
    pub async fn apply_grants(&self) -> Result<GrantsReport, EngineError> {
        let pending = self.ledger.pending_grants().await?;
        self.apply(pending).await
    }

    pub(super) async fn apply_grants_of(
        &self,
        live: &LiveDrop,
        warehouse: &Warehouse,
    ) -> Result<GrantsReport, EngineError> {
        debug_assert!(live.store_by_id(warehouse.id).is_some());
        let pending = self.ledger.pending_grants_of(warehouse.id).await?;
        self.apply(pending).await
    }

    async fn apply(&self, pending: Vec<PendingGrant>) -> Result<GrantsReport, EngineError> {
        let mut report = GrantsReport::default();
        if pending.is_empty() {
            return Ok(report);
        }
        let seen_now = Instant::now();
        // Others apply grants too; what nobody has applied for so long is looked at anew.
        self.grants_seen
            .lock()
            .expect("nobody panics holding this lock")
            .retain(|_, seen| seen.elapsed() < 20 * FREED_UNITS_WAIT);
        let mut marked: HashMap<DropId, bool> = HashMap::new();
        let drops = self.ledger.loaded_drops().await?;
        // A grant must not overtake the one before it.
        let mut stopped: HashSet<WarehouseId> = HashSet::new();
        for grant in pending {
            let live = drops.iter().find(|drop| drop.warehouse_by_id(grant.warehouse).is_some());
            let Some(drop) = live.filter(|_| !stopped.contains(&grant.warehouse)) else {
                report.left += 1;
                continue;
            };
            let key = (grant.warehouse, grant.number);
            let seen =
                *self.grants_seen.lock().expect("nobody panics holding this lock").entry(key).or_insert(seen_now);
            if grant.frees_units && seen.elapsed() < FREED_UNITS_WAIT {
                // Asked after the grant was seen committed: a proof that is marked later will see this grant.
                let is_marked = match marked.get(&drop.id) {
                    Some(known) => *known,
                    None => self.ledger.is_proof_marked(drop.id).await?,
                };
                marked.insert(drop.id, is_marked);
                if is_marked {
                    stopped.insert(grant.warehouse);
                    report.left += 1;
                    continue;
                }
            }
            let live = self.adopt(drop.clone());
            let Some(store) = live.store_by_id(grant.warehouse) else { continue };
            match self.apply_one(&live, store, &grant).await {
                Ok(()) => {
                    self.grants_seen.lock().expect("nobody panics holding this lock").remove(&key);
                    metrics::counter!("doorbuster_grants_applied_total").increment(1);
                    report.applied += 1;
                }
                // The warehouse is about to be rebuilt, from a state that contains this grant.
                Err(EngineError::Tokens(error))
                    if matches!(*error, TokenError::Fenced | TokenError::NotLoaded | TokenError::Gap) =>
                {
                    stopped.insert(grant.warehouse);
                    report.left += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    /// Brings one grant to Redis, and notes that it is there. Dying in between only means that it is brought again.
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
        self.ledger.mark_applied(grant.warehouse, grant.number, now).await?;
        steps::passed("grants.recorded");
        Ok(())
    }
}
