//! Checkout profiles, orders, and paying an order that waits for it.

use doorbuster_engine::workers::settle_all;
use serde_json::{Value, json};

use super::shop::{Shop, send, shop};
use crate::support::{Answer, Sale, token};

const PROFILE: &str = "/v1/me/checkout-profile";

fn profile() -> Value {
    json!({
        "payment_method": "pm_card_visa",
        "email": "ada@example.com",
        "ship_to": { "name": "Ada", "line1": "1 Road", "city": "Köln", "postal_code": "50667", "country": "DE" }
    })
}

async fn put(shop: &Shop, buyer: &str, profile: &Value) -> Answer {
    send(shop.http.put(shop.url(PROFILE)).bearer_auth(token(buyer)).json(profile)).await
}

async fn pay(shop: &Shop, buyer: &str, id: &str) -> Answer {
    pay_with_key(shop, buyer, id, "pay").await
}

async fn pay_with_key(shop: &Shop, buyer: &str, id: &str, key: &str) -> Answer {
    let request = shop.http.post(shop.url(&format!("/v1/orders/{id}/payment"))).bearer_auth(token(buyer));
    send(request.header("Idempotency-Key", key)).await
}

/// A settled order of `ada`.
async fn order(shop: &Shop) -> String {
    let id = shop.claim("ada", "k", 1).await.json()["claim_id"].as_str().unwrap().to_owned();
    settle_all(&shop.engine).await.unwrap();
    id
}

#[tokio::test]
async fn a_profile_is_kept_as_it_was_given() {
    let shop = shop(Sale::default()).await;
    send(shop.http.get(shop.url(PROFILE)).bearer_auth(token("ada"))).await.is_problem(404, "profile_not_found");
    for change in [None, Some("2nd floor")] {
        let mut given = profile();
        if let Some(line2) = change {
            given["ship_to"]["line2"] = json!(line2);
        }
        let saved = put(&shop, "ada", &given).await;
        assert_eq!((saved.status.as_u16(), saved.json()), (200, given.clone()));
        assert_eq!(shop.get("ada", PROFILE).await.json(), given);
    }
    shop.get("eve", PROFILE).await.is_problem(404, "profile_not_found");
}

#[tokio::test]
async fn addresses_are_taken_as_people_write_them() {
    let shop = shop(Sale::default()).await;
    let given =
        |email: &str, ship_to: Value| json!({ "payment_method": "pm_card_visa", "email": email, "ship_to": ship_to });
    let table = [
        (
            given(
                " bob@example.com ",
                json!({ "name": "Bob ", "line1": " 1 Main St", "line2": "", "city": "Palo Alto",
                "state": " CA", "postal_code": "94301", "country": "US" }),
            ),
            given(
                "bob@example.com",
                json!({ "name": "Bob", "line1": "1 Main St", "city": "Palo Alto", "state": "CA",
                "postal_code": "94301", "country": "US" }),
            ),
        ),
        (
            given(
                "zoe@münchen.example",
                json!({ "name": "陳大文", "line1": "1 Queen's Road", "city": "Hong Kong",
                "state": "", "postal_code": "", "country": "HK" }),
            ),
            given(
                "zoe@münchen.example",
                json!({ "name": "陳大文", "line1": "1 Queen's Road", "city": "Hong Kong",
                "country": "HK" }),
            ),
        ),
    ];
    for (given, kept) in table {
        let saved = put(&shop, "ada", &given).await;
        assert_eq!((saved.status.as_u16(), saved.json()), (200, kept.clone()));
        assert_eq!(shop.get("ada", PROFILE).await.json(), kept);
    }
    let mut british = profile();
    british["ship_to"]["country"] = json!("UK");
    let problem = put(&shop, "ada", &british).await.is_problem(422, "invalid_request");
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("GB"), "{problem}");
}

#[tokio::test]
async fn a_profile_that_does_not_fit_names_every_field_and_is_not_kept() {
    let shop = shop(Sale::default()).await;
    let table = [
        ("payment_method", json!("")),
        ("payment_method", json!("pm_card visa")),
        ("payment_method", json!("4242424242424242")),
        ("payment_method", json!("p".repeat(256))),
        ("email", json!("ada")),
        ("email", json!(format!("ada@{}.com", "a".repeat(254)))),
        ("ship_to.name", json!("")),
        ("ship_to.name", json!("a".repeat(129))),
        ("ship_to.line1", json!("1 Road\nBcc: x")),
        ("email", json!("a..b@example.com")),
        ("email", json!("a\u{200b}@example.com")),
        ("email", json!("a@1.1")),
        ("ship_to.name", json!("  ")),
        ("ship_to.name", json!("Ada\u{202e}")),
        ("ship_to.city", json!("K\u{200b}öln")),
        ("ship_to.state", json!("a".repeat(129))),
        ("ship_to.postal_code", json!("5".repeat(17))),
        ("ship_to.postal_code", json!("")),
        ("ship_to.postal_code", json!(null)),
        ("ship_to.country", json!("UK")),
        ("ship_to.country", json!("de")),
        ("ship_to.country", json!("XX")),
        ("ship_to.country", json!("DEU")),
        ("ship_to.planet", json!("Earth")),
        ("status", json!("paid")),
        ("ship_to", json!("1 Road")),
        ("ship_to.city", json!(7)),
    ];
    for (field, value) in table {
        let mut given = profile();
        let place = field.split('.').fold(&mut given, |place, part| &mut place[part]);
        *place = value;
        let problem = put(&shop, "ada", &given).await.is_problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let mut given = profile();
    given["email"] = json!("ada");
    given["ship_to"]["country"] = json!("XX");
    let problem = put(&shop, "ada", &given).await.is_problem(422, "invalid_request");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2);
    given["ship_to"]["name"] = json!("a".repeat(9_000));
    put(&shop, "ada", &given).await.is_problem(413, "body_too_large");
    shop.get("ada", PROFILE).await.is_problem(404, "profile_not_found");
}

