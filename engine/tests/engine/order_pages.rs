//! Orders in pages: each once, whatever is ordered meanwhile, and never another buyer's.

use doorbuster_engine::domain::ids::OrderId;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::ledger::order_pages::{OrderFilter, OrderPosition};
use doorbuster_engine::ledger::orders::OrderView;
use jiff::{SignedDuration, Timestamp};

use crate::harness::{World, buyer};

const ORDERS: i32 = 250;

/// Orders of a buyer, three in each second from `from` on, so that some have the same time.
async fn insert(world: &World, who: u32, count: i32, from: &str) {
    let sql = format!(
        "with made as (
             insert into orders (order_id, buyer, status, currency, subtotal_minor, tax_minor, shipping_minor, total_minor,
                                 created_at, updated_at)
             select gen_random_uuid(), '{}', case when n % 5 = 0 then 'DELIVERED' else 'CONFIRMED' end, 'EUR', n, 0, 0, n,
                    timestamptz '{from}' + (n / 3) * interval '1 second', now()
             from generate_series(1, {count}) n returning order_id, total_minor)
         insert into payments (order_id, state, amount_minor, currency, idempotency_key, updated_at)
         select order_id, 'SUCCEEDED', total_minor, 'EUR', 'order-' || order_id, now() from made",
        buyer(who)
    );
    world.sql.batch_execute(&sql).await.unwrap();
}

async fn all_of(world: &World, sql: &str) -> Vec<OrderId> {
    let rows = world.sql.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| OrderId(row.get(0))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_comes_once_while_others_are_made() {
    let world = World::new().await;
    insert(&world, 1, ORDERS, "2026-01-01T00:00:00Z").await;
    insert(&world, 2, 10, "2026-01-01T00:00:30Z").await;
    let mine =
        format!("select order_id from orders where buyer = '{}' order by created_at desc, order_id desc", buyer(1));
    let expected = all_of(&world, &mine).await;
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = world.engine.ledger.orders_of(&buyer(1), &[], after, 20).await.unwrap();
        found.extend(page.iter().map(|order| order.id));
        pages += 1;
        // Newer ones, as ever.
        insert(&world, 1, 2, &format!("2026-02-01T00:00:{pages:02}Z")).await;
        after = page.last().map(OrderView::position);
        if page.len() < 20 {
            break;
        }
    }
    assert_eq!((found.len(), pages), (ORDERS as usize, 13));
    assert_eq!(found, expected, "newest first, each once");
    let huge = world.engine.ledger.orders_of(&buyer(1), &[], None, i64::MAX).await.unwrap();
    assert_eq!(huge.len(), 101, "a page has a bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_says_where_and_never_whose() {
    let world = World::new().await;
    insert(&world, 1, 30, "2026-01-01T00:00:00Z").await;
    insert(&world, 2, 30, "2026-01-01T00:00:00Z").await;
    let his = world.engine.ledger.orders_of(&buyer(1), &[], None, 10).await.unwrap();
    let his_place = his.last().map(OrderView::position);
    let hers = world.engine.ledger.orders_of(&buyer(2), &[], his_place, 100).await.unwrap();
    assert!((15..=25).contains(&hers.len()), "{}", hers.len());
    assert!(hers.iter().all(|order| order.buyer == buyer(2)));
    assert!(world.engine.ledger.orders_of(&buyer(3), &[], his_place, 100).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_find_orders_by_state_buyer_drop_and_time() {
    let world = World::new().await;
    insert(&world, 1, 30, "2026-01-01T00:00:00Z").await;
    insert(&world, 2, 30, "2026-01-01T01:00:00Z").await;
    let find = async |filter: OrderFilter, after: Option<OrderPosition>| {
        world.engine.ledger.find_orders(&filter, after, 100).await.unwrap()
    };
    assert_eq!(find(OrderFilter::default(), None).await.len(), 60);
    let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
    let delivered = OrderFilter { statuses: vec![OrderState::Delivered], ..OrderFilter::default() };
    assert_eq!(find(delivered.clone(), None).await.len(), 12);
    let hers = OrderFilter { buyer: Some(buyer(2)), ..delivered.clone() };
    assert_eq!(find(hers, None).await.len(), 6);
    let early = OrderFilter { created_before: at("2026-01-01T01:00:00Z"), ..OrderFilter::default() };
    assert_eq!(find(early, None).await.len(), 30);
    let late = OrderFilter { created_from: at("2026-01-01T01:00:00Z"), ..OrderFilter::default() };
    let late = find(late, None).await;
    assert!(late.len() == 30 && late.iter().all(|order| order.buyer == buyer(2)));
    // A position inside of the range, and one behind its end.
    let middle = late[10].created_at;
    let range = OrderFilter { created_before: at("2026-01-01T01:00:03Z"), ..OrderFilter::default() };
    let position = |created_at| Some(OrderPosition { created_at, order: OrderId(uuid::Uuid::nil()) });
    let bounded = find(range.clone(), position(middle)).await;
    assert!(bounded.iter().all(|order| order.created_at < range.created_before.unwrap()));
    let deep = find(range, position(middle - SignedDuration::from_hours(1))).await;
    assert!(deep.len() < 30 && deep.iter().all(|order| order.buyer == buyer(1)));
    let unknown = OrderFilter { drop: Some("nothing".parse().unwrap()), ..OrderFilter::default() };
    assert!(find(unknown, None).await.is_empty());
}
