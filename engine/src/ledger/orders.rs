//! Orders as their buyers see them: the owner is part of the question. Asking by id alone is for operators.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Object;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::drops::{inconsistent, order_state, serials};
use super::error::LedgerError;
use super::locked_order::{money, payment_state, refund_state};
use super::news::BuyerAction;
use super::pool::Ledger;
use crate::domain::fulfilment::Tracking;
use crate::domain::ids::{BuyerId, ClaimId, DropId, OrderId, RefundId, Serial};
use crate::domain::money::Money;
use crate::domain::orders::OrderState;
use crate::domain::payments::{PaymentState, RefundState};
use crate::domain::pricing::Totals;

#[derive(Debug, Clone, PartialEq)]
pub struct OrderView {
    pub id: OrderId,
    pub buyer: BuyerId,
    pub drop_name: Option<String>,
    pub status: OrderState,
    pub payment: PaymentState,
    pub totals: Totals,
    /// The prices of its lines include the tax on them.
    pub price_includes_tax: bool,
    /// What its buyer has agreed to, while it costs more and waits for a new agreement.
    pub waits_beyond: Option<Money>,
    pub items: Vec<OrderItemView>,
    pub ship_to: Option<Value>,
    pub refunds: Vec<RefundView>,
    pub shipment: Option<ShipmentView>,
    /// What the buyer has to do before his payment goes on.
    pub next_action: Option<BuyerAction>,
    /// Somebody wants it ended, and its charge has not come to an end.
    pub is_cancel_requested: bool,
    /// While it waits for its buyer: until when its units are kept.
    pub pay_by: Option<Timestamp>,
    /// While it waits for another card: why the last one was declined.
    pub decline: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Money on its way back to the buyer, or there.
#[derive(Debug, Clone, PartialEq)]
pub struct RefundView {
    pub id: RefundId,
    pub amount: Money,
    pub state: RefundState,
    /// The number of its credit note, once it has arrived and one was written.
    pub credit_note: Option<i64>,
    pub created_at: Timestamp,
}

/// How an order travels.
#[derive(Debug, Clone, PartialEq)]
pub struct ShipmentView {
    pub tracking: Tracking,
    pub shipped_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OrderItemView {
    /// Its number in the order, from 1.
    pub line: u32,
    pub sku: String,
    pub title: String,
    pub quantity: u32,
    pub unit_price: Money,
    pub serials: Vec<Serial>,
    /// What came back of it after it had shipped.
    pub returned: u32,
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
        let connection = self.connection().await?;
        Ok(views(&connection, &[id.0], buyer).await?.pop())
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

/// Orders in the order of these ids. `buyer`: only his; the others are as good as not there.
pub(super) async fn views(
    connection: &Object,
    ids: &[Uuid],
    buyer: Option<&BuyerId>,
) -> Result<Vec<OrderView>, LedgerError> {
    const ORDERS: &str = "-- orders.views
        select o.order_id, d.name, o.status, p.state, o.currency, o.subtotal_minor, o.tax_minor, o.shipping_minor,
               o.total_minor, o.ship_to, o.created_at, o.updated_at, o.cancel_asked_by is not null,
               case when p.state = 'ACTION_REQUIRED' then p.next_action end, s.carrier, s.tracking_number, s.shipped_at,
               o.buyer, o.price_includes_tax,
               case when p.state = 'REQUIRED' and o.ship_to is not null and o.accepted_total_minor < o.total_minor
                    then o.accepted_total_minor end,
               case when p.state in ('REQUIRED', 'METHOD_REQUIRED', 'ACTION_REQUIRED') then coalesce(o.pay_by, d.pay_by) end,
               case when p.state = 'METHOD_REQUIRED' then p.failure end
        from unnest($1::uuid[]) with ordinality as asked (order_id, place)
             join orders o using (order_id) join payments p using (order_id) left join drops d using (drop_id)
             left join shipments s using (order_id)
        where $2::text is null or o.buyer = $2 order by place";
    const ITEMS: &str = "-- orders.items_of
        select i.order_id, i.line, v.sku, v.title, i.quantity, i.unit_price_minor, i.serials, i.returned_quantity
        from order_items i join variants v using (variant_id) where i.order_id = any($1) order by i.order_id, i.line";
    const REFUNDS: &str = "-- orders.refunds_of
        select r.order_id, r.refund_id, r.amount_minor, r.state, r.created_at, c.number
        from refunds r left join credit_notes c using (refund_id)
        where r.order_id = any($1) order by r.created_at, r.refund_id";
    let statement = connection.prepare_cached(ORDERS).await?;
    let orders = connection.query(&statement, &[&ids, &buyer.map(BuyerId::as_str)]).await?;
    if orders.is_empty() {
        return Ok(Vec::new());
    }
    let ids = orders.iter().map(|row| row.get::<_, Uuid>(0)).collect::<Vec<_>>();
    let items = connection.query(&connection.prepare_cached(ITEMS).await?, &[&ids]).await?;
    let refunds = connection.query(&connection.prepare_cached(REFUNDS).await?, &[&ids]).await?;
    let (items, refunds) = (by_order(&items), by_order(&refunds));
    let nothing = Vec::new();
    let view = |row: &Row| {
        let id: Uuid = row.get(0);
        let currency: &str = row.get(4);
        let amount = |column| money(row.get(column), currency, id);
        let item = |row: &&Row| {
            Ok(OrderItemView {
                line: row.get::<_, i32>(1) as u32,
                sku: row.get(2),
                title: row.get(3),
                quantity: row.get::<_, i32>(4) as u32,
                unit_price: money(row.get(5), currency, id)?,
                serials: serials(row.get(6)),
                returned: row.get::<_, i32>(7) as u32,
            })
        };
        let refund = |row: &&Row| {
            Ok(RefundView {
                id: RefundId(row.get(1)),
                amount: money(row.get(2), currency, id)?,
                state: refund_state(row.get(3), id)?,
                created_at: row.get(4),
                credit_note: row.get(5),
            })
        };
        let shipment = row.get::<_, Option<String>>(14).map(|carrier| ShipmentView {
            tracking: Tracking { carrier, number: row.get(15) },
            shipped_at: row.get(16),
        });
        let buyer: &str = row.get(17);
        Ok(OrderView {
            id: OrderId(id),
            buyer: buyer.parse().map_err(|_| inconsistent("orders", "buyer", id, buyer))?,
            drop_name: row.get(1),
            price_includes_tax: row.get(18),
            waits_beyond: row.get::<_, Option<i64>>(19).map(|minor| money(minor, currency, id)).transpose()?,
            status: order_state(row.get(2), id)?,
            payment: payment_state(row.get(3), id)?,
            totals: Totals { subtotal: amount(5)?, tax: amount(6)?, shipping: amount(7)?, total: amount(8)? },
            items: items.get(&id).unwrap_or(&nothing).iter().map(item).collect::<Result<_, LedgerError>>()?,
            ship_to: row.get(9),
            refunds: refunds.get(&id).unwrap_or(&nothing).iter().map(refund).collect::<Result<_, LedgerError>>()?,
            shipment,
            is_cancel_requested: row.get(12),
            pay_by: row.get(20),
            decline: row.get(21),
            next_action: row.get::<_, Option<Json<BuyerAction>>>(13).map(|action| action.0),
            created_at: row.get(10),
            updated_at: row.get(11),
        })
    };
    orders.iter().map(view).collect()
}

/// Rows whose first column is their order.
pub(super) fn by_order(rows: &[Row]) -> HashMap<Uuid, Vec<&Row>> {
    let mut found: HashMap<Uuid, Vec<&Row>> = HashMap::new();
    for row in rows {
        found.entry(row.get(0)).or_default().push(row);
    }
    found
}
