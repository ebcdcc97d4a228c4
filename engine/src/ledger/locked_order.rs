//! An order with its payment and its stock, locked in one order, and the steps that move them together.
//!
//! Locks are taken in the order warehouses, order, payment; every step runs inside of the transaction of its caller.

use std::collections::{BTreeMap, HashMap};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::{inconsistent, order_state, serial_values, serials};
use super::error::{LedgerError, expect_rows};
use super::tx::planned;
use super::{awards, grants, journal, outbox, rest};
use crate::domain::ids::{BuyerId, ClaimId, DropId, IntentId, OrderId, Serial, VariantNumber, WarehouseId};
use crate::domain::money::{Currency, Money};
use crate::domain::notices::Notice;
use crate::domain::orders::{OrderEvent, OrderState};
use crate::domain::payments::{PaymentState, RefundState};
use crate::domain::turns::{Turn, Work};

/// Who moved an order, in its history, when it was the provider's word.
const PAYMENTS: &str = "payments";

/// A payment's row.
pub(super) struct LockedPayment {
    pub(super) order: OrderId,
    pub(super) state: PaymentState,
    pub(super) amount: Money,
    pub(super) intent: Option<IntentId>,
    pub(super) failure: Option<String>,
    /// Asked to go back, and not failed.
    pub(super) refund: Money,
    /// Looks at it since its state changed.
    pub(super) tries: i32,
    /// The number of its last lease.
    pub(super) lease: i64,
}

/// An order's row.
pub(super) struct LockedOrder {
    pub(super) id: OrderId,
    pub(super) buyer: BuyerId,
    pub(super) drop: Option<DropId>,
    pub(super) status: OrderState,
    pub(super) currency: Currency,
    pub(super) subtotal_minor: i64,
    pub(super) tax_minor: i64,
    pub(super) shipping_minor: i64,
    /// Who wants it ended, and why.
    pub(super) cancel_asked: Option<(String, String)>,
}

/// One line of an order, and where its units lie.
struct Item<'a> {
    order: &'a LockedOrder,
    product: i32,
    variant_id: i32,
    variant: Option<VariantNumber>,
    warehouse: WarehouseId,
    quantity: i32,
    serials: Vec<Serial>,
}

/// Takes what the units of an order of a drop may come back to: the lines of standby, its warehouses, and the homes of who is
/// first in line. They come before orders in the order of locks, and a held unit never changes its warehouse. Ordinary stock
/// has nothing but its inventory.
pub(super) async fn lock_warehouses_of(tx: &Transaction<'_>, order: OrderId) -> Result<(), LedgerError> {
    lock_warehouses_of_all(tx, &[order.0]).await
}

/// The same for orders of one drop.
pub(super) async fn lock_warehouses_of_all(tx: &Transaction<'_>, orders: &[Uuid]) -> Result<(), LedgerError> {
    const ITEMS: &str = "-- locked_order.lock_items
        select i.warehouse_id, i.quantity, o.drop_id, dv.number
        from order_items i join orders o using (order_id)
             left join drop_variants dv on dv.drop_id = o.drop_id and dv.variant_id = i.variant_id
        where i.order_id = any($1)";
    let items = planned(tx, ITEMS, &[&orders]).await?;
    let warehouses = items.iter().map(|row| row.get(0)).collect::<Vec<i32>>();
    let Some(drop) = items.iter().find_map(|row| row.get::<_, Option<i32>>(2)).map(DropId) else { return Ok(()) };
    let variants = items.iter().filter_map(|row| row.get(3)).collect::<Vec<i16>>();
    let units = items.iter().map(|row| i64::from(row.get::<_, i32>(1))).sum();
    awards::lock_standby(tx, drop, &variants).await?;
    awards::lock_warehouses_and_homes(tx, drop, &warehouses, &variants, units).await
}