#[tokio::test]
async fn an_order_that_waits_for_a_payment_takes_the_profile_once() {
    let shop = shop(Sale::default()).await;
    let id = order(&shop).await;
    let waiting = shop.get("ada", &format!("/v1/orders/{id}")).await.json();
    assert_eq!((&waiting["status"], &waiting["payment"]), (&json!("PENDING_PAYMENT"), &json!("REQUIRED")));
    assert_eq!(waiting["links"]["payment"], format!("/v1/orders/{id}/payment"));
    assert_eq!(waiting["subtotal"], json!({ "amount_minor": 14_900, "currency": "EUR" }));
    assert_eq!(waiting["total"]["amount_minor"], 14_900 + 2_831 + 490 + 93);

    pay(&shop, "ada", &id).await.is_problem(409, "checkout_profile_missing");
    put(&shop, "ada", &profile()).await;
    pay(&shop, "eve", &id).await.is_problem(404, "order_not_found");
    let paying = pay(&shop, "ada", &id).await;
    assert_eq!(paying.status, 202, "{paying:?}");
    assert_eq!(paying.json()["payment"], "IN_FLIGHT");
    assert_eq!(paying.json()["ship_to"], profile()["ship_to"]);
    assert!(paying.json()["links"]["payment"].is_null());
    let again = pay(&shop, "ada", &id).await;
    assert_eq!(
        (again.status.as_u16(), &again.text, again.header("idempotent-replayed")),
        (202, &paying.text, Some("true"))
    );
    assert_eq!(paying.header("idempotent-replayed"), None);
    pay_with_key(&shop, "ada", &id, "another-click").await.is_problem(409, "payment_not_required");
    assert_eq!(shop.get("ada", &format!("/v1/orders/{id}")).await.text, paying.text);
}

#[tokio::test]
async fn paying_needs_a_key() {
    let shop = shop(Sale::default()).await;
    let id = order(&shop).await;
    put(&shop, "ada", &profile()).await;
    let request = shop.http.post(shop.url(&format!("/v1/orders/{id}/payment"))).bearer_auth(token("ada"));
    send(request).await.is_problem(400, "idempotency_key_missing");
    assert_eq!(shop.get("ada", &format!("/v1/orders/{id}")).await.json()["payment"], "REQUIRED");
}

#[tokio::test]
async fn another_buyers_order_is_as_good_as_none() {
    let shop = shop(Sale::default()).await;
    let id = order(&shop).await;
    assert_eq!(shop.get("ada", &format!("/v1/orders/{id}")).await.status, 200);
    let not_his = shop.get("eve", &format!("/v1/orders/{id}")).await;
    let not_there = shop.get("eve", "/v1/orders/01234567-89ab-8def-8123-456789abcdef").await;
    let no_id = shop.get("eve", "/v1/orders/nonsense").await;
    not_his.is_problem(404, "order_not_found");
    assert_eq!((&not_his.text, &not_his.text), (&not_there.text, &no_id.text));
}

#[tokio::test]
async fn an_order_is_cancelled_by_its_buyer_only_and_once() {
    let shop = shop(Sale::default()).await;
    let id = order(&shop).await;
    let cancel = async |buyer: &str| {
        let request = shop.http.post(shop.url(&format!("/v1/orders/{id}/cancel"))).bearer_auth(token(buyer));
        send(request.header("Idempotency-Key", "cancel")).await
    };
    let link = shop.get("ada", &format!("/v1/orders/{id}")).await.json()["links"]["cancel"].clone();
    assert_eq!(link, json!(format!("/v1/orders/{id}/cancel")));
    cancel("eve").await.is_problem(404, "order_not_found");
    let cancelled = cancel("ada").await;
    assert_eq!((cancelled.status.as_u16(), cancelled.header("idempotent-replayed")), (200, None));
    let body = cancelled.json();
    assert_eq!((&body["status"], &body["payment"]), (&json!("CANCELLED"), &json!("CANCELED")));
    assert_eq!((&body["refunds"], &body["links"]["cancel"]), (&json!([]), &Value::Null));
    let again = cancel("ada").await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (200, Some("true")));
    let no_key = send(shop.http.post(shop.url(&format!("/v1/orders/{id}/cancel"))).bearer_auth(token("ada"))).await;
    no_key.is_problem(400, "idempotency_key_missing");
}
