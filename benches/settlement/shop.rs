//! A database with a drop in it, claims of all its units, and a way to undo their settlement.

use doorbuster_engine::domain::claims::{Acknowledgement, Claim, Quantity};
use doorbuster_engine::domain::drops::{NewDrop, NewVariant, PayTerms, SaleDrop};
use doorbuster_engine::domain::ids::{BuyerId, DropId, Serial, StreamId, VariantNumber, WarehouseId};
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::ledger::drops::DropCreated;
use doorbuster_engine::ledger::settlements::ClaimToSettle;
use doorbuster_sandbox::Postgres;
use jiff::Timestamp;
use tokio_postgres::{Client, NoTls};

/// Ten virtual warehouses, as the brief has it.
const WAREHOUSES: u32 = 10;
/// Orders filled in with one statement.
const PIECE: u32 = 250_000;

pub struct Shop {
    pub ledger: Ledger,
    /// A connection past the ledger, of the superuser.
    pub sql: Client,
}

impl Shop {
    pub async fn new(postgres: &Postgres, database: &str) -> Self {
        let url = postgres.create_database(database).await.expect("a database");
        let ledger = Ledger::new(&url, 2).expect("an address");
        ledger.migrate().await.expect("the schema");
        let (sql, connection) = tokio_postgres::connect(&url, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        Self { ledger, sql }
    }

    pub async fn drop(&self, name: &str, units: u32) -> SaleDrop {
        let new = NewDrop {
            name: name.parse().expect("a name"),
            product_name: name.to_owned(),
            currency: "EUR".parse().expect("a currency"),
            variants: vec![NewVariant {
                sku: name.to_owned(),
                title: name.to_owned(),
                price_minor: 14_900,
                stock_units: units,
            }],
            buyer_limit: 2,
            warehouses: WAREHOUSES,
            tax_basis_points: 1_900,
            shipping_minor: 490,
            rates_of_shop: false,
            price_includes_tax: false,
            opens_at: None,
            closes_at: None,
            pay_by: Timestamp::from_second(4_000_000_000).expect("a time"),
            pay_terms: PayTerms::OF_THE_DROP,
            acknowledgement: Acknowledgement::Accepted,
            replicas: 0,
            line: None,
        };
        let DropCreated::Created(id) = self.ledger.create_drop(&new, 1).await.expect("a drop") else {
            panic!("the name is free")
        };
        self.ledger.drop_by_id(id).await.expect("an answer").expect("it was just made")
    }

    /// One claim for each unit, of buyers who have profiles, as the log of one warehouse after the other would have them. Their ids
    /// lie scattered among all others', as ids do.
    pub async fn claims(&self, drop: &SaleDrop, now: Timestamp) -> Vec<ClaimToSettle> {
        const PROFILES: &str = "insert into checkout_profiles
            select 'buyer-' || left(md5('new' || serial), 14), 'pm_card_visa', 'b' || serial || '@example.test',
                   '{\"name\": \"B\", \"street\": \"Long Street 12\", \"city\": \"Berlin\", \"country\": \"DE\"}', now()
            from tokens where drop_id = $1 on conflict do nothing";
        self.sql.execute(PROFILES, &[&drop.id.0]).await.expect("profiles");
        self.sql.batch_execute("analyze checkout_profiles").await.expect("statistics");
        let tokens = "select serial, warehouse_id, 'buyer-' || left(md5('new' || serial), 14) from tokens
                      where drop_id = $1 order by warehouse_id, serial";
        let tokens = self.sql.query(tokens, &[&drop.id.0]).await.expect("tokens");
        let claims = tokens.iter().map(|row| {
            let (serial, warehouse): (i32, i32) = (row.get(0), row.get(1));
            let warehouse = *drop.warehouse_by_id(WarehouseId(warehouse)).expect("its own");
            let buyer: BuyerId = row.get::<_, &str>(2).parse().expect("20 visible characters");
            let key = "key".parse().expect("a key");
            ClaimToSettle {
                claim: Claim::new(drop.id, buyer, &key, VariantNumber(0), Quantity::new(1).expect("one unit")),
                serials: vec![Serial(serial.cast_unsigned())],
                warehouse,
                epoch: warehouse.epoch,
                taken_at: now,
                entry: StreamId::ZERO,
            }
        });
        claims.collect()
    }

    /// Undoes what was settled of a drop, without a trace in the tables where `compact` asks for it. Past the foreign keys,
    /// whose checks are what would take long.
    pub async fn forget(&self, drop: DropId, compact: bool) {
        let id = drop.0;
        let of = format!("where order_id in (select order_id from orders where drop_id = {id})");
        let sql = format!(
            "begin; set local session_replication_role = replica;
             delete from order_items {of}; delete from payments {of}; delete from order_history {of};
             delete from order_events {of}; delete from holdings where drop_id = {id};
             update tokens set order_id = null where drop_id = {id};
             update inventory set quantity_reserved = 0
             where warehouse_id in (select warehouse_id from warehouses where drop_id = {id});
             delete from orders where drop_id = {id}; commit;"
        );
        self.sql.batch_execute(&sql).await.expect("nothing is left");
        for table in
            ["orders", "order_items", "payments", "order_history", "order_events", "holdings", "tokens", "inventory"]
        {
            let how = if compact { "full, analyze" } else { "analyze" };
            self.sql.batch_execute(&format!("vacuum ({how}) {table}")).await.expect("vacuum");
        }
    }

    /// Orders of one earlier drop, paid: rows as settlement and payment leave them. Past the foreign keys, for the time it takes.
    pub async fn fill(&self, size: u32) {
        let drop = self.drop("earlier", 1).await;
        let (id, product, variant) = (drop.id.0, drop.product_id, drop.variants[0].variant_id);
        let first = drop.warehouses[0].id.0;
        let sql = &self.sql;
        sql.batch_execute("set session_replication_role = replica; set work_mem = '64MB'").await.expect("settings");
        let mut from = 2;
        while from < size + 2 {
            let to = (from + PIECE).min(size + 2) - 1;
            sql.batch_execute(&format!(
            "begin;
             create temp table piece on commit drop as
             select n, (lpad(to_hex({id}), 8, '0') || substr(md5(n::text), 1, 24))::uuid as order_id,
                    'buyer-' || left(md5('old' || n), 14) as buyer, {first} + n % 10 as warehouse_id,
                    timestamptz '2026-01-01' + n * interval '1 millisecond' as at
             from generate_series({from}, {to}) n;
             insert into orders select order_id, buyer, {id}, 'CONFIRMED', 'EUR', 14900, 2831, 490, 18221,
                    'b' || n || '@example.test', '{{\"name\": \"B\", \"street\": \"Long Street 12\", \"country\": \"DE\"}}', at, at
             from piece;
             insert into order_items select order_id, 1, {product}, {variant}, warehouse_id, 1, 14900, array[n] from piece;
             insert into payments (order_id, state, amount_minor, currency, idempotency_key, payment_method, intent_id,
                                   updated_at)
             select order_id, 'SUCCEEDED', 18221, 'EUR', 'order-' || order_id, 'pm_card_visa', 'pi_' || md5('i' || n), at
             from piece;
             insert into order_history (order_id, at, from_state, to_state, actor, reason)
             select order_id, at, null, 'PENDING_PAYMENT', 'settlement', 'claim settled' from piece
             union all select order_id, at, 'PENDING_PAYMENT', 'CONFIRMED', 'charge', 'paid' from piece;
             insert into journal select 'intent-' || n, order_id, 'provider', 'sales', 18221, 'EUR', at from piece;
             insert into order_events (order_id, kind, created_at, fanned_out_at)
             select order_id, 'order_created', at, at from piece union all select order_id, 'order_confirmed', at, at from piece;
             insert into outbox (order_id, kind, created_at, sent_at, state, next_at)
             select order_id, 'order_confirmed', at, at, 'sent', null from piece;
             insert into holdings select {id}, buyer, 1, order_id from piece;
             insert into tokens (drop_id, serial, variant_number, warehouse_id, order_id)
             select {id}, n, 0, warehouse_id, order_id from piece;
             commit;"
        ))
        .await
        .expect("orders");
            from = to + 1;
        }
        sql.batch_execute("set session_replication_role = origin").await.expect("settings");
        sql.batch_execute("vacuum analyze").await.expect("vacuum");
        sql.batch_execute("checkpoint").await.expect("a checkpoint");
    }
}
