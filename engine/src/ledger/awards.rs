//! Awards: units that come back go to standby buyers first. The one function for all of them, wherever they come from.
//!
//! In the transaction that gives units back, under the lock of the line: [`hand_out`] takes the first places in line that the
//! units cover and answers what is left for everybody, [`write`] inserts a grant for each place and moves its units to the
//! buyer's home. From then on `tokens.awarded_claim` keeps them from everybody else: no pull, no rebuild and no settlement
//! of another claim takes them. The grant makes them a claim of the buyer's (lua/award.lua), and settlement an order.
//!
//! What the home refuses is a claim that could not become an order: [`Ledger::refuse_award`] rejects it as settlement would,
//! which gives the units back, to the next in line. Should Redis forget before it is told, or after, the rebuild of the
//! warehouse decides what is in flight ([`Ledger::awards_in_flight`]): then Postgres knows everything that its script would.
//!
//! The rule of the line: a place is all or nothing, and a return of units goes to the first places whose quantities it covers,
//! one after the other. Who wants more than came back waits for a larger return, with his place; who wants less and stands
//! behind him is served meanwhile.

use std::collections::{BTreeMap, HashMap};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use uuid::Uuid;

use super::drops::{inconsistent, serial_values, serials};
use super::error::{LedgerError, expect_rows};
use super::grants::lock_inventory;
use super::pool::Ledger;
use super::settlement_rows::write_rejections;
use super::settlements::{ClaimToSettle, Rejection, seen};
use super::tx::run_tx;
use crate::domain::claims::{Claim, Quantity};
use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{BuyerId, ClaimId, DropId, GrantNumber, PlaceId, Serial, VariantNumber, WarehouseId};

/// Places looked at in one go.
const PLACES_PER_LOOK: u32 = 1000;

/// Units of one variant that lie in one warehouse.
pub(super) type Units = (WarehouseId, Vec<Serial>);

/// What becomes of units that came back.
#[derive(Debug, Default)]
pub(super) struct HandedOut {
    pub(super) awards: Vec<Award>,
    /// Nobody in line wants these: they stay where they lie.
    pub(super) rest: Vec<Units>,
}

/// Units for one place.
#[derive(Debug)]
pub(super) struct Award {
    place: PlaceId,
    claim: Claim,
    home: WarehouseId,
    units: Vec<Units>,
}

/// Which stock it is: the key of its inventory, without the warehouse.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stock {
    pub(super) drop: DropId,
    pub(super) product: i32,
    pub(super) variant_id: i32,
}

/// Takes the lines of these variants, before any warehouse: who holds one decides alone who is first.
pub(super) async fn lock_standby(tx: &Transaction<'_>, drop: DropId, variants: &[i16]) -> Result<(), LedgerError> {
    const SQL: &str = "-- awards.lock_standby
        select 1 from drop_variants where drop_id = $1 and number = any($2) order by number for no key update";
    tx.query(&tx.prepare_cached(SQL).await?, &[&drop.0, &variants]).await?;
    Ok(())
}

/// Takes warehouses together with the homes of those who may be awarded up to `units` of each variant: in one statement, in
/// the order of their ids. The caller holds the lines.
pub(super) async fn lock_warehouses_and_homes(
    tx: &Transaction<'_>,
    drop: DropId,
    warehouses: &[i32],
    variants: &[i16],
    units: i64,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- awards.lock_warehouses
        select 1 from warehouses where warehouse_id = any($2) or warehouse_id in (
            select first.warehouse_id from unnest($3::smallint[]) as variant (number), lateral (
                select p.warehouse_id from standby_places p
                where p.drop_id = $1 and p.variant_number = variant.number and p.state = 'WAITING'
                      and p.quantity <= $4::bigint
                order by p.precedence, p.place_id limit $4) first)
        order by warehouse_id for update";
    tx.query(&tx.prepare_cached(SQL).await?, &[&drop.0, &warehouses, &variants, &units]).await?;
    Ok(())
}

