//! Restocks: more units for a drop that sells. One adds once, however often it is asked for: its row, and everything that it
//! adds, come in one transaction.

use jiff::Timestamp;

use super::drops::{pieces, serial, split};
use super::error::{LedgerError, expect_rows};
use super::pool::Ledger;
use super::tx::run_tx;
use super::{awards, line, rest};
use crate::domain::drops::{MAX_STOCK_UNITS, SaleDrop};
use crate::domain::ids::{RestockId, VariantNumber};

/// How a restock ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestockDecided {
    Added,
    /// The same one had been done; nothing was added now.
    Before,
    /// The id was used for other units, or another drop.
    Differs,
    /// The drop is in no state for it.
    NotSelling,
    /// So many units the drop would have.
    TooMany(u64),
}

impl Ledger {
    /// Adds units of one variant to a drop: new rows, spread evenly. They rest before they are on sale, as all that comes back;
    /// those of a drop whose buyers stand in line belong to the next round.
    pub async fn restock(
        &self,
        drop: &SaleDrop,
        id: RestockId,
        variant: VariantNumber,
        units: u32,
        now: Timestamp,
    ) -> Result<RestockDecided, LedgerError> {
        let decided = run_tx!(self, "restocks.restock", tx, {
            const LOCK: &str = "-- restocks.lock_drop
                select state in ('lining', 'open', 'paused') from drops where drop_id = $1 for no key update";
            const KNOWN: &str = "-- restocks.known
                select drop_id, variant_number, units from restocks where restock_id = $1";
            let (number, units) = (i16::from(variant.0), units as i32);
            let is_selling: bool = tx.query_one(LOCK, &[&drop.id.0]).await?.get(0);
            // Before the state: what is done stays done when the sale is over.
            if let Some(row) = tx.query_opt(KNOWN, &[&id.0]).await? {
                let is_same = (row.get(0), row.get(1), row.get(2)) == (drop.id.0, number, units);
                return Ok(if is_same { RestockDecided::Before } else { RestockDecided::Differs });
            }
            if !is_selling {
                return Ok(RestockDecided::NotSelling);
            }
            const STOCK: &str = "-- restocks.stock
                select sum(stock) from drop_variants where drop_id = $1";
            let after = tx.query_one(STOCK, &[&drop.id.0]).await?.get::<_, i64>(0) + i64::from(units);
            if after > i64::from(MAX_STOCK_UNITS) {
                return Ok(RestockDecided::TooMany(after.cast_unsigned()));
            }
            const NEW: &str = "-- restocks.new
                insert into restocks (restock_id, drop_id, variant_number, units) values ($1, $2, $3, $4)";
            tx.execute(NEW, &[&id.0, &drop.id.0, &number, &units]).await?;
            if drop.admission.has_line() {
                line::write_change(tx, drop.id, "restocked", Some((Some(number), units)), now).await?;
            }
            awards::lock_standby(tx, drop.id, &[number]).await?;
            const WAREHOUSES: &str = "-- restocks.lock_warehouses
                select warehouse_id from warehouses where drop_id = $1 order by warehouse_id for update";
            tx.query(WAREHOUSES, &[&drop.id.0]).await?;
            const LAST: &str =
                "-- restocks.last_serial\nselect coalesce(max(serial), 0) from tokens where drop_id = $1";
            let last: i32 = tx.query_one(LAST, &[&drop.id.0]).await?.get(0);
            const RAISE: &str = "-- restocks.raise_stock
                update drop_variants set stock = stock + $3 where drop_id = $1 and number = $2 returning variant_id";
            let row = tx.query_one(RAISE, &[&drop.id.0, &number, &units]).await?;
            let variant_id: i32 = row.get(0);
            const TOKENS: &str = "-- restocks.tokens
                insert into tokens (drop_id, serial, variant_number, warehouse_id)
                select $1, serial, $2, $3 from generate_series($4::int, $5::int) serial";
            const INVENTORY: &str = "-- restocks.inventory
                update inventory set quantity_available = quantity_available + $4, version = version + 1
                where product_id = $1 and variant_id = $2 and warehouse_id = $3";
            let runs = split(&[units.cast_unsigned()], drop.warehouses.len());
            let mut came = Vec::new();
            for run in runs.into_iter().filter(|run| run.length > 0) {
                let warehouse = drop.warehouses[run.warehouse].id;
                let (first, end) = (last + run.first, last + run.first + run.length - 1);
                for (from, to) in pieces(first, end) {
                    tx.execute(TOKENS, &[&drop.id.0, &number, &warehouse.0, &from, &to]).await?;
                }
                let changed =
                    tx.execute(INVENTORY, &[&drop.product_id, &variant_id, &warehouse.0, &run.length]).await?;
                expect_rows("restocks.inventory", 1, changed)?;
                came.push((warehouse, (first..=end).map(serial).collect::<Vec<_>>()));
            }
            let stock = awards::Stock { drop: drop.id, product: drop.product_id, variant_id };
            rest::come_back(tx, stock, variant, came, now).await?;
            Ok(RestockDecided::Added)
        });
        match decided {
            // Another drop's restock took the id at the same moment; one of this drop would have waited for its row.
            Err(error) if error.is_unique_violation() => Ok(RestockDecided::Differs),
            other => other,
        }
    }
}
