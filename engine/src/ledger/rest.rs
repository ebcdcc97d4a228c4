//! Units that come back: standby buyers are awarded them, and what nobody waits for rests until it is granted again.
//!
//! One way for all of them, whatever gave them back: a release, a rejection, a restock, a return, a review, a resolved poison.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::awards::{self, Stock, Units};
use super::drops::{inconsistent, serial_values};
use super::error::{LedgerError, expect_rows};
use super::grants;
use super::pool::Ledger;
use super::tx::{planned, run_tx};
use crate::domain::drops::SaleDrop;
use crate::domain::ids::{DropId, Serial, VariantNumber, WarehouseId};
use crate::domain::rest::RestingUnits;

/// Units in one grant: what one script call adds in well under two milliseconds.
const UNITS_PER_GRANT: usize = 1000;

/// Units whose rest ends in one transaction.
const UNITS_AT_ONCE: usize = 10_000;

/// What rests, of all drops. By a range and not by `is not null`: of a table that is not analyzed yet Postgres takes nearly
/// all units for resting then, and goes through all of them (measured: 80 ms a look for a million units). A range it takes
/// for a few, and reads the index that has these alone.
pub const RESTING_SQL: &str = "-- rest.resting
    select drop_id, rested_at, xmin::text from tokens
    where rested_at between '-infinity' and 'infinity' group by 1, 2, 3";

/// Units of one variant that have no holder any more. The caller holds the line of the variant and the warehouses.
pub(super) async fn come_back(
    tx: &Transaction<'_>,
    stock: Stock,
    variant: VariantNumber,
    units: Vec<Units>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let handed = awards::hand_out(tx, stock.drop, variant, units).await?;
    lay_to_rest(tx, stock.drop, &handed.rest).await?;
    awards::write(tx, stock, &handed.awards, now).await
}

/// By the clock, which is read once: a transaction begins earlier, and what comes back together rests together. In a
/// warehouse of which Redis has nothing there is no rest: a unit is free as soon as nobody holds it. A load, which takes
/// the warehouse's row, finds it so.
async fn lay_to_rest(tx: &Transaction<'_>, drop: DropId, units: &[Units]) -> Result<(), LedgerError> {
    const SQL: &str = "-- rest.begin
        update tokens t set rested_at = case when w.state = 'unloaded' then null else now.clock end
        from (select clock_timestamp() as clock offset 0) now, warehouses w
        where t.drop_id = $1 and t.serial = any($2) and w.warehouse_id = t.warehouse_id
              and num_nonnulls(t.order_id, t.poisoned_claim, t.awarded_claim, t.rested_at) = 0";
    let serials = units.iter().flat_map(|(_, serials)| serial_values(serials)).collect::<Vec<_>>();
    if serials.is_empty() {
        return Ok(());
    }
    let changed = tx.execute(&tx.prepare_cached(SQL).await?, &[&drop.0, &serials]).await?;
    expect_rows("rest.begin", serials.len() as u64, changed)
}