/// Finds out who gets units that came back. The caller holds the line, and writes what it comes to with [`write`], after the
/// grant that ends a claim: it may be one of the very buyer who is first.
pub(super) async fn hand_out(
    tx: &Transaction<'_>,
    drop: DropId,
    variant: VariantNumber,
    came_back: Vec<Units>,
) -> Result<HandedOut, LedgerError> {
    const NEXT: &str = "-- awards.next_in_line
        select place_id, buyer, quantity, warehouse_id, precedence from standby_places
        where drop_id = $1 and variant_number = $2 and state = 'WAITING' and quantity <= $3
              and (precedence, place_id) > ($4, $5)
              and exists (select 1 from drops d where d.drop_id = $1 and d.state in ('open', 'paused'))
        order by precedence, place_id limit $6 for update";
    let mut free = came_back.into_iter().flat_map(|(at, serials)| serials.into_iter().map(move |serial| (at, serial)));
    let mut left = free.clone().count() as u32;
    let mut handed = HandedOut::default();
    let (mut precedence, mut after) = (-1_i16, 0_i64);
    let next = tx.prepare_cached(NEXT).await?;
    // Once through the line: who was passed over wanted more than was left then, and less is left now.
    while left > 0 {
        let limit = i64::from(left.min(PLACES_PER_LOOK));
        let fits = left.min(u32::from(Quantity::MAX.as_byte())) as i16;
        let number = i16::from(variant.0);
        let rows = tx.query(&next, &[&drop.0, &number, &fits, &precedence, &after, &limit]).await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            let (place, buyer, quantity): (i64, &str, i16) = (row.get(0), row.get(1), row.get(2));
            (precedence, after) = (row.get(4), place);
            let wrong = |column, value: &str| inconsistent("standby_places", column, place, value);
            let buyer: BuyerId = buyer.parse().map_err(|_| wrong("buyer", buyer))?;
            let quantity = Quantity::new(quantity.into()).map_err(|_| wrong("quantity", &quantity.to_string()))?;
            if quantity.units() > left {
                continue;
            }
            left -= quantity.units();
            let place = PlaceId(place);
            handed.awards.push(Award {
                place,
                claim: Claim { id: ClaimId::of_place(drop, &buyer, place), buyer, variant, quantity, told: None },
                home: WarehouseId(row.get(3)),
                units: gather(free.by_ref().take(quantity.units() as usize)),
            });
        }
    }
    handed.rest = gather(free);
    Ok(handed)
}

