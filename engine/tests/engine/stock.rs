//! Ordinary stock: never below what is reserved, and the audit knows what must be there.

use doorbuster_engine::domain::catalog::{NewProduct, NewVariant};
use doorbuster_engine::domain::requests::{Done, OperatorRequest, RequestId};
use doorbuster_engine::domain::stock::{Adjustment, NewAdjustment, StockRefused};
use doorbuster_engine::flows::audit::StockAudit;
use futures_util::future::join_all;

use crate::harness::World;

fn request(key: &str) -> OperatorRequest {
    OperatorRequest { id: RequestId::new("ada", &key.parse().unwrap()), actor: "ada".to_owned() }
}

async fn adjust(world: &World, key: &str, delta: i64) -> Result<Done<Adjustment>, StockRefused> {
    let new = NewAdjustment {
        sku: "mug".to_owned(),
        warehouse: "berlin".parse().unwrap(),
        delta,
        reason: "counted".to_owned(),
    };
    world.engine.ledger.adjust_stock(&request(key), &new, world.engine.clock.now()).await.unwrap()
}

/// Ten mugs came to Berlin. Of them two wait for their payment, five were sold, and one of those came back; an order of each
/// of the two ends holds nothing. So six are there.
async fn shelf() -> World {
    let world = World::new().await;
    let variant = NewVariant {
        sku: "mug".to_owned(),
        title: "Mug".to_owned(),
        price_minor: 900,
        currency: "EUR".parse().unwrap(),
    };
    let product = NewProduct { name: "Mug".to_owned(), variants: vec![variant] };
    world.engine.ledger.make_product(&request("product"), &product, world.engine.clock.now()).await.unwrap().unwrap();
    assert!(world.engine.ledger.make_warehouse(&"berlin".parse().unwrap()).await.unwrap());
    adjust(&world, "first", 10).await.unwrap();
    for (number, status, quantity) in [
        (1, "PENDING_PAYMENT", 2),
        (2, "CONFIRMED", 3),
        (3, "SHIPPED", 2),
        (4, "CANCELLED", 4),
        (5, "PAYMENT_FAILED", 4),
    ] {
        let sql = format!(
            "insert into orders values ('00000000-0000-0000-0000-00000000000{number}', 'b', null, '{status}', 'EUR', 0, 0, 0, 0,
                                        null, null, now(), now());
             insert into order_items
             select '00000000-0000-0000-0000-00000000000{number}', 1, product_id, variant_id, warehouse_id, {quantity}, 900
             from inventory"
        );
        world.sql.batch_execute(&sql).await.unwrap();
    }
    const REST: &str = "
        insert into returns values ('00000000-0000-0000-0000-000000000009', '00000000-0000-0000-0000-000000000003', '{}', 'r', 'ada',
                                    null, now());
        insert into return_lines values ('00000000-0000-0000-0000-000000000009', '00000000-0000-0000-0000-000000000003', 1, 1, null,
                                         true);
        update inventory set quantity_available = 6, quantity_reserved = 2";
    world.sql.batch_execute(REST).await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_counts_a_shelf_by_its_history_and_its_orders() {
    let world = shelf().await;
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    assert_eq!(report.stock, StockAudit { shelves: 1, available: 6, reserved: 2 });
    // What is done to Postgres, and the rules that must notice.
    let cases: [(&str, &[&str]); 6] = [
        ("update inventory set quantity_available = quantity_available + 1", &["stock_differs"]),
        ("update inventory set quantity_reserved = quantity_reserved - 1", &["reserved_differs"]),
        ("update stock_adjustments set delta = delta + 1", &["stock_differs"]),
        ("update return_lines set restocked = false", &["stock_differs"]),
        (
            "update orders set status = 'CONFIRMED' where status = 'PENDING_PAYMENT'",
            &["reserved_differs", "stock_differs"],
        ),
        ("delete from inventory", &["reserved_differs", "stock_differs"]),
    ];
    for (doctored, expected) in cases {
        // All is put back before the next case.
        let backup =
            "create table kept_inventory as table inventory; create table kept_adjustments as table stock_adjustments;
                      create table kept_orders as table orders; create table kept_lines as table return_lines";
        world.sql.batch_execute(backup).await.unwrap();
        world.sql.batch_execute(doctored).await.unwrap();
        let report = world.engine.audit(None).await.unwrap();
        let mut rules = report.violations.iter().map(|violation| violation.rule).collect::<Vec<_>>();
        rules.sort_unstable();
        assert_eq!(rules, expected, "{doctored}");
        assert!(report.violations.iter().all(|violation| violation.drop == "berlin"));
        let restore = "delete from inventory; insert into inventory table kept_inventory;
                       update stock_adjustments a set delta = k.delta from kept_adjustments k where k.adjustment_id = a.adjustment_id;
                       update orders o set status = k.status from kept_orders k where k.order_id = o.order_id;
                       update return_lines l set restocked = k.restocked from kept_lines k where k.return_id = l.return_id;
                       drop table kept_inventory, kept_adjustments, kept_orders, kept_lines";
        world.sql.batch_execute(restore).await.unwrap();
    }
    assert!(world.engine.audit(None).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_adjustments_at_once_none_takes_what_is_reserved() {
    let world = shelf().await;
    let keys = (0..8).map(|number| format!("less-{number}")).collect::<Vec<_>>();
    let adjusted = join_all(keys.iter().map(|key| adjust(&world, key, -1))).await;
    let refused = StockRefused::BelowReserved { available: 2, reserved: 2, delta: -1 };
    assert_eq!(adjusted.iter().filter(|adjusted| adjusted.is_ok()).count(), 4, "{adjusted:?}");
    assert_eq!(adjusted.iter().filter(|adjusted| adjusted.as_ref() == Err(&refused)).count(), 4, "{adjusted:?}");
    // The same request from everywhere at once is one.
    let same = join_all((0..6).map(|_| adjust(&world, "more", 3))).await;
    assert_eq!(same.iter().filter(|done| matches!(done, Ok(Done::Now(_)))).count(), 1, "{same:?}");
    assert_eq!(same.iter().filter(|done| matches!(done, Ok(Done::Before(_)))).count(), 5, "{same:?}");
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    assert_eq!(report.stock, StockAudit { shelves: 1, available: 5, reserved: 2 });
}
