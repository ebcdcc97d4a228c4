//! The bytes of every request, as they were first sent.

use doorbuster_engine::domain::ids::{CustomerId, IntentId, OrderId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::provider::{Format, Operation, Presence, ProviderRequest};

use super::price;

/// These bytes are a protocol with the provider and with our own stored attempts: they must never change.
#[test]
fn golden_bytes_of_every_request() {
    let order = OrderId("00000007-1234-8abc-9def-0123456789ab".parse().unwrap());
    let intent = IntentId("pi_3MtwBwLkdIwHu7ix28a3tqPa".to_owned());
    let method = "pm_card_visa".parse().unwrap();
    let refund = RefundId("01935a3e-0000-7000-8000-00000000002a".parse().unwrap());
    let create_body = "amount=14900&currency=eur&metadata%5Border_id%5D=00000007-1234-8abc-9def-0123456789ab\
        &capture_method=automatic&confirm=false&payment_method_types%5B%5D=card";
    let golden = [
        (
            ProviderRequest::create(order, price()).unwrap(),
            Operation::Create,
            "/v1/payment_intents",
            "order-00000007-1234-8abc-9def-0123456789ab",
            create_body,
        ),
        (
            ProviderRequest::create_again(order, price(), 2).unwrap(),
            Operation::CreateAgain { again: 2 },
            "/v1/payment_intents",
            "order-00000007-1234-8abc-9def-0123456789ab:create:2",
            create_body,
        ),
        (
            ProviderRequest::confirm(order, &intent, &method, 3),
            Operation::Confirm { attempt: 3 },
            "/v1/payment_intents/pi_3MtwBwLkdIwHu7ix28a3tqPa/confirm",
            "order-00000007-1234-8abc-9def-0123456789ab:confirm:3",
            "payment_method=pm_card_visa",
        ),
        (
            ProviderRequest::cancel(order, &intent),
            Operation::Cancel,
            "/v1/payment_intents/pi_3MtwBwLkdIwHu7ix28a3tqPa/cancel",
            "order-00000007-1234-8abc-9def-0123456789ab:cancel",
            "",
        ),
        (
            ProviderRequest::refund(order, refund, &intent, Money::new(4_900, price().currency)).unwrap(),
            Operation::Refund,
            "/v1/refunds",
            "order-00000007-1234-8abc-9def-0123456789ab:refund:01935a3e-0000-7000-8000-00000000002a",
            "payment_intent=pi_3MtwBwLkdIwHu7ix28a3tqPa&amount=4900\
                &metadata%5Border_id%5D=00000007-1234-8abc-9def-0123456789ab\
                &metadata%5Brefund_id%5D=01935a3e-0000-7000-8000-00000000002a",
        ),
    ];
    for (request, operation, path, idempotency_key, body) in golden {
        assert_eq!(request.operation, operation);
        assert_eq!(request.format, Format::First);
        assert_eq!(request.path, path);
        assert_eq!(request.idempotency_key, idempotency_key);
        assert_eq!(request.body, body);
    }
}

/// As are these. Keys and paths are those of the first format: what was sent under one is never sent under the other.
#[test]
fn golden_bytes_of_the_second_format() {
    let order = OrderId("00000007-1234-8abc-9def-0123456789ab".parse().unwrap());
    let intent = IntentId("pi_3MtwBwLkdIwHu7ix28a3tqPa".to_owned());
    let (method, customer) = ("pm_1MtwBwLkdIwHu7ix".parse().unwrap(), CustomerId("cus_NffrFeUfNV2Hib".to_owned()));
    let thing = "01935a3e-0000-7000-8000-00000000002a".parse().unwrap();
    let shop = "shop-0123456789abcdef0123456789abcdef";
    let back = Presence::OnSession { return_url: Some("https://shop.example/back?a=1") };
    let golden = [
        (
            ProviderRequest::create_for(order, price(), shop, Some(&customer), 0).unwrap(),
            "/v1/payment_intents",
            "order-00000007-1234-8abc-9def-0123456789ab",
            "amount=14900&currency=eur&customer=cus_NffrFeUfNV2Hib\
                &metadata%5Border_id%5D=00000007-1234-8abc-9def-0123456789ab\
                &metadata%5Bshop%5D=shop-0123456789abcdef0123456789abcdef\
                &capture_method=automatic&confirm=false&allowed_payment_method_types%5B%5D=card",
        ),
        (
            ProviderRequest::create_for(order, price(), shop, None, 2).unwrap(),
            "/v1/payment_intents",
            "order-00000007-1234-8abc-9def-0123456789ab:create:2",
            "amount=14900&currency=eur&metadata%5Border_id%5D=00000007-1234-8abc-9def-0123456789ab\
                &metadata%5Bshop%5D=shop-0123456789abcdef0123456789abcdef\
                &capture_method=automatic&confirm=false&allowed_payment_method_types%5B%5D=card",
        ),
        (
            ProviderRequest::confirm_for(order, &intent, &method, Presence::OffSession, 1),
            "/v1/payment_intents/pi_3MtwBwLkdIwHu7ix28a3tqPa/confirm",
            "order-00000007-1234-8abc-9def-0123456789ab:confirm:1",
            "payment_method=pm_1MtwBwLkdIwHu7ix&off_session=true",
        ),
        (
            ProviderRequest::confirm_for(order, &intent, &method, back, 2),
            "/v1/payment_intents/pi_3MtwBwLkdIwHu7ix28a3tqPa/confirm",
            "order-00000007-1234-8abc-9def-0123456789ab:confirm:2",
            "payment_method=pm_1MtwBwLkdIwHu7ix&return_url=https%3A%2F%2Fshop.example%2Fback%3Fa%3D1",
        ),
        (
            ProviderRequest::name_customer(order, &intent, &customer, 5),
            "/v1/payment_intents/pi_3MtwBwLkdIwHu7ix28a3tqPa",
            "order-00000007-1234-8abc-9def-0123456789ab:customer:5",
            "customer=cus_NffrFeUfNV2Hib",
        ),
        (
            ProviderRequest::customer(thing, shop, 1),
            "/v1/customers",
            "customer-01935a3e-0000-7000-8000-00000000002a:1",
            "metadata%5Bshop%5D=shop-0123456789abcdef0123456789abcdef\
                &metadata%5Bcustomer_ref%5D=01935a3e-0000-7000-8000-00000000002a",
        ),
        (
            ProviderRequest::attach(thing, &method, &customer, 0),
            "/v1/payment_methods/pm_1MtwBwLkdIwHu7ix/attach",
            "card-01935a3e-0000-7000-8000-00000000002a:attach",
            "customer=cus_NffrFeUfNV2Hib",
        ),
        (
            ProviderRequest::setup_session(thing, &customer, "https://shop.example/back", shop),
            "/v1/checkout/sessions",
            "setup-01935a3e-0000-7000-8000-00000000002a",
            "mode=setup&customer=cus_NffrFeUfNV2Hib&success_url=https%3A%2F%2Fshop.example%2Fback\
                &cancel_url=https%3A%2F%2Fshop.example%2Fback&allowed_payment_method_types%5B%5D=card\
                &metadata%5Bshop%5D=shop-0123456789abcdef0123456789abcdef",
        ),
    ];
    for (request, path, idempotency_key, body) in golden {
        assert_eq!(request.format, Format::Second);
        assert_eq!(request.path, path);
        assert_eq!(request.idempotency_key, idempotency_key);
        assert_eq!(request.body, body);
    }
    let versions = Format::ALL.map(|format| (format.number(), format.api_version()));
    assert_eq!(versions, [(1, "2024-06-20"), (2, "2026-10-28.endive")]);
}