/// Grants units to the places that [`hand_out`] chose, and moves them to the homes of their buyers.
///
/// An award puts nothing on sale: in Redis its units were no one's, or not known yet, and become a claim in one step. So no
/// refusal can overlap a unit that is on sale, and they need not rest first.
pub(super) async fn write(
    tx: &Transaction<'_>,
    stock: Stock,
    awards: &[Award],
    now: Timestamp,
) -> Result<(), LedgerError> {
    if awards.is_empty() {
        return Ok(());
    }
    const NUMBERS: &str = "-- awards.number
        update warehouses w set last_grant = last_grant + n.awards
        from unnest($1::int[], $2::bigint[]) as n (warehouse_id, awards) where w.warehouse_id = n.warehouse_id
        returning w.warehouse_id, w.last_grant - n.awards";
    const GRANTS: &str = "-- awards.insert
        insert into grants (warehouse_id, number, kind, serials, claim_id, buyer, claim_variant, claim_units)
        select warehouse_id, number, 'award', serials::int[], claim_id, buyer, $1, units
        from unnest($2::int[], $3::bigint[], $4::text[], $5::uuid[], $6::text[], $7::smallint[])
             as a (warehouse_id, number, serials, claim_id, buyer, units)";
    // By the whole key of each: see `settlement_rows.take_tokens`.
    const TOKENS: &str = "-- awards.move_tokens
        update tokens t set warehouse_id = u.warehouse_id, awarded_claim = u.claim_id, rested_at = null
        from (select $1::int as drop_id, serial, warehouse_id, claim_id, null::uuid as nobody
              from unnest($2::int[], $3::int[], $4::uuid[]) as u (serial, warehouse_id, claim_id) offset 0) u
        where t.drop_id = u.drop_id and t.serial = u.serial
              and coalesce(t.order_id, t.poisoned_claim, t.awarded_claim) is not distinct from u.nobody";
    const PLACES: &str = "-- awards.award_places
        update standby_places p set state = 'AWARDED', claim_id = a.claim_id, awarded_at = $1
        from unnest($2::bigint[], $3::uuid[]) as a (place_id, claim_id)
        where p.place_id = a.place_id and p.state = 'WAITING'";
    const INVENTORY: &str = "-- awards.move_inventory
        update inventory i set quantity_available = quantity_available + d.units, version = version + 1
        from unnest($3::int[], $4::int[]) as d (warehouse_id, units)
        where i.product_id = $1 and i.variant_id = $2 and i.warehouse_id = d.warehouse_id";

    let homes = awards.iter().map(|award| award.home.0).collect::<Vec<_>>();
    let mut counts: BTreeMap<i32, i64> = BTreeMap::new();
    homes.iter().for_each(|home| *counts.entry(*home).or_default() += 1);
    let (warehouses, added): (Vec<_>, Vec<_>) = counts.into_iter().unzip();
    let rows = tx.query(&tx.prepare_cached(NUMBERS).await?, &[&warehouses, &added]).await?;
    expect_rows("awards.number", warehouses.len() as u64, rows.len() as u64)?;
    let mut last = rows.iter().map(|row| (row.get(0), row.get(1))).collect::<HashMap<i32, i64>>();
    let mut number = |home: &i32| {
        let last = last.get_mut(home).expect("every home was numbered just now");
        *last += 1;
        *last
    };
    let numbers = homes.iter().map(&mut number).collect::<Vec<_>>();
    let of_award = |award: &Award| {
        let numbers = award.units.iter().flat_map(|(_, units)| serial_values(units)).map(|serial| serial.to_string());
        format!("{{{}}}", numbers.collect::<Vec<_>>().join(","))
    };
    let serial_lists = awards.iter().map(of_award).collect::<Vec<_>>();
    let claims = awards.iter().map(|award| award.claim.id.0).collect::<Vec<_>>();
    let buyers = awards.iter().map(|award| award.claim.buyer.as_str()).collect::<Vec<_>>();
    let quantities = awards.iter().map(|award| award.claim.quantity.units() as i16).collect::<Vec<_>>();
    let variant = i16::from(awards[0].claim.variant.0);
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&variant, &homes, &numbers, &serial_lists, &claims, &buyers, &quantities];
    let changed = tx.execute(&tx.prepare_cached(GRANTS).await?, arguments).await?;
    expect_rows("awards.insert", awards.len() as u64, changed)?;

    let (mut moved, mut to, mut whose) = (Vec::new(), Vec::new(), Vec::new());
    let mut deltas: BTreeMap<i32, i32> = BTreeMap::new();
    for award in awards {
        for (from, units) in &award.units {
            *deltas.entry(from.0).or_default() -= units.len() as i32;
            *deltas.entry(award.home.0).or_default() += units.len() as i32;
            for serial in serial_values(units) {
                moved.push(serial);
                to.push(award.home.0);
                whose.push(award.claim.id.0);
            }
        }
    }
    let changed = tx.execute(&tx.prepare_cached(TOKENS).await?, &[&stock.drop.0, &moved, &to, &whose]).await?;
    expect_rows("awards.move_tokens", moved.len() as u64, changed)?;
    let places = awards.iter().map(|award| award.place.0).collect::<Vec<_>>();
    let changed = tx.execute(&tx.prepare_cached(PLACES).await?, &[/* now */ &now, &places, &claims]).await?;
    expect_rows("awards.award_places", awards.len() as u64, changed)?;

    deltas.retain(|_, units| *units != 0);
    let (warehouses, units): (Vec<_>, Vec<_>) = deltas.into_iter().unzip();
    lock_inventory(tx, stock.product, &[stock.variant_id], &warehouses).await?;
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&stock.product, &stock.variant_id, &warehouses, &units];
    let changed = tx.execute(&tx.prepare_cached(INVENTORY).await?, arguments).await?;
    expect_rows("awards.move_inventory", warehouses.len() as u64, changed)
}

