//! What the benches share: a warehouse in a private Redis, loaded without Postgres, and buyers without end.

use doorbuster_engine::domain::claims::{Acknowledgement, Claim, Quantity};
use doorbuster_engine::domain::drops::{DropState, DropVariant, SaleDrop, Warehouse};
use doorbuster_engine::domain::ids::{
    BuyerId, DropId, Epoch, GrantNumber, Serial, VariantNumber, WarehouseId, WarehouseNumber,
};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::tokens::store::{LoadVariant, TokenStore, WarehouseStore};
use doorbuster_sandbox::{Redis, RedisOptions, Sandbox};

/// Units in the bench's warehouse: more than any run can take.
const UNITS: u32 = 4_000_000_000;

pub struct Bench {
    pub redis: Redis,
    pub store: WarehouseStore,
    next_buyer: u64,
}

impl Bench {
    pub async fn new(options: RedisOptions) -> Self {
        let sandbox = Sandbox::temporary().expect("a folder");
        let redis = sandbox.redis_with(options).await.expect("redis-server");
        let drop = drop_of_one_warehouse();
        let tokens = TokenStore::connect(&redis.url()).await.expect("a connection");
        let store = tokens.warehouse(&drop, &drop.warehouses[0]);
        let replid = store.fence().await.expect("fence");
        let load = LoadVariant { run: Some((Serial(1), UNITS)), serials: Vec::new() };
        let chunks = store.load(&replid, GrantNumber(1), 1, &[load], &[]).await.expect("load");
        store.open(&replid, chunks, "open").await.expect("open");
        Self { redis, store, next_buyer: 0 }
    }

    /// Claims of buyers who have not been here before, with ids of 20 bytes.
    pub fn claims(&mut self, count: usize) -> Vec<Claim> {
        let mut claim = || {
            self.next_buyer += 1;
            let buyer: BuyerId = format!("buyer-{:014x}", self.next_buyer).parse().expect("20 visible characters");
            let key = "key".parse().expect("a key");
            Claim::new(DropId(1), buyer, &key, VariantNumber(0), Quantity::new(1).expect("one unit"))
        };
        (0..count).map(|_| claim()).collect()
    }
}

fn drop_of_one_warehouse() -> SaleDrop {
    let currency = "EUR".parse().expect("a currency");
    SaleDrop {
        id: DropId(1),
        name: "bench".parse().expect("a name"),
        product_id: 1,
        product_name: "Bench".to_owned(),
        state: DropState::Open,
        currency,
        buyer_limit: 1,
        home_key: 1,
        tax_basis_points: 0,
        shipping: Money::zero(currency),
        opens_at: None,
        closes_at: None,
        pay_by: jiff::Timestamp::MAX,
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
        warehouses: vec![Warehouse { id: WarehouseId(1), number: WarehouseNumber(0), epoch: Epoch(1) }],
    }
}

/// Seconds of processor time the server has used, of both kinds.
pub async fn redis_cpu_s(connection: &mut redis::aio::MultiplexedConnection) -> f64 {
    let info: String = redis::cmd("INFO").arg("cpu").query_async(connection).await.expect("INFO cpu");
    let of = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("a figure of INFO cpu");
        line.trim().parse::<f64>().expect("a number")
    };
    of("used_cpu_user_main_thread:") + of("used_cpu_sys_main_thread:")
}
