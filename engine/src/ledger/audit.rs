//! What the audit reads from Postgres: one snapshot of one drop, taken in a single read-only transaction.

use std::collections::HashMap;

use jiff::Timestamp;
use tokio_postgres::{IsolationLevel, Row};
use uuid::Uuid;

use super::drops::{inconsistent, order_state, serial, serials};
use super::error::LedgerError;
use super::locked_order::{money, payment_state};
use super::pool::Ledger;
use crate::domain::drops::SaleDrop;
use crate::domain::grant_kinds::GrantKind;
use crate::domain::ids::{BuyerId, ClaimId, GrantNumber, IntentId, OrderId, Serial, VariantNumber, WarehouseId};
use crate::domain::money::Money;
use crate::domain::orders::OrderState;
use crate::domain::payments::PaymentState;

#[derive(Debug, Clone)]
pub struct DropFacts {
    pub tokens: Vec<TokenFact>,
    pub orders: HashMap<OrderId, OrderFact>,
    pub rejected_claims: Vec<OrderId>,
    /// Claims that wait set aside: whose they are, and the units that they name.
    pub poisoned_claims: HashMap<ClaimId, (BuyerId, Vec<Serial>)>,
    /// Awards that have not come to an end, with as many units as each has.
    pub awards: HashMap<ClaimId, u32>,
    pub inventory: Vec<InventoryFact>,
    /// In the order of the warehouses' numbers.
    pub last_grants: Vec<GrantNumber>,
    /// Every grant: its tokens are on their way until the warehouse has applied its number.
    pub grants: Vec<GrantFact>,
    /// Live units by order, as the second guard of the limit counts them.
    pub holdings: HashMap<OrderId, u32>,
}

#[derive(Debug, Clone)]
pub struct TokenFact {
    pub serial: Serial,
    pub variant: VariantNumber,
    pub warehouse: WarehouseId,
    pub holder: Option<OrderId>,
    /// The claim that holds it while it waits set aside.
    pub poisoned: Option<ClaimId>,
    /// The claim that an award is to make of it.
    pub awarded: Option<ClaimId>,
    /// It came back, and is in no warehouse yet.
    pub is_resting: bool,
}

impl TokenFact {
    /// Nobody holds it.
    pub fn is_free(&self) -> bool {
        self.holder.is_none() && self.poisoned.is_none() && self.awarded.is_none() && !self.is_resting
    }
}

#[derive(Debug, Clone)]
pub struct OrderFact {
    pub buyer: BuyerId,
    pub status: OrderState,
    pub variant: VariantNumber,
    /// The units it holds, or held before it ended.
    pub serials: Vec<Serial>,
    /// Those of them that came back and are on sale again.
    pub restocked: Vec<Serial>,
    pub total: Money,
    pub payment: PaymentState,
    pub intent: Option<IntentId>,
    /// What the provider owes us for this order, by the journal: charges less refunds.
    pub booked_minor: i64,
    /// Gone back to the buyer.
    pub refunded_minor: i64,
}

#[derive(Debug, Clone)]
pub struct InventoryFact {
    pub variant: VariantNumber,
    pub warehouse: WarehouseId,
    pub available: i64,
    pub reserved: i64,
}

#[derive(Debug, Clone)]
pub struct GrantFact {
    pub warehouse: WarehouseId,
    pub number: GrantNumber,
    pub serials: Vec<Serial>,
    pub kind: GrantKind,
    /// From when on Redis surely had it.
    pub applied_at: Option<Timestamp>,
}

/// A shelf of ordinary stock: what its row says, and what follows from its history and the orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShelfFacts {
    pub sku: String,
    pub warehouse: String,
    pub available: i64,
    pub reserved: i64,
    /// All its adjustments, less what was sold, and what came back to be sold again.
    pub available_by_history: i64,
    /// What orders hold that are not paid yet.
    pub reserved_by_orders: i64,
}

/// A row whose parent is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub table: &'static str,
    /// What it names.
    pub row: String,
    pub parent: &'static str,
}

/// Columns that name a row of another table and have no foreign key: table, column, the other table, its column. Rows of
/// these are written in the transaction that makes or locks their parent (`migrations/V44__rows_of_orders.sql`).
const PARENTS: [(&str, &str, &str, &str); 11] = [
    ("orders", "drop_id", "drops", "drop_id"),
    ("tokens", "order_id", "orders", "order_id"),
    ("order_items", "order_id", "orders", "order_id"),
    ("order_items", "variant_id", "variants", "variant_id"),
    ("order_items", "warehouse_id", "warehouses", "warehouse_id"),
    ("order_history", "order_id", "orders", "order_id"),
    ("holdings", "order_id", "orders", "order_id"),
    ("holdings", "drop_id", "drops", "drop_id"),
    ("payments", "order_id", "orders", "order_id"),
    ("payment_attempts", "order_id", "payments", "order_id"),
    ("journal", "order_id", "orders", "order_id"),
];
/// Every row of every order is compared: longer than any statement of a sale, and it holds no locks.
const TAKES_ITS_TIME: &str = "-- audit.takes_its_time\nset local statement_timeout = '20min'";
/// Orphans told of for each of them.
const ORPHANS_MAX: usize = 10;

