//! Ordinary stock: the places it lies in, what lies there, and its history. A drop's stock is changed by
//! [`super::restocks`] alone.
//!
//! Every change of `quantity_available` that is no sale leaves a row of `stock_adjustments` in its transaction, so the
//! audit can count what must be there.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::drops::inconsistent;
use super::error::{LedgerError, expect_rows};
use super::pool::Ledger;
use super::requests::{self, Earlier};
use super::tx::run_tx;
use crate::domain::ids::{VariantId, WarehouseId};
use crate::domain::requests::{Done, OperatorRequest};
use crate::domain::stock::{Adjustment, NewAdjustment, Place, Stock, StockRefused, WarehouseCode, changed};

/// One row of ordinary stock, named by its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shelf {
    pub(super) product: i32,
    pub(super) variant: VariantId,
    pub(super) warehouse: WarehouseId,
}

impl Ledger {
    /// Makes a place for ordinary stock. `false`: it is there already.
    pub async fn make_warehouse(&self, code: &WarehouseCode) -> Result<bool, LedgerError> {
        const SQL: &str = "-- stock.make_warehouse
            insert into warehouses (number, state, code) values (nextval('warehouse_numbers')::smallint, 'ready', $1)
            on conflict (code) do nothing";
        const KNOWN: &str = "-- stock.known_warehouse\nselect 1 from warehouses where code = $1";
        let connection = self.connection().await?;
        // A number is gone with every try, so those that are there are not tried.
        if connection.query_opt(KNOWN, &[&code.as_str()]).await?.is_some() {
            return Ok(false);
        }
        Ok(connection.execute(SQL, &[&code.as_str()]).await? == 1)
    }

    /// Places for ordinary stock behind this one, in the order of their codes.
    pub async fn warehouses(
        &self,
        after: Option<&WarehouseCode>,
        limit: i64,
    ) -> Result<Vec<WarehouseCode>, LedgerError> {
        const SQL: &str = "-- stock.warehouses
            select code from warehouses where code is not null and ($1::text is null or code > $1)
            order by code limit $2";
        let after = after.map(WarehouseCode::as_str);
        let rows = self.connection().await?.query(SQL, &[/* after */ &after, /* limit */ &limit]).await?;
        rows.iter().map(|row| code(row.get(0))).collect()
    }

    /// Changes what is available of one variant in one place, once for each request, and never below what is reserved.
    pub async fn adjust_stock(
        &self,
        request: &OperatorRequest,
        new: &NewAdjustment,
        now: Timestamp,
    ) -> Result<Result<Done<Adjustment>, StockRefused>, LedgerError> {
        const WHAT: &str = "stock.adjust";
        if let Err(refused) = new.check() {
            return Ok(Err(refused));
        }
        run_tx!(self, "stock.adjust_stock", tx, {
            match requests::before(tx, request, WHAT, new).await? {
                Earlier::Nothing => {}
                Earlier::Done(adjustment) => return Ok(Ok(Done::Before(adjustment))),
                Earlier::Differs => return Ok(Err(StockRefused::IdReused)),
            }
            const VARIANT: &str = "-- stock.variant\nselect product_id, variant_id from variants where sku = $1";
            let Some(row) = tx.query_opt(VARIANT, &[&new.sku]).await? else {
                return Ok(Err(StockRefused::UnknownSku(new.sku.clone())));
            };
            let warehouse = match warehouse_of(tx, &new.warehouse).await? {
                Ok(warehouse) => warehouse,
                Err(refused) => return Ok(Err(refused)),
            };
            let shelf = Shelf { product: row.get(0), variant: VariantId(row.get(1)), warehouse };
            let (available, reserved) = lock_shelf(tx, shelf).await?;
            let available = match changed(available, reserved, new.delta) {
                Ok(available) => available,
                Err(refused) => return Ok(Err(refused)),
            };
            let why = (request.actor.as_str(), new.reason.as_str());
            let id = put(tx, shelf, new.delta, (available, reserved), why, now).await?;
            let adjustment = Adjustment {
                id,
                sku: new.sku.clone(),
                warehouse: new.warehouse.clone(),
                delta: new.delta,
                reason: new.reason.clone(),
                actor: request.actor.clone(),
                available,
                reserved,
                at: now,
            };
            requests::done(tx, request, WHAT, new, &adjustment, now).await?;
            Ok(Ok(Done::Now(adjustment)))
        })
    }

    /// What there is of every variant of a product, by place; in drops, all their virtual warehouses together.
    pub async fn stock_of(&self, product: i32) -> Result<Vec<Stock>, LedgerError> {
        const SQL: &str = "-- stock.stock_of
            select v.sku, w.code, d.name, sum(i.quantity_available)::bigint, sum(i.quantity_reserved)::bigint
            from inventory i join variants v using (variant_id) join warehouses w using (warehouse_id)
                 left join drops d on d.drop_id = w.drop_id
            where i.product_id = $1
            group by v.sku, w.code, d.name order by v.sku, w.code nulls last, d.name";
        let rows = self.connection().await?.query(SQL, &[&product]).await?;
        rows.iter().map(stock_row).collect()
    }

