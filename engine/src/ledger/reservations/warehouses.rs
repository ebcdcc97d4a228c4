//! One place serves one buyer while the others serve others: any that has enough and that nobody holds, else any that has
//! enough. Only where that was taken meanwhile are all of them waited for, so nobody is refused because somebody else is still
//! thinking.

use deadpool_postgres::Transaction;

use super::{Demand, Portion, Reserved, row_lock};
use crate::domain::ids::WarehouseId;
use crate::ledger::error::LedgerError;

pub(super) async fn reserve(tx: &Transaction<'_>, demand: &Demand) -> Result<Reserved<Vec<Portion>, i64>, LedgerError> {
    // Nothing is waited for, so it does not matter in which order places are tried.
    const TAKE_ANY: &str = "-- warehouses.take_any
        with one as (
            select i.warehouse_id from inventory i join warehouses w using (warehouse_id)
            where i.product_id = $1 and i.variant_id = $2 and w.code is not null
                  and i.quantity_available - i.quantity_reserved >= $3::bigint
            order by random() limit 1 for update of i skip locked
        )
        update inventory i set quantity_reserved = quantity_reserved + $3::bigint::int, version = version + 1
        from one where i.product_id = $1 and i.variant_id = $2 and i.warehouse_id = one.warehouse_id
        returning i.warehouse_id";
    const WAIT_FOR_ANY: &str = "-- warehouses.wait_for_any
        update inventory i set quantity_reserved = quantity_reserved + $3::bigint::int, version = version + 1
        where i.product_id = $1 and i.variant_id = $2 and i.quantity_available - i.quantity_reserved >= $3::bigint
              and i.warehouse_id = (
                  select i.warehouse_id from inventory i join warehouses w using (warehouse_id)
                  where i.product_id = $1 and i.variant_id = $2 and w.code is not null
                        and i.quantity_available - i.quantity_reserved >= $3::bigint
                  order by random() limit 1)
        returning i.warehouse_id";
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[&demand.product, &demand.variant.0, &demand.units];
    let taken = tx.query_opt(&tx.prepare_cached(TAKE_ANY).await?, arguments).await?;
    let taken = match taken {
        Some(row) => Some(row),
        None => {
            // A place that was waited for and has too little by then would stay locked, out of the order in which all are locked.
            tx.batch_execute("-- warehouses.before_waiting\nsavepoint place").await?;
            let waited = tx.query_opt(&tx.prepare_cached(WAIT_FOR_ANY).await?, arguments).await?;
            if waited.is_none() {
                tx.batch_execute("-- warehouses.in_vain\nrollback to savepoint place").await?;
            }
            waited
        }
    };
    match taken {
        Some(row) => Ok(Reserved::All(vec![Portion { warehouse: WarehouseId(row.get(0)), units: demand.units }])),
        None => row_lock::reserve(tx, demand).await,
    }
}
