//! Settlement: claims become orders. The only birth of a drop's order.
//!
//! One transaction a batch, whatever its size:
//!
//! | phase | statement | lock |
//! |---|---|---|
//! | refuse entries of another epoch | lock_warehouses | warehouses FOR SHARE |
//! | drop what was seen before | seen | |
//! | who holds the units now | lock_tokens | tokens FOR UPDATE, by serial |
//! | units each buyer holds, his profile | holdings, profiles | |
//! | classify in memory | | |
//! | write | orders, items, payments, history, events, holdings, tokens, inventory | inventory, in order |
//!
//! A claim id that was seen once, as an order or as rejected, is never settled again. Two workers that settle the same
//! claims meet at the token locks; the second finds every unit held by the very claim it brings.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::drops::serial_values;
use super::error::{LedgerError, expect_rows};
use super::grants;
use super::outbox;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::claims::Claim;
use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{ClaimId, Epoch, Serial, WarehouseId};
use crate::domain::orders::OrderState;
use crate::domain::payments::PaymentState;
use crate::domain::pricing::Totals;

/// A claim from the log of one warehouse.
#[derive(Debug, Clone)]
pub struct ClaimToSettle {
    pub claim: Claim,
    pub serials: Vec<Serial>,
    pub warehouse: Warehouse,
    /// Under which the claim was taken.
    pub epoch: Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settling {
    /// Entries of another epoch are left alone.
    Live,
    /// Only the rebuild of a warehouse settles what an older epoch has left behind.
    Rebuild,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// Another order holds one of the units: Redis had forgotten its claim.
    TokenHeld,
    OverLimit,
    /// A unit that is not this warehouse's, or not of this variant.
    NotGranted,
    UnknownVariant,
}

impl Rejection {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenHeld => "token_held",
            Self::OverLimit => "over_limit",
            Self::NotGranted => "not_granted",
            Self::UnknownVariant => "unknown_variant",
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

/// What the transaction found about the claims before it decided.
struct Findings {
    seen: HashSet<Uuid>,
    tokens: HashMap<i32, TokenRow>,
    held: HashMap<String, Vec<i16>>,
}

struct TokenRow {
    variant: i16,
    warehouse: i32,
    holder: Option<Uuid>,
}

struct Profile {
    payment_method: String,
    email: String,
    ship_to: Value,
}

/// A claim that becomes an order.
struct Accepted<'a> {
    claim: &'a ClaimToSettle,
    variant_id: i32,
    unit_price_minor: i64,
    totals: Totals,
    nths: Vec<i16>,
}

struct Decision<'a> {
    accepted: Vec<Accepted<'a>>,
    rejected: Vec<(&'a ClaimToSettle, Rejection)>,
    duplicates: usize,
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
        run_tx!(self, "settlements.settle", tx, {
            let stale = lock_warehouses(tx, claims, settling, lock).await?;
            let claims = claims.iter().filter(|claim| !stale.contains(&claim.warehouse.id)).collect::<Vec<_>>();
            let (findings, profiles) = find(tx, drop, &claims).await?;
            let decision = decide(drop, &claims, findings);
            if !decision.rejected.is_empty() && lock == WarehouseLock::Shared {
                return Ok(None);
            }
            write_orders(tx, drop, &decision.accepted, &profiles, now).await?;
            write_rejections(tx, drop, &decision.rejected, now).await?;
            Ok(Some(Settlement {
                settled: decision.accepted.iter().map(|accepted| accepted.claim.claim.id).collect(),
                duplicates: decision.duplicates,
                rejected: decision.rejected.iter().map(|(claim, why)| (claim.claim.id, *why)).collect(),
                stale,
            }))
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WarehouseLock {
    Shared,
    Exclusive,
}

async fn lock_warehouses(
    tx: &Transaction<'_>,
    claims: &[ClaimToSettle],
    settling: Settling,
    lock: WarehouseLock,
) -> Result<HashSet<WarehouseId>, LedgerError> {
    const SHARED: &str = "-- settlements.lock_warehouses
        select warehouse_id, epoch from warehouses where warehouse_id = any($1) order by warehouse_id for share";
    const EXCLUSIVE: &str = "-- settlements.lock_warehouses_exclusively
        select warehouse_id, epoch from warehouses where warehouse_id = any($1) order by warehouse_id for update";
    let ids = claims.iter().map(|claim| claim.warehouse.id.0).collect::<HashSet<_>>();
    let sql = if lock == WarehouseLock::Shared { SHARED } else { EXCLUSIVE };
    let statement = tx.prepare_cached(sql).await?;
    let rows = tx.query(&statement, &[&ids.into_iter().collect::<Vec<_>>()]).await?;
    let epochs = rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1))).collect::<HashMap<_, _>>();
    let is_stale = |claim: &&ClaimToSettle| {
        let epoch = epochs.get(&claim.warehouse.id.0);
        // A rebuild must still be the newest one; whatever an older epoch left in the stream is its business to settle.
        let fits = match settling {
            Settling::Live => epoch == Some(&claim.epoch.0),
            Settling::Rebuild => epoch == Some(&claim.warehouse.epoch.0),
        };
        !fits
    };
    Ok(claims.iter().filter(is_stale).map(|claim| claim.warehouse.id).collect())
}

async fn find(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    claims: &[&ClaimToSettle],
) -> Result<(Findings, HashMap<String, Profile>), LedgerError> {
    const SEEN: &str = "-- settlements.seen
        select order_id from orders where order_id = any($1)
        union all select claim_id from rejected_claims where claim_id = any($1)";
    const TOKENS: &str = "-- settlements.lock_tokens
        select serial, variant_number, warehouse_id, order_id from tokens
        where drop_id = $1 and serial = any($2) order by serial for update";
    const HELD: &str = "-- settlements.holdings
        select buyer, nth from holdings where drop_id = $1 and buyer = any($2)";
    const PROFILES: &str = "-- settlements.profiles
        select buyer, payment_method, email, ship_to from checkout_profiles where buyer = any($1)";
    let ids = claims.iter().map(|claim| claim.claim.id.0).collect::<Vec<_>>();
    let buyers = claims.iter().map(|claim| claim.claim.buyer.as_str()).collect::<Vec<_>>();
    let serials = claims.iter().flat_map(|claim| serial_values(&claim.serials)).collect::<Vec<_>>();

    let tokens = tx.query(&tx.prepare_cached(TOKENS).await?, &[&drop.id.0, &serials]).await?;
    // After the token locks: whoever settled the same claims before us has committed by now.
    let seen = tx.query(&tx.prepare_cached(SEEN).await?, &[&ids]).await?;
    let held = tx.query(&tx.prepare_cached(HELD).await?, &[&drop.id.0, &buyers]).await?;
    let profiles = tx.query(&tx.prepare_cached(PROFILES).await?, &[&buyers]).await?;

    let mut places: HashMap<String, Vec<i16>> = HashMap::new();
    for row in &held {
        places.entry(row.get(0)).or_default().push(row.get(1));
    }
    let tokens = tokens
        .iter()
        .map(|row| (row.get(0), TokenRow { variant: row.get(1), warehouse: row.get(2), holder: row.get(3) }))
        .collect();
    let profiles = profiles
        .iter()
        .map(|row| (row.get(0), Profile { payment_method: row.get(1), email: row.get(2), ship_to: row.get(3) }))
        .collect();
    let seen = seen.iter().map(|row| row.get(0)).collect();
    Ok((Findings { seen, tokens, held: places }, profiles))
}

/// Goes through the claims in the order of the log; what one claim takes, the next one finds taken.
fn decide<'a>(drop: &SaleDrop, claims: &[&'a ClaimToSettle], mut findings: Findings) -> Decision<'a> {
    let mut decision = Decision { accepted: Vec::new(), rejected: Vec::new(), duplicates: 0 };
    for claim in claims.iter().copied() {
        let id = claim.claim.id.0;
        if !findings.seen.insert(id) {
            decision.duplicates += 1;
            continue;
        }
        match accept(drop, claim, &mut findings) {
            Ok(accepted) => decision.accepted.push(accepted),
            Err(reason) => decision.rejected.push((claim, reason)),
        }
    }
    decision
}

