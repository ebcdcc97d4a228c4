//! The bytes of every request, as they were first sent.

use doorbuster_engine::domain::ids::{IntentId, OrderId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::provider::{Operation, ProviderRequest};

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
        assert_eq!(request.path, path);
        assert_eq!(request.idempotency_key, idempotency_key);
        assert_eq!(request.body, body);
    }
}
