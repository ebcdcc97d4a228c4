//! Products as operators make them and as everybody sees them.

use reqwest::Method;
use serde_json::{Value, json};

use super::admin::shop_with_operators;
use super::shop::{Shop, send};
use crate::support::{Answer, count as count_of_rows, until};

fn shoe(skus: &[&str]) -> Value {
    let variants = skus.iter().map(|sku| json!({ "sku": sku, "title": "Size", "price_minor": 100, "currency": "EUR" }));
    json!({ "name": "Shoe", "variants": variants.collect::<Vec<_>>() })
}

async fn make(shop: &Shop, key: &str, product: &Value) -> Answer {
    send(shop.ada(Method::POST, "/v1/products").header("Idempotency-Key", key).json(product)).await
}

async fn change(shop: &Shop, id: &Value, etag: &str, change: Value) -> Answer {
    send(shop.ada(Method::PATCH, &format!("/v1/products/{id}")).header("If-Match", etag).json(&change)).await
}

#[tokio::test]
async fn a_product_is_made_once_for_each_key_and_sold_when_it_is_active() {
    let shop = shop_with_operators().await;
    let made = make(&shop, "k", &shoe(&["a-42", "a-43"])).await;
    assert_eq!((made.status.as_u16(), made.header("etag")), (201, Some("\"v1\"")), "{made:?}");
    let id = &made.json()["id"];
    let again = make(&shop, "k", &shoe(&["a-42", "a-43"])).await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), (Some("true"), &made.text));
    make(&shop, "k", &shoe(&["a-44"])).await.is_problem(422, "key_reused");
    make(&shop, "k2", &shoe(&["b-1", "a-42"])).await.is_problem(409, "sku_taken");
    // Two operators at once, who both saw that it was free.
    let (one, two) = (shoe(&["race-1"]), shoe(&["race-1", "race-2"]));
    let (one, two) = tokio::join!(make(&shop, "r1", &one), make(&shop, "r2", &two));
    assert_eq!(u16::min(one.status.as_u16(), two.status.as_u16()), 201, "{one:?} {two:?}");
    if one.status == 201 { two } else { one }.is_problem(409, "sku_taken");
    make(&shop, "k2", &shoe(&[])).await.is_problem(422, "invalid_request");
    let mut dollars = shoe(&["c-1"]);
    dollars["variants"][0]["currency"] = json!("dollars");
    make(&shop, "k2", &dollars).await.is_problem(422, "invalid_request");

    let of = |path: &str| format!("/v1/products{path}");
    let seen = send(shop.http.get(shop.url(&of(&format!("/{id}"))))).await;
    assert_eq!(
        seen.json()["variants"][0],
        json!({ "sku": "a-42", "title": "Size", "in_stock": false,
        "price": { "amount_minor": 100, "currency": "EUR" } })
    );
    assert_eq!(send(shop.ada(Method::POST, "/v1/warehouses").json(&json!({ "code": "berlin" }))).await.status, 201);
    let units = json!({ "sku": "a-42", "warehouse": "berlin", "delta": 3, "reason": "delivery" });
    let adjust = shop.ada(Method::POST, "/v1/stock/adjustments").header("Idempotency-Key", "u").json(&units);
    assert_eq!(send(adjust).await.status, 201);
    let known = |tag: &str| shop.http.get(shop.url(&of(&format!("/{id}")))).header("If-None-Match", tag);
    assert_eq!(seen.header("cache-control"), Some("public, max-age=1"));
    // A second later.
    until("it has changed", async || send(known(seen.header("etag").unwrap())).await.status == 200).await;
    let now = send(known(seen.header("etag").unwrap())).await;
    assert_eq!((now.status.as_u16(), &now.json()["variants"][0]["in_stock"]), (200, &json!(true)), "it has changed");
    let same = send(known(now.header("etag").unwrap())).await;
    assert_eq!((same.status.as_u16(), &*same.text), (304, ""));
    let stock = send(shop.ada(Method::GET, &of(&format!("/{id}/stock")))).await.json();
    assert_eq!(
        stock["stock"],
        json!([{ "sku": "a-42", "warehouse": "berlin", "drop": null, "available": 3, "reserved": 0 }])
    );

    let hidden = change(&shop, id, "\"v1\"", json!({ "active": false })).await;
    assert_eq!((hidden.status.as_u16(), hidden.header("etag")), (200, Some("\"v2\"")), "{hidden:?}");
    let hidden = async || send(shop.http.get(shop.url(&of(&format!("/{id}"))))).await;
    until("it is not shown any more", async || hidden().await.status == 404).await;
    hidden().await.is_problem(404, "product_not_found");
    let list = async |tag: &str| send(shop.http.get(shop.url(&of("?limit=100"))).header("If-None-Match", tag)).await;
    let (public, same) = (list("").await, list("*").await);
    assert_eq!((same.status.as_u16(), &*same.text, same.header("etag")), (304, "", public.header("etag")));
    let public = public.json();
    assert!(public["items"].as_array().unwrap().iter().all(|product| product["id"] != *id), "{public}");
    for wrong in ["/0", "/x", "/99999999999"] {
        send(shop.http.get(shop.url(&of(wrong)))).await.is_problem(404, "product_not_found");
        send(shop.ada(Method::GET, &of(wrong))).await.is_problem(404, "product_not_found");
    }
}