fn accept<'a>(drop: &SaleDrop, claim: &'a ClaimToSettle, findings: &mut Findings) -> Result<Accepted<'a>, Rejection> {
    let variant = drop.variant(claim.claim.variant).ok_or(Rejection::UnknownVariant)?;
    for serial in serial_values(&claim.serials) {
        match findings.tokens.get(&serial) {
            Some(token) if token.holder.is_some() => return Err(Rejection::TokenHeld),
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
    let totals = Totals::of_units(variant.price, claim.claim.quantity.units(), drop.tax_basis_points, drop.shipping)
        .expect("a drop is only made when the price of an order at its limit fits");
    held.extend(&nths);
    for serial in serial_values(&claim.serials) {
        if let Some(token) = findings.tokens.get_mut(&serial) {
            token.holder = Some(claim.claim.id.0);
        }
    }
    Ok(Accepted { claim, variant_id: variant.variant_id, unit_price_minor: variant.price.amount_minor, totals, nths })
}

async fn write_orders(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    accepted: &[Accepted<'_>],
    profiles: &HashMap<String, Profile>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    if accepted.is_empty() {
        return Ok(());
    }
    const ORDERS: &str = "-- settlements.insert_orders
        insert into orders (order_id, buyer, drop_id, status, currency, subtotal_minor, tax_minor, shipping_minor,
                            total_minor, email, ship_to, created_at, updated_at)
        select order_id, buyer, $1, $2, $3, subtotal, tax, shipping, total, email, ship_to, $4, $4
        from unnest($5::uuid[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::text[],
                    $12::jsonb[]) as o (order_id, buyer, subtotal, tax, shipping, total, email, ship_to)";
    const ITEMS: &str = "-- settlements.insert_items
        insert into order_items (order_id, line, product_id, variant_id, warehouse_id, quantity, unit_price_minor, serials)
        select order_id, 1, $1, variant_id, warehouse_id, quantity, unit_price, serials::int[]
        from unnest($2::uuid[], $3::int[], $4::int[], $5::int[], $6::bigint[], $7::text[])
             as i (order_id, variant_id, warehouse_id, quantity, unit_price, serials)";
    const PAYMENTS: &str = "-- settlements.insert_payments
        insert into payments (order_id, state, amount_minor, currency, idempotency_key, payment_method, due_at, updated_at)
        select order_id, case when method is null then $1 else $2 end, amount, $3, 'order-' || order_id, method,
               case when method is null then null else $4::timestamptz end, $4
        from unnest($5::uuid[], $6::bigint[], $7::text[]) as p (order_id, amount, method)";
    const HISTORY: &str = "-- settlements.insert_history
        insert into order_history (order_id, at, from_state, to_state, actor, reason)
        select order_id, $1, null, $2, 'settlement', 'claim settled' from unnest($3::uuid[]) as h (order_id)";
    const HOLDINGS: &str = "-- settlements.insert_holdings
        insert into holdings (drop_id, buyer, nth, order_id)
        select $1, buyer, nth, order_id from unnest($2::text[], $3::smallint[], $4::uuid[]) as h (buyer, nth, order_id)";
    const TOKENS: &str = "-- settlements.take_tokens
        update tokens t set order_id = u.order_id from unnest($2::int[], $3::uuid[]) as u (serial, order_id)
        where t.drop_id = $1 and t.serial = u.serial and t.order_id is null";
    const INVENTORY: &str = "-- settlements.reserve
        update inventory i set quantity_reserved = quantity_reserved + u.units, version = version + 1
        from unnest($2::int[], $3::int[], $4::int[]) as u (variant_id, warehouse_id, units)
        where i.product_id = $1 and i.variant_id = u.variant_id and i.warehouse_id = u.warehouse_id";

    let count = accepted.len() as u64;
    let column = |value: fn(&Totals) -> i64| accepted.iter().map(|a| value(&a.totals)).collect::<Vec<_>>();
    let ids = accepted.iter().map(|a| a.claim.claim.id.0).collect::<Vec<_>>();
    let buyers = accepted.iter().map(|a| a.claim.claim.buyer.as_str()).collect::<Vec<_>>();
    let profile = |a: &Accepted<'_>| profiles.get(a.claim.claim.buyer.as_str());
    let emails = accepted.iter().map(|a| profile(a).map(|p| p.email.as_str())).collect::<Vec<_>>();
    let addresses = accepted.iter().map(|a| profile(a).map(|p| &p.ship_to)).collect::<Vec<_>>();
    let methods = accepted.iter().map(|a| profile(a).map(|p| p.payment_method.as_str())).collect::<Vec<_>>();
    let (subtotals, taxes) = (column(|t| t.subtotal.amount_minor), column(|t| t.tax.amount_minor));
    let (shippings, totals) = (column(|t| t.shipping.amount_minor), column(|t| t.total.amount_minor));
    let variants = accepted.iter().map(|a| a.variant_id).collect::<Vec<_>>();
    let warehouses = accepted.iter().map(|a| a.claim.warehouse.id.0).collect::<Vec<_>>();
    let quantities = accepted.iter().map(|a| a.claim.claim.quantity.units() as i32).collect::<Vec<_>>();
    let prices = accepted.iter().map(|a| a.unit_price_minor).collect::<Vec<_>>();
    let serial_lists = accepted.iter().map(|a| array_text(&serial_values(&a.claim.serials))).collect::<Vec<_>>();
    let pending = OrderState::PendingPayment.as_str();
    let currency = drop.currency.as_str();

    let changed = tx
        .execute(
            &tx.prepare_cached(ORDERS).await?,
            &[
                &drop.id.0, &pending, &currency, /* now */ &now, &ids, &buyers, &subtotals, &taxes, &shippings,
                &totals, &emails, &addresses,
            ],
        )
        .await?;
    expect_rows("settlements.insert_orders", count, changed)?;
    let statement = tx.prepare_cached(ITEMS).await?;
    tx.execute(&statement, &[&drop.product_id, &ids, &variants, &warehouses, &quantities, &prices, &serial_lists])
        .await?;
    let (required, in_flight) = (PaymentState::Required.as_str(), PaymentState::InFlight.as_str());
    let statement = tx.prepare_cached(PAYMENTS).await?;
    tx.execute(&statement, &[&required, &in_flight, &currency, /* now */ &now, &ids, &totals, &methods]).await?;
    tx.execute(&tx.prepare_cached(HISTORY).await?, &[/* now */ &now, &pending, &ids]).await?;
    outbox::enqueue_created(tx, &ids, now).await?;

    let places = accepted.iter().flat_map(|a| a.nths.iter().map(move |nth| (a, *nth))).collect::<Vec<_>>();
    let place_buyers = places.iter().map(|(a, _)| a.claim.claim.buyer.as_str()).collect::<Vec<_>>();
    let place_nths = places.iter().map(|(_, nth)| *nth).collect::<Vec<_>>();
    let place_orders = places.iter().map(|(a, _)| a.claim.claim.id.0).collect::<Vec<_>>();
    let statement = tx.prepare_cached(HOLDINGS).await?;
    tx.execute(&statement, &[&drop.id.0, &place_buyers, &place_nths, &place_orders]).await?;

    let units =
        accepted.iter().flat_map(|a| serial_values(&a.claim.serials).into_iter().map(|s| (s, a.claim.claim.id.0)));
    let (serials, holders): (Vec<_>, Vec<_>) = units.unzip();
    let changed = tx.execute(&tx.prepare_cached(TOKENS).await?, &[&drop.id.0, &serials, &holders]).await?;
    expect_rows("settlements.take_tokens", serials.len() as u64, changed)?;

    let mut reserved: HashMap<(i32, i32), i32> = HashMap::new();
    for a in accepted {
        *reserved.entry((a.variant_id, a.claim.warehouse.id.0)).or_default() += a.claim.claim.quantity.units() as i32;
    }
    let variants = reserved.keys().map(|key| key.0).collect::<Vec<_>>();
    let warehouses = reserved.keys().map(|key| key.1).collect::<Vec<_>>();
    let units = reserved.values().copied().collect::<Vec<_>>();
    grants::lock_inventory(tx, drop.product_id, &variants, &warehouses).await?;
    let statement = tx.prepare_cached(INVENTORY).await?;
    let changed = tx.execute(&statement, &[&drop.product_id, &variants, &warehouses, &units]).await?;
    expect_rows("settlements.reserve", reserved.len() as u64, changed)
}

/// Remembers rejected claims, and grants back the units that nobody holds.
async fn write_rejections(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    rejected: &[(&ClaimToSettle, Rejection)],
    now: Timestamp,
) -> Result<(), LedgerError> {
    const REJECT: &str = "-- settlements.reject
        insert into rejected_claims (claim_id, drop_id, buyer, reason, serials, settled_at) values ($1, $2, $3, $4, $5, $6)";
    const FREE: &str = "-- settlements.free_of
        select serial from tokens
        where drop_id = $1 and serial = any($2) and warehouse_id = $3 and order_id is null order by serial";
    for (claim, reason) in rejected {
        let serials = serial_values(&claim.serials);
        let released = grants::Released {
            claim: claim.claim.id,
            buyer: claim.claim.buyer.clone(),
            variant: claim.claim.variant,
            units: claim.claim.quantity.units(),
        };
        let (id, buyer) = (&released.claim, &released.buyer);
        tx.execute(REJECT, &[&id.0, &drop.id.0, &buyer.as_str(), &reason.as_str(), &serials, /* now */ &now]).await?;
        let free = tx.query(FREE, &[&drop.id.0, &serials, &claim.warehouse.id.0]).await?;
        let free = free.iter().map(|row| super::drops::serial(row.get(0))).collect::<Vec<_>>();
        grants::insert(tx, claim.warehouse.id, "release", &free, Some(&released), None).await?;
    }
    Ok(())
}

/// Postgres' text form of an array: unnest takes apart arrays of arrays, so each list travels as text.
fn array_text(values: &[i32]) -> String {
    let numbers = values.iter().map(ToString::to_string).collect::<Vec<_>>();
    format!("{{{}}}", numbers.join(","))
}
