//! Units of ordinary stock are reserved for an order: all of it or nothing, in one of three ways, which the product says. The
//! fourth, `tokens`, is a drop's claim.
//!
//! Demands are served in the order of their variants, and places are waited for in the order of their ids: whatever mix of
//! carts comes, nobody waits for somebody who waits for him. A shortage is only told when it was seen under locks on every
//! place, or in one snapshot of all of them: nobody is refused while the units are there.

mod row_lock;
mod warehouses;
mod optimistic;

use deadpool_postgres::Transaction;

use super::error::{LedgerError, expect_rows};
use crate::domain::ids::{VariantId, WarehouseId};
use crate::domain::stock::StockWay;

/// Units of one variant that an order needs. All its lines of one variant are one demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) product: i32,
    pub(super) variant: VariantId,
    pub(super) units: i64,
    pub(super) way: StockWay,
}

/// Units of a demand that come from one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Portion {
    pub(super) warehouse: WarehouseId,
    pub(super) units: i64,
}

/// Fewer units are left than are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    pub variant_id: VariantId,
    /// What could be had.
    pub available: i64,
}

/// How a demand, or all of them, came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reserved<All, Short> {
    All(All),
    Short(Short),
    /// Somebody changed the stock between looking and taking: the transaction is to be given up and begun again.
    Changed,
}

/// What can be bought of a variant in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Free {
    warehouse: WarehouseId,
    units: i64,
    version: i64,
}

/// Reserves for every demand, in their order, which is that of their variants. Unless it answers `All`, the caller gives the
/// transaction up. `optimism`: without it what would be taken without a lock is locked all the same.
pub(super) async fn reserve(
    tx: &Transaction<'_>,
    demands: &[Demand],
    optimism: bool,
) -> Result<Reserved<Vec<Vec<Portion>>, Vec<Shortage>>, LedgerError> {
    let (mut all, mut short) = (Vec::with_capacity(demands.len()), Vec::new());
    for demand in demands {
        let reserved = match demand.way {
            StockWay::Warehouses => warehouses::reserve(tx, demand).await?,
            StockWay::Optimistic if optimism => optimistic::reserve(tx, demand).await?,
            StockWay::Optimistic | StockWay::RowLock => row_lock::reserve(tx, demand).await?,
            StockWay::Tokens => Reserved::Short(0),
        };
        match reserved {
            Reserved::All(portions) => all.push(portions),
            // The others too: the buyer is told of every line at once.
            Reserved::Short(available) => short.push(Shortage { variant_id: demand.variant, available }),
            Reserved::Changed => return Ok(Reserved::Changed),
        }
    }
    Ok(if short.is_empty() { Reserved::All(all) } else { Reserved::Short(short) })
}

/// From which places a demand is served: from one if one has enough, the fullest first otherwise. In the order of the places.
/// `Err` tells how much there is.
fn allot(free: &[Free], units: i64) -> Result<Vec<Portion>, i64> {
    let there = free.iter().map(|free| free.units).sum();
    if there < units {
        return Err(there);
    }
    let fits = free.iter().filter(|free| free.units >= units).min_by_key(|free| (free.units, free.warehouse));
    if let Some(free) = fits {
        return Ok(vec![Portion { warehouse: free.warehouse, units }]);
    }
    let mut fullest = free.to_vec();
    fullest.sort_unstable_by_key(|free| (-free.units, free.warehouse));
    let (mut portions, mut left) = (Vec::new(), units);
    for free in fullest {
        let units = free.units.min(left);
        if units > 0 {
            portions.push(Portion { warehouse: free.warehouse, units });
            left -= units;
        }
    }
    portions.sort_unstable_by_key(|portion| portion.warehouse);
    Ok(portions)
}

async fn take(tx: &Transaction<'_>, demand: &Demand, portion: Portion) -> Result<(), LedgerError> {
    const SQL: &str = "-- reservations.take
        update inventory set quantity_reserved = quantity_reserved + $4::bigint::int, version = version + 1
        where product_id = $1 and variant_id = $2 and warehouse_id = $3";
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&demand.product, &demand.variant.0, &portion.warehouse.0, &portion.units];
    expect_rows("reservations.take", 1, tx.execute(&tx.prepare_cached(SQL).await?, arguments).await?)
}

/// The places of a demand's variant, by a statement that reads `inventory` for (product, variant).
async fn places(tx: &Transaction<'_>, sql: &str, demand: &Demand) -> Result<Vec<Free>, LedgerError> {
    let rows = tx.query(&tx.prepare_cached(sql).await?, &[&demand.product, &demand.variant.0]).await?;
    let free = |row: &tokio_postgres::Row| Free {
        warehouse: WarehouseId(row.get(0)),
        units: i64::from(row.get::<_, i32>(1)),
        version: row.get(2),
    };
    Ok(rows.iter().map(free).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_if_it_can_be_and_the_fullest_otherwise() {
        let free = |units: &[i64]| {
            let place =
                |(id, units): (usize, &i64)| Free { warehouse: WarehouseId(id as i32), units: *units, version: 0 };
            units.iter().enumerate().map(place).collect::<Vec<_>>()
        };
        let allotted = |has: &[i64], units| -> Result<_, i64> {
            let portions = allot(&free(has), units)?;
            Ok(portions.iter().map(|portion| (portion.warehouse.0, portion.units)).collect::<Vec<_>>())
        };
        assert_eq!(allotted(&[9, 3, 5], 3), Ok(vec![(1, 3)]));
        assert_eq!(allotted(&[9, 3, 5], 4), Ok(vec![(2, 4)]));
        assert_eq!(allotted(&[4, 9, 5], 12), Ok(vec![(1, 9), (2, 3)]));
        assert_eq!(allotted(&[4, 0, 5], 9), Ok(vec![(0, 4), (2, 5)]));
        assert_eq!(allotted(&[4, 0, 5], 10), Err(9));
        assert_eq!(allotted(&[], 1), Err(0));
    }
}
