//! Every pair of effects on one buyer, one cart, one order and one drop at the same moment: what comes of it is what one order
//! of the two, or the other, comes to.
//!
//! A row of [`EFFECTS`] says what is done and in which worlds. For each pair in a world, both orders are tried one after the other
//! first, each in a fresh world, and what they answer and leave behind is what is allowed. Then the two are done at once. What
//! neither order comes to and is right all the same stands in [`EXTRAS`], with the reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use doorbuster::Secret;
use doorbuster::shopper::Sessions;
use doorbuster_engine::domain::carts::{Addition, CartOwner, CartSession, LineQuantity};
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{NewDrop, NewVariant, PayTerms};
use doorbuster_engine::domain::ids::{BuyerId, VariantId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::flows::checkout::{CheckedOut, CheckoutAsked};
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::ledger::rates::RateRow;
use doorbuster_engine::workers::settle_all;
use doorbuster_sandbox::shared;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use super::fulfilment::PaidShop;
use super::shop::send;
use crate::support::{Answer, SECRET, token};

/// In the gate, in four of the worlds, each pair with one of these is done at once one time: these have lost races, and did so in
/// most tries. `make soak` does every pair in every world twenty times.
const IN_THE_GATE: [&str; 4] = ["check out", "erase", "another buyer merges", "archive"];
const ROUNDS: u32 = 1;
const SOAK_ROUNDS: u32 = 20;
/// Products to take a fresh one from, for each world that is set up.
const PRODUCTS: u32 = 2_000;
const LIMIT: u32 = 2;

/// What there is before the two come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Around {
    /// A buyer with a profile and two of a product in the cart, a guest's cart with three of it; six lie on the shelf.
    Cart,
    /// As before, and an order of two that is to be charged; one more is in the cart.
    Unpaid,
    /// An order of a drop's unit that was claimed before there was a profile: it waits for a payment.
    Required,
    /// An order of two that is paid, then packed, then shipped.
    Paid,
    Packed,
    Shipped,
    /// A drop of one unit that sells, with that unit in the buyer's cart.
    Selling,
    /// A drop that is closed, and the order of its only unit, delivered.
    Ended,
}

use Around::{Cart, Ended, Packed, Paid, Required, Selling, Shipped, Unpaid};

struct Effect {
    name: &'static str,
    on: &'static [Around],
    /// Does it, for one side of the pair, and answers what it was told.
    act: for<'a> fn(&'a Trial<'a>, Side) -> BoxFuture<'a, String>,
}

