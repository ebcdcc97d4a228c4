//! The provider's list against our payments: each way in which they may disagree is found once, and settled where the
//! provider's word settles it. And what a person may do with a payment that waits for him.

use doorbuster_engine::domain::ids::{EventId, IntentId, OrderId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::flows::reconcile::SweepReport;
use doorbuster_engine::ledger::news::EventStored;
use doorbuster_engine::ledger::reviews::{Resolution, ReviewResolved, ReviewsOf};
use doorbuster_engine::provider::{Event, Intent, Outcome, ProviderClient, ProviderRequest};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use jiff::SignedDuration;

use crate::harness::{World, buyer, claim, provider, taken};

const ASKED: &str = "pm_card_authenticationRequired";

/// A world with an order for each of these means of payment, charged as far as that goes.
async fn charged(methods: &[&str]) -> (World, FakeProvider, ProviderClient, Vec<OrderId>) {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[methods.len() as u32], 2, 1).await;
    for (who, method) in (1..).zip(methods) {
        world.save_profile(who, method).await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    world.engine.charge_due(&client, 100, 4).await.unwrap();
    let orders = (1..=methods.len() as u32).map(|who| claim(&live, &buyer(who), "k", 0, 1).id.order_id()).collect();
    (world, fake, client, orders)
}

async fn intent_of(world: &World, order: OrderId) -> IntentId {
    let row = world.sql.query_one("select intent_id from payments where order_id = $1", &[&order.0]).await.unwrap();
    IntentId(row.get(0))
}

/// `(status of the order, state of its payment)`.
async fn stands(world: &World, order: OrderId) -> (String, String) {
    let sql = "select o.status, p.state from orders o join payments p using (order_id) where order_id = $1";
    let row = world.sql.query_one(sql, &[&order.0]).await.unwrap();
    (row.get(0), row.get(1))
}

async fn sweep(world: &World, client: &ProviderClient) -> SweepReport {
    let now = world.engine.clock.now();
    let hour = SignedDuration::from_hours(1);
    world.engine.sweep(client, now - hour, now + hour).await.unwrap()
}

fn found(report: &SweepReport) -> Vec<(&'static str, bool)> {
    let mut found = report.findings.iter().map(|found| (found.kind.as_str(), found.is_settled)).collect::<Vec<_>>();
    found.sort_unstable();
    found
}

fn answered(outcome: Outcome) -> Intent {
    match outcome {
        Outcome::Answered(intent) => intent,
        other => panic!("no answer: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_disagreement_is_found_once_and_settled_where_the_provider_can() {
    let (world, fake, client, orders) =
        charged(&[ASKED, ASKED, ASKED, "pm_card_visa", "pm_card_visa", "pm_card_visa"]).await;
    assert_eq!(found(&sweep(&world, &client).await), [], "nothing to find yet");

    // The buyer acted and no event came; the intent was canceled at the provider; we believe in money that is not there.
    assert!(fake.complete_action(&intent_of(&world, orders[0]).await.0));
    answered(client.send(&ProviderRequest::cancel(orders[1], &intent_of(&world, orders[1]).await)).await);
    let paid = "update payments set state = 'SUCCEEDED', due_at = null where order_id = $1";
    world.sql.execute(paid, &[&orders[2].0]).await.unwrap();
    // Another amount, and an intent that the provider never heard of.
    let amount = "update payments set amount_minor = amount_minor + 1 where order_id = $1";
    world.sql.execute(amount, &[&orders[3].0]).await.unwrap();
    let missing = "update payments set intent_id = 'pi_nothing' where order_id = $1";
    world.sql.execute(missing, &[&orders[4].0]).await.unwrap();
    // A create without an answer leaves an intent that holds nothing; one that took money is another matter.
    let euro = Money::new(100, "EUR".parse().unwrap());
    answered(client.send(&ProviderRequest::create_again(orders[5], euro, 7).unwrap()).await);
    let stranger = OrderId(uuid::Uuid::now_v7());
    let strange = answered(client.send(&ProviderRequest::create(stranger, euro).unwrap()).await);
    let visa = "pm_card_visa".parse().unwrap();
    answered(client.send(&ProviderRequest::confirm(stranger, &strange.id, &visa, 1)).await);

    let report = sweep(&world, &client).await;
    let expected = [
        ("amount_differs", false),
        ("canceled_not_settled", true),
        ("captured_not_settled", true),
        ("missing_at_provider", false),
        ("paid_not_captured", false),
        // What is left of the order that lost its intent here.
        ("unknown_intent", false),
    ];
    assert_eq!(found(&report), expected);
    assert_eq!((report.intents, report.known, report.unused, report.settled), (8, 5, 1, 2));
    assert_eq!(report.strangers, 1, "no order of ours is named there");
    assert_eq!(stands(&world, orders[0]).await, ("CONFIRMED".to_owned(), "SUCCEEDED".to_owned()));
    assert_eq!(stands(&world, orders[1]).await, ("PAYMENT_FAILED".to_owned(), "FAILED".to_owned()));
    assert_eq!(world.count("select count(*) from reconcile_findings").await, 6);

    // What was settled is settled; the rest is seen again and kept once.
    let again = sweep(&world, &client).await;
    assert_eq!((again.findings.len(), again.settled), (4, 0));
    assert_eq!(world.count("select count(*) from reconcile_findings").await, 6);
    let open = world.engine.ledger.open_findings(10).await.unwrap();
    assert_eq!(open.len(), 4);
    let now = world.engine.clock.now();
    assert!(world.engine.ledger.settle_finding(open[0].number, ("ada", "a test"), now).await.unwrap());
    assert!(!world.engine.ledger.settle_finding(open[0].number, ("ada", "a test"), now).await.unwrap());
    assert_eq!(world.engine.ledger.count_open_findings().await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_many_pages_is_read_to_its_end() {
    let (world, fake, client, orders) = charged(&[ASKED]).await;
    assert!(fake.complete_action(&intent_of(&world, orders[0]).await.0));
    let client = client.limited_to(doorbuster_engine::provider::RateLimit::NONE);
    let euro = Money::new(100, "EUR".parse().unwrap());
    for _ in 0..250 {
        answered(client.send(&ProviderRequest::create(OrderId(uuid::Uuid::now_v7()), euro).unwrap()).await);
    }
    // Newest first: ours is on the last page.
    let report = sweep(&world, &client).await;
    assert_eq!((report.intents, report.unused, report.settled), (251, 250, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_workers_one_sweeps_and_the_next_one_not_before_its_time() {
    let (world, _fake, client, _) = charged(&["pm_card_visa"]).await;
    let other = world.another_engine().await;
    let hour = SignedDuration::from_hours(1);
    let sweeps = async || {
        let (one, two) = tokio::join!(world.engine.sweep_if_due(&client, hour), other.sweep_if_due(&client, hour));
        usize::from(one.unwrap().is_some()) + usize::from(two.unwrap().is_some())
    };
    assert_eq!((sweeps().await, sweeps().await), (1, 0));
    world.sql.execute("update sweeps set started_at = started_at - interval '1 hour'", &[]).await.unwrap();
    assert_eq!(sweeps().await, 1);
}

/// An intent that was made and never confirmed looks like a declined one, and is none.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_about_an_intent_that_was_never_tried_declines_nothing() {
    let (world, fake, client, orders) = charged(&[ASKED]).await;
    let order = orders[0];
    let total = world.engine.ledger.order(order).await.unwrap().unwrap().totals.total;
    let intent = answered(client.send(&ProviderRequest::create_again(order, total, 9).unwrap()).await).id;
    let made = "update payments set intent_id = $2, state = 'IN_FLIGHT', payment_method = 'pm_card_visa',
                due_at = now() + interval '1 hour' where order_id = $1";
    world.sql.execute("delete from payment_attempts", &[]).await.unwrap();
    world.sql.execute(made, &[&order.0, &intent.0]).await.unwrap();
    let event = Event {
        id: EventId("evt_1".to_owned()),
        kind: "payment_intent.created".to_owned(),
        created: world.engine.clock.now(),
        livemode: false,
        object: "payment_intent".to_owned(),
        object_id: intent.0.clone(),
        intent: Some(intent),
        order_id: Some(order.to_string()),
    };
    for stored in [EventStored::Now, EventStored::Before] {
        assert_eq!(world.engine.keep_event(&event).await.unwrap(), stored);
    }
    let report = world.engine.deal_with_events(&client, 10).await.unwrap();
    assert_eq!((report.leased, report.known), (1, 1));
    assert_eq!(stands(&world, order).await, ("PENDING_PAYMENT".to_owned(), "IN_FLIGHT".to_owned()));
    // But the worker looks at it at once instead of in an hour. The fake holds the first confirm's key for the other intent.
    fake.forget_keys();
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().confirmed, 1);
    let forgotten = world.engine.clock.now() + SignedDuration::from_hours(1);
    assert_eq!(world.engine.ledger.forget_events(forgotten, 10).await.unwrap(), 1);
}

/// Orders whose payments contradict what the provider says: they captured another amount.
async fn in_review(orders: usize) -> (World, FakeProvider, ProviderClient, Vec<OrderId>) {
    let (world, fake, client, orders) = charged(&vec![ASKED; orders]).await;
    world.sql.execute("update payments set amount_minor = amount_minor + 1, due_at = now()", &[]).await.unwrap();
    for order in &orders {
        assert!(fake.complete_action(&intent_of(&world, *order).await.0));
    }
    assert_eq!(world.engine.charge_due(&client, 100, 4).await.unwrap().review, orders.len());
    (world, fake, client, orders)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_ends_a_review_and_the_history_says_who() {
    let (world, fake, client, orders) = in_review(4).await;
    let listed = world.engine.ledger.reviews(&ReviewsOf::All, 10).await.unwrap();
    assert_eq!(listed.len(), 4);
    assert!(listed[0].reason.contains("is about"), "{listed:?}");
    for (of, found) in [
        (ReviewsOf::Drop(world.drop.clone()), 4),
        (ReviewsOf::Drop("another".parse().unwrap()), 0),
        (ReviewsOf::Reason("IS ABOUT".to_owned()), 4),
        (ReviewsOf::Reason("%".to_owned()), 0),
    ] {
        assert_eq!(world.engine.ledger.reviews(&of, 10).await.unwrap().len(), found, "{of:?}");
    }
    let resolve = async |order: OrderId, resolution| {
        let now = world.engine.clock.now();
        world.engine.ledger.resolve_review(order, resolution, ("ada", "seen on the statement"), now).await.unwrap()
    };
    // Asked again while nothing has changed, it is back; once it has, the provider's word settles it.
    assert_eq!(resolve(orders[0], Resolution::AskAgain).await, ReviewResolved::Now);
    assert_eq!(world.engine.charge_due(&client, 100, 4).await.unwrap().review, 1);
    assert_eq!(stands(&world, orders[0]).await.1, "MANUAL_REVIEW");
    let mended = "update payments set amount_minor = amount_minor - 1 where order_id = $1";
    world.sql.execute(mended, &[&orders[0].0]).await.unwrap();
    assert_eq!(resolve(orders[0], Resolution::AskAgain).await, ReviewResolved::Now);
    assert_eq!(world.engine.charge_due(&client, 100, 4).await.unwrap().confirmed, 1);
    assert_eq!(stands(&world, orders[0]).await, ("CONFIRMED".to_owned(), "SUCCEEDED".to_owned()));

    assert_eq!(resolve(orders[1], Resolution::Paid).await, ReviewResolved::Now);
    assert_eq!(stands(&world, orders[1]).await, ("CONFIRMED".to_owned(), "SUCCEEDED".to_owned()));
    let failures = "select count(*) from payments where state = 'SUCCEEDED' and failure is not null";
    assert_eq!(world.count(failures).await, 0, "a paid order says of no failure");
    assert_eq!(resolve(orders[2], Resolution::Failed).await, ReviewResolved::Now);
    assert_eq!(stands(&world, orders[2]).await, ("PAYMENT_FAILED".to_owned(), "FAILED".to_owned()));
    world.apply_all_grants().await;
    let live = world.live().await;
    assert_eq!(world.free_in_redis(&live).await, 1, "its unit is on sale again");

    // Canceling what was captured is refused by the provider; only its word would have ended the order.
    assert_eq!(resolve(orders[3], Resolution::Cancel).await, ReviewResolved::Now);
    world.engine.charge_due(&client, 100, 4).await.unwrap();
    assert_eq!(stands(&world, orders[3]).await, ("PENDING_PAYMENT".to_owned(), "MANUAL_REVIEW".to_owned()));

    assert_eq!(resolve(orders[1], Resolution::Failed).await, ReviewResolved::NotInReview);
    assert_eq!(resolve(OrderId(uuid::Uuid::now_v7()), Resolution::Paid).await, ReviewResolved::NoSuchOrder);
    let said = "select count(*) from order_history where actor = 'ada' and reason = 'review: seen on the statement'";
    assert_eq!(world.count(said).await, 5);
    assert_eq!(fake.captures().len(), 4, "no resolution takes money");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_fails_is_due_again_in_half_a_minute_and_not_in_an_hour() {
    let world = World::new().await;
    let (_fake, away) = provider(FakeProviderOptions { unavailable_rate: 1.0, ..FakeProviderOptions::default() }).await;
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    let hour = SignedDuration::from_hours(1);
    assert!(world.engine.sweep_if_due(&away, hour).await.is_err());
    assert!(world.engine.sweep_if_due(&client, hour).await.unwrap().is_none(), "not at once");
    let half_a_minute = "update sweeps set started_at = started_at - interval '31 seconds'";
    world.sql.execute(half_a_minute, &[]).await.unwrap();
    assert!(world.engine.sweep_if_due(&client, hour).await.unwrap().is_some());
    world.sql.execute(half_a_minute, &[]).await.unwrap();
    assert!(world.engine.sweep_if_due(&client, hour).await.unwrap().is_none(), "it was made");
}
