//! Settlement: the claim log becomes orders, at most one interval later. In rounds, and in lanes that work at the same time:
//! `domain/settlement.rs` has the rules.
//!
//! What makes a whole transaction fail is found by halving: bounded work for each round, and what is good in the other half
//! is settled meanwhile. A claim that fails alone, and an entry that cannot be read, are set aside with their units held.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{DropName, WarehouseId};
use crate::domain::settlement::{LogPosition, lane_of, marks};
use crate::ledger::poison::{Poison, Poisoned};
use crate::ledger::settlements::{ClaimToSettle, Rejection, Settlement, Settling};
use crate::steps;
use crate::tokens::TokenError;
use crate::tokens::store::{LogClaim, LogEntry, StreamId};

use super::engine::{Engine, EngineError, LiveDrop};

/// Entries read from one log in one call. An entry holds up to 256 claims.
const ENTRIES_PER_CALL: usize = 64;
/// Claims settled in one transaction: a larger one is no faster, and whoever moves units to an empty warehouse waits until its
/// locks are gone.
pub const CLAIMS_PER_TRANSACTION: usize = 2_000;
/// Transactions for which a round reads, in each lane: while Redis is read, marks are moved and one lane waits for the other,
/// Postgres has less to do.
const TRANSACTIONS_READ_FOR: usize = 4;
/// Settled entries stay in the stream this long. Should Postgres fail over to a standby that misses its last commits,
/// what they held can be settled again.
const RETENTION: SignedDuration = SignedDuration::from_mins(10);
/// Transactions of one lane in a round that looks for the bad claims of a batch. One bad claim among 2,000 costs 23 at most; where many are
/// bad, the rest of the batch waits for the next round, which begins where this one ended: each finds at least fifty.
const TRANSACTIONS_PER_ROUND: usize = 128;

/// Claims of one drop that wait for settlement: what one round has read.
pub struct Backlog {
    live: Arc<LiveDrop>,
    /// Everything that was read, each log in its order.
    read: Vec<LogPosition>,
    /// The claims of each lane, each log's in its order.
    lanes: Vec<Vec<ClaimToSettle>>,
    unreadable: Vec<(Warehouse, LogEntry)>,
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

/// How far one lane came in one round.
#[derive(Default)]
struct LaneEnd {
    settlement: Settlement,
    poisoned: usize,
    /// So many of its claims, from the oldest on, are settled, rejected, set aside, or left alone as another epoch's.
    done: usize,
    /// What ended it before it was through. Without an error, it had had its transactions.
    failed: Option<EngineError>,
}

/// How far a rebuild came with what it read.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) settlement: Settlement,
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
        self.lanes.iter().map(Vec::len).sum()
    }

    /// Reads one log behind its mark, to its end or until the round has so many claims.
    async fn read_on(&mut self, warehouse: &Warehouse, mark: StreamId, enough: usize) -> Result<(), TokenError> {
        let live = Arc::clone(&self.live);
        let mut read_to = mark;
        loop {
            let entries = live.store(warehouse).log_after(read_to, ENTRIES_PER_CALL).await?;
            let is_last = entries.len() < ENTRIES_PER_CALL;
            read_to = entries.last().map_or(read_to, |last| last.id);
            self.add(warehouse, entries);
            if is_last {
                return Ok(());
            }
            if self.claims() >= enough {
                self.is_cut = true;
                return Ok(());
            }
        }
    }

    fn add(&mut self, warehouse: &Warehouse, entries: Vec<LogEntry>) {
        let position = |entry: &LogEntry| LogPosition { warehouse: warehouse.id, entry: entry.id };
        self.read.extend(entries.iter().map(position));
        let read = ReadLog::of(warehouse, entries);
        for claim in read.claims {
            let lane = lane_of(&self.live.drop, &claim.claim.buyer, self.lanes.len());
            self.lanes[lane].push(claim);
        }
        self.unreadable.extend(read.unreadable);
    }
}

impl Engine {
    /// What the logs of all warehouses of a drop hold that Postgres has not committed, for one lane. Warehouses that are not
    /// loaded, or cannot be reached while others can, are left out.
    pub async fn backlog(&self, name: &DropName) -> Result<Option<Backlog>, EngineError> {
        self.backlog_in_lanes(name, 1).await
    }