/// Which of the two: a key of its own.
#[derive(Debug, Clone, Copy)]
struct Side(&'static str);

const EFFECTS: &[Effect] = &[
    Effect { name: "check out", on: &[Cart, Unpaid, Selling], act: |on, side| Box::pin(on.check_out(side)) },
    Effect { name: "add one", on: &[Cart], act: |on, side| Box::pin(on.add(side)) },
    Effect { name: "set to five", on: &[Cart], act: |on, _| Box::pin(on.set()) },
    Effect { name: "take the line out", on: &[Cart], act: |on, _| Box::pin(on.remove()) },
    Effect { name: "empty the cart", on: &[Cart, Selling], act: |on, _| Box::pin(on.clear()) },
    Effect { name: "merge", on: &[Cart], act: |on, side| Box::pin(on.merge(side, "")) },
    Effect { name: "another buyer merges", on: &[Cart], act: |on, side| Box::pin(on.merge(side, "-other")) },
    Effect { name: "move", on: &[Cart, Unpaid, Required, Selling], act: |on, _| Box::pin(on.save_profile()) },
    Effect { name: "take five off the shelf", on: &[Cart], act: |on, side| Box::pin(on.adjust(side)) },
    Effect {
        name: "erase",
        on: &[Cart, Unpaid, Required, Paid, Packed, Shipped, Selling, Ended],
        act: |on, side| Box::pin(on.erase(side)),
    },
    Effect { name: "charge", on: &[Unpaid, Required], act: |on, _| Box::pin(on.charge()) },
    Effect { name: "pay", on: &[Required], act: |on, side| Box::pin(on.of_order("payment", side)) },
    Effect {
        name: "cancel",
        on: &[Unpaid, Required, Paid, Packed],
        act: |on, side| Box::pin(on.of_order("cancel", side)),
    },
    Effect { name: "expire", on: &[Unpaid, Required], act: |on, _| Box::pin(on.expire()) },
    Effect {
        name: "the shop cancels",
        on: &[Unpaid, Paid, Packed],
        act: |on, side| Box::pin(on.operator("cancel", side, json!({ "reason": "a call" }))),
    },
    Effect { name: "pack", on: &[Paid], act: |on, side| Box::pin(on.operator("process", side, Value::Null)) },
    Effect {
        name: "ship",
        on: &[Packed],
        act: |on, side| Box::pin(on.operator("ship", side, json!({ "carrier": "DHL", "tracking_number": "1" }))),
    },
    Effect { name: "deliver", on: &[Shipped], act: |on, side| Box::pin(on.operator("deliver", side, Value::Null)) },
    Effect {
        name: "refund most of it",
        on: &[Paid, Packed, Shipped, Ended],
        act: |on, side| Box::pin(on.operator("refunds", side, json!({ "amount_minor": 1_200, "reason": "goodwill" }))),
    },
    Effect {
        name: "take one back",
        on: &[Shipped, Ended],
        act: |on, side| {
            let lines = json!([{ "line": 1, "quantity": 1, "restock": true }]);
            Box::pin(on.operator("returns", side, json!({ "lines": lines, "reason": "small" })))
        },
    },
    Effect { name: "claim", on: &[Selling], act: |on, side| Box::pin(on.claim(side)) },
    Effect { name: "wait in line", on: &[Selling, Required], act: |on, side| Box::pin(on.wait(side)) },
    Effect { name: "settle", on: &[Selling], act: |on, _| Box::pin(on.settle()) },
    Effect { name: "close", on: &[Selling], act: |on, _| Box::pin(on.close()) },
    Effect { name: "archive", on: &[Ended], act: |on, _| Box::pin(on.archive()) },
];

/// What comes of two effects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    answers: [String; 2],
    left: String,
}

/// What neither order comes to, and why it is right.
struct Extra {
    pair: [&'static str; 2],
    /// Whether it is this; the answers are in the order of the pair.
    is: fn(&Outcome) -> bool,
    #[expect(dead_code, reason = "the reason is for the reader")]
    why: &'static str,
}

const EXTRAS: &[Extra] = &[
    Extra {
        pair: ["check out", "check out"],
        is: |found| found.answers.contains(&"409 cart_ordered".to_owned()) && found.answers.contains(&"201".to_owned()),
        why: "the second has read the cart before it lost what the first ordered, and is told which order that is",
    },
    Extra {
        pair: ["check out", "set to five"],
        is: |found| {
            found.answers == ["201", "200"] && found.left.contains("x2") && found.left.contains("3 in the cart")
        },
        why: "the line was set for the cart as it was seen, and then lost the two that were ordered from that very cart",
    },
    Extra {
        pair: ["check out", "take the line out"],
        is: |found| found.answers == ["201", "200"] && found.left.contains("x2") && !found.left.contains("in the cart"),
        why: "the line was taken out of the cart as it was seen while two of it were being ordered; neither is undone",
    },
    Extra {
        pair: ["check out", "merge"],
        is: |found| {
            found.answers == ["201", "200"] && found.left.contains("x2") && found.left.contains("1 in the cart")
        },
        why: "of two and three the merge keeps three, and two of these are being ordered",
    },
    Extra {
        pair: ["check out", "close"],
        is: |found| found.answers == ["410 closed", "true"] && found.left.contains("1 available, 0 reserved"),
        why: "the drop still sold when the cart was priced, and closed before the claim",
    },
    Extra {
        pair: ["check out", "erase"],
        is: |found| found.answers == ["409 checkout_profile_missing", "200"] && !found.left.contains("for the buyer"),
        why: "the erasure deletes the cart last: in between there is a cart, and no profile any more",
    },
    Extra {
        pair: ["erase", "wait in line"],
        is: |found| {
            found.answers == ["200", "201"] && found.left.contains("in line: WAITING") && found.left.contains("kept")
        },
        why: "the place came while the erasure was at work, which then sees a name that the drop keeps until its archive",
    },
];

/// The shop that all worlds are set up in.
struct Stage {
    paid: PaidShop,
    sql: Client,
    next: AtomicU32,
    first_variant: i32,
}

/// One world, fresh.
struct Trial<'a> {
    stage: &'a Stage,
    buyer: String,
    sku: String,
    variant: i32,
    /// As the cart was seen.
    version: u64,
    session: CartSession,
    order: String,
    drop: String,
}

