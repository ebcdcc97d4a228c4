//! Who is charged next when more waits than the provider takes: no buyer's many orders, and no kind of work, keep the
//! others waiting.

use doorbuster_engine::domain::claims::Claim;
use doorbuster_engine::domain::ids::{IntentId, OrderId, RefundId, VariantId};
use doorbuster_engine::domain::payments::{AttemptState, ProviderReport, Verdict};
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::domain::turns::{Lane, ROUND};
use doorbuster_engine::domain::versions::Expected;
use doorbuster_engine::flows::checkout::{CheckedOut, CheckoutRefused};
use doorbuster_engine::ledger::attempts::{LEASE_PLAN, lease_sql};
use doorbuster_sandbox::provider::FakeProviderOptions;
use jiff::SignedDuration;
use serde_json::Value;

use crate::harness::{World, buyer, claim, provider, rows_read, taken};
use crate::shelves::{
    add, check_out, euros, fill, made, ordered, put_on_shelves, refused, serve_everywhere, shopper, stock,
};

async fn shop() -> (World, VariantId) {
    let world = World::new().await;
    serve_everywhere(&world).await;
    let mug = put_on_shelves(&world, "mug", StockWay::RowLock, &[100]).await;
    (world, mug)
}

/// So many orders of one mug each, by one buyer.
async fn orders(world: &World, mug: VariantId, who: u32, count: usize) -> Vec<OrderId> {
    let mut orders = Vec::new();
    for number in 0..count {
        let buyer = fill(world, who, &[(mug, 1)]).await;
        orders.push(ordered(world, &buyer, &format!("key-{number}")).await);
    }
    orders
}

async fn turn(world: &World, order: OrderId) -> i16 {
    world.sql.query_one("select turn from payments where order_id = $1", &[&order.0]).await.unwrap().get(0)
}

