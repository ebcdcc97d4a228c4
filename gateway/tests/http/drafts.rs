//! A draft is its operator's alone: to buyers it is as if it were not there.

use std::time::{Duration, Instant};

use doorbuster_engine::domain::ids::DropName;
use reqwest::Method;
use serde_json::{Value, json};

use super::shop::{Shop, send, shop};
use crate::support::{Answer, Sale, make_drop, token, until};

async fn everybody_sees(shop: &Shop, path: &str) -> Answer {
    send(shop.http.get(shop.url(path))).await
}

async fn put_into_cart(shop: &Shop, what: Value) -> Answer {
    let request = shop.http.post(shop.url("/v1/cart/items")).bearer_auth(token("ada"));
    send(request.header("Idempotency-Key", what.to_string()).json(&what)).await
}

async fn wait_in_line(shop: &Shop, method: Method) -> Answer {
    let request = shop.http.request(method, shop.url(&format!("/v1/drops/{}/standby", shop.drop)));
    send(request.bearer_auth(token("ada")).header("Idempotency-Key", "w").json(&json!({}))).await
}

async fn products(shop: &Shop) -> Value {
    everybody_sees(shop, "/v1/products").await.json()["items"].clone()
}

#[tokio::test]
async fn a_draft_is_invisible_until_it_has_a_time_and_its_goods_until_it_opens() {
    let shop = shop(Sale { is_open: false, variants: vec![("shoe-42", 1)], limit: 1, ..Sale::default() }).await;
    let name: DropName = shop.drop.parse().unwrap();
    let draft = shop.engine.ledger.drop_by_name(&name).await.unwrap().unwrap();
    let (product, variant) = (draft.product_id, draft.variants[0].variant_id);
    crate::support::execute(&shop.database_url, "update drops set opens_at = null").await;
    let drop = format!("/v1/drops/{}", shop.drop);
    let unknown_sku = put_into_cart(&shop, json!({ "sku": "nothing", "quantity": 1 })).await;

    let goods_are_hidden = async || {
        assert_eq!(products(&shop).await, json!([]));
        everybody_sees(&shop, &format!("/v1/products/{product}")).await.is_problem(404, "product_not_found");
        for what in [json!({ "sku": "shoe-42", "quantity": 1 }), json!({ "variant_id": variant, "quantity": 1 })] {
            let refused = put_into_cart(&shop, what).await;
            assert_eq!((refused.status, &refused.text), (unknown_sku.status, &unknown_sku.text));
        }
    };
    everybody_sees(&shop, &drop).await.is_problem(404, "drop_not_found");
    shop.claim("ada", "k", 1).await.is_problem(404, "drop_not_found");
    for method in [Method::POST, Method::GET, Method::DELETE] {
        wait_in_line(&shop, method).await.is_problem(404, "drop_not_found");
    }
    goods_are_hidden().await;

    // Announced: whoever knows its name may ask when it opens.
    crate::support::execute(&shop.database_url, "update drops set opens_at = now() + interval '1 day'").await;
    until("the drop is announced", async || everybody_sees(&shop, &drop).await.status == 200).await;
    assert_eq!(everybody_sees(&shop, &drop).await.json()["state"], "draft");
    // That there is no such drop is remembered for a moment.
    until("clicks are told that it is not open", async || shop.claim("ada", "k", 1).await.status == 409).await;
    shop.claim("ada", "k", 1).await.is_problem(409, "not_open");
    goods_are_hidden().await;

    shop.engine.open_drop(&name).await.unwrap().unwrap();
    until("its goods are in the catalog, which is a second old at most", async || {
        let seen = products(&shop).await;
        (&seen[0]["id"], &seen[0]["variants"][0]["in_stock"]) == (&json!(product), &json!(true))
    })
    .await;
    until("it can be put into a cart", async || {
        put_into_cart(&shop, json!({ "sku": "shoe-42", "quantity": 1 })).await.status == 200
    })
    .await;
    assert_eq!(shop.claim("ada", "k", 1).await.status, 201);
    until("its last unit is known to be gone", async || {
        shop.claim("eve", "k", 1).await.is_problem(409, "sold_out");
        products(&shop).await[0]["variants"][0]["in_stock"] == false
    })
    .await;
}

#[tokio::test]
async fn a_drop_that_is_made_a_moment_after_somebody_asked_for_it_is_there() {
    let shop = shop(Sale::default()).await;
    let mut took = Vec::new();
    // The fastest of some: a single one may be slow for a busy machine's sake.
    for sku in ["boot-42", "boot-43", "boot-44", "boot-45"] {
        let later = shop.drop.replacen("drop", sku, 1);
        let path = format!("/v1/drops/{later}");
        everybody_sees(&shop, &path).await.is_problem(404, "drop_not_found");
        make_drop(&shop.engine, &later, &Sale { variants: vec![(sku, 1)], is_open: false, ..Sale::default() }).await;
        let made = Instant::now();
        until("it is there", async || everybody_sees(&shop, &path).await.status == 200).await;
        took.push(made.elapsed());
    }
    assert!(took.iter().any(|took| *took < Duration::from_millis(800)), "{took:?}");
}
