//! Carts over HTTP: whose they are, what they cost today, and that no tab undoes another's change.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::shop::{Shop, send, shop, shop_with_own_redis};
use crate::support::{Answer, SECRET, Sale, token, until};
use doorbuster::shopper::Sessions;
use doorbuster::{GatewayConfig, Secret};

const CART: &str = "/v1/cart";
const ITEMS: &str = "/v1/cart/items";

/// Who asks: a buyer, or a guest with his session.
enum Who<'a> {
    Buyer(&'a str),
    Guest(&'a str),
}

use Who::{Buyer, Guest};

fn request(shop: &Shop, who: &Who<'_>, method: Method, path: &str) -> RequestBuilder {
    let request = shop.http.request(method, shop.url(path));
    match who {
        Buyer(buyer) => request.bearer_auth(token(buyer)),
        Guest(session) => request.header("Cart-Session", *session),
    }
}

async fn get(shop: &Shop, who: &Who<'_>) -> Answer {
    send(request(shop, who, Method::GET, CART)).await
}

async fn add(shop: &Shop, who: &Who<'_>, key: &str, item: Value) -> Answer {
    send(request(shop, who, Method::POST, ITEMS).header("Idempotency-Key", key).json(&item)).await
}

async fn set(shop: &Shop, who: &Who<'_>, etag: &str, variant: i32, quantity: u32) -> Answer {
    let request = request(shop, who, Method::PUT, &format!("{ITEMS}/{variant}")).header("If-Match", etag);
    send(request.json(&json!({ "quantity": quantity }))).await
}

async fn delete(shop: &Shop, who: &Who<'_>, etag: &str, path: &str) -> Answer {
    send(request(shop, who, Method::DELETE, path).header("If-Match", etag)).await
}

/// The tests share one Redis, in which a buyer has one cart.
fn buyer(shop: &Shop) -> String {
    format!("ada-{}", shop.drop)
}

async fn begin_guest(shop: &Shop) -> String {
    let answer = send(shop.http.post(shop.url("/v1/carts/guest"))).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["cart_session"].as_str().unwrap().to_owned()
}

/// Variant and quantity of each line.
fn lines(answer: &Answer) -> Vec<(i64, i64)> {
    let body = answer.json();
    let lines = body["lines"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    lines.iter().map(|line| (line["variant_id"].as_i64().unwrap(), line["quantity"].as_i64().unwrap())).collect()
}

async fn sql(shop: &Shop, statement: &str) {
    let (client, connection) = tokio_postgres::connect(&shop.database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap();
}

fn two_variants() -> Sale {
    Sale { variants: vec![("shoe-42", 20), ("shoe-43", 20)], ..Sale::default() }
}

#[tokio::test]
async fn a_cart_is_filled_changed_and_emptied() {
    let shop = shop(two_variants()).await;
    let name = buyer(&shop);
    let ada = Buyer(&name);
    let empty = get(&shop, &ada).await;
    assert_eq!((empty.status.as_u16(), empty.header("etag")), (200, Some("\"v0\"")));
    assert_eq!(empty.json(), json!({ "version": 0, "lines": [], "subtotal": null }));

    let added = add(&shop, &ada, "first", json!({ "sku": "shoe-42", "quantity": 2 })).await;
    assert_eq!((added.status.as_u16(), added.header("idempotent-replayed")), (200, None), "{added:?}");
    let line = added.json()["lines"][0].clone();
    let price = json!({ "amount_minor": 14_900, "currency": "EUR" });
    let variant = line["variant_id"].as_i64().unwrap();
    assert_eq!(
        line,
        json!({
            "variant_id": variant, "quantity": 2, "price_at_add": price, "status": "for_sale", "sku": "shoe-42",
            "title": "Shoe shoe-42", "product": "Shoe", "price": price, "price_changed": false
        })
    );
    assert_eq!(added.json()["subtotal"]["amount_minor"], 29_800);
    assert_eq!(added.header("etag").unwrap(), format!("\"v{}\"", added.json()["version"]));

    let again = add(&shop, &ada, "first", json!({ "sku": "shoe-42", "quantity": 2 })).await;
    assert_eq!((&again.text, again.header("idempotent-replayed")), (&added.text, Some("true")));
    add(&shop, &ada, "first", json!({ "sku": "shoe-42", "quantity": 3 })).await.is_problem(422, "key_reused");
    let more = add(&shop, &ada, "second", json!({ "variant_id": variant, "quantity": 3 })).await;
    assert_eq!(lines(&more), [(variant, 5)]);

    // Another tab still shows the first version.
    let (old, new) = (added.header("etag").unwrap(), more.header("etag").unwrap());
    set(&shop, &ada, old, variant as i32, 9).await.is_problem(412, "precondition_failed");
    let fewer = set(&shop, &ada, new, variant as i32, 1).await;
    assert_eq!((fewer.status.as_u16(), lines(&fewer)), (200, vec![(variant, 1)]));
    delete(&shop, &ada, new, CART).await.is_problem(412, "precondition_failed");
    let path = format!("{ITEMS}/{variant}");
    let out = delete(&shop, &ada, fewer.header("etag").unwrap(), &path).await;
    assert_eq!((out.status.as_u16(), lines(&out)), (200, vec![]));
    delete(&shop, &ada, "*", &path).await.is_problem(404, "cart_line_not_found");
    let emptied = delete(&shop, &ada, "*", CART).await;
    assert_eq!((emptied.status.as_u16(), lines(&emptied)), (200, vec![]));
    set(&shop, &ada, new, variant as i32, 9).await.is_problem(412, "precondition_failed");
    assert_eq!(lines(&get(&shop, &ada).await), []);
}

#[tokio::test]
async fn what_does_not_fit_is_told() {
    let shop = shop(two_variants()).await;
    let name = buyer(&shop);
    let ada = Buyer(&name);
    for (item, status, code) in [
        (json!({ "sku": "nothing", "quantity": 1 }), 404, "variant_not_found"),
        (json!({ "sku": "a\u{0}b", "quantity": 1 }), 404, "variant_not_found"),
        (json!({ "variant_id": 99, "quantity": 1 }), 404, "variant_not_found"),
        (json!({ "sku": "shoe-42", "quantity": 0 }), 422, "invalid_request"),
        (json!({ "sku": "shoe-42", "quantity": 1_000 }), 422, "invalid_request"),
        (json!({ "quantity": 1 }), 422, "invalid_request"),
        (json!({ "sku": "shoe-42", "variant_id": 1, "quantity": 1 }), 422, "invalid_request"),
        (json!({ "sku": "shoe-42", "quantity": 1, "price": 1 }), 422, "invalid_request"),
    ] {
        add(&shop, &ada, "key", item).await.is_problem(status, code);
    }
    let added = add(&shop, &ada, "key", json!({ "sku": "shoe-42", "quantity": 990 })).await;
    let variant = added.json()["lines"][0]["variant_id"].as_i64().unwrap() as i32;
    let over = add(&shop, &ada, "more", json!({ "sku": "shoe-42", "quantity": 10 })).await;
    assert_eq!(over.is_problem(409, "quantity_limit")["limit"], 999);
    let no_key = request(&shop, &ada, Method::POST, ITEMS).json(&json!({ "sku": "shoe-42", "quantity": 1 }));
    send(no_key).await.is_problem(400, "idempotency_key_missing");
    let path = format!("{ITEMS}/{variant}");
    let no_match = request(&shop, &ada, Method::PUT, &path).json(&json!({ "quantity": 1 }));
    send(no_match).await.is_problem(428, "precondition_required");
    send(request(&shop, &ada, Method::DELETE, CART)).await.is_problem(428, "precondition_required");
    set(&shop, &ada, "*", 99, 1).await.is_problem(404, "variant_not_found");
    assert_eq!(get(&shop, &ada).await.text, added.text);
}

#[tokio::test]
async fn a_cart_is_its_owners_and_nobody_elses() {
    let shop = shop(two_variants()).await;
    let item = json!({ "sku": "shoe-42", "quantity": 1 });
    let (session, other) = (begin_guest(&shop).await, begin_guest(&shop).await);
    assert_ne!(session, other);
    for who in [Buyer(&buyer(&shop)), Guest(&session)] {
        assert_eq!(add(&shop, &who, "key", item.clone()).await.status, 200);
        assert_eq!(lines(&get(&shop, &who).await).len(), 1);
    }
    for who in [Buyer("eve"), Guest(&other)] {
        assert_eq!(lines(&get(&shop, &who).await), []);
    }
    // A token that is no good does not fall back to the session beside it.
    let both = shop.http.get(shop.url(CART)).header("Cart-Session", &session);
    send(both.try_clone().unwrap().bearer_auth("nonsense")).await.is_problem(401, "token_invalid");
    assert_eq!(lines(&send(both.bearer_auth(token("eve"))).await), []);
    send(shop.http.get(shop.url(CART))).await.is_problem(401, "token_missing");
    for bad in ["short", &"x".repeat(25), "cart:{u:ada}aaaaaaaaaaaa"] {
        get(&shop, &Guest(bad)).await.is_problem(400, "cart_session_invalid");
    }
    let twice = request(&shop, &Guest(&session), Method::GET, CART).header("Cart-Session", &other);
    send(twice).await.is_problem(400, "cart_session_invalid");
}

#[tokio::test]
async fn a_session_that_was_never_given_out_fills_no_cart_and_is_merged_into_none() {
    let shop = shop(two_variants()).await;
    let given = begin_guest(&shop).await;
    let of_another_shop =
        Sessions::new(&Secret::from("the secret of another shop, as long as ours".to_owned())).begin();
    let name = buyer(&shop);
    // The part that names the cart alone is what an earlier program gave out.
    let (cart, signature) = given.split_at(24);
    for made_up in
        [cart, &format!("{}{signature}", "x".repeat(24)), &format!("{cart}{}", "A".repeat(22)), &of_another_shop]
    {
        let item = json!({ "sku": "shoe-42", "quantity": 1 });
        add(&shop, &Guest(made_up), "key", item).await.is_problem(400, "cart_session_invalid");
        get(&shop, &Guest(made_up)).await.is_problem(400, "cart_session_invalid");
        let merge = request(&shop, &Buyer(&name), Method::POST, "/v1/cart/merge").header("Cart-Session", made_up);
        send(merge.header("Idempotency-Key", "login")).await.is_problem(400, "cart_session_invalid");
    }
    assert_eq!(get(&shop, &Guest(&given)).await.status, 200);
}

#[tokio::test]
async fn a_guest_who_logs_in_finds_his_lines_in_his_own_cart() {
    let shop = shop(two_variants()).await;
    let session = begin_guest(&shop).await;
    let name = buyer(&shop);
    let (ada, guest) = (Buyer(&name), Guest(&session));
    add(&shop, &guest, "a", json!({ "sku": "shoe-42", "quantity": 5 })).await;
    add(&shop, &guest, "b", json!({ "sku": "shoe-43", "quantity": 1 })).await;
    add(&shop, &ada, "c", json!({ "sku": "shoe-42", "quantity": 2 })).await;
    let merge = async || {
        let request = request(&shop, &ada, Method::POST, "/v1/cart/merge");
        send(request.header("Cart-Session", &session).header("Idempotency-Key", "login")).await
    };
    let merged = merge().await;
    let cart = get(&shop, &ada).await;
    assert_eq!(lines(&cart).iter().map(|line| line.1).collect::<Vec<_>>(), [5, 1]);
    assert_eq!(merged.json(), json!({ "cart": cart.json(), "clamped": [], "left_out": [] }));
    assert_eq!(merged.header("etag"), cart.header("etag"));
    assert_eq!(lines(&get(&shop, &guest).await), []);
    assert_eq!(merge().await.text, merged.text);
    let no_session = request(&shop, &ada, Method::POST, "/v1/cart/merge").header("Idempotency-Key", "login");
    send(no_session).await.is_problem(400, "cart_session_invalid");
    let no_buyer = request(&shop, &guest, Method::POST, "/v1/cart/merge").header("Idempotency-Key", "login");
    send(no_buyer).await.is_problem(401, "token_missing");
}

#[tokio::test]
async fn a_price_or_a_variant_that_changes_is_seen_within_two_seconds() {
    let shop = shop(two_variants()).await;
    let name = buyer(&shop);
    let ada = Buyer(&name);
    let item = json!({ "sku": "shoe-42", "quantity": 2 });
    add(&shop, &ada, "a", item.clone()).await;
    sql(&shop, "update drop_variants set price_minor = 15900").await;
    until("the new price is shown", async || {
        let line = get(&shop, &ada).await.json()["lines"][0].clone();
        let prices = (line["price_at_add"]["amount_minor"].as_i64(), line["price"]["amount_minor"].as_i64());
        assert_eq!(line["price_changed"], json!(prices.1 == Some(15_900)), "{line}");
        assert_eq!(prices.0, Some(14_900), "what was shown then stays");
        prices.1 == Some(15_900)
    })
    .await;
    assert_eq!(get(&shop, &ada).await.json()["subtotal"]["amount_minor"], 31_800);
    sql(&shop, "update variants set active = false where sku = 'shoe-42'").await;
    until("it is not for sale", async || get(&shop, &ada).await.json()["lines"][0]["status"] == "not_for_sale").await;
    add(&shop, &ada, "b", item).await.is_problem(409, "not_for_sale");
    let cart = get(&shop, &ada).await;
    assert_eq!(cart.json()["subtotal"], Value::Null, "{cart:?}");
    let variant = cart.json()["lines"][0]["variant_id"].as_i64().unwrap() as i32;
    set(&shop, &ada, cart.header("etag").unwrap(), variant, 1).await.is_problem(409, "not_for_sale");
    let path = format!("{ITEMS}/{variant}");
    assert_eq!(delete(&shop, &ada, cart.header("etag").unwrap(), &path).await.status, 200);
}

#[tokio::test]
async fn a_cart_is_in_the_export_and_goes_with_its_buyer() {
    let shop = shop(two_variants()).await;
    let name = buyer(&shop);
    let ada = Buyer(&name);
    assert_eq!(shop.get(&name, "/v1/me/export").await.json()["cart"], Value::Null);
    let added = add(&shop, &ada, "a", json!({ "sku": "shoe-42", "quantity": 2 })).await;
    assert_eq!(shop.get(&name, "/v1/me/export").await.json()["cart"], added.json());
    let erase = shop.http.delete(shop.url("/v1/me")).bearer_auth(token(&name)).header("Idempotency-Key", "gone");
    assert_eq!(send(erase).await.status, 200);
    let gone = get(&shop, &ada).await;
    assert_eq!(gone.header("etag"), Some("\"v0\""), "{gone:?}");
}

#[tokio::test]
async fn without_redis_nothing_is_promised() {
    let (shop, redis) = shop_with_own_redis(GatewayConfig::on_free_ports(SECRET)).await;
    let name = buyer(&shop);
    let ada = Buyer(&name);
    let item = json!({ "sku": "shoe-42", "quantity": 2 });
    let before = add(&shop, &ada, "a", item.clone()).await;
    redis.kill();
    add(&shop, &ada, "b", item.clone()).await.is_problem(503, "unavailable");
    get(&shop, &ada).await.is_problem(503, "unavailable");
    redis.restart().await.unwrap();
    until("the cart is back", async || get(&shop, &ada).await.status == 200).await;
    assert_eq!(get(&shop, &ada).await.text, before.text);
}