pub(super) async fn lock_order(tx: &Transaction<'_>, order: OrderId) -> Result<LockedOrder, LedgerError> {
    let found = lock_orders(tx, &[order.0]).await?.pop();
    found.ok_or(LedgerError::RowCount { statement: "locked_order.lock_orders", expected: 1, changed: 0 })
}

/// Locks orders in the order of their ids, and answers in it.
pub(super) async fn lock_orders(tx: &Transaction<'_>, orders: &[Uuid]) -> Result<Vec<LockedOrder>, LedgerError> {
    const SQL: &str = "-- locked_order.lock_orders
        select buyer, drop_id, status, currency, subtotal_minor, tax_minor, shipping_minor, cancel_asked_by, cancel_reason,
               order_id
        from orders where order_id = any($1) order by order_id for update";
    let rows = planned(tx, SQL, &[&orders]).await?;
    rows.iter().map(order_from_row).collect()
}

fn order_from_row(row: &Row) -> Result<LockedOrder, LedgerError> {
    let order = OrderId(row.get(9));
    let (buyer, status, currency): (&str, &str, &str) = (row.get(0), row.get(2), row.get(3));
    Ok(LockedOrder {
        id: order,
        buyer: buyer.parse().map_err(|_| inconsistent("orders", "buyer", order, buyer))?,
        drop: row.get::<_, Option<i32>>(1).map(DropId),
        status: order_state(status, order.0)?,
        currency: currency.parse().map_err(|_| inconsistent("orders", "currency", order, currency))?,
        subtotal_minor: row.get(4),
        tax_minor: row.get(5),
        shipping_minor: row.get(6),
        cancel_asked: row.get::<_, Option<String>>(7).zip(row.get(8)),
    })
}

pub(super) async fn lock_payment(tx: &Transaction<'_>, order: OrderId) -> Result<LockedPayment, LedgerError> {
    let found = lock_payments(tx, &[order.0]).await?.pop();
    found.ok_or(LedgerError::RowCount { statement: "locked_order.lock_payments", expected: 1, changed: 0 })
}

/// Locks the payments of orders in the order of their ids, and answers in it.
pub(super) async fn lock_payments(tx: &Transaction<'_>, orders: &[Uuid]) -> Result<Vec<LockedPayment>, LedgerError> {
    const SQL: &str = "-- locked_order.lock_payments
        select state, amount_minor, currency, intent_id, failure, refund_minor, tries, order_id, lease_number from payments
        where order_id = any($1) order by order_id for update";
    let rows = planned(tx, SQL, &[&orders]).await?;
    rows.iter().map(payment_from_row).collect()
}

fn payment_from_row(row: &Row) -> Result<LockedPayment, LedgerError> {
    let order = OrderId(row.get(7));
    Ok(LockedPayment {
        order,
        state: payment_state(row.get(0), order.0)?,
        amount: money(row.get(1), row.get(2), order.0)?,
        intent: row.get::<_, Option<String>>(3).map(IntentId),
        failure: row.get(4),
        refund: money(row.get(5), row.get(2), order.0)?,
        tries: row.get(6),
        lease: row.get(8),
    })
}

#[expect(clippy::too_many_arguments, reason = "the columns that may change with a payment's state")]
pub(super) async fn move_payment(
    tx: &Transaction<'_>,
    order: OrderId,
    payment: &LockedPayment,
    to: PaymentState,
    failure: Option<&str>,
    charge: Option<&str>,
    due_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- locked_order.move
        update payments
        set state = $2, failure = case when $2 <> 'SUCCEEDED' then coalesce($3, failure) end,
            provider_charge_id = coalesce($4, provider_charge_id), due_at = $5, leased_until = null, tries = 0, updated_at = $6, turn = $8
        where order_id = $1 and state = $7";
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &order.0,
        &to.as_str(),
        &failure,
        &charge,
        &due_at,
        /* now */ &now,
        /* from */ &payment.state.as_str(),
        /* turn */ &Turn::of(Work::Begun).number(),
    ];
    expect_rows("locked_order.move", 1, tx.execute(&tx.prepare_cached(SQL).await?, arguments).await?)
}

