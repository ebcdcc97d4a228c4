//! Grants: the numbered log that puts tokens into warehouses, and the only way they get there.
//!
//! A grant is inserted, and its tokens are moved, under the row lock of the warehouse that gets them, in the transaction
//! that decides it. Applying it to Redis is a separate step that anyone may take, any number of times.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::{inconsistent, serial_values, serials};
use super::error::{LedgerError, expect_rows};
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::claims::{Claim, Quantity};
use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{
    BuyerId, ClaimId, DropId, Epoch, GrantNumber, Serial, TransferId, VariantNumber, WarehouseId,
};
use crate::domain::transfers::{TransferDecided, decide};

/// Grants of one warehouse looked at in one go. More wait after a long absence of Redis, or when thousands of orders end
/// together; the next round takes those.
pub const PENDING_OF_WAREHOUSE: i64 = 250;

/// A grant that Redis may not have yet.
#[derive(Debug, Clone)]
pub struct PendingGrant {
    pub warehouse: WarehouseId,
    pub number: GrantNumber,
    pub tokens: Vec<(VariantNumber, Vec<Serial>)>,
    pub released: Option<Released>,
    /// It gives its units to a standby buyer: the claim that it makes.
    pub award: Option<Claim>,
    /// A program from before units rested has granted units that came back at once: whoever applies it waits instead.
    pub must_rest: bool,
}

#[derive(Debug, Clone)]
pub struct Released {
    pub claim: ClaimId,
    pub buyer: BuyerId,
    pub variant: VariantNumber,
    pub units: u32,
}

/// Units that a warehouse has set aside for another one.
#[derive(Debug, Clone)]
pub struct Transfer {
    pub source: Warehouse,
    pub destination: WarehouseId,
    pub variant: VariantNumber,
    pub id: TransferId,
    pub moved: Vec<Serial>,
}

impl Ledger {
    /// Grants what was set aside to the warehouses for which it was, all in one transaction, and answers what became of each.
    /// The epoch of each source must be the one in which it was set aside.
    pub async fn grant_transfers(
        &self,
        drop: &SaleDrop,
        transfers: &[Transfer],
    ) -> Result<Vec<TransferDecided>, LedgerError> {
        let warehouses = transfers.iter().flat_map(|transfer| [transfer.source.id.0, transfer.destination.0]);
        let warehouses = warehouses.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        let ids = transfers.iter().map(|transfer| transfer.id.0).collect::<Vec<_>>();
        run_tx!(self, "grants.grant_transfers", tx, {
            const LOCK: &str = "-- grants.lock_warehouses
                select warehouse_id, epoch from warehouses where warehouse_id = any($1) order by warehouse_id for update";
            const KNOWN: &str = "-- grants.known_transfers
                select transfer_id, serials from grants where transfer_id = any($1)";
            let rows = tx.query(&tx.prepare_cached(LOCK).await?, &[&warehouses]).await?;
            let epochs = rows.iter().map(|row| (row.get(0), Epoch(row.get(1)))).collect::<HashMap<i32, _>>();
            let rows = tx.query(&tx.prepare_cached(KNOWN).await?, &[&ids]).await?;
            let mut known =
                rows.iter().map(|row| (row.get(0), serials(row.get(1)))).collect::<HashMap<Uuid, Vec<Serial>>>();
            let mut outcomes = Vec::new();
            let mut moves: Vec<&Transfer> = Vec::new();
            for transfer in transfers {
                let granted = known.get(&transfer.id.0).map(Vec::as_slice);
                let epoch = epochs.get(&transfer.source.id.0).copied();
                let decided = decide(transfer.source.epoch, epoch, &transfer.moved, granted);
                match decided {
                    TransferDecided::Granted => {
                        let is_move = transfer.destination != transfer.source.id;
                        let kind = if is_move { "transfer" } else { "return" };
                        insert(tx, transfer.destination, kind, &transfer.moved, None, Some(transfer.id)).await?;
                        known.insert(transfer.id.0, transfer.moved.clone());
                        moves.extend(is_move.then_some(transfer));
                    }
                    // These go back where they came from, once.
                    TransferDecided::Returned => {
                        const KNOWN_AGAIN: &str = "-- grants.known_again\nselect 1 from grants where transfer_id = $1";
                        let again = transfer_again(transfer.id, &transfer.moved);
                        if tx.query_opt(KNOWN_AGAIN, &[&again.0]).await?.is_none() {
                            insert(tx, transfer.source.id, "return", &transfer.moved, None, Some(again)).await?;
                        }
                    }
                    TransferDecided::Before | TransferDecided::Void => {}
                }
                outcomes.push(decided);
            }
            move_units(tx, drop, &moves).await?;
            Ok(outcomes)
        })
    }

