//! Settlement: the claim log becomes orders, at most one interval later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use jiff::SignedDuration;

use crate::domain::ids::{DropName, WarehouseId};
use crate::ledger::settlements::{ClaimToSettle, Settling};
use crate::tokens::TokenError;
use crate::tokens::store::StreamId;

use super::engine::{Engine, EngineError, LiveDrop};

/// Entries read from one warehouse in one round. An entry holds up to 256 claims.
const ENTRIES_PER_WAREHOUSE: usize = 256;
/// Claims settled in one transaction: past some thousands a larger one is no faster and holds its locks longer.
const CLAIMS_PER_TRANSACTION: usize = 5_000;
/// Settled entries stay in the stream this long. Should Postgres fail over to a standby that misses its last commits,
/// what they held can be settled again.
const RETENTION: SignedDuration = SignedDuration::from_mins(10);

/// Claims of one drop that wait for settlement.
pub struct Backlog {
    live: Arc<LiveDrop>,
    claims: Vec<ClaimToSettle>,
    read_to: HashMap<WarehouseId, StreamId>,
    /// More is waiting than was read.
    pub is_cut: bool,
    /// Warehouses whose logs could not be read: of these nobody knows what waits.
    pub unread: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettleReport {
    pub settled: usize,
    pub duplicates: usize,
    pub rejected: usize,
}

impl Backlog {
    pub fn claims(&self) -> usize {
        self.claims.len()
    }
}

impl Engine {
    /// What the logs of all warehouses of a drop hold that Postgres has not committed. Warehouses that are not loaded,
    /// or cannot be reached while others can, are left out.
    pub async fn backlog(&self, name: &DropName) -> Result<Option<Backlog>, EngineError> {
        let Some(live) = self.refresh(name).await? else { return Ok(None) };
        let mut backlog =
            Backlog { live: Arc::clone(&live), claims: Vec::new(), read_to: HashMap::new(), is_cut: false, unread: 0 };
        // At the same time, so that those that cannot be reached cost one deadline together.
        let marks = join_all(live.stores.iter().map(|store| store.settled_mark())).await;
        let (mut reached, mut unreachable) = (false, None);
        for (warehouse, mark) in live.drop.warehouses.iter().zip(marks) {
            if backlog.claims.len() >= CLAIMS_PER_TRANSACTION {
                backlog.is_cut = true;
                break;
            }
            let entries = match mark {
                Ok(mark) => live.store(warehouse).log_after(mark, ENTRIES_PER_WAREHOUSE).await,
                Err(error) => Err(error),
            };
            let entries = match entries {
                Err(TokenError::NotLoaded) => continue,
                Err(error) if error.is_retryable() => {
                    // On a part of a cluster that is being replaced: it comes with a later round.
                    let number = warehouse.number.0;
                    tracing::warn!(drop = %name, warehouse = number, %error, "the log of warehouse {number} waits: {error}");
                    unreachable = Some(error);
                    backlog.unread += 1;
                    continue;
                }
                other => other?,
            };
            reached = true;
            backlog.is_cut |= entries.len() == ENTRIES_PER_WAREHOUSE;
            if let Some(last) = entries.last() {
                backlog.read_to.insert(warehouse.id, last.id);
            }
            for entry in entries {
                backlog.claims.extend(entry.claims.into_iter().map(|logged| ClaimToSettle {
                    claim: logged.claim,
                    serials: logged.serials,
                    warehouse: *warehouse,
                    epoch: entry.epoch,
                }));
            }
        }
        match unreachable {
            Some(error) if !reached => Err(error.into()),
            _ => Ok(Some(backlog)),
        }
    }

    /// Settles a backlog in one transaction, then moves the marks of its warehouses. Dying in between only means that the
    /// same claims come again, and are found settled.
    pub async fn settle(&self, backlog: &Backlog) -> Result<SettleReport, EngineError> {
        if backlog.read_to.is_empty() {
            return Ok(SettleReport::default());
        }
        let live = &backlog.live;
        let now = self.clock.now();
        let started = Instant::now();
        let settlement = self.ledger.settle(&live.drop, &backlog.claims, Settling::Live, now).await?;
        metrics::histogram!("doorbuster_settle_seconds").record(started.elapsed().as_secs_f64());
        for (claim, reason) in &settlement.rejected {
            tracing::error!(%claim, reason = reason.as_str(), "the claim {claim} could not become an order");
        }
        let trim_before = now.checked_sub(RETENTION).map_or(0, |time| time.as_millisecond().max(0) as u64);
        for (warehouse, read_to) in &backlog.read_to {
            if settlement.stale.contains(warehouse) {
                continue;
            }
            let Some(store) = live.store_by_id(*warehouse) else { continue };
            match store.settled(*read_to, StreamId { ms: trim_before, seq: 0 }).await {
                // A rebuild is under way and settles from its own reading.
                Err(TokenError::Fenced | TokenError::NotLoaded) => {}
                other => other?,
            }
        }
        metrics::counter!("doorbuster_settled_claims_total").increment(settlement.settled.len() as u64);
        metrics::counter!("doorbuster_rejected_claims_total").increment(settlement.rejected.len() as u64);
        Ok(SettleReport {
            settled: settlement.settled.len(),
            duplicates: settlement.duplicates,
            rejected: settlement.rejected.len(),
        })
    }
}
