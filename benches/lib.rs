//! What the benches share: warehouses in a private Redis, loaded without Postgres, and buyers without end. And the comparisons
//! that load tests make too.

pub mod bare_decr;
pub mod claim_bytes;
pub mod settlement;

use doorbuster_engine::domain::claims::{Acknowledgement, Claim, Quantity};
use doorbuster_engine::domain::drops::{
    Admission, DropState, DropVariant, NewDrop, NewVariant, PayTerms, SaleDrop, Warehouse,
};
use doorbuster_engine::domain::ids::{
    BuyerId, DropId, Epoch, GrantNumber, Serial, VariantNumber, WarehouseId, WarehouseNumber,
};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::pricing::{Rate, Terms};
use doorbuster_engine::tokens::store::{LoadVariant, TokenStore, WarehouseStore};
use doorbuster_sandbox::{Redis, RedisOptions, Sandbox};
use jiff::{SignedDuration, Timestamp};
use redis::aio::MultiplexedConnection;

/// Units in a bench's warehouse unless it says otherwise: more than any run can take.
const UNITS: u32 = 4_000_000_000;

pub struct Bench {
    pub redis: Redis,
    /// The first warehouse; most benches need no other.
    pub store: WarehouseStore,
    pub drop: SaleDrop,
    tokens: TokenStore,
    next_buyer: u64,
}

impl Bench {
    /// One warehouse, loaded and open, whose buyers may have one unit each.
    pub async fn new(options: RedisOptions) -> Self {
        let bench = Self::unloaded(options, 1, 1).await;
        bench.open(&bench.store, UNITS).await;
        bench
    }

    /// Warehouses of which Redis knows nothing yet.
    pub async fn unloaded(options: RedisOptions, warehouses: u16, limit: u32) -> Self {
        let sandbox = Sandbox::temporary().expect("a folder");
        let redis = sandbox.redis_with(options).await.expect("redis-server");
        let drop = drop_of(warehouses, limit);
        let tokens = TokenStore::connect(&redis.url()).await.expect("a connection");
        let store = tokens.warehouse(&drop, &drop.warehouses[0]);
        Self { redis, store, drop, tokens, next_buyer: 0 }
    }

    pub fn stores(&self) -> Vec<WarehouseStore> {
        self.drop.warehouses.iter().map(|warehouse| self.tokens.warehouse(&self.drop, warehouse)).collect()
    }

    /// The first warehouse of another drop beside this one, of which Redis knows nothing yet.
    pub fn store_of_another(&self, number: i32) -> WarehouseStore {
        let mut drop = drop_of(1, self.drop.buyer_limit);
        drop.id = DropId(1 + number);
        self.tokens.warehouse(&drop, &drop.warehouses[0])
    }

    /// Loads one run of units into a warehouse and opens it.
    pub async fn open(&self, store: &WarehouseStore, units: u32) {
        let replid = store.fence().await.expect("fence");
        let load = LoadVariant { run: Some((Serial(1), units)), serials: Vec::new() };
        let chunks = store.load(&replid, GrantNumber(1), self.drop.buyer_limit, &[load], &[]).await.expect("load");
        store.open(&replid, chunks, "open").await.expect("open");
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.redis.url()).expect("an address");
        client.get_multiplexed_async_connection().await.expect("a connection")
    }

    /// Claims of buyers who have not been here before, with ids of 20 bytes.
    pub fn claims(&mut self, count: usize) -> Vec<Claim> {
        self.next_buyer += count as u64;
        (self.next_buyer - count as u64..self.next_buyer).map(|buyer| claim(buyer, "key", 1)).collect()
    }
}

/// A claim of this buyer, whose id has 20 bytes.
pub fn claim(buyer: u64, key: &str, units: i64) -> Claim {
    let buyer: BuyerId = format!("buyer-{buyer:014x}").parse().expect("20 visible characters");
    let key = key.parse().expect("a key");
    Claim::new(DropId(1), buyer, &key, VariantNumber(0), Quantity::new(units).expect("a quantity"))
}

fn drop_of(warehouses: u16, limit: u32) -> SaleDrop {
    let currency = "EUR".parse().expect("a currency");
    let warehouse = |number: u16| Warehouse {
        id: WarehouseId(i32::from(number) + 1),
        number: WarehouseNumber(number),
        epoch: Epoch(1),
    };
    SaleDrop {
        id: DropId(1),
        name: "bench".parse().expect("a name"),
        product_id: 1,
        product_name: "Bench".to_owned(),
        state: DropState::Open,
        admission: Admission::Open,
        currency,
        buyer_limit: limit,
        home_key: 1,
        tax_basis_points: 0,
        shipping_tax_basis_points: None,
        shipping: Money::zero(currency),
        rates_of_shop: false,
        terms: Terms::flat(Rate {
            tax_basis_points: 0,
            shipping_tax_basis_points: None,
            shipping: Money::zero(currency),
            free_shipping_from: None,
        }),
        opens_at: None,
        closes_at: None,
        pay_by: Timestamp::MAX,
        pay_terms: PayTerms::OF_THE_DROP,
        acknowledgement: Acknowledgement::Accepted,
        replicas: 0,
        variants: vec![DropVariant {
            number: VariantNumber(0),
            variant_id: 1,
            sku: "BENCH".to_owned(),
            title: "bench".to_owned(),
            price: Money::new(1, currency),
            stock_units: UNITS,
        }],
        warehouses: (0..warehouses).map(warehouse).collect(),
    }
}

/// A drop for a shop with Postgres: half a million units of the SKU `shoe`, one for each buyer.
pub fn sale(name: &str, warehouses: u32, now: Timestamp) -> NewDrop {
    NewDrop {
        name: name.parse().expect("a name"),
        product_name: "Shoe".to_owned(),
        currency: "EUR".parse().expect("a currency"),
        variants: vec![NewVariant {
            sku: "shoe".to_owned(),
            title: "Shoe".to_owned(),
            price_minor: 900,
            stock_units: 500_000,
        }],
        buyer_limit: 1,
        warehouses,
        tax_basis_points: 1_900,
        shipping_minor: 490,
        rates_of_shop: false,
        price_includes_tax: false,
        opens_at: None,
        closes_at: None,
        pay_by: now + SignedDuration::from_hours(1),
        pay_terms: PayTerms::OF_THE_DROP,
        acknowledgement: Acknowledgement::Accepted,
        replicas: 0,
        line: None,
    }
}

/// Smallest, median and largest.
pub fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

/// Seconds of processor time the server's main thread has used, of both kinds.
pub async fn redis_cpu_s(connection: &mut MultiplexedConnection) -> f64 {
    let info = info(connection, "cpu").await;
    info_figure(&info, "used_cpu_user_main_thread") + info_figure(&info, "used_cpu_sys_main_thread")
}

pub async fn info(connection: &mut MultiplexedConnection, section: &str) -> String {
    redis::cmd("INFO").arg(section).query_async(connection).await.expect("INFO")
}

pub fn info_figure(info: &str, name: &str) -> f64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("a figure of INFO").trim().parse().expect("a number")
}
