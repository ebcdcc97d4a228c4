//! Goods that came back after they had shipped. A return is a row of its own: the order stays as it is.
//!
//! What comes back is counted on its line, never above what was ordered. With `restock`, ordinary stock is available again where
//! it had lain, and stands in the history of the stock; a unit of a drop goes back to its drop through a grant, as long as the drop sells, and otherwise stays with its
//! order: nobody could buy it, and a closed drop's stock is history. The buyer's limit does not come back with it: he has had his
//! unit. The money goes the way of every refund, in the same transaction.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::{serial_values, serials};
use super::error::{LedgerError, expect_rows};
use super::locked_order::{lock_order, lock_payment, lock_warehouses_of};
use super::orders::by_order;
use super::outbox;
use super::pool::Ledger;
use super::refunds::{RefundAsked, refund_in};
use super::stock::{self, Shelf};
use super::tx::run_tx;
use super::{awards, rest};
use crate::domain::credits::{Credit, RefundOf, Units};
use crate::domain::fulfilment::{NewReturn, ReturnedLine};
use crate::domain::ids::{DropId, OrderId, RefundId, ReturnId, Serial, VariantId, VariantNumber, WarehouseId};
use crate::domain::money::Money;
use crate::domain::notices::Notice;
use crate::domain::orders::OrderState;

/// What taking a return did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReturnTaken {
    Now,
    /// The same return, earlier.
    Before,
    /// Its id was used for other goods, another order, another amount or another reason.
    IdTaken,
    /// Only what has shipped can come back.
    NotShipped(OrderState),
    NoSuchLine(u32),
    /// Fewer are out.
    TooMany {
        line: u32,
        left: u32,
    },
    /// This unit is not one of the line, or has come back before.
    NotOut {
        line: u32,
        serial: Serial,
    },
    /// More money than is left of what was paid.
    RefundTooMuch {
        left: Money,
    },
    NoSuchOrder,
}

/// A return, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReturnView {
    pub return_id: ReturnId,
    pub reason: String,
    pub taken_by: String,
    pub refund_id: Option<RefundId>,
    pub lines: Vec<ReturnLineView>,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReturnLineView {
    pub line: u32,
    pub quantity: u32,
    pub serials: Vec<Serial>,
    /// They are available again.
    pub restocked: bool,
}

/// A line as it is in the order, under the order's lock.
struct OrderedLine {
    line: u32,
    product: i32,
    variant: i32,
    warehouse: WarehouseId,
    quantity: u32,
    returned: u32,
    /// The drop whose units these are, and which of its variants.
    drop: Option<(DropId, VariantNumber)>,
    /// That drop sells.
    is_selling: bool,
    serials: Vec<Serial>,
    /// Those of them that came back before.
    returned_serials: Vec<Serial>,
}

