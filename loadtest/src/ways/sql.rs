//! Baselines that the product does not have: stock is taken and the order written in one statement, which is one transaction.
//!
//! One statement is the best that is known for them: a lock is held for as long as one statement and its commit take, and for
//! no round trip. Each writes the very rows that settlement writes for an order; none holds a lock longer than it must.

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use doorbuster_engine::domain::claims::Claim;
use doorbuster_engine::domain::drops::SaleDrop;
use doorbuster_engine::domain::pricing::Totals;
use jiff::Timestamp;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::{Ordered, Way};

/// Connections to Postgres. More of them only wait for each other's locks: on two cores 16, 32 and 64 gave the same rates.
const CONNECTIONS: usize = 32;

/// The orders, the stock, and the door to both.
pub struct SqlShop {
    pool: Pool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SqlError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

/// What follows once `taken` holds a row for each row of stock that was taken from: the rows of an order.
const ORDER: &str = "
    made as (
        insert into orders (order_id, buyer, drop_id, status, currency, subtotal_minor, tax_minor, shipping_minor,
                            total_minor, created_at, updated_at)
        select $1::uuid, $2::text, $3::int, 'PENDING_PAYMENT', $8::text, $9::bigint, $10::bigint, $11::bigint,
               $12::bigint, $13::timestamptz, $13
        from taken limit 1 returning order_id
    ), items as (
        insert into order_items (order_id, line, product_id, variant_id, warehouse_id, quantity, unit_price_minor)
        select $1, 1, $4::int, $5::int, warehouse_id, $7::int, $9 / $7 from taken limit 1
    ), paid as (
        insert into payments (order_id, state, amount_minor, currency, idempotency_key, updated_at)
        select $1, 'REQUIRED', $12, $8, 'order-' || $1, $13 from made
    ), told as (
        insert into order_history (order_id, at, from_state, to_state, actor, reason)
        select $1, $13, null, 'PENDING_PAYMENT', 'checkout', 'stock reserved' from made
    ), events as (
        insert into order_events (order_id, kind, created_at) select $1, 'order_created', $13 from made
    ), holds as (
        insert into holdings (drop_id, buyer, nth, order_id)
        select $3, $2, nth, $1 from made, generate_series(1, $7) nth
    )
    select count(*) from made";

const LOCKED: &str = "-- sql.lock_row
    with stock as materialized (
        select quantity_available - quantity_reserved as free from inventory
        where product_id = $4 and variant_id = $5 and warehouse_id = $6 for update
    ), taken as (
        update inventory i set quantity_reserved = quantity_reserved + $7, version = version + 1 from stock
        where i.product_id = $4 and i.variant_id = $5 and i.warehouse_id = $6 and stock.free >= $7
        returning i.warehouse_id
    ),";

const UNITS: &str = "-- sql.skip_locked
    with units as materialized (
        select serial from tokens where drop_id = $3 and order_id is null limit $7::int for update skip locked
    ), taken as (
        update tokens t set order_id = $1 from units
        where t.drop_id = $3 and t.serial = units.serial and (select count(*) from units) = $7 and $6::int is not null
        returning t.warehouse_id
    ),";

/// What a database needs for these ways beyond the product's schema.
pub async fn prepare(sql: &tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
    // Without it, each search would walk over all units that are gone.
    sql.batch_execute("create index tokens_free_of_drop on tokens (drop_id) where order_id is null").await
}

impl SqlShop {
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(url.parse()?, NoTls, recycling);
        Ok(Self { pool: Pool::builder(manager).max_size(CONNECTIONS).runtime(Runtime::Tokio1).build()? })
    }

    pub(super) async fn order(
        &self,
        way: Way,
        drop: &SaleDrop,
        claim: &Claim,
        now: Timestamp,
    ) -> Result<Ordered, SqlError> {
        let take = if way == Way::SkipLocked { UNITS } else { LOCKED };
        let Some(variant) = drop.variant(claim.variant) else { return Ok(Ordered::SoldOut) };
        let units = claim.quantity.units();
        let totals = Totals::of_units(variant.price, units, &drop.rate());
        let totals = totals.expect("prices of these drops are far from the end of the numbers");
        let client = self.pool.get().await?;
        let statement = client.prepare_cached(&format!("{take}{ORDER}")).await?;
        let (warehouse, quantity) = (drop.warehouses[0].id.0, units as i32);
        let (buyer, currency) = (claim.buyer.as_str(), drop.currency.as_str());
        let arguments: &[&(dyn ToSql + Sync)] = &[
            &claim.id.0,
            &buyer,
            &drop.id.0,
            &drop.product_id,
            &variant.variant_id,
            &warehouse,
            &quantity,
            &currency,
            &totals.subtotal.amount_minor,
            &totals.tax.amount_minor,
            &totals.shipping.amount_minor,
            &totals.total.amount_minor,
            &now,
        ];
        match client.query_one(&statement, arguments).await {
            Ok(row) => Ok(if row.get::<_, i64>(0) == 1 { Ordered::Made } else { Ordered::SoldOut }),
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(Ordered::Before),
            Err(error) => Err(error.into()),
        }
    }
}
