//! Money goes back once, through whatever the provider does; and the books of the day agree with its own.

use std::collections::HashMap;

use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::{OrderId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::{AttemptState, PaymentState, ProviderReport, RefundState, Verdict};
use doorbuster_engine::ledger::orders::OrderView;
use doorbuster_engine::ledger::payments::PaymentSettled;
use doorbuster_engine::ledger::refunds::{OrderCancelled, RefundAsked};
use doorbuster_engine::provider::{Outcome, ProviderClient, ProviderRequest};
use doorbuster_sandbox::provider::{End, FakeClock, FakeProvider, FakeProviderOptions};
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use uuid::Uuid;

use crate::harness::{World, buyer, claim, provider, taken};

const WHY: (&str, &str) = ("support", "a goodwill gesture");

/// A world with `paid` confirmed orders, one of each of the buyers 0, 1, 2 …
pub(crate) async fn paid_orders(
    options: FakeProviderOptions,
    paid: u32,
) -> (World, FakeProvider, ProviderClient, Vec<OrderId>) {
    let world = World::new().await;
    pay(world, options, paid).await
}

pub(crate) async fn pay(
    world: World,
    options: FakeProviderOptions,
    paid: u32,
) -> (World, FakeProvider, ProviderClient, Vec<OrderId>) {
    let (fake, client) = provider(options).await;
    let live = world.open(&[paid], 2, 1).await;
    let mut orders = Vec::new();
    for who in 0..paid {
        world.save_profile(who, "pm_card_visa").await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
        orders.push(claim(&live, &buyer(who), "k", 0, 1).id.order_id());
    }
    world.settle().await;
    until_nothing_is_due(&world, &client).await;
    assert_eq!(world.count("select count(*) from orders where status = 'CONFIRMED'").await, i64::from(paid));
    (world, fake, client, orders)
}

/// Charges and refunds until nothing is left to do; backoff is a due time, brought forward.
pub(crate) async fn until_nothing_is_due(world: &World, client: &ProviderClient) {
    let started = std::time::Instant::now();
    loop {
        if all_are_due_now(world).await == 0 {
            return;
        }
        world.engine.charge_due(client, 100, 8).await.unwrap();
        assert!(started.elapsed().as_secs() < 60, "payments are still due");
    }
}

/// Answers how many payments wait for a worker.
async fn all_are_due_now(world: &World) -> u64 {
    let sooner = "update payments set due_at = least(due_at, $1), leased_until = null where due_at is not null";
    world.sql.execute(sooner, &[&world.engine.clock.now()]).await.unwrap()
}

async fn order(world: &World, id: OrderId) -> OrderView {
    world.engine.ledger.order(id).await.unwrap().unwrap()
}

async fn ask(world: &World, id: RefundId, order: OrderId, minor: Option<i64>) -> RefundAsked {
    let amount = minor.map(|minor| Money::new(minor, "EUR".parse().unwrap()));
    world.engine.ledger.ask_refund(id, order, amount, WHY, world.engine.clock.now()).await.unwrap()
}

pub(crate) async fn assert_audit_is_clean(world: &World, client: &ProviderClient) {
    let report = world.engine.audit(Some(client)).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

/// Provider's money by our journal.
pub(crate) async fn owed_by_provider(world: &World) -> i64 {
    let sql = "select coalesce(sum(case 'provider' when debit_account then amount_minor
                                                   when credit_account then -amount_minor end), 0)::bigint from journal";
    world.count(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_that_is_cancelled_gives_money_and_unit_back_once() {
    let (world, fake, client, orders) = paid_orders(FakeProviderOptions::default(), 2).await;
    let now = world.engine.clock.now();
    let cancel = async || world.engine.ledger.cancel_order(orders[0], Some(&buyer(0)), WHY, now).await.unwrap();
    assert_eq!(cancel().await, OrderCancelled::Now);
    assert_eq!(cancel().await, OrderCancelled::Before);
    let cancelled = order(&world, orders[0]).await;
    assert_eq!((cancelled.status, cancelled.payment), (OrderState::Cancelled, PaymentState::RefundPending));
    assert_eq!(world.count("select sum(quantity_available) from inventory").await, 1, "available again");
    until_nothing_is_due(&world, &client).await;
    assert_eq!(order(&world, orders[0]).await.payment, PaymentState::Refunded);
    let total = cancelled.totals.total.amount_minor;
    assert_eq!(fake.refunds().iter().map(|refund| refund.amount_minor).collect::<Vec<_>>(), [total]);
    assert_eq!(owed_by_provider(&world).await, total, "the other order's");
    world.apply_all_grants().await;
    let live = world.live().await;
    taken(world.claim_until_answered(&live, 0, "again", 0, 1).await);
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c9_a_worker_that_dies_after_the_refunds_answer_does_not_send_it_again() {
    let (world, fake, client, orders) = paid_orders(FakeProviderOptions::default(), 2).await;
    let ledger = &world.engine.ledger;
    let total = order(&world, orders[0]).await.totals.total.amount_minor;
    for (number, (id, minor)) in [(orders[0], Some(500)), (orders[1], None)].into_iter().enumerate() {
        let id_of_refund = RefundId(Uuid::from_u128(number as u128 + 1));
        assert_eq!(ask(&world, id_of_refund, id, minor).await, RefundAsked::Now);
        let now = world.engine.clock.now();
        let mut leased = ledger.lease_payments(now, SignedDuration::from_mins(1), 1).await.unwrap().remove(0);
        let refund = ledger.pending_refund(id).await.unwrap().unwrap();
        let intent = leased.intent.clone().unwrap();
        let request = ProviderRequest::refund(id, refund.id, &intent, refund.amount).unwrap();
        let call = ("refund", &*request.idempotency_key, &*request.path, &*request.body);
        let attempt = ledger.begin_attempt(&mut leased, None, call, now).await.unwrap().unwrap();
        assert!(matches!(client.send_refund(&request).await, Outcome::Answered(_)));
        // Here it dies: the attempt has ended, the refund is not settled.
        let end = leased.ended(&attempt, AttemptState::Succeeded, "");
        ledger.finish_attempt(&leased, end, now).await.unwrap();
    }
    until_nothing_is_due(&world, &client).await;
    assert_eq!(fake.refunds().iter().map(|refund| refund.amount_minor).collect::<Vec<_>>(), [500, total]);
    assert_eq!(order(&world, orders[0]).await.payment, PaymentState::PartiallyRefunded);
    assert_eq!(order(&world, orders[1]).await.payment, PaymentState::Refunded, "not failed either");
    assert_eq!(owed_by_provider(&world).await, total - 500);
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_is_faster_than_the_cancel_goes_back() {
    let options = FakeProviderOptions { success_before_cancel_rate: 1.0, ..FakeProviderOptions::default() };
    let world = World::new().await;
    let (fake, client) = provider(options).await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, "pm_card_authenticationRequired").await;
    let id = claim(&live, &buyer(1), "k", 0, 1).id.order_id();
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    world.engine.charge_due(&client, 10, 4).await.unwrap();
    let now = world.engine.clock.now();
    let cancelled = world.engine.ledger.cancel_order(id, Some(&buyer(1)), WHY, now).await.unwrap();
    assert_eq!(cancelled, OrderCancelled::Requested);
    until_nothing_is_due(&world, &client).await;
    let ended = order(&world, id).await;
    assert_eq!((ended.status, ended.payment), (OrderState::Cancelled, PaymentState::Refunded));
    assert_eq!((fake.captures().len(), fake.refunds().len()), (1, 1), "taken once, and given back once");
    assert_eq!(owed_by_provider(&world).await, 0);
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 1);
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_in_pieces_add_up_and_never_exceed_what_was_paid() {
    let (world, fake, client, orders) = paid_orders(FakeProviderOptions::default(), 1).await;
    let total = order(&world, orders[0]).await.totals.total.amount_minor;
    let ids = [1, 2, 3].map(|number| RefundId(Uuid::from_u128(number)));
    assert_eq!(ask(&world, ids[0], orders[0], Some(1)).await, RefundAsked::Now);
    assert_eq!(ask(&world, ids[0], orders[0], Some(1)).await, RefundAsked::Before);
    assert_eq!(ask(&world, ids[0], orders[0], Some(2)).await, RefundAsked::IdTaken);
    let left = Money::new(total - 1, "EUR".parse().unwrap());
    for too_much in [total, 0, -5] {
        assert_eq!(ask(&world, ids[1], orders[0], Some(too_much)).await, RefundAsked::TooMuch { left });
    }
    assert_eq!(ask(&world, ids[1], orders[0], Some(4_999)).await, RefundAsked::Now, "while the first is on its way");
    until_nothing_is_due(&world, &client).await;
    assert_eq!(order(&world, orders[0]).await.payment, PaymentState::PartiallyRefunded);
    assert_eq!(ask(&world, ids[2], orders[0], None).await, RefundAsked::Now);
    until_nothing_is_due(&world, &client).await;
    let after = order(&world, orders[0]).await;
    assert_eq!((after.status, after.payment), (OrderState::Confirmed, PaymentState::Refunded), "the goods stay his");
    let amounts = fake.refunds().iter().map(|refund| refund.amount_minor).collect::<Vec<_>>();
    assert_eq!(amounts, [1, 4_999, total - 5_000]);
    let per_account = "select count(*) from (
        select account, sum(minor) from (
            select credit_account as account, amount_minor as minor from journal where debit_account = 'provider'
            union all select debit_account, -amount_minor from journal where credit_account = 'provider') moved
        group by account having sum(minor) <> 0) unbalanced";
    assert_eq!(world.count(per_account).await, 0, "goods, tax and shipping each went back to the last cent");
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_refunds_through_faults_arrive_exactly_once() {
    refunds_through_faults(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_refunds_through_other_faults_arrive_exactly_once() {
    refunds_through_faults(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_refunds_through_still_other_faults_arrive_exactly_once() {
    refunds_through_faults(5).await;
}

/// The provider's list may be behind, and a stored error may hide a refund that was carried out.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_the_providers_list_does_not_show_yet_is_given_once() {
    let faults = FakeProviderOptions {
        // Of eight one is hidden surely.
        error_500_executed_rate: 0.9,
        lagging_list_rate: 1.0,
        lists_lag_by: std::time::Duration::from_secs(3_600),
        seed: 6,
        ..FakeProviderOptions::default()
    };
    let (world, fake, client, orders) = paid_orders(faults, 8).await;
    for id in &orders {
        assert_eq!(ask(&world, RefundId(Uuid::now_v7()), *id, Some(500)).await, RefundAsked::Now);
    }
    let given = || fake.refunds().iter().map(|refund| refund.amount_minor).sum::<i64>();
    // Longer than a key is repeated.
    for _ in 0..8 {
        all_are_due_now(&world).await;
        world.engine.charge_due(&client, 100, 8).await.unwrap();
    }
    assert_eq!(given(), 8 * 500, "{} refunds of 8", fake.refunds().len());
    let waiting = "select count(*) from refunds where state = 'PENDING'";
    assert!(world.count(waiting).await > 0, "some answers were lost");

    fake.lists_catch_up();
    until_nothing_is_due(&world, &client).await;
    assert_eq!(given(), 8 * 500, "{} refunds of 8", fake.refunds().len());
    assert_eq!(world.count(waiting).await, 0);
}

async fn refunds_through_faults(seed: u64) {
    let faults = FakeProviderOptions {
        lost_answer_rate: 0.25,
        lost_request_rate: 0.1,
        error_500_rate: 0.15,
        error_500_executed_rate: 0.1,
        unavailable_rate: 0.1,
        rate_limited_rate: 0.1,
        // The rests that the provider asks for are tested elsewhere.
        retry_after_seconds: 0,
        refund_pending_rate: 0.2,
        settles_after: Some(std::time::Duration::from_millis(50)),
        seed,
        ..FakeProviderOptions::default()
    };
    let (world, fake, client, orders) = paid_orders(faults, 30).await;
    for (number, id) in orders.iter().enumerate() {
        let minor = (number % 2 == 0).then_some(5_000);
        assert_eq!(ask(&world, RefundId(Uuid::now_v7()), *id, minor).await, RefundAsked::Now);
        if number % 2 == 0 {
            assert_eq!(ask(&world, RefundId(Uuid::now_v7()), *id, Some(700)).await, RefundAsked::Now);
        }
    }
    until_nothing_is_due(&world, &client).await;
    let mut given: HashMap<String, usize> = HashMap::new();
    for refund in fake.refunds() {
        *given.entry(refund.metadata["refund_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(given.len(), 45, "seed {seed}");
    assert!(given.values().all(|times| *times == 1), "seed {seed}: {given:?}");
    let unknown = "select count(*) from payment_attempts where operation = 'refund'
                   and (state = 'REJECTED' or detail = 'found in the provider''s list')";
    assert!(world.count(unknown).await > 0, "seed {seed}: some answers were lost");
    assert_eq!(fake.captures().len(), 30);
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_fails_is_shown_and_another_may_be_asked_for() {
    let options = FakeProviderOptions { refund_fails_rate: 1.0, ..FakeProviderOptions::default() };
    let (world, fake, client, orders) = paid_orders(options, 1).await;
    ask(&world, RefundId(Uuid::from_u128(1)), orders[0], None).await;
    world.engine.charge_due(&client, 10, 4).await.unwrap();
    assert_eq!(order(&world, orders[0]).await.refunds[0].state, RefundState::Pending);
    assert!(fake.settle_refund(&fake.refunds()[0].refund_id, End::Failed));
    until_nothing_is_due(&world, &client).await;
    let after = order(&world, orders[0]).await;
    assert_eq!((after.payment, after.refunds[0].state), (PaymentState::Succeeded, RefundState::Failed));
    assert_eq!(owed_by_provider(&world).await, after.totals.total.amount_minor, "nothing was booked for it");
    assert_eq!(ask(&world, RefundId(Uuid::from_u128(2)), orders[0], None).await, RefundAsked::Now);
}

#[tokio::test(flavor = "multi_thread")]
async fn money_on_an_order_that_has_ended_goes_back_in_the_same_transaction() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, "pm_card_chargeDeclined").await;
    let id = claim(&live, &buyer(1), "k", 0, 1).id.order_id();
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    until_nothing_is_due(&world, &client).await;
    let failed = order(&world, id).await;
    assert_eq!(failed.status, OrderState::PaymentFailed);
    let intent = doorbuster_engine::domain::ids::IntentId(fake.intents()[0].intent_id.clone());
    let report = ProviderReport {
        intent,
        amount: failed.totals.total,
        order: Some(id),
        verdict: Verdict::Captured { charge: Some("ch_late".to_owned()) },
    };
    let settle =
        async || world.engine.ledger.settle_payment(id, &report, None, world.engine.clock.now()).await.unwrap();
    assert_eq!(settle().await, PaymentSettled::Refunding);
    assert_eq!(settle().await, PaymentSettled::NoChange, "told twice, given back once");
    let after = order(&world, id).await;
    assert_eq!((after.status, after.payment), (OrderState::PaymentFailed, PaymentState::RefundPending));
    assert_eq!(after.refunds.len(), 1);
    assert_eq!(after.refunds[0].amount, after.totals.total);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_of_a_day_agree_with_the_providers_and_each_doctored_one_does_not() {
    let start = "2026-11-23T10:00:00Z".parse::<jiff::Timestamp>().unwrap();
    let clock = Clock::manual(start);
    let mut world = World::new().await;
    world.engine.clock = clock.clone();
    let time = clock.clone();
    let options = FakeProviderOptions {
        clock: FakeClock::unix_seconds(move || time.now().as_second()),
        ..FakeProviderOptions::default()
    };
    let (world, fake, client, orders) = pay(world, options, 6).await;
    let day = "2026-11-23".parse().unwrap();
    assert!(world.engine.close_day(&client, day, &TimeZone::UTC).await.unwrap().is_err(), "it is not over");

    ask(&world, RefundId(Uuid::from_u128(1)), orders[0], Some(500)).await;
    world.engine.ledger.cancel_order(orders[1], None, WHY, clock.now()).await.unwrap();
    until_nothing_is_due(&world, &client).await;
    let disputed = orders[4].to_string();
    let disputed = fake.intents().into_iter().find(|intent| intent.order_id() == Some(&disputed)).unwrap();
    assert!(fake.open_dispute(&disputed.intent_id).is_some());
    fake.pay_out();
    clock.advance(SignedDuration::from_hours(20));
    ask(&world, RefundId(Uuid::from_u128(2)), orders[3], None).await;
    until_nothing_is_due(&world, &client).await;

    let report = world.engine.close_day(&client, day, &TimeZone::UTC).await.unwrap().unwrap();
    assert_eq!(report.differences, [], "{report:#?}");
    assert_eq!((report.charges, report.refunds), (6, 2));
    assert_eq!((report.invoices.first, report.invoices.last, report.invoices.count), (Some(1), Some(6), 6));
    assert_eq!((report.credit_notes.first, report.credit_notes.count), (Some(1), 2));
    for account in ["bank", "disputes", "provider", "provider_fees", "sales", "shipping", "tax"] {
        assert!(report.accounts.iter().any(|sum| sum.account == account), "{account}: {:?}", report.accounts);
    }
    let again = world.engine.close_day(&client, day, &TimeZone::UTC).await.unwrap().unwrap();
    assert_eq!((again.invoices, again.credit_notes), (report.invoices, report.credit_notes), "numbered once");
    assert_eq!(again.accounts, report.accounts, "booked once");
    assert_eq!(again.differences, []);

    let doctored = [
        (
            "update journal set amount_minor = amount_minor + 1 where source like 'order-%:charge:sales'",
            "journal_differs",
        ),
        ("update payments set provider_charge_id = provider_charge_id || 'x'", "not_at_provider"),
        ("update refunds set provider_refund_id = 're_other' || refund_id", "refund_without_order"),
        ("update journal set amount_minor = 1 where debit_account = 'bank'", "balance_differs"),
        ("delete from invoices where number = 3", "numbers_have_gaps"),
        ("delete from journal where debit_account = 'provider'", "paid_without_booking"),
    ];
    for (change, rule) in doctored {
        world.sql.batch_execute("create schema kept").await.unwrap();
        for table in ["journal", "payments", "refunds", "invoices", "document_series"] {
            world.sql.batch_execute(&format!("create table kept.{table} as table {table}")).await.unwrap();
        }
        world.sql.batch_execute(&format!("set session_replication_role = replica; {change}")).await.unwrap();
        let report = world.engine.close_day(&client, day, &TimeZone::UTC).await.unwrap().unwrap();
        assert!(
            report.differences.iter().any(|difference| difference.rule == rule),
            "{rule}: {:?}",
            report.differences
        );
        for table in ["journal", "payments", "refunds", "invoices", "document_series"] {
            let restore = format!("delete from {table}; insert into {table} select * from kept.{table}");
            world.sql.batch_execute(&restore).await.unwrap();
        }
        world.sql.batch_execute("drop schema kept cascade; set session_replication_role = origin").await.unwrap();
    }
    let next = "2026-11-24".parse().unwrap();
    clock.advance(SignedDuration::from_hours(24));
    let report = world.engine.close_day(&client, next, &TimeZone::UTC).await.unwrap().unwrap();
    assert_eq!(report.differences, [], "{report:#?}");
    assert_eq!((report.charges, report.refunds, report.credit_notes.first), (0, 1, Some(3)));
}
