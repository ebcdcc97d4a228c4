//! The account book: one line for each movement of the merchant's balance. Disputes and payouts are movements too.

use serde_json::{Value, json};

use super::list::Listed;
use super::{Capture, Store};

/// 1.5 % and 25 minor units, as for European cards; kept on a refund, as the provider does.
const FEE_BASIS_POINTS: i64 = 150;
const FEE_FIXED_MINOR: i64 = 25;

/// A dispute costs this much, won or lost.
const DISPUTE_FEE_MINOR: i64 = 2_000;

/// A movement of the balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeBalanceTransaction {
    pub transaction_id: String,
    pub kind: &'static str,
    /// Below zero: away from the merchant.
    pub amount_minor: i64,
    pub fee_minor: i64,
    pub currency: String,
    /// The charge, refund, dispute or payout.
    pub source: String,
    /// In seconds since 1970.
    pub created: i64,
}

/// A buyer's bank has taken a charge back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeDispute {
    pub dispute_id: String,
    pub charge_id: String,
    pub intent_id: String,
    pub amount_minor: i64,
    pub currency: String,
}

impl Listed for FakeBalanceTransaction {
    fn id(&self) -> &str {
        &self.transaction_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn has(&self, field: &str, value: &str) -> bool {
        match field {
            "type" => self.kind == value,
            "currency" => self.currency == value,
            _ => self.source == value,
        }
    }

    fn to_json(&self) -> Value {
        json!({ "id": self.transaction_id, "object": "balance_transaction", "type": self.kind,
            "amount": self.amount_minor, "fee": self.fee_minor, "net": self.amount_minor - self.fee_minor,
            "currency": self.currency, "source": self.source, "status": "available",
            "available_on": self.created, "created": self.created })
    }
}

impl Store {
    pub(crate) fn balance(&self) -> &[FakeBalanceTransaction] {
        &self.balance
    }

    pub(super) fn book_charge(&mut self, capture: &Capture) {
        let share = (capture.amount_minor.saturating_mul(FEE_BASIS_POINTS) + 5_000) / 10_000;
        let fee = (share + FEE_FIXED_MINOR).min(capture.amount_minor);
        self.book("charge", capture.amount_minor, fee, &capture.currency, &capture.charge_id);
    }

    pub(super) fn book(
        &mut self,
        kind: &'static str,
        amount_minor: i64,
        fee_minor: i64,
        currency: &str,
        source: &str,
    ) -> String {
        let transaction = FakeBalanceTransaction {
            transaction_id: self.new_id("txn"),
            kind,
            amount_minor,
            fee_minor,
            currency: currency.to_owned(),
            source: source.to_owned(),
            created: self.clock.now(),
        };
        let transaction_id = transaction.transaction_id.clone();
        self.balance.push(transaction);
        transaction_id
    }

    /// Pays out, one payout a currency, what the balance holds.
    pub(crate) fn pay_out(&mut self) {
        let mut currencies: Vec<String> = self.balance.iter().map(|line| line.currency.clone()).collect();
        currencies.sort_unstable();
        currencies.dedup();
        for currency in currencies {
            let lines = self.balance.iter().filter(|line| line.currency == currency);
            let held: i64 = lines.map(|line| line.amount_minor - line.fee_minor).sum();
            if held > 0 {
                let payout_id = self.new_id("po");
                self.book("payout", -held, 0, &currency, &payout_id);
            }
        }
    }

    /// The buyer's bank takes back what an intent captured, as far as it is not refunded. `None` without such a charge,
    /// or if it is disputed already.
    pub(crate) fn open_dispute(&mut self, intent_id: &str) -> Option<FakeDispute> {
        let capture = self.captures.iter().find(|capture| capture.intent_id == intent_id)?.clone();
        let amount_minor = capture.amount_minor - self.refunded_minor(&capture.charge_id);
        if self.is_disputed(&capture.charge_id) || amount_minor == 0 {
            return None;
        }
        let dispute = FakeDispute {
            dispute_id: self.new_id("dp"),
            charge_id: capture.charge_id,
            intent_id: capture.intent_id,
            amount_minor,
            currency: capture.currency,
        };
        self.book("adjustment", -amount_minor, DISPUTE_FEE_MINOR, &dispute.currency, &dispute.dispute_id);
        self.disputes.push(dispute.clone());
        let object = json!({ "id": dispute.dispute_id, "object": "dispute", "charge": dispute.charge_id,
            "payment_intent": dispute.intent_id, "amount": dispute.amount_minor, "currency": dispute.currency,
            "reason": "fraudulent", "status": "needs_response", "livemode": false, "metadata": {},
            "created": self.clock.now() });
        self.emit("charge.dispute.created", object, intent_id);
        Some(dispute)
    }

    pub(super) fn is_disputed(&self, charge_id: &str) -> bool {
        self.disputes.iter().any(|dispute| dispute.charge_id == charge_id)
    }

    /// A charge as it stands in events; it has no address of its own here.
    pub(super) fn charge_json(&self, capture: &Capture) -> Value {
        let (intent, refunded) =
            (&self.intents[self.positions[&capture.intent_id]], self.refunded_minor(&capture.charge_id));
        json!({ "id": capture.charge_id, "object": "charge", "payment_intent": capture.intent_id, "livemode": false,
            "amount": capture.amount_minor, "amount_captured": capture.amount_minor, "amount_refunded": refunded,
            "refunded": refunded == capture.amount_minor, "captured": true, "paid": true, "status": "succeeded",
            "currency": capture.currency, "disputed": self.is_disputed(&capture.charge_id),
            "metadata": intent.metadata, "created": intent.created })
    }
}