impl Ledger {
    /// Takes goods back. `why` is who took them and why they came.
    pub async fn take_return(
        &self,
        id: ReturnId,
        order: OrderId,
        new: &NewReturn,
        (by, reason): (&str, &str),
        now: Timestamp,
    ) -> Result<ReturnTaken, LedgerError> {
        let asked = serde_json::to_value(new).expect("a return is made of texts and numbers");
        let taken = run_tx!(self, "returns.take_return", tx, {
            const FIND: &str = "-- returns.find\nselect 1 from orders where order_id = $1";
            if tx.query_opt(&tx.prepare_cached(FIND).await?, &[&order.0]).await?.is_none() {
                return Ok(ReturnTaken::NoSuchOrder);
            }
            lock_drops_of(tx, order).await?;
            lock_warehouses_of(tx, order).await?;
            let found = lock_order(tx, order).await?;
            const KNOWN: &str = "-- returns.known\nselect order_id, asked, reason from returns where return_id = $1";
            if let Some(row) = tx.query_opt(KNOWN, &[&id.0]).await? {
                let is_same = row.get::<_, Uuid>(0) == order.0
                    && row.get::<_, Value>(1) == asked
                    && row.get::<_, &str>(2) == reason;
                return Ok(if is_same { ReturnTaken::Before } else { ReturnTaken::IdTaken });
            }
            if !found.status.has_shipped() {
                return Ok(ReturnTaken::NotShipped(found.status));
            }
            let ordered = ordered_lines(tx, order).await?;
            let mut lines = Vec::new();
            for line in &new.lines {
                let Some(of) = ordered.iter().find(|of| of.line == line.line) else {
                    return Ok(ReturnTaken::NoSuchLine(line.line));
                };
                match units_that_come_back(of, line) {
                    Ok(serials) => lines.push((of, line, serials)),
                    Err(refused) => return Ok(refused),
                }
            }
            // Last of what may be refused, because it writes.
            let credit = credit_of(new);
            if let Some(credit) = &credit {
                let payment = lock_payment(tx, order).await?;
                match refund_in(tx, id.refund_id(), order, &payment, credit, (by, reason), now).await? {
                    RefundAsked::Now => {}
                    RefundAsked::TooMuch { left } => return Ok(ReturnTaken::RefundTooMuch { left }),
                    RefundAsked::NotPaid => {
                        let left = Money::zero(payment.amount.currency);
                        return Ok(ReturnTaken::RefundTooMuch { left });
                    }
                    // Its id names a refund that was asked for by itself.
                    _ => return Ok(ReturnTaken::IdTaken),
                }
            }
            let refund = credit.map(|_| id.refund_id());
            const RETURN: &str = "-- returns.insert
                insert into returns (return_id, order_id, asked, reason, taken_by, refund_id, created_at)
                values ($1, $2, $3, $4, $5, $6, $7)";
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
                &id.0,
                &order.0,
                &asked,
                &reason,
                /* taken_by */ &by,
                &refund.map(|refund| refund.0),
                /* now */ &now,
            ];
            tx.execute(RETURN, arguments).await?;
            // In the order of locks, whatever the order in which they were named.
            lines.sort_by_key(|(of, ..)| (of.variant, of.warehouse, of.line));
            for (of, line, serials) in &lines {
                take_line(tx, (id, order), of, line, serials, (by, reason), now).await?;
            }
            let units = lines.iter().map(|(_, line, _)| line.quantity).sum();
            let notice = Notice::OrderReturned { id, units, is_refunded: refund.is_some() };
            outbox::enqueue(tx, order, &notice, now).await?;
            Ok(ReturnTaken::Now)
        });
        match taken {
            // Another order's return took the id at the same moment; one of this order would have waited for its lock.
            Err(error) if error.is_unique_violation() => Ok(ReturnTaken::IdTaken),
            other => other,
        }
    }

    /// What came back of these orders, oldest first.
    pub(super) async fn returns_of(&self, orders: &[Uuid]) -> Result<HashMap<Uuid, Vec<ReturnView>>, LedgerError> {
        const RETURNS: &str = "-- returns.of
            select order_id, return_id, reason, taken_by, refund_id, created_at from returns
            where order_id = any($1) order by created_at, return_id";
        const LINES: &str = "-- returns.lines_of
            select return_id, line, quantity, serials, restocked from return_lines l
            where exists (select 1 from returns r where r.return_id = l.return_id and r.order_id = any($1)) order by line";
        let connection = self.connection().await?;
        let returns = connection.query(&connection.prepare_cached(RETURNS).await?, &[&orders]).await?;
        if returns.is_empty() {
            return Ok(HashMap::new());
        }
        let lines = connection.query(&connection.prepare_cached(LINES).await?, &[&orders]).await?;
        // Lines are told apart by their return, which is their first column too.
        let lines = by_order(&lines);
        let mut found: HashMap<Uuid, Vec<ReturnView>> = HashMap::new();
        for row in &returns {
            let id: Uuid = row.get(1);
            let line = |row: &&Row| ReturnLineView {
                line: row.get::<_, i32>(1) as u32,
                quantity: row.get::<_, i32>(2) as u32,
                serials: serials(row.get(3)),
                restocked: row.get(4),
            };
            found.entry(row.get(0)).or_default().push(ReturnView {
                return_id: ReturnId(id),
                reason: row.get(2),
                taken_by: row.get(3),
                refund_id: row.get::<_, Option<Uuid>>(4).map(RefundId),
                lines: lines.get(&id).map_or_else(Vec::new, |lines| lines.iter().map(line).collect()),
                created_at: row.get(5),
            });
        }
        Ok(found)
    }
}

/// Drops come first in the order of locks. Shared: that one sells must stay so until this has ended.
async fn lock_drops_of(tx: &Transaction<'_>, order: OrderId) -> Result<(), LedgerError> {
    const SQL: &str = "-- returns.lock_drops
        select 1 from drops where drop_id in (select w.drop_id from order_items i join warehouses w using (warehouse_id)
                                              where i.order_id = $1) order by drop_id for share";
    tx.query(&tx.prepare_cached(SQL).await?, &[&order.0]).await?;
    Ok(())
}

async fn ordered_lines(tx: &Transaction<'_>, order: OrderId) -> Result<Vec<OrderedLine>, LedgerError> {
    const SQL: &str = "-- returns.ordered
        select i.line, i.product_id, i.variant_id, i.warehouse_id, i.quantity, i.returned_quantity, i.serials,
               d.drop_id, dv.number, coalesce(d.state in ('lining', 'open', 'paused'), false),
               array(select unnest(l.serials) from return_lines l where l.order_id = i.order_id and l.line = i.line)
        from order_items i join warehouses w using (warehouse_id) left join drops d using (drop_id)
             left join drop_variants dv on dv.drop_id = d.drop_id and dv.variant_id = i.variant_id
        where i.order_id = $1 order by i.variant_id, i.warehouse_id, i.line for update of i";
    let rows = tx.query(&tx.prepare_cached(SQL).await?, &[&order.0]).await?;
    let line = |row: &Row| OrderedLine {
        line: row.get::<_, i32>(0) as u32,
        product: row.get(1),
        variant: row.get(2),
        warehouse: WarehouseId(row.get(3)),
        quantity: row.get::<_, i32>(4) as u32,
        returned: row.get::<_, i32>(5) as u32,
        serials: serials(row.get(6)),
        drop: row
            .get::<_, Option<i32>>(7)
            .zip(row.get::<_, Option<i16>>(8))
            .map(|(drop, number)| (DropId(drop), VariantNumber(number as u8))),
        is_selling: row.get(9),
        returned_serials: serials(row.get(10)),
    };
    Ok(rows.iter().map(line).collect())
}

