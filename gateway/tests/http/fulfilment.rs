//! Orders over HTTP: a buyer's pages and history, the operator's list and steps, returns, and a buyer's data and its end.

use std::collections::BTreeSet;
use std::time::Duration;

use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit};
use doorbuster_engine::workers::settle_all;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use reqwest::Method;
use serde_json::{Value, json};

use super::admin::{ADA, shop_with_operators};
use super::shop::{Shop, send};
use crate::support::{Answer, count, token};

pub(super) struct PaidShop {
    pub(super) shop: Shop,
    client: ProviderClient,
    _fake: FakeProvider,
}

impl PaidShop {
    pub(super) async fn new() -> Self {
        Self::of(shop_with_operators().await).await
    }

    pub(super) async fn of(shop: Shop) -> Self {
        let fake = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
        let client = ProviderClient::new(ProviderSettings {
            base_url: fake.url().to_owned(),
            secret_key: fake.secret_key().to_owned().into(),
            connect_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(5),
        });
        let client = client.unwrap().limited_to(RateLimit::NONE);
        Self { shop, client, _fake: fake }
    }

    /// A paid order of `quantity` units.
    async fn order(&self, buyer: &str, key: &str, quantity: u32) -> String {
        let profile = json!({
            "payment_method": "pm_card_visa", "email": format!("{buyer}@example.com"),
            "ship_to": { "name": buyer, "line1": "1 Road", "city": "Köln", "postal_code": "50667", "country": "DE" }
        });
        let url = self.shop.url("/v1/me/checkout-profile");
        send(self.shop.http.put(url).bearer_auth(token(buyer)).json(&profile)).await;
        let id = self.shop.claim(buyer, key, quantity).await.json()["claim_id"].as_str().unwrap().to_owned();
        settle_all(&self.shop.engine).await.unwrap();
        self.charge().await;
        id
    }

    pub(super) async fn charge(&self) {
        while self.shop.engine.charge_due(&self.client, 10, 2).await.unwrap().leased > 0 {}
    }

    /// What ada, the operator, does with an order.
    pub(super) async fn act(&self, order: &str, verb: &str, key: &str, body: Value) -> Answer {
        let request = self.shop.ada(Method::POST, &format!("/v1/orders/{order}/{verb}")).header("Idempotency-Key", key);
        let has_body = !body.is_null();
        send(if has_body { request.json(&body) } else { request }).await
    }

    async fn ship(&self, order: &str) {
        assert_eq!(self.act(order, "process", "p", Value::Null).await.status, 200);
        assert_eq!(self.act(order, "ship", "s", tracking("1")).await.status, 200);
    }

    pub(super) async fn count(&self, sql: &str) -> i64 {
        count(&self.shop.database_url, sql).await
    }
}

fn tracking(number: &str) -> Value {
    json!({ "carrier": "DHL", "tracking_number": number })
}

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

