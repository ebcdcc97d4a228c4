//! The account book: one line for each movement of the merchant's balance. Disputes and payouts are movements too.

use serde_json::{Value, json};

use super::super::parameters::ApiVersion;
use super::list::Listed;
use super::{Capture, Store};

/// 1.5 % and 25 minor units, as for European cards; kept on a refund, as the provider does.
const FEE_BASIS_POINTS: i64 = 150;
const FEE_FIXED_MINOR: i64 = 25;

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

    fn to_json(&self, _version: ApiVersion) -> Value {
        let fees = match self.fee_minor {
            0 => json!([]),
            fee => json!([{ "amount": fee, "application": null, "currency": self.currency,
                "description": "Processing fees", "type": "stripe_fee" }]),
        };
        let category = match self.kind {
            "adjustment" => "dispute",
            kind => kind,
        };
        json!({ "id": self.transaction_id, "object": "balance_transaction", "type": self.kind,
            "amount": self.amount_minor, "available_on": self.created, "balance_type": "payments",
            "created": self.created, "currency": self.currency, "description": null, "exchange_rate": null,
            "fee": self.fee_minor, "fee_details": fees, "net": self.amount_minor - self.fee_minor,
            "reporting_category": category, "source": self.source, "status": "available" })
    }
}

impl Store {
    pub(crate) fn balance(&self) -> &[FakeBalanceTransaction] {
        &self.balance
    }

    pub(super) fn book_charge(&mut self, capture: &Capture) -> String {
        let share = (capture.amount_minor.saturating_mul(FEE_BASIS_POINTS) + 5_000) / 10_000;
        let fee = (share + FEE_FIXED_MINOR).min(capture.amount_minor);
        self.book("charge", capture.amount_minor, fee, &capture.currency, &capture.charge_id)
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
}
