//! What every test needs: servers once, a fresh database, a drop, buyers, and time by hand.

use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::{Acknowledgement, Claim, ClaimOutcome, Quantity};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{NewDrop, NewVariant, PayTerms};
use doorbuster_engine::domain::ids::{BuyerId, DropName, PaymentMethodId, Serial, VariantNumber};
use doorbuster_engine::domain::payments::AttemptState;
use doorbuster_engine::flows::{Engine, EngineError, LiveDrop};
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::ledger::attempts::{Attempt, LeasedPayment};
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit};
use doorbuster_engine::tokens::store::{Dump, TokenStore};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use doorbuster_sandbox::{Postgres, PostgresAddress, Redis, RedisOptions, Sandbox, shared};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// The servers that all tests share, and a sandbox for a test's own.
pub(crate) struct Servers {
    pub(crate) sandbox: &'static Sandbox,
    redis_url: String,
    pub(crate) postgres: PostgresAddress,
}

pub(crate) async fn servers() -> Servers {
    let redis_url = if is_on_cluster() { shared::cluster_url().await } else { shared::redis_url().await };
    Servers { sandbox: shared::sandbox(), redis_url, postgres: shared::postgres().await }
}

/// Whether the shared Redis of these tests is a cluster.
pub(crate) fn is_on_cluster() -> bool {
    crate::IS_FOR_CLUSTERS || shared::is_all_on_cluster()
}

/// An up-to-date database of its own.
async fn database(postgres: &PostgresAddress) -> String {
    let migrate = async |url: String| Ledger::new(&url, 2)?.migrate().await.map(drop);
    postgres.copy_database(&format!("test_{}", shared::unique()), "migrated", migrate).await.expect("a database")
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) database: String,
    pub(crate) redis_url: String,
    pub(crate) sql: Client,
    pub(crate) drop: DropName,
    pub(crate) number: u32,
    /// Ends with the world.
    #[expect(dead_code, reason = "held so that it runs as long as the world")]
    own_redis: Option<Redis>,
}

impl World {
    /// Shared servers, a database of its own.
    pub(crate) async fn new() -> Self {
        let servers = servers().await;
        Self::on(servers.redis_url, &servers.postgres).await
    }

    /// A plain connection to the shared server that has `key`.
    pub(crate) async fn server_with(&self, key: &str) -> redis::aio::MultiplexedConnection {
        self.server_with_url(&shared::server_with(&self.redis_url, key).await).await
    }

