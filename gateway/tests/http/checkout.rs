//! Checkout over HTTP: from an empty cart to a parcel that was delivered and money that went back.

use doorbuster_engine::ledger::rates::RateRow;
use doorbuster_engine::workers::settle_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::fulfilment::PaidShop;
use super::shop::{Shop, send};
use crate::support::{Answer, token};

const CHECKOUT: &str = "/v1/checkout";

fn euros(minor: i64) -> Value {
    json!({ "amount_minor": minor, "currency": "EUR" })
}

/// A shop with ten mugs in Berlin at 9.00 €, and rates for Germany.
async fn shop_with_mugs() -> PaidShop {
    let paid = PaidShop::new().await;
    stock_mugs(&paid.shop).await;
    paid
}

/// Puts the mugs and the rates there.
pub(super) async fn stock_mugs(shop: &Shop) {
    let post = async |path: &str, key: &str, body: Value| {
        let request = shop.ada(Method::POST, path).header("Idempotency-Key", key);
        let answer = send(request.json(&body)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    };
    let variant = json!({ "sku": "mug", "title": "Mug", "price_minor": 900, "currency": "EUR" });
    let product = post("/v1/products", "p", json!({ "name": "Mug", "variants": [variant] })).await;
    assert_eq!(product["reservation"], "row_lock");
    let change = shop.ada(Method::PATCH, &format!("/v1/products/{}", product["id"])).header("If-Match", "*");
    let changed = send(change.json(&json!({ "reservation": "warehouses" }))).await;
    assert_eq!(changed.json()["reservation"], "warehouses", "{changed:?}");
    post("/v1/warehouses", "w", json!({ "code": "berlin" })).await;
    let adjustment = json!({ "sku": "mug", "warehouse": "berlin", "delta": 10, "reason": "counted" });
    post("/v1/stock/adjustments", "s", adjustment).await;
    let rate = RateRow {
        country: "DE".to_owned(),
        currency: "EUR".parse().unwrap(),
        tax_basis_points: 1_900,
        shipping_tax_basis_points: Some(0),
        shipping_minor: 490,
        free_shipping_from_minor: Some(5_000),
    };
    shop.engine.ledger.replace_rates(&[rate]).await.unwrap();
}

/// The tests share one Redis, in which a buyer has one cart.
fn buyer(shop: &Shop) -> String {
    format!("eve-{}", shop.drop)
}

async fn save_profile(shop: &Shop, buyer: &str, country: &str) {
    let profile = json!({
        "payment_method": "pm_card_visa", "email": "eve@example.com",
        "ship_to": { "name": "E", "line1": "1 Road", "city": "Köln", "postal_code": "50667", "country": country }
    });
    let url = shop.url("/v1/me/checkout-profile");
    assert_eq!(send(shop.http.put(url).bearer_auth(token(buyer)).json(&profile)).await.status, 200);
}

async fn add(shop: &Shop, buyer: &str, sku: &str, quantity: u32) {
    let request = shop.http.post(shop.url("/v1/cart/items")).bearer_auth(token(buyer));
    let request = request.header("Idempotency-Key", uuid::Uuid::now_v7().to_string());
    let answer = send(request.json(&json!({ "sku": sku, "quantity": quantity }))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn check_out(shop: &Shop, buyer: &str, key: &str, body: Value) -> Answer {
    let request = shop.http.post(shop.url(CHECKOUT)).bearer_auth(token(buyer)).header("Idempotency-Key", key);
    send(request.json(&body)).await
}

#[tokio::test]
async fn from_an_empty_cart_to_delivered_and_refunded() {
    let paid = shop_with_mugs().await;
    let (shop, eve) = (&paid.shop, buyer(&paid.shop));
    shop.get(&eve, CHECKOUT).await.is_problem(409, "cart_empty");
    save_profile(shop, &eve, "DE").await;
    add(shop, &eve, "mug", 3).await;
    let quote = shop.get(&eve, CHECKOUT).await.json();
    assert_eq!((&quote["total"], &quote["goods"]["tax"]), (&euros(2_700 + 513 + 490), &euros(513)));
    assert_eq!((&quote["goods"]["lines"][0]["sku"], &quote["drop"]), (&json!("mug"), &Value::Null));

    let body = json!({ "cart_version": quote["cart_version"], "accepted_total": quote["total"] });
    let made = check_out(shop, &eve, "buy", body.clone()).await;
    assert_eq!(made.status, 201, "{made:?}");
    let order = made.json()["order"]["order_id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location").unwrap(), format!("/v1/orders/{order}"));
    assert_eq!((&made.json()["order"]["total"], &made.json()["claim"]), (&quote["total"], &Value::Null));
    let again = check_out(shop, &eve, "buy", body).await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(again.json()["order"]["order_id"], order);
    check_out(shop, &eve, "buy", json!({})).await.is_problem(422, "key_reused");
    check_out(shop, &eve, "more", json!({})).await.is_problem(409, "cart_empty");

    paid.charge().await;
    for (verb, body) in [
        ("process", Value::Null),
        ("ship", json!({ "carrier": "DHL", "tracking_number": "1" })),
        ("deliver", Value::Null),
    ] {
        assert_eq!(paid.act(&order, verb, verb, body).await.status, 200, "{verb}");
    }
    let seen = shop.get(&eve, &format!("/v1/orders/{order}")).await.json();
    assert_eq!((&seen["status"], &seen["payment"]), (&json!("DELIVERED"), &json!("SUCCEEDED")));
    let refund = paid.act(&order, "refunds", "r", json!({ "amount_minor": 900, "reason": "a chip" })).await;
    assert!(refund.status.is_success(), "{refund:?}");
    paid.charge().await;
    let seen = shop.get(&eve, &format!("/v1/orders/{order}")).await.json();
    assert_eq!((&seen["payment"], &seen["refunds"][0]["amount"]), (&json!("PARTIALLY_REFUNDED"), &euros(900)));
    let sql = "select quantity_available::bigint from inventory join variants using (variant_id) where sku = 'mug'";
    assert_eq!(paid.count(sql).await, 7);
}

#[tokio::test]
async fn what_is_in_the_way_is_told_by_line() {
    let paid = shop_with_mugs().await;
    let (shop, eve) = (&paid.shop, buyer(&paid.shop));
    add(shop, &eve, "mug", 11).await;
    check_out(shop, &eve, "k", json!({})).await.is_problem(409, "checkout_profile_missing");
    save_profile(shop, &eve, "FR").await;
    check_out(shop, &eve, "k", json!({})).await.is_problem(409, "region_not_served");
    save_profile(shop, &eve, "DE").await;
    let short = check_out(shop, &eve, "k", json!({})).await.is_problem(409, "out_of_stock");
    assert_eq!((&short["lines"][0]["code"], &short["lines"][0]["available"]), (&json!("out_of_stock"), &json!(10)));
    let stale = check_out(shop, &eve, "k", json!({ "cart_version": 1 })).await;
    stale.is_problem(409, "cart_changed");
    let wrong = json!({ "accepted_total": { "amount_minor": 1, "currency": "euro" } });
    check_out(shop, &eve, "k", wrong).await.is_problem(422, "invalid_request");
    check_out(shop, &eve, "k", json!({ "ship_to": 1 })).await.is_problem(422, "invalid_request");

    let products = send(shop.ada(Method::GET, "/v1/products")).await.json();
    let products = products["items"].as_array().unwrap();
    let id = &products.iter().find(|product| product["name"] == "Mug").unwrap()["id"];
    let change = async |change: Value| {
        let request = shop.ada(Method::PATCH, &format!("/v1/products/{id}")).header("If-Match", "*");
        assert_eq!(send(request.json(&change)).await.status, 200);
    };
    change(json!({ "variants": [{ "sku": "mug", "price_minor": 400 }] })).await;
    let changed = check_out(shop, &eve, "k", json!({})).await.is_problem(409, "price_changed");
    // Free from 50.00 € on; these are 44.00 €, and 8.36 € tax.
    let line = &changed["lines"][0];
    assert_eq!((&line["old_price"], &line["price"], &changed["total"]), (&euros(900), &euros(400), &euros(5_726)));
    change(json!({ "active": false })).await;
    let gone = check_out(shop, &eve, "k", json!({})).await.is_problem(409, "lines_refused");
    assert_eq!(gone["lines"][0]["code"], "not_for_sale");
    let not_a_way = shop.ada(Method::PATCH, &format!("/v1/products/{id}")).header("If-Match", "*");
    send(not_a_way.json(&json!({ "reservation": "luck" }))).await.is_problem(422, "invalid_request");
    assert_eq!(paid.count("select count(*) from orders").await, 0);
}

#[tokio::test]
async fn a_drops_unit_goes_through_the_cart_as_well() {
    let paid = shop_with_mugs().await;
    let (shop, eve) = (&paid.shop, buyer(&paid.shop));
    save_profile(shop, &eve, "DE").await;
    let drop = shop.get(&eve, &format!("/v1/drops/{}", shop.drop)).await.json();
    let sku = drop["variants"][0]["sku"].as_str().unwrap();
    let limit = drop["limit_per_buyer"].as_u64().unwrap_or(2) as u32;
    add(shop, &eve, "mug", 1).await;
    add(shop, &eve, sku, limit + 1).await;
    let over = check_out(shop, &eve, "k", json!({})).await.is_problem(409, "limit_exceeded");
    assert_eq!(over["limit"], limit, "{drop}");
    assert_eq!(paid.count("select count(*) from orders").await, 0);
    assert_eq!(paid.count("select count(*) from outbox").await, 0);
    let clear = shop.http.delete(shop.url("/v1/cart")).bearer_auth(token(&eve)).header("If-Match", "*");
    assert_eq!(send(clear).await.status, 200);
    add(shop, &eve, "mug", 1).await;
    add(shop, &eve, sku, 1).await;
    let made = check_out(shop, &eve, "k", json!({})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let claim = made.json()["claim"].clone();
    assert_eq!((&claim["status"], &claim["quantity"]), (&json!("taken"), &json!(1)));
    settle_all(&shop.engine).await.unwrap();
    paid.charge().await;
    let seen = shop.get(&eve, claim["link"].as_str().unwrap()).await.json();
    assert_eq!(seen["status"], "confirmed", "{seen}");
    assert_eq!(paid.count("select count(*) from orders where status = 'CONFIRMED'").await, 2);
}

#[tokio::test]
async fn a_buyer_with_ten_unpaid_orders_is_told_to_pay_or_cancel_one() {
    let paid = shop_with_mugs().await;
    let (shop, eve) = (&paid.shop, buyer(&paid.shop));
    save_profile(shop, &eve, "DE").await;
    add(shop, &eve, "mug", 1).await;
    let made = check_out(shop, &eve, "first", json!({})).await.json();
    let order = made["order"]["order_id"].as_str().unwrap();
    let (sql, connection) = tokio_postgres::connect(&shop.database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let nine =
        "insert into orders (order_id, buyer, status, currency, subtotal_minor, tax_minor, shipping_minor, total_minor,
                                    created_at, updated_at)
        select gen_random_uuid(), $1, 'PENDING_PAYMENT', 'EUR', 1, 0, 0, 1, now(), now() from generate_series(1, 9)";
    sql.execute(nine, &[&eve]).await.unwrap();
    add(shop, &eve, "mug", 1).await;
    let refused = check_out(shop, &eve, "one-more", json!({})).await.is_problem(409, "too_many_open");
    assert_eq!(refused["limit"], 10, "{refused}");
    // The same of units: what other orders hold leaves room for fewer than are in the cart.
    let one_large = "with ended as (update orders set status = 'CANCELLED' where buyer = $1 and subtotal_minor = 1)
        insert into order_items (order_id, line, product_id, variant_id, warehouse_id, quantity, unit_price_minor)
        select order_id, 2, product_id, variant_id, warehouse_id, 99, 1 from order_items join orders using (order_id)
        where buyer = $1 and line = 1";
    assert_eq!(sql.execute(one_large, &[&eve]).await.unwrap(), 1);
    let refused = check_out(shop, &eve, "one-more", json!({})).await.is_problem(409, "too_many_units_open");
    assert_eq!(refused["limit"], 100, "{refused}");
    sql.execute("delete from order_items where line = 2", &[]).await.unwrap();
    sql.execute("update orders set status = 'PENDING_PAYMENT' where buyer = $1", &[&eve]).await.unwrap();
    let cancel = shop.http.post(shop.url(&format!("/v1/orders/{order}/cancel"))).bearer_auth(token(&eve));
    assert_eq!(send(cancel.header("Idempotency-Key", "c")).await.status, 200);
    assert_eq!(check_out(shop, &eve, "one-more", json!({})).await.status, 201);
}
