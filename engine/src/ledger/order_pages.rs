//! Orders in pages, newest first. A page begins behind a position and not at a count, so whatever is ordered meanwhile moves
//! nothing: no order comes twice, and none is left out that was there at the beginning.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::error::LedgerError;
use super::orders::{OrderView, views};
use super::pool::Ledger;
use crate::domain::ids::{BuyerId, DropName, OrderId};
use crate::domain::orders::OrderState;

/// Orders read at once: some kilobytes each, so that a page stays below a megabyte. One more than a page shows, which tells
/// whether another follows.
pub const ORDERS_AT_ONCE: i64 = 101;

/// Behind this order the next page begins. It says where, never whose: the buyer is asked for anew by every page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPosition {
    pub created_at: Timestamp,
    pub order: OrderId,
}

/// Which orders an operator looks for. All that is set must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderFilter {
    pub statuses: Vec<OrderState>,
    pub buyer: Option<BuyerId>,
    pub drop: Option<DropName>,
    pub created_from: Option<Timestamp>,
    /// Not this instant itself.
    pub created_before: Option<Timestamp>,
}

impl OrderView {
    /// Where it stands in a list.
    pub fn position(&self) -> OrderPosition {
        OrderPosition { created_at: self.created_at, order: self.id }
    }
}

impl Ledger {
    /// This buyer's orders behind a position, at most [`ORDERS_AT_ONCE`]. The statement asks for him, whatever the position says.
    pub async fn orders_of(
        &self,
        buyer: &BuyerId,
        statuses: &[OrderState],
        after: Option<OrderPosition>,
        limit: i64,
    ) -> Result<Vec<OrderView>, LedgerError> {
        const SQL: &str = "-- order_pages.of_buyer
            select order_id from orders_of($1)
            where (created_at, order_id) < ($2, $3) and ($4::text[] = '{}' or status = any($4))
            order by created_at desc, order_id desc limit $5";
        let (before, id) = bounds(after);
        let statuses = names(statuses);
        let limit = limit.clamp(1, ORDERS_AT_ONCE);
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let arguments: [&(dyn ToSql + Sync); 5] = [&buyer.as_str(), &before, &id, &statuses, &limit];
        let rows = connection.query(&statement, &arguments).await?;
        views(&connection, &ids(&rows), Some(buyer)).await
    }

    /// Anybody's orders, for operators.
    pub async fn find_orders(
        &self,
        filter: &OrderFilter,
        after: Option<OrderPosition>,
        limit: i64,
    ) -> Result<Vec<OrderView>, LedgerError> {
        let (mut before, mut id) = bounds(after);
        // The earlier of the two bounds, so that the index is entered at the right place.
        if let Some(end) = filter.created_before
            && end <= before
        {
            (before, id) = (end.max(EARLIEST), Uuid::nil());
        }
        let from = filter.created_from.unwrap_or(EARLIEST).max(EARLIEST);
        let (statuses, limit) = (names(&filter.statuses), limit.clamp(1, ORDERS_AT_ONCE));
        let mut arguments: Vec<&(dyn ToSql + Sync)> = vec![&before, &id, &from, &limit];
        let (mut orders, mut condition) = ("orders".to_owned(), String::new());
        let (buyer, drop) = (filter.buyer.as_ref().map(BuyerId::as_str), filter.drop.as_ref().map(DropName::as_str));
        // Composed, so that each combination gets a plan of its own; there are eight.
        if !statuses.is_empty() {
            arguments.push(&statuses);
            condition += &format!(" and o.status = any(${})", arguments.len());
        }
        if let Some(buyer) = &buyer {
            arguments.push(buyer);
            orders = format!("orders_of(${})", arguments.len());
        }
        if let Some(drop) = &drop {
            arguments.push(drop);
            condition += &format!(" and o.drop_id = (select drop_id from drops where name = ${})", arguments.len());
        }
        let sql = format!(
            "-- order_pages.find
            select o.order_id from {orders} o
            where (o.created_at, o.order_id) < ($1, $2) and o.created_at >= $3{condition}
            order by o.created_at desc, o.order_id desc limit $4"
        );
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(&sql).await?, &arguments).await?;
        views(&connection, &ids(&rows), None).await
    }
}

/// Before anything was sold here, and within what Postgres can hold.
const EARLIEST: Timestamp = Timestamp::UNIX_EPOCH;

fn bounds(after: Option<OrderPosition>) -> (Timestamp, Uuid) {
    after.map_or((Timestamp::MAX, Uuid::max()), |after| (after.created_at.max(EARLIEST), after.order.0))
}

fn names(statuses: &[OrderState]) -> Vec<&'static str> {
    statuses.iter().map(|status| status.as_str()).collect()
}

fn ids(rows: &[Row]) -> Vec<Uuid> {
    rows.iter().map(|row| row.get(0)).collect()
}
