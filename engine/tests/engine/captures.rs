//! Captures that are told of at once are confirmed in few transactions; the odd ones among them are judged each by itself.

use doorbuster_engine::domain::ids::{IntentId, OrderId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::{AttemptState, ProviderReport, Verdict};
use doorbuster_engine::ledger::attempts::LeasedPayment;
use doorbuster_engine::ledger::payments::PaymentSettled;
use doorbuster_engine::ledger::refunds::OrderCancelled;
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use crate::harness::{World, buyer, claim, taken};

const ORDERS: u32 = 60;

fn intent_of(order: OrderId) -> IntentId {
    IntentId(format!("pi_{order}"))
}

/// As a worker leaves a payment whose confirm has just been answered.
async fn confirmed_by_the_provider(world: &World, mut leased: LeasedPayment) {
    let (ledger, now, order) = (&world.engine.ledger, world.engine.clock.now(), leased.order);
    let intent = intent_of(order);
    let create = format!("order-{order}");
    let create = ledger.begin_attempt(&mut leased, None, ("create", &create, "/p", "b"), now).await.unwrap().unwrap();
    let end = leased.ended(&create, AttemptState::Succeeded, "").with_intent(intent);
    let confirm = format!("order-{order}:confirm:1");
    let confirm = ("confirm", &*confirm, "/p", "b");
    let confirm = ledger.begin_attempt(&mut leased, Some(end), confirm, now).await.unwrap().unwrap();
    let end = leased.ended(&confirm, AttemptState::Succeeded, "");
    ledger.finish_attempt(&leased, end, now).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_told_of_at_once_are_confirmed_together_and_the_odd_ones_alone() {
    let world = World::new().await;
    let live = world.open(&[ORDERS], 3, 1).await;
    for who in 0..ORDERS {
        world.save_profile(who, "pm_card_visa").await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    let orders = (0..ORDERS).map(|who| claim(&live, &buyer(who), "k", 0, 1).id.order_id()).collect::<Vec<_>>();
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let lease = jiff::SignedDuration::from_mins(1);
    let leased = ledger.lease_payments(now, lease, i64::from(ORDERS)).await.unwrap();
    assert_eq!(leased.len(), ORDERS as usize);
    join_all(leased.iter().map(|leased| confirmed_by_the_provider(&world, leased.clone()))).await;
    let amount = leased[0].amount;

    // The first buyer wants his order cancelled; of the second the provider took a cent too little; the third's report names
    // another order. Every report comes twice, as from a worker and a webhook.
    let why = ("buyer", "changed his mind");
    let asked = ledger.cancel_order(orders[0], Some(&buyer(0)), why, now).await.unwrap();
    assert_eq!(asked, OrderCancelled::Requested);
    let report = |index: usize| ProviderReport {
        intent: intent_of(orders[index]),
        amount: if index == 1 { Money::new(amount.amount_minor - 1, amount.currency) } else { amount },
        order: Some(if index == 2 { orders[3] } else { orders[index] }),
        verdict: Verdict::Captured { charge: Some(format!("ch_{index}")) },
    };
    let reports = (0..orders.len()).map(report).collect::<Vec<_>>();
    let told = orders.iter().zip(&reports).chain(orders.iter().zip(&reports));
    let settled = join_all(told.map(|(order, report)| ledger.settle_payment(*order, report, None, now))).await;
    let settled = settled.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    let of = |index: usize| [&settled[index], &settled[index + orders.len()]];
    assert!(of(0).contains(&&PaymentSettled::Refunding), "{:?}", of(0));
    for index in [1, 2] {
        assert!(of(index).iter().all(|settled| matches!(settled, PaymentSettled::Review(_))), "{:?}", of(index));
    }
    for index in 3..orders.len() {
        assert!(of(index).contains(&&PaymentSettled::Confirmed), "{:?}", of(index));
        assert!(of(index).contains(&&PaymentSettled::NoChange), "{:?}", of(index));
    }

    let states = ledger.order_counts(live.drop.id).await.unwrap();
    assert_eq!(states[&OrderState::Confirmed], u64::from(ORDERS) - 3);
    assert_eq!(states[&OrderState::Cancelled], 1);
    assert_eq!(states[&OrderState::PendingPayment], 2);
    let confirmed = i64::from(ORDERS) - 3;
    let mails = "select count(*) from outbox where kind = 'order_confirmed'";
    assert_eq!(world.count(mails).await, confirmed);
    // The cancelled order was charged as well: its money is on its way back.
    let charged = "select count(distinct order_id) from journal where debit_account = 'provider'";
    assert_eq!(world.count(charged).await, confirmed + 1);
    let sums = format!(
        "select count(*) from (select order_id, sum(amount_minor) from journal where debit_account = 'provider'
         group by 1 having sum(amount_minor) <> {}) wrong",
        amount.amount_minor
    );
    assert_eq!(world.count(&sums).await, 0);
    let stock = "select sum(quantity_available)::bigint from inventory";
    assert_eq!(world.count(stock).await, i64::from(ORDERS) - confirmed);
    assert_eq!(world.count("select sum(quantity_reserved)::bigint from inventory").await, 2);
    // Written by some group of many, and not by 57 transactions.
    let transactions = "select count(distinct xmin::text) from orders where status = 'CONFIRMED'";
    assert!(world.count(transactions).await < confirmed / 2, "{} transactions", world.count(transactions).await);
    let history = "select count(*) from order_history where to_state = 'CONFIRMED' and actor = 'payments'";
    assert_eq!(world.count(history).await, confirmed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_worker_died_ends_with_its_payment_that_a_webhook_has_settled() {
    let world = World::new().await;
    let live = world.open(&[2], 1, 1).await;
    let ledger = &world.engine.ledger;
    for who in 0..2 {
        world.save_profile(who, "pm_card_visa").await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    let (now, lease) = (world.engine.clock.now(), SignedDuration::from_mins(2));
    let mut leased = ledger.lease_payments(now, lease, 2).await.unwrap();
    for payment in &mut leased {
        let key = format!("order-{}:confirm", payment.order);
        ledger.begin_attempt(payment, None, ("confirm", &key, "/p", "b"), now).await.unwrap().unwrap();
    }
    let (told, silent) = (&leased[0], &leased[1]);
    let set_intent = "update payments set intent_id = $2 where order_id = $1";
    world.sql.execute(set_intent, &[&told.order.0, &intent_of(told.order).0]).await.unwrap();
    let report = ProviderReport {
        intent: intent_of(told.order),
        amount: told.amount,
        order: Some(told.order),
        verdict: Verdict::Captured { charge: Some("ch_1".to_owned()) },
    };
    assert_eq!(ledger.settle_payment(told.order, &report, None, now).await.unwrap(), PaymentSettled::Confirmed);
    // Its worker was about to look again later, and has not heard of it.
    ledger.yield_payment(told, None, None, None, Some(now), now).await.unwrap();
    let due = world.sql.query_one("select due_at from payments where order_id = $1", &[&told.order.0]).await.unwrap();
    assert_eq!(due.get::<_, Option<Timestamp>>(0), None, "what has ended is not due");
    // Whoever lives may still be about to write it down himself.
    assert_eq!(world.engine.end_settled_attempts(lease).await.unwrap(), 0);
    let later = now + SignedDuration::from_mins(3);
    assert_eq!(ledger.end_settled_attempts(later, later).await.unwrap(), 1, "one payment is not over");
    let open =
        "select count(*) from payment_attempts where order_id = $1 and state = $2 and (finished_at is null) = $3";
    for (order, state, is_open) in [(told.order, "SUCCEEDED", false), (silent.order, "DISPATCHED", true)] {
        let found = world.sql.query_one(open, &[&order.0, &state, &is_open]).await.unwrap();
        assert_eq!(found.get::<_, i64>(0), 1, "{state}");
    }
    assert_eq!(ledger.end_settled_attempts(later, later).await.unwrap(), 0);
}

/// What is written together shows by the transaction that each row is of.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_pays_is_three_transactions_after_its_lease() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(0, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 0, "k", 0, 1).await);
    world.settle().await;
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let mut leased = ledger.lease_payments(now, SignedDuration::from_mins(2), 1).await.unwrap().remove(0);
    let (order, intent) = (leased.order, intent_of(leased.order));
    let transactions = async |tables: &[&str]| {
        let mut written = std::collections::BTreeMap::<String, Vec<&str>>::new();
        for table in tables {
            for row in world.sql.query(&format!("select xmin::text from {table}"), &[]).await.unwrap() {
                written.entry(row.get(0)).or_default().push(table);
            }
        }
        written.into_values().map(|tables| tables.join(", ")).collect::<Vec<_>>()
    };
    let keys = ["create", "confirm"].map(|operation| format!("order-{order}:{operation}"));
    let create = ("create", &*keys[0], "/p", "b");
    let create = ledger.begin_attempt(&mut leased, None, create, now).await.unwrap().unwrap();
    let end = leased.ended(&create, AttemptState::Succeeded, "").with_intent(intent.clone());
    let confirm = ("confirm", &*keys[1], "/p", "b");
    let confirm = ledger.begin_attempt(&mut leased, Some(end), confirm, now).await.unwrap().unwrap();
    let begun = ["payment_attempts, payment_attempts, payments"];
    assert_eq!(transactions(&["payment_attempts", "payments"]).await, begun, "create ends, confirm begins");

    let end = leased.ended(&confirm, AttemptState::Succeeded, "");
    let verdict = Verdict::Captured { charge: None };
    let report = ProviderReport { intent, amount: leased.amount, order: Some(order), verdict };
    assert_eq!(ledger.settle_payment(order, &report, Some(&end), now).await.unwrap(), PaymentSettled::Confirmed);
    let confirm = "payment_attempts where operation = 'confirm'";
    let history = "order_history where to_state = 'CONFIRMED'";
    let captured = [confirm, "payments", "orders", history, "journal where source like '%:charge:sales'"];
    assert_eq!(transactions(&captured).await, [captured.join(", ")], "confirm ends, the order is confirmed");
}

/// Its word counts; how its call ended is for whoever has the lease now.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_lease_ran_out_settles_and_ends_no_attempt() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(0, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 0, "k", 0, 1).await);
    world.settle().await;
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let mut slept = ledger.lease_payments(now, SignedDuration::ZERO, 1).await.unwrap().remove(0);
    let key = format!("order-{}:confirm", slept.order);
    let confirm = ("confirm", &*key, "/p", "b");
    let confirm = ledger.begin_attempt(&mut slept, None, confirm, now).await.unwrap().unwrap();
    let intent = intent_of(slept.order);
    let set_intent = "update payments set intent_id = $2 where order_id = $1";
    world.sql.execute(set_intent, &[&slept.order.0, &intent.0]).await.unwrap();
    let awake = ledger.lease_payments(now, SignedDuration::from_mins(1), 1).await.unwrap().remove(0);
    let verdict = Verdict::Captured { charge: None };
    let report = ProviderReport { intent, amount: slept.amount, order: Some(slept.order), verdict };
    let end = slept.ended(&confirm, AttemptState::Unknown, "no answer");
    let settled = ledger.settle_payment(slept.order, &report, Some(&end), now).await.unwrap();
    assert_eq!(settled, PaymentSettled::Confirmed);
    assert_eq!(world.count("select count(*) from payment_attempts where state = 'DISPATCHED'").await, 1);
    ledger.finish_attempt(&awake, awake.ended(&confirm, AttemptState::Succeeded, ""), now).await.unwrap();
}
