//! Looked at without a lock, and taken if its version is still the one that was seen: the least work where few want the same.

use deadpool_postgres::Transaction;

use super::{Demand, Portion, Reserved, allot, places};
use crate::ledger::error::LedgerError;

pub(super) async fn reserve(tx: &Transaction<'_>, demand: &Demand) -> Result<Reserved<Vec<Portion>, i64>, LedgerError> {
    const LOOK: &str = "-- optimistic.look
        select i.warehouse_id, i.quantity_available - i.quantity_reserved, i.version
        from inventory i join warehouses w using (warehouse_id)
        where i.product_id = $1 and i.variant_id = $2 and w.code is not null";
    const TAKE: &str = "-- optimistic.take_unchanged
        update inventory set quantity_reserved = quantity_reserved + $4::bigint::int, version = version + 1
        where product_id = $1 and variant_id = $2 and warehouse_id = $3 and version = $5";
    let free = places(tx, LOOK, demand).await?;
    let portions = match allot(&free, demand.units) {
        Ok(portions) => portions,
        Err(available) => return Ok(Reserved::Short(available)),
    };
    for portion in &portions {
        let seen = free.iter().find(|free| free.warehouse == portion.warehouse).map(|free| free.version);
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&demand.product, &demand.variant.0, &portion.warehouse.0, &portion.units, /* seen */ &seen];
        if tx.execute(&tx.prepare_cached(TAKE).await?, arguments).await? == 0 {
            return Ok(Reserved::Changed);
        }
    }
    Ok(Reserved::All(portions))
}