pub(super) async fn move_order(
    tx: &Transaction<'_>,
    order: &LockedOrder,
    event: OrderEvent,
    why: (&str, &str),
    now: Timestamp,
) -> Result<(), LedgerError> {
    move_orders(tx, &[order], event, why, now).await
}

/// Moves orders by one event, each from the state it is in, with a row of history for each.
pub(super) async fn move_orders(
    tx: &Transaction<'_>,
    orders: &[&LockedOrder],
    event: OrderEvent,
    (actor, reason): (&str, &str),
    now: Timestamp,
) -> Result<(), LedgerError> {
    const ORDERS: &str = "-- locked_order.move_orders
        update orders o set status = m.to_state, updated_at = $4
        from unnest($1::uuid[], $2::text[], $3::text[]) as m (order_id, from_state, to_state)
        where o.order_id = any($1) and o.order_id = m.order_id and o.status = m.from_state
        returning o.order_id";
    const HISTORY: &str = "-- locked_order.history
        insert into order_history (order_id, at, from_state, to_state, actor, reason)
        select order_id, $4, from_state, to_state, $5, $6
        from unnest($1::uuid[], $2::text[], $3::text[]) as m (order_id, from_state, to_state)";
    let (mut ids, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
    for order in orders {
        let moved = order
            .status
            .apply(event)
            .map_err(|error| inconsistent("orders", "status", order.id, &error.to_string()))?;
        ids.push(order.id.0);
        from.push(order.status.as_str());
        to.push(moved.as_str());
    }
    let changed = planned(tx, ORDERS, &[&ids, &from, &to, /* now */ &now]).await?;
    expect_rows("locked_order.move_orders", orders.len() as u64, changed.len() as u64)?;
    let statement = tx.prepare_cached(HISTORY).await?;
    tx.execute(&statement, &[&ids, &from, &to, /* now */ &now, &actor, &reason]).await?;
    Ok(())
}

/// The lines of orders, each with its order.
async fn items<'a>(tx: &Transaction<'_>, orders: &[&'a LockedOrder]) -> Result<Vec<Item<'a>>, LedgerError> {
    const SQL: &str = "-- locked_order.items
        select i.product_id, i.variant_id, i.warehouse_id, i.quantity, i.serials, dv.number, i.order_id
        from order_items i join orders o using (order_id)
             left join drop_variants dv on dv.drop_id = o.drop_id and dv.variant_id = i.variant_id
        where i.order_id = any($1) order by i.variant_id, i.warehouse_id, i.order_id";
    let ids = orders.iter().map(|order| order.id.0).collect::<Vec<_>>();
    let of = orders.iter().map(|order| (order.id.0, *order)).collect::<HashMap<_, _>>();
    let rows = planned(tx, SQL, &[&ids]).await?;
    let item = |row: &Row| Item {
        order: of[&row.get::<_, Uuid>(6)],
        product: row.get(0),
        variant_id: row.get(1),
        warehouse: WarehouseId(row.get(2)),
        quantity: row.get(3),
        serials: serials(row.get(4)),
        variant: row.get::<_, Option<i16>>(5).map(|number| VariantNumber(number as u8)),
    };
    Ok(rows.iter().map(item).collect())
}

/// Orders that cost nothing, whose payments stand as succeeded: as those whose money is there, and no provider hears of
/// them.
pub(super) async fn confirm_free(tx: &Transaction<'_>, orders: &[Uuid], now: Timestamp) -> Result<(), LedgerError> {
    if orders.is_empty() {
        return Ok(());
    }
    let orders = lock_orders(tx, orders).await?;
    sell(tx, &orders.iter().collect::<Vec<_>>(), "there is nothing to pay", now).await
}

/// Orders whose money is there: stock, journal, history and notices follow, one statement each however many they are.
pub(super) async fn confirm(tx: &Transaction<'_>, orders: &[&LockedOrder], now: Timestamp) -> Result<(), LedgerError> {
    sell(tx, orders, "the charge succeeded", now).await
}

async fn sell(tx: &Transaction<'_>, orders: &[&LockedOrder], reason: &str, now: Timestamp) -> Result<(), LedgerError> {
    // Locked in the one order: row by row, as the lines of the orders name them.
    const PLACES: &str = "-- locked_order.lock_sold
        select s.product_id, s.variant_id, s.warehouse_id, s.units, i.is_there
        from (select product_id, variant_id, warehouse_id, sum(quantity)::int as units
              from order_items where order_id = any($1) group by 1, 2, 3 order by variant_id, warehouse_id) s
             left join lateral (
                 select true as is_there from inventory i
                 where i.product_id = s.product_id and i.variant_id = s.variant_id and i.warehouse_id = s.warehouse_id
                 for update) i on true";
    const SOLD: &str = "-- locked_order.sell
        update inventory i
        set quantity_available = quantity_available - s.units, quantity_reserved = quantity_reserved - s.units,
            version = version + 1
        from unnest($1::int[], $2::int[], $3::int[], $4::int[]) as s (product_id, variant_id, warehouse_id, units)
        where i.product_id = any($1) and i.variant_id = any($2) and i.warehouse_id = any($3)
              and i.product_id = s.product_id and i.variant_id = s.variant_id and i.warehouse_id = s.warehouse_id
        returning 1";
    move_orders(tx, orders, OrderEvent::Paid, (PAYMENTS, reason), now).await?;
    let ids = orders.iter().map(|order| order.id.0).collect::<Vec<_>>();
    let places = planned(tx, PLACES, &[&ids]).await?;
    let there = places.iter().filter(|row| row.get::<_, Option<bool>>(4).is_some()).count();
    expect_rows("locked_order.lock_sold", places.len().max(1) as u64, there as u64)?;
    let column = |number: usize| places.iter().map(|row| row.get(number)).collect::<Vec<i32>>();
    let (products, variants, warehouses, units) = (column(0), column(1), column(2), column(3));
    let sold = planned(tx, SOLD, &[&products, &variants, &warehouses, &units]).await?;
    expect_rows("locked_order.sell", places.len() as u64, sold.len() as u64)?;
    journal::book_charges(tx, orders, now).await?;
    outbox::enqueue_for(tx, &ids, &Notice::OrderConfirmed, now).await?;
    Ok(())
}

/// Takes the inventory of these orders' lines, in the one order.
async fn lock_inventory_of(tx: &Transaction<'_>, orders: &[Uuid]) -> Result<(), LedgerError> {
    const SQL: &str = "-- locked_order.lock_inventory
        select 1 from inventory
        where (variant_id, warehouse_id, product_id) in
              (select variant_id, warehouse_id, product_id from order_items where order_id = any($1))
        order by variant_id, warehouse_id for update";
    planned(tx, SQL, &[&orders]).await?;
    Ok(())
}

/// Ends orders whose payment failed, all for one reason. Those of a drop are of one drop.
pub(super) async fn release(
    tx: &Transaction<'_>,
    orders: &[&LockedOrder],
    reason: &str,
    code: &str,
    now: Timestamp,
) -> Result<(), LedgerError> {
    move_orders(tx, orders, OrderEvent::PaymentFailed, (PAYMENTS, reason), now).await?;
    free_units(tx, orders, UnitsWere::Reserved, now).await?;
    let ids = orders.iter().map(|order| order.id.0).collect::<Vec<_>>();
    outbox::enqueue_for(tx, &ids, &Notice::PaymentFailed { reason: code.to_owned() }, now).await?;
    Ok(())
}

/// Ends an order before it ships.
pub(super) async fn cancel(
    tx: &Transaction<'_>,
    order: &LockedOrder,
    units: UnitsWere,
    is_refunded: bool,
    why: (&str, &str),
    now: Timestamp,
) -> Result<(), LedgerError> {
    move_order(tx, order, OrderEvent::Cancel, why, now).await?;
    free_units(tx, &[order], units, now).await?;
    let notice = Notice::OrderCancelled { is_refunded };
    outbox::enqueue(tx, order.id, &notice, now).await?;
    Ok(())
}

/// Takes an order away of which nobody has been told: its units are free, and no row of it is left.
pub(super) async fn remove(tx: &Transaction<'_>, order: &LockedOrder) -> Result<(), LedgerError> {
    const ROWS: &str = "-- locked_order.remove
        with items as (delete from order_items where order_id = $1), payment as (delete from payments where order_id = $1)
        delete from order_history where order_id = $1";
    const ORDER: &str = "-- locked_order.remove_order\ndelete from orders where order_id = $1";
    free_units(tx, &[order], UnitsWere::Reserved, Timestamp::UNIX_EPOCH).await?;
    tx.execute(ROWS, &[&order.id.0]).await?;
    expect_rows("locked_order.remove_order", 1, tx.execute(ORDER, &[&order.id.0]).await?)
}

/// How the inventory counts the units of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnitsWere {
    /// Not paid yet: reserved, and still available.
    Reserved,
    /// Paid: neither any more.
    Sold,
}

/// The units of orders that end lose their holder, the buyers' limits come back, and a grant for each order tells Redis of
/// both. Who waits in standby gets the units; what nobody waits for rests, and goes back on sale. One statement each, however
/// many orders there are.
async fn free_units(
    tx: &Transaction<'_>,
    orders: &[&LockedOrder],
    were: UnitsWere,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let items = items(tx, orders).await?;
    let of_drops = items.iter().filter_map(OfDrop::of).collect::<Vec<_>>();
    free_tokens(tx, &of_drops).await?;
    // The releases first: each ends a claim, and its buyer may be the first in line.
    let released = of_drops.iter().map(|line| {
        let released = grants::Released {
            claim: ClaimId(line.item.order.id.0),
            buyer: line.item.order.buyer.clone(),
            variant: line.variant,
            units: line.item.quantity as u32,
        };
        (line.item.warehouse, released)
    });
    grants::insert_releases(tx, &released.collect::<Vec<_>>()).await?;
    free_inventory(tx, &items, were).await?;
    // They come ordered by variant and warehouse.
    for lines in of_drops.chunk_by(|one, next| (one.drop, one.variant) == (next.drop, next.variant)) {
        let OfDrop { drop, variant, item } = lines[0];
        let stock = awards::Stock { drop, product: item.product, variant_id: item.variant_id };
        let together = lines.chunk_by(|one, next| one.item.warehouse == next.item.warehouse);
        let units = together.map(|lines| {
            let serials = lines.iter().flat_map(|line| line.item.serials.iter().copied()).collect();
            (lines[0].item.warehouse, serials)
        });
        rest::come_back(tx, stock, variant, units.collect(), now).await?;
    }
    Ok(())
}

/// A line of an order of a drop.
#[derive(Clone, Copy)]
struct OfDrop<'a> {
    drop: DropId,
    variant: VariantNumber,
    item: &'a Item<'a>,
}

