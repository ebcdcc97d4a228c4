//! The audit is clean after an honest sale, and red for each way in which the stores may disagree.

use doorbuster_engine::domain::drops::{DropState, Warehouse};
use doorbuster_engine::domain::ids::{GrantNumber, VariantNumber, WarehouseNumber};
use doorbuster_engine::flows::audit::AuditReport;
use doorbuster_engine::provider::ProviderClient;
use doorbuster_engine::tokens::keys::WarehouseKeys;
use doorbuster_engine::tokens::store::LoadVariant;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};

use crate::harness::{World, provider, taken};

/// Ten units over two warehouses: four paid, one declined, one waiting for a method, one not settled yet.
async fn sale() -> (World, FakeProvider, ProviderClient) {
    sale_with(FakeProviderOptions::default()).await
}

async fn sale_with(options: FakeProviderOptions) -> (World, FakeProvider, ProviderClient) {
    let world = World::new().await;
    let (fake, client) = provider(options).await;
    let live = world.open(&[10], 2, 2).await;
    for who in 0..5 {
        world.save_profile(who, if who == 4 { "pm_card_chargeDeclined" } else { "pm_card_visa" }).await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    taken(world.claim_until_answered(&live, 5, "k", 0, 1).await);
    world.settle().await;
    for _ in 0..3 {
        world.engine.charge_due(&client, 20, 4).await.unwrap();
    }
    world.apply_all_grants().await;
    taken(world.claim_until_answered(&live, 6, "k", 0, 1).await);
    (world, fake, client)
}

fn rules(report: &AuditReport) -> Vec<&'static str> {
    let mut rules = report.violations.iter().map(|violation| violation.rule).collect::<Vec<_>>();
    rules.sort_unstable();
    rules.dedup();
    rules
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_sale_is_clean_and_every_unit_is_counted_once() {
    let (world, _fake, client) = sale().await;
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let drop = &report.drops[0];
    assert_eq!((drop.stock, drop.free, drop.moving, drop.claimed, drop.reserved, drop.sold), (10, 4, 0, 1, 1, 4));
    assert_eq!(report.captures, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_the_providers_list_does_not_show_yet_is_looked_up() {
    let lists_lag_by = std::time::Duration::from_secs(3_600);
    let behind = FakeProviderOptions { lagging_list_rate: 1.0, lists_lag_by, ..FakeProviderOptions::default() };
    let (world, _fake, client) = sale_with(behind).await;
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert_eq!(report.captures, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_doctored_store_turns_the_audit_red() {
    // What is done to Postgres, and the rules that must notice.
    let cases: [(&str, &[&str]); 9] = [
        (
            "update tokens set order_id = null where serial = (select min(serial) from tokens where order_id is not null)",
            &["inventory_differs", "unit_lost", "unit_not_held"],
        ),
        (
            "update inventory set quantity_available = quantity_available + 1 where warehouse_id = (select min(warehouse_id) from inventory)",
            &["inventory_differs"],
        ),
        (
            "delete from holdings where order_id = (select order_id from orders where status = 'CONFIRMED' limit 1)",
            &["holdings_differ"],
        ),
        (
            "update journal set amount_minor = amount_minor + 1 where source = (select min(source) from journal)",
            &["journal_differs"],
        ),
        (
            "update payments set state = 'IN_FLIGHT' where order_id = (select order_id from orders where status = 'CONFIRMED' limit 1)",
            &["journal_differs", "payment_differs"],
        ),
        ("update grants set number = 77 where kind = 'rested'", &["grants_have_gaps", "unit_twice"]),
        (
            "update tokens set rested_at = now() where serial = (select min(serial) from tokens where order_id is null)",
            &["unit_twice"],
        ),
        (
            "update tokens set warehouse_id = (select max(warehouse_id) from warehouses) + (select min(warehouse_id) from warehouses) - warehouse_id where order_id is null",
            &["inventory_differs", "unit_in_wrong_warehouse"],
        ),
        (
            "update orders set status = 'CANCELLED' where status = 'PENDING_PAYMENT'",
            &["holdings_differ", "inventory_differs", "unit_held_by_dead_order"],
        ),
    ];
    for (sql, expected) in cases {
        let (world, _fake, client) = sale().await;
        assert!(world.sql.execute(sql, &[]).await.unwrap() > 0, "{sql}");
        let report = world.engine.audit(Some(&client)).await.unwrap();
        assert!(!report.is_clean());
        assert_eq!(rules(&report), expected, "{sql}\n{:#?}", report.violations);
    }
}

/// No foreign key watches over these rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_parent_is_not_there_turns_the_audit_red() {
    let (world, _fake, client) = sale().await;
    let ledger = &world.engine.ledger;
    assert_eq!(ledger.orphans().await.unwrap(), []);
    // What is done, and which table then names what is not there.
    let cases = [
        ("update order_items set variant_id = 999999 where order_id = $1", "order_items", "variants"),
        ("update order_items set warehouse_id = 999999 where order_id = $1", "order_items", "warehouses"),
        ("update holdings set drop_id = 999999 where order_id = $1", "holdings", "drops"),
        ("update orders set drop_id = 999999 where order_id = $1", "orders", "drops"),
        ("delete from payments where order_id = $1", "payment_attempts", "payments"),
    ];
    let paid = "select order_id from orders where status = 'CONFIRMED' order by order_id";
    let paid = world.sql.query(paid, &[]).await.unwrap();
    let paid = paid.iter().map(|row| row.get::<_, uuid::Uuid>(0)).collect::<Vec<_>>();
    let mut expected = Vec::new();
    let found = async || {
        let orphans = ledger.orphans().await.unwrap();
        let mut found = orphans.iter().map(|orphan| (orphan.table, orphan.parent)).collect::<Vec<_>>();
        found.sort_unstable();
        found.dedup();
        found
    };
    for (sql, table, parent) in cases {
        assert!(world.sql.execute(sql, &[&paid[0]]).await.unwrap() > 0, "{sql}");
        expected.push((table, parent));
        expected.sort_unstable();
        assert_eq!(found().await, expected, "{sql}");
    }
    world.sql.execute("delete from orders where order_id = $1", &[&paid[1]]).await.unwrap();
    let of_orders = ["tokens", "order_items", "order_history", "holdings", "payments", "journal"];
    expected.extend(of_orders.map(|table| (table, "orders")));
    expected.sort_unstable();
    assert_eq!(found().await, expected);
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert!(rules(&report).contains(&"parent_missing"), "{:#?}", report.violations);
}

/// The keys of an order's calls: no index keeps them apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_order_is_refused_and_one_used_twice_turns_the_audit_red() {
    let (world, _fake, client) = sale().await;
    let of_another = "update payment_attempts a set idempotency_key = b.idempotency_key
        from payment_attempts b where a.order_id <> b.order_id";
    assert!(world.sql.execute(of_another, &[]).await.is_err());
    let twice = "update payment_attempts set idempotency_key = 'order-' || order_id
        where order_id = (select order_id from orders where status = 'CONFIRMED' limit 1)";
    assert_eq!(world.sql.execute(twice, &[]).await.unwrap(), 2);
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert_eq!(rules(&report), ["key_used_twice"], "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_capture_and_a_forged_redis_turn_the_audit_red() {
    let (world, fake, client) = sale().await;
    let paid = fake.captures()[0].order_id.clone().unwrap();
    fake.capture_twice(&paid).unwrap();
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert_eq!(rules(&report), ["captured_twice"], "{:#?}", report.violations);

    let (world, _fake, client) = sale().await;
    let keys = |warehouse| WarehouseKeys::new(&world.drop, WarehouseNumber(warehouse), 2);
    let key = keys(0).of_variant("spare", VariantNumber(0));
    let mut redis = world.server_with(&key).await;
    redis::cmd("LPUSH").arg(&key).arg(9_999).query_async::<()>(&mut redis).await.unwrap();
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert_eq!(rules(&report), ["unit_unknown"]);
    let key = keys(1).of_variant("tokens", VariantNumber(0));
    let mut redis = world.server_with(&key).await;
    redis::cmd("DECR").arg(&key).query_async::<()>(&mut redis).await.unwrap();
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert_eq!(rules(&report), ["unit_lost", "unit_unknown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_the_provider_refuses_for_now_is_asked_for_again() {
    let world = World::new().await;
    let at_once = FakeProviderOptions {
        requests_per_second_max: std::num::NonZeroU32::new(2),
        retry_after_seconds: 0,
        ..FakeProviderOptions::default()
    };
    let (_fake, client) = provider(at_once).await;
    // Whatever may be asked within a second is asked by somebody else.
    while client.list_intents(None, 1).await.is_ok() {}
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert_eq!(report.captures, Some(0));
}

/// No accusation, and not clean either: the audit says of its one drop that the stores did not stand still.
async fn assert_not_quiet(world: &World, when: &str) {
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.violations.is_empty(), "{when}: {:#?}", report.violations);
    assert!(!report.drops[0].is_quiet && !report.is_clean(), "{when}: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warehouse_in_the_middle_of_a_load_is_not_quiet_rather_than_accused() {
    let world = World::new().await;
    let live = world.open(&[10], 2, 2).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    let before = live.drop.warehouses[0];
    let epoch = world.engine.ledger.begin_load(before.id, before.epoch).await.unwrap().unwrap();
    assert_not_quiet(&world, "Postgres has begun a load that Redis does not know of").await;
    let store = world.engine.tokens.warehouse(&live.drop, &Warehouse { epoch, ..before });
    let replid = store.fence().await.unwrap();
    assert_not_quiet(&world, "the warehouse is fenced").await;
    store.load(&replid, GrantNumber(1), 2, &[LoadVariant::default()], &[]).await.unwrap();
    assert_not_quiet(&world, "a first chunk is loaded").await;
    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_is_being_opened_is_not_quiet_rather_than_accused() {
    let world = World::new().await;
    let drop = world.engine.create_drop(&world.new_drop(&[10], 2, 2), 42).await.unwrap().unwrap();
    assert!(world.engine.ledger.move_drop(drop.id, &[DropState::Draft], DropState::Opening).await.unwrap());
    assert_not_quiet(&world, "no warehouse is loaded yet").await;
    let first = drop.warehouses[0];
    let epoch = world.engine.ledger.begin_load(first.id, first.epoch).await.unwrap().unwrap();
    world.engine.tokens.warehouse(&drop, &Warehouse { epoch, ..first }).fence().await.unwrap();
    assert_not_quiet(&world, "one is fenced, and has never held anything").await;
    world.engine.open_drop(&world.drop).await.unwrap().unwrap();
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}
