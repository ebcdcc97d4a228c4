//! Orders are charged once; a decline gives the unit to somebody else.

use std::time::Duration;

use doorbuster_engine::domain::claims::{ClaimOutcome, Quantity};
use doorbuster_engine::domain::ids::VariantNumber;
use doorbuster_engine::domain::payments::AttemptState;
use doorbuster_engine::flows::grants::look_again;
use doorbuster_engine::ledger::payments::MethodGiven;
use doorbuster_engine::ledger::standby::NewPlace;
use doorbuster_engine::provider::ProviderClient;
use doorbuster_sandbox::provider::{FakeProviderOptions, FaultCounts};

use crate::harness::{World, buyer, claim, provider, taken};

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_is_confirmed_and_leaves_the_inventory() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[5], 2, 2).await;
    world.save_profile(1, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 2).await);
    world.settle().await;
    let report = world.engine.charge_due(&client, 10, 4).await.unwrap();
    assert_eq!((report.confirmed, report.review, report.later), (1, 0, 0));
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().leased, 0, "nothing is due");
    assert_eq!(world.count("select count(*) from orders where status = 'CONFIRMED'").await, 1);
    assert_eq!(world.count("select sum(quantity_available) from inventory").await, 3);
    assert_eq!(world.count("select sum(quantity_reserved) from inventory").await, 0);
    let captures = fake.captures();
    assert_eq!(captures.len(), 1);
    let booked = "select sum(amount_minor)::bigint from journal where debit_account = 'provider'";
    assert_eq!(world.count(booked).await, captures[0].amount_minor);
    assert_eq!(world.count("select count(*) from outbox where kind = 'order_confirmed'").await, 1);
}

