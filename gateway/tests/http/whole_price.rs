//! The whole price over HTTP: shown for a country, agreed to with a claim, and agreed to anew.

use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{NewDrop, NewVariant, PayTerms};
use doorbuster_engine::ledger::rates::RateRow;
use doorbuster_engine::workers::settle_all;
use jiff::SignedDuration;
use reqwest::Method;
use serde_json::{Value, json};

use super::shop::{Shop, send, shop};
use crate::support::{Answer, Sale, token};

fn euros(minor: i64) -> Value {
    json!({ "amount_minor": minor, "currency": "EUR" })
}

fn rate(country: &str, tax_basis_points: u32, shipping_minor: i64) -> RateRow {
    RateRow {
        country: country.to_owned(),
        currency: "EUR".parse().unwrap(),
        tax_basis_points,
        shipping_tax_basis_points: None,
        shipping_minor,
        free_shipping_from_minor: None,
    }
}

/// A shop that sends to Germany and France, with a drop `…-w` of one boot for 119.00, tax included.
async fn shop_with_boots() -> (Shop, String) {
    let shop = shop(Sale::default()).await;
    shop.engine.ledger.replace_rates(&[rate("DE", 1_900, 500), rate("FR", 2_000, 1_000)]).await.unwrap();
    let boot = NewVariant {
        sku: format!("boot-{}", shop.drop),
        title: "Boot".to_owned(),
        price_minor: 11_900,
        stock_units: 5,
    };
    let new = NewDrop {
        name: format!("{}-w", shop.drop).parse().unwrap(),
        product_name: "Boot".to_owned(),
        currency: "EUR".parse().unwrap(),
        variants: vec![boot],
        buyer_limit: 2,
        warehouses: 1,
        tax_basis_points: 0,
        shipping_minor: 0,
        rates_of_shop: true,
        price_includes_tax: true,
        opens_at: None,
        closes_at: None,
        pay_by: Clock::System.now() + SignedDuration::from_hours(1),
        pay_terms: PayTerms::OF_THE_DROP,
        acknowledgement: Acknowledgement::Accepted,
        replicas: 0,
        line: None,
    };
    shop.engine.create_drop(&new, 7).await.unwrap().unwrap();
    shop.engine.open_drop(&new.name).await.unwrap().unwrap();
    (shop, new.name.to_string())
}

async fn claim(shop: &Shop, drop: &str, buyer: &str, key: &str, body: Value) -> Answer {
    let request = shop.http.post(shop.url(&format!("/v1/drops/{drop}/claims"))).bearer_auth(token(buyer));
    send(request.header("Idempotency-Key", key).json(&body)).await
}

#[tokio::test]
async fn what_is_shown_for_a_country_is_what_a_claim_is_told() {
    let (shop, drop) = shop_with_boots().await;
    let shown = async |query: &str| send(shop.http.get(shop.url(&format!("/v1/drops/{drop}{query}")))).await;
    let plain = shown("").await.json();
    assert!(plain["variants"][0].get("whole_price").is_none(), "{plain}");
    assert_eq!(plain["price_includes_tax"], true);
    // 19 % in 119.00 are 19.00, and of 5.00 they are 0.95.
    let there = json!({
        "country": "DE", "subtotal": euros(10_000), "tax": euros(1_900 + 95), "shipping": euros(500),
        "total": euros(12_495)
    });
    assert_eq!(shown("?country=DE").await.json()["variants"][0]["whole_price"], there);
    assert_eq!(shown("?country=FR").await.json()["variants"][0]["whole_price"]["total"], euros(11_900 + 1_200));
    let unserved = shown("?country=CH").await.is_problem(409, "country_not_served");
    assert_eq!(unserved["detail"], "It is not sent to CH; it is sent to DE, FR.");
    let unknown = shown("?country=UK").await.is_problem(422, "invalid_request");
    let detail = unknown["errors"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("for UK that is GB") && detail.contains("is sent to DE, FR"), "{detail}");

    let ask = |country: &str, total: i64| json!({ "country": country, "accepted_total": euros(total) });
    let wrong = claim(&shop, &drop, "ada", "k", ask("DE", 11_900)).await.is_problem(409, "price_changed");
    assert_eq!(wrong["total"], euros(12_495));
    let dollars = json!({ "country": "DE", "accepted_total": { "amount_minor": 12_495, "currency": "USD" } });
    claim(&shop, &drop, "ada", "k", dollars).await.is_problem(409, "price_changed");
    claim(&shop, &drop, "ada", "k", ask("CH", 1)).await.is_problem(409, "country_not_served");
    claim(&shop, &drop, "ada", "k", ask("de", 12_495)).await.is_problem(422, "invalid_request");
    let lonely = json!({ "accepted_total": euros(12_495) });
    let lonely = claim(&shop, &drop, "ada", "k", lonely).await.is_problem(422, "invalid_request");
    assert_eq!(lonely["errors"][0]["field"], "country");

    let first = claim(&shop, &drop, "ada", "k", ask("DE", 12_495)).await;
    assert_eq!((first.status.as_u16(), &first.json()["total"]), (201, &euros(12_495)), "{first:?}");
    let again = claim(&shop, &drop, "ada", "k", ask("DE", 12_495)).await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(again.json(), first.json());
    let told = claim(&shop, &drop, "bob", "k", json!({ "country": "FR", "quantity": 2 })).await;
    assert_eq!((told.status.as_u16(), &told.json()["total"]), (201, &euros(23_800 + 1_200)), "two, shipped together");
    let untold = claim(&shop, &drop, "eve", "k", json!({})).await;
    assert!(untold.status == 201 && untold.json().get("total").is_none(), "{untold:?}");
}