    /// Grants that nobody has marked as applied yet, oldest first in each warehouse. No warehouse hides another's.
    pub async fn pending_grants(&self) -> Result<Vec<PendingGrant>, LedgerError> {
        const ANY: &str = "-- grants.with_pending\nselect distinct warehouse_id from grants where applied_at is null";
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(ANY).await?, &[]).await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let warehouses = rows.iter().map(|row| WarehouseId(row.get(0))).collect::<Vec<_>>();
        drop(connection);
        self.pending_grants_of(&warehouses).await
    }

    /// How many grants of a drop nobody has marked as applied yet: all of them, unlike [`Self::pending_grants`].
    pub async fn count_pending_grants(&self, drop: DropId) -> Result<u64, LedgerError> {
        const SQL: &str = "-- grants.count_pending
            select count(*) from grants join warehouses using (warehouse_id) where drop_id = $1 and applied_at is null";
        let row = self.connection().await?.query_one(SQL, &[&drop.0]).await?;
        Ok(row.get::<_, i64>(0).cast_unsigned())
    }

    pub async fn pending_grants_of(&self, warehouses: &[WarehouseId]) -> Result<Vec<PendingGrant>, LedgerError> {
        const SQL: &str = "-- grants.pending
            select g.warehouse_id, g.number, g.kind, g.claim_id, g.buyer, u.serials, u.variants, g.claim_variant, g.claim_units
            from unnest($1::int[]) as asked (warehouse_id) join warehouses w using (warehouse_id),
                 lateral (select * from grants g where g.warehouse_id = w.warehouse_id and g.applied_at is null
                          order by number limit $2) g,
                 lateral (select array_agg(t.serial) as serials, array_agg(t.variant_number) as variants
                          from tokens t where t.drop_id = w.drop_id and t.serial = any(g.serials)) u
            order by g.warehouse_id, g.number";
        let warehouses = warehouses.iter().map(|warehouse| warehouse.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[&warehouses, &PENDING_OF_WAREHOUSE]).await?;
        rows.iter()
            .map(|row| {
                let found = serials(row.get(5));
                let variants: Vec<i16> = row.get::<_, Option<_>>(6).unwrap_or_default();
                let mut tokens: Vec<(VariantNumber, Vec<Serial>)> = Vec::new();
                for (serial, variant) in found.into_iter().zip(variants) {
                    let variant = VariantNumber(variant as u8);
                    match tokens.iter_mut().find(|(known, _)| *known == variant) {
                        Some((_, serials)) => serials.push(serial),
                        None => tokens.push((variant, vec![serial])),
                    }
                }
                let kind: &str = row.get(2);
                let claim = row.get::<_, Option<Uuid>>(3).map(|claim| claim_of(row, claim)).transpose()?;
                let is_award = kind == "award";
                Ok(PendingGrant {
                    warehouse: WarehouseId(row.get(0)),
                    number: GrantNumber(row.get(1)),
                    must_rest: matches!(kind, "release" | "restock") && !tokens.is_empty(),
                    tokens,
                    award: claim.clone().filter(|_| is_award),
                    released: claim.filter(|_| !is_award).map(|claim| Released {
                        claim: claim.id,
                        buyer: claim.buyer,
                        variant: claim.variant,
                        units: claim.quantity.units(),
                    }),
                })
            })
            .collect()
    }

    /// Notes that Redis has these grants. Only a hint for the next round: applying one again would do nothing.
    pub async fn mark_applied(
        &self,
        applied: &[(WarehouseId, GrantNumber)],
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- grants.mark_applied
            update grants g set applied_at = $3 from unnest($1::int[], $2::bigint[]) as a (warehouse_id, number)
            where g.warehouse_id = a.warehouse_id and g.number = a.number and g.applied_at is null";
        let warehouses = applied.iter().map(|(warehouse, _)| warehouse.0).collect::<Vec<_>>();
        let numbers = applied.iter().map(|(_, number)| number.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        connection.execute(&statement, &[&warehouses, &numbers, /* now */ &now]).await?;
        Ok(())
    }
}

