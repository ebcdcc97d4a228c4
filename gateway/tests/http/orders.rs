//! Checkout profiles, orders, and paying an order that waits for it.

use doorbuster_engine::workers::settle_all;
use serde_json::{Value, json};

use super::shop::{Shop, send, shop};
use crate::support::{Answer, Sale, count, execute, token};

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
        let shown = with_card(&given, "checking");
        assert_eq!((saved.status.as_u16(), saved.json()), (200, shown.clone()));
        assert_eq!(shop.get("ada", PROFILE).await.json(), shown);
    }
    shop.get("eve", PROFILE).await.is_problem(404, "profile_not_found");
}

fn with_card(profile: &Value, card: &str) -> Value {
    let mut shown = profile.clone();
    shown["card"] = json!(card);
    shown
}

#[tokio::test]
async fn a_card_shows_how_it_stands_and_one_that_is_known_to_be_anothers_is_refused_at_once() {
    let shop = shop(Sale::default()).await;
    let mut given = profile();
    given["payment_method"] = json!("pm_hers");
    put(&shop, "eve", &given).await;
    let saved = "update cards set state = 'SAVED', method_id = 'pm_hers', due_at = null";
    execute(&shop.database_url, saved).await;
    assert_eq!(shop.get("eve", PROFILE).await.json(), with_card(&given, "saved"));
    let problem = put(&shop, "ada", &given).await.is_problem(422, "card_needed_again");
    assert!(problem["detail"].as_str().unwrap().contains("somebody else's"), "{problem}");
    shop.get("ada", PROFILE).await.is_problem(404, "profile_not_found");

    given["payment_method"] = json!("pm_used");
    put(&shop, "ada", &given).await;
    let refused = "update cards set state = 'REFUSED', refusal = 'used_before', due_at = null where buyer = 'ada'";
    execute(&shop.database_url, refused).await;
    let mut shown = with_card(&given, "refused");
    shown["card_refusal"] = json!("used_before");
    assert_eq!(shop.get("ada", PROFILE).await.json(), shown);
    put(&shop, "ada", &given).await.is_problem(422, "card_needed_again");

    given.as_object_mut().unwrap().remove("payment_method");
    let without = put(&shop, "ada", &given).await;
    assert_eq!((without.status.as_u16(), without.json()), (200, given.clone()));
    let id = order(&shop).await;
    pay(&shop, "ada", &id).await.is_problem(409, "checkout_card_missing");
    assert_eq!(shop.get("ada", &format!("/v1/orders/{id}")).await.json()["payment"], "REQUIRED");
}

#[tokio::test]
async fn a_page_that_saves_a_card_is_asked_for_once_a_key_and_told_of_by_its_buyer_alone() {
    let shop = shop(Sale::default()).await;
    let setup = format!("{PROFILE}/setup");
    let ask = async |buyer: &str, path: &str, key: &str| {
        let request = shop.http.post(shop.url(path)).bearer_auth(token(buyer));
        send(request.header("Idempotency-Key", key)).await
    };
    let first = ask("ada", &setup, "k").await;
    assert_eq!((first.status.as_u16(), &first.json()["state"]), (202, &json!("asked")), "no worker runs here");
    let opened = "update card_setups set state = 'OPEN', session_id = 'cs_1', url = 'https://pay.example/cs_1'";
    execute(&shop.database_url, opened).await;
    let open = ask("ada", &setup, "k").await;
    assert_eq!((open.status.as_u16(), open.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!((&open.json()["url"], &open.json()["state"]), (&json!("https://pay.example/cs_1"), &json!("open")));
    assert_eq!(open.json()["setup_id"], first.json()["setup_id"]);
    let back = format!("{setup}/{}/return", open.json()["setup_id"].as_str().unwrap());
    ask("eve", &back, "k").await.is_problem(404, "setup_not_found");
    ask("ada", &format!("{setup}/nonsense/return"), "k").await.is_problem(404, "setup_not_found");
    execute(&shop.database_url, "update card_setups set due_at = now() + interval '1 hour'").await;
    assert_eq!(ask("ada", &back, "k").await.json()["state"], "open");
    let due = "select count(*) from card_setups where due_at <= now()";
    assert_eq!(count(&shop.database_url, due).await, 1, "it is read at once");
    let saved = "update card_setups set state = 'SAVED', method_id = 'pm_1', url = null, due_at = null";
    execute(&shop.database_url, saved).await;
    assert_eq!(ask("ada", &back, "k").await.json()["payment_method"], "pm_1");
    send(shop.http.post(shop.url(&setup)).bearer_auth(token("ada"))).await.is_problem(400, "idempotency_key_missing");
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
        let kept = with_card(&kept, "checking");
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
