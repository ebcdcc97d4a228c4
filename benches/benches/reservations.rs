//! The four ways to reserve, side by side: checkouts a second by how many buyers want the same thing at once.
//!
//! `row_lock`, `warehouses` and `optimistic` place a checkout of one unit, with order, payment and history, as the product does
//! it; `tokens` claims a unit of a drop and settles it into the same rows. One product that everybody wants, and, as a
//! comparison, a hundred products of which each buyer takes another. Turn by turn in one run, medians of three; Postgres with
//! its durable defaults shares the machine.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use doorbuster_benches::sale;
use doorbuster_engine::domain::carts::CartVersion;
use doorbuster_engine::domain::checkout::{ForSale, Goods, Line, Quote, Source};
use doorbuster_engine::domain::claims::{Claim, ClaimOutcome, Quantity};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::{BuyerId, CheckoutId, OrderId, VariantId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::pricing::{Rate, Totals};
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::ledger::checkouts::{NewCheckout, Placed, Taken};
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_engine::workers::settle_all;
use doorbuster_sandbox::Sandbox;
use futures_util::future::join_all;
use uuid::Uuid;

const ROUNDS: usize = 3;
/// More than can order in all turns, at the largest rate of docs/CHECKOUT.md; each orders once.
const BUYERS: u64 = 400_000;
const TURN: Duration = Duration::from_secs(2);
const AT_ONCE: [usize; 3] = [1, 8, 32];
const CONNECTIONS: usize = 32;
const PRODUCTS: i32 = 100;
/// As the engine has it.
const OPTIMISTIC_TRIES: u32 = 8;

/// What is measured: a way, over so many places, of one product or of many.
struct Case {
    name: &'static str,
    way: StockWay,
    places: i32,
    products: i32,
}

const CASES: [Case; 8] = [
    Case { name: "row_lock, 1 place", way: StockWay::RowLock, places: 1, products: 1 },
    Case { name: "row_lock, 10 places", way: StockWay::RowLock, places: 10, products: 1 },
    Case { name: "warehouses, 10 places", way: StockWay::Warehouses, places: 10, products: 1 },
    Case { name: "warehouses, 32 places", way: StockWay::Warehouses, places: 32, products: 1 },
    Case { name: "optimistic, 1 place", way: StockWay::Optimistic, places: 1, products: 1 },
    Case { name: "row_lock, 100 products", way: StockWay::RowLock, places: 1, products: PRODUCTS },
    Case { name: "warehouses, 100 products", way: StockWay::Warehouses, places: 1, products: PRODUCTS },
    Case { name: "optimistic, 100 products", way: StockWay::Optimistic, places: 1, products: PRODUCTS },
];

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the figures are what this is run for")]
async fn main() {
    let sandbox = Sandbox::temporary().expect("a folder");
    let (redis, postgres) = (sandbox.redis().await.expect("redis-server"), sandbox.postgres().await.expect("Postgres"));
    let database = postgres.create_database("reservations").await.expect("a database");
    let ledger = Ledger::new(&database, CONNECTIONS).expect("a pool");
    ledger.migrate().await.expect("the schema");
    let engine = Engine::new(ledger, TokenStore::connect(&redis.url()).await.expect("a connection"), Clock::System);
    let (sql, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls).await.expect("a connection");
    tokio::spawn(connection);
    let shop = format!(
        "insert into warehouses (number, state, code)
         select nextval('warehouse_numbers')::smallint, 'ready', 'place-' || n from generate_series(1, 32) n;
         insert into products (name) select 'Mug ' || n from generate_series(1, {PRODUCTS}) n;
         insert into variants (product_id, sku, title, price_minor, currency)
         select n, 'mug-' || n, 'Mug', 900, 'EUR' from generate_series(1, {PRODUCTS}) n;
         insert into checkout_profiles
         select 'b-' || n, 'pm_card_visa', 'b@example.com', '{{\"country\": \"DE\"}}', now() from generate_series(1, {BUYERS}) n"
    );
    sql.batch_execute(&shop).await.expect("a shop");
    engine.create_drop(&sale("drop", 8, engine.clock.now()), 42).await.expect("a drop").expect("a name that is free");
    engine.open_drop(&"drop".parse().expect("a name")).await.expect("a drop").expect("open");

    let mut figures: HashMap<(&str, usize), Vec<(f64, u64)>> = HashMap::new();
    for _ in 0..ROUNDS {
        for at_once in AT_ONCE {
            for case in &CASES {
                let stock = format!(
                    "truncate inventory;
                     insert into inventory (product_id, variant_id, warehouse_id, quantity_available)
                     select p, p, w.warehouse_id, 10000000 from generate_series(1, {}) p,
                            (select warehouse_id from warehouses where code is not null order by 1 limit {}) w",
                    case.products, case.places
                );
                // The drop's own rows are looked after by nobody else here.
                sql.batch_execute(&format!(
                    "create temp table kept as select * from inventory i where exists
                         (select 1 from warehouses w where w.warehouse_id = i.warehouse_id and w.drop_id is not null);
                     {stock};
                     insert into inventory select * from kept; drop table kept"
                ))
                .await
                .expect("stock");
                figures.entry((case.name, at_once)).or_default().push(place(&engine, case, at_once).await);
            }
            figures.entry(("tokens", at_once)).or_default().push((claim(&engine, at_once).await, 0));
        }
    }
    println!("{:<26} {:>12} {:>12} {:>12}", "checkouts/s, at once:", AT_ONCE[0], AT_ONCE[1], AT_ONCE[2]);
    for name in CASES.iter().map(|case| case.name).chain(["tokens"]) {
        let cell = |at_once| {
            let mut of_case = figures[&(name, at_once)].clone();
            of_case.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (rate, again) = of_case[ROUNDS / 2];
            if again == 0 {
                format!("{rate:.0}")
            } else {
                format!("{rate:.0} (+{:.0} %)", again as f64 / rate / TURN.as_secs_f64() * 100.0)
            }
        };
        println!("{name:<26} {:>12} {:>12} {:>12}", cell(AT_ONCE[0]), cell(AT_ONCE[1]), cell(AT_ONCE[2]));
    }
    println!("(+n %): tries that were begun again, beside those that came through");
}

/// Checkouts a second, and how many tries had to be begun again.
async fn place(engine: &Engine, case: &Case, at_once: usize) -> (f64, u64) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let currency = "EUR".parse().expect("a currency");
    let profile = CheckoutProfile {
        payment_method: Some("pm_card_visa".parse().expect("a method")),
        email: "b@example.com".to_owned(),
        ship_to: serde_json::json!({ "country": "DE" }),
    };
    let quotes = (1..=case.products).map(|product| {
        let sale = ForSale {
            product,
            variant_id: VariantId(product),
            sku: format!("mug-{product}"),
            title: "Mug".to_owned(),
            price: Money::new(900, currency),
            from: Source::Shelves(case.way),
        };
        let rate = Rate {
            tax_basis_points: 1_900,
            shipping_tax_basis_points: None,
            shipping: Money::new(490, currency),
            free_shipping_from: None,
        };
        let totals = Totals::of(sale.price, &rate).expect("a price");
        let line = Line { price_at_add: sale.price, sale, quantity: 1 };
        let (tax_basis_points, shipping_tax_basis_points) = (rate.tax_basis_points, rate.shipping_tax());
        let goods = Goods { lines: vec![line], totals, tax_basis_points, shipping_tax_basis_points };
        Quote { goods: Some(goods), drop_line: None, total: totals.total }
    });
    let quotes = quotes.collect::<Vec<_>>();
    let began = Instant::now();
    let counts = join_all((0..at_once).map(async |client| {
        let (mut made, mut again) = (0_u64, 0_u64);
        while began.elapsed() < TURN {
            let id = Uuid::now_v7();
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            assert!(number <= BUYERS, "there are more checkouts than buyers with a profile");
            let buyer: BuyerId = format!("b-{number}").parse().expect("a buyer");
            let quote = &quotes[(client * 7 + made as usize) % quotes.len()];
            let new = NewCheckout {
                id: CheckoutId(id),
                order: OrderId(Uuid::now_v7()),
                buyer: &buyer,
                key: &"once".parse().expect("a key"),
                digest: b"asked",
                cart_version: CartVersion(1),
                taken: Taken::default(),
                quote,
                profile: &profile,
                pay_by: engine.clock.now(),
                unpaid_max: u32::MAX,
                unpaid_units_max: u32::MAX,
            };
            let mut tried = 1;
            loop {
                let placed = engine.ledger.place_checkout(&new, tried < OPTIMISTIC_TRIES, engine.clock.now());
                match placed.await.expect("an answer") {
                    Placed::Changed => (tried, again) = (tried + 1, again + 1),
                    Placed::Now(_) => break,
                    other => panic!("{other:?}"),
                }
            }
            made += 1;
        }
        (made, again)
    }))
    .await;
    let took = began.elapsed().as_secs_f64();
    (counts.iter().map(|(made, _)| made).sum::<u64>() as f64 / took, counts.iter().map(|(_, again)| again).sum())
}

/// Claims a second, the settlement of all of them included.
async fn claim(engine: &Engine, at_once: usize) -> f64 {
    let live = engine.live_drop(&"drop".parse().expect("a name")).await.expect("a drop").expect("a drop");
    let began = Instant::now();
    let counts = join_all((0..at_once).map(async |_| {
        let mut made = 0_u64;
        while began.elapsed() < TURN {
            let buyer = format!("b-{}", Uuid::now_v7().simple()).parse().expect("a buyer");
            let variant = live.drop.variants[0].number;
            let one = Quantity::new(1).expect("a quantity");
            let claim = Claim::new(live.drop.id, buyer, &"once".parse().expect("a key"), variant, one);
            let outcome = engine.claim(&live, &claim).await.expect("an answer").outcome;
            assert!(matches!(outcome, ClaimOutcome::Taken { .. }), "{outcome:?}");
            made += 1;
        }
        made
    }))
    .await;
    settle_all(engine).await.expect("settled");
    counts.into_iter().sum::<u64>() as f64 / began.elapsed().as_secs_f64()
}
