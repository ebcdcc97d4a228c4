//! Goods that come back: each unit once, at most what was ordered, and on sale again only where it is sold.

use std::collections::HashSet;

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::fulfilment::{NewReturn, ReturnedLine};
use doorbuster_engine::domain::ids::{OrderId, ReturnId, Serial};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::PaymentState;
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::ledger::returns::ReturnTaken;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::fulfilment::bring;
use crate::harness::{World, buyer, claim, provider, taken};
use crate::refunds::{assert_audit_is_clean, owed_by_provider, until_nothing_is_due};
use crate::shelves::{audited, fill, ordered, put_on_shelves, serve_everywhere, stock};

const WHY: (&str, &str) = ("grace", "did not fit");

fn line(line: u32, quantity: u32, restock: bool) -> ReturnedLine {
    ReturnedLine { line, quantity, serials: Vec::new(), restock }
}

fn eur(minor: i64) -> Money {
    Money::new(minor, "EUR".parse().unwrap())
}

async fn take(world: &World, id: u128, order: OrderId, lines: &[ReturnedLine], refund: Option<Money>) -> ReturnTaken {
    let new = NewReturn { lines: lines.to_vec(), refund, refund_of: None };
    let id = ReturnId(Uuid::from_u128(id));
    world.engine.ledger.take_return(id, order, &new, WHY, world.engine.clock.now()).await.unwrap()
}

