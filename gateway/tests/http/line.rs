//! The line of a drop, as its buyers and everybody else see it.

use doorbuster_engine::beacon::BeaconClient;
use doorbuster_engine::domain::drops::{Admission, NewDrop, NewVariant, PayTerms};
use doorbuster_engine::domain::line::beacon::commitment;
use doorbuster_engine::domain::line::rules::{Beacon, hash_of};
use doorbuster_engine::domain::line::terms::{LineTerms, NewLine, REVEAL_AFTER};
use doorbuster_engine::flows::line::LineMemory;
use jiff::SignedDuration;
use reqwest::Method;
use serde_json::{Value, json};

use super::shop::{Shop, send, shop};
use crate::support::{Answer, Sale, execute, token};

/// A drop with a line, in a shop that has another one without.
pub(super) struct Queue {
    pub(super) shop: Shop,
    pub(super) name: String,
    memory: LineMemory,
}

impl Queue {
    pub(super) async fn new(admission: Admission, capacity: u32) -> Self {
        let shop = shop(Sale::default()).await;
        let now = shop.engine.clock.now();
        let (seal_at, name) = (now + SignedDuration::from_hours(1), format!("{}-l", shop.drop));
        let secret = [7; 32];
        let terms = LineTerms {
            admission,
            line_opens_at: now,
            seal_at,
            reveal_after: REVEAL_AFTER,
            round_every: SignedDuration::from_secs(30),
            per_round: 100,
            capacity,
            requires_card: admission == Admission::Draw,
            then_open: false,
            beacon: Beacon::None { commitment: commitment(&secret) },
        };
        let variant = |number: u32| NewVariant {
            sku: format!("{name}-{number}"),
            title: format!("Size {number}"),
            price_minor: 10_000,
            stock_units: 2,
        };
        let new = NewDrop {
            name: name.parse().unwrap(),
            product_name: format!("Shoe of {name}"),
            currency: "EUR".parse().unwrap(),
            variants: (42..44).map(variant).collect(),
            buyer_limit: 2,
            warehouses: 2,
            tax_basis_points: 1_900,
            shipping_minor: 490,
            rates_of_shop: false,
            price_includes_tax: false,
            opens_at: Some(now + SignedDuration::from_hours(2)),
            closes_at: Some(now + SignedDuration::from_hours(3)),
            pay_by: now + SignedDuration::from_hours(24),
            pay_terms: PayTerms::default(),
            acknowledgement: doorbuster_engine::domain::claims::Acknowledgement::Accepted,
            replicas: 0,
            line: Some(NewLine { terms, secret: Some(secret) }),
        };
        shop.engine.create_drop(&new, 7).await.unwrap().unwrap();
        let mut queue = Self { shop, name, memory: LineMemory::default() };
        queue.run().await;
        queue
    }

