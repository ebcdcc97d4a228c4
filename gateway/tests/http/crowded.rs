//! Crowds that keep Postgres busy: those who read the catalog leave it to buyers, and buyers leave it to the workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use doorbuster::{GatewayConfig, Workers};
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, SecretKey};
use doorbuster_engine::workers::{WorkerSettings, settle_all};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use doorbuster_sandbox::shared;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::shop::{Shop, send};
use crate::support::{Answer, SECRET, Sale, client, count, engine, make_drop, new_database, token, until};

/// A way to Postgres on which every connection waits that prepares a certain statement, until it is let through.
#[derive(Clone)]
struct Way {
    port: u16,
    held: Arc<AtomicUsize>,
    let_through: Arc<watch::Sender<bool>>,
}

impl Way {
    async fn holding(statement: &'static str) -> Self {
        let server = shared::postgres().await.port();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let way = Self {
            port: listener.local_addr().unwrap().port(),
            held: Arc::default(),
            let_through: Arc::new(watch::Sender::new(false)),
        };
        let here = way.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(here.clone().carry(client, server, statement.as_bytes()));
            }
        });
        way
    }

    async fn carry(self, client: TcpStream, server: TcpStream, statement: &[u8]) {
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut bytes = vec![0; 65_536];
        while let Ok(len @ 1..) = from_client.read(&mut bytes).await {
            if bytes[..len].windows(statement.len()).any(|window| window == statement) {
                self.held.fetch_add(1, Ordering::SeqCst);
                self.let_through.subscribe().wait_for(|through| *through).await.unwrap();
                self.held.fetch_sub(1, Ordering::SeqCst);
            }
            if to_server.write_all(&bytes[..len]).await.is_err() {
                break;
            }
        }
        back.abort();
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }
}

/// A shop that reaches Postgres on this way.
async fn shop_on(way: &Way, workers: Option<Workers>) -> Shop {
    let (database_url, drop) = new_database().await;
    let server = shared::postgres().await.port();
    let proxied = database_url.replace(&format!(":{server}/"), &format!(":{}/", way.port));
    assert_ne!(proxied, database_url);
    let engine = engine(&proxied).await;
    make_drop(&engine, &drop, &Sale::default()).await;
    let config = GatewayConfig::on_free_ports(SECRET);
    let gateway = doorbuster::serve(config, engine.clone(), workers).await.unwrap();
    Shop { engine, gateway, http: client(), database_url, drop }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_the_catalog_has_four_statements_and_the_rest_is_for_buyers() {
    const PAGES: usize = 20;
    let way = Way::holding("-- catalog.products").await;
    let shop = shop_on(&way, None).await;
    // Every page three times at once.
    let pages = (0..3 * PAGES).map(|number| shop.url(&format!("/v1/products?limit={}", 1 + number % PAGES)));
    let asked = pages.map(|url| tokio::spawn(send(shop.http.get(url)))).collect::<Vec<_>>();
    until("four pages are being read, and the others have been told", async || {
        way.held() >= 4 && asked.iter().filter(|asked| asked.is_finished()).count() >= 3 * (PAGES - 4)
    })
    .await;
    assert_eq!(way.held(), 4);

    assert_eq!(shop.claim("ada", "k", 1).await.status, 201);
    assert_eq!(settle_all(&shop.engine).await.unwrap(), 1, "settlement has its connections");
    assert_eq!(shop.get("ada", "/v1/orders").await.json()["items"].as_array().unwrap().len(), 1);
    let guest = send(shop.http.post(shop.url("/v1/carts/guest"))).await.json();
    let guest = guest["cart_session"].as_str().unwrap();
    let item = shop.http.post(shop.url("/v1/cart/items")).header("Cart-Session", guest).header("Idempotency-Key", "k");
    for answer in join_all([
        send(shop.http.get(shop.url("/v1/products?limit=99"))),
        send(shop.http.get(shop.url("/v1/products/1"))),
        send(shop.http.get(shop.url("/v1/drops/another"))),
        send(item.json(&json!({ "sku": "another", "quantity": 1 }))),
    ])
    .await
    {
        answer.is_problem(503, "overloaded");
    }
    assert_eq!(send(shop.http.get(shop.url(&format!("/v1/drops/{}", shop.drop)))).await.status, 200, "known");

    way.let_through.send_replace(true);
    let answers = join_all(asked).await.into_iter().map(Result::unwrap).collect::<Vec<Answer>>();
    let (read, told) = answers.iter().partition::<Vec<_>, _>(|answer| answer.status == 200);
    assert_eq!((read.len(), told.len()), (3 * 4, 3 * (PAGES - 4)), "who asked for one page had one answer");
    assert!(read.iter().all(|answer| answer.header("etag").is_some()));
    for answer in told {
        answer.is_problem(503, "overloaded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buyers_who_hold_every_connection_keep_no_order_from_being_made_and_charged() {
    let provider = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let client = ProviderClient::new(ProviderSettings {
        base_url: provider.url().to_owned(),
        secret_key: SecretKey::from(provider.secret_key().to_owned()),
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(5),
    });
    let settings = WorkerSettings { settle_every: Duration::from_millis(50), ..WorkerSettings::default() };
    let way = Way::holding("-- profiles.profile_of").await;
    let shop = shop_on(&way, Some(Workers { provider: client.unwrap(), settings })).await;
    let profile = json!({
        "payment_method": "pm_card_visa", "email": "ada@example.com",
        "ship_to": { "name": "A", "line1": "1 Road", "city": "Köln", "postal_code": "50667", "country": "DE" }
    });
    let url = shop.url("/v1/me/checkout-profile");
    let saved = send(shop.http.put(&url).bearer_auth(token("ada")).json(&profile)).await;
    assert_eq!(saved.status, 200, "{saved:?}");
    let asked = (0..40).map(|number| {
        let request = shop.http.get(&url).bearer_auth(token(&format!("buyer-{number}")));
        tokio::spawn(async move { request.send().await.is_ok() })
    });
    let asked = asked.collect::<Vec<_>>();
    until("all connections of buyers are taken", async || way.held() == 16).await;

    assert_eq!(shop.claim("ada", "k", 1).await.status, 201);
    let paid = "select count(*) from orders where status = 'CONFIRMED'";
    let is_paid = until("it is paid", async || count(&shop.database_url, paid).await == 1);
    // Shorter than requests that wait are kept.
    assert!(tokio::time::timeout(Duration::from_secs(8), is_paid).await.is_ok(), "workers wait for buyers");
    assert_eq!(way.held(), 16);
    way.let_through.send_replace(true);
    join_all(asked).await;
}
