//! Settlement: the claim log becomes orders, at most one interval later.
//!
//! What makes a whole transaction fail is found by halving: bounded work for each round, and what is good in the other half
//! is settled meanwhile. A claim that fails alone, and an entry that cannot be read, are set aside with their units held.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{DropName, WarehouseId};
use crate::ledger::poison::{Poison, Poisoned};
use crate::ledger::settlements::{ClaimToSettle, Rejection, Settlement, Settling};
use crate::steps;
use crate::tokens::TokenError;
use crate::tokens::store::{LogClaim, LogEntry, StreamId};

use super::engine::{Engine, EngineError, LiveDrop};

/// Entries read from one warehouse in one round. An entry holds up to 256 claims.
const ENTRIES_PER_WAREHOUSE: usize = 256;
/// Claims settled in one transaction: a larger one is no faster, and whoever moves units to an empty warehouse waits until its
/// locks are gone.
pub const CLAIMS_PER_TRANSACTION: usize = 2_000;
/// Settled entries stay in the stream this long. Should Postgres fail over to a standby that misses its last commits,
/// what they held can be settled again.
const RETENTION: SignedDuration = SignedDuration::from_mins(10);
/// Transactions of one round that looks for the bad claims of a batch. One bad claim among 2,000 costs 23 at most; where many are
/// bad, the rest of the batch waits for the next round, which begins where this one ended: each finds at least fifty.
const TRANSACTIONS_PER_ROUND: usize = 128;

/// Claims of one drop that wait for settlement.
pub struct Backlog {
    live: Arc<LiveDrop>,
    read: ReadLog,
    read_to: HashMap<WarehouseId, StreamId>,
    /// More is waiting than was read.
    pub is_cut: bool,
    /// Warehouses whose logs could not be read: of these nobody knows what waits.
    pub unread: usize,
}

/// What was read from claim logs.
#[derive(Default)]
pub(super) struct ReadLog {
    pub(super) claims: Vec<ClaimToSettle>,
    /// Entries that cannot be read, with the warehouse in whose log they stand.
    pub(super) unreadable: Vec<(Warehouse, LogEntry)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettleReport {
    pub settled: usize,
    pub duplicates: usize,
    pub rejected: usize,
    /// Set aside; see [`crate::ledger::poison`].
    pub poisoned: usize,
    /// Looking for what is bad took too long: the rest of the backlog is left for another round.
    pub is_cut: bool,
}

/// How far one round came.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) settlement: Settlement,
    poisoned: usize,
    /// Everything that was read is settled, rejected or set aside. Otherwise the same must be read again.
    pub(super) is_complete: bool,
}

impl ReadLog {
    pub(super) fn of(warehouse: &Warehouse, entries: Vec<LogEntry>) -> Self {
        let mut read = Self::default();
        read.add(warehouse, entries);
        read
    }

    /// Claims that stand in no log.
    pub(super) fn of_claims(claims: Vec<ClaimToSettle>) -> Self {
        Self { claims, unreadable: Vec::new() }
    }

    /// Claims whose log is lost. Those that were settled before are found seen.
    pub(super) fn of_recorded(recorded: Vec<LogClaim>, warehouse: &Warehouse, now: Timestamp) -> Self {
        let of_record = |LogClaim { claim, serials }| ClaimToSettle::without_log(claim, serials, warehouse, now);
        Self::of_claims(recorded.into_iter().map(of_record).collect())
    }

