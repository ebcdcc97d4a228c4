//! The form of requests and answers: headers, versions, keys.

use std::collections::HashSet;
use std::num::NonZeroU32;

use doorbuster_sandbox::provider::FakeProviderOptions;
use reqwest::Method;
use serde_json::json;

use super::{INTENT, INTENTS, Shop, send};

#[tokio::test]
async fn every_answer_has_a_request_id_and_echoes_its_version() {
    let shop = Shop::open(FakeProviderOptions::default()).await;
    let mut ids = HashSet::new();
    for (version, status) in
        [("2024-06-20", 200), ("2026-10-28.endive", 200), ("2026-10-28", 400), ("2020-08-27", 400), ("", 400)]
    {
        let answer = send(shop.request(Method::GET, INTENTS).header("stripe-version", version)).await.unwrap();
        assert_eq!(answer.status, status, "{version}: {}", answer.text);
        assert_eq!(answer.header("stripe-version"), (status == 200).then_some(version));
        assert!(ids.insert(answer.header("request-id").unwrap().to_owned()));
    }
    // Without one it is the account's.
    assert_eq!(shop.get(INTENTS).await.header("stripe-version"), Some("2024-06-20"));
    let stranger = shop.http.get(format!("{}{INTENTS}", shop.fake.url()));
    let stranger = send(stranger).await.unwrap();
    assert_eq!((stranger.status, stranger.header("request-id").is_some()), (401, true));
}

#[tokio::test]
async fn an_intent_reads_as_its_version_says() {
    let shop = Shop::open(FakeProviderOptions::default()).await;
    let id = shop.post(INTENTS, INTENT).await.id();
    for (version, has) in [("2024-06-20", false), ("2026-10-28.endive", true)] {
        let read = shop.request(Method::GET, &format!("{INTENTS}/{id}")).header("stripe-version", version);
        let intent = send(read).await.unwrap().json();
        assert_eq!(intent.get("allowed_payment_method_types").is_some(), has, "{intent}");
        // Whole objects: what is empty is there too.
        for name in ["review", "customer", "shipping", "transfer_group", "canceled_at"] {
            assert!(intent.get(name).is_some_and(serde_json::Value::is_null), "{name}: {intent}");
        }
    }
}

#[tokio::test]
async fn a_post_is_form_encoded_and_a_get_has_no_body() {
    let shop = Shop::open(FakeProviderOptions::default()).await;
    let with_json = shop.request(Method::POST, INTENTS).header("content-type", "application/json");
    let without_kind = shop.request(Method::POST, INTENTS).body(INTENT);
    let get_with_body = shop.request(Method::GET, INTENTS).body("limit=1");
    for request in [with_json.body(json!({ "amount": 100 }).to_string()), without_kind, get_with_body] {
        let answer = send(request).await.unwrap();
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    assert!(shop.fake.intents().is_empty());
    for (method, path) in [(Method::PUT, INTENTS), (Method::GET, "/v1/plans"), (Method::GET, "/v2/core/events")] {
        let answer = send(shop.request(method, path)).await.unwrap();
        assert_eq!(answer.status, 404, "{}", answer.text);
    }
    let refused = shop.post(INTENTS, "amount=1.5&currency=eur").await.json();
    let expected = json!({ "error": { "type": "invalid_request_error", "code": "parameter_invalid_integer",
        "param": "amount", "message": "Invalid integer: 1.5" } });
    assert_eq!(refused, expected);
}

#[tokio::test]
async fn a_key_replays_its_first_answer_and_says_so_on_every_endpoint() {
    let shop = Shop::open(FakeProviderOptions::default()).await;
    let customer = shop.post_with_key("/v1/customers", "c", "name=Ada").await.unwrap();
    let method = shop.fake.new_payment_method("pm_card_visa").unwrap();
    let (attach, customer) = (format!("/v1/payment_methods/{method}/attach"), format!("customer={}", customer.id()));
    let session = format!("mode=setup&currency=eur&success_url=https://shop.example&{customer}");
    for (path, form) in [
        ("/v1/customers", "name=Eve"),
        (INTENTS, INTENT),
        (attach.as_str(), customer.as_str()),
        ("/v1/setup_intents", customer.as_str()),
        ("/v1/checkout/sessions", session.as_str()),
    ] {
        let key = format!("key of {path}");
        let first = shop.post_with_key(path, &key, form).await.unwrap();
        assert_eq!((first.status, first.header("idempotent-replayed")), (200, None), "{}", first.text);
        let again = shop.post_with_key(path, &key, form).await.unwrap();
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{path}");
        assert_eq!(again.text, first.text);
        assert_eq!(again.header("original-request"), first.header("request-id"));
        assert_ne!(again.header("request-id"), first.header("request-id"));
        let other = shop.post_with_key(path, &key, &format!("{form}&metadata[a]=1")).await.unwrap();
        assert_eq!((other.status, &other.json()["error"]["type"]), (400, &json!("idempotency_error")));
    }
    // What was refused before it began leaves its key free; a decline does not.
    assert_eq!(shop.post_with_key(INTENTS, "wrong", "amount=100").await.unwrap().status, 400);
    let right = shop.post_with_key(INTENTS, "wrong", INTENT).await.unwrap();
    assert_eq!(right.status, 200);
    let confirm = format!("{INTENTS}/{}/confirm", right.id());
    for replayed in [None, Some("true")] {
        let declined = shop.post_with_key(&confirm, "d", "payment_method=pm_card_chargeDeclined").await.unwrap();
        assert_eq!((declined.status, declined.header("idempotent-replayed")), (402, replayed));
    }
}

#[tokio::test]
async fn the_account_has_a_limit_and_each_endpoint_another() {
    let one = NonZeroU32::new(1);
    let by_endpoint = FakeProviderOptions { requests_per_second_of_endpoint_max: one, ..Default::default() };
    let of_account = FakeProviderOptions { requests_per_second_max: one, ..Default::default() };
    for (options, reason) in [(by_endpoint, "endpoint-rate"), (of_account, "global-rate")] {
        let shop = Shop::open(options).await;
        // The limit is one of time: on a slow machine a second may pass between two requests.
        let mut asked = 0;
        let limited = loop {
            let answer = shop.get(INTENTS).await;
            if answer.status != 200 {
                break answer;
            }
            asked += 1;
            assert!(asked < 100, "nothing is limited");
        };
        assert_eq!((limited.short().as_str(), limited.header("retry-after")), ("429 rate_limit", Some("1")));
        assert_eq!(limited.header("stripe-rate-limited-reason"), Some(reason));
        assert_eq!(shop.fake.fault_counts().rate_limited, 1);
        if reason == "endpoint-rate" {
            assert_eq!(shop.get("/v1/refunds").await.status, 200, "another endpoint is another limit");
        }
    }
}