    /// The history, newest first, from before this number on; of one SKU, or of all.
    pub async fn stock_history(
        &self,
        sku: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Adjustment>, LedgerError> {
        const SQL: &str = "-- stock.stock_history
            select a.adjustment_id, v.sku, w.code, a.delta, a.reason, a.actor, a.available_after, a.reserved_after, a.adjusted_at
            from stock_adjustments a join variants v using (variant_id) join warehouses w using (warehouse_id)
            where ($1::text is null or a.variant_id = (select variant_id from variants where sku = $1))
              and ($2::bigint is null or a.adjustment_id < $2)
            order by a.adjustment_id desc limit $3";
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[/* sku */ &sku, /* before */ &before, /* limit */ &limit];
        let rows = self.connection().await?.query(SQL, arguments).await?;
        let adjustment = |row: &Row| {
            Ok(Adjustment {
                id: row.get(0),
                sku: row.get(1),
                warehouse: code(row.get(2))?,
                delta: i64::from(row.get::<_, i32>(3)),
                reason: row.get(4),
                actor: row.get(5),
                available: i64::from(row.get::<_, i32>(6)),
                reserved: i64::from(row.get::<_, i32>(7)),
                at: row.get(8),
            })
        };
        rows.iter().map(adjustment).collect()
    }
}

/// The place of this code, or why there is none.
pub(super) async fn warehouse_of(
    tx: &Transaction<'_>,
    code: &WarehouseCode,
) -> Result<Result<WarehouseId, StockRefused>, LedgerError> {
    const SQL: &str = "-- stock.warehouse_of
        select (select warehouse_id from warehouses where code = $1), exists (select 1 from drops where name = $1)";
    let row = tx.query_one(SQL, &[&code.as_str()]).await?;
    Ok(match (row.get::<_, Option<i32>>(0), row.get(1)) {
        (Some(id), _) => Ok(WarehouseId(id)),
        (None, true) => Err(StockRefused::OfDrop(code.clone())),
        (None, false) => Err(StockRefused::UnknownWarehouse(code.clone())),
    })
}

/// The row of a shelf, made if there is none, and locked: (available, reserved).
pub(super) async fn lock_shelf(tx: &Transaction<'_>, shelf: Shelf) -> Result<(i64, i64), LedgerError> {
    const MAKE: &str = "-- stock.make_shelf
        insert into inventory (product_id, variant_id, warehouse_id, quantity_available) values ($1, $2, $3, 0)
        on conflict do nothing";
    const LOCK: &str = "-- stock.lock_shelf
        select quantity_available::bigint, quantity_reserved::bigint from inventory
        where product_id = $1 and variant_id = $2 and warehouse_id = $3 for update";
    let key: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[&shelf.product, &shelf.variant.0, &shelf.warehouse.0];
    tx.execute(&tx.prepare_cached(MAKE).await?, key).await?;
    let row = tx.query_one(&tx.prepare_cached(LOCK).await?, key).await?;
    Ok((row.get(0), row.get(1)))
}

/// Puts a change of a locked shelf into its row and into the history; answers its number there.
pub(super) async fn put(
    tx: &Transaction<'_>,
    shelf: Shelf,
    delta: i64,
    (available_after, reserved): (i64, i64),
    (actor, reason): (&str, &str),
    now: Timestamp,
) -> Result<i64, LedgerError> {
    // Relative, though the row is locked: whoever sells from it later knows no absolute number either.
    const UPDATE: &str = "-- stock.put
        update inventory set quantity_available = quantity_available + $4, version = version + 1
        where product_id = $1 and variant_id = $2 and warehouse_id = $3";
    const HISTORY: &str = "-- stock.history
        insert into stock_adjustments (product_id, variant_id, warehouse_id, delta, reason, actor, available_after,
                                       reserved_after, adjusted_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning adjustment_id";
    // Both bounds were checked: they fit into the columns.
    let (delta, available_after, reserved) = (delta as i32, available_after as i32, reserved as i32);
    let (product, variant, warehouse) = (shelf.product, shelf.variant.0, shelf.warehouse.0);
    let changed = tx.execute(&tx.prepare_cached(UPDATE).await?, &[&product, &variant, &warehouse, &delta]).await?;
    expect_rows("stock.put", 1, changed)?;
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &product,
        &variant,
        &warehouse,
        &delta,
        &reason,
        &actor,
        /* available_after */ &available_after,
        /* reserved_after */ &reserved,
        /* now */ &now,
    ];
    Ok(tx.query_one(&tx.prepare_cached(HISTORY).await?, arguments).await?.get(0))
}

fn stock_row(row: &Row) -> Result<Stock, LedgerError> {
    let (sku, warehouse, drop): (String, Option<&str>, Option<&str>) = (row.get(0), row.get(1), row.get(2));
    let place = match (warehouse, drop) {
        (Some(warehouse), _) => Place::Warehouse(code(warehouse)?),
        (None, drop) => {
            let drop = drop.unwrap_or_default();
            Place::Drop(drop.parse().map_err(|_| inconsistent("drops", "name", &sku, drop))?)
        }
    };
    Ok(Stock { sku, place, available: row.get(3), reserved: row.get(4) })
}

fn code(text: &str) -> Result<WarehouseCode, LedgerError> {
    text.parse().map_err(|_| inconsistent("warehouses", "code", text, text))
}