/// What goes back to the buyer with a return, if anything does.
fn credit_of(new: &NewReturn) -> Option<Credit> {
    let units = new.lines.iter().map(|line| Units { line: line.line, quantity: line.quantity }).collect();
    match (new.refund_of, new.refund) {
        (Some(of), _) => Some(Credit::Goods { units, with_shipping: of == RefundOf::GoodsAndShipping }),
        (None, Some(amount)) => Some(Credit::Amount { minor: amount.amount_minor, units }),
        (None, None) => None,
    }
}

/// Which units of a line come back, or why they cannot. None where they have no numbers.
fn units_that_come_back(of: &OrderedLine, asked: &ReturnedLine) -> Result<Vec<Serial>, ReturnTaken> {
    let left = of.quantity - of.returned;
    if asked.quantity > left {
        return Err(ReturnTaken::TooMany { line: of.line, left });
    }
    let out = of.serials.iter().filter(|serial| !of.returned_serials.contains(serial)).copied();
    let mut out = out.collect::<Vec<_>>();
    if asked.serials.is_empty() {
        out.sort_unstable();
        out.truncate(asked.quantity as usize);
        return Ok(out);
    }
    match asked.serials.iter().find(|serial| !out.contains(serial)) {
        Some(serial) => Err(ReturnTaken::NotOut { line: of.line, serial: *serial }),
        None => Ok(asked.serials.clone()),
    }
}

/// Counts a line as returned and, where it is to be sold again, makes it available.
async fn take_line(
    tx: &Transaction<'_>,
    (id, order): (ReturnId, OrderId),
    of: &OrderedLine,
    line: &ReturnedLine,
    serials: &[Serial],
    why: (&str, &str),
    now: Timestamp,
) -> Result<(), LedgerError> {
    let quantity = line.quantity as i32;
    let is_restocked = line.restock && (of.drop.is_none() || of.is_selling);
    const COUNT: &str = "-- returns.count
        update order_items set returned_quantity = returned_quantity + $3 where order_id = $1 and line = $2";
    let number = of.line as i32;
    let changed = tx.execute(&tx.prepare_cached(COUNT).await?, &[&order.0, &number, &quantity]).await?;
    expect_rows("returns.count", 1, changed)?;
    let adjustment = match of.drop {
        None if is_restocked => {
            let shelf = Shelf { product: of.product, variant: VariantId(of.variant), warehouse: of.warehouse };
            let (available, reserved) = stock::lock_shelf(tx, shelf).await?;
            let delta = i64::from(line.quantity);
            Some(stock::put(tx, shelf, delta, (available + delta, reserved), why, now).await?)
        }
        _ => None,
    };
    const LINE: &str = "-- returns.insert_line
        insert into return_lines (return_id, order_id, line, quantity, serials, restocked, adjustment_id)
        values ($1, $2, $3, $4, $5, $6, $7)";
    let numbers = of.drop.map(|_| serial_values(serials));
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &id.0,
        &order.0,
        &number,
        &quantity,
        &numbers,
        /* restocked */ &is_restocked,
        /* adjustment */ &adjustment,
    ];
    tx.execute(&tx.prepare_cached(LINE).await?, arguments).await?;
    if let Some((drop, variant)) = of.drop.filter(|_| is_restocked) {
        const TOKENS: &str = "-- returns.free_tokens
            update tokens set order_id = null where drop_id = $1 and serial = any($2) and order_id = $3";
        let statement = tx.prepare_cached(TOKENS).await?;
        let changed = tx.execute(&statement, &[&drop.0, &serial_values(serials), &order.0]).await?;
        expect_rows("returns.free_tokens", serials.len() as u64, changed)?;
        const INVENTORY: &str = "-- returns.restock
            update inventory set quantity_available = quantity_available + $4, version = version + 1
            where product_id = $1 and variant_id = $2 and warehouse_id = $3";
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&of.product, &of.variant, &of.warehouse.0, &quantity];
        expect_rows("returns.restock", 1, tx.execute(&tx.prepare_cached(INVENTORY).await?, arguments).await?)?;
        // No release: the claim it was sold under is not over.
        let stock = awards::Stock { drop, product: of.product, variant_id: of.variant };
        rest::come_back(tx, stock, variant, vec![(of.warehouse, serials.to_vec())], now).await?;
    }
    Ok(())
}