#[tokio::test]
async fn of_two_changes_of_one_version_one_wins_and_the_other_is_told() {
    let shop = shop_with_operators().await;
    let id = make(&shop, "k", &shoe(&["a-42", "a-43"])).await.json()["id"].clone();
    send(shop.ada(Method::PATCH, &format!("/v1/products/{id}")).json(&json!({})))
        .await
        .is_problem(428, "precondition_required");
    change(&shop, &id, "\"v7\"", json!({ "name": "Boot" })).await.is_problem(412, "precondition_failed");
    let changes = (0..8).map(|number| {
        let price = json!({ "variants": [{ "sku": "a-42", "price_minor": 1_000 + number }] });
        change(&shop, &id, "\"v1\"", price)
    });
    let answers = futures_util::future::join_all(changes).await;
    let won = answers.iter().filter(|answer| answer.status == 200).collect::<Vec<_>>();
    assert_eq!((won.len(), answers.iter().filter(|answer| answer.status == 412).count()), (1, 7));
    let seen = send(shop.ada(Method::GET, &format!("/v1/products/{id}"))).await;
    assert_eq!((&seen.text, seen.header("etag")), (&won[0].text, Some("\"v2\"")));
    assert_eq!(seen.json()["variants"][1]["price"]["amount_minor"], 100, "what was not named stays");

    change(&shop, &id, "*", json!({ "variants": [{ "sku": "zz", "active": false }] }))
        .await
        .is_problem(404, "sku_not_found");
    change(&shop, &id, "*", json!({ "name": "" })).await.is_problem(422, "invalid_request");
    change(&shop, &id, "*", json!({ "variants": [{ "sku": "a-42", "price_minor": -1 }] }))
        .await
        .is_problem(422, "invalid_request");
    let more = json!({ "sku": "a-44", "title": "Size 44", "price_minor": 0, "currency": "EUR" });
    let add =
        || shop.ada(Method::POST, &format!("/v1/products/{id}/variants")).header("Idempotency-Key", "more").json(&more);
    let added = send(add()).await;
    assert_eq!((added.status.as_u16(), added.header("etag")), (201, Some("\"v3\"")), "{added:?}");
    assert_eq!(send(add()).await.header("idempotent-replayed"), Some("true"));
    assert_eq!(added.json()["variants"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_list_goes_on_where_the_page_before_ended() {
    let shop = shop_with_operators().await;
    for number in 0..5 {
        make(&shop, &format!("k{number}"), &shoe(&[&format!("p-{number}")])).await;
    }
    let (mut ids, mut path) = (Vec::new(), "/v1/products?limit=2".to_owned());
    loop {
        let page = send(shop.ada(Method::GET, &path)).await.json();
        ids.extend(page["items"].as_array().unwrap().iter().map(|product| product["id"].as_i64().unwrap()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/products?limit=2&cursor={cursor}");
    }
    // And the drop's own.
    assert_eq!(ids.len(), 6);
    assert!(ids.is_sorted());
    send(shop.ada(Method::GET, "/v1/products?limit=0")).await.is_problem(422, "invalid_request");
    send(shop.ada(Method::GET, "/v1/products?cursor=x")).await.is_problem(422, "invalid_request");
}

async fn import(shop: &Shop, path: &str, key: &str, text: &str) -> Answer {
    let request = shop.ada(Method::POST, path).header("Idempotency-Key", key).header("Content-Type", "text/csv");
    send(request.body(text.to_owned())).await
}

#[tokio::test]
async fn a_catalog_comes_in_from_files() {
    let shop = shop_with_operators().await;
    let products = "product,sku,title,price_minor,currency,reservation\nCup,cup-s,Small,500,EUR,warehouses\nCup,cup-l,Large,700,EUR,\n";
    let tried = import(&shop, "/v1/products/import?dry_run=true", "a", products).await;
    assert_eq!(tried.json(), json!({ "created": 2, "changed": 0, "unchanged": 0, "dry_run": true }));
    let made = import(&shop, "/v1/products/import", "a", products).await;
    assert_eq!((made.status.as_u16(), made.json()["created"].as_u64()), (200, Some(2)), "tried, it had made nothing");
    let again = import(&shop, "/v1/products/import", "a", products).await;
    assert_eq!((again.header("idempotent-replayed"), again.json()), (Some("true"), made.json()));
    import(&shop, "/v1/products/import", "a", &products.replace("500", "600")).await.is_problem(422, "key_reused");

    let warehouse = shop.ada(Method::POST, "/v1/warehouses").header("Idempotency-Key", "w");
    assert_eq!(send(warehouse.json(&json!({ "code": "berlin" }))).await.status, 201);
    let stock = "sku,warehouse,quantity,reason\ncup-s,berlin,40,first delivery\ncup-l,berlin,2,first delivery\n";
    assert_eq!(import(&shop, "/v1/stock/import", "s", stock).await.json()["changed"], 2);
    let count = "sku,warehouse,quantity,reason\ncup-s,berlin,39,counted\ncup-l,berlin,2,counted\n";
    let counted = import(&shop, "/v1/stock/import?mode=count", "c", count).await.json();
    assert_eq!((&counted["changed"], &counted["unchanged"]), (&json!(1), &json!(1)));

    let bad = "sku,warehouse,quantity,reason\ncup-s,berlin,-40,gone\ncup-x,berlin,1,came\ncup-l,paris,1,came\n";
    let refused = import(&shop, "/v1/stock/import", "b", bad).await.is_problem(422, "import_refused");
    let fields = refused["errors"].as_array().unwrap().iter().map(|error| error["field"].clone()).collect::<Vec<_>>();
    assert_eq!(fields, ["line 2, quantity", "line 3, sku", "line 4, warehouse"]);
    import(&shop, "/v1/products/import", "d", "sku\n").await.is_problem(422, "import_refused");
    import(&shop, "/v1/stock/import?mode=luck", "d", stock).await.is_problem(422, "invalid_request");
    let json = shop.ada(Method::POST, "/v1/stock/import").header("Idempotency-Key", "j").json(&json!({}));
    send(json).await.is_problem(415, "unsupported_media_type");
    let large = "x".repeat(2 * 1024 * 1024 + 1);
    import(&shop, "/v1/stock/import", "l", &large).await.is_problem(413, "body_too_large");
    let sum =
        "select sum(quantity_available)::bigint from inventory join variants using (variant_id) where sku like 'cup-%'";
    assert_eq!(count_of_rows(&shop.database_url, sum).await, 41);
}
