//! Settlement against raw COPY of the very rows it writes, into the very same tables: same indexes, constraints, foreign keys.
//!
//! COPY cannot hold a unit or reserve stock, so its half does these with the statements that settlement uses. What COPY is
//! spared is what settlement is for: locking, looking for duplicates, limits and profiles, deciding. Both in transactions of
//! the same size over TCP. COPY runs in its text and in its binary format, and the faster of the two is the measure.

use std::time::Instant;

use bytes::Bytes;
use doorbuster_engine::domain::drops::SaleDrop;
use doorbuster_engine::ledger::settlements::{ClaimToSettle, Settling};
use doorbuster_sandbox::Postgres;
use futures_util::{SinkExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio_postgres::Client;

use super::BATCH;
use super::shop::Shop;

const CLAIMS: u32 = 20_000;
/// What settlement fills, in the order of its inserts, with the columns that it names. The history numbers its own rows.
const TABLES: [(&str, &str); 6] = [
    (
        "orders",
        "order_id, buyer, drop_id, status, currency, subtotal_minor, tax_minor, shipping_minor, total_minor, email, \
         ship_to, created_at, updated_at",
    ),
    ("order_items", "order_id, line, product_id, variant_id, warehouse_id, quantity, unit_price_minor, serials"),
    ("payments", "order_id, state, amount_minor, currency, idempotency_key, payment_method, due_at, updated_at, turn"),
    ("order_history", "order_id, at, from_state, to_state, actor, reason"),
    ("holdings", "drop_id, buyer, nth, order_id"),
    ("order_events", "order_id, kind, created_at"),
];

#[derive(Clone, Copy)]
enum Format {
    Text,
    Binary,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Binary => "binary",
        }
    }
}

/// One batch as COPY gets it.
struct Rows {
    tables: Vec<Vec<Bytes>>,
    serials: Vec<i32>,
    orders: Vec<uuid::Uuid>,
    /// Variant, warehouse, units.
    reserved: (Vec<i32>, Vec<i32>, Vec<i32>),
}

/// Orders a second of one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub settled: f64,
    pub copied_as_text: f64,
    pub copied_as_binary: f64,
}

impl Round {
    /// Against the faster of the two formats.
    pub fn settled_over_copied(&self) -> f64 {
        self.settled / self.copied_as_text.max(self.copied_as_binary)
    }
}

/// `earlier` orders are there already. `each` sees every round as it ends.
pub async fn run(postgres: &Postgres, earlier: u32, rounds: usize, mut each: impl FnMut(&Round)) -> Vec<Round> {
    let shop = Shop::new(postgres, &format!("ratio_{earlier}")).await;
    shop.fill(earlier).await;
    let drop = shop.drop("ratio", CLAIMS).await;
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    let claims = shop.claims(&drop, now).await;
    let batches = claims.chunks(BATCH).collect::<Vec<_>>();
    shop.forget(drop.id, true).await;
    // Once for the caches, and for the rows.
    settle(&shop, &drop, &batches, now).await;
    let mut copies = Vec::new();
    for format in [Format::Text, Format::Binary] {
        let mut rows = Vec::new();
        for batch in &batches {
            rows.push(copy_out(&shop.sql, &drop, batch, format).await);
        }
        copies.push((format, rows));
    }
    shop.forget(drop.id, true).await;
    let rate = |seconds: f64| f64::from(CLAIMS) / seconds;
    let mut done = Vec::new();
    for _ in 0..rounds {
        let settled = rate(settle(&shop, &drop, &batches, now).await);
        shop.forget(drop.id, true).await;
        let mut copied = Vec::new();
        for (format, rows) in &copies {
            let began = Instant::now();
            for rows in rows {
                copy_in(&shop.sql, &drop, rows, *format).await;
            }
            copied.push(rate(began.elapsed().as_secs_f64()));
            shop.forget(drop.id, true).await;
        }
        let round = Round { settled, copied_as_text: copied[0], copied_as_binary: copied[1] };
        each(&round);
        done.push(round);
    }
    done
}

async fn settle(shop: &Shop, drop: &SaleDrop, batches: &[&[ClaimToSettle]], now: Timestamp) -> f64 {
    let began = Instant::now();
    for batch in batches {
        let settlement = shop.ledger.settle(drop, batch, Settling::Live, now).await.expect("a settlement");
        assert_eq!(settlement.settled.len(), batch.len(), "every claim becomes an order");
    }
    began.elapsed().as_secs_f64()
}

async fn copy_out(sql: &Client, drop: &SaleDrop, batch: &[ClaimToSettle], format: Format) -> Rows {
    let ids = batch.iter().map(|claim| claim.claim.id.0).collect::<Vec<_>>();
    sql.batch_execute("drop table if exists batch; create temp table batch (n int, order_id uuid)")
        .await
        .expect("a table");
    let insert = "insert into batch select n, id from unnest($1::uuid[]) with ordinality as b (id, n)";
    sql.execute(insert, &[&ids]).await.expect("ids");
    let mut tables = Vec::new();
    for (table, columns) in TABLES {
        let columns = columns.split(", ").map(|column| format!("t.{column}")).collect::<Vec<_>>().join(", ");
        let query = format!(
            "copy (select {columns} from {table} t join batch b using (order_id) order by b.n) to stdout with (format {})",
            format.as_str()
        );
        tables.push(sql.copy_out(&query).await.expect("rows").try_collect().await.expect("all rows"));
    }
    let mut reserved = (Vec::new(), Vec::new(), Vec::new());
    for warehouse in &drop.warehouses {
        let units = batch.iter().filter(|claim| claim.warehouse.id == warehouse.id).count() as i32;
        if units > 0 {
            reserved.0.push(drop.variants[0].variant_id);
            reserved.1.push(warehouse.id.0);
            reserved.2.push(units);
        }
    }
    let serials = batch.iter().map(|claim| claim.serials[0].0.cast_signed()).collect();
    Rows { tables, serials, orders: ids, reserved }
}

async fn copy_in(sql: &Client, drop: &SaleDrop, rows: &Rows, format: Format) {
    const TOKENS: &str =
        "update tokens t set order_id = u.order_id from unnest($2::int[], $3::uuid[]) as u (serial, order_id)
        where t.drop_id = $1 and t.serial = u.serial and t.order_id is null and t.poisoned_claim is null";
    const INVENTORY: &str =
        "update inventory i set quantity_reserved = quantity_reserved + u.units, version = version + 1
        from unnest($2::int[], $3::int[], $4::int[]) as u (variant_id, warehouse_id, units)
        where i.product_id = $1 and i.variant_id = u.variant_id and i.warehouse_id = u.warehouse_id";
    sql.batch_execute("begin").await.expect("a transaction");
    for ((table, columns), bytes) in TABLES.iter().zip(&rows.tables) {
        let statement = format!("copy {table} ({columns}) from stdin with (format {})", format.as_str());
        let sink = sql.copy_in::<_, Bytes>(&statement).await.expect("COPY");
        let mut sink = std::pin::pin!(sink);
        for piece in bytes {
            sink.feed(piece.clone()).await.expect("a row");
        }
        sink.finish().await.expect("the end of COPY");
    }
    sql.execute(TOKENS, &[&drop.id.0, &rows.serials, &rows.orders]).await.expect("units");
    let (variants, warehouses, units) = &rows.reserved;
    sql.execute(INVENTORY, &[&drop.product_id, variants, warehouses, units]).await.expect("stock");
    sql.batch_execute("commit").await.expect("a commit");
}