    async fn run(&mut self) {
        let beacon = BeaconClient::default();
        while self.shop.engine.run_lines(&beacon, &mut self.memory).await.unwrap().steps > 0 {}
    }

    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v1/drops/{}/line{rest}", self.name)
    }

    async fn ask(&self, method: Method, rest: &str, buyer: &str, key: &str, body: &Value) -> Answer {
        let request = self.shop.http.request(method, self.shop.url(&self.path(rest))).bearer_auth(token(buyer));
        send(request.header("Idempotency-Key", key).json(body)).await
    }

    fn wish(&self, numbers: &[u32]) -> Value {
        let choices = numbers.iter().map(|number| json!({ "sku": format!("{}-{number}", self.name) }));
        json!({ "choices": choices.collect::<Vec<_>>(), "country": "DE" })
    }

    pub(super) async fn join(&self, buyer: &str, key: &str, numbers: &[u32]) -> Answer {
        self.ask(Method::POST, "", buyer, key, &self.wish(numbers)).await
    }

    pub(super) async fn me(&self, buyer: &str) -> Answer {
        self.shop.get(buyer, &self.path("/me")).await
    }

    pub(super) async fn anybody(&self, rest: &str) -> Answer {
        send(self.shop.http.get(self.shop.url(&self.path(rest)))).await
    }

    /// As if all that time had passed, and the rules had said so from the beginning.
    pub(super) async fn let_it_be_opening(&mut self) {
        let past = |ago: &str| format!("date_trunc('second', now()) - interval '{ago}'");
        let (opened, sealed, opens) = (past("20 minutes"), past("10 minutes"), past("1 second"));
        let mut rules = "rules".to_owned();
        for (field, time) in [("line_opens_at", &opened), ("seal_at", &sealed), ("opens_at", &opens)] {
            let text = format!("to_char(({time}) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')");
            rules = format!(r#"regexp_replace({rules}, '"{field}":"[^"]*"', '"{field}":"' || {text} || '"')"#);
        }
        let sql = format!(
            "begin; update lines set line_opens_at = {opened}, seal_at = {sealed}, rules = {rules};
             update drops set opens_at = {opens} where admission <> 'open'; commit"
        );
        execute(&self.shop.database_url, &sql).await;
        self.run().await;
        // The gateway has read the board a moment ago, with times that no shop can change.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while self.anybody("").await.json()["state"] == "open" {
            assert!(std::time::Instant::now() < deadline, "the board stays as it was");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_buyer_joins_looks_changes_and_is_given_units() {
    let mut queue = Queue::new(Admission::Queue, 100).await;
    let claim = queue.shop.http.post(queue.shop.url(&format!("/v1/drops/{}/claims", queue.name)));
    let claim = claim.bearer_auth(token("ada")).header("Idempotency-Key", "k");
    send(claim.json(&json!({ "sku": format!("{}-42", queue.name) }))).await.is_problem(409, "line_only");

    let joined = queue.join("ada", "k", &[42, 43]).await;
    assert_eq!((joined.status.as_u16(), joined.header("idempotent-replayed")), (201, None), "{joined:?}");
    assert_eq!(joined.header("location"), Some(queue.path("/me").as_str()));
    let place = joined.json();
    assert_eq!((&place["status"], &place["revision"]), (&json!("waiting"), &json!(1)));
    // 100.00 and shipping of 4.90, both with 19 %.
    assert_eq!(place["choices"][0]["accepted_total"], json!({ "amount_minor": 12_483, "currency": "EUR" }));
    assert!(place["ticket"].as_str().unwrap().starts_with("v1."), "{place}");
    let again = queue.join("ada", "k", &[42, 43]).await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), (Some("true"), &joined.text));
    queue.join("ada", "k", &[43]).await.is_problem(422, "key_reused");
    let other = queue.join("ada", "laptop", &[43]).await;
    assert_eq!((other.status.as_u16(), &other.json()), (200, &place), "it stays as it is");

    let change = async |tag: &str, numbers: &[u32]| {
        let request = queue.shop.http.put(queue.shop.url(&queue.path("/me"))).bearer_auth(token("ada"));
        send(request.header("If-Match", tag).json(&queue.wish(numbers))).await
    };
    change("\"v7\"", &[43]).await.is_problem(412, "precondition_failed");
    let changed = change("\"v1\"", &[43]).await;
    assert_eq!((changed.status.as_u16(), changed.header("etag")), (200, Some("\"v2\"")), "{changed:?}");
    assert_eq!(queue.me("ada").await.json()["choices"].as_array().unwrap().len(), 1);

    queue.me("eve").await.is_problem(404, "place_not_found");
    assert_eq!(queue.join("eve", "k", &[42]).await.status, 201, "another's key is nobody else's");
    assert_ne!(queue.me("eve").await.json()["entry_id"], place["entry_id"]);
    assert_eq!(queue.ask(Method::DELETE, "/me", "eve", "d", &json!({})).await.status, 204);
    assert_eq!(queue.me("ada").await.json()["status"], "waiting", "eve leaves for herself");
    queue.join("eve", "k", &[42]).await.is_problem(409, "line_left");

    queue.let_it_be_opening().await;
    let given = queue.me("ada").await.json();
    assert_eq!((&given["status"], &given["rank"], &given["round"]), (&json!("awarded"), &json!(0), &json!(1)));
    let order = queue.shop.get("ada", &format!("/v1/orders/{}", given["order_id"].as_str().unwrap())).await;
    assert_eq!((order.status.as_u16(), &order.json()["status"]), (200, &json!("PENDING_PAYMENT")), "{order:?}");
    queue.ask(Method::DELETE, "/me", "ada", "d", &json!({})).await.is_problem(409, "already_awarded");
    let sealed = queue.join("bob", "k", &[42]).await;
    assert_eq!((sealed.status.as_u16(), &sealed.json()["rank"]), (201, &json!(1)), "behind the list: {sealed:?}");
    let put = queue.shop.http.put(queue.shop.url(&queue.path("/me"))).bearer_auth(token("bob")).header("If-Match", "*");
    send(put.json(&queue.wish(&[43]))).await.is_problem(409, "line_sealed");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_and_makes_no_place() {
    let queue = Queue::new(Admission::Draw, 1).await;
    let refused = async |body: Value, code: &'static str, status: u16| {
        queue.ask(Method::POST, "", "ada", "k", &body).await.is_problem(status, code)
    };
    let (wish, sku) = (queue.wish(&[42]), format!("{}-42", queue.name));
    refused(wish.clone(), "checkout_profile_missing", 409).await;
    for (what, body) in [
        ("a SKU of another drop", json!({ "choices": [{ "sku": "shoe-42" }], "country": "DE" })),
        ("nothing", json!({ "choices": [], "country": "DE" })),
        ("twice the same", json!({ "choices": [{ "sku": sku }, { "sku": sku }], "country": "DE" })),
        ("no country", json!({ "choices": [{ "sku": sku }] })),
        ("no number", json!({ "choices": [{ "sku": sku }], "country": "DE", "quantity": 0 })),
    ] {
        let problem = refused(body, "invalid_request", 422).await;
        assert!(problem["errors"][0]["detail"].is_string(), "{what}: {problem}");
    }
    refused(json!({ "choices": [{ "sku": sku }], "country": "DE", "quantity": 3 }), "limit_exceeded", 409).await;
    let too_little = json!({ "amount_minor": 12_482, "currency": "EUR" });
    let wish = json!({ "choices": [{ "sku": sku, "accepted_total": too_little }], "country": "DE" });
    assert_eq!(refused(wish, "price_changed", 409).await["total"]["amount_minor"], 12_483);
    queue.me("ada").await.is_problem(404, "place_not_found");

    for buyer in ["bob", "carl"] {
        let address =
            json!({ "name": "B", "line1": "1 Road", "city": "Bonn", "postal_code": "53111", "country": "DE" });
        let profile = json!({ "payment_method": "pm_card_visa", "email": "b@example.test", "ship_to": address });
        let request = queue.shop.http.put(queue.shop.url("/v1/me/checkout-profile")).bearer_auth(token(buyer));
        assert_eq!(send(request.json(&profile)).await.status, 200);
    }
    assert_eq!(queue.join("bob", "k", &[42]).await.status, 201);
    queue.join("carl", "k", &[42]).await.is_problem(409, "line_full");
    let nowhere = queue.shop.url(&format!("/v1/drops/{}/line", queue.shop.drop));
    send(queue.shop.http.get(nowhere)).await.is_problem(404, "no_line");
}

