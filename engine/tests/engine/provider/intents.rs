//! Intents: created, confirmed, canceled, read and listed, on a good line and on bad ones.

use std::time::Duration;

use doorbuster_engine::domain::ids::IntentId;
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::provider::{Intent, IntentStatus, Outcome, ProviderError, ProviderRequest};
use doorbuster_sandbox::provider::FakeProviderOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{
    ANSWER_TIMEOUT, answered, answered_at_last, client_of, confirm, create, is_unknown, order, price, rejected, start,
    start_reliable,
};

#[tokio::test]
async fn a_good_card_is_charged_once_for_its_order() {
    let (fake, client) = start_reliable().await;
    let created = answered(client.send(&create(1)).await);
    assert_eq!(created.status, IntentStatus::RequiresPaymentMethod);
    assert_eq!(created.amount_received, Money::zero(price().currency));
    assert!(fake.captures().is_empty(), "an intent holds no money until it is confirmed");

    let paid = answered(client.send(&confirm(1, &created.id, "pm_card_visa", 1)).await);
    assert_eq!(paid.status, IntentStatus::Succeeded);
    assert_eq!((paid.amount, paid.amount_received), (price(), price()));
    assert_eq!(paid.order_id, Some(order(1).to_string()));
    assert!(!paid.livemode);
    assert_eq!(client.read_intent(&created.id).await.unwrap(), paid);

    let captures = fake.captures();
    assert_eq!(captures.len(), 1);
    assert_eq!((captures[0].amount_minor, captures[0].currency.as_str()), (14_900, "eur"));
    assert_eq!(captures[0].order_id, paid.order_id);
    assert_eq!(Some(&captures[0].charge_id), paid.latest_charge.as_ref());
    assert_eq!(fake.requests_seen(), 3);
}

#[tokio::test]
async fn a_declined_card_leaves_the_intent_open_for_another_one() {
    let (fake, client) = start_reliable().await;
    let intent = answered(client.send(&create(1)).await).id;
    let request = confirm(1, &intent, "pm_card_chargeDeclined", 1);
    for time in ["first", "repeated"] {
        let Outcome::Declined(decline) = client.send(&request).await else { panic!("{time}: not declined") };
        assert_eq!(decline.code, "card_declined");
        assert_eq!(decline.decline_code.as_deref(), Some("generic_decline"));
        assert_eq!(decline.intent.unwrap().status, IntentStatus::RequiresPaymentMethod);
    }
    let read = client.read_intent(&intent).await.unwrap();
    assert_eq!(read.status, IntentStatus::RequiresPaymentMethod);
    assert_eq!(read.last_payment_error.as_deref(), Some("card_declined"));
    assert!(fake.captures().is_empty());

    let paid = answered(client.send(&confirm(1, &intent, "pm_card_visa", 2)).await);
    assert_eq!(paid.status, IntentStatus::Succeeded);
    assert_eq!(fake.captures().len(), 1);
}

#[tokio::test]
async fn a_card_that_wants_its_owner_requires_action() {
    let (fake, client) = start_reliable().await;
    let intent = answered(client.send(&create(1)).await).id;
    let waiting = answered(client.send(&confirm(1, &intent, "pm_card_authenticationRequired", 1)).await);
    assert_eq!(waiting.status, IntentStatus::RequiresAction);
    assert!(fake.captures().is_empty());
}

#[tokio::test]
async fn c7_a_lost_answer_is_unknown_and_its_repeat_finds_the_one_capture() {
    const ORDERS: u128 = 30;
    let (fake, client) = start(FakeProviderOptions { lost_answer_rate: 0.5, ..Default::default() }).await;
    let mut lost_after_capture = 0;
    for number in 0..ORDERS {
        let (created, _) = answered_at_last(&client, &create(number)).await;
        let request = confirm(number, &created.id, "pm_card_visa", 1);
        if is_unknown(&client.send(&request).await) {
            assert_eq!(fake.captures().len() as u128, number + 1, "lost after the money moved");
            lost_after_capture += 1;
        }
        let (paid, _) = answered_at_last(&client, &request).await;
        assert_eq!(paid.status, IntentStatus::Succeeded);
    }
    assert!(lost_after_capture > 0, "the seed must lose something");
    assert_eq!(fake.intents().len() as u128, ORDERS);
    assert_eq!(fake.captures().len() as u128, ORDERS);
}

#[tokio::test]
async fn a_lost_request_is_unknown_and_executed_by_its_repeat() {
    let (fake, client) = start(FakeProviderOptions { lost_request_rate: 0.5, ..Default::default() }).await;
    let mut lost = 0;
    for number in 0..20 {
        lost += answered_at_last(&client, &create(number)).await.1;
    }
    assert!(lost > 0, "the seed must lose something");
    assert_eq!(fake.intents().len(), 20);
}

