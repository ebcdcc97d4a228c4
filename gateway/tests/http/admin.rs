//! The operators' API: who may use it, and what is there.

use std::collections::BTreeSet;

use doorbuster::operators::OperatorTokens;
use doorbuster::{GatewayConfig, Secret};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::shop::{Shop, send, shop, shop_with};
use crate::support::{SECRET, Sale, token};

pub(crate) const ADA: &str = "the-secret-of-ada-which-is-long-enough";
const BOB: &str = "the-secret-of-bob-which-is-long-enough";

pub(crate) fn config_with_operators() -> GatewayConfig {
    let tokens = [("ada", ADA), ("bob", BOB)].map(|(name, secret)| Secret::from(format!("{name}={secret}")));
    let operators = OperatorTokens { operator_tokens: tokens.into() }.check().unwrap();
    GatewayConfig { operators, ..GatewayConfig::on_free_ports(SECRET) }
}

pub(crate) async fn shop_with_operators() -> Shop {
    shop_with(Sale::default(), config_with_operators()).await
}

impl Shop {
    pub(crate) fn ops_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.ops_addr)
    }

    /// A request of the operator ada.
    pub(crate) fn ada(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.ops_url(path)).bearer_auth(ADA)
    }
}

/// Every route of the operators' listener, with something in place of what is variable.
async fn routes(shop: &Shop) -> Vec<(Method, String)> {
    let description = send(shop.http.get(shop.ops_url("/openapi.json"))).await.json();
    let mut routes = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert_eq!(operation["security"], json!([{ "operator": [] }]), "{method} {path}");
            let filled = path.split('/').map(|part| if part.starts_with('{') { "1" } else { part });
            let filled = filled.collect::<Vec<_>>().join("/");
            routes.push((method.to_uppercase().parse().unwrap(), filled));
        }
    }
    routes
}

#[tokio::test]
async fn an_operator_is_who_his_token_says() {
    let shop = shop_with_operators().await;
    for (secret, name) in [(ADA, "ada"), (BOB, "bob")] {
        let answer = send(shop.http.get(shop.ops_url("/v1/operator")).bearer_auth(secret)).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "name": name })));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    send(shop.ada(Method::DELETE, "/v1/operator")).await.is_problem(405, "method_not_allowed");
    send(shop.ada(Method::GET, "/v1/nothing")).await.is_problem(404, "not_found");
}

#[tokio::test]
async fn without_configured_operators_every_route_says_what_to_set() {
    let shop = shop(Sale::default()).await;
    for (method, path) in routes(&shop).await {
        for bearer in ["", ADA, &token("ada")] {
            let answer = send(shop.http.request(method.clone(), shop.ops_url(&path)).bearer_auth(bearer)).await;
            let problem = answer.is_problem(403, "operators_off");
            assert!(problem["detail"].as_str().unwrap().contains("DOORBUSTER_OPERATOR_TOKENS"), "{problem}");
        }
    }
    assert_eq!(shop.ops("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_parameter_that_a_route_does_not_have_is_refused() {
    let shop = shop_with_operators().await;
    for (method, path) in routes(&shop).await {
        let answer = send(shop.ada(method.clone(), &format!("{path}?email=nobody%40example.com"))).await;
        let problem = answer.is_problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], "email", "{method} {path}");
        let stranger = shop.http.request(method, shop.ops_url(&format!("{path}?email=x")));
        send(stranger).await.is_problem(401, "token_missing");
    }
    assert_eq!(send(shop.ada(Method::GET, "/v1/orders?buyer=ada&limit=1")).await.status, 200);
}

#[tokio::test]
async fn what_only_operators_may_do_is_absent_from_the_public_listener() {
    let shop = shop_with_operators().await;
    let public = send(shop.http.get(shop.url("/openapi.json"))).await.json();
    let public = public["paths"].as_object().unwrap();
    let mut shared = BTreeSet::new();
    let operators = send(shop.http.get(shop.ops_url("/openapi.json"))).await.json();
    for (path, methods) in operators["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            if public.get(path).is_some_and(|public| public.get(method).is_some()) {
                shared.insert(format!("{method} {path}"));
                continue;
            }
            let filled = path.split('/').map(|part| if part.starts_with('{') { "1" } else { part });
            let url = shop.url(&filled.collect::<Vec<_>>().join("/"));
            let answer = send(shop.http.request(method.to_uppercase().parse().unwrap(), url).bearer_auth(ADA)).await;
            assert!([404, 405].contains(&answer.status.as_u16()), "{method} {path}: {answer:?}");
        }
    }
    // Read by everybody, each from his own side; and a buyer may cancel his own order.
    shared.remove("post /v1/orders/{id}/cancel");
    assert!(shared.iter().all(|route| route.starts_with("get ")), "{shared:?}");
}

