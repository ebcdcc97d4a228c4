//! Orders as their buyers see them: the owner is part of the question. Asking by id alone is for operators.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::drops::{inconsistent, order_state, serials};
use super::error::LedgerError;
use super::locked_order::{money, payment_state, refund_state};
use super::news::BuyerAction;
use super::pool::Ledger;
use crate::domain::ids::{BuyerId, ClaimId, DropId, OrderId, Serial};
use crate::domain::money::Money;
use crate::domain::orders::OrderState;
use crate::domain::payments::{PaymentState, RefundState};
use crate::domain::pricing::Totals;

#[derive(Debug, Clone, PartialEq)]
pub struct OrderView {
    pub id: OrderId,
    pub drop_name: Option<String>,
    pub status: OrderState,
    pub payment: PaymentState,
    pub totals: Totals,
    pub items: Vec<OrderItemView>,
    pub ship_to: Option<Value>,
    pub refunds: Vec<RefundView>,
    /// What the buyer has to do before his payment goes on.
    pub next_action: Option<BuyerAction>,
    /// Somebody wants it ended, and its charge has not come to an end.
    pub is_cancel_requested: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Money on its way back to the buyer, or there.
#[derive(Debug, Clone, PartialEq)]
pub struct RefundView {
    pub amount: Money,
    pub state: RefundState,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OrderItemView {
    pub sku: String,
    pub title: String,
    pub quantity: u32,
    pub unit_price: Money,
    pub serials: Vec<Serial>,
}

impl Ledger {
    /// An order of this buyer.
    pub async fn order_of(&self, buyer: &BuyerId, id: OrderId) -> Result<Option<OrderView>, LedgerError> {
        self.find_order(id, Some(buyer)).await
    }

    /// Anybody's order. Never for a buyer: it does not ask whose it is.
    pub async fn order(&self, id: OrderId) -> Result<Option<OrderView>, LedgerError> {
        self.find_order(id, None).await
    }

    async fn find_order(&self, id: OrderId, buyer: Option<&BuyerId>) -> Result<Option<OrderView>, LedgerError> {
        const ORDER: &str = "-- orders.order_of
            select d.name, o.status, p.state, o.currency, o.subtotal_minor, o.tax_minor, o.shipping_minor, o.total_minor,
                   o.ship_to, o.created_at, o.updated_at, o.cancel_asked_by is not null,
                   case when p.state = 'ACTION_REQUIRED' then p.next_action end
            from orders o join payments p using (order_id) left join drops d using (drop_id)
            where o.order_id = $1 and ($2::text is null or o.buyer = $2)";
        const ITEMS: &str = "-- orders.items_of
            select v.sku, v.title, i.quantity, i.unit_price_minor, i.serials
            from order_items i join variants v using (variant_id) where i.order_id = $1 order by i.line";
        const REFUNDS: &str = "-- orders.refunds_of
            select amount_minor, state, created_at from refunds where order_id = $1 order by created_at";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(ORDER).await?;
        let Some(row) = connection.query_opt(&statement, &[&id.0, &buyer.map(BuyerId::as_str)]).await? else {
            return Ok(None);
        };
        let statement = connection.prepare_cached(ITEMS).await?;
        let items = connection.query(&statement, &[&id.0]).await?;
        let statement = connection.prepare_cached(REFUNDS).await?;
        let refunds = connection.query(&statement, &[&id.0]).await?;
        let currency: &str = row.get(3);
        let amount = |column| money(row.get(column), currency, id.0);
        Ok(Some(OrderView {
            id,
            drop_name: row.get(0),
            status: order_state(row.get(1), id.0)?,
            payment: payment_state(row.get(2), id.0)?,
            totals: Totals { subtotal: amount(4)?, tax: amount(5)?, shipping: amount(6)?, total: amount(7)? },
            items: items
                .iter()
                .map(|row| {
                    Ok(OrderItemView {
                        sku: row.get(0),
                        title: row.get(1),
                        quantity: row.get::<_, i32>(2) as u32,
                        unit_price: money(row.get(3), currency, id.0)?,
                        serials: serials(row.get(4)),
                    })
                })
                .collect::<Result<_, LedgerError>>()?,
            ship_to: row.get(8),
            is_cancel_requested: row.get(11),
            next_action: row.get::<_, Option<Json<BuyerAction>>>(12).map(|action| action.0),
            refunds: refunds
                .iter()
                .map(|row| {
                    Ok(RefundView {
                        amount: money(row.get(0), currency, id.0)?,
                        state: refund_state(row.get(1), id.0)?,
                        created_at: row.get(2),
                    })
                })
                .collect::<Result<_, LedgerError>>()?,
            created_at: row.get(9),
            updated_at: row.get(10),
        }))
    }

    /// Which of these orders exist, of whatever drop.
    pub async fn existing_orders(&self, ids: &[OrderId]) -> Result<HashSet<OrderId>, LedgerError> {
        const SQL: &str = "-- orders.existing\nselect order_id from orders where order_id = any($1)";
        let ids = ids.iter().map(|id| id.0).collect::<Vec<_>>();
        let rows = self.connection().await?.query(SQL, &[&ids]).await?;
        Ok(rows.iter().map(|row| OrderId(row.get(0))).collect())
    }

    /// How many orders of a drop are in each state.
    pub async fn order_counts(&self, drop: DropId) -> Result<HashMap<OrderState, u64>, LedgerError> {
        const SQL: &str = "-- orders.counts\nselect status, count(*) from orders where drop_id = $1 group by status";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[&drop.0]).await?;
        let count = |row: &Row| {
            let status: &str = row.get(0);
            let known = OrderState::ALL.into_iter().find(|state| state.as_str() == status);
            let known = known.ok_or_else(|| inconsistent("orders", "status", drop.0, status))?;
            Ok((known, row.get::<_, i64>(1).cast_unsigned()))
        };
        rows.iter().map(count).collect()
    }

    /// Why settlement could not make an order of this buyer's claim, if it could not.
    pub async fn rejection_of(&self, buyer: &BuyerId, claim: ClaimId) -> Result<Option<String>, LedgerError> {
        const SQL: &str = "-- orders.rejection_of
            select reason from rejected_claims where claim_id = $1 and buyer = $2";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let row = connection.query_opt(&statement, &[&claim.0, &buyer.as_str()]).await?;
        Ok(row.map(|row| row.get(0)))
    }
}
