//! The requests that can move money: one function an operation, each the only place that knows its key and body.
//!
//! **The format is frozen.** Keys and bodies are stored with the attempt before anything is sent and repeated byte for
//! byte: two programs of different versions must build the same bytes for the same payment, or the provider sees two
//! payments. `engine/tests/engine/provider/golden.rs` holds golden bytes; a change there is a change of protocol. Nothing that varies
//! from call to call (a time, a price read again, a chance) may enter.
//!
//! | operation | key | path | body |
//! |---|---|---|---|
//! | create | `order-{order}` | `/v1/payment_intents` | amount, currency, metadata\[order_id\], capture_method, confirm, payment_method_types\[\] |
//! | create again | `order-{order}:create:{m}` | same | same |
//! | confirm | `order-{order}:confirm:{n}` | `/v1/payment_intents/{intent}/confirm` | payment_method |
//! | cancel | `order-{order}:cancel` | `/v1/payment_intents/{intent}/cancel` | empty |
//! | cancel again | `order-{order}:cancel:{m}` | same | empty |
//! | refund | `order-{order}:refund:{refund}` | `/v1/refunds` | payment_intent, amount, metadata\[order_id\], metadata\[refund_id\] |
//! | refund again | `order-{order}:refund:{refund}:{m}` | same | same |

use crate::domain::ids::{IntentId, OrderId, PaymentMethodId, RefundId};
use crate::domain::money::{Currency, Money};

use super::intent::is_provider_id;
use super::throttle::Endpoint;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// An intent that holds no money.
    Create,
    /// The `again`-th new start (from 1) after a create whose outcome stayed unknown.
    CreateAgain { again: u32 },
    /// The charge itself; `attempt` counts from 1.
    Confirm { attempt: u32 },
    /// The end of an intent that has not captured.
    Cancel,
    /// The `again`-th repeat (from 1) of a cancel that the provider keeps answering with a stored error. It cannot take
    /// money, so a new key is harmless.
    CancelAgain { again: u32 },
    /// Money back; which refund it is stands in the key. Sent by `send_refund`, not by `send`.
    Refund,
}

impl Operation {
    /// The limit that its calls count against.
    pub fn endpoint(self) -> Endpoint {
        match self {
            Self::Create | Self::CreateAgain { .. } => Endpoint::Create,
            Self::Confirm { .. } => Endpoint::Confirm,
            Self::Cancel | Self::CancelAgain { .. } => Endpoint::Cancel,
            Self::Refund => Endpoint::Refund,
        }
    }
}

/// The exact bytes of one request, as committed to Postgres before they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProviderRequest {
    pub operation: Operation,
    pub path: String,
    pub idempotency_key: String,
    /// `application/x-www-form-urlencoded`.
    pub body: String,
}

/// An amount the provider would refuse, or would take for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotChargeable {
    #[error("{0} is not an amount that can be charged")]
    NotPositive(Money),
    #[error("the provider counts {0} in other units than ISO 4217 does")]
    OtherUnits(Currency),
    #[error("the provider wants the last of three decimals to be 0, which it is not in {0}")]
    ThirdDecimal(Money),
}

/// Whether the provider charges this amount as it stands; opening a drop asks this for every price.
pub fn check_chargeable(amount: Money) -> Result<(), NotChargeable> {
    /// ISK and UGX have no minor units, yet the provider takes hundredths; MGA has some, yet it takes whole ariary.
    /// Sending our minor units would charge a hundredth of the price, or a hundred times the price.
    /// Source: docs.stripe.com/currencies, "special cases" and "zero-decimal currencies".
    const OTHER_UNITS: [&str; 3] = ["ISK", "MGA", "UGX"];
    if amount.amount_minor <= 0 {
        return Err(NotChargeable::NotPositive(amount));
    }
    if OTHER_UNITS.contains(&amount.currency.as_str()) {
        return Err(NotChargeable::OtherUnits(amount.currency));
    }
    if amount.currency.exponent() == 3 && amount.amount_minor % 10 != 0 {
        return Err(NotChargeable::ThirdDecimal(amount));
    }
    Ok(())
}

impl ProviderRequest {
    pub fn create(order: OrderId, amount: Money) -> Result<Self, NotChargeable> {
        create_with(Operation::Create, format!("order-{order}"), order, amount)
    }

    /// Only after a create whose outcome stayed unknown: see PAYMENTS, "Keys". Intents hold no money, so a second one
    /// is harmless as long as only the one stored on the order is ever confirmed.
    pub fn create_again(order: OrderId, amount: Money, again: u32) -> Result<Self, NotChargeable> {
        create_with(Operation::CreateAgain { again }, format!("order-{order}:create:{again}"), order, amount)
    }

