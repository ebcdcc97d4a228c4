//! Everything a claim can get wrong: each has its code, and none of it changes anything anywhere.

use doorbuster::GatewayConfig;
use doorbuster_engine::domain::clock::Clock;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::shop::{Shop, send, shop, shop_with};
use crate::support::{SECRET, Sale, token};

type Change = fn(&Shop, RequestBuilder) -> RequestBuilder;

fn signed(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    // Makes sure that the library has its cryptography.
    token("anybody");
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

fn in_seconds(seconds: i64) -> i64 {
    Clock::System.now().as_second() + seconds
}

#[tokio::test]
async fn a_claim_that_does_not_fit_is_refused_and_changes_nothing() {
    let shop = shop(Sale { variants: vec![("shoe-42", 5), ("shoe-43", 5)], ..Sale::default() }).await;
    shop.claim_request("first", "k").json(&json!({ "sku": "shoe-42" })).send().await.unwrap();
    let before = shop.picture().await;

    let json_body = "application/json";
    let bodies: &[(&str, u16, &str, Option<&str>)] = &[
        ("", 400, "malformed_json", None),
        ("{", 400, "malformed_json", None),
        ("nonsense", 400, "malformed_json", None),
        (r#"{"sku":"shoe-42"} "#, 201, "", None),
        (r#"{"sku":"shoe-42"} {}"#, 400, "malformed_json", None),
        (r#"{"sku":"shoe-42","quantity":0}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","quantity":-1}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","quantity":101}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","quantity":257}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","quantity":99999999999999999999999}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","quantity":1.5}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","quantity":1e0}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","quantity":"1"}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","quantity":null}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","quantity":1,"quantity":2}"#, 422, "invalid_request", Some("quantity")),
        (r#"{"sku":"shoe-42","price":1}"#, 422, "invalid_request", Some("price")),
        (r#"{"sku":["shoe-42"]}"#, 422, "invalid_request", Some("sku")),
        (r#"["shoe-42",1]"#, 422, "invalid_request", Some("body")),
        ("{}", 422, "invalid_request", Some("sku")),
        (r#"{"sku":"shoe-99"}"#, 404, "variant_not_found", None),
        (r#"{"sku":""}"#, 404, "variant_not_found", None),
    ];
    for (encoding, is_taken) in [("gzip", false), ("identity, br", false), ("Identity", true)] {
        let request =
            shop.claim_request("ada", "k").header("content-encoding", encoding).json(&json!({ "sku": "none" }));
        let answer = send(request).await;
        let (status, code) = if is_taken { (404, "variant_not_found") } else { (415, "unsupported_encoding") };
        answer.is_problem(status, code);
        assert_eq!(answer.header("accept-encoding"), (!is_taken).then_some("identity"), "{encoding}");
    }
    for (body, status, code, field) in bodies.iter().filter(|row| row.1 != 201) {
        let request = shop.claim_request("ada", "k").header("content-type", json_body).body(*body);
        let problem = send(request).await.is_problem(*status, code);
        let named = problem["errors"].as_array().map(|errors| errors[0]["field"].as_str().unwrap());
        assert_eq!(named, *field, "{body}");
    }

    let good = r#"{"sku":"shoe-42"}"#;
    let long_key = "k".repeat(256);
    let keys = [("", 400, "idempotency_key_invalid"), ("two words", 400, "idempotency_key_invalid")];
    let keys = keys.into_iter().chain([(long_key.as_str(), 400, "idempotency_key_invalid")]);
    for (key, status, code) in keys {
        let request = shop.claim_request("ada", key).header("content-type", json_body).body(good);
        send(request).await.is_problem(status, code);
    }

    let others: &[(&str, u16, &str, Change)] = &[
        ("no key", 400, "idempotency_key_missing", |shop, _| {
            shop.http.post(shop.claims_url()).bearer_auth(token("ada")).json(&json!({ "sku": "shoe-42" }))
        }),
        ("two keys", 400, "idempotency_key_invalid", |_, request| {
            request.header("Idempotency-Key", "another").json(&json!({ "sku": "shoe-42" }))
        }),
        ("a key that is not ASCII", 400, "idempotency_key_invalid", |shop, _| {
            let request = shop.http.post(shop.claims_url()).bearer_auth(token("ada"));
            request.header("Idempotency-Key", "schlüssel").json(&json!({ "sku": "shoe-42" }))
        }),
        ("no content type", 415, "unsupported_media_type", |_, request| request.body(r#"{"sku":"shoe-42"}"#)),
        ("a form", 415, "unsupported_media_type", |_, request| {
            request.header("content-type", "application/x-www-form-urlencoded").body("sku=shoe-42")
        }),
        ("text", 415, "unsupported_media_type", |_, request| {
            request.header("content-type", "text/plain").body(r#"{"sku":"shoe-42"}"#)
        }),
        ("a body of 5 KiB", 413, "body_too_large", |_, request| request.json(&json!({ "sku": "s".repeat(5 * 1024) }))),
        ("a body of 5 KiB, unannounced", 413, "body_too_large", |_, request| {
            let pieces = (0..5).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024]));
            let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
            request.header("content-type", "application/json").body(body)
        }),
        ("an unknown drop", 404, "drop_not_found", |shop, _| {
            let request = shop.http.post(shop.url("/v1/drops/nothing/claims")).bearer_auth(token("ada"));
            request.header("Idempotency-Key", "k").json(&json!({}))
        }),
        ("a drop that cannot be", 404, "drop_not_found", |shop, _| {
            let request = shop.http.post(shop.url("/v1/drops/a%7Bb%7D/claims")).bearer_auth(token("ada"));
            request.header("Idempotency-Key", "k").json(&json!({}))
        }),
        ("a path that is not UTF-8", 404, "not_found", |shop, _| {
            let request = shop.http.post(shop.url("/v1/drops/%ff/claims")).bearer_auth(token("ada"));
            request.header("Idempotency-Key", "k").json(&json!({}))
        }),
    ];
    for (what, status, code, change) in others {
        let answer = send(change(&shop, shop.claim_request("ada", "k"))).await;
        assert_eq!(answer.status.as_u16(), *status, "{what}: {answer:?}");
        answer.is_problem(*status, code);
    }
    assert_eq!(shop.picture().await, before);
}

#[tokio::test]
async fn a_claim_without_a_good_token_is_refused_and_changes_nothing() {
    let config = GatewayConfig { jwt_audience: Some("shop".to_owned()), ..GatewayConfig::on_free_ports(SECRET) };
    let shop = shop_with(Sale::default(), config).await;
    let before = shop.picture().await;
    let good = json!({ "sub": "ada", "exp": in_seconds(3600), "aud": ["another", "shop"] });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let hs256 = |claims: &Value| signed(SECRET, Algorithm::HS256, claims);
    let unsigned = {
        // {"alg":"none","typ":"JWT"}, the good claims, and no signature.
        let token = hs256(&good);
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", token.split('.').nth(1).unwrap())
    };
    let forged = {
        let other = hs256(&with("sub", json!("eve")));
        let (head, signature) = (hs256(&good), other.rsplit('.').next().unwrap().to_owned());
        format!("{}.{signature}", head.rsplit_once('.').unwrap().0)
    };
    let table = [
        ("expired", format!("Bearer {}", hs256(&with("exp", json!(in_seconds(-10))))), "token_invalid"),
        ("without an end", format!("Bearer {}", hs256(&json!({ "sub": "ada" }))), "token_invalid"),
        ("without a buyer", format!("Bearer {}", hs256(&json!({ "exp": in_seconds(3600) }))), "token_invalid"),
        ("not yet good", format!("Bearer {}", hs256(&with("nbf", json!(in_seconds(3600))))), "token_invalid"),
        ("a buyer that is no id", format!("Bearer {}", hs256(&with("sub", json!("a b")))), "token_invalid"),
        ("a buyer too long", format!("Bearer {}", hs256(&with("sub", json!("a".repeat(256))))), "token_invalid"),
        ("meant for somebody else", format!("Bearer {}", hs256(&with("aud", json!("another")))), "token_invalid"),
        ("meant for nobody", format!("Bearer {}", token("ada")), "token_invalid"),
        ("another secret", format!("Bearer {}", signed(&"x".repeat(44), Algorithm::HS256, &good)), "token_invalid"),
        ("another algorithm", format!("Bearer {}", signed(SECRET, Algorithm::HS384, &good)), "token_invalid"),
        ("alg none", format!("Bearer {unsigned}"), "token_invalid"),
        ("forged", format!("Bearer {forged}"), "token_invalid"),
        ("nonsense", "Bearer nonsense".to_owned(), "token_invalid"),
        ("empty", "Bearer ".to_owned(), "token_missing"),
        ("another scheme", "Basic YWRhOnB3".to_owned(), "token_missing"),
    ];
    for (what, authorization, code) in table {
        let request = shop.http.post(shop.claims_url()).header("authorization", authorization);
        let answer = send(request.header("Idempotency-Key", "k").json(&json!({}))).await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        // A token of nothing is trimmed away by HTTP itself.
        if what != "empty" {
            answer.is_problem(401, code);
        }
    }
    let request = shop.http.post(shop.claims_url()).header("Idempotency-Key", "k").json(&json!({}));
    send(request).await.is_problem(401, "token_missing");
    assert_eq!(shop.picture().await, before);
}