    pub(crate) async fn server_with_url(&self, url: &str) -> redis::aio::MultiplexedConnection {
        redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// A Redis of its own as well, for tests that hurt it.
    pub(crate) async fn with_own_redis() -> (Self, Redis) {
        let servers = servers().await;
        let redis = servers.sandbox.redis().await.expect("redis-server");
        (Self::on(redis.url(), &servers.postgres).await, redis)
    }

    /// A Postgres of its own as well, for tests that hurt it.
    pub(crate) async fn with_own_postgres() -> (Self, Postgres) {
        let servers = servers().await;
        let postgres = servers.sandbox.postgres().await.expect("Postgres");
        (Self::on(servers.redis_url, &postgres).await, postgres)
    }

    /// A Redis of its own with other settings.
    pub(crate) async fn with_redis(options: RedisOptions) -> Self {
        let servers = servers().await;
        let redis = servers.sandbox.redis_with(options).await.expect("redis-server");
        let world = Self::on(redis.url(), &servers.postgres).await;
        Self { own_redis: Some(redis), ..world }
    }

    pub(crate) async fn on(redis_url: String, postgres: impl Into<PostgresAddress>) -> Self {
        // Other tests use the same Redis: what it holds of this one carries the number.
        let number = Uuid::new_v4().as_fields().0;
        let database = database(&postgres.into()).await;
        let ledger = Ledger::new(&database, 8).unwrap();
        let mut engine = Engine::new(ledger, TokenStore::connect(&redis_url).await.unwrap(), Clock::System);
        engine.return_url = Some("https://shop.example/back".to_owned());
        let (sql, connection) = tokio_postgres::connect(&database, NoTls).await.unwrap();
        tokio::spawn(connection);
        let drop = format!("drop-{number}").parse().unwrap();
        Self { engine, database, redis_url, sql, drop, number, own_redis: None }
    }

    /// Another process, so to speak: its own connections, pool and memory, the same stores.
    pub(crate) async fn another_engine(&self) -> Engine {
        let ledger = Ledger::new(&self.database, 8).unwrap();
        let tokens = TokenStore::connect(&self.redis_url).await.unwrap();
        let mut engine = Engine::new(ledger, tokens, self.engine.clock.clone());
        engine.return_url.clone_from(&self.engine.return_url);
        engine
    }

    pub(crate) fn new_drop(&self, stocks: &[u32], warehouses: u32, limit: u32) -> NewDrop {
        let variant = |(index, stock): (usize, &u32)| NewVariant {
            sku: format!("SKU-{}-{index}", self.number),
            title: format!("size {index}"),
            price_minor: 14_900,
            stock_units: *stock,
        };
        NewDrop {
            name: self.drop.clone(),
            product_name: format!("Shoe {}", self.number),
            currency: "EUR".parse().unwrap(),
            variants: stocks.iter().enumerate().map(variant).collect(),
            buyer_limit: limit,
            warehouses,
            tax_basis_points: 1_900,
            shipping_minor: 490,
            rates_of_shop: false,
            price_includes_tax: false,
            opens_at: None,
            closes_at: None,
            pay_by: self.engine.clock.now() + jiff::SignedDuration::from_hours(1),
            pay_terms: PayTerms::OF_THE_DROP,
            acknowledgement: Acknowledgement::Accepted,
            replicas: 0,
            line: None,
        }
    }

    /// Creates and opens a drop with one variant for each stock.
    pub(crate) async fn open(&self, stocks: &[u32], warehouses: u32, limit: u32) -> std::sync::Arc<LiveDrop> {
        self.engine.create_drop(&self.new_drop(stocks, warehouses, limit), 42).await.unwrap().unwrap();
        self.engine.open_drop(&self.drop).await.unwrap().unwrap();
        self.live().await
    }

    pub(crate) async fn live(&self) -> std::sync::Arc<LiveDrop> {
        self.engine.refresh(&self.drop).await.unwrap().unwrap()
    }

    pub(crate) async fn claim(
        &self,
        live: &LiveDrop,
        who: u32,
        key: &str,
        variant: u8,
        units: i64,
    ) -> Result<ClaimOutcome, EngineError> {
        let claim = claim(live, &buyer(who), key, variant, units);
        self.engine.claim(live, &claim).await.map(|answered| answered.outcome)
    }

    /// As [`Self::claim`], again while units are on the move.
    pub(crate) async fn claim_until_answered(
        &self,
        live: &LiveDrop,
        who: u32,
        key: &str,
        variant: u8,
        units: i64,
    ) -> ClaimOutcome {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.claim(live, who, key, variant, units).await {
                Err(error) if error.is_retryable() && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome.unwrap(),
            }
        }
    }

    pub(crate) async fn save_profile(&self, who: u32, method: &str) {
        let profile = CheckoutProfile {
            payment_method: Some(method.parse::<PaymentMethodId>().unwrap()),
            email: format!("b{who}@example.test"),
            ship_to: serde_json::json!({ "name": "B", "country": "DE" }),
        };
        self.engine.ledger.save_profile(&buyer(who), &profile, self.engine.clock.now()).await.unwrap();
    }

    /// The same, and its card is to become its customer's own, as the API does it.
    pub(crate) async fn save_card(&self, who: u32, method: &str) {
        let profile = CheckoutProfile {
            payment_method: Some(method.parse::<PaymentMethodId>().unwrap()),
            email: format!("b{who}@example.test"),
            ship_to: serde_json::json!({ "name": "B", "country": "DE" }),
        };
        let now = self.engine.clock.now();
        self.engine.ledger.save_profile_and_card(&buyer(who), &profile, now).await.unwrap();
    }

