//! Every place of the variant is locked, in order, and then looked at: simple, always right, and one buyer of a variant at a
//! time.

use deadpool_postgres::Transaction;

use super::{Demand, Portion, Reserved, allot, places, take};
use crate::ledger::error::LedgerError;

pub(super) async fn reserve(tx: &Transaction<'_>, demand: &Demand) -> Result<Reserved<Vec<Portion>, i64>, LedgerError> {
    const LOCK: &str = "-- row_lock.lock_places
        select i.warehouse_id, i.quantity_available - i.quantity_reserved, i.version
        from inventory i join warehouses w using (warehouse_id)
        where i.product_id = $1 and i.variant_id = $2 and w.code is not null
        order by i.warehouse_id for update of i";
    let free = places(tx, LOCK, demand).await?;
    let portions = match allot(&free, demand.units) {
        Ok(portions) => portions,
        Err(available) => return Ok(Reserved::Short(available)),
    };
    for portion in &portions {
        take(tx, demand, *portion).await?;
    }
    Ok(Reserved::All(portions))
}
