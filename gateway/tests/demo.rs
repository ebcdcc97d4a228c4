//! The demo's report is clean after an honest sale and turns red for every way in which a sale can go wrong.

use doorbuster::demo::{Demo, DemoOptions, DemoReport, Screen};
use doorbuster_sandbox::crowd::{Call, CallOutcome, Visit};
use jiff::SignedDuration;
use tokio_postgres::{Client, NoTls};

fn options() -> DemoOptions {
    DemoOptions {
        buyers: 300,
        stock: 40,
        warehouses: 4,
        limit: 2,
        decline_rate: 0.1,
        settle_every: SignedDuration::from_millis(500),
        seed: 3,
        chaos: false,
        exit: true,
        report: None,
    }
}

async fn sold(options: DemoOptions) -> Demo {
    let screen = Screen::silent();
    let mut demo = Demo::open(options, &screen).await.unwrap();
    demo.sell(&screen).await.unwrap();
    demo
}

async fn sql(demo: &Demo) -> Client {
    let (client, connection) = tokio_postgres::connect(&demo.database_url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// What the checker finds, apart from what it lists in words.
fn zeros(report: &DemoReport) -> [(&'static str, u64); 3] {
    let verdict = &report.verdict;
    [
        ("oversold", verdict.oversold),
        ("refused_while_stock_remained", verdict.refused_while_stock_remained),
        ("captures_per_order_max", verdict.captures_per_order_max),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_sale_is_clean_and_each_doctored_one_is_red() {
    let mut demo = sold(options()).await;
    let honest = demo.report().await.unwrap();
    assert!(honest.is_clean(), "{:#?}\n{:#?}", honest.verdict, honest.audit.violations);
    assert_eq!(zeros(&honest).map(|(_, found)| found), [0, 0, 1]);
    let accounted = honest.verdict.units_confirmed + honest.verdict.tokens_free;
    assert_eq!(accounted, u64::from(honest.stock), "every unit is sold or free");
    let json = serde_json::to_value(&honest).unwrap();
    for field in [
        "stock",
        "buyers",
        "claims_accepted",
        "replayed_clicks",
        "sold_out_answers",
        "orders_confirmed",
        "units_confirmed",
        "orders_payment_failed",
        "tokens_free",
        "oversold",
        "refused_while_stock_remained",
        "captures_per_order_max",
        "audit_violations",
        "claim_latency_ms",
        "claims_per_s",
        "settle_per_s",
        "elapsed_s",
        "redis_version",
        "postgres_version",
    ] {
        assert!(json.get(field).is_some(), "the report has no {field}");
    }

    // An early refusal: somebody was told "sold out" before the first unit had gone.
    let first = demo.log.calls.iter().map(|call| call.started_us).min().unwrap();
    let early = Call {
        buyer: "buyer-early".to_owned(),
        key: "early".to_owned(),
        sku: demo.log.calls[0].sku.clone(),
        quantity: 1,
        visit: Visit::FirstClick,
        due_us: first - 2_000,
        started_us: first - 2_000,
        ended_us: first - 1_000,
        outcome: CallOutcome::SoldOut,
    };
    demo.log.calls.insert(0, early);
    let report = demo.report().await.unwrap();
    assert!(!report.is_clean());
    assert_eq!(report.verdict.refused_while_stock_remained, 1);
    demo.log.calls.remove(0);

    // A second capture at the provider.
    let paid = demo.provider.captures()[0].order_id.clone().unwrap();
    demo.provider.capture_twice(&paid).unwrap();
    let report = demo.report().await.unwrap();
    assert!(!report.is_clean());
    assert_eq!(report.verdict.captures_per_order_max, 2);
    assert!(report.audit_violations > 0, "the audit sees it too");

    // An extra order for a unit that is sold already.
    let sql = sql(&demo).await;
    const EXTRA: &str = "
        with sold as (select * from orders where status = 'CONFIRMED' limit 1), extra as (
            insert into orders select gen_random_uuid(), 'buyer-extra', drop_id, status, currency, subtotal_minor, tax_minor,
                                      shipping_minor, total_minor, email, ship_to, created_at, updated_at
            from sold returning order_id
        ), items as (
            insert into order_items
            select extra.order_id, line, product_id, variant_id, warehouse_id, quantity, unit_price_minor, serials
            from order_items join sold using (order_id), extra
        )
        insert into payments (order_id, state, amount_minor, currency, idempotency_key, updated_at)
        select extra.order_id, 'SUCCEEDED', 1, 'EUR', 'extra', now() from extra";
    sql.execute(EXTRA, &[]).await.unwrap();
    let report = demo.report().await.unwrap();
    assert!(!report.is_clean());
    assert!(report.verdict.oversold > 0, "{:#?}", report.verdict);
    assert!(demo.shop.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_sales_come_out_even() {
    for (stock, warehouses, limit) in [(0, 3, 1), (1, 1, 1), (3, 8, 5)] {
        let demo = sold(DemoOptions { buyers: 40, stock, warehouses, limit, decline_rate: 0.0, ..options() }).await;
        let report = demo.report().await.unwrap();
        assert!(report.is_clean(), "{stock} units: {:#?}", report.verdict);
        assert_eq!(report.verdict.units_confirmed + report.verdict.tokens_free, u64::from(stock));
    }
}

#[tokio::test]
async fn options_that_cannot_work_are_refused_before_anything_starts() {
    let refused = [
        DemoOptions { limit: 0, ..options() },
        DemoOptions { warehouses: 0, ..options() },
        DemoOptions { buyers: 0, ..options() },
        DemoOptions { decline_rate: 1.5, ..options() },
        DemoOptions { settle_every: SignedDuration::ZERO, ..options() },
    ];
    for options in refused {
        let shown = format!("{options:?}");
        assert!(Demo::open(options, &Screen::silent()).await.is_err(), "{shown}");
    }
}
