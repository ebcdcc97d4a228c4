//! Orders end before they ship: at once where no money was asked, with the provider's word where it was.

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::ids::{IntentId, OrderId};
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::{AttemptState, ProviderReport, Verdict};
use doorbuster_engine::ledger::payments::PaymentSettled;
use doorbuster_engine::ledger::refunds::OrderCancelled;
use doorbuster_sandbox::provider::FakeProviderOptions;

use crate::harness::{World, buyer, claim, provider, taken};

const WHY: (&str, &str) = ("buyer", "changed his mind");

async fn cancel(world: &World, order: OrderId, who: u32) -> OrderCancelled {
    let now = world.engine.clock.now();
    world.engine.ledger.cancel_order(order, Some(&buyer(who)), WHY, now).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_never_charged_is_cancelled_at_once_and_its_unit_and_limit_come_back() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[2], 1, 1).await;
    world.save_profile(2, "pm_card_visa").await;
    let orders = [1, 2].map(|who| claim(&live, &buyer(who), "k", 0, 1).id.order_id());
    for who in [1, 2] {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    assert_eq!(cancel(&world, orders[0], 2).await, OrderCancelled::NoSuchOrder, "not his");
    assert_eq!(cancel(&world, orders[0], 1).await, OrderCancelled::Now, "its payment method was never given");
    assert_eq!(cancel(&world, orders[1], 2).await, OrderCancelled::Now, "nothing was sent yet");
    assert_eq!(cancel(&world, orders[1], 2).await, OrderCancelled::Before);
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().leased, 0);
    assert!(fake.intents().is_empty());
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 2);
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Released);
    taken(world.claim_until_answered(&live, 1, "again", 0, 1).await);
    assert_eq!(world.count("select count(*) from outbox where kind = 'order_cancelled'").await, 2);
    let history = "select count(*) from order_history where to_state = 'CANCELLED' and actor = 'buyer'";
    assert_eq!(world.count(history).await, 2);
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_holds_the_lease_of_a_cancelled_order_sends_nothing() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, "pm_card_visa").await;
    let order = claim(&live, &buyer(1), "k", 0, 1).id.order_id();
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let mut leased = ledger.lease_payments(now, jiff::SignedDuration::from_mins(1), 1).await.unwrap().remove(0);
    let attempt = world.prepared_by_an_older_program(&leased, "confirm", "k1").await;
    assert_eq!(cancel(&world, order, 1).await, OrderCancelled::Now);
    assert!(ledger.dispatch_again(&leased, &attempt, now).await.is_err(), "it was withdrawn");
    let second = format!("order-{order}:k2");
    let again = ledger.begin_attempt(&mut leased, None, ("confirm", &*second, "/p", "b"), now).await;
    assert!(again.is_err(), "the lease is over");
    assert_eq!(world.count("select count(*) from payment_attempts where state = 'WITHDRAWN'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_who_was_asked_to_act_may_cancel_and_the_provider_confirms_it_first() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, "pm_card_authenticationRequired").await;
    let order = claim(&live, &buyer(1), "k", 0, 1).id.order_id();
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    world.engine.charge_due(&client, 10, 4).await.unwrap();
    assert_eq!(cancel(&world, order, 1).await, OrderCancelled::Requested);
    assert_eq!(cancel(&world, order, 1).await, OrderCancelled::Requested);
    assert_eq!(world.count("select count(*) from tokens where order_id is null").await, 0, "he could still pay");
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().released, 1);
    assert_eq!(fake.intents()[0].status, "canceled");
    let ended = world.engine.ledger.order(order).await.unwrap().unwrap();
    assert_eq!(ended.status, OrderState::Cancelled);
    assert_eq!(cancel(&world, order, 1).await, OrderCancelled::Before);
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 1);
    assert!(world.engine.audit(Some(&client)).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_has_shipped_or_failed_cannot_be_cancelled() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    let order = claim(&live, &buyer(1), "k", 0, 1).id.order_id();
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    world.sql.execute("update orders set status = 'SHIPPED'", &[]).await.unwrap();
    assert_eq!(cancel(&world, order, 1).await, OrderCancelled::TooLate(OrderState::Shipped));
    world.sql.execute("update orders set status = 'PAYMENT_FAILED'", &[]).await.unwrap();
    assert_eq!(cancel(&world, order, 1).await, OrderCancelled::TooLate(OrderState::PaymentFailed));
    assert_eq!(cancel(&world, OrderId(uuid::Uuid::nil()), 1).await, OrderCancelled::NoSuchOrder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_beside_a_charge_in_flight_waits_for_the_providers_word() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, "pm_card_visa").await;
    let order = claim(&live, &buyer(1), "k", 0, 1).id.order_id();
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let mut leased = ledger.lease_payments(now, jiff::SignedDuration::from_mins(1), 1).await.unwrap().remove(0);
    let [first, second, third] = ["k1", "k2", "k3"].map(|key| format!("order-{order}:{key}"));
    let create = ledger.begin_attempt(&mut leased, None, ("create", &*first, "/p", "b"), now).await.unwrap().unwrap();
    let intent = IntentId("pi_1".to_owned());
    let end = leased.ended(&create, AttemptState::Succeeded, "").with_intent(intent.clone());
    let confirm = ("confirm", &*second, "/p", "b");
    let confirm = ledger.begin_attempt(&mut leased, Some(end), confirm, now).await.unwrap().unwrap();
    assert_eq!(cancel(&world, order, 1).await, OrderCancelled::Requested, "the money may be on its way");
    assert_eq!(world.count("select count(*) from tokens where order_id is null").await, 0);

    assert_eq!(ledger.begin_attempt(&mut leased, None, ("confirm", &*third, "/p", "b"), now).await.unwrap(), None);
    let end = leased.ended(&confirm, AttemptState::Succeeded, "");
    let report = ProviderReport {
        intent,
        amount: leased.amount,
        order: Some(order),
        verdict: Verdict::Captured { charge: None },
    };
    assert_eq!(ledger.settle_payment(order, &report, Some(&end), now).await.unwrap(), PaymentSettled::Refunding);
    let ended = ledger.order(order).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.refunds[0].amount), (OrderState::Cancelled, leased.amount));
}
