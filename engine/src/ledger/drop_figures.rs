//! How drops stand, for those who look on: a list in pages, and units by variant. Nothing here goes through units one
//! by one.

use jiff::Timestamp;
use serde::Serialize;

use super::drops::{inconsistent, name_of};
use super::error::LedgerError;
use super::pool::Ledger;
use crate::domain::drops::{DropState, SaleDrop};
use crate::domain::figures::ShelfCount;
use crate::domain::ids::{DropId, DropName, VariantNumber};

/// A drop in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DropLine {
    pub name: DropName,
    pub product: String,
    pub state: DropState,
    pub stock_units: i64,
    pub variants: i64,
    pub limit: i16,
    pub opens_at: Option<Timestamp>,
    pub closes_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

impl Ledger {
    pub async fn drop_id(&self, name: &DropName) -> Result<Option<DropId>, LedgerError> {
        const SQL: &str = "-- drop_figures.id\nselect drop_id from drops where name = $1";
        let row = self.connection().await?.query_opt(SQL, &[&name.as_str()]).await?;
        Ok(row.map(|row| DropId(row.get(0))))
    }

    /// Drops made before this one, the newest first; of these states, or of any.
    pub async fn list_drops(
        &self,
        states: &[DropState],
        before: Option<DropId>,
        limit: i64,
    ) -> Result<Vec<DropLine>, LedgerError> {
        const SQL: &str = "-- drop_figures.list
            select d.name, p.name, d.state, units.stock, units.variants, d.buyer_limit, d.opens_at,
                   d.closes_at, d.created_at
            from drops d join products p using (product_id)
                 cross join lateral (select coalesce(sum(stock), 0)::bigint, count(*) from drop_variants v
                                     where v.drop_id = d.drop_id) units (stock, variants)
            where ($1::int is null or d.drop_id < $1) and ($2::text[] = '{}' or d.state = any($2))
            order by d.drop_id desc limit $3";
        let states = states.iter().map(|state| state.as_str()).collect::<Vec<_>>();
        let before = before.map(|before| before.0);
        let rows = self.connection().await?.query(SQL, &[&before, &states, &limit]).await?;
        let line = |row: &tokio_postgres::Row| {
            let name = name_of(row, 0)?;
            let state = DropState::ALL.into_iter().find(|state| state.as_str() == row.get::<_, &str>(2));
            Ok(DropLine {
                product: row.get(1),
                state: state.ok_or_else(|| inconsistent("drops", "state", &name, row.get(2)))?,
                stock_units: row.get(3),
                variants: row.get(4),
                limit: row.get(5),
                opens_at: row.get(6),
                closes_at: row.get(7),
                created_at: row.get(8),
                name,
            })
        };
        rows.iter().map(line).collect()
    }

    /// Units of each variant that are not paid for, and those that orders hold. A row for each variant and warehouse
    /// is read.
    pub async fn shelf_counts(&self, drop: &SaleDrop) -> Result<Vec<ShelfCount>, LedgerError> {
        const SQL: &str = "-- drop_figures.shelves
            select dv.number, sum(i.quantity_available)::bigint, sum(i.quantity_reserved)::bigint
            from warehouses w join drop_variants dv using (drop_id)
                 join inventory i on i.product_id = $2 and i.variant_id = dv.variant_id
                                     and i.warehouse_id = w.warehouse_id
            where w.drop_id = $1 group by dv.number order by dv.number";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[&drop.id.0, &drop.product_id]).await?;
        let count = |row: &tokio_postgres::Row| ShelfCount {
            variant: VariantNumber(row.get::<_, i16>(0) as u8),
            available: row.get::<_, i64>(1).cast_unsigned(),
            reserved: row.get::<_, i64>(2).cast_unsigned(),
        };
        Ok(rows.iter().map(count).collect())
    }
}