    fn add(&mut self, warehouse: &Warehouse, entries: Vec<LogEntry>) {
        for mut entry in entries {
            let taken_at = taken_at(&entry);
            let claims = std::mem::take(&mut entry.claims).into_iter();
            self.claims.extend(claims.map(|logged| to_settle(logged, warehouse, &entry, taken_at)));
            if entry.unreadable.is_some() {
                self.unreadable.push((*warehouse, entry));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.unreadable.is_empty()
    }
}

fn to_settle(logged: LogClaim, warehouse: &Warehouse, entry: &LogEntry, taken_at: Timestamp) -> ClaimToSettle {
    let LogClaim { claim, serials } = logged;
    ClaimToSettle { claim, serials, warehouse: *warehouse, epoch: entry.epoch, taken_at, entry: entry.id }
}

fn taken_at(entry: &LogEntry) -> Timestamp {
    Timestamp::from_millisecond(entry.taken_at_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Backlog {
    pub fn claims(&self) -> usize {
        self.read.claims.len()
    }
}

impl Engine {
    /// What the logs of all warehouses of a drop hold that Postgres has not committed. Warehouses that are not loaded,
    /// or cannot be reached while others can, are left out.
    pub async fn backlog(&self, name: &DropName) -> Result<Option<Backlog>, EngineError> {
        self.backlog_of_lane(name, 0, 1).await
    }

    /// The same of every `lanes`th warehouse only, from number `lane` on: lanes have no claim in common, so while Postgres works
    /// on one batch the next is read and packed.
    pub async fn backlog_of_lane(
        &self,
        name: &DropName,
        lane: usize,
        lanes: usize,
    ) -> Result<Option<Backlog>, EngineError> {
        let Some(live) = self.refresh(name).await? else { return Ok(None) };
        let mut backlog = Backlog {
            live: Arc::clone(&live),
            read: ReadLog::default(),
            read_to: HashMap::new(),
            is_cut: false,
            unread: 0,
        };
        // At the same time, so that those that cannot be reached cost one deadline together.
        let warehouses = live.drop.warehouses.iter().skip(lane).step_by(lanes);
        let marks = join_all(warehouses.clone().map(|warehouse| live.store(warehouse).settled_mark())).await;
        let (mut reached, mut unreachable) = (false, None);
        for (warehouse, mark) in warehouses.zip(marks) {
            if backlog.claims() >= CLAIMS_PER_TRANSACTION {
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
            backlog.read.add(warehouse, entries);
        }
        match unreachable {
            Some(error) if !reached => Err(error.into()),
            _ => Ok(Some(backlog)),
        }
    }

    /// Settles a backlog, then moves the marks of its warehouses. Dying in between only means that the same claims come again,
    /// and are found settled.
    pub async fn settle(&self, backlog: &Backlog) -> Result<SettleReport, EngineError> {
        if backlog.read_to.is_empty() {
            return Ok(SettleReport::default());
        }
        let live = &backlog.live;
        steps::passed("settle.read");
        let started = Instant::now();
        let settled = self.settle_or_set_aside(&live.drop, &backlog.read, Settling::Live).await?;
        metrics::histogram!("doorbuster_settle_seconds").record(started.elapsed().as_secs_f64());
        let settlement = &settled.settlement;
        let now = self.clock.now();
        let trim_before = now.checked_sub(RETENTION).map_or(0, |time| time.as_millisecond().max(0) as u64);
        for (warehouse, read_to) in backlog.read_to.iter().filter(|_| settled.is_complete) {
            if settlement.stale.contains(warehouse) {
                continue;
            }
            let Some(store) = live.store_by_id(*warehouse) else { continue };
            match store.settled(*read_to, StreamId { ms: trim_before, seq: 0 }).await {
                // A rebuild is under way and settles from its own reading.
                Err(TokenError::Fenced | TokenError::NotLoaded) => {}
                other => other?,
            }
            steps::passed("settle.marked");
        }
        Ok(SettleReport {
            settled: settlement.settled.len(),
            duplicates: settlement.duplicates,
            rejected: settlement.rejected.len(),
            poisoned: settled.poisoned,
            is_cut: !settled.is_complete,
        })
    }

    /// Settles what was read. Claims that make the transaction fail are found by halving and set aside, entries that cannot be
    /// read as well: neither keeps the rest from being settled.
    pub(super) async fn settle_or_set_aside(
        &self,
        drop: &SaleDrop,
        read: &ReadLog,
        settling: Settling,
    ) -> Result<Settled, EngineError> {
        let mut settled = Settled { is_complete: true, ..Settled::default() };
        if read.is_empty() {
            return Ok(settled);
        }
        // What a crowd has left in few entries is more than one transaction should hold.
        let mut parts = read.claims.chunks(CLAIMS_PER_TRANSACTION).rev().collect::<Vec<_>>();
        let mut transactions = 0;
        while let Some(part) = parts.pop() {
            if transactions == TRANSACTIONS_PER_ROUND {
                settled.is_complete = false;
                break;
            }
            transactions += 1;
            let now = self.clock.now();
            match self.ledger.settle(drop, part, settling, now).await {
                Ok(settlement) => {
                    self.count_settled(part, &settlement, now);
                    settled.settlement.add(settlement);
                }
                Err(error) if !error.is_about_the_rows() => return Err(error.into()),
                Err(error) if part.len() == 1 => {
                    let poison = poison_of(&part[0], error.to_string());
                    self.set_aside(drop, vec![poison], settling, &mut settled).await?;
                }
                Err(error) => {
                    tracing::warn!(claims = part.len(), %error, "a batch cannot be settled, each half is tried: {error}");
                    let (older, newer) = part.split_at(part.len() / 2);
                    parts.extend([newer, older]);
                }
            }
        }
        if settled.is_complete && !read.unreadable.is_empty() {
            let poisons = self.explain_unreadable(drop, &read.unreadable).await?;
            self.set_aside(drop, poisons, settling, &mut settled).await?;
        }
        Ok(settled)
    }

    async fn set_aside(
        &self,
        drop: &SaleDrop,
        poisons: Vec<Poison>,
        settling: Settling,
        settled: &mut Settled,
    ) -> Result<(), EngineError> {
        let stale = self.ledger.set_aside(drop, &poisons, settling, self.clock.now()).await?;
        for poison in poisons.iter().filter(|poison| !stale.contains(&poison.warehouse.id)) {
            let (drop, warehouse, entry) = (&drop.name, poison.warehouse.number.0, poison.entry.to_string());
            let error = &poison.error;
            match poison.what.claim_id() {
                Some(claim) => {
                    tracing::error!(%drop, warehouse, %claim, error, "the claim {claim} was set aside with its units: {error}");
                }
                None => tracing::error!(%drop, warehouse, entry, error, "the log entry {entry} was set aside: {error}"),
            }
            settled.poisoned += 1;
        }
        settled.settlement.stale.extend(stale);
        Ok(())
    }

    /// What entries that cannot be read held, as far as the buyers' own records tell: claims that no entry and no row of
    /// Postgres knows. One reading of the whole warehouse, since it happens next to never.
    async fn explain_unreadable(
        &self,
        drop: &SaleDrop,
        unreadable: &[(Warehouse, LogEntry)],
    ) -> Result<Vec<Poison>, EngineError> {
        let mut explained = HashSet::new();
        let mut poisons = Vec::new();
        for (warehouse, entry) in unreadable {
            let unlogged =
                if explained.insert(warehouse.id) { self.unlogged_claims(drop, warehouse).await? } else { Vec::new() };
            let cause = entry.unreadable.as_ref().expect("only such entries were collected");
            let poison = |what| Poison {
                what,
                warehouse: *warehouse,
                epoch: entry.epoch,
                entry: entry.id,
                taken_at: taken_at(entry),
                error: format!("the log entry cannot be read: {}", cause.error),
            };
            if unlogged.is_empty() {
                poisons.push(poison(Poisoned::Entry { raw: cause.raw.clone() }));
            }
            let raw = Some(cause.raw.clone());
            let of_record = |LogClaim { claim, serials }| Poisoned::Claim { claim, serials, raw: raw.clone() };
            poisons.extend(unlogged.into_iter().map(of_record).map(poison));
        }
        Ok(poisons)
    }

    async fn unlogged_claims(&self, drop: &SaleDrop, warehouse: &Warehouse) -> Result<Vec<LogClaim>, EngineError> {
        let dump = match self.tokens.warehouse(drop, warehouse).dump().await {
            Ok(Some(dump)) => dump,
            Ok(None) => return Ok(Vec::new()),
            Err(error) if error.is_retryable() => return Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "the buyers' records cannot be read either: {error}");
                return Ok(Vec::new());
            }
        };
        let logged = dump.log.iter().flat_map(|entry| &entry.claims).map(|logged| logged.claim.id);
        let logged = logged.collect::<HashSet<_>>();
        let mut unlogged = Vec::new();
        for (buyer, held) in dump.buyers {
            let held = held.into_iter().filter(|held| !logged.contains(&held.id));
            unlogged.extend(held.filter_map(|held| held.into_claim(buyer.clone())));
        }
        let ids = unlogged.iter().map(|logged| logged.claim.id).collect::<Vec<_>>();
        // After the dump: what lay behind its mark had been committed.
        let known = self.ledger.seen_claims(&ids).await?;
        unlogged.retain(|logged| !known.contains(&logged.claim.id));
        Ok(unlogged)
    }

    fn count_settled(&self, claims: &[ClaimToSettle], settlement: &Settlement, now: Timestamp) {
        for (claim, reason) in &settlement.rejected {
            tracing::error!(%claim, reason = reason.as_str(), "the claim {claim} could not become an order");
        }
        metrics::counter!("doorbuster_settled_claims_total").increment(settlement.settled.len() as u64);
        metrics::counter!("doorbuster_rejected_claims_total").increment(settlement.rejected.len() as u64);
        let lost = settlement.rejected.iter().filter(|(_, reason)| *reason == Rejection::TokenHeld).count();
        metrics::counter!("doorbuster_lost_claims_total").increment(lost as u64);
        let settled = settlement.settled.iter().collect::<HashSet<_>>();
        let after = metrics::histogram!("doorbuster_settled_after_seconds");
        for claim in claims.iter().filter(|claim| settled.contains(&claim.claim.id)) {
            after.record(now.duration_since(claim.taken_at).as_secs_f64().max(0.0));
        }
    }
}

fn poison_of(claim: &ClaimToSettle, error: String) -> Poison {
    Poison {
        what: Poisoned::Claim { claim: claim.claim.clone(), serials: claim.serials.clone(), raw: None },
        warehouse: claim.warehouse,
        epoch: claim.epoch,
        entry: claim.entry,
        taken_at: claim.taken_at,
        error,
    }
}