fn price(minor: i64) -> Money {
    Money::new(minor, "EUR".parse().unwrap())
}

fn profile(city: &str) -> CheckoutProfile {
    CheckoutProfile {
        payment_method: Some("pm_card_visa".parse().unwrap()),
        email: format!("{city}@example.com"),
        ship_to: json!({ "name": "B", "line1": "1 Road", "city": city, "postal_code": "50667", "country": "DE" }),
    }
}

fn told(answer: &Answer) -> String {
    let code = if answer.status.is_success() { Value::Null } else { answer.json()["code"].clone() };
    let is_replay = answer.header("idempotent-replayed").is_some();
    let words = [code.as_str().unwrap_or_default(), if is_replay { "replayed" } else { "" }];
    let words = words.into_iter().filter(|word| !word.is_empty());
    [answer.status.as_str()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

impl Stage {
    async fn new() -> Self {
        let paid = PaidShop::new().await;
        let (sql, connection) = tokio_postgres::connect(&paid.shop.database_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let rate = RateRow {
            country: "*".to_owned(),
            currency: "EUR".parse().unwrap(),
            tax_basis_points: 0,
            shipping_tax_basis_points: Some(0),
            shipping_minor: 0,
            free_shipping_from_minor: None,
        };
        paid.shop.engine.ledger.replace_rates(&[rate]).await.unwrap();
        paid.shop.engine.ledger.make_warehouse(&"berlin".parse().unwrap()).await.unwrap();
        let products = format!(
            "insert into products (name, reservation) select 'pair ' || n, 'row_lock' from generate_series(1, {PRODUCTS}) n;
             insert into variants (product_id, sku, title, price_minor, currency)
                 select product_id, replace(name, ' ', '-'), 'One', 900, 'EUR' from products where name like 'pair %'
                 order by product_id;
             insert into inventory (product_id, variant_id, warehouse_id, quantity_available)
                 select product_id, variant_id, warehouse_id, 6 from variants, warehouses
                 where sku like 'pair-%' and code = 'berlin';
             insert into stock_adjustments (product_id, variant_id, warehouse_id, delta, reason, actor, available_after,
                                            reserved_after, adjusted_at)
                 select product_id, variant_id, warehouse_id, 6, 'counted', 'ada', 6, 0, now() from inventory
                 join variants using (product_id, variant_id) where sku like 'pair-%'"
        );
        sql.batch_execute(&products).await.unwrap();
        let first = "select min(variant_id) from variants where sku like 'pair-%'";
        let first_variant = sql.query_one(first, &[]).await.unwrap().get(0);
        Self { paid, sql, next: AtomicU32::new(0), first_variant }
    }

    /// A fresh world of this kind.
    async fn set_up(&self, around: Around) -> Trial<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let shop = &self.paid.shop;
        let variant = self.first_variant + number.cast_signed();
        let mut trial = Trial {
            stage: self,
            buyer: format!("{}-pair-{number}", shop.drop),
            sku: String::new(),
            variant,
            version: 0,
            session: CartSession::from_random(rand::random()),
            order: String::new(),
            drop: String::new(),
        };
        let row = self.sql.query_one("select sku from variants where variant_id = $1", &[&variant]).await.unwrap();
        trial.sku = row.get(0);
        // Of worlds before this one nothing is charged or settled any more.
        let quiet = "update payments set due_at = null where due_at is not null;
                     update drops set state = 'archived' where state <> 'archived'";
        self.sql.batch_execute(quiet).await.unwrap();
        if matches!(around, Required | Selling | Ended) {
            trial.make_drop().await;
        }
        match around {
            Cart => {
                trial.save("Köln").await;
                trial.put(CartOwner::Guest(trial.session.clone()), trial.variant, 3).await;
                trial.version = trial.put(trial.owner(), trial.variant, 2).await;
            }
            Unpaid => {
                trial.save("Köln").await;
                trial.buy().await;
                trial.put(trial.owner(), trial.variant, 1).await;
            }
            Required => {
                trial.claim_and_settle().await;
                trial.save("Köln").await;
            }
            Paid | Packed | Shipped => {
                trial.save("Köln").await;
                trial.buy().await;
                self.paid.charge().await;
                for (verb, from) in [("process", Packed), ("ship", Shipped)] {
                    if around >= from {
                        let body = json!({ "carrier": "DHL", "tracking_number": "1" });
                        let body = if verb == "ship" { body } else { Value::Null };
                        assert_eq!(trial.operator(verb, Side("set-up"), body).await, "200");
                    }
                }
            }
            Selling => {
                trial.save("Köln").await;
                trial.put(trial.owner(), trial.variant, 1).await;
            }
            Ended => {
                trial.save("Köln").await;
                trial.claim_and_settle().await;
                self.paid.charge().await;
                let tracking = json!({ "carrier": "DHL", "tracking_number": "1" });
                for (verb, body) in [("process", Value::Null), ("ship", tracking), ("deliver", Value::Null)] {
                    assert_eq!(trial.operator(verb, Side("set-up"), body).await, "200");
                }
                shop.engine.close_drop(&trial.drop.parse().unwrap()).await.unwrap().unwrap();
            }
        }
        trial
    }
}

/// How a world is set up.
impl Trial<'_> {
    fn id(&self) -> BuyerId {
        self.buyer.parse().unwrap()
    }

    fn owner(&self) -> CartOwner {
        CartOwner::Buyer(self.id())
    }

    async fn save(&self, city: &str) {
        let ledger = &self.stage.paid.shop.engine.ledger;
        ledger.save_profile(&self.id(), &profile(city), Clock::System.now()).await.unwrap();
    }

    /// The version of the cart afterwards.
    async fn put(&self, owner: CartOwner, variant: i32, units: i64) -> u64 {
        let addition = Addition {
            variant_id: VariantId(variant),
            quantity: LineQuantity::new(units).unwrap(),
            price: price(900),
            key: "set-up".parse().unwrap(),
        };
        let carts = &self.stage.paid.shop.engine.carts;
        carts.add(&owner, &addition).await.unwrap();
        carts.read(&owner).await.unwrap().unwrap().version.0
    }

    /// An order of two.
    async fn buy(&mut self) {
        let engine = &self.stage.paid.shop.engine;
        self.put(self.owner(), self.variant, 2).await;
        let asked = CheckoutAsked { key: "set-up".parse().unwrap(), cart_version: None, accepted_total: None };
        let made = engine.checkout(&self.id(), &asked).await.unwrap();
        let CheckedOut::Now(made) = made else { panic!("{made:?}") };
        self.order = made.order.unwrap().0.to_string();
        engine.carts.forget(&self.owner()).await.unwrap();
    }

    async fn make_drop(&mut self) {
        let engine = &self.stage.paid.shop.engine;
        // Other processes have worlds of their own in the same Redis.
        self.drop = format!("pair-{}", shared::unique());
        let variant =
            NewVariant { sku: format!("{}-drop", self.sku), title: "One".to_owned(), price_minor: 900, stock_units: 1 };
        let new = NewDrop {
            name: self.drop.parse().unwrap(),
            product_name: self.drop.clone(),
            currency: "EUR".parse().unwrap(),
            variants: vec![variant],
            buyer_limit: LIMIT,
            warehouses: 1,
            tax_basis_points: 0,
            shipping_minor: 490,
            rates_of_shop: false,
            price_includes_tax: false,
            opens_at: None,
            closes_at: None,
            pay_by: Clock::System.now().checked_add(SignedDuration::from_hours(24)).unwrap(),
            pay_terms: PayTerms::OF_THE_DROP,
            acknowledgement: Acknowledgement::Accepted,
            replicas: 0,
            line: None,
        };
        engine.create_drop(&new, 7).await.unwrap().unwrap();
        let drop = engine.open_drop(&new.name).await.unwrap().unwrap();
        self.variant = drop.variants[0].variant_id;
    }

    async fn claim_and_settle(&mut self) {
        let answer =
            self.asked(Method::POST, &format!("/v1/drops/{}/claims", self.drop), Side("set-up")).json(&json!({}));
        let answer = send(answer).await;
        self.order = answer.json()["claim_id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
        settle_all(&self.stage.paid.shop.engine).await.unwrap();
    }
}

/// The effects.
impl Trial<'_> {
    fn asked(&self, method: Method, path: &str, side: Side) -> RequestBuilder {
        let shop = &self.stage.paid.shop;
        shop.http.request(method, shop.url(path)).bearer_auth(token(&self.buyer)).header("Idempotency-Key", side.0)
    }

    fn seen(&self, method: Method, path: &str) -> RequestBuilder {
        self.asked(method, path, Side("seen")).header("If-Match", format!("\"v{}\"", self.version))
    }

    async fn check_out(&self, side: Side) -> String {
        told(&send(self.asked(Method::POST, "/v1/checkout", side).json(&json!({}))).await)
    }

    async fn add(&self, side: Side) -> String {
        let item = json!({ "variant_id": self.variant, "quantity": 1 });
        told(&send(self.asked(Method::POST, "/v1/cart/items", side).json(&item)).await)
    }

    async fn set(&self) -> String {
        let path = format!("/v1/cart/items/{}", self.variant);
        told(&send(self.seen(Method::PUT, &path).json(&json!({ "quantity": 5 }))).await)
    }

    async fn remove(&self) -> String {
        told(&send(self.seen(Method::DELETE, &format!("/v1/cart/items/{}", self.variant))).await)
    }

    async fn clear(&self) -> String {
        told(&send(self.asked(Method::DELETE, "/v1/cart", Side("any")).header("If-Match", "*")).await)
    }

    async fn merge(&self, side: Side, other: &str) -> String {
        let shop = &self.stage.paid.shop;
        let request = shop.http.post(shop.url("/v1/cart/merge")).bearer_auth(token(&format!("{}{other}", self.buyer)));
        let session = Sessions::new(&Secret::from(SECRET.to_owned())).signed(&self.session);
        let request = request.header("Idempotency-Key", side.0).header("Cart-Session", session);
        told(&send(request).await)
    }

    async fn save_profile(&self) -> String {
        let profile = profile("Bonn");
        let body = json!({ "payment_method": "pm_card_visa", "email": profile.email, "ship_to": profile.ship_to });
        told(&send(self.asked(Method::PUT, "/v1/me/checkout-profile", Side("move")).json(&body)).await)
    }

    async fn adjust(&self, side: Side) -> String {
        let shop = &self.stage.paid.shop;
        let key = format!("{}-{}", self.sku, side.0);
        let request = shop.ada(Method::POST, "/v1/stock/adjustments").header("Idempotency-Key", key);
        let body = json!({ "sku": self.sku, "warehouse": "berlin", "delta": -5, "reason": "broken" });
        told(&send(request.json(&body)).await)
    }

    async fn erase(&self, side: Side) -> String {
        told(&send(self.asked(Method::DELETE, "/v1/me", side)).await)
    }

    async fn of_order(&self, verb: &str, side: Side) -> String {
        told(&send(self.asked(Method::POST, &format!("/v1/orders/{}/{verb}", self.order), side)).await)
    }

    async fn operator(&self, verb: &str, side: Side, body: Value) -> String {
        told(&self.stage.paid.act(&self.order, verb, side.0, body).await)
    }

    async fn charge(&self) -> String {
        self.stage.paid.charge().await;
        String::new()
    }

    async fn expire(&self) -> String {
        let engine = &self.stage.paid.shop.engine;
        let order = doorbuster_engine::domain::ids::OrderId(self.order.parse().unwrap());
        engine.ledger.expire_unpaid(&[order], engine.clock.now()).await.unwrap();
        String::new()
    }

    async fn claim(&self, side: Side) -> String {
        let path = format!("/v1/drops/{}/claims", self.drop);
        told(&send(self.asked(Method::POST, &path, side).json(&json!({}))).await)
    }

    async fn wait(&self, side: Side) -> String {
        let path = format!("/v1/drops/{}/standby", self.drop);
        told(&send(self.asked(Method::POST, &path, side).json(&json!({}))).await)
    }

    async fn settle(&self) -> String {
        settle_all(&self.stage.paid.shop.engine).await.unwrap();
        String::new()
    }

    async fn close(&self) -> String {
        let closed = self.stage.paid.shop.engine.close_drop(&self.drop.parse().unwrap()).await.unwrap();
        format!("{}", closed.is_ok())
    }

    async fn archive(&self) -> String {
        let archived = self.stage.paid.shop.engine.archive_drop(&self.drop.parse().unwrap()).await.unwrap();
        format!("{}", archived.is_ok())
    }
}

/// What is left.
impl Trial<'_> {
    async fn left(&self, effects: [&Effect; 2]) -> String {
        let (shop, sql) = (&self.stage.paid.shop, &self.stage.sql);
        if !self.drop.is_empty() {
            settle_all(&shop.engine).await.unwrap();
        }
        if effects.iter().any(|effect| effect.name == "charge") {
            self.stage.paid.charge().await;
        }
        const FACTS: &str = "
            select concat_ws('; ',
                (select string_agg(format('%s x%s %s for %s, %s%s', o.status, i.quantity, p.state,
                                          case when o.buyer = $2 then 'the buyer' else 'nobody' end,
                                          coalesce(o.ship_to ->> 'city', 'nowhere'),
                                          case when i.returned_quantity > 0 then ', one back' else '' end),
                                   ' and ' order by o.status, i.quantity, p.state, o.ship_to ->> 'city')
                 from orders o join order_items i using (order_id) join payments p using (order_id) where i.variant_id = $1),
                (select format('%s refunded', sum(amount_minor)) from refunds r join order_items i using (order_id)
                 where i.variant_id = $1 and r.state <> 'FAILED' having count(*) > 0),
                (select format('%s available, %s reserved', sum(quantity_available), sum(quantity_reserved)) from inventory
                 where variant_id = $1),
                coalesce((select 'lives in ' || (ship_to ->> 'city') from checkout_profiles where buyer = $2), 'no profile'),
                (select string_agg('in line: ' || state, ', ' order by state) from standby_places where buyer = $2),
                (select 'checkouts: ' || count(*) from checkouts where buyer = $2 and claim_state is distinct from 'REFUSED'),
                (select string_agg(distinct 'kept', '') from (
                    select 1 from holdings where buyer = $2 union all select 1 from grants where buyer = $2
                    union all select 1 from erasures where buyer = $2) kept))";
        let facts: String = sql.query_one(FACTS, &[&self.variant, &self.buyer]).await.unwrap().get(0);
        let mut left = vec![facts];
        let other: BuyerId = format!("{}-other", self.buyer).parse().unwrap();
        let owners = [self.owner(), CartOwner::Guest(self.session.clone()), CartOwner::Buyer(other)];
        for (whose, owner) in ["cart", "guest's cart", "the other's cart"].into_iter().zip(owners) {
            let cart = shop.engine.carts.read(&owner).await.unwrap();
            let units = cart.iter().flat_map(|cart| &cart.lines).map(|line| line.quantity).sum::<u32>();
            if units > 0 {
                left.push(format!("{units} in the {whose}"));
            }
        }
        left.join("; ")
    }
}

