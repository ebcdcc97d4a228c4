//! How claims are answered.

use std::time::Duration;

use doorbuster::receipt::{ReceiptKey, Receipts};
use doorbuster::{GatewayConfig, Secret};
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::workers::settle_all;
use serde_json::json;

use super::shop::{send, shop, shop_with, shop_with_own_redis};
use crate::support::{SECRET, Sale, until};

#[tokio::test]
async fn a_claim_is_answered_with_its_units() {
    let shop = shop(Sale::default()).await;
    let answer = shop.claim("ada", "k", 2).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let body = answer.json();
    let id = body["claim_id"].as_str().unwrap();
    assert_eq!(answer.header("location"), Some(format!("/v1/claims/{id}").as_str()));
    assert_eq!(answer.header("idempotent-replayed"), None);
    assert_eq!(body["drop"], shop.drop.as_str());
    assert_eq!((&body["sku"], &body["quantity"]), (&json!("shoe-42"), &json!(2)));
    assert_eq!(body["serials"].as_array().unwrap().len(), 2);
    assert_eq!(body["acknowledgement"], "accepted");
    assert_eq!(body["links"], json!({ "claim": format!("/v1/claims/{id}"), "order": format!("/v1/orders/{id}") }));

    let found = shop.get("ada", &format!("/v1/claims/{id}")).await.json();
    assert_eq!((&found["status"], &found["serials"]), (&json!("accepted"), &body["serials"]));
    assert_eq!(found["links"], json!({ "claim": format!("/v1/claims/{id}") }));
}

#[tokio::test]
async fn the_same_key_is_answered_the_same_also_when_nothing_is_left() {
    let shop = shop(Sale { variants: vec![("shoe-42", 3)], limit: 3, ..Sale::default() }).await;
    let first = shop.claim("ada", "k", 2).await;
    let again = shop.claim("ada", "k", 2).await;
    assert_eq!(shop.claim("bob", "k", 1).await.status, 201);
    shop.claim("eve", "k", 1).await.is_problem(409, "sold_out");
    let after = shop.claim("ada", "k", 2).await;
    settle_all(&shop.engine).await.unwrap();
    let settled = shop.claim("ada", "k", 2).await;
    for replay in [again, after, settled] {
        assert_eq!(replay.status, 201, "{replay:?}");
        assert_eq!(replay.header("idempotent-replayed"), Some("true"));
        assert_eq!(replay.text, first.text);
        assert_eq!(replay.header("location"), first.header("location"));
    }
    shop.claim("ada", "k", 1).await.is_problem(422, "key_reused");
}

#[tokio::test]
async fn a_receipt_says_what_the_answer_says_and_is_signed() {
    let keys = "2026b=fedcba9876543210fedcba9876543210,2026a=0123456789abcdef0123456789abcdef".to_owned();
    let keys = ReceiptKey::parse_list(&Secret::from(keys)).unwrap();
    let config = GatewayConfig { receipt_keys: keys.clone(), ..GatewayConfig::on_free_ports(SECRET) };
    let shop = shop_with(Sale::default(), config).await;
    let body = shop.claim("ada", "k", 2).await.json();
    let receipt = Receipts::new(&keys).unwrap().verify(body["receipt"].as_str().unwrap()).unwrap();
    assert_eq!((&*receipt.sub, &*receipt.drop, &*receipt.sku), ("ada", &*shop.drop, "shoe-42"));
    assert_eq!(json!(receipt.jti), body["claim_id"]);
    assert_eq!(json!(receipt.serials), body["serials"]);
    assert_eq!((receipt.acknowledgement, receipt.epoch), (Acknowledgement::Accepted, 1));
}

