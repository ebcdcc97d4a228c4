//! A buyer is forgotten where nothing needs him, and only there; the books stay right without him.

use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::{ClaimOutcome, Quantity};
use doorbuster_engine::domain::ids::{BuyerId, OrderId, VariantNumber};
use doorbuster_engine::domain::notices::MailLane;
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::flows::checkout::{CheckedOut, CheckoutRefused};
use doorbuster_engine::ledger::erasures::{Erased, Erasure};
use doorbuster_engine::ledger::fulfilment::{Fulfilled, FulfilmentStep};
use doorbuster_engine::ledger::outbox::{DeliveryState, Destination};
use doorbuster_engine::ledger::refunds::OrderCancelled;
use doorbuster_engine::ledger::standby::NewPlace;
use doorbuster_sandbox::provider::FakeProviderOptions;
use jiff::SignedDuration;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::fulfilment::{bring, fulfil};
use crate::harness::{World, buyer, claim, taken};
use crate::refunds::{assert_audit_is_clean, owed_by_provider, paid_orders, until_nothing_is_due};
use crate::shelves::{asked, fill, put_on_shelves, serve_everywhere};

async fn erase(world: &World, who: u32) -> Erasure {
    world.engine.ledger.erase_buyer(&buyer(who), world.engine.clock.now()).await.unwrap()
}

/// Every text of every table: whoever is in none of them has been forgotten.
async fn is_anywhere(world: &World, text: &str) -> Vec<String> {
    let tables = "select table_name::text from information_schema.tables
                  where table_schema = 'public' and table_type = 'BASE TABLE' order by 1";
    let mut found = Vec::new();
    for row in world.sql.query(tables, &[]).await.unwrap() {
        let table: &str = row.get(0);
        let sql = format!("select count(*) from {table} t where position('{text}' in t::text) > 0");
        if world.count(&sql).await > 0 {
            found.push(table.to_owned());
        }
    }
    found
}

