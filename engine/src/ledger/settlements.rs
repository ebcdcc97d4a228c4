//! Settlement: claims become orders. The only birth of a drop's order.
//!
//! One transaction a batch, whatever its size:
//!
//! | phase | statement | lock |
//! |---|---|---|
//! | refuse entries of another epoch | lock_warehouses | warehouses FOR SHARE; to reject claims, lines and warehouses FOR UPDATE |
//! | how each buyer pays, and where to | profiles | checkout_profiles FOR KEY SHARE: an erasure waits, or is waited for |
//! | drop what was seen before | seen | |
//! | who holds the units now | lock_tokens | tokens FOR UPDATE, by serial |
//! | what stands in line for lost claims | lock_lost_places | places in standby FOR UPDATE |
//! | units each buyer holds | holdings | |
//! | classify in memory | | |
//! | write (settlement_rows.rs) | orders, items, payments, events, holdings, history, tokens, inventory | inventory, in order |
//!
//! A claim id that was seen once, as an order or as rejected, is never settled again. Two workers that settle the same
//! claims meet at the token locks; the second finds every unit held by the very claim it brings. A claim that makes the
//! transaction fail is found by the caller (flows/settle.rs), who brings fewer and fewer, and set aside (poison.rs).

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use futures_util::join;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::awards;
use super::drops::serial_values;
use super::error::LedgerError;
use super::lost;
use super::pool::Ledger;
use super::settlement_rows::{write_orders, write_rejections};
use super::tx::{planned, run_tx};
use crate::domain::claims::Claim;
use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{ClaimId, Epoch, Serial, StreamId, WarehouseId};
use crate::domain::lost::{ComesBack, LostPlace};
use crate::domain::standby::PlaceState;
use crate::domain::whole_price::{Priced, price};

const SEEN: &str = "-- settlements.seen
    select order_id from orders where order_id = any($1)
    union all select claim_id from rejected_claims where claim_id = any($1)
    union all select claim_id from poisoned_claims where claim_id = any($1) and resolved_at is null";

/// A claim from the log of one warehouse.
#[derive(Debug, Clone)]
pub struct ClaimToSettle {
    pub claim: Claim,
    pub serials: Vec<Serial>,
    pub warehouse: Warehouse,
    /// Under which the claim was taken.
    pub epoch: Epoch,
    pub taken_at: Timestamp,
    /// Where it stands in the log.
    pub entry: StreamId,
}