#[tokio::test]
async fn the_board_is_small_the_same_for_everybody_and_kept_until_it_changes() {
    let mut queue = Queue::new(Admission::Queue, 100).await;
    for who in ["ada", "bob", "carl"] {
        assert_eq!(queue.join(who, "k", &[42]).await.status, 201);
    }
    queue.anybody("/leaves/7e8").await.is_problem(409, "not_open");
    let first = queue.anybody("").await;
    assert_eq!(first.json()["state"], "open", "{first:?}");
    assert_eq!(
        first.header("cache-control"),
        Some("public, max-age=1, s-maxage=1, stale-while-revalidate=1, stale-if-error=30")
    );
    assert!(first.header("vary").is_none_or(|vary| vary.eq_ignore_ascii_case("accept-encoding")), "{first:?}");
    assert!(first.header("set-cookie").is_none());
    queue.let_it_be_opening().await;
    crate::support::until("the board is drawn", async || queue.anybody("").await.json()["state"] == "drawn").await;
    let board = queue.anybody("").await;
    assert!(board.text.len() <= 500 + 2 * 16 + 280, "{} bytes: {}", board.text.len(), board.text);
    let shown = board.json();
    assert!(shown["version"].as_u64() > first.json()["version"].as_u64(), "a version only rises");
    assert_eq!(
        (&shown["in_line"], &shown["seal"]["count"], &shown["left"]),
        (&json!(3), &json!(3), &json!(["none", "many"]))
    );
    let rules = queue.anybody("/rules").await;
    assert_eq!(shown["seal"]["rules"], hash_of(&rules.text).to_string(), "the hash is that of these very bytes");
    let known = queue.shop.http.get(queue.shop.url(&queue.path(""))).bearer_auth(token("ada"));
    let known = send(known.header("If-None-Match", board.header("etag").unwrap())).await;
    // It may have been read anew in between; then it is whole, and its time is another.
    assert!(known.status == 304 && known.text.is_empty() || known.status == 200, "{known:?}");

    let me = queue.me("ada").await.json();
    let id = me["entry_id"].as_str().unwrap();
    let leaves = queue.anybody(&format!("/leaves/{}", &id[..3])).await;
    assert_eq!(leaves.header("cache-control"), Some("public, max-age=31536000, immutable"));
    let leaves = leaves.json();
    let found = leaves["leaves"].as_array().unwrap().iter().any(|leaf| leaf["entry_id"] == id);
    assert!(found && leaves["count"] == 3, "{leaves}");
    queue.anybody("/leaves/XYZ").await.is_problem(404, "not_found");
}
