//! A fresh drop for each case, in the Redis that all tests share.

use std::sync::OnceLock;

use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::drops::{Admission, DropState, DropVariant, PayTerms, SaleDrop, Warehouse};
use doorbuster_engine::domain::ids::{DropId, Epoch, VariantNumber, WarehouseId, WarehouseNumber};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::pricing::{Rate, Terms};
use doorbuster_engine::tokens::keys::WarehouseKeys;
use doorbuster_engine::tokens::store::{TokenStore, WarehouseStore};
use doorbuster_sandbox::shared;
use redis::aio::MultiplexedConnection;
use tokio::runtime::Runtime;
use uuid::Uuid;

pub(crate) struct Servers {
    pub(crate) runtime: Runtime,
    redis_url: String,
    tokens: TokenStore,
}

static SERVERS: OnceLock<Servers> = OnceLock::new();

pub(crate) fn servers() -> &'static Servers {
    SERVERS.get_or_init(|| {
        let runtime = Runtime::new().expect("a runtime");
        let (redis_url, tokens) = runtime.block_on(async {
            let redis_url = shared::redis_url().await;
            let tokens = TokenStore::connect(&redis_url).await.expect("a connection");
            (redis_url, tokens)
        });
        Servers { runtime, redis_url, tokens }
    })
}

/// A warehouse of a new drop, and a connection that can do to it what no script would.
pub(crate) struct Place {
    pub(crate) drop: SaleDrop,
    tokens: TokenStore,
    pub(crate) raw: MultiplexedConnection,
}

impl Place {
    pub(crate) async fn new(servers: &Servers, variants: u8, limit: u32) -> Self {
        let id = DropId((Uuid::new_v4().as_fields().0 >> 1).cast_signed());
        let client = redis::Client::open(&*servers.redis_url).expect("an address");
        let raw = client.get_multiplexed_async_connection().await.expect("a connection");
        Self { drop: sale_drop(id, variants, limit), tokens: servers.tokens.clone(), raw }
    }

    /// The warehouse as somebody sees it who believes in this epoch.
    pub(crate) fn store(&self, epoch: i64) -> WarehouseStore {
        let warehouse = Warehouse { epoch: Epoch(epoch), ..self.drop.warehouses[0] };
        self.tokens.warehouse(&self.drop, &warehouse)
    }

    pub(crate) fn key(&self, name: &str) -> String {
        WarehouseKeys::new(&self.drop.name, WarehouseNumber(0), self.drop.warehouses.len()).fixed(name)
    }

    /// The names of all keys that a loaded warehouse has.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys = ["meta", "buyers", "out", "claims"].map(|name| self.key(name)).to_vec();
        for variant in &self.drop.variants {
            keys.push(self.key(&format!("tokens:{}", variant.number.0)));
            keys.push(self.key(&format!("spare:{}", variant.number.0)));
        }
        keys
    }
}

fn sale_drop(id: DropId, variants: u8, limit: u32) -> SaleDrop {
    let currency = "EUR".parse().expect("a currency");
    let variant = |number| DropVariant {
        number: VariantNumber(number),
        variant_id: i32::from(number),
        sku: format!("SKU-{number}"),
        title: format!("size {number}"),
        price: Money::new(1, currency),
        stock_units: 0,
    };
    SaleDrop {
        id,
        name: format!("model-{}", shared::unique()).parse().expect("a name"),
        product_id: 1,
        product_name: "Model".to_owned(),
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
        pay_by: jiff::Timestamp::MAX,
        pay_terms: PayTerms::OF_THE_DROP,
        acknowledgement: Acknowledgement::Accepted,
        replicas: 0,
        variants: (0..variants).map(variant).collect(),
        warehouses: vec![Warehouse { id: WarehouseId(1), number: WarehouseNumber(0), epoch: Epoch(1) }],
    }
}
