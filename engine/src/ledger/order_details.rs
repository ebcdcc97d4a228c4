//! Everything that is known of orders beside the order itself: history, calls to the provider, refunds, returns, and what was
//! told to whom. For operators and for the buyer's own copy of his data.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::order_state;
use super::error::LedgerError;
use super::locked_order::{money, refund_state};
use super::orders::by_order;
use super::outbox::Unsent;
use super::pool::Ledger;
use super::returns::ReturnView;
use crate::domain::ids::{BuyerId, OrderId, RefundId};
use crate::domain::money::Money;
use crate::domain::notices::EventId;
use crate::domain::orders::OrderState;
use crate::domain::payments::RefundState;

/// One row of an order's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    pub at: Timestamp,
    pub from: Option<OrderState>,
    pub to: OrderState,
    /// Who moved it: `buyer`, a part of the program, or an operator's name.
    pub by: String,
    /// Written for us, and perhaps by a person: never for the buyer.
    pub reason: String,
}

/// A call that could move money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptView {
    pub number: u32,
    pub operation: String,
    pub idempotency_key: String,
    pub state: String,
    pub detail: Option<String>,
    pub prepared_at: Timestamp,
    pub dispatched_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefundDetails {
    pub refund_id: RefundId,
    pub amount: Money,
    pub state: RefundState,
    pub reason: String,
    pub asked_by: String,
    pub failure: Option<String>,
    pub provider_refund_id: Option<String>,
    pub created_at: Timestamp,
    pub settled_at: Option<Timestamp>,
}

/// What only operators are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrderDetails {
    pub buyer: BuyerId,
    pub email: Option<String>,
    pub cancel_asked_by: Option<String>,
    pub cancel_reason: Option<String>,
    pub intent_id: Option<String>,
    pub payment_failure: Option<String>,
    pub history: Vec<HistoryEntry>,
    pub attempts: Vec<AttemptView>,
    pub refunds: Vec<RefundDetails>,
    pub returns: Vec<ReturnView>,
    pub deliveries: Vec<Unsent>,
}

impl Ledger {
    /// An order's history, for its buyer. `None`: not there, or not his.
    pub async fn history_of(&self, buyer: &BuyerId, order: OrderId) -> Result<Option<Vec<HistoryEntry>>, LedgerError> {
        self.find_history(order, Some(buyer)).await
    }

    /// Anybody's history.
    pub async fn history(&self, order: OrderId) -> Result<Option<Vec<HistoryEntry>>, LedgerError> {
        self.find_history(order, None).await
    }

    async fn find_history(
        &self,
        order: OrderId,
        buyer: Option<&BuyerId>,
    ) -> Result<Option<Vec<HistoryEntry>>, LedgerError> {
        const OWNED: &str = "-- order_details.owned
            select 1 from orders where order_id = $1 and ($2::text is null or buyer = $2)";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(OWNED).await?;
        if connection.query_opt(&statement, &[&order.0, &buyer.map(BuyerId::as_str)]).await?.is_none() {
            return Ok(None);
        }
        drop(connection);
        Ok(Some(self.histories(&[order.0]).await?.remove(&order.0).unwrap_or_default()))
    }

    /// The histories of these orders, oldest entry first.
    pub(super) async fn histories(&self, orders: &[Uuid]) -> Result<HashMap<Uuid, Vec<HistoryEntry>>, LedgerError> {
        const SQL: &str = "-- order_details.histories
            select order_id, at, from_state, to_state, actor, reason from order_history
            where order_id = any($1) order by history_id";
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(SQL).await?, &[&orders]).await?;
        let entry = |order: Uuid, row: &Row| {
            let from = row.get::<_, Option<&str>>(2).map(|from| order_state(from, order)).transpose()?;
            let to = order_state(row.get(3), order)?;
            Ok(HistoryEntry { at: row.get(1), from, to, by: row.get(4), reason: row.get(5) })
        };
        let mut found = HashMap::new();
        for (order, rows) in by_order(&rows) {
            let entries = rows.into_iter().map(|row| entry(order, row)).collect::<Result<Vec<_>, LedgerError>>()?;
            found.insert(order, entries);
        }
        Ok(found)
    }

    /// Everything about one order that its buyer is not shown, for operators.
    pub async fn order_details(&self, order: OrderId) -> Result<Option<OrderDetails>, LedgerError> {
        const ORDER: &str = "-- order_details.order
            select o.buyer, coalesce(o.email, c.email), o.cancel_asked_by, o.cancel_reason, p.intent_id, p.failure
            from orders o join payments p using (order_id) left join checkout_profiles c on c.buyer = o.buyer
            where o.order_id = $1";
        const ATTEMPTS: &str = "-- order_details.attempts
            select number, operation, idempotency_key, state, detail, prepared_at, dispatched_at, finished_at
            from payment_attempts where order_id = $1 order by number";
        const REFUNDS: &str = "-- order_details.refunds
            select refund_id, amount_minor, currency, state, reason, asked_by, failure, provider_refund_id, created_at,
                   settled_at
            from refunds where order_id = $1 order by created_at, refund_id";
        const DELIVERIES: &str = "-- order_details.deliveries
            select kind, about, destination, state, attempts, last_error, next_at from outbox
            where order_id = $1 order by outbox_id";
        let connection = self.connection().await?;
        let Some(found) = connection.query_opt(ORDER, &[&order.0]).await? else { return Ok(None) };
        let attempts = connection.query(ATTEMPTS, &[&order.0]).await?;
        let refunds = connection.query(REFUNDS, &[&order.0]).await?;
        let deliveries = connection.query(DELIVERIES, &[&order.0]).await?;
        drop(connection);
        let history = self.histories(&[order.0]).await?.remove(&order.0).unwrap_or_default();
        let returns = self.returns_of(&[order.0]).await?.remove(&order.0).unwrap_or_default();
        let buyer: &str = found.get(0);
        let attempt = |row: &Row| AttemptView {
            number: row.get::<_, i32>(0) as u32,
            operation: row.get(1),
            idempotency_key: row.get(2),
            state: row.get(3),
            detail: row.get(4),
            prepared_at: row.get(5),
            dispatched_at: row.get(6),
            finished_at: row.get(7),
        };
        let refund = |row: &Row| {
            Ok(RefundDetails {
                refund_id: RefundId(row.get(0)),
                amount: money(row.get(1), row.get(2), order.0)?,
                state: refund_state(row.get(3), order.0)?,
                reason: row.get(4),
                asked_by: row.get(5),
                failure: row.get(6),
                provider_refund_id: row.get(7),
                created_at: row.get(8),
                settled_at: row.get(9),
            })
        };
        let delivery = |row: &Row| Unsent {
            event: EventId { order, kind: row.get(0), about: row.get(1) }.to_string(),
            destination: row.get(2),
            state: row.get(3),
            attempts: row.get(4),
            last_error: row.get(5),
            next_at: row.get(6),
        };
        Ok(Some(OrderDetails {
            buyer: buyer.parse().map_err(|_| super::drops::inconsistent("orders", "buyer", order, buyer))?,
            email: found.get(1),
            cancel_asked_by: found.get(2),
            cancel_reason: found.get(3),
            intent_id: found.get(4),
            payment_failure: found.get(5),
            history,
            attempts: attempts.iter().map(attempt).collect(),
            refunds: refunds.iter().map(refund).collect::<Result<_, LedgerError>>()?,
            returns,
            deliveries: deliveries.iter().map(delivery).collect(),
        }))
    }
}
