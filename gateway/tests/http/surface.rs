//! What is there, what is not, and what is said about it.

use std::collections::BTreeSet;

use axum::http::HeaderValue;
use doorbuster::GatewayConfig;
use doorbuster_engine::workers::settle_all;
use serde_json::{Value, json};

use super::shop::{send, shop, shop_with, shop_with_own_cluster, shop_with_own_redis};
use crate::support::{SECRET, Sale, token};

#[tokio::test]
async fn a_drop_is_public_but_its_partitioning_is_not() {
    let shop = shop(Sale::default()).await;
    let answer = send(shop.http.get(shop.url(&format!("/v1/drops/{}", shop.drop)))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("public, max-age=1"));
    assert_eq!(
        answer.json(),
        json!({
            "name": shop.drop, "product": "Shoe", "state": "open", "currency": "EUR", "limit": 2,
            "opens_at": null, "closes_at": null, "price_includes_tax": false,
            "variants": [
                { "sku": "shoe-42", "title": "Shoe shoe-42", "price": { "amount_minor": 14_900, "currency": "EUR" } }
            ]
        })
    );
    for path in ["/v1/drops/nothing", "/v1/drops/nothing", "/v1/drops/%7B%7D"] {
        send(shop.http.get(shop.url(path))).await.is_problem(404, "drop_not_found");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let shop = shop(Sale::default()).await;
    for path in ["/", "/v1", "/v1/drops", "/healthz", "/readyz", "/metrics", "/v1/claims/a/b"] {
        send(shop.http.get(shop.url(path))).await.is_problem(404, "not_found");
    }
    let answer = send(shop.http.delete(shop.claims_url()).bearer_auth(token("ada"))).await;
    answer.is_problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    for path in ["/v1/drops/x/claims", "/"] {
        let answer = send(shop.http.get(format!("http://{}{path}", shop.gateway.ops_addr))).await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[tokio::test]
async fn every_answer_carries_a_request_id_and_may_not_be_sniffed() {
    let shop = shop(Sale::default()).await;
    let given = send(shop.http.get(shop.url("/")).header("x-request-id", "from-the-client.1")).await;
    assert_eq!(given.header("x-request-id"), Some("from-the-client.1"));
    for bad in ["with spaces", "", &"x".repeat(65)] {
        let replaced = send(shop.http.get(shop.url("/")).header("x-request-id", bad)).await;
        let id = replaced.header("x-request-id").unwrap();
        assert!(id != bad && id.parse::<uuid::Uuid>().is_ok(), "{id}");
    }
    assert_eq!(given.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(given.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn the_description_lists_every_route_and_code() {
    let shop = shop(Sale::default()).await;
    let description = send(shop.http.get(shop.url("/openapi.json"))).await.json();
    let mut routes = BTreeSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            routes.insert(format!("{} {path}", method.to_uppercase()));
            let is_public = operation["security"] == json!([{}]);
            let is_cart = path.starts_with("/v1/cart/items") || path == "/v1/cart";
            let who = if is_cart { json!([{ "buyer": [] }, { "guest": [] }]) } else { json!([{ "buyer": [] }]) };
            assert!(is_public || operation["security"] == who, "{method} {path}: {operation}");
            assert_eq!(
                is_public,
                [
                    "/v1/carts/guest",
                    "/v1/drops/{drop}",
                    "/v1/drops/{drop}/line/bundle",
                    "/v1/drops/{drop}/line/leaves/{prefix}",
                    "/v1/drops/{drop}/line/rules",
                    "/v1/products",
                    "/v1/products/{id}"
                ]
                .contains(&path.as_str())
                    || (path == "/v1/drops/{drop}/line" && method == "get"),
                "{path}"
            );
        }
    }
    let expected = [
        "DELETE /v1/cart",
        "DELETE /v1/cart/items/{variant}",
        "GET /v1/cart",
        "GET /v1/checkout",
        "POST /v1/checkout",
        "POST /v1/cart/items",
        "POST /v1/cart/merge",
        "POST /v1/carts/guest",
        "PUT /v1/cart/items/{variant}",
        "DELETE /v1/drops/{drop}/line/me",
        "DELETE /v1/drops/{drop}/standby",
        "GET /v1/claims/{id}",
        "GET /v1/drops/{drop}",
        "GET /v1/drops/{drop}/line",
        "GET /v1/drops/{drop}/line/bundle",
        "GET /v1/drops/{drop}/line/leaves/{prefix}",
        "GET /v1/drops/{drop}/line/me",
        "GET /v1/drops/{drop}/line/rules",
        "GET /v1/drops/{drop}/standby",
        "DELETE /v1/me",
        "GET /v1/me/checkout-profile",
        "GET /v1/me/export",
        "GET /v1/orders",
        "GET /v1/products",
        "GET /v1/products/{id}",
        "GET /v1/orders/{id}",
        "GET /v1/orders/{id}/history",
        "GET /v1/orders/{id}/invoice",
        "GET /v1/orders/{id}/credit-notes/{number}",
        "POST /v1/drops/{drop}/claims",
        "POST /v1/drops/{drop}/line",
        "POST /v1/drops/{drop}/standby",
        "PUT /v1/drops/{drop}/line/me",
        "POST /v1/orders/{id}/accept-total",
        "POST /v1/orders/{id}/cancel",
        "POST /v1/orders/{id}/payment",
        "PUT /v1/me/checkout-profile",
        "POST /v1/me/checkout-profile/setup",
        "POST /v1/me/checkout-profile/setup/{id}/return",
    ];
    assert_eq!(routes, expected.map(str::to_owned).into());
    assert_eq!(description["info"]["title"], "Doorbuster");
    assert_eq!(description["components"]["securitySchemes"]["buyer"]["scheme"], "bearer");
    let schemas = &description["components"]["schemas"];
    assert!(schemas["Problem"]["properties"]["code"].is_object(), "{schemas}");
    assert_eq!(schemas["NewClaim"]["additionalProperties"], Value::Bool(false));
    // Every reference leads somewhere.
    let text = description.to_string();
    for reference in text.split(r##""$ref":"#/components/schemas/"##).skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas[name].is_object(), "{name}");
    }
}

#[tokio::test]
async fn descriptions_are_kept_until_they_change() {
    let shop = shop(Sale::default()).await;
    for url in [shop.url("/docs"), shop.url("/openapi.json"), shop.ops_url("/docs"), shop.ops_url("/openapi.json")] {
        let whole = send(shop.http.get(&url)).await;
        let etag = whole.header("etag").unwrap();
        assert_eq!((whole.status.as_u16(), whole.header("cache-control")), (200, Some("public, no-cache")), "{url}");
        let known = send(shop.http.get(&url).header("if-none-match", etag)).await;
        assert_eq!((known.status.as_u16(), known.text.as_str(), known.header("etag")), (304, "", Some(etag)), "{url}");
        let changed = send(shop.http.get(&url).header("if-none-match", "\"another\"")).await;
        assert_eq!(changed.text, whole.text, "{url}");
    }
}

/// What a page may send, what its tracing adds among it.
const ASKED: [&str; 7] =
    ["authorization", "content-type", "idempotency-key", "x-request-id", "traceparent", "baggage", "sentry-trace"];

#[tokio::test]
async fn only_configured_origins_may_call_from_a_page() {
    let mut config = GatewayConfig::on_free_ports(SECRET);
    config.cors_origins = vec![HeaderValue::from_static("https://shop.example")];
    let shop = shop_with(Sale::default(), config).await;
    let preflight = async |origin: &str| {
        let request = shop.http.request(reqwest::Method::OPTIONS, shop.claims_url()).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        send(request.header("access-control-request-headers", ASKED.join(","))).await
    };
    let allowed = preflight("https://shop.example").await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://shop.example"));
    let headers = allowed.header("access-control-allow-headers").unwrap().to_lowercase();
    for name in ASKED {
        assert!(headers.split(',').any(|allowed| allowed.trim() == name), "{name}: {headers}");
    }
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    assert_eq!(preflight("https://evil.example").await.header("access-control-allow-origin"), None);

    let claim = shop.claim_request("ada", "k").header("origin", "https://shop.example").json(&json!({}));
    let exposed = send(claim).await.header("access-control-expose-headers").unwrap().to_lowercase();
    for name in ["location", "retry-after", "idempotent-replayed", "date"] {
        assert!(exposed.contains(name), "{exposed}");
    }
}

#[tokio::test]
async fn without_configured_origins_no_page_may_call() {
    let shop = shop(Sale::default()).await;
    let request = shop.claim_request("ada", "k").header("origin", "https://shop.example").json(&json!({}));
    let answer = send(request).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (201, None));
}

#[tokio::test]
async fn operators_see_health_readiness_and_metrics() {
    let shop = shop(Sale::default()).await;
    assert_eq!(shop.ops("/healthz").await.status, 200);
    let ready = shop.ops("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["status"].as_str()), (200, Some("ready")));

    shop.claim("ada", "k", 1).await;
    shop.claim("ada", "k", 1).await;
    shop.get("ada", "/v1/claims/some-secret-path").await;
    assert_eq!(settle_all(&shop.engine).await.unwrap(), 1);
    let metrics = shop.ops("/metrics").await.text;
    for line in [
        r#"doorbuster_claims_total{outcome="taken"}"#,
        r#"doorbuster_claims_total{outcome="replayed"}"#,
        r#"doorbuster_http_requests_total{route="/v1/drops/{drop}/claims",method="POST",status="201"}"#,
        r#"doorbuster_http_request_seconds_bucket{route="/v1/drops/{drop}/claims",le="0.005"}"#,
        r#"doorbuster_claim_batch_size_bucket{le="256"}"#,
        "doorbuster_claim_queue_seconds_bucket",
        "doorbuster_tx_seconds_bucket",
        "# HELP doorbuster_rebuilds_total Warehouses rebuilt",
        "doorbuster_connections_open ",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("some-secret-path") && !metrics.contains(&shop.drop), "{metrics}");
}

/// A part of Redis is away: the rest of it sells on, and a load balancer must not take the gateway away from it.
#[tokio::test]
async fn a_gateway_is_ready_while_some_of_the_cluster_answers_and_says_which_does_not() {
    let (shop, cluster) = shop_with_own_cluster(GatewayConfig::on_free_ports(SECRET)).await;
    let whole = shop.ops("/readyz").await;
    assert_eq!((whole.status.as_u16(), whole.json()["redis"].as_str()), (200, Some("answers")));
    assert!(whole.json().get("redis_away").is_none(), "{whole:?}");
    let primaries = cluster.primaries().await.unwrap();
    primaries[0].kill();
    let part = shop.ops("/readyz").await;
    assert_eq!((part.status.as_u16(), part.json()["redis"].as_str()), (200, Some("answers in part")), "{part:?}");
    let away = part.json()["redis_away"].clone();
    assert!(away[0].as_str().unwrap().starts_with(&format!("127.0.0.1:{} ", primaries[0].port())), "{part:?}");
    for node in cluster.nodes() {
        node.kill();
    }
    let gone = shop.ops("/readyz").await;
    assert_eq!((gone.status.as_u16(), gone.json()["redis"].as_str()), (503, Some("does not answer")), "{gone:?}");
}

/// Redis is away: alive, not ready, and no buyer hears "sold out".
#[tokio::test]
async fn a_gateway_without_redis_is_alive_but_not_ready() {
    let (shop, redis) = shop_with_own_redis(GatewayConfig::on_free_ports(SECRET)).await;
    redis.kill();
    assert_eq!(shop.ops("/healthz").await.status, 200);
    let ready = shop.ops("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["redis"].as_str()), (503, Some("does not answer")));
    let claim = shop.claim("ada", "k", 1).await;
    assert!([202, 503].contains(&claim.status.as_u16()), "{claim:?}");
    redis.restart().await.unwrap();
    shop.engine.rebuild_fenced().await.unwrap();
    crate::support::until("the claim is taken", async || shop.claim("ada", "k", 1).await.status == 201).await;
    crate::support::until("it is ready", async || shop.ops("/readyz").await.status == 200).await;
}