#[tokio::test]
async fn an_order_goes_from_paid_to_delivered_and_its_buyer_sees_how() {
    let paid = PaidShop::new().await;
    let id = paid.order("ada", "k", 1).await;
    paid.act(&id, "ship", "s", tracking("1")).await.is_problem(409, "wrong_order_state");
    let processing = paid.act(&id, "process", "p", Value::Null).await;
    assert_eq!((processing.status.as_u16(), &processing.json()["status"]), (200, &json!("PROCESSING")));
    assert!(!is_replayed(&processing) && is_replayed(&paid.act(&id, "process", "other", Value::Null).await));
    for bad in [json!({ "carrier": "", "tracking_number": "1" }), json!({ "carrier": "D\nHL", "tracking_number": "1" })]
    {
        let problem = paid.act(&id, "ship", "s", bad).await.is_problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], "carrier");
    }
    let shipped = paid.act(&id, "ship", "s", tracking("1")).await;
    assert_eq!(shipped.json()["shipment"]["tracking_number"], "1", "{shipped:?}");
    assert!(is_replayed(&paid.act(&id, "ship", "s", tracking("1")).await));
    let otherwise = paid.act(&id, "ship", "s", tracking("2")).await.is_problem(409, "shipped_otherwise");
    assert!(otherwise["detail"].as_str().unwrap().contains("number 1"), "{otherwise}");
    assert_eq!(paid.act(&id, "deliver", "d", Value::Null).await.json()["status"], "DELIVERED");

    let mine = paid.shop.get("ada", &format!("/v1/orders/{id}")).await.json();
    assert_eq!((&mine["shipment"]["carrier"], &mine["links"]["cancel"]), (&json!("DHL"), &Value::Null));
    let history = paid.shop.get("ada", &format!("/v1/orders/{id}/history")).await;
    let steps =
        history.json()["entries"].as_array().unwrap().iter().map(|step| step["reason"].clone()).collect::<Vec<_>>();
    assert_eq!(steps, ["ordered", "paid", "being packed", "handed over to the carrier", "delivered"]);
    assert!(!history.text.contains("settlement"), "what we call ourselves is ours: {history:?}");
    paid.shop.get("eve", &format!("/v1/orders/{id}/history")).await.is_problem(404, "order_not_found");

    let all = send(paid.shop.ada(Method::GET, &format!("/v1/orders/{id}"))).await.json();
    assert_eq!((&all["buyer"], &all["email"]), (&json!("ada"), &json!("ada@example.com")));
    assert_eq!(all["history"][4]["by"], "ada");
    assert_eq!(all["attempts"].as_array().unwrap().len(), 2, "create and confirm");
    let told = all["deliveries"].as_array().unwrap().iter().map(|told| told["event"].as_str().unwrap().to_owned());
    assert!(told.collect::<Vec<_>>().iter().any(|event| event.ends_with("order_shipped")), "{all}");
    let key = send(paid.shop.ada(Method::POST, &format!("/v1/orders/{id}/deliver"))).await;
    key.is_problem(400, "idempotency_key_missing");
    for verb in ["process", "deliver"] {
        paid.act("nonsense", verb, "k", Value::Null).await.is_problem(404, "order_not_found");
    }
}

#[tokio::test]
async fn what_ships_is_not_cancelled_and_what_is_cancelled_does_not_ship() {
    let paid = PaidShop::new().await;
    let (first, second) = (paid.order("ada", "k", 1).await, paid.order("bob", "k", 1).await);
    paid.ship(&first).await;
    let cancel = |buyer: &str, id: &str| {
        let request = paid.shop.http.post(paid.shop.url(&format!("/v1/orders/{id}/cancel"))).bearer_auth(token(buyer));
        send(request.header("Idempotency-Key", "c"))
    };
    cancel("ada", &first).await.is_problem(409, "not_cancellable");
    let reason = json!({ "reason": "a call from the buyer" });
    paid.act(&first, "cancel", "c", reason.clone()).await.is_problem(409, "not_cancellable");
    let cancelled = paid.act(&second, "cancel", "c", reason.clone()).await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.json()["payment"]), (200, &json!("REFUND_PENDING")));
    assert!(is_replayed(&paid.act(&second, "cancel", "c", reason).await));
    paid.act(&second, "process", "p", Value::Null).await.is_problem(409, "wrong_order_state");
    let history = paid.shop.get("bob", &format!("/v1/orders/{second}/history")).await;
    assert!(history.text.contains("cancelled by the shop") && !history.text.contains("a call"), "{history:?}");
    paid.act(&second, "cancel", "c", json!({ "reason": " " })).await.is_problem(422, "invalid_request");
}

