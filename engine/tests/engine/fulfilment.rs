//! A paid order on its way: packed, shipped, delivered, each once, and never what is being cancelled or given back.

use doorbuster_engine::domain::fulfilment::Tracking;
use doorbuster_engine::domain::ids::{OrderId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::PaymentState;
use doorbuster_engine::ledger::fulfilment::{Fulfilled, FulfilmentStep};
use doorbuster_engine::ledger::refunds::{OrderCancelled, RefundAsked};
use doorbuster_sandbox::provider::FakeProviderOptions;
use uuid::Uuid;

use crate::harness::{World, buyer};
use crate::refunds::{assert_audit_is_clean, paid_orders, until_nothing_is_due};

const BY: &str = "grace";

pub(crate) async fn fulfil(world: &World, order: OrderId, step: FulfilmentStep) -> Fulfilled {
    world.engine.ledger.fulfil(order, &step, BY, world.engine.clock.now()).await.unwrap()
}

pub(crate) fn ship() -> FulfilmentStep {
    FulfilmentStep::Ship(Tracking::sample())
}

/// Packed, handed over and, with `Deliver`, delivered.
pub(crate) async fn bring(world: &World, order: OrderId) {
    for step in [FulfilmentStep::Process, ship()] {
        assert_eq!(fulfil(world, order, step).await, Fulfilled::Now);
    }
}

async fn status(world: &World, order: OrderId) -> OrderState {
    world.engine.ledger.order(order).await.unwrap().unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_packed_shipped_and_delivered_once_each() {
    let (world, _fake, client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    let order = orders[0];
    assert_eq!(fulfil(&world, order, ship()).await, Fulfilled::WrongState(OrderState::Confirmed));
    assert_eq!(fulfil(&world, order, FulfilmentStep::Deliver).await, Fulfilled::WrongState(OrderState::Confirmed));
    for step in [FulfilmentStep::Process, ship(), FulfilmentStep::Deliver] {
        assert_eq!(fulfil(&world, order, step.clone()).await, Fulfilled::Now);
        assert_eq!(fulfil(&world, order, step).await, Fulfilled::Before);
    }
    // Also when the order has gone on meanwhile.
    for step in [FulfilmentStep::Process, ship()] {
        assert_eq!(fulfil(&world, order, step).await, Fulfilled::Before);
    }
    let other = FulfilmentStep::Ship(Tracking::new("DHL", "2").unwrap());
    assert_eq!(fulfil(&world, order, other).await, Fulfilled::ShippedOtherwise(Tracking::sample()));
    let nobodys = OrderId(Uuid::from_u128(1));
    assert_eq!(fulfil(&world, nobodys, FulfilmentStep::Process).await, Fulfilled::NoSuchOrder);

    let found = world.engine.ledger.order(order).await.unwrap().unwrap();
    assert_eq!(found.shipment.unwrap().tracking, Tracking::sample());
    let history = world.engine.ledger.history_of(&buyer(0), order).await.unwrap().unwrap();
    let steps = history.iter().map(|entry| (entry.to.as_str(), entry.by.as_str())).collect::<Vec<_>>();
    let expected = [
        ("PENDING_PAYMENT", "settlement"),
        ("CONFIRMED", "payments"),
        ("PROCESSING", BY),
        ("SHIPPED", BY),
        ("DELIVERED", BY),
    ];
    assert_eq!(steps, expected);
    assert_eq!(world.engine.ledger.history_of(&buyer(1), order).await.unwrap(), None, "not his");
    for kind in ["order_processing", "order_shipped", "order_delivered"] {
        for table in ["outbox", "order_events"] {
            assert_eq!(world.count(&format!("select count(*) from {table} where kind = '{kind}'")).await, 1, "{kind}");
        }
    }
    let now = world.engine.clock.now();
    let late = world.engine.ledger.cancel_order(order, None, (BY, "too late"), now).await.unwrap();
    assert_eq!(late, OrderCancelled::TooLate(OrderState::Delivered));
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_shipping_and_cancelling_exactly_one_wins() {
    const RUNS: usize = 60;
    let (world, fake, client, orders) = paid_orders(FakeProviderOptions::default(), RUNS as u32).await;
    for order in &orders {
        assert_eq!(fulfil(&world, *order, FulfilmentStep::Process).await, Fulfilled::Now);
    }
    let (mut shipped, mut cancelled) = (0, 0);
    for (who, order) in orders.iter().enumerate() {
        let (now, owner) = (world.engine.clock.now(), buyer(who as u32));
        let cancelling = world.engine.ledger.cancel_order(*order, Some(&owner), ("buyer", "a race"), now);
        // Who comes first is chance; cancelling takes more locks, so it gets a start of some round trips.
        let shipping = async {
            for _ in 0..who % 5 {
                world.sql.query("select 1", &[]).await.unwrap();
            }
            fulfil(&world, *order, ship()).await
        };
        let (ship, cancel) = tokio::join!(shipping, cancelling);
        match (ship, cancel.unwrap(), status(&world, *order).await) {
            (Fulfilled::Now, OrderCancelled::TooLate(OrderState::Shipped), OrderState::Shipped) => shipped += 1,
            (Fulfilled::WrongState(OrderState::Cancelled), OrderCancelled::Now, OrderState::Cancelled) => {
                cancelled += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(shipped + cancelled == RUNS && shipped > 0 && cancelled > 0, "no race: {shipped} and {cancelled}");
    until_nothing_is_due(&world, &client).await;
    assert_eq!(fake.refunds().len(), cancelled, "only what was cancelled was given back");
    assert_eq!(world.count("select count(*) from shipments").await, shipped as i64);
    world.apply_all_grants().await;
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goods_stay_here_while_money_goes_back() {
    let (world, _fake, client, orders) = paid_orders(FakeProviderOptions::default(), 3).await;
    let ledger = &world.engine.ledger;
    let refund = async |order, number, minor: Option<i64>| {
        let amount = minor.map(|minor| Money::new(minor, "EUR".parse().unwrap()));
        let id = RefundId(Uuid::from_u128(number));
        let now = world.engine.clock.now();
        assert_eq!(ledger.ask_refund(id, order, amount, (BY, "r"), now).await.unwrap(), RefundAsked::Now);
    };
    // A part of it, on its way: not now. Once it has arrived the rest is paid, and the goods go.
    refund(orders[0], 1, Some(100)).await;
    let pending = Fulfilled::NotPaid(PaymentState::RefundPending);
    assert_eq!(fulfil(&world, orders[0], FulfilmentStep::Process).await, pending);
    until_nothing_is_due(&world, &client).await;
    assert_eq!(fulfil(&world, orders[0], FulfilmentStep::Process).await, Fulfilled::Now);
    refund(orders[0], 2, Some(100)).await;
    assert_eq!(fulfil(&world, orders[0], ship()).await, pending);
    until_nothing_is_due(&world, &client).await;
    assert_eq!(fulfil(&world, orders[0], ship()).await, Fulfilled::Now);
    // What is on its way is delivered, whatever becomes of the money.
    refund(orders[0], 3, None).await;
    assert_eq!(fulfil(&world, orders[0], FulfilmentStep::Deliver).await, Fulfilled::Now);
    // All of it went back.
    refund(orders[1], 4, None).await;
    until_nothing_is_due(&world, &client).await;
    let refunded = Fulfilled::NotPaid(PaymentState::Refunded);
    assert_eq!(fulfil(&world, orders[1], FulfilmentStep::Process).await, refunded);
    // Somebody wants it cancelled, and has not had his answer.
    let asked = "update orders set cancel_asked_by = 'buyer', cancel_reason = 'r' where order_id = $1";
    world.sql.execute(asked, &[&orders[2].0]).await.unwrap();
    assert_eq!(fulfil(&world, orders[2], FulfilmentStep::Process).await, Fulfilled::CancelRequested);
    assert_audit_is_clean(&world, &client).await;
}