/// Whoever adds a table that names buyers adds it to `ledger/erasures.rs` too: to what is renamed, to who is still named, and, if
/// it can be open, to what holds an erasure up.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_that_names_a_buyer_is_one_that_forgets_him() {
    let world = World::new().await;
    let sql = "select table_name::text from information_schema.columns
               where table_schema = 'public' and column_name = 'buyer' order by 1";
    let tables = world.sql.query(sql, &[]).await.unwrap();
    let tables = tables.iter().map(|row| row.get(0)).collect::<Vec<String>>();
    let forgetting = [
        "card_setups",
        "cards",
        "checkout_profiles",
        "checkouts",
        "customers",
        "erasures",
        "grants",
        "holdings",
        "line_entries",
        "lost_claims",
        "orders",
        "poisoned_claims",
        "rejected_claims",
        "standby_places",
    ];
    assert_eq!(tables, forgetting);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_erased_while_an_order_is_open() {
    let (world, _fake, client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    assert_eq!(erase(&world, 0).await, Erasure::Open(vec![orders[0]]));
    bring(&world, orders[0]).await;
    assert_eq!(erase(&world, 0).await, Erasure::Open(vec![orders[0]]), "somebody must know where it goes");
    assert_eq!(world.engine.ledger.profile_of(&buyer(0)).await.unwrap().unwrap().email, "b0@example.test");
    assert_eq!(fulfil(&world, orders[0], FulfilmentStep::Deliver).await, Fulfilled::Now);
    assert!(matches!(erase(&world, 0).await, Erasure::Done(_)));
    // Cancelled, and its money is on its way: open until that has ended.
    let (world, _fake, client2, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    let now = world.engine.clock.now();
    let cancelled = world.engine.ledger.cancel_order(orders[0], None, ("grace", "r"), now).await.unwrap();
    assert_eq!(cancelled, OrderCancelled::Now);
    assert_eq!(erase(&world, 0).await, Erasure::Open(vec![orders[0]]));
    until_nothing_is_due(&world, &client2).await;
    assert!(matches!(erase(&world, 0).await, Erasure::Done(_)));
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_drop_keeps_the_limit_and_its_archive_forgets() {
    let (world, _fake, client, orders) = paid_orders(FakeProviderOptions::default(), 2).await;
    let ledger = &world.engine.ledger;
    for order in &orders {
        bring(&world, *order).await;
        assert_eq!(fulfil(&world, *order, FulfilmentStep::Deliver).await, Fulfilled::Now);
    }
    let owed = owed_by_provider(&world).await;
    let kept = Erased { is_repeat: false, orders: 0, kept_by_drops: vec![world.drop.to_string()] };
    assert_eq!(erase(&world, 0).await, Erasure::Done(kept.clone()));
    assert_eq!(erase(&world, 0).await, Erasure::Done(Erased { is_repeat: true, ..kept }));
    assert_eq!(is_anywhere(&world, "b0@example.test").await, Vec::<String>::new(), "his address is gone at once");
    assert_eq!(ledger.profile_of(&buyer(0)).await.unwrap(), None);
    assert!(ledger.order(orders[0]).await.unwrap().unwrap().ship_to.is_none());
    assert!(ledger.profile_of(&buyer(1)).await.unwrap().is_some(), "the other one stays");
    // He may not buy again what he may have once.
    let live = world.live().await;
    let again = world.claim_until_answered(&live, 0, "again", 0, 1).await;
    assert!(matches!(again, ClaimOutcome::OverLimit { .. }), "{again:?}");
    live.store(&live.drop.warehouses[0]).forget().await.unwrap();
    live.store(&live.drop.warehouses[1]).forget().await.unwrap();
    world.engine.rebuild_fenced().await.unwrap();
    let live = world.live().await;
    let again = world.claim_until_answered(&live, 0, "again", 0, 1).await;
    assert!(matches!(again, ClaimOutcome::OverLimit { .. }), "{again:?}");
    assert_audit_is_clean(&world, &client).await;

    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    world.apply_all_grants().await;
    world.engine.archive_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(is_anywhere(&world, buyer(0).as_str()).await, Vec::<String>::new(), "nowhere any more");
    let owner = world.sql.query_one("select buyer from orders where order_id = $1", &[&orders[0].0]).await.unwrap();
    let owner: BuyerId = owner.get::<_, &str>(0).parse().unwrap();
    assert!(owner.as_str().starts_with("erased-"), "{owner}");
    assert!(ledger.order_of(&owner, orders[0]).await.unwrap().is_some());
    assert!(ledger.order_of(&buyer(0), orders[0]).await.unwrap().is_none());
    assert!(ledger.order_of(&buyer(1), orders[1]).await.unwrap().is_some(), "the other one's is his");
    assert_eq!(owed_by_provider(&world).await, owed, "the books are what they were");
    assert_eq!(world.count("select count(*) from erasures where buyer is null and ended_at is not null").await, 1);
    assert_eq!(erase(&world, 0).await, Erasure::Done(Erased { is_repeat: true, ..Erased::default() }));
    assert_eq!(world.count("select count(*) from erasures").await, 1, "nobody was forgotten twice");
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_no_drop_are_nobodys_at_once_and_later_ones_are_his() {
    let (world, _fake, _client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    bring(&world, orders[0]).await;
    assert_eq!(fulfil(&world, orders[0], FulfilmentStep::Deliver).await, Fulfilled::Now);
    // As an order from a cart: its units are nobody's limit.
    world
        .sql
        .batch_execute(
            "insert into warehouses (drop_id, number, state, code)
                 values (null, nextval('warehouse_numbers')::smallint, 'ready', 'cologne');
             update orders set drop_id = null;
             update order_items set warehouse_id = (select warehouse_id from warehouses where code = 'cologne'), serials = null",
        )
        .await
        .unwrap();
    let exported = world.engine.ledger.exported_orders(&buyer(0), None, 10).await.unwrap();
    assert_eq!((exported.len(), exported[0].history.len()), (1, 5));
    let done = Erased { is_repeat: false, orders: 1, kept_by_drops: Vec::new() };
    assert_eq!(erase(&world, 0).await, Erasure::Done(done));
    assert_eq!(is_anywhere(&world, "b0@example.test").await, Vec::<String>::new());
    assert_eq!(world.engine.ledger.exported_orders(&buyer(0), None, 10).await.unwrap(), []);
    assert_eq!(world.engine.ledger.profile_of(&buyer(0)).await.unwrap(), None);
    let pseudonym = "select count(*) from orders o join erasures e on e.pseudonym = o.buyer where e.buyer is null";
    assert_eq!(world.count(pseudonym).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_in_standby_leaves_the_line_and_his_place_forgets_him_with_the_drop() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let waits = |who: u32| NewPlace {
        buyer: buyer(who),
        variant: VariantNumber(0),
        quantity: Quantity::new(1).unwrap(),
        key: "wait".parse().unwrap(),
        lost: None,
    };
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    for who in [2, 3] {
        ledger.join_standby(&live.drop, &waits(who), now).await.unwrap();
    }
    assert!(
        matches!(erase(&world, 2).await, Erasure::Done(erased) if erased.kept_by_drops == [world.drop.to_string()])
    );
    // The unit goes to the one behind him, whose award is as good as an order.
    ledger.expire_unpaid(&[claim(&live, &buyer(1), "k", 0, 1).id.order_id()], now).await.unwrap();
    let Erasure::Open(open) = erase(&world, 3).await else { panic!("a unit is on its way to him") };
    assert_eq!(open.len(), 1);
    world.apply_all_grants().await;
    world.settle().await;
    ledger.expire_unpaid(&[open[0]], now).await.unwrap();
    world.apply_all_grants().await;
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    world.engine.archive_drop(&world.drop).await.unwrap().unwrap();
    let named = format!("select count(*) from standby_places where buyer = '{}'", buyer(2));
    assert_eq!(world.count(&named).await, 0);
    assert_eq!(world.count("select count(*) from standby_places").await, 2);
}

/// Somebody else's connection, with a transaction that this test ends when it likes.
async fn another_transaction(world: &World, sql: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&world.database, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("begin; {sql}")).await.unwrap();
    client
}

/// Waits until so many transactions of this database wait in this statement for a lock.
async fn until_waiting(world: &World, statement: &str, count: i64) {
    let sql = format!(
        "select count(*) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock' and query like '-- {statement}%'"
    );
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.count(&sql).await != count {
        assert!(Instant::now() < deadline, "{statement} does not wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An order of this buyer, as another transaction writes it.
fn order_with_address(buyer: &BuyerId, order: OrderId) -> String {
    format!(
        r#"insert into orders values ('{0}', '{buyer}', null, 'PENDING_PAYMENT', 'EUR', 0, 0, 0, 0, 'b@example.test', '{{}}',
                                      now(), now());
           insert into payments (order_id, state, amount_minor, currency, idempotency_key, updated_at)
           values ('{0}', 'IN_FLIGHT', 0, 'EUR', 'order-{0}', now())"#,
        order.0
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_checkout_and_an_erasure_at_once_one_is_first() {
    let world = World::new().await;
    serve_everywhere(&world).await;
    let mug = put_on_shelves(&world, "mug", StockWay::RowLock, &[100]).await;
    let mut firsts = [0, 0];
    for who in 0..4 {
        let buyer = fill(&world, who, &[(mug, 1)]).await;
        let lock = format!("select pg_advisory_xact_lock(hashtextextended('doorbuster erasure {buyer}', 0))");
        let holder = another_transaction(&world, &lock).await;
        let (engine, now) = (world.engine.clone(), world.engine.clock.now());
        let erasing = {
            let (engine, buyer) = (engine.clone(), buyer.clone());
            async move { engine.ledger.erase_buyer(&buyer, now).await.unwrap() }
        };
        let ordering = {
            let buyer = buyer.clone();
            async move { engine.checkout(&buyer, &asked("a")).await.unwrap() }
        };
        // Both wait for the buyer, and go on in the order in which they came.
        let (erased, ordered) = if who % 2 == 0 {
            let erasing = tokio::spawn(erasing);
            until_waiting(&world, "profiles.lock_buyer", 1).await;
            (erasing, tokio::spawn(ordering))
        } else {
            let ordering = tokio::spawn(ordering);
            until_waiting(&world, "profiles.lock_buyer", 1).await;
            (tokio::spawn(erasing), ordering)
        };
        until_waiting(&world, "profiles.lock_buyer", 2).await;
        holder.batch_execute("commit").await.unwrap();
        let sql = format!("select count(*) from orders where buyer = '{buyer}' and ship_to is not null");
        match (erased.await.unwrap(), ordered.await.unwrap()) {
            (Erasure::Open(open), CheckedOut::Now(made)) => {
                assert_eq!(open, [made.order.unwrap()]);
                assert_eq!(world.count(&sql).await, 1);
                firsts[0] += 1;
            }
            (Erasure::Done(_), CheckedOut::Refused(CheckoutRefused::NoProfile)) => {
                assert_eq!(is_anywhere(&world, buyer.as_str()).await, Vec::<String>::new());
                firsts[1] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(firsts[0] > 0 && firsts[1] > 0, "each was first sometimes: {firsts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_waits_for_a_settlement_that_has_read_the_profile() {
    let world = World::new().await;
    world.save_profile(1, "pm_card_visa").await;
    let order = OrderId(Uuid::now_v7());
    let read = format!("select 1 from checkout_profiles where buyer = '{}' for key share", buyer(1));
    let settling = another_transaction(&world, &read).await;
    let (engine, now) = (world.engine.clone(), world.engine.clock.now());
    let erased = tokio::spawn(async move { engine.ledger.erase_buyer(&buyer(1), now).await.unwrap() });
    until_waiting(&world, "erasures.lock_profile", 1).await;
    settling.batch_execute(&format!("{}; commit", order_with_address(&buyer(1), order))).await.unwrap();
    assert_eq!(erased.await.unwrap(), Erasure::Open(vec![order]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_waits_for_an_erasure_and_then_finds_no_profile() {
    let world = World::new().await;
    let live = world.open(&[2], 1, 2).await;
    world.save_profile(1, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    let lock = format!("select 1 from checkout_profiles where buyer = '{}' for update", buyer(1));
    let erasing = another_transaction(&world, &lock).await;
    let engine = world.another_engine().await;
    let settled = tokio::spawn(async move { doorbuster_engine::workers::settle_all(&engine).await.unwrap() });
    until_waiting(&world, "settlements.profiles", 1).await;
    erasing.batch_execute("delete from checkout_profiles; commit").await.unwrap();
    assert_eq!(settled.await.unwrap(), 1);
    assert_eq!(world.count("select count(*) from orders where email is null and ship_to is null").await, 1);
    assert_eq!(world.count("select count(*) from payments where payment_method is null").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_erasure_and_an_archive_at_once_the_second_forgets_the_buyer() {
    let (world, _fake, _client, orders) = paid_orders(FakeProviderOptions::default(), 2).await;
    for order in &orders {
        bring(&world, *order).await;
        assert_eq!(fulfil(&world, *order, FulfilmentStep::Deliver).await, Fulfilled::Now);
    }
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    world.apply_all_grants().await;
    let engine = world.engine.clone();
    let now = engine.clock.now();

    // An archive that has not ended: the erasure waits, and finds the drop archived.
    let archiving = another_transaction(&world, "update drops set state = 'archived'").await;
    let erased = tokio::spawn(async move { engine.ledger.erase_buyer(&buyer(0), now).await.unwrap() });
    until_waiting(&world, "erasures.lock_drops", 1).await;
    archiving.batch_execute("commit").await.unwrap();
    let Erasure::Done(erased) = erased.await.unwrap() else { panic!("it is over") };
    assert_eq!((erased.orders, erased.kept_by_drops), (1, vec![]));
    assert_eq!(is_anywhere(&world, buyer(0).as_str()).await, Vec::<String>::new());

    // An erasure that has not ended: the archive waits, and renames the buyer too.
    world.sql.batch_execute("update drops set state = 'closed'").await.unwrap();
    let erasing = another_transaction(&world, "select 1 from drops where state <> 'archived' for share").await;
    let (engine, drop) = (world.engine.clone(), world.drop.clone());
    let archived = tokio::spawn(async move { engine.archive_drop(&drop).await.unwrap().unwrap() });
    until_waiting(&world, "drops.archive", 1).await;
    let name = buyer(1);
    let ask = format!("insert into erasures (pseudonym, buyer, asked_at) values ('erased-1', '{name}', now())");
    let forget = format!("delete from checkout_profiles where buyer = '{name}'");
    erasing.batch_execute(&format!("{ask}; {forget}; commit")).await.unwrap();
    archived.await.unwrap();
    assert_eq!(is_anywhere(&world, name.as_str()).await, Vec::<String>::new());
}

/// A mail server's words may name the address, also when it says them after the erasure.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_mail_server_says_after_the_erasure_is_not_kept() {
    let (world, _fake, _client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    bring(&world, orders[0]).await;
    assert_eq!(fulfil(&world, orders[0], FulfilmentStep::Deliver).await, Fulfilled::Now);
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let lease = SignedDuration::from_secs(30);
    let leased = ledger.lease_deliveries(&Destination::Mail(MailLane::Orders), now, lease, 10).await.unwrap();
    assert!(!leased.is_empty());
    assert!(matches!(erase(&world, 0).await, Erasure::Done(_)));
    for delivery in &leased {
        let said = DeliveryState::Again { at: now, error: "550 no such user: b0@example.test".to_owned() };
        assert!(!ledger.record_delivery(delivery, &said, now).await.unwrap());
    }
    assert_eq!(is_anywhere(&world, "b0@example.test").await, Vec::<String>::new());
}
