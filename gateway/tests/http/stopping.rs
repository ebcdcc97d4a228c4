//! Stopping, slow clients, and what is in flight meanwhile.

use std::time::Duration;

use doorbuster::{GatewayConfig, Workers};
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, SecretKey};
use doorbuster_engine::workers::WorkerSettings;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::shop::{shop, shop_with};
use crate::support::{SECRET, Sale, client, count, engine, make_drop, new_database, token, until};

/// The head of a claim's request, whose body of two bytes is still to come.
fn head(drop: &str, buyer: &str) -> String {
    format!(
        "POST /v1/drops/{drop}/claims HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {}\r\nidempotency-key: k\r\n\
         content-type: application/json\r\ncontent-length: 2\r\n\r\n",
        token(buyer)
    )
}

async fn read_all(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight_and_takes_nothing_new() {
    let mut config = GatewayConfig::on_free_ports(SECRET);
    config.stop_wait = Duration::from_millis(300);
    let shop = shop_with(Sale::default(), config).await;
    let (public_addr, ops_addr) = (shop.gateway.public_addr, shop.gateway.ops_addr);
    let mut in_flight = TcpStream::connect(public_addr).await.unwrap();
    in_flight.write_all(head(&shop.drop, "ada").as_bytes()).await.unwrap();
    let mut idle = TcpStream::connect(public_addr).await.unwrap();
    let claims = async || count_requests(ops_addr).await;
    until("both connections are open", async || claims().await >= 2.0).await;

    let stopping = tokio::spawn(shop.gateway.stop());
    until("readiness fails", async || {
        let ready = client().get(format!("http://{ops_addr}/readyz")).send().await;
        ready.is_ok_and(|answer| answer.status() == 503)
    })
    .await;
    until("the port is closed", async || TcpStream::connect(public_addr).await.is_err()).await;
    assert_eq!(read_all(&mut idle).await, "", "an idle connection is closed");
    in_flight.write_all(b"{}").await.unwrap();
    let answer = read_all(&mut in_flight).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(stopping.await.unwrap(), "everything ended in time");
    assert!(TcpStream::connect(ops_addr).await.is_err(), "the operators' port is closed too");
}

/// Open connections of this process's gateways; other tests' only make it larger.
async fn count_requests(ops_addr: std::net::SocketAddr) -> f64 {
    let metrics = client().get(format!("http://{ops_addr}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix("doorbuster_connections_open ")).unwrap();
    line.parse().unwrap()
}

#[tokio::test]
async fn a_stop_settles_what_was_accepted() {
    let provider = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let (database_url, drop) = new_database().await;
    let engine = engine(&database_url).await;
    make_drop(&engine, &drop, &Sale::default()).await;
    let client = ProviderClient::new(ProviderSettings {
        base_url: provider.url().to_owned(),
        secret_key: SecretKey::from(provider.secret_key().to_owned()),
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(5),
    });
    // So long that only the stop can have settled.
    let settings = WorkerSettings { settle_every: Duration::from_secs(3600), ..WorkerSettings::default() };
    let workers = Workers { provider: client.unwrap(), settings };
    let config = GatewayConfig::on_free_ports(SECRET);
    let gateway = doorbuster::serve(config, engine, Some(workers)).await.unwrap();
    let http = crate::support::client();
    for buyer in ["ada", "bob", "eve"] {
        let url = format!("http://{}/v1/drops/{drop}/claims", gateway.public_addr);
        let request = http.post(url).bearer_auth(token(buyer)).header("Idempotency-Key", "k").json(&json!({}));
        assert_eq!(request.send().await.unwrap().status(), 201);
    }
    assert_eq!(count(&database_url, "select count(*) from orders").await, 0);
    assert!(gateway.stop().await);
    assert_eq!(count(&database_url, "select count(*) from orders").await, 3);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let mut config = GatewayConfig::on_free_ports(SECRET);
    config.limits.body = Duration::from_millis(50);
    let shop = shop_with(Sale::default(), config).await;
    let mut slow = TcpStream::connect(shop.gateway.public_addr).await.unwrap();
    slow.write_all(head(&shop.drop, "ada").as_bytes()).await.unwrap();
    slow.write_all(b"{").await.unwrap();
    let answer = read_all(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_too_slow"), "{answer}");
}

#[tokio::test]
async fn a_header_that_is_too_large_is_refused() {
    let shop = shop(Sale::default()).await;
    let mut socket = TcpStream::connect(shop.gateway.public_addr).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: shop\r\nx-padding: {}\r\n\r\n", "x".repeat(40 * 1024));
    // The gateway may answer and close before it has read everything.
    let _ = socket.write_all(request.as_bytes()).await;
    let mut answer = [0; 12];
    if socket.read_exact(&mut answer).await.is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    assert_eq!(shop.claim("ada", "k", 1).await.status, 201, "the others are served");
}