/// How the two are done.
#[derive(Debug, Clone, Copy)]
enum How {
    FirstThenSecond,
    SecondThenFirst,
    /// At once, one of them so many milliseconds later.
    AtOnce(u64, u64),
}

async fn outcome(stage: &Stage, around: Around, [first, second]: [&Effect; 2], how: How) -> Outcome {
    let trial = stage.set_up(around).await;
    let one = (first.act)(&trial, Side("one"));
    let two = (second.act)(&trial, Side("two"));
    let later = async |after: u64| tokio::time::sleep(Duration::from_millis(after)).await;
    let answers = match how {
        How::FirstThenSecond => {
            let one = one.await;
            [one, two.await]
        }
        How::SecondThenFirst => {
            let two = two.await;
            [one.await, two]
        }
        How::AtOnce(first_waits, second_waits) => {
            let one = async {
                later(first_waits).await;
                one.await
            };
            let two = async {
                later(second_waits).await;
                two.await
            };
            <[String; 2]>::from(tokio::join!(one, two))
        }
    };
    let left = trial.left([first, second]).await;
    Outcome { answers, left }
}

fn is_extra([first, second]: [&Effect; 2], outcome: &Outcome) -> bool {
    let turned = || {
        let [one, two] = outcome.answers.clone();
        Outcome { answers: [two, one], left: outcome.left.clone() }
    };
    EXTRAS.iter().any(|extra| {
        (extra.pair == [first.name, second.name] && (extra.is)(outcome))
            || (extra.pair == [second.name, first.name] && (extra.is)(&turned()))
    })
}

