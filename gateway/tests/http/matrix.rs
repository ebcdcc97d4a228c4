//! Every route of /openapi.json against somebody else: ada has one of each thing, and eve tries to see, change or take it.
//!
//! A route that the matrix does not know fails it. `cargo test -p doorbuster --test gateway -- matrix --nocapture` prints what it
//! tried.

use std::collections::BTreeSet;

use doorbuster_engine::workers::settle_all;
use doorbuster_sandbox::shared;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::admin::ADA as OPERATOR;
use super::checkout::stock_mugs;
use super::described::operations;
use super::fulfilment::PaidShop;
use super::shop::{Shop, send, shop_with, whole_config};
use crate::support::{Answer, Sale, token};

/// The ETag of a cart that is not there; `*` is any that is.
const NO_CART: &str = "\"v0\"";

/// What eve may get for a request about something of ada's.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// As if there were no such thing.
    NotFound(&'static str),
    /// Refused for a reason of eve's own.
    Refused(u16, &'static str),
    /// Her own, which is nothing.
    Nothing,
    /// Something new of her own.
    HerOwn,
}

use Expect::{HerOwn, NotFound, Nothing, Refused};

struct Case {
    what: String,
    request: RequestBuilder,
    expect: Expect,
}

/// Ada, with one of each thing that a buyer can have.
struct Stage {
    paid: PaidShop,
    buyer: String,
    /// Claims and orders: waiting for a payment, paid and shipped, from a cart, not yet settled.
    ids: Vec<String>,
    receipt: String,
    cart_etag: String,
    cart_version: Value,
    /// Emptied into her cart when she logged in.
    session: String,
    /// A page on which she saves a card.
    setup: String,
    variant: Value,
    cursor: String,
    /// What no answer to eve may contain.
    traces: Vec<String>,
}

impl Stage {
    async fn new() -> Self {
        let sale = Sale { variants: vec![("shoe-42", 20), ("shoe-43", 1)], limit: 5, ..Sale::default() };
        let paid = PaidShop::of(shop_with(sale, whole_config()).await).await;
        let shop = &paid.shop;
        stock_mugs(shop).await;
        let buyer = format!("ada-{}", shop.drop);
        let her = |method: Method, path: &str, key: &str| {
            shop.http
                .request(method, shop.url(path))
                .bearer_auth(token(&buyer))
                .header("Idempotency-Key", key.to_owned())
        };
        let ok = async |request: RequestBuilder| {
            let answer = send(request).await;
            assert!(answer.status.is_success(), "{answer:?}");
            answer.json()
        };
        let claim = async |key: &str| {
            let body = json!({ "sku": "shoe-42" });
            ok(her(Method::POST, &format!("/v1/drops/{}/claims", shop.drop), key).json(&body)).await
        };
        let id = |claim: &Value| claim["claim_id"].as_str().unwrap().to_owned();

        // Before she has a profile: its order waits for a payment.
        let unpaid = claim("ada-unpaid").await;
        settle_all(&shop.engine).await.unwrap();
        let address = json!({ "name": "Ada Lovelace", "line1": "12 St James Square", "city": "Marylebone",
            "postal_code": "50667", "country": "DE" });
        let profile =
            json!({ "payment_method": "pm_card_visa", "email": "ada.lovelace@example.com", "ship_to": address });
        ok(her(Method::PUT, "/v1/me/checkout-profile", "").json(&profile)).await;
        let shipped = claim("ada-shipped").await;
        settle_all(&shop.engine).await.unwrap();
        let add = async |key: &str| {
            ok(her(Method::POST, "/v1/cart/items", key).json(&json!({ "sku": "mug", "quantity": 2 }))).await
        };
        add("ada-adds").await;
        let ordered = ok(her(Method::POST, "/v1/checkout", "ada-buys").json(&json!({}))).await;
        let ordered = ordered["order"]["order_id"].as_str().unwrap().to_owned();
        paid.charge().await;
        assert_eq!(paid.act(&id(&shipped), "process", "p", Value::Null).await.status, 200);
        let tracking = json!({ "carrier": "DHL", "tracking_number": "00340434161094015902" });
        assert_eq!(paid.act(&id(&shipped), "ship", "s", tracking).await.status, 200);
        let unsettled = claim("ada-unsettled").await;
        let wait = json!({ "sku": "shoe-43" });
        ok(shop.claim_request("carl", "carls").json(&wait)).await;
        ok(her(Method::POST, &format!("/v1/drops/{}/standby", shop.drop), "ada-waits").json(&wait)).await;

        let session = ok(shop.http.post(shop.url("/v1/carts/guest"))).await;
        let session = session["cart_session"].as_str().unwrap().to_owned();
        let as_guest = shop.http.post(shop.url("/v1/cart/items")).header("Cart-Session", &session);
        ok(as_guest.header("Idempotency-Key", "g").json(&json!({ "sku": "mug", "quantity": 3 }))).await;
        ok(her(Method::POST, "/v1/cart/merge", "login").header("Cart-Session", &session)).await;
        let setup = ok(her(Method::POST, "/v1/me/checkout-profile/setup", "ada-saves-a-card")).await;
        let setup = setup["setup_id"].as_str().unwrap().to_owned();
        let cart = add("ada-adds-more").await;
        let page = ok(her(Method::GET, "/v1/orders?limit=1", "")).await;

        let ids = vec![id(&unpaid), id(&shipped), ordered, id(&unsettled)];
        let receipt = unsettled["receipt"].as_str().unwrap().to_owned();
        let known =
            ["ada.lovelace", "Lovelace", "St James", "Marylebone", "00340434161094015902", &receipt, &buyer, &setup];
        let traces = known.map(str::to_owned).into_iter().chain(ids.iter().cloned()).collect();
        Self {
            cart_etag: format!("\"v{}\"", cart["version"]),
            cart_version: cart["version"].clone(),
            variant: cart["lines"][0]["variant_id"].clone(),
            cursor: page["next_cursor"].as_str().unwrap().to_owned(),
            paid,
            buyer,
            ids,
            receipt,
            session,
            setup,
            traces,
        }
    }

    fn shop(&self) -> &Shop {
        &self.paid.shop
    }

    /// What eve tries at a route; `None` for a route that the matrix does not know.
    fn cases(&self, route: &str) -> Option<Vec<Case>> {
        let (method, path) = route.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let mut cases = Vec::new();
        let mut filled = path.replace("{drop}", &self.shop().drop).replace("{variant}", &self.variant.to_string());
        // Each case is another eve's, so that none depends on what the one before did.
        let ask = |path: &str, key: &str| {
            let eve = format!("eve-{}", shared::unique());
            let request = self.shop().http.request(method.clone(), self.shop().url(path)).bearer_auth(token(&eve));
            if method == Method::GET { request } else { request.header("Idempotency-Key", key.to_owned()) }
        };
        let mut case = |what: &str, request: RequestBuilder, expect: Expect| {
            cases.push(Case { what: format!("{route}, {what}"), request, expect });
        };
        // Every thing of ada's that has an id, with a key of eve's and with ada's own.
        let mut each_id = |code: &'static str| {
            for id in &self.ids {
                for key in ["eves", "ada-unpaid", "ada-buys"] {
                    case(
                        &format!("{id} with the key {key}"),
                        ask(&path.replace("{id}", id).replace("{number}", "1"), key),
                        NotFound(code),
                    );
                    if method == Method::GET {
                        break;
                    }
                }
            }
        };
        match route {
            "GET /v1/claims/{id}" => each_id("claim_not_found"),
            "GET /v1/orders/{id}"
            | "GET /v1/orders/{id}/history"
            | "GET /v1/orders/{id}/invoice"
            | "GET /v1/orders/{id}/credit-notes/{number}"
            | "POST /v1/orders/{id}/payment"
            | "POST /v1/orders/{id}/cancel" => each_id("order_not_found"),
            "POST /v1/orders/{id}/accept-total" => {
                let agreed = json!({ "accepted_total": { "amount_minor": 18_314, "currency": "EUR" } });
                for id in &self.ids {
                    for key in ["eves", "ada-unpaid", "ada-buys"] {
                        let request = ask(&path.replace("{id}", id), key).json(&agreed);
                        case(&format!("{id} with the key {key}"), request, NotFound("order_not_found"));
                    }
                }
            }
            "GET /v1/orders" => {
                case("hers", ask(&filled, ""), Nothing);
                case("ada's cursor", ask(&format!("{filled}?cursor={}", self.cursor), ""), Nothing);
                case("ada's name", ask(&format!("{filled}?buyer={}", self.buyer), ""), Nothing);
                case("by state", ask(&format!("{filled}?status=SHIPPED,PENDING_PAYMENT,CONFIRMED"), ""), Nothing);
            }
            "GET /v1/me/export" => {
                case("hers", ask(&filled, ""), HerOwn);
                case("ada's cursor", ask(&format!("{filled}?cursor={}", self.cursor), ""), HerOwn);
            }
            "DELETE /v1/me" => case("hers", ask(&filled, "eves"), HerOwn),
            "GET /v1/me/checkout-profile" => case("hers", ask(&filled, ""), NotFound("profile_not_found")),
            "PUT /v1/me/checkout-profile" => {
                let address = json!({ "name": "Eve", "line1": "1 Road", "city": "Bonn", "postal_code": "53111",
                    "country": "DE" });
                let profile =
                    json!({ "payment_method": "pm_card_visa", "email": "eve@example.com", "ship_to": address });
                case("hers", ask(&filled, "").json(&profile), HerOwn);
                let mut of_ada = profile;
                of_ada["buyer"] = json!(self.buyer);
                case("in ada's name", ask(&filled, "").json(&of_ada), Refused(422, "invalid_request"));
            }
            "POST /v1/me/checkout-profile/setup" => {
                case("hers, with ada's key", ask(&filled, "ada-saves-a-card"), HerOwn);
            }
            "POST /v1/me/checkout-profile/setup/{id}/return" => {
                let path = path.replace("{id}", &self.setup);
                for key in ["eves", "ada-saves-a-card"] {
                    case(&format!("ada's page with the key {key}"), ask(&path, key), NotFound("setup_not_found"));
                }
            }
            "GET /v1/cart" => {
                case("hers", ask(&filled, ""), Nothing);
                case("with ada's session", ask(&filled, "").header("Cart-Session", &self.session), Nothing);
                let guest = self.shop().http.get(self.shop().url(&filled)).header("Cart-Session", &self.session);
                case("as a guest with the session that ada has merged", guest, Nothing);
                let path = format!("{filled}?buyer={}", self.buyer);
                case("ada's name", ask(&path, ""), Nothing);
            }
            "DELETE /v1/cart" => {
                let seen = ask(&filled, "").header("If-Match", &self.cart_etag);
                case("ada's version", seen, Refused(412, "precondition_failed"));
                let any = ask(&filled, "").header("If-Match", "*");
                case("any version", any, Refused(412, "precondition_failed"));
                case("hers", ask(&filled, "").header("If-Match", NO_CART), Nothing);
            }
            "POST /v1/cart/items" => {
                let item = json!({ "sku": "mug", "quantity": 1 });
                case("ada's key", ask(&filled, "ada-adds").json(&item), HerOwn);
                let session = ask(&filled, "eves").header("Cart-Session", &self.session);
                case("with ada's session", session.json(&item), HerOwn);
                let named = json!({ "sku": "mug", "quantity": 1, "buyer": self.buyer });
                case("in ada's name", ask(&filled, "eves").json(&named), Refused(422, "invalid_request"));
            }
            "PUT /v1/cart/items/{variant}" => {
                let one = json!({ "quantity": 1 });
                let seen = ask(&filled, "").header("If-Match", &self.cart_etag);
                case("ada's version", seen.json(&one), Refused(412, "precondition_failed"));
                let any = ask(&filled, "").header("If-Match", "*");
                case("any version", any.json(&one), Refused(412, "precondition_failed"));
                case("hers", ask(&filled, "").header("If-Match", NO_CART).json(&one), HerOwn);
            }
            "DELETE /v1/cart/items/{variant}" => {
                let seen = ask(&filled, "").header("If-Match", &self.cart_etag);
                case("ada's version", seen, Refused(412, "precondition_failed"));
                let any = ask(&filled, "").header("If-Match", "*");
                case("any version", any, Refused(412, "precondition_failed"));
                let none = ask(&filled, "").header("If-Match", NO_CART);
                case("hers", none, NotFound("cart_line_not_found"));
            }
            "POST /v1/cart/merge" => {
                let again = ask(&filled, "login").header("Cart-Session", &self.session);
                case("the session that ada has merged, with her key", again, Nothing);
            }
            "GET /v1/checkout" => case("hers", ask(&filled, ""), Refused(409, "cart_empty")),
            "POST /v1/checkout" => {
                case("ada's key", ask(&filled, "ada-buys").json(&json!({})), Refused(409, "cart_empty"));
                let version = json!({ "cart_version": self.cart_version });
                case("ada's cart", ask(&filled, "eves").json(&version), Refused(409, "cart_empty"));
                let named = json!({ "buyer": self.buyer });
                case("in ada's name", ask(&filled, "eves").json(&named), Refused(422, "invalid_request"));
            }
            "POST /v1/drops/{drop}/claims" => {
                case("ada's key", ask(&filled, "ada-unsettled").json(&json!({ "sku": "shoe-42" })), HerOwn);
                let named = json!({ "sku": "shoe-42", "buyer": self.buyer });
                case("in ada's name", ask(&filled, "eves").json(&named), Refused(422, "invalid_request"));
            }
            // The drop of this table has no line; http/line.rs has the same for one that has.
            "GET /v1/drops/{drop}/line/me" | "DELETE /v1/drops/{drop}/line/me" => {
                case("hers", ask(&filled, ""), NotFound("no_line"));
            }
            "POST /v1/drops/{drop}/line" => {
                let wish = json!({ "choices": [{ "sku": "shoe-42" }], "country": "DE" });
                case("ada's key", ask(&filled, "ada-waits").json(&wish), NotFound("no_line"));
            }
            "PUT /v1/drops/{drop}/line/me" => {
                let wish = json!({ "choices": [{ "sku": "shoe-42" }], "country": "DE" });
                case("hers", ask(&filled, "").header("If-Match", "*").json(&wish), NotFound("no_line"));
            }
            "GET /v1/drops/{drop}/line" | "GET /v1/drops/{drop}/line/rules" | "GET /v1/drops/{drop}/line/bundle" => {
                case("as anybody", ask(&filled, ""), NotFound("no_line"));
            }
            "GET /v1/drops/{drop}/line/leaves/{prefix}" => {
                let path = format!("/v1/drops/{}/line/leaves/7e8", self.shop().drop);
                case("as anybody", ask(&path, ""), NotFound("no_line"));
            }
            "GET /v1/drops/{drop}/standby" => case("hers", ask(&filled, ""), Nothing),
            "POST /v1/drops/{drop}/standby" => {
                case("ada's key", ask(&filled, "ada-waits").json(&json!({ "sku": "shoe-43" })), HerOwn);
                let with_receipt = json!({ "sku": "shoe-42", "receipt": self.receipt });
                case("ada's receipt", ask(&filled, "eves").json(&with_receipt), Refused(422, "invalid_request"));
            }
            "DELETE /v1/drops/{drop}/standby" => {
                case("every line", ask(&filled, ""), HerOwn);
                filled += "?sku=shoe-43";
                case("ada's line", ask(&filled, ""), HerOwn);
            }
            // What is everybody's: nothing of hers stands there.
            "GET /v1/drops/{drop}" | "GET /v1/products" | "POST /v1/carts/guest" => {
                case("as anybody", ask(&filled, ""), HerOwn);
            }
            "GET /v1/products/{id}" => case("as anybody", ask("/v1/products/1", ""), HerOwn),
            "POST /v1/webhooks/stripe" => {
                let intent = json!({ "id": "pi_1", "metadata": { "order_id": self.ids[0] } });
                let event = json!({ "id": "evt_1", "type": "payment_intent.succeeded", "data": { "object": intent } });
                let unsigned = ask(&filled, "").header("Stripe-Signature", "t=1,v1=00").json(&event);
                case("that ada has paid", unsigned, Refused(400, "delivery_refused"));
            }
            _ => return None,
        }
        Some(cases)
    }

    /// Every row of every table, in a fixed order.
    async fn rows(&self) -> Vec<String> {
        let url = &self.shop().database_url;
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        // Answered claims are noted by the gateway itself, once a second, and forgotten after a minute.
        let tables = "select tablename::text from pg_tables
                      where schemaname = 'public' and tablename <> 'answered_claims'";
        let tables = client.query(tables, &[]).await.unwrap();
        let selects = tables.iter().map(|row| row.get::<_, String>(0));
        let selects = selects.map(|table| format!("select '{table} ' || to_jsonb(t)::text from \"{table}\" t"));
        let all = selects.collect::<Vec<_>>().join(" union all ");
        let rows = client.query(&format!("{all} order by 1"), &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// What ada sees of her own things.
    async fn hers(&self) -> Vec<String> {
        let standby = format!("/v1/drops/{}/standby", self.shop().drop);
        let fixed = ["/v1/cart", "/v1/checkout", "/v1/orders", "/v1/me/export", "/v1/me/checkout-profile", &standby];
        let mut seen = Vec::new();
        for path in fixed.into_iter().map(str::to_owned).chain(self.ids.iter().flat_map(|id| {
            [format!("/v1/claims/{id}"), format!("/v1/orders/{id}"), format!("/v1/orders/{id}/history")]
        })) {
            let answer = self.shop().get(&self.buyer, &path).await;
            seen.push(format!("{path} {} {}", answer.status, answer.text));
        }
        seen
    }

    /// Everything there is, in Postgres and in the warehouses.
    async fn picture(&self) -> (Vec<String>, String) {
        (self.rows().await, self.shop().picture().await)
    }

    fn is_of_ada(&self, text: &str) -> bool {
        self.traces.iter().any(|trace| text.contains(trace.as_str()))
    }

    /// Does what eve tries, and finds what it should not have done.
    async fn wrong(&self, case: Case) -> Vec<String> {
        let Case { what, request, expect } = case;
        let before = self.picture().await;
        let answer = send(request).await;
        let after = self.picture().await;
        let mut wrong = Vec::new();
        if !expect.fits(&answer) {
            wrong.push(format!("{what}: expected {expect:?}, got {answer:?}"));
        }
        let said = format!("{:?}\n{}", answer.headers, answer.text);
        for trace in self.traces.iter().filter(|trace| said.contains(trace.as_str())) {
            wrong.push(format!("{what}: eve is told {trace}: {answer:?}"));
        }
        let of_ada = |rows: &[String]| rows.iter().filter(|row| self.is_of_ada(row)).cloned().collect::<Vec<_>>();
        let is_same = match expect {
            HerOwn => of_ada(&before.0) == of_ada(&after.0),
            NotFound(_) | Refused(..) | Nothing => before == after,
        };
        if !is_same {
            let new = after.0.iter().filter(|row| !before.0.contains(row)).collect::<Vec<_>>();
            wrong.push(format!("{what}: rows have changed: {new:?}"));
        }
        wrong
    }
}

impl Expect {
    fn fits(self, answer: &Answer) -> bool {
        let is_problem = |status: u16, code: &str| answer.status == status && answer.json()["code"] == code;
        match self {
            NotFound(code) => is_problem(404, code),
            Refused(status, code) => is_problem(status, code),
            Nothing => answer.status.is_success() && is_empty(&answer.json()),
            HerOwn => answer.status.is_success(),
        }
    }
}

/// Whether all lists in it are.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => true,
    }
}