impl Ledger {
    /// All that rests, of all drops.
    pub async fn resting_units(&self) -> Result<Vec<RestingUnits>, LedgerError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(RESTING_SQL).await?;
        let rows = connection.query(&statement, &[]).await?;
        let units = |row: &tokio_postgres::Row| RestingUnits {
            drop: DropId(row.get(0)),
            rested_at: row.get(1),
            transaction: row.get(2),
        };
        Ok(rows.iter().map(units).collect())
    }

    /// How many units of a drop rest.
    pub async fn count_resting(&self, drop: DropId) -> Result<u64, LedgerError> {
        const SQL: &str = "-- rest.count
            select count(*) from tokens
            where drop_id = $1 and rested_at between '-infinity' and 'infinity'";
        let row = self.connection().await?.query_one(SQL, &[&drop.0]).await?;
        Ok(row.get::<_, i64>(0).cast_unsigned())
    }

    /// Ends the rest of units of one drop: who has joined standby meanwhile comes first, and what is left is granted to the
    /// warehouses in which it lies. Units that do not rest any more, or anew, are left alone. `true`: there may be more.
    pub async fn end_rest(
        &self,
        drop: &SaleDrop,
        rested: &[RestingUnits],
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let since = rested.iter().map(|units| units.rested_at).collect::<Vec<_>>();
        let transactions = rested.iter().map(|units| units.transaction.as_str()).collect::<Vec<_>>();
        run_tx!(self, "rest.end", tx, {
            // A unit that rests never changes its warehouse, so what is to be locked is known before it is.
            const RESTED: &str = "-- rest.rested
                select t.serial, t.variant_number, t.warehouse_id
                from unnest($2::timestamptz[], $3::text[]) as r (rested_at, transaction)
                     join tokens t on t.drop_id = $1 and t.rested_at = r.rested_at and t.xmin::text = r.transaction
                limit $4";
            let limit = UNITS_AT_ONCE as i64;
            let found = planned(tx, RESTED, &[&drop.id.0, &since, &transactions, &limit]).await?;
            let serials = found.iter().map(|row| row.get(0)).collect::<Vec<i32>>();
            let variants = found.iter().map(|row| row.get(1)).collect::<BTreeSet<i16>>();
            let variants = variants.into_iter().collect::<Vec<_>>();
            let warehouses = found.iter().map(|row| row.get(2)).collect::<BTreeSet<i32>>();
            let warehouses = warehouses.into_iter().collect::<Vec<_>>();
            awards::lock_standby(tx, drop.id, &variants).await?;
            awards::lock_warehouses_and_homes(tx, drop.id, &warehouses, &variants, serials.len() as i64).await?;
            const STILL: &str = "-- rest.still
                select t.variant_number, t.warehouse_id, t.serial from tokens t
                where t.drop_id = $1 and t.serial = any($2) and t.rested_at = any($3)
                order by t.serial for update";
            let rows = planned(tx, STILL, &[&drop.id.0, &serials, &since]).await?;
            let mut came: BTreeMap<VariantNumber, BTreeMap<WarehouseId, Vec<Serial>>> = BTreeMap::new();
            for row in &rows {
                let variant = VariantNumber(row.get::<_, i16>(0) as u8);
                let of_variant = came.entry(variant).or_default();
                of_variant.entry(WarehouseId(row.get(1))).or_default().push(super::drops::serial(row.get(2)));
            }
            let (mut granted, mut awards): (BTreeMap<WarehouseId, Vec<Serial>>, _) = (BTreeMap::new(), Vec::new());
            for (variant, units) in came {
                let handed = awards::hand_out(tx, drop.id, variant, units.into_iter().collect()).await?;
                handed.rest.into_iter().for_each(|(at, serials)| granted.entry(at).or_default().extend(serials));
                awards.push((variant, handed.awards));
            }
            const END: &str =
                "-- rest.wake\nupdate tokens set rested_at = null where drop_id = $1 and serial = any($2)";
            let ended = granted.values().flat_map(|serials| serial_values(serials)).collect::<Vec<_>>();
            let changed = tx.execute(&tx.prepare_cached(END).await?, &[&drop.id.0, &ended]).await?;
            expect_rows("rest.wake", ended.len() as u64, changed)?;
            for (warehouse, serials) in &granted {
                for serials in serials.chunks(UNITS_PER_GRANT) {
                    grants::insert(tx, *warehouse, "rested", serials, None, None).await?;
                }
            }
            for (variant, awards) in &awards {
                let known = drop.variant(*variant).map(|variant| variant.variant_id);
                let variant_id = known
                    .ok_or_else(|| inconsistent("tokens", "variant_number", &drop.name, &variant.0.to_string()))?;
                let stock = Stock { drop: drop.id, product: drop.product_id, variant_id };
                awards::write(tx, stock, awards, now).await?;
            }
            Ok(serials.len() == UNITS_AT_ONCE)
        })
    }
}