/// Which of these claims, about to become orders, were made by awards; their places are taken with it.
pub(super) async fn take_places(
    tx: &Transaction<'_>,
    claims: &[Uuid],
    now: Timestamp,
) -> Result<Vec<Uuid>, LedgerError> {
    const SQL: &str = "-- awards.take_places
        update standby_places set state = 'TAKEN', ended_at = $2 where claim_id = any($1) and state = 'AWARDED'
        returning claim_id";
    let rows = tx.query(&tx.prepare_cached(SQL).await?, &[&claims, /* now */ &now]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Ends the place of an award that could not become an order.
pub(super) async fn refuse_place(
    tx: &Transaction<'_>,
    claim: ClaimId,
    reason: Rejection,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- awards.refuse_place
        update standby_places set state = 'REFUSED', outcome = $2, ended_at = $3
        where claim_id = $1 and state = 'AWARDED'";
    tx.execute(&tx.prepare_cached(SQL).await?, &[&claim.0, &reason.as_str(), /* now */ &now]).await?;
    Ok(())
}

impl Ledger {
    /// Writes down that a buyer's home has refused an award: the claim is rejected, and its units go to the next in line, or on
    /// sale where they are. `false`: that was known, or the claim has been settled by a rebuild that came in between.
    pub async fn refuse_award(
        &self,
        drop: &SaleDrop,
        warehouse: &Warehouse,
        number: GrantNumber,
        claim: &Claim,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        run_tx!(self, "awards.refuse", tx, {
            let variant = i16::from(claim.variant.0);
            lock_standby(tx, drop.id, &[variant]).await?;
            let units = i64::from(claim.quantity.units());
            lock_warehouses_and_homes(tx, drop.id, &[warehouse.id.0], &[variant], units).await?;
            const APPLIED: &str = "-- awards.mark_refused
                update grants set applied_at = $3 where warehouse_id = $1 and number = $2 and applied_at is null";
            tx.execute(APPLIED, &[&warehouse.id.0, &number.0, /* now */ &now]).await?;
            if !seen(tx, &[claim.id.0]).await?.is_empty() {
                return Ok(false);
            }
            const UNITS: &str = "-- awards.units_of
                select array_agg(serial order by serial) from tokens
                where drop_id = $1 and warehouse_id = $2 and awarded_claim = $3";
            let units = serials(tx.query_one(UNITS, &[&drop.id.0, &warehouse.id.0, &claim.id.0]).await?.get(0));
            if units.is_empty() {
                return Ok(false);
            }
            let refused = ClaimToSettle::without_log(claim.clone(), units, warehouse, now);
            write_rejections(tx, drop, &[(&refused, Rejection::OverLimit)], now).await?;
            Ok(true)
        })
    }

    /// Awards to buyers who live in this warehouse that have not come to an end, as claims to be settled. Only for its rebuild,
    /// once everything in its log is settled: Redis has forgotten them, or was never told.
    pub async fn awards_in_flight(
        &self,
        drop: &SaleDrop,
        warehouse: &Warehouse,
        now: Timestamp,
    ) -> Result<Vec<ClaimToSettle>, LedgerError> {
        const SQL: &str = "-- awards.in_flight
            select p.claim_id, p.buyer, p.variant_number, p.quantity, array_agg(t.serial order by t.serial)
            from tokens t join standby_places p on p.claim_id = t.awarded_claim
            where t.warehouse_id = $1 and t.drop_id = $2 and t.awarded_claim is not null
            group by p.place_id order by p.place_id";
        let rows = self.connection().await?.query(SQL, &[&warehouse.id.0, &drop.id.0]).await?;
        rows.iter()
            .map(|row| {
                let (id, buyer, quantity): (Uuid, &str, i16) = (row.get(0), row.get(1), row.get(3));
                let wrong = |column, value: &str| inconsistent("standby_places", column, id, value);
                let claim = Claim {
                    id: ClaimId(id),
                    buyer: buyer.parse().map_err(|_| wrong("buyer", buyer))?,
                    variant: VariantNumber(row.get::<_, i16>(2) as u8),
                    quantity: Quantity::new(quantity.into()).map_err(|_| wrong("quantity", &quantity.to_string()))?,
                    told: None,
                };
                Ok(ClaimToSettle::without_log(claim, serials(row.get(4)), warehouse, now))
            })
            .collect()
    }
}

/// Units that lie in one warehouse, together again: they come one behind the other.
fn gather(units: impl Iterator<Item = (WarehouseId, Serial)>) -> Vec<Units> {
    let mut gathered: Vec<Units> = Vec::new();
    for (at, serial) in units {
        match gathered.last_mut().filter(|(known, _)| *known == at) {
            Some((_, serials)) => serials.push(serial),
            None => gathered.push((at, vec![serial])),
        }
    }
    gathered
}