#[expect(clippy::print_stdout, reason = "what was tried is what this is run for")]
#[tokio::test]
async fn nobody_sees_changes_or_takes_what_is_somebody_elses() {
    let stage = Stage::new().await;
    let document = send(stage.shop().http.get(stage.shop().url("/openapi.json"))).await.json();
    let (hers, rows) = (stage.hers().await, stage.rows().await);
    for id in &stage.ids {
        assert!(hers.iter().any(|seen| seen.contains(id)), "ada does not see {id}");
    }
    assert!(rows.iter().filter(|row| stage.is_of_ada(row)).count() > 20, "{rows:?}");
    let (mut routes, mut tried, mut wrong) = (0, 0, Vec::new());
    // Served, and not described: it is the payment provider's alone.
    let undescribed = [("POST".to_owned(), "/v1/webhooks/stripe".to_owned(), Value::Null)];
    for (method, path, operation) in operations(&document).into_iter().chain(undescribed) {
        let route = format!("{method} {path}");
        let Some(cases) = stage.cases(&route) else { panic!("the matrix does not know {route}: say what eve tries") };
        // Whatever a route asks for that could name something of a buyer's has cases for it.
        assert!(!cases.is_empty(), "{route}: {operation}");
        routes += 1;
        for case in cases {
            wrong.extend(stage.wrong(case).await);
            tried += 1;
        }
    }
    assert_eq!(stage.hers().await, hers, "what ada sees has changed");
    println!("{routes} routes x {tried} cases of somebody else's: {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[expect(clippy::print_stdout, reason = "what was tried is what this is run for")]
#[tokio::test]
async fn no_route_answers_without_the_token_that_it_asks_for() {
    let stage = Stage::new().await;
    let shop = stage.shop();
    let buyers = send(shop.http.get(shop.url("/openapi.json"))).await.json();
    let operators = send(shop.ada(Method::GET, "/openapi.json")).await.json();
    let before = stage.picture().await;
    let (mut routes, mut tried) = (0, 0);
    let of_buyer = token(&stage.buyer);
    for (document, is_public, others) in [(&buyers, true, OPERATOR), (&operators, false, of_buyer.as_str())] {
        for (method, path, operation) in operations(document) {
            let schemes =
                operation["security"].as_array().unwrap().iter().flat_map(|one| one.as_object().unwrap().keys());
            let schemes = schemes.cloned().collect::<BTreeSet<_>>();
            if schemes.is_empty() {
                assert!(is_public, "{method} {path} of the operators is everybody's");
                continue;
            }
            routes += 1;
            let filled = path.replace("{drop}", &shop.drop).replace("{variant}", &stage.variant.to_string());
            for id in if path.contains("{id}") { &stage.ids[..] } else { &stage.ids[..1] } {
                let path = filled.replace("{id}", id);
                let url = if is_public { shop.url(&path) } else { shop.ops_url(&path) };
                let request = || {
                    let request = shop.http.request(method.parse().unwrap(), &url).header("Idempotency-Key", "k");
                    request.header("If-Match", "*")
                };
                let cases = [
                    ("no token", request(), "token_missing"),
                    ("another scheme", request().basic_auth("ada", Some(OPERATOR)), "token_missing"),
                    ("nonsense", request().bearer_auth("nonsense"), "token_invalid"),
                    ("a name", request().bearer_auth(&stage.buyer), "token_invalid"),
                    ("a part of a secret", request().bearer_auth(&OPERATOR[1..]), "token_invalid"),
                    ("the token of the other listener", request().bearer_auth(others), "token_invalid"),
                    (
                        "two tokens",
                        request().bearer_auth(&of_buyer).header("authorization", "Bearer x"),
                        "token_missing",
                    ),
                    ("a session that is none", request().header("Cart-Session", "x"), "token_missing"),
                ];
                for (what, request, code) in cases {
                    let is_guests = what == "a session that is none" && schemes.contains("guest");
                    let answer = send(request).await;
                    let (status, code) = if is_guests { (400, "cart_session_invalid") } else { (401, code) };
                    assert_eq!(answer.status.as_u16(), status, "{method} {path}, {what}: {answer:?}");
                    answer.is_problem(status, code);
                    assert_eq!(answer.header("cache-control"), Some("no-store"), "{method} {path}, {what}");
                    assert!(!stage.is_of_ada(&answer.text), "{method} {path}, {what}: {answer:?}");
                    tried += 1;
                }
            }
        }
    }
    assert_eq!(stage.picture().await, before, "something has changed");
    println!("{routes} routes x {tried} cases without the right token: 0 wrong");
}