#[tokio::test]
async fn c4_a_stored_500_is_replayed_until_another_key_is_used() {
    let (fake, client) = start(FakeProviderOptions { error_500_rate: 0.9, ..Default::default() }).await;
    for _ in 0..10 {
        assert!(is_unknown(&client.send(&create(1)).await), "no repeat helps");
    }
    assert!(fake.intents().is_empty());
    for again in 1..=100 {
        let request = ProviderRequest::create_again(order(1), price(), again).unwrap();
        if let Outcome::Answered(intent) = client.send(&request).await {
            assert_eq!(intent.order_id, Some(order(1).to_string()));
            assert_eq!(fake.intents().len(), 1);
            return;
        }
    }
    panic!("100 keys, all answered by 500");
}

#[tokio::test]
async fn c5_a_key_with_another_body_is_rejected() {
    let (fake, client) = start_reliable().await;
    let request = create(1);
    let intent = answered(client.send(&request).await);
    let other = ProviderRequest { body: request.body.replace("14900", "15900"), ..request.clone() };
    assert_eq!(rejected(client.send(&other).await), "idempotency_error");
    assert_eq!(fake.intents().len(), 1);
    assert_eq!(answered(client.send(&request).await), intent, "the first answer is still stored");
}

#[tokio::test]
async fn c2_a_create_repeated_after_its_key_was_forgotten_is_a_second_intent() {
    let (fake, client) = start_reliable().await;
    let first = answered(client.send(&create(1)).await).id;
    fake.forget_keys();
    assert_ne!(answered(client.send(&create(1)).await).id, first);
}

