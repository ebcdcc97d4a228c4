//! Every request that the program can send, held against the fake provider's table of parameters. `golden` has their
//! bytes.

use doorbuster_engine::domain::ids::{CustomerId, IntentId, ProviderRefundId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::provider::{Format, Operation, Presence, ProviderError, ProviderRequest};
use doorbuster_sandbox::provider::{ApiVersion, check_parameters};
use jiff::Timestamp;

use super::{order, price, start_reliable};

/// What a format is written in.
fn version(format: Format) -> ApiVersion {
    match format {
        Format::First => ApiVersion::V2024_06_20,
        Format::Second => ApiVersion::V2026_10_28,
    }
}

fn every_request() -> Vec<ProviderRequest> {
    let (number, intent, refund) = (order(1), IntentId("pi_1".to_owned()), RefundId(uuid::Uuid::from_u128(1)));
    let method = "pm_card_visa".parse().unwrap();
    let (customer, thing) = (CustomerId("cus_1".to_owned()), uuid::Uuid::from_u128(7));
    let back = Presence::OnSession { return_url: Some("https://shop.example/back") };
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
        ProviderRequest::create_for(number, price(), "shop-1", Some(&customer), 0).unwrap(),
        ProviderRequest::create_for(number, price(), "shop-1", None, 1).unwrap(),
        ProviderRequest::confirm_for(number, &intent, &method, Presence::OffSession, 1),
        ProviderRequest::confirm_for(number, &intent, &method, back, 2),
        ProviderRequest::confirm_for(number, &intent, &method, Presence::OnSession { return_url: None }, 3),
        ProviderRequest::cancel(number, &intent).in_format(Format::Second),
        ProviderRequest::name_customer(number, &intent, &customer, 5),
        ProviderRequest::customer(thing, "shop-1", 0),
        ProviderRequest::attach(thing, &method, &customer, 1),
        ProviderRequest::setup_session(thing, &customer, "https://shop.example/back", "shop-1"),
    ]
}

#[test]
fn every_body_has_known_parameters_and_known_words_only() {
    let requests = every_request();
    for request in &requests {
        let checked = check_parameters("POST", &request.path, &request.body, version(request.format));
        assert!(checked.is_ok(), "{:?}: {checked:?}", request.operation);
        // A word that is not there is seen, so the check is one.
        let more = format!("{}&colour=red", request.body);
        let refused =
            check_parameters("POST", &request.path, more.trim_start_matches('&'), version(request.format)).unwrap_err();
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
        Operation::NameCustomer => "name customer",
        Operation::Customer => "customer",
        Operation::Card => "card",
    };
    let mut operations: Vec<_> = requests.iter().map(|request| seen(request.operation)).collect();
    operations.sort_unstable();
    operations.dedup();
    let all = "cancel, cancel again, card, confirm, create, create again, customer, name customer, refund";
    assert_eq!(operations.join(", "), all);
}

/// Each version knows its own name of the types only.
#[test]
fn each_format_belongs_to_its_version() {
    let requests = every_request();
    let create = |format| {
        requests.iter().find(|request| request.operation == Operation::Create && request.format == format).unwrap()
    };
    let (first, second) = (create(Format::First), create(Format::Second));
    let newer = check_parameters("POST", &first.path, &first.body, ApiVersion::V2026_10_28).unwrap_err();
    assert_eq!(newer.param.as_deref(), Some("payment_method_types[]"));
    let older = check_parameters("POST", &second.path, &second.body, ApiVersion::V2024_06_20).unwrap_err();
    assert_eq!(older.param.as_deref(), Some("allowed_payment_method_types[]"));
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