#[tokio::test]
async fn stock_is_changed_once_for_each_key_and_leaves_its_history() {
    let shop = shop_with_operators().await;
    let adjust = async |key: &str, sku: &str, warehouse: &str, delta: i64| {
        let body = json!({ "sku": sku, "warehouse": warehouse, "delta": delta, "reason": "delivery 17" });
        send(shop.ada(Method::POST, "/v1/stock/adjustments").header("idempotency-key", key).json(&body)).await
    };
    let warehouse = |code: &str| shop.ada(Method::POST, "/v1/warehouses").json(&json!({ "code": code }));
    assert_eq!(send(warehouse("berlin")).await.status, 201);
    assert_eq!(send(warehouse("berlin")).await.status, 200);
    assert_eq!(send(warehouse("aachen")).await.status, 201);
    send(warehouse("Köln")).await.is_problem(422, "invalid_request");

    let first = adjust("k1", "shoe-42", "berlin", 10).await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!((&first.json()["available"], &first.json()["actor"]), (&json!(10), &json!("ada")));
    let again = adjust("k1", "shoe-42", "berlin", 10).await;
    assert_eq!((again.text.as_str(), again.header("idempotent-replayed")), (first.text.as_str(), Some("true")));
    adjust("k1", "shoe-42", "berlin", 11).await.is_problem(422, "key_reused");
    adjust("k2", "shoe-43", "berlin", 1).await.is_problem(404, "sku_not_found");
    adjust("k2", "shoe\u{0}", "berlin", 1).await.is_problem(404, "sku_not_found");
    adjust("k2", "shoe-42", "paris", 1).await.is_problem(404, "warehouse_not_found");
    let of_drop = adjust("k2", "shoe-42", &shop.drop, 1).await.is_problem(409, "stock_of_drop");
    assert!(of_drop["detail"].as_str().unwrap().contains("drop restock"), "{of_drop}");
    adjust("k2", "shoe-42", "berlin", 0).await.is_problem(422, "invalid_request");
    adjust("k2", "shoe-42", "berlin", i64::MIN).await.is_problem(422, "invalid_request");
    adjust("k2", "shoe-42", "berlin", i64::MAX).await.is_problem(422, "invalid_request");
    let below = adjust("k2", "shoe-42", "berlin", -11).await.is_problem(409, "below_reserved");
    assert_eq!((&below["available"], &below["reserved"]), (&json!(10), &json!(0)));
    // What was refused under its key may be done under it.
    assert_eq!(adjust("k2", "shoe-42", "berlin", -10).await.json()["available"], 0);
    let no_key = json!({ "sku": "shoe-42", "warehouse": "berlin", "delta": 1, "reason": "x" });
    let no_key = send(shop.ada(Method::POST, "/v1/stock/adjustments").json(&no_key)).await;
    no_key.is_problem(400, "idempotency_key_missing");

    let page = send(shop.ada(Method::GET, "/v1/stock/adjustments?limit=1&sku=shoe-42")).await.json();
    assert_eq!(page["items"][0]["delta"], -10);
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = format!("/v1/stock/adjustments?limit=1&sku=shoe-42&cursor={cursor}");
    let page = send(shop.ada(Method::GET, &next)).await.json();
    assert_eq!((&page["items"][0]["delta"], &page["next_cursor"]), (&json!(10), &json!(null)));
    send(shop.ada(Method::GET, "/v1/stock/adjustments?sku=a&sku=b")).await.is_problem(422, "invalid_request");
    send(shop.ada(Method::GET, "/v1/stock/adjustments?sku=%00")).await.is_problem(404, "sku_not_found");
    let warehouses = send(shop.ada(Method::GET, "/v1/warehouses")).await.json();
    assert_eq!(warehouses["items"], json!([{ "code": "aachen" }, { "code": "berlin" }]));
}
