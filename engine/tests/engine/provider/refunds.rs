//! Money back: sent once, looked up when the answer is lost, never more than was taken.

use doorbuster_engine::domain::ids::{IntentId, ProviderRefundId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::provider::{Outcome, ProviderClient, ProviderError, ProviderRequest, Refund, RefundStatus};
use doorbuster_sandbox::provider::{End, FakeProvider, FakeProviderOptions};

use super::{answered, answered_at_last, confirm, create, is_unknown, order, price, rejected, start, start_reliable};

fn refund_id(number: u128) -> RefundId {
    RefundId(uuid::Uuid::from_u128(number))
}

fn euros(amount_minor: i64) -> Money {
    Money::new(amount_minor, price().currency)
}

fn refund(number: u128, refund: u128, intent: &IntentId, amount_minor: i64) -> ProviderRequest {
    ProviderRequest::refund(order(number), refund_id(refund), intent, euros(amount_minor)).unwrap()
}

async fn pay(client: &ProviderClient, number: u128, method: &str) -> IntentId {
    let (intent, _) = answered_at_last(client, &create(number)).await;
    answered_at_last(client, &confirm(number, &intent.id, method, 1)).await.0.id
}

fn refunded(outcome: Outcome<Refund>) -> Refund {
    match outcome {
        Outcome::Answered(refund) => refund,
        other => panic!("expected a refund, got {other:?}"),
    }
}

fn in_all(fake: &FakeProvider) -> i64 {
    fake.refunds().iter().filter(|refund| refund.status != "failed").map(|refund| refund.amount_minor).sum()
}

#[tokio::test]
async fn a_refund_names_its_order_and_can_be_read_back() {
    let (fake, client) = start_reliable().await;
    let intent = pay(&client, 1, "pm_card_visa").await;
    let part = refunded(client.send_refund(&refund(1, 7, &intent, 4_900)).await);
    assert_eq!(part.status, RefundStatus::Succeeded);
    assert_eq!((part.amount, part.intent.as_ref()), (euros(4_900), Some(&intent)));
    assert_eq!(part.order_id, Some(order(1).to_string()));
    assert_eq!(part.refund_id, Some(refund_id(7).to_string()));
    assert_eq!(part.charge, Some(fake.captures()[0].charge_id.clone()));
    assert_eq!(client.read_refund(&part.id).await.unwrap(), part);
    let paid = client.read_intent(&intent).await.unwrap();
    assert_eq!(paid.amount_received, price(), "what was received stays what was received");
}

#[tokio::test]
async fn c9_a_refund_sent_twice_pays_once() {
    let (fake, client) = start_reliable().await;
    let intent = pay(&client, 1, "pm_card_visa").await;
    let request = refund(1, 7, &intent, 4_900);
    let first = refunded(client.send_refund(&request).await);
    assert_eq!(refunded(client.send_refund(&request).await), first);
    assert_eq!(in_all(&fake), 4_900);
    let other = ProviderRequest { body: request.body.replace("4900", "5900"), ..request };
    let code = match client.send_refund(&other).await {
        Outcome::Rejected { code, .. } => code,
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!((code.as_str(), in_all(&fake)), ("idempotency_error", 4_900));
}

#[tokio::test]
async fn never_more_than_was_taken_and_the_refusal_says_so() {
    let (fake, client) = start_reliable().await;
    let intent = pay(&client, 1, "pm_card_visa").await;
    let too_much = client.send_refund(&refund(1, 1, &intent, 14_901)).await;
    assert!(matches!(too_much, Outcome::Rejected { .. }), "{too_much:?}");
    refunded(client.send_refund(&refund(1, 2, &intent, 14_900)).await);
    let again = client.send_refund(&refund(1, 3, &intent, 1)).await;
    let Outcome::Rejected { code, .. } = again else { panic!("{again:?}") };
    assert_eq!((code.as_str(), in_all(&fake)), ("charge_already_refunded", 14_900));

    let unpaid = answered(client.send(&create(2)).await).id;
    let outcome = client.send_refund(&refund(2, 4, &unpaid, 1)).await;
    assert!(matches!(outcome, Outcome::Rejected { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_refund_whose_answer_is_lost_is_found_by_its_id_in_the_list() {
    let faults = FakeProviderOptions { lost_answer_rate: 0.4, error_500_executed_rate: 0.3, ..Default::default() };
    let (fake, client) = start(faults).await;
    let mut found = 0;
    for number in 0..20 {
        let intent = paid_whatever_it_takes(&fake, &client, number).await;
        let outcome = client.send_refund(&refund(number, number, &intent, 4_900)).await;
        if !matches!(outcome, Outcome::Unknown { .. }) {
            continue;
        }
        let listed = loop {
            match client.list_refunds(&intent, None, 100).await {
                Ok(page) => break page.data,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        };
        let ours = listed.iter().filter(|refund| refund.refund_id == Some(refund_id(number).to_string()));
        assert_eq!(ours.count(), 1, "both faults come after the execution");
        found += 1;
    }
    assert!(found > 5, "the seed must lose something: {found}");
    assert_eq!(in_all(&fake), 20 * 4_900);
    let counts = fake.fault_counts();
    assert!(counts.lost_answers > 0 && counts.stored_500s_executed > 0, "{counts:?}");
    assert_eq!(counts.stored_500s, counts.stored_500s_executed);
}

/// Pays although answers are lost and errors stored: by reading, as the engine does.
async fn paid_whatever_it_takes(fake: &FakeProvider, client: &ProviderClient, number: u128) -> IntentId {
    let _ = client.send(&create(number)).await;
    let name = order(number).to_string();
    let made = fake.intents().into_iter().find(|intent| intent.order_id() == Some(&name)).unwrap();
    let intent = IntentId(made.intent_id);
    let _ = client.send(&confirm(number, &intent, "pm_card_visa", 1)).await;
    intent
}

#[tokio::test]
async fn a_refund_may_be_pending_and_a_succeeded_one_may_still_fail() {
    let (fake, client) = start_reliable().await;
    let slow = pay(&client, 1, "pm_card_pendingRefund").await;
    let pending = refunded(client.send_refund(&refund(1, 1, &slow, 14_900)).await);
    assert_eq!(pending.status, RefundStatus::Pending);
    assert!(fake.settle_refund(&pending.id.0, End::Succeeded));
    assert_eq!(client.read_refund(&pending.id).await.unwrap().status, RefundStatus::Succeeded);

    let closed = pay(&client, 2, "pm_card_refundFail").await;
    let accepted = refunded(client.send_refund(&refund(2, 2, &closed, 14_900)).await);
    assert_eq!(accepted.status, RefundStatus::Succeeded);
    assert!(fake.settle_refund(&accepted.id.0, End::Failed));
    let failed = client.read_refund(&accepted.id).await.unwrap();
    assert_eq!(failed.status, RefundStatus::Failed);
    assert_eq!(failed.failure_reason.as_deref(), Some("lost_or_stolen_card"));
    // The money is back with us, so it can be sent again under a new id.
    refunded(client.send_refund(&refund(2, 3, &closed, 14_900)).await);
}

#[tokio::test]
async fn refunds_fail_by_seed_too() {
    let faults = FakeProviderOptions { refund_pending_rate: 0.3, refund_fails_rate: 0.3, ..Default::default() };
    let (fake, client) = start(faults).await;
    let mut pending = Vec::new();
    for number in 0..30 {
        let intent = pay(&client, number, "pm_card_visa").await;
        let made = refunded(client.send_refund(&refund(number, number, &intent, 100)).await);
        pending.extend((made.status == RefundStatus::Pending).then_some(made.id));
    }
    assert!((5..=25).contains(&pending.len()), "{}", pending.len());
    assert_eq!(fake.refunds().iter().filter(|refund| refund.status == "pending").count(), pending.len());
}

#[tokio::test]
async fn refunds_are_listed_by_intent_in_pages() {
    let (_fake, client) = start_reliable().await;
    let (one, other) = (pay(&client, 1, "pm_card_visa").await, pay(&client, 2, "pm_card_visa").await);
    for number in 0..5 {
        refunded(client.send_refund(&refund(1, number, &one, 100)).await);
        refunded(client.send_refund(&refund(2, 10 + number, &other, 100)).await);
    }
    let (mut listed, mut pages) = (Vec::<Refund>::new(), Vec::new());
    loop {
        let page = client.list_refunds(&one, listed.last().map(|refund| &refund.id), 2).await.unwrap();
        pages.push((page.data.len(), page.has_more));
        listed.extend(page.data);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(pages, [(2, true), (2, true), (1, false)]);
    let newest_first: Vec<_> = (0..5).rev().map(|number| Some(refund_id(number).to_string())).collect();
    assert_eq!(listed.into_iter().map(|refund| refund.refund_id).collect::<Vec<_>>(), newest_first);
}

#[tokio::test]
async fn a_refund_nobody_knows_is_not_found() {
    let (_fake, client) = start_reliable().await;
    for id in ["re_missing", "../payment_intents", ""] {
        let error = client.read_refund(&ProviderRefundId(id.to_owned())).await.unwrap_err();
        assert_eq!(error, ProviderError::NotFound, "{id:?}");
    }
}

#[tokio::test]
#[should_panic(expected = "use send_refund")]
async fn a_refund_is_not_sent_as_a_charge() {
    let (_fake, client) = start_reliable().await;
    let _ = client.send(&refund(1, 1, &IntentId("pi_1".to_owned()), 1)).await;
}

#[tokio::test]
async fn a_declined_card_that_succeeds_after_all_and_a_cancel_that_comes_too_late() {
    let (fake, client) = start_reliable().await;
    let declined = answered(client.send(&create(1)).await).id;
    assert!(matches!(
        client.send(&confirm(1, &declined, "pm_fake_declinedThenSucceeds", 1)).await,
        Outcome::Declined(_)
    ));
    assert!(fake.settled(super::ANSWER_TIMEOUT).await);
    assert_eq!(fake.captures().len(), 1, "the money came although the answer was no");

    let (fake, client) = start(FakeProviderOptions { success_before_cancel_rate: 1.0, ..Default::default() }).await;
    let waiting = answered(client.send(&create(1)).await).id;
    answered(client.send(&confirm(1, &waiting, "pm_card_authenticationRequired", 1)).await);
    let late = client.send(&ProviderRequest::cancel(order(1), &waiting)).await;
    assert_eq!(rejected(late), "payment_intent_unexpected_state");
    assert_eq!(fake.captures().len(), 1);
    // Nothing was ever tried on this one, so nothing can succeed.
    let fresh = answered(client.send(&create(2)).await).id;
    answered(client.send(&ProviderRequest::cancel(order(2), &fresh)).await);
    assert_eq!(fake.captures().len(), 1);
    assert!(!is_unknown(&client.send(&ProviderRequest::cancel(order(2), &fresh)).await));
}