/// The card of a buyer's profile, as the provider's script in their browser has made a payment method of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_pays_two_orders_with_the_card_of_their_profile() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[3], 2, 3).await;
    world.save_card(1, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    for key in ["first", "second"] {
        taken(world.claim_until_answered(&live, 1, key, 0, 1).await);
        world.settle().await;
        let report = world.engine.charge_due(&client, 10, 4).await.unwrap();
        assert_eq!((report.confirmed, report.released), (1, 0), "the {key} order: {report:?}");
    }
    // A third, whose first call gets no answer: a worker without a provider takes it, and loses it.
    taken(world.claim_until_answered(&live, 1, "third", 0, 1).await);
    world.settle().await;
    let (gone, nowhere) = provider(FakeProviderOptions::default()).await;
    drop(gone);
    assert_eq!(world.engine.charge_due(&nowhere, 10, 4).await.unwrap().later, 1);
    world.sql.execute("update payments set due_at = now() where due_at is not null", &[]).await.unwrap();
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().confirmed, 1);
    assert_eq!(fake.captures().len(), 3);
    let customers = fake.customers();
    assert_eq!(customers.len(), 1, "one customer, whatever is bought");
    assert!(fake.intents().iter().all(|intent| intent.customer.as_ref() == Some(&customers[0].customer_id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_units_claimed_in_two_clicks_by_one_buyer_with_one_card_are_both_paid() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[2], 2, 2).await;
    world.save_card(1, &fake.new_payment_method("pm_card_visa").unwrap()).await;
    for key in ["first", "second"] {
        taken(world.claim_until_answered(&live, 1, key, 0, 1).await);
    }
    world.settle().await;
    // Both at once: one of them saves the card, and the other waits for that.
    until_paid(&world, &client, 2).await;
    assert_eq!(fake.captures().len(), 2);
    assert_eq!(fake.customers().len(), 1);
}

/// Charges until so many orders are confirmed; what waits for another attempt does not wait here.
pub(crate) async fn until_paid(world: &World, client: &ProviderClient, orders: i64) {
    let started = std::time::Instant::now();
    while world.count("select count(*) from orders where status = 'CONFIRMED'").await < orders {
        let sql = "update payments set due_at = least(due_at, now()) where due_at is not null";
        world.sql.execute(sql, &[]).await.unwrap();
        world.engine.charge_due(client, 10, 4).await.unwrap();
        assert!(started.elapsed().as_secs() < 20, "orders are still unpaid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_order_gives_its_unit_and_its_limit_back_and_the_unit_is_sold_to_another() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[1], 2, 1).await;
    world.save_profile(1, "pm_card_chargeDeclined").await;
    world.save_profile(2, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::SoldOut);
    world.settle().await;
    let mut released = 0;
    for _ in 0..3 {
        released += world.engine.charge_due(&client, 10, 4).await.unwrap().released;
    }
    assert_eq!(released, 1);
    assert_eq!(world.count("select count(*) from orders where status = 'PAYMENT_FAILED'").await, 1);
    assert_eq!(world.count("select sum(quantity_reserved) from inventory").await, 0);
    assert_eq!(world.count("select count(*) from holdings").await, 0);
    assert!(world.engine.apply_grants().await.unwrap().resting > 0, "a lease may be out: the unit rests");
    world.apply_all_grants().await;
    assert_eq!(
        world.claim_until_answered(&live, 1, "k", 0, 1).await,
        ClaimOutcome::Released,
        "the old key is told how it ended"
    );
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    world.settle().await;
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().confirmed, 1);
    assert_eq!(fake.captures().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_lost_answers_never_charge_twice() {
    let faults = FakeProviderOptions { lost_answer_rate: 0.4, lost_request_rate: 0.2, seed: 7, ..Default::default() };
    charge_forty_through(faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_errors_that_the_provider_stored_are_overcome_and_never_charge_twice() {
    let faults = FakeProviderOptions { error_500_rate: 0.4, lost_answer_rate: 0.2, seed: 11, ..Default::default() };
    charge_forty_through(faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_money_that_lands_after_its_stored_500_is_taken_once() {
    let faults = FakeProviderOptions {
        capture_after_500_rate: 0.4,
        settles_after: Some(Duration::from_millis(20)),
        bare_decline_rate: 0.5,
        seed: 13,
        ..Default::default()
    };
    let counts = charge_forty_through(faults).await;
    assert!(counts.captures_after_500 > 5 && counts.bare_declines > 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_key_that_is_held_after_its_answer_was_lost_never_charges_twice() {
    let faults = FakeProviderOptions {
        key_held_rate: 0.3,
        key_held_for: Duration::from_secs(1),
        lagging_list_rate: 1.0,
        seed: 17,
        ..Default::default()
    };
    let counts = charge_forty_through(faults).await;
    assert!(counts.keys_held > 5, "{counts:?}");
}

/// Forty orders, eight of them declined, through a provider with these faults.
async fn charge_forty_through(faults: FakeProviderOptions) -> FaultCounts {
    let world = World::new().await;
    let (fake, client) = provider(faults).await;
    let live = world.open(&[40], 2, 1).await;
    for who in 0..40 {
        world.save_profile(who, if who % 5 == 0 { "pm_card_chargeDeclined" } else { "pm_card_visa" }).await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    let started = std::time::Instant::now();
    while world.count("select count(*) from orders where status = 'PENDING_PAYMENT'").await > 0 {
        // Backoff is a due time: brought forward here, so that the test does not wait for it.
        world
            .sql
            .execute("update payments set due_at = least(due_at, now()) where due_at is not null", &[])
            .await
            .unwrap();
        world.engine.charge_due(&client, 50, 8).await.unwrap();
        assert!(started.elapsed().as_secs() < 60, "orders are still unpaid");
    }
    assert_eq!(world.count("select count(*) from orders where status = 'CONFIRMED'").await, 32);
    assert_eq!(world.count("select count(*) from orders where status = 'PAYMENT_FAILED'").await, 8);
    let mut orders = fake.captures().into_iter().map(|capture| capture.order_id).collect::<Vec<_>>();
    orders.sort();
    let all = orders.len();
    orders.dedup();
    assert_eq!((all, orders.len()), (32, 32), "one capture an order");
    fake.fault_counts()
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_two_workers_charge_an_order_once() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[30], 2, 1).await;
    for who in 0..30 {
        world.save_profile(who, "pm_card_visa").await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    let other = world.another_engine().await;
    while world.count("select count(*) from orders where status = 'PENDING_PAYMENT'").await > 0 {
        let (one, two) = tokio::join!(world.engine.charge_due(&client, 5, 4), other.charge_due(&client, 5, 4));
        one.unwrap();
        two.unwrap();
    }
    assert_eq!(fake.captures().len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_worker_whose_lease_ran_out_cannot_write() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let none = jiff::SignedDuration::ZERO;
    let mut slept = ledger.lease_payments(now, none, 1).await.unwrap().remove(0);
    let mut awake = ledger.lease_payments(now, jiff::SignedDuration::from_mins(1), 1).await.unwrap().remove(0);
    assert_eq!(awake.lease, slept.lease + 1);
    let keys = ["k1", "k2"].map(|key| format!("order-{}:{key}", awake.order));
    let create = ("create", &*keys[0], "/p", "b");
    assert!(ledger.begin_attempt(&mut slept, None, create, now).await.is_err());
    assert!(ledger.lease_payments(now, none, 1).await.unwrap().is_empty(), "leased is leased");
    let attempt = ledger.begin_attempt(&mut awake, None, create, now).await.unwrap().unwrap();
    assert!(ledger.dispatch_again(&slept, &attempt, now).await.is_err());
    let end = slept.ended(&attempt, AttemptState::Succeeded, "");
    assert!(ledger.finish_attempt(&slept, end.clone(), now).await.is_err());
    assert!(ledger.yield_payment(&slept, Some(&end), None, None, Some(now), now).await.is_err());
    assert!(ledger.begin_attempt(&mut slept, Some(end), ("confirm", &*keys[1], "/p", "b"), now).await.is_err());
    assert_eq!(world.count("select count(*) from payment_attempts where finished_at is not null").await, 0);
    assert!(
        ledger.begin_attempt(&mut awake, None, ("create", &*keys[1], "/p", "b"), now).await.is_err(),
        "one open attempt an order"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_a_payment_method_waits_for_one_until_pay_by() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[2], 1, 1).await;
    let orders = [1, 2].map(|who| claim(&live, &buyer(who), "k", 0, 1).id.order_id());
    for who in [1, 2] {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().leased, 0);
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 0, "pay_by has not come");
    let now = world.engine.clock.now();
    let give = async |who, key: &str| {
        world.engine.ledger.use_profile(orders[0], &buyer(who), &key.parse().unwrap(), now).await.unwrap()
    };
    assert_eq!(give(1, "k").await, MethodGiven::NoProfile);
    world.save_profile(1, "pm_card_visa").await;
    assert_eq!(give(2, "k").await, MethodGiven::NoSuchOrder, "not his order");
    assert_eq!(give(1, "k").await, MethodGiven::Now);
    assert_eq!(give(1, "k").await, MethodGiven::Before);
    assert_eq!(give(1, "another").await, MethodGiven::NotRequired);
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().confirmed, 1);
    world.sql.execute("update drops set pay_by = now() - interval '1 second'", &[]).await.unwrap();
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 1);
    assert_eq!(world.count("select count(*) from orders where status = 'PAYMENT_FAILED'").await, 1);
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 1);
    assert_eq!(fake.captures().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_method_that_the_provider_does_not_know_is_a_decline_and_frees_the_unit() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, "visa").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    let mut report = world.engine.charge_due(&client, 10, 4).await.unwrap();
    for _ in 0..2 {
        let next = world.engine.charge_due(&client, 10, 4).await.unwrap();
        (report.released, report.review) = (report.released + next.released, report.review + next.review);
    }
    assert_eq!((report.released, report.review), (1, 0));
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 1);
    assert!(fake.captures().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_who_does_not_act_in_time_loses_the_unit_after_the_provider_has_canceled() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, "pm_card_authenticationRequired").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    world.engine.charge_due(&client, 10, 4).await.unwrap();
    assert_eq!(world.count("select count(*) from payments where state = 'ACTION_REQUIRED'").await, 1);
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 0, "he still has time");
    world.sql.execute("update orders set pay_by = now() - interval '1 second'", &[]).await.unwrap();
    world.engine.expire_unpaid(10).await.unwrap();
    assert_eq!(
        world.count("select count(*) from tokens where order_id is null").await,
        0,
        "not before the provider's word"
    );
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().released, 1);
    assert_eq!(fake.intents()[0].status, "canceled");
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 1);
}

/// Fails every order that waits for a payment method.
async fn let_pay_by_pass(world: &World) {
    world.sql.execute("update drops set pay_by = now() - interval '1 second'", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_are_due_together_end_in_one_transaction() {
    let world = World::new().await;
    let live = world.open(&[30, 30], 3, 2).await;
    for who in 0..40 {
        let (variant, units) = ((who % 2) as u8, 1 + i64::from(who % 4 == 0));
        taken(world.claim_until_answered(&live, who, "k", variant, units).await);
    }
    world.settle().await;
    // Half of one variant is awaited.
    for who in 100..110 {
        let new = NewPlace {
            buyer: buyer(who),
            variant: VariantNumber(0),
            quantity: Quantity::new(1).unwrap(),
            key: "w".parse().unwrap(),
            lost: None,
        };
        world.engine.ledger.join_standby(&live.drop, &new, world.engine.clock.now()).await.unwrap();
    }
    let_pay_by_pass(&world).await;
    assert_eq!(world.engine.expire_unpaid(500).await.unwrap(), 40);
    let transactions = "select count(distinct xmin::text) from order_history where to_state = 'PAYMENT_FAILED'";
    assert_eq!(world.count(transactions).await, 1);
    assert_eq!(world.count("select count(*) from order_history where to_state = 'PAYMENT_FAILED'").await, 40);
    assert_eq!(world.count("select count(*) from outbox where kind = 'payment_failed'").await, 40, "each is told");
    assert_eq!(world.count("select count(*) from holdings").await, 0);
    let awarded = "select count(*) from standby_places where state = 'AWARDED'";
    assert_eq!(world.count(awarded).await, 10);
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 50);
    world.settle().await;
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_end_keeps_no_other_from_it() {
    let world = World::new().await;
    let live = world.open(&[3], 1, 1).await;
    for who in 0..3 {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    world.sql.execute("delete from holdings where buyer = $1", &[&buyer(1).as_str()]).await.unwrap();
    let_pay_by_pass(&world).await;
    assert_eq!(world.engine.expire_unpaid(500).await.unwrap(), 2);
    assert_eq!(world.count("select count(*) from orders where status = 'PENDING_PAYMENT'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_applies_grants_is_told_that_more_wait_than_were_looked_at() {
    let world = World::new().await;
    let live = world.open(&[260], 1, 1).await;
    futures_util::future::join_all((0..260).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    world.settle().await;
    let_pay_by_pass(&world).await;
    assert_eq!(world.engine.expire_unpaid(500).await.unwrap(), 260);
    let report = world.engine.apply_grants().await.unwrap();
    assert!(report.has_more && !report.is_done(), "{report:?}");
    assert!(!world.engine.apply_grants().await.unwrap().has_more, "the rest");
}

/// Prints how long it takes until thousands of orders that fall due together have ended, and until the last unit is on sale.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "the measurement is what it is for")]
async fn thousands_of_orders_that_are_due_together() {
    let world = World::new().await;
    let orders = 5_000;
    let live = world.open(&[orders], 2, 1).await;
    futures_util::future::join_all((0..orders).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    world.settle().await;
    let_pay_by_pass(&world).await;
    let began = std::time::Instant::now();
    let ending = async {
        while world.engine.expire_unpaid(500).await.unwrap() > 0 {}
        println!("{orders} orders have ended after {:.1?}", began.elapsed());
    };
    let selling = async {
        while world.free_in_redis(&live).await < orders as usize {
            let report = world.engine.apply_grants().await.unwrap();
            tokio::time::sleep(look_again(&report, Duration::from_millis(250))).await;
        }
        println!("the last unit is on sale after {:.1?}", began.elapsed());
    };
    tokio::join!(ending, selling);
}
