//! Waiting in line, as a buyer does it.

use doorbuster::receipt::{Receipt, ReceiptKey, Receipts};
use doorbuster::{GatewayConfig, Secret};
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::ids::OrderId;
use doorbuster_engine::workers::settle_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::shop::{Shop, send, shop, shop_with};
use crate::support::{Answer, SECRET, Sale, token, until};

async fn ask(shop: &Shop, method: Method, buyer: &str, key: &str, body: &Value) -> Answer {
    let url = shop.url(&format!("/v1/drops/{}/standby", shop.drop));
    send(shop.http.request(method, url).bearer_auth(token(buyer)).header("Idempotency-Key", key).json(body)).await
}

async fn join(shop: &Shop, buyer: &str, key: &str, body: Value) -> Answer {
    ask(shop, Method::POST, buyer, key, &body).await
}

async fn place_of(shop: &Shop, buyer: &str) -> Value {
    shop.get(buyer, &format!("/v1/drops/{}/standby", shop.drop)).await.json()["places"][0].clone()
}

#[tokio::test]
async fn a_buyer_who_was_refused_waits_and_gets_the_unit_that_comes_back() {
    let shop = shop(Sale { variants: vec![("shoe-42", 1)], limit: 1, ..Sale::default() }).await;
    let claim = shop.claim("ada", "k", 1).await.json();
    let refused = shop.claim("bob", "k", 1).await.is_problem(409, "sold_out");
    assert!(refused["detail"].as_str().unwrap().contains("/standby"), "{refused}");
    let joined = join(&shop, "bob", "w", json!({})).await;
    assert_eq!((joined.status.as_u16(), joined.header("idempotent-replayed")), (201, None));
    assert_eq!(joined.json()["ahead"], 0);
    let again = join(&shop, "bob", "w", json!({})).await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), (Some("true"), &joined.text));
    join(&shop, "bob", "w2", json!({})).await.is_problem(409, "already_in_line");
    assert_eq!(join(&shop, "eve", "w", json!({ "sku": "shoe-42" })).await.json()["ahead"], 1);

    settle_all(&shop.engine).await.unwrap();
    let order = OrderId(claim["claim_id"].as_str().unwrap().parse().unwrap());
    shop.engine.ledger.expire_unpaid(&[order], shop.engine.clock.now()).await.unwrap();
    assert_eq!(place_of(&shop, "bob").await["status"], "awarded");
    ask(&shop, Method::DELETE, "bob", "d", &json!({})).await.is_problem(409, "units_on_their_way");
    shop.engine.apply_grants().await.unwrap();
    settle_all(&shop.engine).await.unwrap();
    let place = place_of(&shop, "bob").await;
    assert_eq!(place["status"], "taken");
    let order = shop.get("bob", &format!("/v1/orders/{}", place["order_id"].as_str().unwrap())).await;
    assert_eq!(order.status, 200, "{order:?}");

    assert_eq!(place_of(&shop, "eve").await["ahead"], 0);
    assert_eq!(ask(&shop, Method::DELETE, "eve", "d", &json!({})).await.status, 204);
    assert_eq!(place_of(&shop, "eve").await["status"], "left");
    assert_eq!(place_of(&shop, "mallory").await, Value::Null, "nobody sees another's place");
}

#[tokio::test]
async fn whose_claim_was_answered_and_then_lost_with_redis_finds_themselves_first_in_line() {
    let shop = shop(Sale { variants: vec![("shoe-42", 1)], ..Sale::default() }).await;
    assert_eq!(shop.claim("ada", "k", 1).await.status, 201);
    assert_eq!(join(&shop, "bob", "w", json!({})).await.status, 201);
    let live = shop.engine.live_drop(&shop.drop.parse().unwrap()).await.unwrap().unwrap();
    for warehouse in &live.drop.warehouses {
        live.store(warehouse).forget().await.unwrap();
    }
    shop.engine.rebuild_fenced().await.unwrap();
    until("ada is in line", async || place_of(&shop, "ada").await["status"] == "waiting").await;
    let place = place_of(&shop, "ada").await;
    assert_eq!((&place["is_first"], &place["ahead"]), (&json!(true), &json!(0)));
    assert_eq!(place_of(&shop, "bob").await["ahead"], 1);
}

