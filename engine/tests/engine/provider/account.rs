//! What a daily match and a sweep read: lists by time and the account book. And the limits that hold them back.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use doorbuster_engine::domain::ids::{IntentId, RefundId};
use doorbuster_engine::provider::{BalanceKind, IntentStatus, Outcome, ProviderError, ProviderRequest};
use doorbuster_sandbox::provider::{End, FakeClock, FakeProviderOptions};
use futures_util::future::join_all;
use jiff::Timestamp;

use super::{ANSWER_TIMEOUT, answered, client_of, confirm, create, order, price, start, start_reliable};

const DAY: i64 = 86_400;
const FIRST_DAY: i64 = 1_795_737_600;

fn day(number: i64) -> Timestamp {
    Timestamp::from_second(FIRST_DAY + number * DAY).unwrap()
}

/// Options whose provider lives in the test's time, and that time.
fn at_first_day() -> (FakeProviderOptions, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(FIRST_DAY));
    let clock = FakeClock::unix_seconds({
        let now = Arc::clone(&now);
        move || now.load(Ordering::SeqCst)
    });
    (FakeProviderOptions { clock, ..Default::default() }, now)
}

#[tokio::test]
async fn a_sweep_sees_the_intents_made_since_then() {
    let (options, now) = at_first_day();
    let (_fake, client) = start(options).await;
    for number in 0..6 {
        now.store(FIRST_DAY + i64::try_from(number).unwrap() * 10, Ordering::SeqCst);
        answered(client.send(&create(number)).await);
    }
    let since = Timestamp::from_second(FIRST_DAY + 20).unwrap();
    let first = client.list_intents_since(since, None, 3).await.unwrap();
    assert_eq!((first.data.len(), first.has_more), (3, true));
    let rest = client.list_intents_since(since, Some(&first.data[2].id), 3).await.unwrap();
    assert_eq!((rest.data.len(), rest.has_more), (1, false), "the bound belongs to the list");
    assert_eq!(rest.data[0].created, since);
    assert_eq!(client.list_intents(None, 100).await.unwrap().data.len(), 6);
}

#[tokio::test]
async fn a_day_of_the_account_book_adds_up() {
    let (options, now) = at_first_day();
    let (fake, client) = start(options).await;
    let mut intents = Vec::new();
    for number in 1..=3 {
        let intent = answered(client.send(&create(number)).await).id;
        intents.push(answered(client.send(&confirm(number, &intent, "pm_card_visa", 1)).await).id);
    }
    now.store(FIRST_DAY + DAY, Ordering::SeqCst);
    let refund = ProviderRequest::refund(order(1), RefundId(uuid::Uuid::from_u128(1)), &intents[0], price()).unwrap();
    assert!(matches!(client.send_refund(&refund).await, Outcome::Answered(_)));
    fake.open_dispute(&intents[1].0).unwrap();
    fake.pay_out();

    let lines = |from: i64| {
        let client = client.clone();
        async move {
            let page = client.list_balance_transactions(day(from)..day(from + 1), None, 100).await.unwrap();
            assert!(!page.has_more);
            page.data
        }
    };
    let charges = lines(0).await;
    assert_eq!(charges.len(), 3);
    for (line, capture) in charges.iter().rev().zip(fake.captures()) {
        assert_eq!(
            (&line.kind, line.amount, line.source.as_ref()),
            (&BalanceKind::Charge, price(), Some(&capture.charge_id))
        );
        // 1.5 % of 149.00 are 2.235, rounded up, and 0.25.
        assert_eq!(line.fee.to_string(), "2.49 EUR");
    }
    let second = lines(1).await;
    let kinds: Vec<_> = second.iter().rev().map(|line| (line.kind.clone(), line.net.amount_minor)).collect();
    let expected = [
        (BalanceKind::Refund, -14_900),
        (BalanceKind::Adjustment, -14_900 - 2_000),
        (BalanceKind::Payout, -(3 * (14_900 - 249) - 2 * 14_900 - 2_000)),
    ];
    assert_eq!(kinds, expected);
    assert!(lines(2).await.is_empty());
    // The payout has taken everything that was left.
    let net: i64 = charges.iter().chain(&second).map(|line| line.net.amount_minor).sum();
    assert_eq!(net, 0);

    let page = client.list_balance_transactions(day(0)..day(2), None, 4).await.unwrap();
    assert!(page.has_more);
    let rest = client.list_balance_transactions(day(0)..day(2), Some(&page.data[3].id), 4).await.unwrap();
    assert_eq!((rest.data.len(), rest.has_more), (2, false));
}

