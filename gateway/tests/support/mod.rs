//! A database and a drop for each test, in the Redis and the Postgres that all tests share.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use doorbuster::{Secret, auth};
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{NewDrop, NewVariant, PayTerms, SaleDrop};
use doorbuster_engine::domain::ids::BuyerId;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_sandbox::shared;
use jiff::SignedDuration;
use reqwest::{Response, StatusCode};
use serde_json::Value;

pub(crate) const SECRET: &str = "a secret of this test, long enough for HS256";

/// A drop of these variants, `(sku, stock)`, opened if asked for.
pub(crate) struct Sale {
    pub(crate) variants: Vec<(&'static str, u32)>,
    pub(crate) limit: u32,
    pub(crate) is_open: bool,
    pub(crate) acknowledgement: Acknowledgement,
}

impl Default for Sale {
    fn default() -> Self {
        Self { variants: vec![("shoe-42", 20)], limit: 2, is_open: true, acknowledgement: Acknowledgement::Accepted }
    }
}

/// Address of an up-to-date database, and a drop's name, which no other test has.
pub(crate) async fn new_database() -> (String, String) {
    let name = shared::unique();
    let migrate = async |url: String| Ledger::new(&url, 2)?.migrate().await.map(drop);
    let url = shared::postgres().await.copy_database(&format!("shop_{name}"), "migrated", migrate).await.unwrap();
    (url, format!("drop-{name}"))
}

/// Address of an empty database.
pub(crate) async fn empty_database() -> String {
    shared::postgres().await.create_database(&format!("shop_{}", shared::unique())).await.unwrap()
}

pub(crate) async fn engine(database_url: &str) -> Engine {
    engine_on(&shared::redis_url().await, database_url).await
}

pub(crate) async fn engine_on(redis_url: &str, database_url: &str) -> Engine {
    let tokens = TokenStore::connect(redis_url).await.unwrap();
    let mut engine = Engine::new(Ledger::new(database_url, 16).unwrap(), tokens, Clock::System);
    engine.return_url = Some("https://shop.example/back".to_owned());
    engine
}

pub(crate) async fn make_drop(engine: &Engine, name: &str, sale: &Sale) -> SaleDrop {
    let variants = sale.variants.iter().map(|(sku, stock)| NewVariant {
        sku: (*sku).to_owned(),
        title: format!("Shoe {sku}"),
        price_minor: 14_900,
        stock_units: *stock,
    });
    let new = NewDrop {
        name: name.parse().unwrap(),
        product_name: "Shoe".to_owned(),
        currency: "EUR".parse().unwrap(),
        variants: variants.collect(),
        buyer_limit: sale.limit,
        warehouses: 3,
        tax_basis_points: 1_900,
        shipping_minor: 490,
        rates_of_shop: false,
        price_includes_tax: false,
        // Otherwise it is a draft that buyers know nothing of.
        opens_at: (!sale.is_open).then(|| Clock::System.now().checked_add(SignedDuration::from_hours(1)).unwrap()),
        closes_at: None,
        pay_by: Clock::System.now().checked_add(SignedDuration::from_hours(24)).unwrap(),
        pay_terms: PayTerms::OF_THE_DROP,
        acknowledgement: sale.acknowledgement,
        replicas: 0,
        line: None,
    };
    let drop = engine.create_drop(&new, 7).await.unwrap().unwrap();
    if sale.is_open { engine.open_drop(&new.name).await.unwrap().unwrap() } else { drop }
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap()
}

pub(crate) fn token(buyer: &str) -> String {
    let secret = Secret::from(SECRET.to_owned());
    let buyer: BuyerId = buyer.parse().unwrap();
    auth::mint(&secret, &buyer, Clock::System.now(), SignedDuration::from_hours(1))
}

/// What came back, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// `None` if the connection broke off in the middle.
    pub(crate) async fn read_if_whole(response: Response) -> Option<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        Some(Self { status, headers, text: response.text().await.ok()? })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks that this is a problem of this status and code, in the form every problem has.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!((self.status.as_u16(), body["code"].as_str().unwrap()), (status, code), "{self:?}");
        assert_eq!(body["status"], status, "{self:?}");
        assert!(body["title"].is_string() && body["detail"].is_string(), "{self:?}");
        assert_eq!(self.header("retry-after").is_some(), status == 503 || code == "paused", "{self:?}");
        assert_eq!(self.header("www-authenticate").is_some(), status == 401, "{self:?}");
        assert!(self.header("x-request-id").is_some(), "{self:?}");
        body
    }
}

/// The one number that a query answers, over a connection of its own.
pub(crate) async fn count(database_url: &str, sql: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits for a condition, with a deadline.
#[track_caller]
pub(crate) fn until<C>(what: &'static str, condition: C) -> impl Future<Output = ()>
where
    C: AsyncFnMut() -> bool,
{
    let place = std::panic::Location::caller();
    async move {
        let mut condition = condition;
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition().await {
            assert!(Instant::now() < deadline, "{place}: in vain waited for: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Does to the database what no program of ours would.
pub(crate) async fn execute(database_url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
}

/// An address for a program that has to be told its own. Below the ports that the system gives to connections: one of
/// those may be taken before the program has it.
pub(crate) fn free_address() -> SocketAddr {
    loop {
        let port = rand::random_range(10_000..32_000);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}