#[tokio::test]
async fn whoever_asks_for_what_cannot_be_is_told_why() {
    let shop = shop(Sale { variants: vec![("shoe-42", 1), ("shoe-43", 1)], limit: 2, ..Sale::default() }).await;
    join(&shop, "ada", "w", json!({})).await.is_problem(422, "invalid_request");
    join(&shop, "ada", "w", json!({ "sku": "shoe-42", "quantity": 0 })).await.is_problem(422, "invalid_request");
    join(&shop, "ada", "w", json!({ "sku": "shoe-42", "place": 1 })).await.is_problem(422, "invalid_request");
    join(&shop, "ada", "w", json!({ "sku": "shoe-99" })).await.is_problem(404, "variant_not_found");
    let limit = join(&shop, "ada", "w", json!({ "sku": "shoe-42", "quantity": 3 })).await;
    assert_eq!(limit.is_problem(409, "limit_exceeded")["limit"], 2);
    let receipt = json!({ "sku": "shoe-42", "receipt": "e30.e30.x" });
    join(&shop, "ada", "w", receipt).await.is_problem(422, "invalid_request");
    let elsewhere = shop.url("/v1/drops/nowhere/standby");
    let elsewhere = shop.http.post(elsewhere).bearer_auth(token("ada")).header("Idempotency-Key", "w").json(&json!({}));
    send(elsewhere).await.is_problem(404, "drop_not_found");
    let unknown = shop.url(&format!("/v1/drops/{}/standby?variant=1", shop.drop));
    send(shop.http.delete(unknown).bearer_auth(token("ada"))).await.is_problem(422, "invalid_request");
    let one = json!({ "sku": "shoe-42" });
    join(&shop, "ada", "w", one.clone()).await.is_problem(409, "on_sale");
    assert_eq!(send(shop.claim_request("bob", "k").json(&one)).await.status, 201);
    join(&shop, "bob", "w", json!({ "sku": "shoe-42", "quantity": 2 })).await.is_problem(409, "limit_exceeded");
    assert_eq!(join(&shop, "ada", "w", one).await.status, 201, "what was refused before has left no trace");
    join(&shop, "ada", "w", json!({ "sku": "shoe-43" })).await.is_problem(422, "key_reused");
    shop.engine.close_drop(&shop.drop.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(place_of(&shop, "ada").await["status"], "expired");
}

#[tokio::test]
async fn a_receipt_of_a_lost_claim_puts_its_buyer_first_and_no_other_receipt_does() {
    let keys = ReceiptKey::parse_list(&Secret::from("a=0123456789abcdef0123456789abcdef".to_owned())).unwrap();
    let config = GatewayConfig { receipt_keys: keys.clone(), ..GatewayConfig::on_free_ports(SECRET) };
    let shop = shop_with(Sale { variants: vec![("shoe-42", 1)], limit: 2, ..Sale::default() }, config).await;
    let held = shop.claim("ada", "k", 1).await.json();
    assert_eq!(join(&shop, "bob", "w", json!({})).await.status, 201);
    let with = |receipt: &str| json!({ "receipt": receipt });
    let held = held["receipt"].as_str().unwrap();
    join(&shop, "ada", "w", with(held)).await.is_problem(409, "claim_not_lost");
    join(&shop, "eve", "w", with(held)).await.is_problem(422, "invalid_request");
    // As Redis answered before it forgot: signed by us, and known to nobody.
    let live = shop.engine.live_drop(&shop.drop.parse().unwrap()).await.unwrap().unwrap();
    let lost = doorbuster_engine::domain::claims::Claim::new(
        live.drop.id,
        "eve".parse().unwrap(),
        &"k".parse().unwrap(),
        live.drop.variants[0].number,
        doorbuster_engine::domain::claims::Quantity::new(1).unwrap(),
    );
    let lost = Receipts::new(&keys).unwrap().sign(&Receipt {
        jti: lost.id.0,
        sub: "eve".to_owned(),
        drop: shop.drop.clone(),
        sku: "shoe-42".to_owned(),
        serials: vec![1],
        acknowledgement: Acknowledgement::Accepted,
        epoch: 1,
        iat: shop.engine.clock.now().as_second(),
    });
    let more = json!({ "receipt": lost, "quantity": 2 });
    join(&shop, "eve", "w", more).await.is_problem(422, "invalid_request");
    let first = join(&shop, "eve", "w", with(&lost)).await.json();
    assert_eq!((&first["is_first"], &first["ahead"]), (&json!(true), &json!(0)));
    assert_eq!(place_of(&shop, "bob").await["ahead"], 1);
    let again = join(&shop, "eve", "w2", with(&lost)).await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "once for each lost claim: {again:?}");
}