impl Ledger {
    /// Rows whose parents are not there, of one instant.
    pub async fn orphans(&self) -> Result<Vec<Orphan>, LedgerError> {
        let mut connection = self.connection().await?;
        let snapshot = connection
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        snapshot.batch_execute(TAKES_ITS_TIME).await?;
        let mut orphans = Vec::new();
        for (table, column, parent, key) in PARENTS {
            let sql = format!(
                "-- audit.orphans
                select c.{column}::text from {table} c
                where c.{column} is not null and not exists (select 1 from {parent} p where p.{key} = c.{column})
                limit {ORPHANS_MAX}"
            );
            let orphan = |row: &Row| Orphan { table, row: row.get(0), parent };
            orphans.extend(snapshot.query(&sql, &[]).await?.iter().map(orphan));
        }
        snapshot.commit().await?;
        Ok(orphans)
    }

    /// Keys under which two calls of one order were prepared.
    pub async fn keys_used_twice(&self) -> Result<Vec<String>, LedgerError> {
        const SQL: &str = "-- audit.keys_used_twice
            select idempotency_key from payment_attempts group by order_id, idempotency_key having count(*) > 1 limit 10";
        let mut connection = self.connection().await?;
        let tx = connection.build_transaction().read_only(true).start().await?;
        tx.batch_execute(TAKES_ITS_TIME).await?;
        let rows = tx.query(SQL, &[]).await?;
        tx.commit().await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Every shelf of ordinary stock, by one statement and so of one instant. A shelf without a row holds nothing.
    pub async fn shelf_facts(&self) -> Result<Vec<ShelfFacts>, LedgerError> {
        // Cancelling gives back what was sold or reserved, a failed payment what was reserved: those orders hold nothing. Returns
        // that a program of before has taken stand in no history.
        const SQL: &str = "-- audit.shelves
            with moves as (
                select variant_id, warehouse_id, sum(delta) as units, 0 as reserved
                from stock_adjustments group by 1, 2
                union all
                select i.variant_id, i.warehouse_id,
                       -coalesce(sum(i.quantity) filter (where o.status <> 'PENDING_PAYMENT'), 0),
                       coalesce(sum(i.quantity) filter (where o.status = 'PENDING_PAYMENT'), 0)
                from orders o join order_items i using (order_id)
                where o.status not in ('PAYMENT_FAILED', 'CANCELLED') group by 1, 2
                union all
                select i.variant_id, i.warehouse_id, sum(l.quantity), 0
                from return_lines l join order_items i using (order_id, line)
                where l.restocked and l.adjustment_id is null group by 1, 2
            ), expected as (
                select variant_id, warehouse_id, sum(units) as units, sum(reserved) as reserved from moves group by 1, 2
            )
            select v.sku, w.code, coalesce(i.quantity_available, 0)::bigint, coalesce(i.quantity_reserved, 0)::bigint,
                   coalesce(e.units, 0)::bigint, coalesce(e.reserved, 0)::bigint
            from inventory i full join expected e using (variant_id, warehouse_id)
                 join variants v using (variant_id) join warehouses w using (warehouse_id)
            where w.code is not null order by w.code, v.sku";
        let shelf = |row: &Row| ShelfFacts {
            sku: row.get(0),
            warehouse: row.get(1),
            available: row.get(2),
            reserved: row.get(3),
            available_by_history: row.get(4),
            reserved_by_orders: row.get(5),
        };
        Ok(self.connection().await?.query(SQL, &[]).await?.iter().map(shelf).collect())
    }

    pub async fn drop_facts(&self, drop: &SaleDrop) -> Result<DropFacts, LedgerError> {
        const TOKENS: &str = "-- audit.tokens
            select serial, variant_number, warehouse_id, order_id, poisoned_claim, awarded_claim,
                   rested_at is not null
            from tokens
            where drop_id = $1 order by serial";
        const ORDERS: &str = "-- audit.orders
            select o.order_id, o.buyer, o.status, i.serials, o.total_minor, o.currency, p.state, p.intent_id,
                   coalesce((select sum(case 'provider' when debit_account then amount_minor
                                                        when credit_account then -amount_minor end)
                             from journal j where j.order_id = o.order_id and j.source not like 'provider-%'), 0)::bigint,
                   dv.number,
                   coalesce((select sum(amount_minor) from refunds r
                             where r.order_id = o.order_id and r.state = 'SUCCEEDED'), 0)::bigint,
                   array(select unnest(l.serials) from return_lines l
                         where l.order_id = i.order_id and l.line = i.line and l.restocked)
            from orders o join order_items i using (order_id) join payments p using (order_id)
                 join drop_variants dv on dv.drop_id = o.drop_id and dv.variant_id = i.variant_id
            where o.drop_id = $1";
        const REJECTED: &str = "-- audit.rejected\nselect claim_id from rejected_claims where drop_id = $1";
        const INVENTORY: &str = "-- audit.inventory
            select dv.number, i.warehouse_id, i.quantity_available::bigint, i.quantity_reserved::bigint
            from inventory i join warehouses w using (warehouse_id)
                 join drop_variants dv on dv.drop_id = w.drop_id and dv.variant_id = i.variant_id
            where w.drop_id = $1";
        const MARKS: &str = "-- audit.marks\nselect last_grant from warehouses where drop_id = $1 order by number";
        const GRANTS: &str = "-- audit.grants
            select g.warehouse_id, g.number, g.serials, g.kind, g.applied_at from grants g join warehouses w using (warehouse_id)
            where w.drop_id = $1 order by g.warehouse_id, g.number";
        const HOLDINGS: &str = "-- audit.holdings
            select order_id, count(*) from holdings where drop_id = $1 group by order_id";
        const POISONED: &str = "-- audit.poisoned
            select claim_id, buyer, serials from poisoned_claims
            where drop_id = $1 and claim_id is not null and resolved_at is null";
        const AWARDS: &str = "-- audit.awards
            select claim_id, quantity from standby_places where drop_id = $1 and state = 'AWARDED'";
        let mut connection = self.connection().await?;
        let snapshot = connection
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let tokens = snapshot.query(TOKENS, &[&drop.id.0]).await?;
        let orders = snapshot.query(ORDERS, &[&drop.id.0]).await?;
        let rejected = snapshot.query(REJECTED, &[&drop.id.0]).await?;
        let poisoned = snapshot.query(POISONED, &[&drop.id.0]).await?;
        let inventory = snapshot.query(INVENTORY, &[&drop.id.0]).await?;
        let marks = snapshot.query(MARKS, &[&drop.id.0]).await?;
        let grants = snapshot.query(GRANTS, &[&drop.id.0]).await?;
        let awards = snapshot.query(AWARDS, &[&drop.id.0]).await?;
        let holdings = snapshot.query(HOLDINGS, &[&drop.id.0]).await?;
        snapshot.commit().await?;

        let variant = |number: i16| VariantNumber(number as u8);
        let orders = orders.iter().map(|row| {
            let id: Uuid = row.get(0);
            let buyer: &str = row.get(1);
            let fact = OrderFact {
                buyer: buyer.parse().map_err(|_| inconsistent("orders", "buyer", id, buyer))?,
                status: order_state(row.get(2), id)?,
                serials: serials(row.get(3)),
                total: money(row.get(4), row.get(5), id)?,
                payment: payment_state(row.get(6), id)?,
                intent: row.get::<_, Option<String>>(7).map(IntentId),
                booked_minor: row.get(8),
                variant: variant(row.get(9)),
                refunded_minor: row.get(10),
                restocked: serials(row.get(11)),
            };
            Ok((OrderId(id), fact))
        });
        let poisoned = poisoned.iter().map(|row| {
            let (id, buyer): (Uuid, &str) = (row.get(0), row.get(1));
            let buyer = buyer.parse().map_err(|_| inconsistent("poisoned_claims", "buyer", id, buyer))?;
            Ok((ClaimId(id), (buyer, serials(row.get(2)))))
        });
        Ok(DropFacts {
            awards: awards.iter().map(|row| (ClaimId(row.get(0)), row.get::<_, i16>(1) as u32)).collect(),
            poisoned_claims: poisoned.collect::<Result<_, LedgerError>>()?,
            tokens: tokens
                .iter()
                .map(|row| TokenFact {
                    serial: serial(row.get(0)),
                    variant: variant(row.get(1)),
                    warehouse: WarehouseId(row.get(2)),
                    holder: row.get::<_, Option<Uuid>>(3).map(OrderId),
                    poisoned: row.get::<_, Option<Uuid>>(4).map(ClaimId),
                    awarded: row.get::<_, Option<Uuid>>(5).map(ClaimId),
                    is_resting: row.get(6),
                })
                .collect(),
            orders: orders.collect::<Result<_, LedgerError>>()?,
            rejected_claims: rejected.iter().map(|row| OrderId(row.get(0))).collect(),
            inventory: inventory
                .iter()
                .map(|row| InventoryFact {
                    variant: variant(row.get(0)),
                    warehouse: WarehouseId(row.get(1)),
                    available: row.get(2),
                    reserved: row.get(3),
                })
                .collect(),
            last_grants: marks.iter().map(|row| GrantNumber(row.get(0))).collect(),
            grants: grants
                .iter()
                .map(|row| {
                    let (number, kind): (i64, &str) = (row.get(1), row.get(3));
                    let known = GrantKind::ALL.into_iter().find(|known| known.as_str() == kind);
                    Ok(GrantFact {
                        warehouse: WarehouseId(row.get(0)),
                        number: GrantNumber(number),
                        serials: serials(row.get(2)),
                        kind: known.ok_or_else(|| inconsistent("grants", "kind", number, kind))?,
                        applied_at: row.get(4),
                    })
                })
                .collect::<Result<_, LedgerError>>()?,
            holdings: holdings.iter().map(|row| (OrderId(row.get(0)), row.get::<_, i64>(1) as u32)).collect(),
        })
    }
}
