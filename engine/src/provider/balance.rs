//! A line of the provider's own account book: what a day's match compares our orders and journal with.

use jiff::Timestamp;
use serde::Deserialize;

use crate::domain::money::Money;

use super::intent::{UnreadableObject, amount_of, check_id, check_kind, currency_of};

/// What moved the balance, in the provider's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BalanceKind {
    Charge,
    Refund,
    /// A refund that did not arrive: its money is back.
    RefundFailure,
    /// A dispute, or its reversal.
    Adjustment,
    /// A fee of its own, outside any charge.
    Fee,
    /// To our bank.
    Payout,
    /// A word we do not know; its money counts all the same.
    Other(String),
}

/// One movement of our balance at the provider. `net` is `amount - fee`, checked when it is read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WireBalanceTransaction")]
pub struct BalanceTransaction {
    pub id: String,
    pub kind: BalanceKind,
    /// Above zero towards us, below zero away from us.
    pub amount: Money,
    pub fee: Money,
    pub net: Money,
    /// The charge, refund, dispute or payout it belongs to.
    pub source: Option<String>,
    pub created: Timestamp,
}

#[derive(Deserialize)]
struct WireBalanceTransaction {
    object: String,
    id: String,
    #[serde(rename = "type")]
    kind: String,
    amount: i64,
    fee: i64,
    net: i64,
    currency: String,
    source: Option<String>,
    created: i64,
}

impl TryFrom<WireBalanceTransaction> for BalanceTransaction {
    type Error = UnreadableObject;

    fn try_from(wire: WireBalanceTransaction) -> Result<Self, UnreadableObject> {
        check_kind(wire.object, "balance_transaction")?;
        check_id(&wire.id)?;
        if wire.amount.checked_sub(wire.fee) != Some(wire.net) {
            return Err(UnreadableObject::Net { amount: wire.amount, fee: wire.fee, net: wire.net });
        }
        let currency = currency_of(&wire.currency)?;
        Ok(Self {
            id: wire.id,
            kind: wire.kind.into(),
            amount: amount_of(wire.amount, currency)?,
            fee: amount_of(wire.fee, currency)?,
            net: amount_of(wire.net, currency)?,
            source: wire.source,
            created: Timestamp::from_second(wire.created)?,
        })
    }
}

impl From<String> for BalanceKind {
    fn from(word: String) -> Self {
        match word.as_str() {
            // Cards make charges; other means of payment make payments. They are the same to us.
            "charge" | "payment" => Self::Charge,
            "refund" | "payment_refund" => Self::Refund,
            "refund_failure" | "payment_failure_refund" => Self::RefundFailure,
            "adjustment" => Self::Adjustment,
            "stripe_fee" => Self::Fee,
            "payout" => Self::Payout,
            _ => Self::Other(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHARGE: &str = r#"{"object":"balance_transaction","id":"txn_1","type":"charge","amount":14900,"fee":458,
        "net":14442,"currency":"eur","source":"ch_1","created":1795773600}"#;

    #[test]
    fn a_line_is_read_with_its_signs_and_its_sum_is_checked() {
        let line: BalanceTransaction = serde_json::from_str(CHARGE).unwrap();
        assert_eq!(line.kind, BalanceKind::Charge);
        assert_eq!((line.amount.amount_minor, line.fee.amount_minor, line.net.amount_minor), (14_900, 458, 14_442));

        let refund = CHARGE.replace("\"charge\"", "\"refund\"").replace("14900", "-14900").replace("458", "0");
        let refund = refund.replace("14442", "-14900");
        let line: BalanceTransaction = serde_json::from_str(&refund).unwrap();
        assert_eq!((line.kind, line.net.amount_minor), (BalanceKind::Refund, -14_900));

        assert!(serde_json::from_str::<BalanceTransaction>(&CHARGE.replace("458", "459")).is_err());
    }
}