/// A claim that has been settled.
async fn settled(world: &World, units: u32, methods: &[&str]) -> Vec<OrderId> {
    let live = world.open(&[units], 1, 1).await;
    let mut claims = Vec::<Claim>::new();
    for (who, method) in (0..).zip(methods) {
        world.save_profile(who, method).await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
        claims.push(claim(&live, &buyer(who), "k", 0, 1));
    }
    assert_eq!(world.settle().await, methods.len());
    claims.iter().map(|claim| claim.id.order_id()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_with_many_orders_waits_behind_everybodys_first() {
    let (world, mug) = shop().await;
    let many = orders(&world, mug, 1, 4).await;
    let few = orders(&world, mug, 2, 2).await;
    let one = orders(&world, mug, 3, 1).await;
    let mut turns = Vec::new();
    for order in many.iter().chain(&few).chain(&one) {
        turns.push(turn(&world, *order).await);
    }
    assert_eq!(turns, [1, 2, 3, 4, 1, 2, 1]);
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let mut leased = Vec::new();
    for _ in 0..7 {
        leased.push(ledger.lease_payments(now, SignedDuration::from_mins(1), 1).await.unwrap().remove(0).order);
    }
    assert_eq!(leased, [many[0], few[0], one[0], many[1], few[1], many[2], many[3]]);
    assert!(ledger.lease_payments(now, SignedDuration::from_mins(1), 1).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn goods_are_charged_in_the_middle_of_a_drop_and_a_cancel_waits_for_neither() {
    let (world, mug) = shop().await;
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    let mut methods = vec!["pm_card_visa"; 13];
    methods[0] = "pm_card_chargeDeclined";
    let of_drop = settled(&world, 13, &methods).await;
    let goods = orders(&world, mug, 99, 2).await;
    // The declined one first; its cancel is due behind everything else.
    let first = "update payments set due_at = due_at - interval '1 hour' where order_id = $1";
    world.sql.execute(first, &[&of_drop[0].0]).await.unwrap();
    world.engine.charge_due(&client, 1, 1).await.unwrap();
    assert_eq!(world.count("select count(*) from payments where state = 'CANCEL_REQUESTED'").await, 1);
    let report = world.engine.charge_due(&client, ROUND.len() as i64, 1).await.unwrap();
    assert_eq!((report.released, report.confirmed), (1, 7), "{report:?}");
    let confirmed = "select count(*) from orders where status = 'CONFIRMED' and drop_id is null";
    assert_eq!(world.count(confirmed).await, goods.len() as i64, "two of eight");
    // Without goods the drop has all of it.
    let report = world.engine.charge_due(&client, 100, 4).await.unwrap();
    assert_eq!(report.confirmed, 7, "{report:?}");
    assert!(world.engine.audit(Some(&client)).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_has_begun_leaves_the_line_of_first_charges() {
    let world = World::new().await;
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    let orders = settled(&world, 5, &["pm_card_visa"; 5]).await;
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    // As a program that knows no turns leaves it.
    let forget = async || world.sql.batch_execute("update payments set turn = 0").await.unwrap();
    assert_eq!(world.engine.charge_due(&client, 1, 1).await.unwrap().confirmed, 1);
    forget().await;
    let paid = "select order_id from payments where state = 'SUCCEEDED'";
    let paid = OrderId(world.sql.query_one(paid, &[]).await.unwrap().get(0));
    ledger.ask_refund(RefundId(paid.0), paid, None, ("grace", "a scratch"), now).await.unwrap();
    assert_eq!(turn(&world, paid).await, -1, "a refund");

    forget().await;
    world.sql.execute("update payments set due_at = null where order_id = $1", &[&paid.0]).await.unwrap();
    let mut leased = ledger.lease_payments(now, SignedDuration::from_mins(1), 10).await.unwrap();
    assert_eq!(leased.len(), orders.len() - 1);
    for (number, payment) in leased.iter_mut().enumerate() {
        assert_eq!(turn(&world, payment.order).await, 0, "a lease changes no turn");
        if number == 0 {
            ledger.yield_payment(payment, None, None, None, Some(now), now).await.unwrap();
            assert_eq!(turn(&world, payment.order).await, -1, "it was interrupted");
            continue;
        }
        let keys = ["create", "confirm"].map(|operation| format!("order-{}:{operation}", payment.order));
        let create = ledger.begin_attempt(payment, None, ("create", &keys[0], "/p", "b"), now).await.unwrap().unwrap();
        assert_eq!(turn(&world, payment.order).await, 0, "it has no intent yet");
        assert!(ledger.dispatch_again(payment, &create, now).await.unwrap());
        assert_eq!(turn(&world, payment.order).await, -1, "it was asked for a second time");
        forget().await;
        let intent = IntentId(format!("pi_{number}"));
        let end = payment.ended(&create, AttemptState::Succeeded, "").with_intent(intent.clone());
        let confirm = ("confirm", &*keys[1], "/p", "b");
        ledger.begin_attempt(payment, Some(end), confirm, now).await.unwrap().unwrap();
        assert_eq!(
            turn(&world, payment.order).await,
            -1,
            "should its worker die, it is read back before first charges"
        );
        let before = "update payments set turn = 0 where order_id = $1";
        world.sql.execute(before, &[&payment.order.0]).await.unwrap();
        if number == 1 {
            ledger.cancel_order(payment.order, None, ("buyer", "too small"), now).await.unwrap();
            assert_eq!(turn(&world, payment.order).await, -1, "cancelled while its charge is on the way");
        } else {
            let (amount, order) = (payment.amount, Some(payment.order));
            let report =
                ProviderReport { intent, amount, order, verdict: Verdict::Declined { code: "declined".to_owned() } };
            ledger.settle_payment(payment.order, &report, None, now).await.unwrap();
            assert_eq!(turn(&world, payment.order).await, -1, "declined");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_reads_what_it_takes_however_many_are_due() {
    let mut world = World::new().await;
    let (now, until) = (world.engine.clock.now(), world.engine.clock.now() + SignedDuration::from_mins(2));
    // Foreign keys are not looked at, so that the orders can be left out. What was begun waits for a later time, such as
    // payments whose buyers have to act; what is to be canceled is due, as when a drop's time to pay ends.
    let due = "set session_replication_role = replica;
        insert into payments (order_id, state, amount_minor, currency, idempotency_key, due_at, updated_at, turn)
        select id, case turn when -1 then case n % 7 when 0 then 'CANCEL_REQUESTED' else 'ACTION_REQUIRED' end
                             else 'IN_FLIGHT' end, 1, 'EUR', 'order-' || id,
               now() + case when turn = -1 and n % 7 <> 0 then 1 else -1 end * n * interval '1 second', now(), turn
        from (select n, lpad(n::text, 32, '0')::uuid as id, n % 12 - 1 as turn from generate_series(1, 110000) n) made";
    world.sql.batch_execute(due).await.unwrap();
    assert!(world.count("select count(*) from payments where due_at < now()").await > 100_000);
    let cases: [(&[Lane], i64, f64); 6] = [
        (&ROUND[0], 256, 512.0),
        (&ROUND[2], 256, 512.0),
        (&ROUND[7], 256, 512.0),
        (&[Lane::Cancels], 256, 512.0),
        (&[Lane::Begun, Lane::Drops, Lane::Goods], 256, 512.0),
        (&[Lane::Begun], 0, 0.0),
    ];
    for (lanes, leased, at_most) in cases {
        let explain = format!("explain (analyze, buffers off, format json) {}", lease_sql(lanes));
        let tx = world.sql.transaction().await.unwrap();
        tx.batch_execute(LEASE_PLAN).await.unwrap();
        let explained: Value = tx.query_one(&explain, &[&now, &until, &256_i64]).await.unwrap().get(0);
        tx.rollback().await.unwrap();
        let read = rows_read(&explained[0]["Plan"], "payments");
        assert_eq!(explained[0]["Plan"]["Actual Rows"], leased, "{lanes:?}: {explained:#}");
        assert!(read <= at_most, "{lanes:?}: {read} rows were read to lease {leased}: {explained:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_has_so_many_unpaid_orders_of_goods_and_then_pays_or_cancels_one() {
    let (mut world, mug) = shop().await;
    world.engine.unpaid_orders_max = 2;
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    let first = orders(&world, mug, 1, 2).await;
    let buyer = fill(&world, 1, &[(mug, 1)]).await;
    let too_many = CheckoutRefused::TooManyOpen { limit: 2 };
    assert_eq!(refused(&world, &buyer, "third").await, too_many);
    assert_eq!(stock(&world, "mug").await, (100, 2), "nothing was reserved");
    assert_eq!(world.count("select count(*) from checkouts").await, 2, "and nothing is remembered");
    let again = check_out(&world, &buyer, "key-1").await;
    assert!(matches!(again, CheckedOut::Before(_)), "what was ordered is answered as before: {again:?}");
    orders(&world, mug, 2, 1).await;

    // A drop has a limit of its own.
    let live = world.open(&[5], 1, 2).await;
    let shoe = VariantId(live.drop.variants[0].variant_id);
    add(&world, &buyer, shoe, 1, euros(14_900)).await;
    assert_eq!(refused(&world, &buyer, "both").await, too_many, "the cart has goods too");
    let fan = shopper(&world, 1);
    let cart = doorbuster_engine::domain::carts::CartOwner::Buyer(fan.clone());
    world.engine.carts.clear(&cart, &Expected::Any).await.unwrap();
    add(&world, &fan, shoe, 1, euros(14_900)).await;
    assert!(made(&world, &fan, "shoe").await.claim.is_some());

    let now = world.engine.clock.now();
    world.engine.ledger.cancel_order(first[0], None, ("buyer", "changed my mind"), now).await.unwrap();
    fill(&world, 1, &[(mug, 1)]).await;
    let third = ordered(&world, &buyer, "third").await;
    assert_eq!(turn(&world, third).await, 2, "one is left before it");
    fill(&world, 1, &[(mug, 1)]).await;
    assert_eq!(refused(&world, &buyer, "fourth").await, too_many);
    while world.engine.charge_due(&client, 10, 4).await.unwrap().leased > 0 {}
    ordered(&world, &buyer, "fourth").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyers_unpaid_orders_hold_so_many_units_and_no_more() {
    let (mut world, mug) = shop().await;
    world.engine.unpaid_units_max = 10;
    let buyer = fill(&world, 1, &[(mug, 7)]).await;
    let first = ordered(&world, &buyer, "first").await;
    fill(&world, 1, &[(mug, 4)]).await;
    let too_many = CheckoutRefused::TooManyUnitsOpen { limit: 10 };
    assert_eq!(refused(&world, &buyer, "second").await, too_many);
    assert_eq!(stock(&world, "mug").await, (100, 7), "nothing was reserved");
    let other = fill(&world, 2, &[(mug, 10)]).await;
    ordered(&world, &other, "others").await;
    let now = world.engine.clock.now();
    world.engine.ledger.cancel_order(first, None, ("buyer", "changed my mind"), now).await.unwrap();
    ordered(&world, &buyer, "second").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_a_program_that_knew_no_turns_get_theirs() {
    let (mut world, mug) = shop().await;
    world.engine.unpaid_orders_max = 20;
    let many = orders(&world, mug, 1, 12).await;
    let other = orders(&world, mug, 2, 1).await;
    let of_drop = settled(&world, 2, &["pm_card_visa"; 2]).await;
    let before = "alter table payments drop column turn;
        drop index orders_unpaid_of_buyer;
        create index payments_due on payments (due_at) where due_at is not null";
    world.sql.batch_execute(before).await.unwrap();
    world.sql.execute("update payments set state = 'UNKNOWN' where order_id = $1", &[&of_drop[1].0]).await.unwrap();
    world.sql.execute("update payments set tries = 3 where order_id = $1", &[&many[2].0]).await.unwrap();
    world.sql.batch_execute(include_str!("../../../migrations/V27__turns.sql")).await.unwrap();
    let mut turns = Vec::new();
    for order in many.iter().chain(&other).chain(&of_drop) {
        turns.push(turn(&world, *order).await);
    }
    assert_eq!(turns, [1, 2, -1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 0, -1]);
    // What it still writes meanwhile comes among the first ones.
    let unaware = "set session_replication_role = replica;
        insert into payments (order_id, state, amount_minor, currency, idempotency_key, due_at, updated_at)
        values ('00000000-0000-0000-0000-000000000001', 'IN_FLIGHT', 1, 'EUR',
                'order-00000000-0000-0000-0000-000000000001', now(), now())";
    world.sql.batch_execute(unaware).await.unwrap();
    assert_eq!(turn(&world, OrderId(uuid::Uuid::from_u128(1))).await, 1);
}