impl<'a> OfDrop<'a> {
    /// `None`: ordinary goods.
    fn of(item: &'a Item<'a>) -> Option<Self> {
        Some(Self { drop: item.order.drop?, variant: item.variant?, item })
    }
}

/// Takes the units of these lines from their holders: from each order exactly those that it has.
async fn free_tokens(tx: &Transaction<'_>, lines: &[OfDrop<'_>]) -> Result<(), LedgerError> {
    // By the whole key of each: see `settlement_rows.take_tokens`.
    const TOKENS: &str = "-- locked_order.free_tokens
        update tokens t set order_id = null
        from (select drop_id, serial, order_id
              from unnest($1::int[], $2::int[], $3::uuid[]) as u (drop_id, serial, order_id) offset 0) u
        where t.drop_id = u.drop_id and t.serial = u.serial and t.order_id = u.order_id
        returning 1";
    const HOLDINGS: &str = "-- locked_order.free_holdings
        delete from holdings h
        using (select drop_id, buyer, order_id
               from unnest($1::int[], $2::text[], $3::uuid[]) as o (drop_id, buyer, order_id) offset 0) o
        where h.drop_id = o.drop_id and h.buyer = o.buyer and h.order_id = o.order_id
        returning 1";
    if lines.is_empty() {
        return Ok(());
    }
    let (mut drops, mut numbers, mut holders) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        for serial in serial_values(&line.item.serials) {
            drops.push(line.drop.0);
            numbers.push(serial);
            holders.push(line.item.order.id.0);
        }
    }
    let freed = planned(tx, TOKENS, &[&drops, &numbers, &holders]).await?;
    expect_rows("locked_order.free_tokens", numbers.len() as u64, freed.len() as u64)?;
    let drops = lines.iter().map(|line| line.drop.0).collect::<Vec<_>>();
    let buyers = lines.iter().map(|line| line.item.order.buyer.as_str()).collect::<Vec<_>>();
    let orders = lines.iter().map(|line| line.item.order.id.0).collect::<Vec<_>>();
    let ended = planned(tx, HOLDINGS, &[&drops, &buyers, &orders]).await?;
    expect_rows("locked_order.free_holdings", numbers.len() as u64, ended.len() as u64)
}

