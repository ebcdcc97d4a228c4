//! Stores that say no: buyers are told that nothing was done and when to come again, operators why.

use doorbuster::GatewayConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::shop::{Shop, send, shop, shop_with_own_redis};
use crate::support::{SECRET, Sale, count, token, until};

async fn tell_redis(port: u16, command: &str) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    socket.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 5];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+OK\r\n", "{command}");
}

async fn is_not_ready(shop: &Shop, store: &str, word: &str, reason: &str) {
    let ready = shop.ops("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()[store].as_str()), (503, Some(word)), "{ready:?}");
    assert_eq!(ready.json()["status"], "not_ready", "{ready:?}");
    assert!(ready.json()["reasons"][0].as_str().unwrap().contains(reason), "{ready:?}");
}

#[tokio::test]
async fn what_redis_refuses_is_503_and_never_unknown_and_the_gateway_is_not_ready() {
    let (shop, redis) = shop_with_own_redis(GatewayConfig::on_free_ports(SECRET)).await;
    let variant = count(&shop.database_url, "select variant_id::bigint from variants").await;
    let before = shop.picture().await;
    let cases = [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "memory is full"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "it is a replica"),
    ];
    for (fault, cure, reason) in cases {
        tell_redis(redis.port(), fault).await;
        shop.claim("ada", "k", 1).await.is_problem(503, "unavailable");
        let item = shop.http.post(shop.url("/v1/cart/items")).bearer_auth(token("ada")).header("Idempotency-Key", "k");
        send(item.json(&json!({ "variant_id": variant, "quantity": 1 }))).await.is_problem(503, "unavailable");
        is_not_ready(&shop, "redis", "refuses", reason).await;
        tell_redis(redis.port(), cure).await;
        // The end of a replica's life is another history: there the warehouse is fenced and cannot be read.
        if fault.starts_with("CONFIG") {
            assert_eq!(shop.picture().await, before, "nothing was taken");
        }
    }
    redis.kill();
    until("the gateway knows", async || shop.claim("ada", "k", 1).await.status == 503).await;
    for buyer in ["bob", "eve"] {
        shop.claim(buyer, "k", 1).await.is_problem(503, "unavailable");
    }
    is_not_ready(&shop, "redis", "does not answer", "cannot be reached").await;
}

#[tokio::test]
async fn a_postgres_that_takes_no_writes_is_503_and_the_gateway_is_not_ready() {
    let shop = shop(Sale::default()).await;
    let (sql, connection) = tokio_postgres::connect(&shop.database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let read_only = "do $$ begin
           execute format('alter database %I set default_transaction_read_only = on', current_database());
         end $$;
         select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()";
    sql.batch_execute(read_only).await.unwrap();
    until("its old connections are gone", async || shop.ops("/readyz").await.json()["postgres"] == "refuses").await;
    is_not_ready(&shop, "postgres", "refuses", "default_transaction_read_only is on").await;
    let profile = json!({ "payment_method": "pm_card_visa", "email": "ada@example.test", "ship_to": {
        "name": "Ada", "line1": "Street 1", "postal_code": "10115", "city": "Berlin", "country": "DE" } });
    let put = shop.http.put(shop.url("/v1/me/checkout-profile")).bearer_auth(token("ada")).json(&profile);
    send(put).await.is_problem(503, "unavailable");
}