#[tokio::test]
async fn goods_and_money_come_back_once_for_each_key() {
    let paid = PaidShop::new().await;
    let id = paid.order("ada", "k", 2).await;
    let back = |quantity: u32, refund: Option<i64>| json!({ "lines": [{ "line": 1, "quantity": quantity, "restock": true }], "refund_minor": refund, "reason": "small" });
    paid.act(&id, "returns", "r1", back(1, None)).await.is_problem(409, "wrong_order_state");
    paid.ship(&id).await;
    let mine = paid.shop.get("ada", &format!("/v1/orders/{id}")).await.json();
    let serials = serde_json::from_value::<Vec<u32>>(mine["items"][0]["serials"].clone()).unwrap();
    let lowest = *serials.iter().min().unwrap();
    let taken = paid.act(&id, "returns", "r1", back(1, Some(14_900))).await;
    assert_eq!((taken.status.as_u16(), is_replayed(&taken)), (201, false), "{taken:?}");
    assert_eq!(
        taken.json()["returns"][0]["lines"],
        json!([{ "line": 1, "quantity": 1, "serials": [lowest], "restocked": true }])
    );
    assert_eq!(taken.json()["refunds"][0]["refund_id"], taken.json()["returns"][0]["return_id"]);
    let again = paid.act(&id, "returns", "r1", back(1, Some(14_900))).await;
    assert_eq!((again.status.as_u16(), is_replayed(&again)), (201, true));
    paid.act(&id, "returns", "r1", back(2, Some(14_900))).await.is_problem(422, "key_reused");
    paid.act(&id, "returns", "r2", back(2, None)).await.is_problem(409, "return_exceeds_order");
    paid.act(&id, "returns", "r2", back(1, Some(1_000_000))).await.is_problem(409, "refund_exceeds_payment");
    let named = json!({ "lines": [{ "line": 1, "quantity": 1, "serials": [lowest], "restock": true }], "reason": "r" });
    paid.act(&id, "returns", "r2", named).await.is_problem(409, "unit_not_out");
    for (body, field) in [
        (json!({ "lines": [], "reason": "r" }), "lines"),
        (json!({ "lines": [{ "line": 9, "quantity": 1, "restock": true }], "reason": "r" }), "lines"),
        (json!({ "lines": [{ "line": 1, "quantity": 0, "restock": true }], "reason": "r" }), "lines"),
        (back(1, Some(0)), "refund_minor"),
        (back(1, Some(-5)), "refund_minor"),
        (json!({ "lines": [{ "line": 1, "quantity": 1, "restock": true }], "reason": "a\u{7}b" }), "reason"),
    ] {
        let problem = paid.act(&id, "returns", "r2", body).await.is_problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let refund = |minor: Option<i64>| json!({ "amount_minor": minor, "reason": "goodwill" });
    assert_eq!(paid.act(&id, "refunds", "f1", refund(Some(500))).await.status, 202);
    assert!(is_replayed(&paid.act(&id, "refunds", "f1", refund(Some(500))).await));
    paid.act(&id, "refunds", "f1", refund(Some(501))).await.is_problem(422, "key_reused");
    paid.act(&id, "refunds", "r1", refund(Some(500))).await.is_problem(422, "key_reused");
    paid.act(&id, "refunds", "f2", refund(Some(i64::MAX))).await.is_problem(409, "refund_exceeds_payment");
    assert_eq!(paid.count("select refund_minor from payments").await, 14_900 + 500);
    assert_eq!(paid.count("select count(*) from returns").await, 1);
    let mine = paid.shop.get("ada", &format!("/v1/orders/{id}")).await.json();
    assert_eq!((&mine["items"][0]["returned"], mine["refunds"].as_array().unwrap().len()), (&json!(1), 2));
}

#[tokio::test]
async fn pages_show_each_order_once_and_only_to_its_buyer() {
    let paid = PaidShop::new().await;
    paid.order("ada", "k", 1).await;
    let sql = "with made as (
            insert into orders (order_id, buyer, status, currency, subtotal_minor, tax_minor, shipping_minor, total_minor,
                                created_at, updated_at)
            select gen_random_uuid(), case when n % 2 = 0 then 'ada' else 'bob' end, 'DELIVERED', 'EUR', n, 0, 0, n,
                   timestamptz '2026-01-01T00:00:00Z' + (n / 4) * interval '1 second', now()
            from generate_series(1, 500) n returning order_id, total_minor),
        paid as (
            insert into payments (order_id, state, amount_minor, currency, idempotency_key, updated_at)
            select order_id, 'SUCCEEDED', total_minor, 'EUR', 'order-' || order_id, now() from made returning 1)
        select count(*) from paid";
    assert_eq!(paid.count(sql).await, 500);
    let (mut seen, mut query, mut last) = (BTreeSet::new(), "limit=100".to_owned(), None);
    let mut pages = 0;
    loop {
        let page = paid.shop.get("ada", &format!("/v1/orders?{query}")).await.json();
        for order in page["items"].as_array().unwrap() {
            assert!(seen.insert(order["order_id"].as_str().unwrap().to_owned()), "twice: {order}");
            let at = order["created_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            assert!(last.is_none_or(|last| at <= last), "newest first");
            last = Some(at);
        }
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("limit=100&cursor={cursor}");
    }
    assert_eq!((seen.len(), pages), (251, 3));
    // Another buyer's cursor is a place in time: it shows him his own.
    let cursor = query.split_once("cursor=").unwrap().1;
    let his = paid.shop.get("bob", &format!("/v1/orders?limit=100&cursor={cursor}")).await.json();
    let his = his["items"].as_array().unwrap().iter().map(|order| order["order_id"].as_str().unwrap().to_owned());
    assert!(his.collect::<BTreeSet<_>>().is_disjoint(&seen));
    let none = paid.shop.get("eve", &format!("/v1/orders?cursor={cursor}")).await.json();
    assert_eq!(none, json!({ "items": [], "next_cursor": null }));
    let confirmed = paid.shop.get("ada", "/v1/orders?status=CONFIRMED,PROCESSING").await.json();
    assert_eq!(confirmed["items"].as_array().unwrap().len(), 1);
    for query in ["cursor=nonsense", "cursor=e30", "limit=0", "limit=101", "status=paid", "status=CONFIRMED,"] {
        let answer = paid.shop.get("ada", &format!("/v1/orders?{query}")).await;
        if query == "status=CONFIRMED," {
            assert_eq!(answer.status, 200, "a comma too many asks for nothing else");
        } else {
            answer.is_problem(422, "invalid_request");
        }
    }

    let find = async |query: &str| send(paid.shop.ada(Method::GET, &format!("/v1/orders?{query}"))).await;
    assert_eq!(find(&format!("drop={}", paid.shop.drop)).await.json()["items"].as_array().unwrap().len(), 1);
    let early = find("buyer=bob&status=DELIVERED&created_before=2026-01-01T00:00:10Z&limit=100").await.json();
    let early = early["items"].as_array().unwrap();
    assert!(early.len() == 20 && early.iter().all(|order| order["buyer"] == "bob"), "{}", early.len());
    assert_eq!(find("created_from=-009999-01-03T00:00:00Z&created_before=9999-12-30T00:00:00Z").await.status, 200);
    for query in ["buyer=", "buyer=a%20b", "drop=%7B", "created_from=yesterday", "status=x", "buyer=a&buyer=b"] {
        find(query).await.is_problem(422, "invalid_request");
    }
    let by_buyer = paid.shop.http.get(paid.shop.ops_url("/v1/orders")).bearer_auth(token("ada"));
    send(by_buyer).await.is_problem(401, "token_invalid");
    send(paid.shop.http.get(paid.shop.url("/v1/orders")).bearer_auth(ADA)).await.is_problem(401, "token_invalid");
}

#[tokio::test]
async fn a_buyer_gets_his_data_and_is_forgotten() {
    let paid = PaidShop::new().await;
    let id = paid.order("ada", "k", 1).await;
    paid.order("bob", "k", 1).await;
    let export = paid.shop.get("ada", "/v1/me/export").await;
    let data = export.json();
    assert_eq!((&data["buyer"], &data["checkout_profile"]["email"]), (&json!("ada"), &json!("ada@example.com")));
    assert_eq!(data["orders"]["items"][0]["order"]["order_id"], id);
    assert_eq!(data["orders"]["items"][0]["history"].as_array().unwrap().len(), 2);
    assert!(!export.text.contains("bob"), "{export:?}");

    let erase = |buyer: &str, key: Option<&str>| {
        let request = paid.shop.http.delete(paid.shop.url("/v1/me")).bearer_auth(token(buyer));
        send(match key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        })
    };
    erase("ada", None).await.is_problem(400, "idempotency_key_missing");
    let open = erase("ada", Some("e")).await.is_problem(409, "orders_open");
    assert_eq!(open["orders"], json!([id]));
    paid.ship(&id).await;
    paid.act(&id, "deliver", "d", Value::Null).await;
    let erased = erase("ada", Some("e")).await;
    assert_eq!((erased.status.as_u16(), is_replayed(&erased)), (200, false), "{erased:?}");
    assert_eq!(erased.json(), json!({ "orders_made_anonymous": 0, "kept_until_archived": [paid.shop.drop] }));
    assert!(is_replayed(&erase("ada", Some("e")).await));
    let data = paid.shop.get("ada", "/v1/me/export").await.json();
    assert_eq!(
        (&data["checkout_profile"], &data["orders"]["items"][0]["order"]["ship_to"]),
        (&Value::Null, &Value::Null)
    );
    let bob = paid.shop.get("bob", "/v1/me/export").await.json();
    assert_eq!(bob["checkout_profile"]["email"], "bob@example.com");

    let name = paid.shop.drop.parse().unwrap();
    paid.shop.engine.close_drop(&name).await.unwrap().unwrap();
    paid.shop.engine.archive_drop(&name).await.unwrap().unwrap();
    paid.shop.get("ada", &format!("/v1/orders/{id}")).await.is_problem(404, "order_not_found");
    let data = paid.shop.get("ada", "/v1/me/export").await.json();
    assert_eq!(data["orders"]["items"], json!([]));
    let kept = send(paid.shop.ada(Method::GET, &format!("/v1/orders/{id}"))).await.json();
    assert!(kept["buyer"].as_str().unwrap().starts_with("erased-"), "{kept}");
    assert_eq!((&kept["email"], &kept["total"]["amount_minor"]), (&Value::Null, &json!(14_900 + 2_831 + 490 + 93)));
    let never = erase("nobody", Some("e")).await;
    assert_eq!((never.status.as_u16(), is_replayed(&never)), (200, true));
}