#[tokio::test]
async fn a_refused_port_proves_that_nothing_was_sent() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let client = client_of(&url, "sk_test", ANSWER_TIMEOUT);
    let outcome = client.send(&create(1)).await;
    assert!(matches!(outcome, Outcome::NotSent { .. }), "{outcome:?}");
    let error = client.read_intent(&IntentId("pi_1".to_owned())).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_proves_that_nothing_was_sent() {
    let client = client_of("https://provider.invalid", "sk_test", ANSWER_TIMEOUT);
    let outcome = client.send(&create(1)).await;
    assert!(matches!(outcome, Outcome::NotSent { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_handshake_that_never_ends_proves_that_nothing_was_sent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let client = client_of(&url, "sk_test", Duration::from_secs(1));
    let outcome = client.send(&create(1)).await;
    assert!(matches!(outcome, Outcome::NotSent { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_wrong_credential_is_a_misconfiguration() {
    let (fake, _) = start_reliable().await;
    let client = client_of(fake.url(), "sk_test_other", ANSWER_TIMEOUT);
    assert_eq!(client.send(&create(1)).await, Outcome::Misconfigured { status: 401 });
    let unasked = client.list_intents(None, 10).await.unwrap_err();
    assert!(matches!(unasked, ProviderError::NotAsked(_)), "the circuit is open: {unasked:?}");
    let another = client_of(fake.url(), "sk_test_other", ANSWER_TIMEOUT);
    assert_eq!(another.list_intents(None, 10).await.unwrap_err(), ProviderError::Misconfigured { status: 401 });
    assert!(fake.intents().is_empty());
}

#[tokio::test]
async fn a_timeout_is_unknown_though_the_provider_carries_on() {
    let delay = Duration::from_millis(600);
    let (fake, patient) = start(FakeProviderOptions { delay: delay..delay, ..Default::default() }).await;
    let hasty = client_of(fake.url(), fake.secret_key(), delay / 3);
    let intent = answered(patient.send(&create(1)).await).id;
    let request = confirm(1, &intent, "pm_card_visa", 1);
    assert!(is_unknown(&hasty.send(&request).await));
    assert!(fake.captures().is_empty(), "the money has not moved yet, and nothing here could know that it will");
    let captured = async {
        while fake.captures().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, captured).await.expect("the provider carries on without its client");
    assert_eq!(answered(patient.send(&request).await).status, IntentStatus::Succeeded);
    assert_eq!(fake.captures().len(), 1);
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_or_points_elsewhere_is_unknown() {
    // Following the redirect would end at a refused port, and a charge already sent would pass for one never sent.
    const ANSWERS: [&str; 4] = [
        "",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 402 Payment Required\r\ncontent-length: 90\r\n\r\n{",
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    ];
    for answer in ANSWERS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(connection.read(&mut request).await.unwrap() > 0);
            connection.write_all(answer.as_bytes()).await.unwrap();
        });
        let outcome = client_of(&url, "sk_test", ANSWER_TIMEOUT).send(&create(1)).await;
        assert!(is_unknown(&outcome), "{answer:?}: {outcome:?}");
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn while_cut_off_nothing_is_answered_and_afterwards_all_is_as_before() {
    let (fake, client) = start_reliable().await;
    let intent = answered(client.send(&create(1)).await);
    fake.cut_off();
    for _ in 0..3 {
        assert!(is_unknown(&client.send(&confirm(1, &intent.id, "pm_card_visa", 1)).await));
        assert!(client.read_intent(&intent.id).await.unwrap_err().is_retryable());
    }
    fake.reconnect();
    assert!(fake.captures().is_empty());
    assert_eq!(client.read_intent(&intent.id).await.unwrap(), intent);
}

#[tokio::test]
async fn c6_a_cancelled_intent_takes_no_money_and_a_paid_one_is_not_cancelled() {
    let (fake, client) = start_reliable().await;
    let first = answered(client.send(&create(1)).await).id;
    let cancelled = answered(client.send(&ProviderRequest::cancel(order(1), &first)).await);
    assert_eq!(cancelled.status, IntentStatus::Canceled);
    let late = client.send(&confirm(1, &first, "pm_card_visa", 1)).await;
    assert_eq!(rejected(late), "payment_intent_unexpected_state");
    assert!(fake.captures().is_empty());

    let second = answered(client.send(&create(2)).await).id;
    assert_eq!(answered(client.send(&confirm(2, &second, "pm_card_visa", 1)).await).status, IntentStatus::Succeeded);
    let late = client.send(&ProviderRequest::cancel(order(2), &second)).await;
    assert_eq!(rejected(late), "payment_intent_unexpected_state");
    assert_eq!(client.read_intent(&second).await.unwrap().status, IntentStatus::Succeeded);
}

#[tokio::test]
async fn c1_the_same_key_sent_twice_at_once_runs_once() {
    let delay = Duration::from_millis(300);
    let (fake, client) = start(FakeProviderOptions { delay: delay..delay, ..Default::default() }).await;
    let request = create(1);
    let (one, two) = tokio::join!(client.send(&request), client.send(&request));
    let reason = match (one, two) {
        (Outcome::Answered(_), Outcome::Unknown { reason }) | (Outcome::Unknown { reason }, Outcome::Answered(_)) => {
            reason
        }
        other => panic!("one must run and one be told so: {other:?}"),
    };
    assert!(reason.contains("409"), "{reason}");
    assert_eq!(fake.intents().len(), 1);
}

#[tokio::test]
async fn c3_two_confirms_racing_under_two_keys_capture_once() {
    let options = FakeProviderOptions { delay: Duration::ZERO..Duration::from_millis(20), ..Default::default() };
    let (fake, client) = start(options).await;
    for number in 0..20 {
        let intent = answered(client.send(&create(number)).await).id;
        let (first, second) =
            (confirm(number, &intent, "pm_card_visa", 1), confirm(number, &intent, "pm_card_visa", 2));
        let (one, two) = tokio::join!(client.send(&first), client.send(&second));
        let outcomes = [one, two];
        assert!(outcomes.iter().any(|outcome| matches!(outcome, Outcome::Answered(_))), "{outcomes:?}");
        assert!(outcomes.iter().any(|outcome| matches!(outcome, Outcome::Rejected { .. })), "{outcomes:?}");
        assert_eq!(fake.captures().len() as u128, number + 1);
    }
}

#[tokio::test]
async fn intents_are_listed_newest_first_in_pages() {
    let (fake, client) = start_reliable().await;
    for number in 0..7 {
        answered(client.send(&create(number)).await);
    }
    let (mut listed, mut pages) = (Vec::<Intent>::new(), Vec::new());
    loop {
        let page = client.list_intents(listed.last().map(|intent| &intent.id), 3).await.unwrap();
        pages.push((page.data.len(), page.has_more));
        listed.extend(page.data);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(pages, [(3, true), (3, true), (1, false)]);
    let newest_first: Vec<_> = (0..7).rev().map(|number| Some(order(number).to_string())).collect();
    assert_eq!(listed.iter().map(|intent| intent.order_id.clone()).collect::<Vec<_>>(), newest_first);
    assert_eq!(fake.intents().len(), 7);
}

#[tokio::test]
async fn an_intent_nobody_knows_is_not_found() {
    let (_fake, client) = start_reliable().await;
    for id in ["pi_missing", "../charges", ""] {
        let error = client.read_intent(&IntentId(id.to_owned())).await.unwrap_err();
        assert_eq!(error, ProviderError::NotFound, "{id:?}");
    }
    let code = rejected(client.send(&confirm(1, &IntentId("pi_missing".to_owned()), "pm_card_visa", 1)).await);
    assert_eq!(code, "resource_missing");
}

#[tokio::test]
async fn a_doctored_second_capture_is_seen_from_outside() {
    let (fake, client) = start_reliable().await;
    let intent = answered(client.send(&create(1)).await).id;
    answered(client.send(&confirm(1, &intent, "pm_card_visa", 1)).await);
    let second = fake.capture_twice(&order(1).to_string()).unwrap();
    assert_eq!(fake.captures().len(), 2);
    let listed = client.list_intents(None, 100).await.unwrap().data;
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0].id.0, &listed[0].latest_charge), (&second.intent_id, &Some(second.charge_id)));
    assert!(listed.iter().all(|intent| intent.status == IntentStatus::Succeeded));
    assert!(listed.iter().all(|intent| intent.order_id == Some(order(1).to_string())));
}

#[tokio::test]
async fn a_dropped_provider_serves_nobody() {
    let (fake, client) = start_reliable().await;
    answered(client.send(&create(1)).await);
    drop(fake);
    let outcome = client.send(&create(1)).await;
    assert!(matches!(outcome, Outcome::Unknown { .. } | Outcome::NotSent { .. }), "{outcome:?}");
}