#[tokio::test]
async fn an_order_that_its_address_makes_dearer_says_so_and_takes_an_agreement_once() {
    let (shop, drop) = shop_with_boots().await;
    let profile = json!({
        "payment_method": "pm_card_visa", "email": "ada@example.com",
        "ship_to": { "name": "Ada", "line1": "1 Rue", "city": "Paris", "postal_code": "75001", "country": "FR" }
    });
    let put = shop.http.put(shop.url("/v1/me/checkout-profile")).bearer_auth(token("ada"));
    assert_eq!(send(put.json(&profile)).await.status, 200);
    let told = json!({ "country": "DE", "accepted_total": euros(12_495) });
    let id = claim(&shop, &drop, "ada", "k", told).await.json()["claim_id"].as_str().unwrap().to_owned();
    settle_all(&shop.engine).await.unwrap();
    let place = format!("/v1/orders/{id}");
    let waiting = shop.get("ada", &place).await.json();
    assert_eq!((&waiting["status"], &waiting["payment"]), (&json!("PENDING_PAYMENT"), &json!("REQUIRED")));
    assert_eq!(waiting["total_to_accept"], json!({ "accepted": euros(12_495), "total": euros(13_100) }));
    assert_eq!(waiting["links"]["accept_total"], format!("{place}/accept-total"));
    assert!(waiting["links"].get("payment").is_none(), "{waiting}");
    let post = async |path: &str, key: &str, body: Value| {
        let request = shop.http.request(Method::POST, shop.url(&format!("{place}/{path}"))).bearer_auth(token("ada"));
        send(request.header("Idempotency-Key", key).json(&body)).await
    };
    let refused = post("payment", "p", json!({})).await.is_problem(409, "total_not_accepted");
    assert_eq!(refused["total"], euros(13_100));
    let accept = async |key: &str, minor| post("accept-total", key, json!({ "accepted_total": euros(minor) })).await;
    let changed = accept("a", 12_495).await.is_problem(409, "price_changed");
    assert_eq!(changed["total"], euros(13_100));
    let accepted = accept("a", 13_100).await;
    assert_eq!((accepted.status.as_u16(), accepted.header("idempotent-replayed")), (202, None), "{accepted:?}");
    let accepted = accepted.json();
    assert_eq!((&accepted["payment"], &accepted["total_to_accept"]), (&json!("IN_FLIGHT"), &Value::Null));
    let again = accept("a", 13_100).await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (202, Some("true")));
    accept("a", 12_495).await.is_problem(422, "key_reused");
    accept("b", 13_100).await.is_problem(409, "acceptance_not_required");
    post("accept-total", "c", json!({})).await.is_problem(422, "invalid_request");
}

#[tokio::test]
async fn the_catalog_says_what_its_products_cost_in_a_country() {
    let (shop, drop) = shop_with_boots().await;
    let items = async |query: &str| send(shop.http.get(shop.url(&format!("/v1/products{query}")))).await.json();
    let all = items("?country=DE").await;
    let of = |page: &Value, name: &str| {
        let products = page["items"].as_array().unwrap();
        products.iter().find(|product| product["name"] == name).unwrap()["variants"][0].clone()
    };
    assert_eq!(of(&all, "Boot")["whole_price"]["total"], euros(12_495), "{drop} includes tax");
    // The other drop has terms of its own, which are before tax.
    assert_eq!(of(&all, "Shoe")["whole_price"]["total"], euros(18_314));
    let there = items("?country=CH").await;
    assert!(of(&there, "Boot").get("whole_price").is_none(), "nothing of it is sent there");
    assert_eq!(of(&there, "Shoe")["whole_price"]["total"], euros(18_314));
    assert!(of(&items("").await, "Shoe").get("whole_price").is_none());
    send(shop.http.get(shop.url("/v1/products?country=Germany"))).await.is_problem(422, "invalid_request");
}