#[tokio::test]
async fn an_invoice_and_its_credit_notes_are_pages_for_their_buyer_and_for_operators() {
    let paid = PaidShop::new().await;
    let unpaid = paid.shop.claim("eve", "k", 1).await.json()["claim_id"].as_str().unwrap().to_owned();
    settle_all(&paid.shop.engine).await.unwrap();
    let id = paid.order("ada", "k", 1).await;
    paid.shop.get("eve", &format!("/v1/orders/{unpaid}/invoice")).await.is_problem(404, "document_not_found");
    let order = paid.shop.get("ada", &format!("/v1/orders/{id}")).await.json();
    let link = order["links"]["invoice"].as_str().unwrap();
    let page = paid.shop.get("ada", link).await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for says in ["<h1>Invoice 1</h1>", "50667 Köln", "<td class=\"number\">28.31 EUR</td>", "183.14 EUR"] {
        assert!(page.text.contains(says), "{says}: {}", page.text);
    }
    paid.shop.get("eve", link).await.is_problem(404, "order_not_found");
    paid.shop.get("ada", &format!("/v1/orders/{id}/credit-notes/1")).await.is_problem(404, "document_not_found");

    paid.ship(&id).await;
    let lines = json!([{ "line": 1, "quantity": 1, "restock": false }]);
    let both = json!({ "lines": lines, "refund": "goods", "refund_minor": 5, "reason": "small" });
    let problem = paid.act(&id, "returns", "r", both).await.is_problem(422, "invalid_request");
    assert_eq!(problem["errors"][0]["field"], "refund");
    let back = |reason: &str| json!({ "lines": lines, "refund": "goods_and_shipping", "reason": reason });
    assert_eq!(paid.act(&id, "returns", "r", back("small")).await.status, 201);
    assert!(is_replayed(&paid.act(&id, "returns", "r", back("small")).await));
    paid.act(&id, "returns", "r", back("large")).await.is_problem(422, "key_reused");
    paid.charge().await;
    // Its number comes with the first who asks, or within a minute.
    assert_eq!(paid.shop.get("ada", link).await.status, 200);
    let order = paid.shop.get("ada", &format!("/v1/orders/{id}")).await.json();
    let note = order["refunds"][0]["credit_note"].as_str().unwrap();
    assert_eq!(note, format!("/v1/orders/{id}/credit-notes/1"));
    let page = paid.shop.get("ada", note).await;
    assert!(page.text.contains("<h1>Credit note 1</h1>") && page.text.contains("<p>To invoice 1</p>"), "{}", page.text);
    for path in [link, note] {
        let theirs = send(paid.shop.ada(Method::GET, path)).await;
        assert_eq!((theirs.status.as_u16(), theirs.header("content-type")), (200, Some("text/html; charset=utf-8")));
    }
}