    pub(crate) async fn settle(&self) -> usize {
        doorbuster_engine::workers::settle_all(&self.engine).await.unwrap()
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Writes a call that was not sent yet: programs of before committed that by itself.
    pub(crate) async fn prepared_by_an_older_program(
        &self,
        payment: &LeasedPayment,
        operation: &str,
        key: &str,
    ) -> Attempt {
        let sql = "insert into payment_attempts (order_id, number, operation, idempotency_key, path, body, state, prepared_at)
                   values ($1, $2, $3, $4, '/p', 'b', 'PREPARED', now())";
        let (number, key) = (payment.attempts + 1, format!("order-{}:{key}", payment.order));
        self.sql.execute(sql, &[&payment.order.0, &number, &operation, &key]).await.unwrap();
        Attempt {
            number,
            operation: operation.to_owned(),
            idempotency_key: key,
            path: "/p".to_owned(),
            body: "b".to_owned(),
            format: 1,
            state: AttemptState::Prepared,
        }
    }

    /// Everything Redis holds of the drop.
    pub(crate) async fn dumps(&self, live: &LiveDrop) -> Vec<Dump> {
        let mut dumps = Vec::new();
        for warehouse in &live.drop.warehouses {
            dumps.push(live.store(warehouse).dump().await.unwrap().expect("a loaded warehouse"));
        }
        dumps
    }

    pub(crate) async fn free_in_redis(&self, live: &LiveDrop) -> usize {
        self.dumps(live).await.iter().flat_map(|dump| &dump.free).map(|(_, serials)| serials.len()).sum()
    }

    /// Puts everything that comes back on sale, once it has rested.
    pub(crate) async fn apply_all_grants(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let report = self.engine.apply_grants().await.unwrap();
            if report.is_done() {
                return;
            }
            assert!(Instant::now() < deadline, "something is still on its way: {report:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Rows of a table that a plan has read, by whatever way.
pub(crate) fn rows_read(plan: &serde_json::Value, table: &str) -> f64 {
    let number = |name: &str| plan[name].as_f64().unwrap_or(0.0);
    let is_scan = plan["Node Type"].as_str().is_some_and(|kind| kind.ends_with("Scan") && kind != "Bitmap Index Scan");
    let own = if is_scan && plan["Relation Name"] == table {
        (number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck"))
            * number("Actual Loops")
    } else {
        0.0
    };
    let below = plan["Plans"].as_array().map(Vec::as_slice).unwrap_or_default();
    own + below.iter().map(|plan| rows_read(plan, table)).sum::<f64>()
}

pub(crate) fn buyer(who: u32) -> BuyerId {
    format!("buyer-{who:014x}").parse().unwrap()
}

pub(crate) fn claim(live: &LiveDrop, buyer: &BuyerId, key: &str, variant: u8, units: i64) -> Claim {
    let key = key.parse().unwrap();
    Claim::new(live.drop.id, buyer.clone(), &key, VariantNumber(variant), Quantity::new(units).unwrap())
}

pub(crate) fn taken(outcome: ClaimOutcome) -> Vec<Serial> {
    match outcome {
        ClaimOutcome::Taken { serials } => serials,
        other => panic!("not taken: {other:?}"),
    }
}

pub(crate) async fn provider(options: FakeProviderOptions) -> (FakeProvider, ProviderClient) {
    let fake = FakeProvider::start(options).await.unwrap();
    let client = ProviderClient::new(ProviderSettings {
        base_url: fake.url().to_owned(),
        secret_key: fake.secret_key().to_owned().into(),
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(5),
    })
    .unwrap();
    // On this machine there is no limit to keep to.
    (fake, client.limited_to(RateLimit::NONE))
}