#[tokio::test]
async fn an_action_is_completed_or_failed_where_the_buyer_is_sent() {
    let (fake, client) = start_reliable().await;
    for (number, verb, status) in
        [(1, "complete", IntentStatus::Succeeded), (2, "fail", IntentStatus::RequiresPaymentMethod)]
    {
        let intent = answered(client.send(&create(number)).await).id;
        answered(client.send(&confirm(number, &intent, "pm_card_authenticationRequired", 1)).await);
        let waiting = fake.intents().into_iter().find(|waiting| waiting.intent_id == intent.0).unwrap();
        let url = waiting.action_url.unwrap();
        let page = reqwest::get(&url).await.unwrap();
        assert!(page.status().is_success());
        let (address, secret) = url.split_once('?').unwrap();
        let browser = reqwest::Client::new();
        assert_eq!(browser.post(format!("{address}/{verb}?{secret}x")).send().await.unwrap().status(), 404);
        assert!(browser.post(format!("{address}/{verb}?{secret}")).send().await.unwrap().status().is_success());
        assert_eq!(client.read_intent(&intent).await.unwrap().status, status);
        assert_eq!(browser.post(format!("{address}/{verb}?{secret}")).send().await.unwrap().status(), 409);
    }
    assert_eq!(fake.captures().len(), 1);
}

#[tokio::test]
async fn a_processing_charge_ends_when_the_bank_says_so() {
    let (fake, client) = start_reliable().await;
    for (number, end, status) in
        [(1, End::Succeeded, IntentStatus::Succeeded), (2, End::Failed, IntentStatus::RequiresPaymentMethod)]
    {
        let intent = answered(client.send(&create(number)).await).id;
        let processing = answered(client.send(&confirm(number, &intent, "pm_fake_processing", 1)).await);
        assert_eq!(processing.status, IntentStatus::Processing);
        assert!(!fake.complete_action(&intent.0), "no buyer is asked");
        assert!(fake.finish_processing(&intent.0, end));
        assert_eq!(client.read_intent(&intent).await.unwrap().status, status);
    }
    let (fake, client) =
        start(FakeProviderOptions { settles_after: Some(Duration::from_millis(20)), ..Default::default() }).await;
    let intent = answered(client.send(&create(1)).await).id;
    answered(client.send(&confirm(1, &intent, "pm_fake_processing", 1)).await);
    assert!(fake.settled(super::ANSWER_TIMEOUT).await);
    assert_eq!(client.read_intent(&intent).await.unwrap().status, IntentStatus::Succeeded);
}

#[tokio::test]
async fn what_comes_faster_than_the_limit_is_told_when_to_come_back() {
    let options = FakeProviderOptions {
        requests_per_second_max: std::num::NonZeroU32::new(5),
        retry_after_seconds: 3,
        ..Default::default()
    };
    let (fake, _) = start(options).await;
    let mut limited = 0;
    // A client each: one that was told to slow down does. Made beforehand and sent at once, for the limit is one of time.
    let clients = (0..20).map(|_| client_of(fake.url(), fake.secret_key(), ANSWER_TIMEOUT)).collect::<Vec<_>>();
    let sent = clients.iter().zip(0..).map(|(client, number)| async move { client.send(&create(number)).await });
    for outcome in join_all(sent).await {
        match outcome {
            Outcome::Answered(_) => {}
            outcome => {
                assert_eq!(outcome, Outcome::RateLimited { retry_after: Some(Duration::from_secs(3)) });
                limited += 1;
            }
        }
    }
    assert!(limited >= 10, "{limited}");
    assert_eq!(fake.intents().len(), 20 - limited);
    assert_eq!(fake.fault_counts().rate_limited, limited as u64);
    let patient = client_of(fake.url(), fake.secret_key(), ANSWER_TIMEOUT);
    while !matches!(patient.read_intent(&IntentId("pi_1".to_owned())).await, Err(ProviderError::NotFound)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn faults_without_a_trace_leave_nothing_behind() {
    let options = FakeProviderOptions { rate_limited_rate: 0.3, unavailable_rate: 0.4, ..Default::default() };
    let (fake, _) = start(options).await;
    let (mut answers, mut limited, mut unknown) = (0, 0, 0);
    for number in 0..80 {
        // A client of its own each: none rests for a second because another was told to.
        let client = client_of(fake.url(), fake.secret_key(), ANSWER_TIMEOUT);
        match client.send(&create(number)).await {
            Outcome::Answered(_) => answers += 1,
            Outcome::RateLimited { .. } => limited += 1,
            Outcome::Unknown { .. } => unknown += 1,
            outcome => panic!("{outcome:?}"),
        }
    }
    assert!(answers > 5 && limited > 5 && unknown > 5, "{answers} {limited} {unknown}");
    assert_eq!(fake.intents().len(), answers);
    let counts = fake.fault_counts();
    assert_eq!((counts.rate_limited, counts.unavailable), (limited, unknown));
}

#[tokio::test]
async fn a_bench_provider_answers_its_number_and_no_more() {
    let (fake, _) = start(FakeProviderOptions::bench(3)).await;
    let client = client_of(fake.url(), fake.secret_key(), super::ANSWER_TIMEOUT);
    let first = answered(client.send(&create(1)).await);
    assert_eq!(answered(client.send(&create(1)).await), first, "keys are honoured here too");
    answered(client.send(&confirm(1, &first.id, "pm_card_visa", 1)).await);
    assert!(matches!(client.send(&create(2)).await, Outcome::Unknown { .. }));
    assert_eq!((fake.captures().len(), fake.events().len()), (1, 0));
}