/// A shipped order of `units` units in a drop with as many, and a buyer who may have no more.
async fn shipped(units: u32) -> (World, FakeProvider, doorbuster_engine::provider::ProviderClient, OrderId) {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[units], 1, units).await;
    world.save_profile(1, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, i64::from(units)).await);
    world.settle().await;
    until_nothing_is_due(&world, &client).await;
    let order = claim(&live, &buyer(1), "k", 0, i64::from(units)).id.order_id();
    bring(&world, order).await;
    (world, fake, client, order)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_comes_back_is_sold_again_and_its_buyers_limit_is_not() {
    let (world, fake, client, order) = shipped(2).await;
    let live = world.live().await;
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::SoldOut);
    assert_eq!(take(&world, 1, order, &[line(1, 1, true)], Some(eur(14_900))).await, ReturnTaken::Now);
    assert_eq!(take(&world, 1, order, &[line(1, 1, true)], Some(eur(14_900))).await, ReturnTaken::Before);
    for (lines, refund) in
        [([line(1, 2, true)], Some(eur(14_900))), ([line(1, 1, false)], Some(eur(14_900))), ([line(1, 1, true)], None)]
    {
        assert_eq!(take(&world, 1, order, &lines, refund).await, ReturnTaken::IdTaken);
    }
    world.apply_all_grants().await;
    assert_eq!(world.count("select sum(quantity_available) from inventory").await, 1);
    let limited = world.claim_until_answered(&live, 1, "again", 0, 1).await;
    assert!(matches!(limited, ClaimOutcome::OverLimit { .. }), "he has had his units: {limited:?}");
    let sold = taken(world.claim_until_answered(&live, 2, "again", 0, 1).await);
    assert_eq!(sold, [Serial(1)], "the lower of the two came back");
    world.save_profile(2, "pm_card_visa").await;
    world.settle().await;
    until_nothing_is_due(&world, &client).await;
    assert_eq!(fake.refunds().iter().map(|refund| refund.amount_minor).collect::<Vec<_>>(), [14_900]);
    let found = world.engine.ledger.order(order).await.unwrap().unwrap();
    assert_eq!((found.status, found.payment), (OrderState::Shipped, PaymentState::PartiallyRefunded));
    assert_eq!(found.items[0].returned, 1);
    for table in ["outbox", "order_events"] {
        assert_eq!(world.count(&format!("select count(*) from {table} where kind = 'order_returned'")).await, 1);
    }
    // A repeat of the first click is told what it was told, although one of these units is another's now.
    let repeated = world.claim_until_answered(&live, 1, "k", 0, 2).await;
    let ClaimOutcome::Replayed { serials } = repeated else { panic!("{repeated:?}") };
    assert_eq!(serials.into_iter().collect::<HashSet<_>>(), [Serial(1), Serial(2)].into());
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_back_is_still_free_after_a_rebuild() {
    let (world, _fake, client, order) = shipped(3).await;
    assert_eq!(take(&world, 1, order, &[line(1, 2, true)], None).await, ReturnTaken::Now);
    world.apply_all_grants().await;
    let live = world.live().await;
    assert_eq!(world.free_in_redis(&live).await, 2);
    live.store(&live.drop.warehouses[0]).forget().await.unwrap();
    world.engine.rebuild_fenced().await.unwrap();
    let live = world.live().await;
    assert_eq!(world.free_in_redis(&live).await, 2);
    assert_audit_is_clean(&world, &client).await;
    // The audit sees a unit that came back and is held all the same.
    let hold = "update tokens set order_id = $1 where order_id is null and serial = (select min(serial) from tokens where order_id is null)";
    assert_eq!(world.sql.execute(hold, &[&order.0]).await.unwrap(), 1);
    let report = world.engine.audit(Some(&client)).await.unwrap();
    let rules = report.violations.iter().map(|violation| violation.rule).collect::<HashSet<_>>();
    assert!(rules.contains("returned_unit_held") && rules.contains("inventory_differs"), "{rules:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_counts_a_return_of_ordinary_goods_once() {
    let world = World::new().await;
    serve_everywhere(&world).await;
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    let mug = put_on_shelves(&world, "mug", StockWay::RowLock, &[10]).await;
    let buyer = fill(&world, 1, &[(mug, 3)]).await;
    let order = ordered(&world, &buyer, "a").await;
    until_nothing_is_due(&world, &client).await;
    bring(&world, order).await;
    assert_eq!(take(&world, 1, order, &[line(1, 2, true)], None).await, ReturnTaken::Now);
    assert_eq!(
        (stock(&world, "mug").await, world.count("select sum(delta) from stock_adjustments").await),
        ((9, 0), 12)
    );
    audited(&world).await;
    // A program of before has left no row, and what came back is counted all the same.
    let before = "update return_lines set adjustment_id = null; delete from stock_adjustments where delta = 2";
    world.sql.batch_execute(before).await.unwrap();
    audited(&world).await;
}

/// Hazard 9: nothing is given back twice, whoever asks, however often, at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn h9_of_many_returns_at_once_only_as_many_units_come_back_as_were_ordered() {
    let (world, _fake, client, order) = shipped(3).await;
    let lines = [line(1, 1, true)];
    let taken = join_all((1..=8).map(|id| take(&world, id, order, &lines, Some(eur(1))))).await;
    let now = taken.iter().filter(|taken| **taken == ReturnTaken::Now).count();
    let none_left = ReturnTaken::TooMany { line: 1, left: 0 };
    assert_eq!((now, taken.iter().filter(|taken| **taken == none_left).count()), (3, 5), "{taken:?}");
    // The same one from everywhere is one.
    let again = join_all((0..4).map(|_| take(&world, 1, order, &lines, Some(eur(1))))).await;
    let first_was_taken = taken[0] == ReturnTaken::Now;
    let expected = if first_was_taken { ReturnTaken::Before } else { none_left };
    assert!(again.iter().all(|taken| *taken == expected), "{again:?}");
    until_nothing_is_due(&world, &client).await;
    world.apply_all_grants().await;
    assert_eq!(world.count("select sum(quantity_available) from inventory").await, 3);
    assert_eq!(world.count("select count(*) from tokens where order_id is null").await, 3);
    assert_eq!(world.count("select sum(cardinality(serials)) from grants where kind = 'rested'").await, 3);
    assert_eq!(world.count("select refund_minor from payments").await, 3, "a cent with each");
    let more = "update order_items set returned_quantity = returned_quantity + 1";
    assert!(world.sql.execute(more, &[]).await.is_err(), "the table itself refuses a fourth");
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_that_cannot_be_leaves_nothing() {
    let (world, _fake, client, order) = shipped(2).await;
    let named = |serials: &[u32]| ReturnedLine {
        serials: serials.iter().copied().map(Serial).collect(),
        ..line(1, serials.len() as u32, true)
    };
    assert_eq!(take(&world, 1, order, &[named(&[2])], None).await, ReturnTaken::Now);
    let total = world.engine.ledger.order(order).await.unwrap().unwrap().totals.total;
    let too_much = Some(eur(total.amount_minor + 1));
    let refused = [
        (take(&world, 2, order, &[named(&[2])], None).await, ReturnTaken::NotOut { line: 1, serial: Serial(2) }),
        (take(&world, 2, order, &[named(&[9])], None).await, ReturnTaken::NotOut { line: 1, serial: Serial(9) }),
        (take(&world, 2, order, &[line(1, 2, true)], None).await, ReturnTaken::TooMany { line: 1, left: 1 }),
        (take(&world, 2, order, &[line(7, 1, true)], None).await, ReturnTaken::NoSuchLine(7)),
        (take(&world, 2, order, &[line(1, 1, true)], too_much).await, ReturnTaken::RefundTooMuch { left: total }),
        (take(&world, 2, OrderId(Uuid::nil()), &[line(1, 1, true)], None).await, ReturnTaken::NoSuchOrder),
    ];
    for (found, expected) in refused {
        assert_eq!(found, expected);
    }
    assert_eq!(world.count("select count(*) from returns").await, 1);
    assert_eq!(world.count("select count(*) from refunds").await, 0);
    assert_eq!(world.count("select sum(returned_quantity) from order_items").await, 1);
    world.apply_all_grants().await;
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_has_shipped_comes_back() {
    let (world, _fake, _client, orders) = crate::refunds::paid_orders(FakeProviderOptions::default(), 1).await;
    let not_yet = ReturnTaken::NotShipped(OrderState::Confirmed);
    assert_eq!(take(&world, 1, orders[0], &[line(1, 1, true)], Some(eur(1))).await, not_yet);
    assert_eq!(world.count("select count(*) from refunds").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_sells_no_longer_takes_no_unit_back() {
    let (world, fake, client, order) = shipped(2).await;
    // Not to be sold again, while the drop sells: it stays with its order.
    assert_eq!(take(&world, 1, order, &[line(1, 1, false)], None).await, ReturnTaken::Now);
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(take(&world, 2, order, &[line(1, 1, true)], Some(eur(500))).await, ReturnTaken::Now);
    until_nothing_is_due(&world, &client).await;
    assert_eq!(world.count("select count(*) from return_lines where restocked").await, 0);
    assert_eq!(world.count("select count(*) from tokens where order_id is null").await, 0);
    assert_eq!(world.count("select sum(quantity_available) from inventory").await, 0);
    assert_eq!((fake.refunds().len(), world.count("select sum(returned_quantity) from order_items").await), (1, 2));
    let total = world.engine.ledger.order(order).await.unwrap().unwrap().totals.total.amount_minor;
    assert_eq!(owed_by_provider(&world).await, total - 500);
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_stock_is_available_again_where_it_lay() {
    let (world, _fake, _client, order) = shipped(1).await;
    // An order from a cart: two lines from one place, one of them to be sold again.
    world
        .sql
        .batch_execute(&format!(
            "insert into warehouses (drop_id, number, state, code)
                 values (null, nextval('warehouse_numbers')::smallint, 'ready', 'cologne');
             insert into inventory (product_id, variant_id, warehouse_id, quantity_available)
                 select v.product_id, v.variant_id, w.warehouse_id, 5 from variants v, warehouses w where w.code = 'cologne';
             update orders set drop_id = null where order_id = '{0}';
             update tokens set order_id = null where order_id = '{0}';
             update order_items i set warehouse_id = w.warehouse_id, serials = null, quantity = 4
                 from warehouses w where w.code = 'cologne' and i.order_id = '{0}';
             insert into order_items (order_id, line, product_id, variant_id, warehouse_id, quantity, unit_price_minor)
                 select order_id, 2, product_id, variant_id, warehouse_id, 2, unit_price_minor from order_items
                 where order_id = '{0}' and line = 1;",
            order.0
        ))
        .await
        .unwrap();
    assert_eq!(take(&world, 1, order, &[line(2, 2, false), line(1, 3, true)], None).await, ReturnTaken::Now);
    let cologne =
        "select quantity_available::bigint from inventory join warehouses using (warehouse_id) where code = 'cologne'";
    assert_eq!(world.count(cologne).await, 8);
    assert_eq!(take(&world, 2, order, &[line(1, 2, true)], None).await, ReturnTaken::TooMany { line: 1, left: 1 });
    let details = world.engine.ledger.order_details(order).await.unwrap().unwrap();
    let lines = details.returns[0].lines.iter().map(|line| (line.line, line.quantity, line.restocked));
    assert_eq!(lines.collect::<Vec<_>>(), [(1, 3, true), (2, 2, false)]);
    assert_eq!((details.returns[0].taken_by.as_str(), details.returns[0].reason.as_str()), WHY);
    // As every change that is no sale, it stands in the history.
    let history = world.engine.ledger.stock_history(None, None, 10).await.unwrap();
    let rows = history.iter().map(|row| (row.delta, row.available, (row.actor.as_str(), row.reason.as_str())));
    assert_eq!(rows.collect::<Vec<_>>(), [(3, 8, WHY)]);
}