async fn free_inventory(tx: &Transaction<'_>, items: &[Item<'_>], were: UnitsWere) -> Result<(), LedgerError> {
    const SQL: &str = "-- locked_order.free_inventory
        update inventory i
        set quantity_reserved = quantity_reserved - u.reserved, quantity_available = quantity_available + u.available,
            version = version + 1
        from unnest($1::int[], $2::int[], $3::int[], $4::int[], $5::int[])
             as u (product_id, variant_id, warehouse_id, reserved, available)
        where i.product_id = u.product_id and i.variant_id = u.variant_id and i.warehouse_id = u.warehouse_id
        returning 1";
    let mut units: BTreeMap<(i32, i32, i32), i32> = BTreeMap::new();
    for item in items {
        *units.entry((item.variant_id, item.warehouse.0, item.product)).or_default() += item.quantity;
    }
    let orders = items.iter().map(|item| item.order.id.0).collect::<Vec<_>>();
    lock_inventory_of(tx, &orders).await?;
    let (mut products, mut variants, mut warehouses) = (Vec::new(), Vec::new(), Vec::new());
    let (mut reserved, mut available) = (Vec::new(), Vec::new());
    for ((variant, warehouse, product), units) in &units {
        products.push(*product);
        variants.push(*variant);
        warehouses.push(*warehouse);
        reserved.push(if were == UnitsWere::Reserved { *units } else { 0 });
        available.push(if were == UnitsWere::Sold { *units } else { 0 });
    }
    let changed = planned(tx, SQL, &[&products, &variants, &warehouses, &reserved, &available]).await?;
    expect_rows("locked_order.free_inventory", units.len() as u64, changed.len() as u64)
}

pub(super) fn payment_state(text: &str, order: Uuid) -> Result<PaymentState, LedgerError> {
    let found = PaymentState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| inconsistent("payments", "state", order, text))
}

pub(super) fn refund_state(text: &str, order: Uuid) -> Result<RefundState, LedgerError> {
    let found = RefundState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| inconsistent("refunds", "state", order, text))
}

pub(super) fn money(amount_minor: i64, currency: &str, order: Uuid) -> Result<Money, LedgerError> {
    let currency = currency.parse().map_err(|_| inconsistent("payments", "currency", order, currency))?;
    Ok(Money::new(amount_minor, currency))
}