#[tokio::test]
async fn a_claim_that_is_not_yet_as_safe_as_promised_is_pending_and_then_created() {
    let shop = shop(Sale { acknowledgement: Acknowledgement::Settled, ..Sale::default() }).await;
    let pending = shop.claim("ada", "k", 2).await;
    assert_eq!(pending.status, 202, "no worker settles it: {pending:?}");
    let body = pending.json();
    assert_eq!((&body["status"], &body["acknowledgement"]), (&json!("pending"), &json!("accepted")));
    assert!(pending.header("retry-after").is_some() && pending.header("location").is_some(), "{pending:?}");
    settle_all(&shop.engine).await.unwrap();
    let created = shop.claim("ada", "k", 2).await;
    assert_eq!((created.status.as_u16(), created.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(created.json()["acknowledgement"], "settled");
    assert_eq!(created.json()["claim_id"], body["claim_id"]);
}

#[tokio::test]
async fn nobody_gets_more_than_the_limit() {
    let shop = shop(Sale::default()).await;
    assert_eq!(shop.claim("ada", "first", 1).await.status, 201);
    let problem = shop.claim("ada", "second", 2).await.is_problem(409, "limit_exceeded");
    assert_eq!((&problem["held"], &problem["limit"]), (&json!(1), &json!(2)));
    assert_eq!(shop.claim("ada", "third", 1).await.status, 201);
}

#[tokio::test]
async fn every_unit_is_sold_once_and_the_rest_hear_that_it_is_over() {
    let shop = shop(Sale { variants: vec![("shoe-42", 20)], limit: 1, ..Sale::default() }).await;
    let claims = (0..60).map(|buyer| shop.claim_request(&format!("buyer-{buyer}"), "k").json(&json!({})));
    let answers = futures_util::future::join_all(claims.map(send)).await;
    let mut serials = Vec::new();
    for answer in answers {
        match answer.status.as_u16() {
            201 => serials.push(answer.json()["serials"][0].as_u64().unwrap()),
            _ => _ = answer.is_problem(409, "sold_out"),
        }
    }
    serials.sort_unstable();
    assert_eq!(serials, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn fewer_units_than_asked_for_are_counted_out() {
    let shop = shop(Sale { variants: vec![("shoe-42", 1)], limit: 3, ..Sale::default() }).await;
    let problem = shop.claim("ada", "k", 2).await.is_problem(409, "not_enough");
    assert_eq!(problem["available"], 1);
    assert_eq!(shop.claim("ada", "k2", 1).await.status, 201);
}

#[tokio::test]
async fn a_drop_is_not_open_then_open_then_closed() {
    let shop = shop(Sale { is_open: false, ..Sale::default() }).await;
    let name = shop.drop.parse().unwrap();
    shop.claim("ada", "k", 1).await.is_problem(409, "not_open");
    shop.engine.open_drop(&name).await.unwrap().unwrap();
    assert_eq!(shop.claim("ada", "k", 1).await.status, 201);
    shop.engine.pause_drop(&name).await.unwrap().unwrap();
    let paused = shop.claim("bob", "k", 1).await;
    paused.is_problem(409, "paused");
    assert_eq!(paused.header("retry-after"), Some("10"));
    assert_eq!(shop.claim("ada", "k", 1).await.status, 201, "known claims are answered");
    shop.engine.close_drop(&name).await.unwrap().unwrap();
    shop.claim("bob", "k", 1).await.is_problem(410, "closed");
    let replay = shop.claim("ada", "k", 1).await;
    assert_eq!((replay.status.as_u16(), replay.header("idempotent-replayed")), (201, Some("true")));
}

/// The gateway has met the drop as a draft; another process opens it.
#[tokio::test]
async fn an_opening_elsewhere_is_seen_without_a_restart() {
    let shop = shop(Sale { is_open: false, ..Sale::default() }).await;
    shop.claim("ada", "k", 1).await.is_problem(409, "not_open");
    let elsewhere = crate::support::engine(&shop.database_url).await;
    elsewhere.open_drop(&shop.drop.parse().unwrap()).await.unwrap().unwrap();
    until("the claim is taken", async || shop.claim("ada", "k", 1).await.status == 201).await;
    until("the drop is shown as open", async || {
        let drop = send(shop.http.get(shop.url(&format!("/v1/drops/{}", shop.drop)))).await;
        drop.json()["state"] == "open"
    })
    .await;
}

#[tokio::test]
async fn a_fenced_warehouse_is_never_shown_as_sold_out() {
    let shop = shop(Sale::default()).await;
    let live = shop.engine.live_drop(&shop.drop.parse().unwrap()).await.unwrap().unwrap();
    for warehouse in &live.drop.warehouses {
        live.store(warehouse).fence().await.unwrap();
    }
    shop.claim("ada", "k", 1).await.is_problem(503, "warehouse_rebuilding");
    assert_eq!(shop.engine.rebuild_fenced().await.unwrap(), 3);
    until("the claim is taken", async || shop.claim("ada", "k", 1).await.status == 201).await;
}

#[tokio::test]
async fn another_buyers_claim_is_as_good_as_none() {
    let shop = shop(Sale::default()).await;
    let id = shop.claim("ada", "k", 1).await.json()["claim_id"].as_str().unwrap().to_owned();
    let check = async || {
        let not_his = shop.get("eve", &format!("/v1/claims/{id}")).await;
        let not_there = shop.get("eve", &format!("/v1/claims/{}9{}", &id[..30], &id[31..])).await;
        let no_id = shop.get("eve", "/v1/claims/nonsense").await;
        not_his.is_problem(404, "claim_not_found");
        assert_eq!((&not_his.text, &not_his.text), (&not_there.text, &no_id.text));
    };
    check().await;
    settle_all(&shop.engine).await.unwrap();
    check().await;
    let settled = shop.get("ada", &format!("/v1/claims/{id}")).await.json();
    assert_eq!(settled["status"], "settled");
    assert_eq!(settled["links"]["order"], format!("/v1/orders/{id}"));
}

/// The buyer hangs up as soon as the request is written; the claim is made all the same, and once.
#[tokio::test]
async fn a_buyer_who_hangs_up_has_still_made_his_claim() {
    use tokio::io::AsyncWriteExt as _;
    let shop = shop(Sale::default()).await;
    let request = format!(
        "POST /v1/drops/{}/claims HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {}\r\nidempotency-key: k\r\n\
         content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}",
        shop.drop,
        crate::support::token("ada")
    );
    let live = shop.engine.live_drop(&shop.drop.parse().unwrap()).await.unwrap().unwrap();
    let buyer = "ada".parse().unwrap();
    until("Redis has the claim", async || {
        let mut socket = tokio::net::TcpStream::connect(shop.gateway.public_addr).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        drop(socket);
        !live.store(live.home_of(&buyer)).record_of(&buyer).await.unwrap().is_empty()
    })
    .await;
    let replay = shop.claim("ada", "k", 1).await;
    assert_eq!((replay.status.as_u16(), replay.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(live.store(live.home_of(&buyer)).record_of(&buyer).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_claim_that_gets_no_answer_in_time_is_unknown_and_says_where_to_look() {
    let mut config = GatewayConfig::on_free_ports(SECRET);
    config.limits.claim = Duration::from_millis(100);
    let (shop, redis) = shop_with_own_redis(config).await;
    redis.pause();
    let answer = shop.claim("ada", "k", 1).await;
    redis.resume();
    assert_eq!(answer.status, 202, "{answer:?}");
    let body = answer.json();
    assert_eq!((&body["status"], answer.header("retry-after")), (&json!("unknown"), Some("1")));
    let location = answer.header("location").unwrap();
    assert_eq!(body["links"]["claim"], location);
    until("the claim is found where it was said", async || shop.get("ada", location).await.status == 200).await;
}
