//! Every request that the program can send, held against the fake provider's table of parameters. `golden` has their
//! bytes.

use doorbuster_engine::domain::ids::{IntentId, ProviderRefundId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::provider::{Operation, ProviderError, ProviderRequest};
use doorbuster_sandbox::provider::{ApiVersion, check_parameters};
use jiff::Timestamp;

use super::{order, price, start_reliable};

/// What the frozen format is written in.
const V1: ApiVersion = ApiVersion::V2024_06_20;

fn every_request() -> Vec<ProviderRequest> {
    let (number, intent, refund) = (order(1), IntentId("pi_1".to_owned()), RefundId(uuid::Uuid::from_u128(1)));
    let method = "pm_card_visa".parse().unwrap();
    let yen = Money::new(14_900, "JPY".parse().unwrap());
    vec![
        ProviderRequest::create(number, price()).unwrap(),
        ProviderRequest::create(number, yen).unwrap(),
        ProviderRequest::create_again(number, price(), 2).unwrap(),
        ProviderRequest::confirm(number, &intent, &method, 1),
        ProviderRequest::cancel(number, &intent),
        ProviderRequest::cancel_again(number, &intent, 1),
        ProviderRequest::refund(number, refund, &intent, price()).unwrap(),
        ProviderRequest::refund_again(number, refund, &intent, price(), 1).unwrap(),
    ]
}

#[test]
fn every_body_has_known_parameters_and_known_words_only() {
    let requests = every_request();
    for request in &requests {
        let checked = check_parameters("POST", &request.path, &request.body, V1);
        assert!(checked.is_ok(), "{:?}: {checked:?}", request.operation);
        // A word that is not there is seen, so the check is one.
        let more = format!("{}&colour=red", request.body);
        let refused = check_parameters("POST", &request.path, more.trim_start_matches('&'), V1).unwrap_err();
        assert_eq!(refused.code, Some("parameter_unknown"), "{:?}", request.operation);
    }
    // A new operation belongs into the list above: this does not compile without it.
    let seen = |operation: Operation| match operation {
        Operation::Create => "create",
        Operation::CreateAgain { .. } => "create again",
        Operation::Confirm { .. } => "confirm",
        Operation::Cancel => "cancel",
        Operation::CancelAgain { .. } => "cancel again",
        Operation::Refund => "refund",
    };
    let mut operations: Vec<_> = requests.iter().map(|request| seen(request.operation)).collect();
    operations.sort_unstable();
    operations.dedup();
    assert_eq!(operations, ["cancel", "cancel again", "confirm", "create", "create again", "refund"]);
}

/// The older name of the types is the frozen format's: the newer version knows it no more.
#[test]
fn the_frozen_format_belongs_to_its_version() {
    let create = &every_request()[0];
    let newer = check_parameters("POST", &create.path, &create.body, ApiVersion::V2026_10_28).unwrap_err();
    assert_eq!(newer.param.as_deref(), Some("payment_method_types[]"));
}

#[tokio::test]
async fn every_query_is_one_that_the_provider_answers() {
    let (_fake, client) = start_reliable().await;
    let (intent, refund) = (IntentId("pi_1".to_owned()), ProviderRefundId("re_1".to_owned()));
    let (since, until) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(1).unwrap());
    assert!(client.list_intents(None, 100).await.is_ok());
    assert!(client.list_intents_since(since, None, 100).await.is_ok());
    assert!(client.list_refunds(&intent, None, 100).await.is_ok());
    assert!(client.list_balance_transactions(since..until, None, 100).await.is_ok());
    assert_eq!(client.read_intent(&intent).await.unwrap_err(), ProviderError::NotFound);
    assert_eq!(client.read_refund(&refund).await.unwrap_err(), ProviderError::NotFound);
    // From behind something: it is not there, which is another refusal than an unknown parameter.
    for refused in [
        client.list_intents(Some(&intent), 100).await.unwrap_err(),
        client.list_balance_transactions(since..until, Some("txn_1"), 100).await.unwrap_err(),
    ] {
        let ProviderError::Rejected { code, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(code, "resource_missing");
    }
}