/// Every pair of the effects on what is around, done at once so many times.
async fn every_pair(around: Around, rounds: u32) {
    let stage = Stage::new().await;
    let began = Instant::now();
    let (mut pairs, mut extras, mut wrong) = (0, BTreeMap::<_, u32>::new(), BTreeMap::<String, u32>::new());
    let here = EFFECTS.iter().filter(|effect| effect.on.contains(&around)).collect::<Vec<_>>();
    for (at, first) in here.iter().enumerate() {
        for second in &here[at..] {
            let pair = [*first, *second];
            if rounds < SOAK_ROUNDS && !pair.iter().any(|effect| IN_THE_GATE.contains(&effect.name)) {
                continue;
            }
            let allowed = [
                outcome(&stage, around, pair, How::FirstThenSecond).await,
                outcome(&stage, around, pair, How::SecondThenFirst).await,
            ];
            pairs += 1;
            for round in 0..rounds {
                // At the same moment, and a little beside it, on either side.
                let wait = u64::from(round / 2 % 4);
                let how = if round % 2 == 0 { How::AtOnce(0, wait) } else { How::AtOnce(wait, 0) };
                let found = outcome(&stage, around, pair, how).await;
                if allowed.contains(&found) {
                    continue;
                }
                if is_extra(pair, &found) {
                    *extras.entry([first.name, second.name]).or_default() += 1;
                    continue;
                }
                let what = format!(
                    "{around:?}: {} + {}\n  found   {found:?}\n  allowed {:?}\n       or {:?}",
                    first.name, second.name, allowed[0], allowed[1]
                );
                *wrong.entry(what).or_default() += 1;
            }
        }
    }
    let took = began.elapsed();
    eprintln!("{around:?}: {pairs} pairs, {rounds} times each at once in {took:.1?}; extras: {extras:?}");
    let report = wrong.iter().map(|(what, times)| format!("{times} times {what}\n")).collect::<String>();
    assert!(wrong.is_empty(), "{report}");
    let audit = stage.paid.shop.engine.audit(None).await.unwrap();
    assert!(audit.is_clean(), "{:#?}", audit.violations);
}

macro_rules! in_the_gate {
    ($($name:ident: $around:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            every_pair($around, ROUNDS).await;
        }
    )*};
}

in_the_gate! {
    two_effects_on_a_cart_come_to_what_one_order_of_them_does: Cart;
    two_effects_on_an_unpaid_order_come_to_what_one_order_of_them_does: Unpaid;
    two_effects_on_a_drop_that_sells_come_to_what_one_order_of_them_does: Selling;
    two_effects_on_a_drop_that_has_ended_come_to_what_one_order_of_them_does: Ended;
}

macro_rules! in_the_soak {
    ($($name:ident: $around:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "soak"]
        async fn $name() {
            every_pair($around, SOAK_ROUNDS).await;
        }
    )*};
}

in_the_soak! {
    soak_of_a_cart: Cart;
    soak_of_an_unpaid_order: Unpaid;
    soak_of_an_order_without_a_method: Required;
    soak_of_a_paid_order: Paid;
    soak_of_a_packed_order: Packed;
    soak_of_a_shipped_order: Shipped;
    soak_of_a_drop_that_sells: Selling;
    soak_of_a_drop_that_has_ended: Ended;
}