impl ClaimToSettle {
    /// One that stands in no log: an award, or a claim whose log is lost.
    pub fn without_log(claim: Claim, serials: Vec<Serial>, warehouse: &Warehouse, now: Timestamp) -> Self {
        let entry = StreamId::ZERO;
        Self { claim, serials, warehouse: *warehouse, epoch: warehouse.epoch, taken_at: now, entry }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settling {
    /// Entries of another epoch are left alone.
    Live,
    /// Only the rebuild of a warehouse settles what an older epoch has left behind.
    Rebuild,
    /// An operator's second try of what was set aside, under whatever epoch.
    Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// Another order holds one of the units: Redis had forgotten its claim.
    TokenHeld,
    OverLimit,
    /// A unit that is not this warehouse's, or not of this variant.
    NotGranted,
    UnknownVariant,
    /// It had been lost and came back, and its buyer has an order in its place: of a lost claim and the award that makes it good one
    /// becomes an order.
    MadeGood,
}

impl Rejection {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenHeld => "token_held",
            Self::OverLimit => "over_limit",
            Self::NotGranted => "not_granted",
            Self::UnknownVariant => "unknown_variant",
            Self::MadeGood => "made_good",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    pub settled: Vec<ClaimId>,
    /// Seen before, whatever became of them.
    pub duplicates: usize,
    pub rejected: Vec<(ClaimId, Rejection)>,
    /// Warehouses that have begun another epoch: their claims were left alone.
    pub stale: HashSet<WarehouseId>,
}

impl Settlement {
    /// Takes in what another part of the same batch came to.
    pub fn add(&mut self, other: Self) {
        self.settled.extend(other.settled);
        self.duplicates += other.duplicates;
        self.rejected.extend(other.rejected);
        self.stale.extend(other.stale);
    }
}

/// What the transaction found about the claims before it decided.
struct Findings {
    seen: HashSet<Uuid>,
    tokens: HashMap<i32, TokenRow>,
    held: HashMap<String, Vec<i16>>,
    /// Places in line for lost claims which these claims, or awards, are about.
    lost: Vec<LostRow>,
}

pub(super) struct LostRow {
    pub(super) place: i64,
    pub(super) claim: Uuid,
    pub(super) award: Option<Uuid>,
    pub(super) facts: LostPlace,
}

struct TokenRow {
    variant: i16,
    warehouse: i32,
    /// An order, a claim that was set aside, or the award that it is on its way for.
    holder: Option<Uuid>,
    is_awarded: bool,
}

pub(super) struct Profile {
    /// `None`: the order waits until its buyer gives one.
    pub(super) payment_method: Option<String>,
    pub(super) email: String,
    pub(super) ship_to: Value,
}

impl Profile {
    pub(super) fn country(&self) -> &str {
        self.ship_to.get("country").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A claim that becomes an order.
pub(super) struct Accepted<'a> {
    pub(super) claim: &'a ClaimToSettle,
    pub(super) variant_id: i32,
    pub(super) unit_price_minor: i64,
    pub(super) priced: Priced,
    pub(super) nths: Vec<i16>,
    /// Its buyer may have waited for it in standby.
    pub(super) may_be_award: bool,
}

struct Decision<'a> {
    accepted: Vec<Accepted<'a>>,
    rejected: Vec<(&'a ClaimToSettle, Rejection)>,
    duplicates: usize,
    /// Places in line for claims that have come back.
    ended_places: Vec<i64>,
}

impl Ledger {
    /// Which of these claims have been settled; `true` for those that became an order, whatever became of it since.
    pub async fn settled_claims(&self, claims: &[ClaimId]) -> Result<Vec<(ClaimId, bool)>, LedgerError> {
        const SQL: &str = "-- settlements.settled_claims
            select order_id, true from orders where order_id = any($1)
            union all select claim_id, false from rejected_claims where claim_id = any($1)";
        let claims = claims.iter().map(|claim| claim.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[&claims]).await?;
        Ok(rows.iter().map(|row| (ClaimId(row.get(0)), row.get(1))).collect())
    }

    /// Which of these claims settlement has seen: as an order, as rejected, or set aside.
    pub async fn seen_claims(&self, claims: &[ClaimId]) -> Result<HashSet<ClaimId>, LedgerError> {
        let claims = claims.iter().map(|claim| claim.0).collect::<Vec<_>>();
        run_tx!(self, "settlements.seen_claims", tx, {
            let rows = planned(tx, SEEN, &[&claims]).await?;
            Ok(rows.iter().map(|row| ClaimId(row.get(0))).collect())
        })
    }

    /// Settles claims of one drop. May be repeated with the same claims at any time, also while another worker does the same.
    pub async fn settle(
        &self,
        drop: &SaleDrop,
        claims: &[ClaimToSettle],
        settling: Settling,
        now: Timestamp,
    ) -> Result<Settlement, LedgerError> {
        const TRIES: u32 = 3;
        let mut tried = 1;
        loop {
            // A rejection grants units back, which takes the warehouse exclusively; that is rare, so it is the second try.
            let outcome = match self.try_settle(drop, claims, settling, WarehouseLock::Shared, now).await {
                Ok(None) => self.try_settle(drop, claims, settling, WarehouseLock::Exclusive, now).await,
                other => other,
            };
            match outcome {
                Ok(settlement) => return Ok(settlement.unwrap_or_default()),
                // Two claims of one buyer, settled by two workers at once, chose the same place in his limit.
                Err(error) if error.is_unique_violation() && tried < TRIES => tried += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_settle(
        &self,
        drop: &SaleDrop,
        claims: &[ClaimToSettle],
        settling: Settling,
        lock: WarehouseLock,
        now: Timestamp,
    ) -> Result<Option<Settlement>, LedgerError> {
        run_tx!(self, "settlements.settle", tx, { settle_locked(tx, drop, claims, settling, lock, now).await })
    }
}

/// The whole of a settlement, in the caller's transaction. `None`: claims must be rejected, which takes the exclusive lock.
pub(super) async fn settle_locked(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    claims: &[ClaimToSettle],
    settling: Settling,
    lock: WarehouseLock,
    now: Timestamp,
) -> Result<Option<Settlement>, LedgerError> {
    if lock == WarehouseLock::Exclusive {
        lock_for_rejections(tx, drop, claims).await?;
    }
    let of = claims.iter().map(|claim| (&claim.warehouse, claim.epoch));
    let stale = lock_warehouses(tx, of, settling, lock).await?;
    let claims = claims.iter().filter(|claim| !stale.contains(&claim.warehouse.id)).collect::<Vec<_>>();
    let (findings, profiles) = find(tx, drop, &claims).await?;
    let decision = decide(drop, &claims, settling, findings, &profiles);
    if !decision.rejected.is_empty() && lock == WarehouseLock::Shared {
        return Ok(None);
    }
    write_orders(tx, drop, &decision.accepted, &profiles, now).await?;
    lost::end_places(tx, &decision.ended_places, now).await?;
    write_rejections(tx, drop, &decision.rejected, now).await?;
    Ok(Some(Settlement {
        settled: decision.accepted.iter().map(|accepted| accepted.claim.claim.id).collect(),
        duplicates: decision.duplicates,
        rejected: decision.rejected.iter().map(|(claim, why)| (claim.claim.id, *why)).collect(),
        stale,
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WarehouseLock {
    Shared,
    Exclusive,
}

/// The units of rejected claims may go to standby buyers: their lines and homes come before the warehouses of the claims. A
/// whole batch is not rejected, so the homes of some will do; another one's is taken when it is needed, out of the order of
/// locks, which is rare enough for the retry of a deadlock.
pub(super) async fn lock_for_rejections(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    claims: &[ClaimToSettle],
) -> Result<(), LedgerError> {
    const HOMES: i64 = 256;
    let variants = drop.variants.iter().map(|variant| i16::from(variant.number.0)).collect::<Vec<_>>();
    let warehouses = claims.iter().map(|claim| claim.warehouse.id.0).collect::<HashSet<_>>();
    let warehouses = warehouses.into_iter().collect::<Vec<_>>();
    let units = claims.iter().map(|claim| i64::from(claim.claim.quantity.units())).sum::<i64>();
    awards::lock_standby(tx, drop.id, &variants).await?;
    awards::lock_warehouses_and_homes(tx, drop.id, &warehouses, &variants, units.min(HOMES)).await
}

/// Locks the warehouses of what was logged, and answers which of them have begun another epoch.
pub(super) async fn lock_warehouses(
    tx: &Transaction<'_>,
    logged: impl Iterator<Item = (&Warehouse, Epoch)> + Clone,
    settling: Settling,
    lock: WarehouseLock,
) -> Result<HashSet<WarehouseId>, LedgerError> {
    const SHARED: &str = "-- settlements.lock_warehouses
        select warehouse_id, epoch from warehouses where warehouse_id = any($1) order by warehouse_id for share";
    const EXCLUSIVE: &str = "-- settlements.lock_warehouses_exclusively
        select warehouse_id, epoch from warehouses where warehouse_id = any($1) order by warehouse_id for update";
    let ids = logged.clone().map(|(warehouse, _)| warehouse.id.0).collect::<HashSet<_>>();
    let sql = if lock == WarehouseLock::Shared { SHARED } else { EXCLUSIVE };
    let statement = tx.prepare_cached(sql).await?;
    let rows = tx.query(&statement, &[&ids.into_iter().collect::<Vec<_>>()]).await?;
    let epochs = rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1))).collect::<HashMap<_, _>>();
    let is_stale = |(warehouse, taken_under): &(&Warehouse, Epoch)| {
        let epoch = epochs.get(&warehouse.id.0);
        // A rebuild must still be the newest one; whatever an older epoch left in the stream is its business to settle.
        let fits = match settling {
            Settling::Live => epoch == Some(&taken_under.0),
            Settling::Rebuild => epoch == Some(&warehouse.epoch.0),
            Settling::Retry => epoch.is_some(),
        };
        !fits
    };
    Ok(logged.filter(is_stale).map(|(warehouse, _)| warehouse.id).collect())
}

/// Which of these claims need no settlement any more: orders, rejected ones, and those that wait set aside.
pub(super) async fn seen(tx: &Transaction<'_>, ids: &[Uuid]) -> Result<HashSet<Uuid>, LedgerError> {
    let rows = tx.query(&tx.prepare_cached(SEEN).await?, &[&ids]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn find(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    claims: &[&ClaimToSettle],
) -> Result<(Findings, HashMap<String, Profile>), LedgerError> {
    // These and the holdings by their whole keys: see `settlement_rows.take_tokens`.
    const TOKENS: &str = "-- settlements.lock_tokens
        select serial, variant_number, warehouse_id, coalesce(order_id, poisoned_claim, awarded_claim),
               awarded_claim is not null
        from (select distinct $1::int as drop_id, serial from unnest($2::int[]) as serial) asked
        join tokens t using (drop_id, serial) order by serial for update of t";
    const HELD: &str = "-- settlements.holdings
        select buyer, nth
        from (select distinct $1::int as drop_id, buyer from unnest($2::text[]) as buyer) asked
        join holdings using (drop_id, buyer)";
    const PROFILES: &str = "-- settlements.profiles
        select buyer, nullif(payment_method, 'no_payment_method'), email, ship_to from checkout_profiles
        where buyer = any($1)
        for key share";
    let ids = claims.iter().map(|claim| claim.claim.id.0).collect::<Vec<_>>();
    let buyers = claims.iter().map(|claim| claim.claim.buyer.as_str()).collect::<Vec<_>>();
    let serials = claims.iter().flat_map(|claim| serial_values(&claim.serials)).collect::<Vec<_>>();

    // Planned for these very arrays: a plan for any array, made while the tables were empty, would go through every order for
    // each claim (measured: 3,300 orders/s instead of 11,000). Not for the whole transaction, since the checks of foreign keys
    // would be planned anew for every row.
    tx.batch_execute("-- settlements.plan_for_these\nset local plan_cache_mode = force_custom_plan").await?;
    let (tokens, held, profiles) =
        (tx.prepare_cached(TOKENS).await?, tx.prepare_cached(HELD).await?, tx.prepare_cached(PROFILES).await?);
    let lost = tx.prepare_cached(lost::LOCK_PLACES).await?;
    let token_arguments: [&(dyn ToSql + Sync); 2] = [&drop.id.0, &serials];
    let held_arguments: [&(dyn ToSql + Sync); 2] = [&drop.id.0, &buyers];
    let profile_arguments: [&(dyn ToSql + Sync); 1] = [&buyers];
    let lost_arguments: [&(dyn ToSql + Sync); 2] = [&drop.id.0, &ids];
    let (profiles, tokens, lost) = join!(
        tx.query(&profiles, &profile_arguments),
        tx.query(&tokens, &token_arguments),
        tx.query(&lost, &lost_arguments),
    );
    let (profiles, tokens, lost) = (profiles?, tokens?, lost?);
    // Sent after the token locks: whoever settled the same claims before us has committed by now.
    let (seen, held, planned) = join!(
        seen(tx, &ids),
        tx.query(&held, &held_arguments),
        tx.batch_execute("-- settlements.plan_as_ever\nset local plan_cache_mode = auto"),
    );
    let (seen, held) = (seen?, held?);
    planned?;
    let lost = lost::places(tx, &lost).await?;

    let mut places: HashMap<String, Vec<i16>> = HashMap::new();
    for row in &held {
        places.entry(row.get(0)).or_default().push(row.get(1));
    }
    let tokens = tokens
        .iter()
        .map(|row| {
            (
                row.get(0),
                TokenRow { variant: row.get(1), warehouse: row.get(2), holder: row.get(3), is_awarded: row.get(4) },
            )
        })
        .collect();
    let profiles = profiles
        .iter()
        .map(|row| (row.get(0), Profile { payment_method: row.get(1), email: row.get(2), ship_to: row.get(3) }))
        .collect();
    Ok((Findings { seen, tokens, held: places, lost }, profiles))
}

impl Findings {
    /// Whether this is a lost claim, or the award in its place, of which the other one has become an order.
    fn is_made_good(&self, id: Uuid) -> bool {
        self.lost.iter().any(|row| {
            (row.claim == id && row.facts.comes_back() == ComesBack::TooLate)
                || (row.award == Some(id) && !row.facts.takes_award())
        })
    }

    /// Notes that a claim becomes an order, for those behind it; answers the place that nobody waits in any more.
    fn note_order(&mut self, id: Uuid) -> Option<i64> {
        let mut ended = None;
        for row in &mut self.lost {
            if row.award == Some(id) {
                row.facts.state = PlaceState::Taken;
            } else if row.claim == id {
                row.facts.has_come_back = true;
                ended = (row.facts.comes_back() == ComesBack::EndsPlace).then_some(row.place);
            }
        }
        ended
    }
}

/// Goes through the claims in the order of the log; what one claim takes, the next one finds taken.
fn decide<'a>(
    drop: &SaleDrop,
    claims: &[&'a ClaimToSettle],
    settling: Settling,
    mut findings: Findings,
    profiles: &HashMap<String, Profile>,
) -> Decision<'a> {
    let mut decision = Decision { accepted: Vec::new(), rejected: Vec::new(), duplicates: 0, ended_places: Vec::new() };
    for claim in claims.iter().copied() {
        let id = claim.claim.id.0;
        if !findings.seen.insert(id) {
            decision.duplicates += 1;
            continue;
        }
        let address = profiles.get(claim.claim.buyer.as_str()).map(Profile::country);
        match accept(drop, claim, settling, &mut findings, address) {
            Ok(accepted) => {
                decision.accepted.push(accepted);
                decision.ended_places.extend(findings.note_order(id));
            }
            Err(reason) => decision.rejected.push((claim, reason)),
        }
    }
    decision
}

fn accept<'a>(
    drop: &SaleDrop,
    claim: &'a ClaimToSettle,
    settling: Settling,
    findings: &mut Findings,
    address: Option<&str>,
) -> Result<Accepted<'a>, Rejection> {
    let variant = drop.variant(claim.claim.variant).ok_or(Rejection::UnknownVariant)?;
    if findings.is_made_good(claim.claim.id.0) {
        return Err(Rejection::MadeGood);
    }
    // What an award brought and settlement set aside bears the mark of that instead.
    let mut may_be_award = settling == Settling::Retry;
    for serial in serial_values(&claim.serials) {
        let token = findings.tokens.get(&serial);
        may_be_award |= token.is_some_and(|token| token.is_awarded);
        match token {
            // A unit that was awarded is its own award's, and nobody else's.
            Some(token) if token.holder.is_some_and(|holder| holder != claim.claim.id.0) => {
                return Err(Rejection::TokenHeld);
            }
            Some(token)
                if token.warehouse == claim.warehouse.id.0 && token.variant == i16::from(claim.claim.variant.0) => {}
            _ => return Err(Rejection::NotGranted),
        }
    }
    let held = findings.held.entry(claim.claim.buyer.as_str().to_owned()).or_default();
    let free = (1..=drop.buyer_limit as i16).filter(|nth| !held.contains(nth));
    let nths = free.take(claim.claim.quantity.units() as usize).collect::<Vec<_>>();
    if nths.len() < claim.claim.quantity.units() as usize {
        return Err(Rejection::OverLimit);
    }
    let Claim { quantity, told, .. } = &claim.claim;
    let priced = price(&drop.terms, variant.price, quantity.units(), address, *told);
    let priced = priced.expect("a table of rates has a row, or the drop's own terms stand for it");
    let priced = priced.expect("a drop is only opened when the price of an order at its limit fits");
    held.extend(&nths);
    for serial in serial_values(&claim.serials) {
        if let Some(token) = findings.tokens.get_mut(&serial) {
            token.holder = Some(claim.claim.id.0);
        }
    }
    Ok(Accepted {
        claim,
        variant_id: variant.variant_id,
        unit_price_minor: variant.price.amount_minor,
        priced,
        nths,
        may_be_award,
    })
}