    /// The same, dealt to so many lanes.
    pub async fn backlog_in_lanes(&self, name: &DropName, lanes: usize) -> Result<Option<Backlog>, EngineError> {
        let Some(live) = self.refresh(name).await? else { return Ok(None) };
        let mut backlog = Backlog {
            live: Arc::clone(&live),
            read: Vec::new(),
            lanes: vec![Vec::new(); lanes],
            unreadable: Vec::new(),
            is_cut: false,
            unread: 0,
        };
        // At the same time, so that those that cannot be reached cost one deadline together.
        let marks = join_all(live.stores.iter().map(|store| store.settled_mark())).await;
        let enough = lanes * TRANSACTIONS_READ_FOR * CLAIMS_PER_TRANSACTION;
        let (mut reached, mut unreachable) = (false, None);
        for ((position, warehouse), mark) in live.drop.warehouses.iter().enumerate().zip(marks) {
            // To each its share and what those before it left, so that a log that fills as fast as it is settled, or of which
            // nothing can be settled, keeps no other waiting.
            let enough = enough * (position + 1) / live.drop.warehouses.len();
            let read = match mark {
                Ok(mark) => backlog.read_on(warehouse, mark, enough).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(()) => reached = true,
                Err(TokenError::NotLoaded) => {}
                Err(error) if error.is_retryable() => {
                    // On a part of a cluster that is being replaced: it comes with a later round.
                    let number = warehouse.number.0;
                    tracing::warn!(drop = %name, warehouse = number, %error, "the log of warehouse {number} waits: {error}");
                    unreachable = Some(error);
                    backlog.unread += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        match unreachable {
            Some(error) if !reached => Err(error.into()),
            _ => Ok(Some(backlog)),
        }
    }

    /// Settles a backlog, then moves the marks of its warehouses as far as nothing is left open behind them. Dying in between
    /// only means that the same claims come again, and are found settled.
    pub async fn settle(&self, backlog: &Backlog) -> Result<SettleReport, EngineError> {
        if backlog.read.is_empty() {
            return Ok(SettleReport::default());
        }
        let live = &backlog.live;
        steps::passed("settle.read");
        let started = Instant::now();
        let lanes = backlog.lanes.iter().filter(|claims| !claims.is_empty()).collect::<Vec<_>>();
        let under_way = AtomicUsize::new(lanes.len());
        let ends = lanes.iter().map(async |claims| {
            let end = self.settle_lane(&live.drop, claims, Settling::Live).await;
            if under_way.fetch_sub(1, Ordering::Relaxed) > 1 {
                steps::passed("settle.lane_ahead");
            }
            end
        });
        // To their ends, whatever becomes of the others.
        let ends = join_all(ends).await;

        let (mut report, mut open, mut failed) = (SettleReport::default(), Vec::new(), None);
        for (claims, end) in lanes.iter().zip(ends) {
            let LaneEnd { settlement, poisoned, done, failed: error } = end;
            report.settled += settlement.settled.len();
            report.duplicates += settlement.duplicates;
            report.rejected += settlement.rejected.len();
            report.poisoned += poisoned;
            report.is_cut |= done < claims.len();
            let of_claim = |claim: &ClaimToSettle| LogPosition { warehouse: claim.warehouse.id, entry: claim.entry };
            open.extend(claims[done..].iter().map(of_claim));
            open.extend(settlement.stale.into_iter().map(all_of));
            failed = failed.or(error);
        }
        if failed.is_none() {
            metrics::histogram!("doorbuster_settle_seconds").record(started.elapsed().as_secs_f64());
        }
        // One after the other, for what their claims were is found out for a whole warehouse at once.
        let to_pass = marks(&backlog.read, open.iter().copied());
        let is_passed =
            |warehouse: &Warehouse, entry: &LogEntry| to_pass.get(&warehouse.id).is_some_and(|mark| entry.id <= *mark);
        let unreadable = backlog.unreadable.iter().filter(|(warehouse, entry)| is_passed(warehouse, entry));
        let unreadable = unreadable.cloned().collect::<Vec<_>>();
        match self.set_unreadable_aside(&live.drop, &unreadable, Settling::Live).await {
            Ok((poisoned, stale)) => {
                report.poisoned += poisoned;
                open.extend(stale.into_iter().map(all_of));
            }
            Err(error) => {
                let of_entry = |(warehouse, entry): &(Warehouse, LogEntry)| (warehouse.id, entry.id);
                let positions = unreadable.iter().map(of_entry);
                open.extend(positions.map(|(warehouse, entry)| LogPosition { warehouse, entry }));
                failed = failed.or(Some(error));
            }
        }

        let now = self.clock.now();
        let trim_before = now.checked_sub(RETENTION).map_or(0, |time| time.as_millisecond().max(0) as u64);
        for (warehouse, mark) in marks(&backlog.read, open) {
            let Some(store) = live.store_by_id(warehouse) else { continue };
            match store.settled(mark, StreamId { ms: trim_before, seq: 0 }).await {
                // A rebuild is under way and settles from its own reading.
                Err(TokenError::Fenced | TokenError::NotLoaded) | Ok(()) => {}
                Err(error) => failed = failed.or(Some(error.into())),
            }
            steps::passed("settle.marked");
        }
        failed.map_or(Ok(report), Err)
    }

    /// Settles claims in their order, until the first of which it is not known that it is committed. Claims that make the
    /// transaction fail are found by halving and set aside.
    async fn settle_lane(&self, drop: &SaleDrop, claims: &[ClaimToSettle], settling: Settling) -> LaneEnd {
        let mut end = LaneEnd::default();
        end.failed = self.settle_parts(drop, claims, settling, &mut end).await.err();
        end
    }

    async fn settle_parts(
        &self,
        drop: &SaleDrop,
        claims: &[ClaimToSettle],
        settling: Settling,
        end: &mut LaneEnd,
    ) -> Result<(), EngineError> {
        // What a crowd has left in few entries is more than one transaction should hold. The oldest part is the last.
        let mut parts = claims.chunks(CLAIMS_PER_TRANSACTION).rev().collect::<Vec<_>>();
        let mut transactions = 0;
        while let Some(part) = parts.pop() {
            if transactions == TRANSACTIONS_PER_ROUND {
                break;
            }
            transactions += 1;
            let now = self.clock.now();
            match self.ledger.settle(drop, part, settling, now).await {
                Ok(settlement) => {
                    self.payments_written.notify_waiters();
                    self.count_settled(part, &settlement, now);
                    end.settlement.add(settlement);
                }
                Err(error) if !error.is_about_the_rows() => return Err(error.into()),
                Err(error) if part.len() == 1 => {
                    let poison = poison_of(&part[0], error.to_string());
                    let (poisoned, stale) = self.set_aside(drop, vec![poison], settling).await?;
                    end.poisoned += poisoned;
                    end.settlement.stale.extend(stale);
                }
                Err(error) => {
                    tracing::warn!(claims = part.len(), %error, "a batch cannot be settled, each half is tried: {error}");
                    let (older, newer) = part.split_at(part.len() / 2);
                    parts.extend([newer, older]);
                    continue;
                }
            }
            end.done += part.len();
        }
        Ok(())
    }

    /// Settles what a rebuild read. Claims that make the transaction fail are set aside, entries that cannot be read as well:
    /// neither keeps the rest from being settled.
    pub(super) async fn settle_or_set_aside(
        &self,
        drop: &SaleDrop,
        read: &ReadLog,
        settling: Settling,
    ) -> Result<Settled, EngineError> {
        let LaneEnd { mut settlement, done, failed, .. } = self.settle_lane(drop, &read.claims, settling).await;
        if let Some(error) = failed {
            return Err(error);
        }
        let is_complete = done == read.claims.len();
        if is_complete {
            let (_, stale) = self.set_unreadable_aside(drop, &read.unreadable, settling).await?;
            settlement.stale.extend(stale);
        }
        Ok(Settled { settlement, is_complete })
    }

    /// Answers how many were set aside, and the warehouses that have begun another epoch.
    async fn set_unreadable_aside(
        &self,
        drop: &SaleDrop,
        unreadable: &[(Warehouse, LogEntry)],
        settling: Settling,
    ) -> Result<(usize, HashSet<WarehouseId>), EngineError> {
        if unreadable.is_empty() {
            return Ok((0, HashSet::new()));
        }
        let poisons = self.explain_unreadable(drop, unreadable).await?;
        self.set_aside(drop, poisons, settling).await
    }

    async fn set_aside(
        &self,
        drop: &SaleDrop,
        poisons: Vec<Poison>,
        settling: Settling,
    ) -> Result<(usize, HashSet<WarehouseId>), EngineError> {
        let stale = self.ledger.set_aside(drop, &poisons, settling, self.clock.now()).await?;
        let mut poisoned = 0;
        for poison in poisons.iter().filter(|poison| !stale.contains(&poison.warehouse.id)) {
            let (drop, warehouse, entry) = (&drop.name, poison.warehouse.number.0, poison.entry.to_string());
            let error = &poison.error;
            match poison.what.claim_id() {
                Some(claim) => {
                    tracing::error!(%drop, warehouse, %claim, error, "the claim {claim} was set aside with its units: {error}");
                }
                None => tracing::error!(%drop, warehouse, entry, error, "the log entry {entry} was set aside: {error}"),
            }
            poisoned += 1;
        }
        Ok((poisoned, stale))
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

/// Every entry of a log comes behind this.
fn all_of(warehouse: WarehouseId) -> LogPosition {
    LogPosition { warehouse, entry: StreamId::ZERO }
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