    pub fn confirm(order: OrderId, intent: &IntentId, method: &PaymentMethodId, attempt: u32) -> Self {
        Self {
            operation: Operation::Confirm { attempt },
            path: format!("{}/confirm", intent_path(intent)),
            idempotency_key: format!("order-{order}:confirm:{attempt}"),
            body: form(&[("payment_method", method.as_str())]),
        }
    }

    pub fn cancel(order: OrderId, intent: &IntentId) -> Self {
        cancel_with(Operation::Cancel, format!("order-{order}:cancel"), intent)
    }

    pub fn cancel_again(order: OrderId, intent: &IntentId, again: u32) -> Self {
        cancel_with(Operation::CancelAgain { again }, format!("order-{order}:cancel:{again}"), intent)
    }

    /// Gives back `amount` of what the order's intent captured. The intent is named rather than its charge: it
    /// captures at most once, so both mean the same money, and the intent is what the order has stored.
    ///
    /// Never sent again later than 20 h after the first time: a forgotten key would be a second refund. Look it up
    /// with `list_refunds`; `metadata[refund_id]` says which are ours.
    pub fn refund(order: OrderId, refund: RefundId, intent: &IntentId, amount: Money) -> Result<Self, NotChargeable> {
        check_chargeable(amount)?;
        let body = form(&[
            ("payment_intent", &intent.0),
            ("amount", &amount.amount_minor.to_string()),
            ("metadata[order_id]", &order.to_string()),
            ("metadata[refund_id]", &refund.to_string()),
        ]);
        Ok(Self {
            operation: Operation::Refund,
            path: REFUNDS_PATH.to_owned(),
            idempotency_key: format!("order-{order}:refund:{refund}"),
            body,
        })
    }

    /// The `again`-th repeat (from 1) of a refund that the provider keeps answering with a stored error, and that is not
    /// in its list: the list is asked right before.
    pub fn refund_again(
        order: OrderId,
        refund: RefundId,
        intent: &IntentId,
        amount: Money,
        again: u32,
    ) -> Result<Self, NotChargeable> {
        let first = Self::refund(order, refund, intent, amount)?;
        Ok(Self { idempotency_key: format!("{}:{again}", first.idempotency_key), ..first })
    }
}

fn create_with(
    operation: Operation,
    idempotency_key: String,
    order: OrderId,
    amount: Money,
) -> Result<ProviderRequest, NotChargeable> {
    check_chargeable(amount)?;
    let body = form(&[
        ("amount", &amount.amount_minor.to_string()),
        ("currency", &amount.currency.as_str().to_ascii_lowercase()),
        ("metadata[order_id]", &order.to_string()),
        ("capture_method", "automatic"),
        ("confirm", "false"),
        ("payment_method_types[]", "card"),
    ]);
    Ok(ProviderRequest { operation, path: INTENTS_PATH.to_owned(), idempotency_key, body })
}

fn cancel_with(operation: Operation, idempotency_key: String, intent: &IntentId) -> ProviderRequest {
    let path = format!("{}/cancel", intent_path(intent));
    ProviderRequest { operation, path, idempotency_key, body: String::new() }
}

pub(super) const INTENTS_PATH: &str = "/v1/payment_intents";
pub(super) const REFUNDS_PATH: &str = "/v1/refunds";

pub(super) fn intent_path(intent: &IntentId) -> String {
    // Ids come from answers and from our own rows, both checked; another one could point at another path.
    assert!(is_provider_id(&intent.0), "an intent's id names one path segment, {:?} does not", intent.0);
    format!("{INTENTS_PATH}/{}", intent.0)
}

fn form(fields: &[(&str, &str)]) -> String {
    serde_urlencoded::to_string(fields).expect("pairs of strings are always encodable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_the_provider_would_misread_are_refused_before_they_are_sent() {
        let check = |amount_minor, code: &str| check_chargeable(Money::new(amount_minor, code.parse().unwrap()));
        for (amount_minor, code) in [(1, "EUR"), (14_900, "JPY"), (5_120, "KWD")] {
            assert_eq!(check(amount_minor, code), Ok(()), "{amount_minor} {code}");
        }
        assert!(matches!(check(0, "EUR"), Err(NotChargeable::NotPositive(_))));
        assert!(matches!(check(-1, "EUR"), Err(NotChargeable::NotPositive(_))));
        assert!(matches!(check(5_124, "KWD"), Err(NotChargeable::ThirdDecimal(_))));
        for code in ["ISK", "MGA", "UGX"] {
            assert!(matches!(check(500, code), Err(NotChargeable::OtherUnits(_))), "{code}");
        }
    }
}
