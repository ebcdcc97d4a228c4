//! A refund as the provider describes it. Accepted is not paid back: only `succeeded` is, and `failed` may come later.

use jiff::Timestamp;
use serde::Deserialize;

use crate::domain::ids::{IntentId, OrderId, ProviderRefundId};
use crate::domain::money::Money;

use super::intent::{UnreadableObject, amount_of, check_id, check_kind, currency_of};

/// Where a refund stands, in the provider's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundStatus {
    /// Accepted; the bank has not answered yet, for days with some means of payment.
    Pending,
    RequiresAction,
    Succeeded,
    /// The money did not arrive and is back with us: the buyer has to be paid in another way.
    Failed,
    Canceled,
    /// A word we do not know: neither success nor failure.
    Other(String),
}

/// Money on its way back. Amount and intent are compared with our own row by whoever settles it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WireRefund")]
pub struct Refund {
    pub id: ProviderRefundId,
    pub status: RefundStatus,
    pub amount: Money,
    /// Absent for charges made without an intent, which are not ours.
    pub intent: Option<IntentId>,
    pub charge: Option<String>,
    /// `metadata[order_id]`, as text: the provider keeps whatever anybody wrote there.
    pub order_id: Option<String>,
    /// `metadata[refund_id]`, as text: absent for a refund made by hand at the provider.
    pub refund_id: Option<String>,
    pub failure_reason: Option<String>,
    pub created: Timestamp,
}

impl Refund {
    /// The order that its metadata name, be it one of ours or not.
    pub fn order_named(&self) -> Option<OrderId> {
        self.order_id.as_deref().and_then(|id| id.parse().ok()).map(OrderId)
    }
}

/// What was taken of an intent, as far as we read it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WireCharge")]
pub struct Charge {
    pub id: String,
    /// What has gone back of it, or is on its way back.
    pub refunded: Money,
}

#[derive(Deserialize)]
struct WireCharge {
    object: String,
    id: String,
    amount_refunded: i64,
    currency: String,
}

impl TryFrom<WireCharge> for Charge {
    type Error = UnreadableObject;

    fn try_from(wire: WireCharge) -> Result<Self, UnreadableObject> {
        check_kind(wire.object, "charge")?;
        check_id(&wire.id)?;
        if wire.amount_refunded < 0 {
            return Err(UnreadableObject::Amount(wire.amount_refunded));
        }
        Ok(Self { id: wire.id, refunded: amount_of(wire.amount_refunded, currency_of(&wire.currency)?)? })
    }
}

#[derive(Deserialize)]
struct WireRefund {
    object: String,
    id: String,
    status: String,
    amount: i64,
    currency: String,
    payment_intent: Option<String>,
    charge: Option<String>,
    metadata: WireMetadata,
    failure_reason: Option<String>,
    created: i64,
}

#[derive(Deserialize)]
struct WireMetadata {
    order_id: Option<String>,
    refund_id: Option<String>,
}

impl TryFrom<WireRefund> for Refund {
    type Error = UnreadableObject;

    fn try_from(wire: WireRefund) -> Result<Self, UnreadableObject> {
        check_kind(wire.object, "refund")?;
        for id in std::iter::once(&wire.id).chain(&wire.payment_intent) {
            check_id(id)?;
        }
        if wire.amount < 0 {
            return Err(UnreadableObject::Amount(wire.amount));
        }
        Ok(Self {
            id: ProviderRefundId(wire.id),
            status: wire.status.into(),
            amount: amount_of(wire.amount, currency_of(&wire.currency)?)?,
            intent: wire.payment_intent.map(IntentId),
            charge: wire.charge,
            order_id: wire.metadata.order_id,
            refund_id: wire.metadata.refund_id,
            failure_reason: wire.failure_reason,
            created: Timestamp::from_second(wire.created)?,
        })
    }
}

impl From<String> for RefundStatus {
    fn from(word: String) -> Self {
        match word.as_str() {
            "pending" => Self::Pending,
            "requires_action" => Self::RequiresAction,
            "succeeded" => Self::Succeeded,
            "failed" => Self::Failed,
            "canceled" => Self::Canceled,
            _ => Self::Other(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use reqwest::header::HeaderMap;

    use super::*;
    use crate::provider::{Outcome, classify};

    const REFUND: &str = r#"{"object":"refund","id":"re_1","status":"pending","amount":4900,"currency":"eur",
        "payment_intent":"pi_1","charge":"ch_1","balance_transaction":"txn_1","reason":null,
        "metadata":{"order_id":"o-1","refund_id":"r-1"},"created":1795773600}"#;

    #[test]
    fn a_refund_is_read_whole_or_not_at_all() {
        let refund: Refund = serde_json::from_str(REFUND).unwrap();
        assert_eq!(refund.id.0, "re_1");
        assert_eq!(refund.status, RefundStatus::Pending);
        assert_eq!(refund.amount.to_string(), "49.00 EUR");
        assert_eq!(refund.intent, Some(IntentId("pi_1".to_owned())));
        assert_eq!((refund.order_id.as_deref(), refund.refund_id.as_deref()), (Some("o-1"), Some("r-1")));
        assert_eq!(refund.created.to_string(), "2026-11-27T10:00:00Z");

        for (old, new) in [
            ("\"refund\",", "\"charge\","),
            ("re_1", "re_1/cancel"),
            ("pi_1", "pi 1"),
            ("4900", "-1"),
            ("eur", "euro"),
            ("\"metadata\"", "\"data\""),
            ("1795773600", "99999999999999"),
        ] {
            let body = REFUND.replacen(old, new, 1);
            assert_ne!(body, REFUND);
            let outcome = classify::<Refund>(StatusCode::OK, &HeaderMap::new(), body.as_bytes());
            assert!(matches!(outcome, Outcome::Unknown { .. }), "{new}: {outcome:?}");
        }
    }

    #[test]
    fn an_intent_is_no_refund_and_a_refund_is_no_intent() {
        let outcome: Outcome = classify(StatusCode::OK, &HeaderMap::new(), REFUND.as_bytes());
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    }
}