/// Moves the rows of units, and what the inventory counts, from their sources to their destinations.
async fn move_units(tx: &Transaction<'_>, drop: &SaleDrop, moves: &[&Transfer]) -> Result<(), LedgerError> {
    if moves.is_empty() {
        return Ok(());
    }
    // By the whole key of each: see `settlement_rows.take_tokens`.
    const TOKENS: &str = "-- grants.move_tokens
        update tokens t set warehouse_id = m.destination
        from (select $1::int as drop_id, serial, source, destination
              from unnest($2::int[], $3::int[], $4::int[]) as m (serial, source, destination) offset 0) m
        where t.drop_id = m.drop_id and t.serial = m.serial and t.warehouse_id = m.source
              and num_nonnulls(t.order_id, t.poisoned_claim, t.awarded_claim, t.rested_at) = 0";
    const INVENTORY: &str = "-- grants.move_inventory
        update inventory i set quantity_available = quantity_available + d.units, version = version + 1
        from unnest($2::int[], $3::int[], $4::int[]) as d (variant_id, warehouse_id, units)
        where i.product_id = $1 and i.variant_id = d.variant_id and i.warehouse_id = d.warehouse_id";
    let (mut moved, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
    let mut deltas: BTreeMap<(i32, i32), i32> = BTreeMap::new();
    for transfer in moves {
        let variant = drop.variant(transfer.variant).map(|variant| variant.variant_id);
        let variant = variant
            .ok_or_else(|| inconsistent("tokens", "variant_number", &drop.name, &transfer.variant.0.to_string()))?;
        let units = transfer.moved.len() as i32;
        *deltas.entry((variant, transfer.source.id.0)).or_default() -= units;
        *deltas.entry((variant, transfer.destination.0)).or_default() += units;
        for serial in serial_values(&transfer.moved) {
            moved.push(serial);
            from.push(transfer.source.id.0);
            to.push(transfer.destination.0);
        }
    }
    let changed = tx.execute(&tx.prepare_cached(TOKENS).await?, &[&drop.id.0, &moved, &from, &to]).await?;
    expect_rows("grants.move_tokens", moved.len() as u64, changed)?;
    deltas.retain(|_, units| *units != 0);
    let variants = deltas.keys().map(|(variant, _)| *variant).collect::<Vec<_>>();
    let warehouses = deltas.keys().map(|(_, warehouse)| *warehouse).collect::<Vec<_>>();
    let units = deltas.into_values().collect::<Vec<_>>();
    lock_inventory(tx, drop.product_id, &variants, &warehouses).await?;
    let statement = tx.prepare_cached(INVENTORY).await?;
    let changed = tx.execute(&statement, &[&drop.product_id, &variants, &warehouses, &units]).await?;
    expect_rows("grants.move_inventory", units.len() as u64, changed)
}

/// The claim that a release ends, or an award makes.
fn claim_of(row: &Row, id: Uuid) -> Result<Claim, LedgerError> {
    let (buyer, units): (&str, i16) = (row.get(4), row.get(8));
    Ok(Claim {
        id: ClaimId(id),
        buyer: buyer.parse().map_err(|_| inconsistent("grants", "buyer", id, buyer))?,
        variant: VariantNumber(row.get::<_, i16>(7) as u8),
        quantity: Quantity::new(units.into())
            .map_err(|_| inconsistent("grants", "claim_units", id, &units.to_string()))?,
        told: None,
    })
}

/// The name under which tokens go back that a repeated call has set aside: made from what it names, so that whoever finds
/// them comes to the same.
fn transfer_again(transfer: TransferId, moved: &[Serial]) -> TransferId {
    let mut hash = Sha256::new();
    hash.update(transfer.0.as_bytes());
    serial_values(moved).iter().for_each(|serial| hash.update(serial.to_be_bytes()));
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    TransferId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// Inserts the next grant of a warehouse, whose row lock the caller holds. One that is in no Redis has no log: whoever
/// loads it reads its rows.
pub(super) async fn insert(
    tx: &Transaction<'_>,
    warehouse: WarehouseId,
    kind: &str,
    serials: &[Serial],
    released: Option<&Released>,
    transfer: Option<TransferId>,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- grants.insert
        with numbered as (
            update warehouses w set last_grant = last_grant + 1 where warehouse_id = $1 and state <> 'unloaded'
            returning last_grant
        ), inserted as (
            insert into grants (warehouse_id, number, kind, serials, claim_id, buyer, claim_variant, claim_units, transfer_id)
            select $1, last_grant, $2, $3, $4, $5, $6, $7, $8 from numbered returning 1
        )
        select 1 from inserted union all select 1 from warehouses where warehouse_id = $1 and state = 'unloaded'";
    let claim = released.map(|released| released.claim.0);
    let buyer = released.map(|released| released.buyer.as_str());
    let variant = released.map(|released| i16::from(released.variant.0));
    let units = released.map(|released| released.units as i16);
    let transfer = transfer.map(|transfer| transfer.0);
    let statement = tx.prepare_cached(SQL).await?;
    let serials = serial_values(serials);
    let rows =
        tx.query(&statement, &[&warehouse.0, &kind, &serials, &claim, &buyer, &variant, &units, &transfer]).await?;
    expect_rows("grants.insert", 1, rows.len() as u64)
}

/// Inserts a grant for each claim that is over, as [`insert`] does for one.
pub(super) async fn insert_releases(
    tx: &Transaction<'_>,
    released: &[(WarehouseId, Released)],
) -> Result<(), LedgerError> {
    const SQL: &str = "-- grants.insert_releases
        with over as (
            select warehouse_id, row_number() over (partition by warehouse_id order by place) as nth,
                   count(*) over (partition by warehouse_id) as added, claim_id, buyer, variant, units
            from unnest($1::int[], $2::uuid[], $3::text[], $4::smallint[], $5::smallint[]) with ordinality
                 as o (warehouse_id, claim_id, buyer, variant, units, place)
        ), numbered as (
            update warehouses w set last_grant = last_grant + n.added
            from (select distinct warehouse_id, added from over) n
            where w.warehouse_id = n.warehouse_id and w.state <> 'unloaded'
            returning w.warehouse_id, w.last_grant - n.added as before
        ), inserted as (
            insert into grants (warehouse_id, number, kind, serials, claim_id, buyer, claim_variant, claim_units)
            select warehouse_id, before + nth, 'release', '{}', claim_id, buyer, variant, units
            from over join numbered using (warehouse_id) returning 1
        )
        select (select count(*) from inserted)
               + (select count(*) from over join warehouses w using (warehouse_id) where w.state = 'unloaded')";
    if released.is_empty() {
        return Ok(());
    }
    let warehouses = released.iter().map(|(warehouse, _)| warehouse.0).collect::<Vec<_>>();
    let claims = released.iter().map(|(_, released)| released.claim.0).collect::<Vec<_>>();
    let buyers = released.iter().map(|(_, released)| released.buyer.as_str()).collect::<Vec<_>>();
    let variants = released.iter().map(|(_, released)| i16::from(released.variant.0)).collect::<Vec<_>>();
    let units = released.iter().map(|(_, released)| released.units as i16).collect::<Vec<_>>();
    let statement = tx.prepare_cached(SQL).await?;
    let told: i64 = tx.query_one(&statement, &[&warehouses, &claims, &buyers, &variants, &units]).await?.get(0);
    expect_rows("grants.insert_releases", released.len() as u64, told.cast_unsigned())
}

/// Takes the inventory rows' locks in the one order.
pub(super) async fn lock_inventory(
    tx: &Transaction<'_>,
    product: i32,
    variants: &[i32],
    warehouses: &[i32],
) -> Result<(), LedgerError> {
    const SQL: &str = "-- grants.lock_inventory
        select 1 from inventory where product_id = $3 and variant_id = any($1) and warehouse_id = any($2)
        order by variant_id, warehouse_id for update";
    let statement = tx.prepare_cached(SQL).await?;
    tx.query(&statement, &[&variants, &warehouses, &product]).await?;
    Ok(())
}
